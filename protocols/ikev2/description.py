"""A message payload by payload for people and scripts (RFC 7296 §3.2–3.16): names, decoded values, octets.

Everything is JSON-ready. A value that does not parse stands there as its octets: nothing raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address

from cryptography import x509

from protocols.errors import StackError
from protocols.ikev2.identity import identity_text
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    ConfigurationAttribute,
    ConfigurationPayload,
    DeletePayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
)
from protocols.ikev2.redirection import GatewayIdentity
from protocols.ikev2.registry import CertEncoding, ConfigAttributeType, HashAlgorithmId, NotifyType, ProtocolId
from protocols.ikev2.revocation import UNPARSED
from protocols.trace.records import JsonValue

Decode = Callable[[bytes], JsonValue]

_SHA1_LENGTH = 20


def describe(
    message: Message,
    *,
    notify_names: Mapping[int, str] | None = None,
    notify_data: Mapping[int, Decode] | None = None,
    attribute_names: Mapping[int, str] | None = None,
    eap: Decode | None = None,
) -> list[JsonValue]:
    """Its payloads in order, each ``{"name", "type", "octets", …}``, ``octets`` being those after the generic header.

    The last four are the profile's: names and data of private Notify types and attributes, what an EAP packet holds.
    """
    names, data, attributes = notify_names or {}, {**_NOTIFY_DATA, **(notify_data or {})}, attribute_names or {}
    described: list[JsonValue] = []
    for payload in message.payloads:
        content = _content(payload, data, attributes, eap)
        described.append(
            {
                "name": message.payload_name(payload, names),
                "type": payload.payload_type.name,
                **content,
                "octets": payload.encode().hex(),
            }
        )
    return described


def _content(
    payload: Payload, notify_data: Mapping[int, Decode], attribute_names: Mapping[int, str], eap: Decode | None
) -> dict[str, JsonValue]:
    match payload:
        case SaPayload():
            return {"proposals": [proposal_view(proposal) for proposal in payload.proposals]}
        case KePayload():
            return {"group": payload.group.name}
        case IdiPayload() | IdrPayload():
            return {"id_type": payload.id_type.name, "identity": identity_text(payload)}
        case CertPayload():
            return {"encoding": payload.encoding.name, **_certificate(payload)}
        case CertreqPayload():
            hashes = payload.authorities
            cut: list[JsonValue] = [hashes[at : at + _SHA1_LENGTH].hex() for at in range(0, len(hashes), _SHA1_LENGTH)]
            return {"encoding": payload.encoding.name, "authorities": cut}
        case AuthPayload():
            return {"method": payload.method.name}
        case NotifyPayload():
            return _notify(payload, notify_data)
        case DeletePayload():
            return {"protocol": payload.protocol.name, "spis": [spi.hex() for spi in payload.spis]}
        case TsiPayload() | TsrPayload():
            selectors: list[JsonValue] = [str(selector) for selector in payload.selectors]
            return {"selectors": selectors + [octets.hex() for octets in payload.unknown]}
        case ConfigurationPayload():
            attributes: list[JsonValue] = [_attribute(each, attribute_names) for each in payload.attributes]
            return {"kind": payload.type.name, "attributes": attributes}
        case EapPayload() if eap is not None:
            return {"eap": eap(payload.packet)}
        case UnknownPayload():
            return {"critical": payload.critical}
    return {}


def _certificate(payload: CertPayload) -> dict[str, JsonValue]:
    if payload.encoding != CertEncoding.X509_SIGNATURE:
        return {}
    try:
        certificate = x509.load_der_x509_certificate(payload.data)
        return {
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "serial_number": f"{certificate.serial_number:x}",
            "not_before": certificate.not_valid_before_utc.isoformat(),
            "not_after": certificate.not_valid_after_utc.isoformat(),
        }
    except UNPARSED:
        return {"subject": "does not parse"}


def proposal_view(proposal: Proposal) -> dict[str, JsonValue]:
    """A proposal: its transforms by type, in order of preference (RFC 7296 §3.3.1)."""
    transforms: dict[str, JsonValue] = {}
    for transform in proposal.transforms:
        names = transforms.setdefault(transform.type.name, [])
        assert isinstance(names, list)
        names.append(transform_text(transform))
    view: dict[str, JsonValue] = {"number": proposal.number, "protocol": proposal.protocol.name}
    if proposal.spi:
        view["spi"] = proposal.spi.hex()
    return {**view, **transforms}


def transform_text(transform: Transform) -> str:
    """A transform's name, with its key length: ``ENCR_AES_CBC-256``."""
    name = getattr(transform.id, "name", None) or str(int(transform.id))
    if transform.key_length_bits is not None:
        name += f"-{transform.key_length_bits}"
    if transform.unknown_attributes:
        name += f" with unknown attributes {', '.join(str(kind) for kind, _ in transform.unknown_attributes)}"
    return name


# --- Notify ------------------------------------------------------------------------------------------------------


def _notify(payload: NotifyPayload, decoders: Mapping[int, Decode]) -> dict[str, JsonValue]:
    content: dict[str, JsonValue] = {"number": int(payload.type), "error": payload.type.is_error}
    if payload.protocol != ProtocolId.NONE:
        content["protocol"] = payload.protocol.name
    if payload.spi:
        content["spi"] = payload.spi.hex()
    if payload.data:
        decode = decoders.get(int(payload.type))
        content["data"] = payload.data.hex() if decode is None else _tried(decode, payload.data)
    return content


def _tried(decode: Decode, octets: bytes) -> JsonValue:
    try:
        return decode(octets)
    except (StackError, ValueError):
        return f"does not parse: {octets.hex()}"


def _group(data: bytes) -> JsonValue:
    from_registry = int.from_bytes(data, "big")
    return from_registry if len(data) == 2 else f"does not parse: {data.hex()}"


def _hashes(data: bytes) -> JsonValue:
    numbers = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data) - 1, 2)]
    return [HashAlgorithmId.of(number).name for number in numbers]


def _redirect(data: bytes) -> JsonValue:
    identity = GatewayIdentity.decode(data)
    return {"gateway": None if identity.gateway is None else str(identity.gateway), "nonce": identity.nonce.hex()}


def _seconds(data: bytes) -> JsonValue:
    return f"{int.from_bytes(data, 'big')} s"


_NOTIFY_DATA: Mapping[int, Decode] = {
    NotifyType.ADDITIONAL_IP4_ADDRESS: lambda data: str(ip_address(data)),
    NotifyType.ADDITIONAL_IP6_ADDRESS: lambda data: str(ip_address(data)),
    NotifyType.AUTH_LIFETIME: _seconds,
    NotifyType.INVALID_KE_PAYLOAD: _group,
    NotifyType.REDIRECT: _redirect,
    NotifyType.REDIRECTED_FROM: _redirect,
    NotifyType.SET_WINDOW_SIZE: lambda data: int.from_bytes(data, "big"),
    NotifyType.SIGNATURE_HASH_ALGORITHMS: _hashes,
    NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD: lambda data: int.from_bytes(data, "big"),
}


# --- Configuration -----------------------------------------------------------------------------------------------

_ADDRESSES = {
    ConfigAttributeType.INTERNAL_IP4_ADDRESS,
    ConfigAttributeType.INTERNAL_IP4_NETMASK,
    ConfigAttributeType.INTERNAL_IP4_DNS,
    ConfigAttributeType.INTERNAL_IP4_NBNS,
    ConfigAttributeType.INTERNAL_IP4_DHCP,
    ConfigAttributeType.INTERNAL_IP6_DNS,
    ConfigAttributeType.INTERNAL_IP6_DHCP,
    ConfigAttributeType.P_CSCF_IP4_ADDRESS,
    ConfigAttributeType.P_CSCF_IP6_ADDRESS,
}


def _attribute(attribute: ConfigurationAttribute, names: Mapping[int, str]) -> JsonValue:
    name = names.get(int(attribute.type), attribute.type.name)
    if not attribute.value:
        return {"name": name}
    return {"name": name, "value": _tried(lambda octets: _value(attribute.type, octets), attribute.value)}


def _value(kind: ConfigAttributeType, octets: bytes) -> JsonValue:
    """An attribute's value (RFC 7296 §3.15.1, RFC 7651, RFC 8598)."""
    if kind in _ADDRESSES:
        return str(ip_address(octets))
    match kind:
        case ConfigAttributeType.INTERNAL_IP6_ADDRESS | ConfigAttributeType.INTERNAL_IP6_SUBNET:
            return str(ip_address(octets[:16])) + (f"/{octets[16]}" if len(octets) == 17 else "")
        case ConfigAttributeType.INTERNAL_IP4_SUBNET if len(octets) == 8:
            return f"{ip_address(octets[:4])}/{ip_address(octets[4:])}"
        case ConfigAttributeType.APPLICATION_VERSION | ConfigAttributeType.INTERNAL_DNS_DOMAIN:
            return octets.decode("utf-8", "backslashreplace")
        case ConfigAttributeType.SUPPORTED_ATTRIBUTES:
            numbers = [int.from_bytes(octets[at : at + 2], "big") & 0x7FFF for at in range(0, len(octets) - 1, 2)]
            return [ConfigAttributeType.of(number).name for number in numbers]
        case ConfigAttributeType.TIMEOUT_PERIOD_FOR_LIVENESS_CHECK:
            return int.from_bytes(octets, "big")
    if len(octets) in (4, 16) and not kind.known:
        return f"{octets.hex()} ({ip_address(octets)})"  # attributes of private use are P-CSCF addresses, mostly
    return octets.hex()
