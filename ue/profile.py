"""What this UE says of itself and wants on SWu (TS 24.302 §7.2.2.1): the configuration as IKE has it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocols.algorithms.milenage import derive_opc
from protocols.errors import ConfigurationError
from protocols.ikev2.certificates import CertificateVerifier
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, IdrPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import ConfigAttributeType, IdType
from protocols.selectors import TrafficSelector
from protocols.threegpp.identity import Imsi, Nai
from protocols.threegpp.swu import P_CSCF_ATTRIBUTES
from ue.config import PCscfAttributes, UeConfiguration
from ue.usim import FileSqnStore, SoftwareUsim

_ADDRESS = {4: ConfigAttributeType.INTERNAL_IP4_ADDRESS, 6: ConfigAttributeType.INTERNAL_IP6_ADDRESS}
_DNS = {4: ConfigAttributeType.INTERNAL_IP4_DNS, 6: ConfigAttributeType.INTERNAL_IP6_DNS}
_P_CSCF_PLACE = {
    PCscfAttributes.RFC7651: 0,
    PCscfAttributes.PRIVATE_16384: 1,
    PCscfAttributes.PRIVATE_16389: 2,
}
_HANDOVER_PREFIX_LENGTH = 64  # TS 23.402 §4.7.3: every UE has a /64
_FULL_RANGE = {4: TrafficSelector.network("0.0.0.0/0"), 6: TrafficSelector.network("::/0")}


def root_nai(configuration: UeConfiguration) -> str:
    """The identity in IDi and in EAP (TS 23.003 §19.3.2)."""
    return str(Nai.root(Imsi(configuration.imsi), configuration.plmn.plmn))


def initiator_config(configuration: UeConfiguration, moment: Callable[[], datetime]) -> InitiatorConfig:
    """Identities, algorithms, selectors and timers; ``ConfigurationError`` when the CA file is unusable."""
    gateway = configuration.gateway
    versions = configuration.pdn_type.versions
    selectors = tuple(_FULL_RANGE[version] for version in versions)
    return InitiatorConfig(
        ike_policy=IkePolicy(configuration.algorithms.ike),
        esp_policy=EspPolicy(configuration.algorithms.esp),
        retransmission=configuration.retransmission.policy(),
        mobike=configuration.mobike,
        force_encapsulation=configuration.force_encapsulation,
        remote_nat_traversal_port=gateway.nat_traversal_port,
        liveness_interval=configuration.liveness_interval,
        keepalive_interval=configuration.keepalive_interval,
        child_lifetime=configuration.child_lifetime,
        identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=root_nai(configuration).encode()),
        responder_identity=IdrPayload(id_type=IdType.ID_FQDN, data=configuration.apn.encode()),
        verifier=None if gateway.ca is None else CertificateVerifier(_anchors(gateway.ca), moment),
        gateway_names=configuration.gateway_names,
        eap_only=gateway.eap_only,
        configuration_request=configuration_request(configuration),
        local_selectors=selectors,
        remote_selectors=selectors,
    )


def configuration_request(configuration: UeConfiguration) -> tuple[ConfigurationAttribute, ...]:
    """CFG_REQUEST: addresses, DNS and P-CSCF of each IP version, and what else is wanted (TS 24.302 §7.2.2.1).

    An address that is not empty is one the UE had before: it comes by handover.
    """
    wanted = configuration.request
    kinds: list[int] = []
    for version in configuration.pdn_type.versions:
        kinds += [_ADDRESS[version], _DNS[version]]
        kinds += [P_CSCF_ATTRIBUTES[version][_P_CSCF_PLACE[each]] for each in wanted.p_cscf]
    if wanted.application_version:
        kinds.append(ConfigAttributeType.APPLICATION_VERSION)
    if wanted.supported_attributes:
        kinds.append(ConfigAttributeType.SUPPORTED_ATTRIBUTES)
    if wanted.liveness_period:
        kinds.append(ConfigAttributeType.TIMEOUT_PERIOD_FOR_LIVENESS_CHECK)
    suggested: dict[int, bytes] = {}
    for address in wanted.previous_addresses:
        prefix = bytes([_HANDOVER_PREFIX_LENGTH]) if address.version == 6 else b""
        suggested[_ADDRESS[address.version]] = address.packed + prefix
    return tuple(
        ConfigurationAttribute(type=ConfigAttributeType.of(kind), value=suggested.get(kind, b"")) for kind in kinds
    )


def software_usim(configuration: UeConfiguration) -> SoftwareUsim:
    """The USIM with its file of sequence numbers; ``StackError`` when the file is unusable."""
    section = configuration.usim
    opc = section.opc
    if opc is None:
        assert section.op is not None  # the configuration has either
        opc = derive_opc(section.k, section.op)
    file = section.sqn or state_directory(configuration) / f"usim-{configuration.imsi}.json"
    return SoftwareUsim(imsi=Imsi(configuration.imsi), k=section.k, opc=opc, store=FileSqnStore(file))


def state_directory(configuration: UeConfiguration) -> Path:
    """Where the UE keeps what must outlive it."""
    return configuration.state or configuration.control.parent


def _anchors(file: Path) -> tuple[bytes, ...]:
    expected = "a PEM file with the certificate of the gateway's certification authority"

    def refused(what: str) -> ConfigurationError:
        return ConfigurationError(file=str(file), key="gateway.ca", value=what, expected=expected)

    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise refused(error.strerror or "an unreadable file") from error
    except ValueError as error:
        raise refused("a file without a certificate in PEM") from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)
