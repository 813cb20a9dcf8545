"""EAP packets as trace records: names, RFC notation and attributes (RFC 3748 §4, RFC 4187 §8, RFC 9048 §3)."""

from __future__ import annotations

from dataclasses import fields

from protocols.eap.aka.attributes import AtKdf, AtKdfInput, Attribute, AttributeType, UnknownAttribute
from protocols.eap.aka.messages import METHOD_NAMES, AkaMessage
from protocols.eap.packet import EapCode, EapPacket, EapType
from protocols.errors import DecodeError
from protocols.trace.records import JsonValue


def eap_body(octets: bytes, *, direction: str, interface: str, peer: str) -> dict[str, JsonValue]:
    """The body of a ``message`` record of protocol ``eap`` on SWu or SWm; never raises on bad octets."""
    name, summary, detail = _described(octets)
    return {
        "protocol": "eap",
        "direction": direction,
        "interface": interface,
        "peer": peer,
        "name": name,
        "summary": summary,
        "detail": detail,
        "retransmission": False,
    }


def _described(octets: bytes) -> tuple[str, str, dict[str, JsonValue]]:
    try:
        packet = EapPacket.decode(octets)
    except DecodeError as error:
        return "EAP", f"EAP [ {len(octets)} octets that do not parse ]", {"error": str(error)}
    detail: dict[str, JsonValue] = {"identifier": packet.identifier}
    name = f"EAP-{packet.code.name.capitalize()}"
    if packet.code in (EapCode.SUCCESS, EapCode.FAILURE):
        return name, name, detail
    if packet.type == EapType.IDENTITY:
        text = packet.data.decode("utf-8", "replace")
        name = f"{name}/Identity"
        return name, f"{name} [ {text} ]" if text else name, {**detail, "identity": text}
    if packet.type == EapType.NAK and packet.code is EapCode.RESPONSE:
        wanted: list[JsonValue] = list(packet.data)
        return f"{name}/Nak", f"{name}/Nak [ {', '.join(map(str, packet.data))} ]", {**detail, "types": wanted}
    method = next((method for method in METHOD_NAMES if packet.type == method), None)
    if method is None:
        name = f"{name}/type-{packet.type}"
        return name, name, {**detail, "data": packet.data.hex()}
    try:
        message = AkaMessage.from_packet(packet)
    except DecodeError as error:
        name = f"{name}/{METHOD_NAMES[method]}"
        return name, f"{name} [ octets that do not parse ]", {**detail, "error": str(error)}
    for attribute in message.attributes:
        if isinstance(attribute, AtKdf):
            detail[AttributeType.AT_KDF.name] = list(message.kdfs)
            continue
        if isinstance(attribute, AtKdfInput):
            detail[AttributeType.AT_KDF_INPUT.name] = attribute.value.decode("utf-8", "replace")
            continue
        label, value = _attribute(attribute)
        detail[label] = value
    return message.name, message.summary(), detail


def _attribute(attribute: Attribute) -> tuple[str, JsonValue]:
    if isinstance(attribute, UnknownAttribute):
        return f"AT_{attribute.number}", attribute.value.hex()
    values: list[JsonValue] = []
    for field in fields(attribute):  # type: ignore[arg-type]
        value = getattr(attribute, field.name)
        values.append(value.hex() if isinstance(value, bytes) else value)
    if not values:
        return attribute.type.name, True
    return attribute.type.name, values[0] if len(values) == 1 else values
