"""What this UE says of itself and wants on SWu (TS 24.302 §7.2.2.1): the configuration as IKE has it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from protocols.dataplane.choice import Needs
from protocols.eap.aka.peer import PeerOptions, TemporaryIdentities
from protocols.eap.unauthenticated import emergency_nai
from protocols.entropy import Entropy
from protocols.errors import BackendError, ConfigurationError, LocalError
from protocols.esp.sa import EspMode
from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, IdrPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import ConfigAttributeType, IdType
from protocols.ikev2.revocation import Revocation
from protocols.ikev2.signatures import library_pss
from protocols.io.certificates import read_certificates, read_crls, read_ocsp_response, read_private_key
from protocols.io.lifetime import machine_lifetime
from protocols.io.namespace import NetworkNamespace
from protocols.io.raw import EspTransport, RawOpener, esp_transport
from protocols.io.vectors import UsedVectors
from protocols.path import Endpoint
from protocols.selectors import TrafficSelector
from protocols.threegpp.identity import Imsi, Nai, nai_realm
from protocols.threegpp.swu import P_CSCF_ATTRIBUTES
from ue.authentication import Authenticator, EmergencyAuthenticator
from ue.backoff import BackOff
from ue.card import CardIdentity
from ue.config import UeConfiguration
from ue.device import Device
from ue.gateway_config import GatewaySection
from ue.modem import modem_at
from ue.pcsc import CardUsim, Connect, identify, reader_named
from ue.pdn_config import PCscfAttributes
from ue.selection import Selection
from ue.temporary import METHODS, FileTemporaryIdentityStore, MemoryTemporaryIdentityStore, TemporaryIdentityStore
from ue.usim import FileSqnStore, SoftwareUsim, Usim
from ue.usim_config import CardSection, CertificateSection, OuterIdentity, ServerSection
from ue.usim_server import ServerUsim, UsimServer
from ue.vectors import VectorsUsim

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
    """The permanent NAI: with the digit of the method preferred, decorated when abroad, of the realm for emergencies.

    TS 23.003 §19.3.2, §19.3.3, §19.3.9.
    """
    eap = configuration.eap
    digit, emergency = eap.methods[0].leading_digit, eap.emergency
    root = Nai.root(Imsi(configuration.imsi), configuration.plmn.plmn, leading_digit=digit)
    if eap.visited is not None:
        return str(root.decorated(eap.visited.plmn, emergency=emergency))
    return str(Nai(username=root.username, realm=nai_realm(configuration.plmn.plmn, emergency=emergency)))


def initiator_config(configuration: UeConfiguration, moment: Callable[[], datetime]) -> InitiatorConfig:
    """Identities, algorithms, selectors and timers; ``ConfigurationError`` when the CA file is unusable."""
    gateway = configuration.gateway
    versions = configuration.pdn_type.versions
    selectors = tuple(_FULL_RANGE[version] for version in versions)
    host = configuration.child_sa.remote_host
    own = tuple(TrafficSelector.network(str(network)) for network in configuration.child_sa.local_networks)
    return InitiatorConfig(
        ike_policy=IkePolicy.of(configuration.algorithms.ike),
        esp_policy=EspPolicy.of(configuration.algorithms.esp),
        retransmission=configuration.retransmission.policy(),
        mobike=configuration.mobike,
        fragmentation=configuration.fragmentation,
        fragment_size=configuration.fragment_size,
        window_size=configuration.window_size,
        force_encapsulation=configuration.force_encapsulation is not False,
        remote_nat_traversal_port=gateway.nat_traversal_port,
        liveness_interval=configuration.liveness_interval,
        keepalive_interval=configuration.keepalive_interval,
        child_lifetime=machine_lifetime(configuration.child_lifetime),
        ike_lifetime=machine_lifetime(configuration.ike_lifetime),
        additional_children=configuration.additional_children,
        replay_window=configuration.data_plane.replay_window,
        identity=own_identity(configuration),
        authentication=configuration.authentication,
        psk=configuration.psk,
        credentials=_credentials(configuration.certificate),
        path_test_after=configuration.path_test_after,
        update_cookie=configuration.update_cookie,
        hold_lifetime=configuration.hold_lifetime,
        additional_addresses=configuration.ike.additional_addresses,
        detect_mapping_changes=configuration.ike.detect_mapping_changes,
        habits=configuration.ike.habits(),
        responder_identity=IdrPayload(id_type=configuration.ike.responder_id.id_type, data=configuration.apn.encode()),
        verifier=_verifier(gateway, moment),
        gateway_names=configuration.gateway_names,
        eap_only=gateway.eap_only,
        configuration_request=configuration_request(configuration),
        childless=configuration.childless,
        redirect=configuration.redirect.obey,
        resumption=configuration.resumption,
        local_selectors=own or selectors,
        remote_selectors=selectors if host is None else (TrafficSelector.host(host),),
        beet=configuration.child_sa.mode is EspMode.BEET,
    )


def esp_transport_of(configuration: UeConfiguration, open_raw: RawOpener | None) -> EspTransport:
    """How ESP travels; a next hop carries UDP alone, and announcing the truth is for all accesses or for none."""
    accesses = configuration.accesses.values()
    if any(access.next_hop is not None for access in accesses) and configuration.force_encapsulation == "auto":
        return EspTransport(forced=True, open_raw=None, remark="ESP goes in UDP only: an access has a next hop.")
    ports = (configuration.gateway.nat_traversal_port, *(access.nat_traversal_port for access in accesses))
    return esp_transport(configuration.force_encapsulation, open_raw, ports)


def data_plane_needs(configuration: UeConfiguration) -> Needs:
    """What the UE with all its PDN connections asks of whatever carries ESP."""
    return Needs(
        suites=EspPolicy.of(configuration.algorithms.esp).suites,
        policy=configuration.data_plane.policy(),
        interfaces=tuple(access.interface for access in configuration.accesses.values() if access.interface),
        namespaces=tuple(configuration.namespaces.values()),
        only_python=configuration.only_python,
    )


def require_namespaces(configuration: UeConfiguration, file: Path) -> None:
    """``ConfigurationError`` where a device is to be in a network namespace that is not there."""
    for key, name in configuration.namespaces.items():
        try:
            NetworkNamespace(name).close()
        except BackendError as error:
            expected = f"a network namespace beside the UE's own ({error})"
            raise ConfigurationError(file=str(file), key=key, value=name, expected=expected) from error


def configuration_request(configuration: UeConfiguration) -> tuple[ConfigurationAttribute, ...]:
    """CFG_REQUEST: addresses, DNS and P-CSCF of each IP version, and what else is wanted (TS 24.302 §7.2.2.1).

    An address that is not empty is one the UE had before: it comes by handover.
    """
    wanted = configuration.request
    kinds: list[int] = []
    for version in configuration.pdn_type.versions:
        kinds += [_ADDRESS[version]] if wanted.inner_addresses else []
        kinds.append(_DNS[version])
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


def own_identity(configuration: UeConfiguration) -> IdiPayload:
    """IDi: the NAI, or what is configured (RFC 7296 §3.5)."""
    without = configuration.without_usim
    return identification(
        configuration.identity or (root_nai(configuration) if without is None else emergency_nai(without))
    )


def identification(text: str) -> IdiPayload:
    """IDi by what the text is: a mailbox (which an NAI looks like), an address, else a name (RFC 7296 §3.5)."""
    if "@" in text:
        return IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=text.encode())
    try:
        address = ip_address(text)
    except ValueError:
        return IdiPayload(id_type=IdType.ID_FQDN, data=text.encode())
    kind = IdType.ID_IPV4_ADDR if address.version == 4 else IdType.ID_IPV6_ADDR
    return IdiPayload(id_type=kind, data=address.packed)


def usim(configuration: UeConfiguration) -> Usim | None:
    """The USIM that is configured, if the UE has one; ``StackError`` when its file is unusable."""
    section = configuration.usim
    if section is None:
        return None
    if section.card is not None:
        return CardUsim(_card(section.card), pin=_pin(section.card), imsi=Imsi(configuration.imsi))
    if section.server is not None:
        return ServerUsim(_server(section.server))
    if section.vectors is None:
        return software_usim(configuration)
    used = None
    if not section.repeat:
        used = UsedVectors(state_directory(configuration) / f"vectors-{configuration.imsi}.json")
    return VectorsUsim(section.vectors, imsi=configuration.imsi, used=used)


def identified(configuration: UeConfiguration) -> UeConfiguration:
    """With the IMSI that the card tells, where there is a card; ``StackError`` when it cannot be read or another.

    Blocks as long as the card does, or the server that has it, which does not tell how long the MNC is.
    """
    section = configuration.usim
    if section is None:
        return configuration
    if section.card is not None:
        found, where = identify(_card(section.card), _pin(section.card)), "the card in the reader"
    elif section.server is not None:
        found, where = CardIdentity(imsi=_server(section.server).identify(), mnc_length=None), "the card of usim.server"
    else:
        return configuration
    if configuration.imsi not in ("", str(found.imsi)):
        raise BackendError(f"{where} is of IMSI {found.imsi}, not of {configuration.imsi} (imsi)")
    plmn = configuration.plmn.plmn
    if not found.imsi.belongs_to(plmn) or found.mnc_length not in (None, len(configuration.plmn.mnc)):
        digits = "" if found.mnc_length is None else f" with an MNC of {found.mnc_length} digits"
        raise BackendError(f"{where} is of IMSI {found.imsi}{digits}, which is not of the PLMN {plmn} (plmn)")
    return configuration.model_copy(update={"imsi": str(found.imsi)})


def _card(section: CardSection) -> Connect:
    return reader_named(section.reader) if section.modem is None else modem_at(section.modem)


def _pin(section: CardSection) -> str | None:
    return None if section.pin is None else section.pin.reveal().decode("ascii")


def _server(section: ServerSection) -> UsimServer:
    """``ConfigurationError`` when the CA file is unusable."""
    url, tls = urlsplit(section.url), None
    if url.scheme == "https":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if section.ca is None:
            tls.load_default_certs()
        else:
            tls.load_verify_locations(cadata=b"".join(read_certificates(section.ca, "usim.server.ca")))
            tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the server's own certificate is enough
            tls.check_hostname = section.check_name
    return UsimServer(url=url, tls=tls, token=section.token, timeout=section.timeout)


def software_usim(configuration: UeConfiguration) -> SoftwareUsim | None:
    """The USIM in software with its file of sequence numbers, if that is what the UE has; ``StackError``."""
    section = configuration.usim
    if section is None or section.k is None:
        return None
    file = section.sqn or state_directory(configuration) / f"usim-{configuration.imsi}.json"
    return SoftwareUsim(
        imsi=Imsi(configuration.imsi),
        k=section.k,
        opc=section.opc,
        op=section.op,
        algorithm=section.algorithm,
        tuak_iterations=section.tuak_iterations,
        res_length=section.res_length,
        store=FileSqnStore(file, section.ind_bits),
    )


def temporary_identity_store(configuration: UeConfiguration) -> TemporaryIdentityStore:
    """Where pseudonym and fast re-authentication context are kept: in the process, or in the file configured."""
    file = configuration.eap.state
    if file is None:
        return MemoryTemporaryIdentityStore()
    return FileTemporaryIdentityStore(file, configuration.imsi)


def authenticator(
    configuration: UeConfiguration, entropy: Entropy, held: TemporaryIdentities
) -> Authenticator | EmergencyAuthenticator:
    """How the UE proves itself by EAP, with what earlier exchanges have left."""
    eap = configuration.eap
    fixed = configuration.identity
    if configuration.without_usim is not None:
        return EmergencyAuthenticator(configuration.without_usim)
    if fixed is None and (eap.emergency or eap.outer_identity is OuterIdentity.PERMANENT):
        fixed = root_nai(configuration)
    return Authenticator(
        imsi=Imsi(configuration.imsi),
        nai=root_nai(configuration),
        entropy=entropy,
        options=PeerOptions(
            methods=tuple(METHODS[method.value] for method in eap.methods),
            identity_form=eap.identity_form,
            permanent_inside=eap.inner_identity is OuterIdentity.PERMANENT,
            privacy=eap.privacy,
            pseudonyms=eap.pseudonyms,
            fast_reauthentication=eap.reauthentication,
            result_indications=eap.result_indications,
            network_name=eap.network_name,
            network_name_policy=eap.network_name_mismatch,
        ),
        held=held,
        outer_identity=fixed,
    )


def state_directory(configuration: UeConfiguration) -> Path:
    """Where the UE keeps what must outlive it."""
    return configuration.state or configuration.control.parent


def _verifier(gateway: GatewaySection, moment: Callable[[], datetime]) -> CertificateVerifier | None:
    if gateway.ca is None:
        return None
    crls = [crl for file in gateway.crls for crl in read_crls(file, "gateway.crls")]
    responders = [
        certificate
        for file in gateway.ocsp_responders
        for certificate in read_certificates(file, "gateway.ocsp_responders")
    ]
    revocation = Revocation(gateway.revocation, crls=tuple(crls), responders=tuple(responders))
    return CertificateVerifier(read_certificates(gateway.ca, "gateway.ca"), moment, revocation=revocation)


def _credentials(section: CertificateSection | None) -> tuple[Credential, ...]:
    if section is None:
        return ()
    chain = read_certificates(section.chain, "certificate.chain")
    key = read_private_key(section.key, "certificate.key")
    responses = tuple([read_ocsp_response(file, "certificate.ocsp") for file in section.ocsp])
    try:
        return (Credential(chain, key, ocsp_responses=responses, pss=library_pss if section.pss else None),)
    except LocalError as error:
        raise ConfigurationError(
            file=str(section.chain),
            key="certificate",
            value=str(error),
            expected=f"a certificate for the key in {section.key}",
        ) from error


def device(
    configuration: UeConfiguration,
    ike_config: InitiatorConfig,
    entropy: Entropy,
    authenticator: Authenticator | EmergencyAuthenticator,
    back_off: BackOff | None,
) -> Device:
    """The machine of a PDN connection; ``back_off`` is from an earlier process."""
    gateway, policy = configuration.gateway, configuration.selection_policy
    return Device(
        imsi=Imsi(configuration.imsi),
        nai=root_nai(configuration),
        apn=configuration.apn,
        gateway=None if gateway.address is None else Endpoint(gateway.address, gateway.ike_port),
        gateway_port=gateway.ike_port,
        select=None if policy is None else lambda version, barred: Selection(policy, version, barred),
        patience=None if gateway.selection is None else gateway.selection.patience,
        resolves=True,
        retry=configuration.retry.policy(),
        entropy=entropy,
        authenticator=authenticator,
        accesses=tuple(configuration.accesses),
        gateways=configuration.redirect.names,
        other_versions={
            address.version: Endpoint(address, gateway.nat_traversal_port) for address in gateway.addresses
        },
        reactivate=configuration.reactivate,
        moves_by_rekey=ike_config.habits.moves_by_rekey,
        back_off=back_off,
        previous_addresses=configuration.request.previous_addresses,
    )
