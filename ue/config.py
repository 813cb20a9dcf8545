"""The configuration of the UE: read once into frozen objects; ``ue/example.yaml`` shows every key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from protocols.dataplane.port import Backend
from protocols.esp.sa import EspMode
from protocols.ikev2.config import (
    ADDITIONAL_CHILDREN,
    FRAGMENT_SIZE,
    KEEPALIVE_INTERVAL,
    PATH_TEST_AFTER,
    RETRANSMIT_BASE_INTERVAL,
    RETRANSMIT_CAP,
    RETRANSMIT_FACTOR,
    RETRANSMIT_LIMIT,
    RetransmissionPolicy,
)
from protocols.ikev2.events import AuthenticationKind
from protocols.ikev2.proposals import IkePolicy
from protocols.ikev2.redirection import RedirectObedience
from protocols.io.algorithms import DEFAULT_SUITES, EspSuites, IkeSuites
from protocols.io.configuration import (
    AnyPort,
    AutoFlag,
    ConfigurationModel,
    Count,
    Digits,
    FilePath,
    Interval,
    IpAddress,
    IpNetwork,
    LoggingSection,
    SharedKey,
    unfit,
    validate,
)
from protocols.io.documents import Document
from protocols.io.lifetime import ChildLifetime, IkeLifetime
from protocols.io.telemetry import TelemetrySection
from protocols.threegpp.identity import Apn, Imsi, epdg_fqdn
from ue.gateway_config import IKE_PORT, NAT_TRAVERSAL_PORT, DnsSection, GatewaySection, PlmnSection, RetrySection
from ue.habits import IkeSection
from ue.management import ATTACH_PATIENCE, HALF_LIFE, HOLD, LINGER, PATIENCE_MAXIMUM, RETRY, Policy
from ue.pdn_config import (
    AdditionalPdnSection,
    ApnText,
    DataPlaneKind,
    DataPlaneSection,
    PdnType,
    RequestSection,
    check_previous_addresses,
)
from ue.personas import OWN, SHARED, PersonaHeader, over_persona, persona_file, read_persona
from ue.selection import SelectionPolicy
from ue.usim_config import CertificateSection, EapSection, UsimSection

IMEI_LENGTH = 15
LIVENESS_INTERVAL = 120.0  # Android's; TS 24.302 §7.2.2A leaves it to the UE or the network
SILENCE_INTERVAL = 0.5  # RFC 4555 §3.5 leaves it to us; noticed within 1.5 s, another path found within 3 s
DEFAULT_RING = 20_000


def _imsi(value: str) -> str:
    try:
        return Imsi(value).digits
    except ValueError:
        raise PydanticCustomError("imsi", "6 to 15 digits, in quotes")


ImsiText = Annotated[
    Digits, AfterValidator(lambda text: text and _imsi(text)), BeforeValidator(lambda text: text or "")
]


class AlgorithmsSection(ConfigurationModel):
    """What is offered, in order of preference: suites and policies by name."""

    ike: IkeSuites = DEFAULT_SUITES
    esp: EspSuites = DEFAULT_SUITES


class RetransmissionSection(ConfigurationModel):
    """Exponential back-off of our requests (RFC 7296 §2.4): each interval ``factor`` times the last, up to ``cap``."""

    base_interval: Interval = RETRANSMIT_BASE_INTERVAL
    factor: Annotated[float, Field(ge=1, le=10, allow_inf_nan=False)] = RETRANSMIT_FACTOR
    cap: Interval = RETRANSMIT_CAP
    limit: Count = RETRANSMIT_LIMIT

    def policy(self) -> RetransmissionPolicy:
        """The machine's policy."""
        return RetransmissionPolicy(
            base_interval=self.base_interval, factor=self.factor, cap=self.cap, limit=self.limit
        )


class AccessSection(ConfigurationModel):
    """One access network that the UE can be on; port 0 lets the system choose.

    ``next_hop``: every datagram goes to this address on the gateway's port (a NAT on the way, say).
    ``hears: false``: what arrives is lost, as on an access whose way back is broken. ``interface``: the device whose
    addresses and routes are watched; an ``address`` of 0.0.0.0 or :: is then whichever of that IP version it has.
    """

    address: IpAddress = IPv4Address("0.0.0.0")
    interface: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,15}$")] | None = None
    next_hop: IpAddress | None = None
    hears: bool = True
    ike_port: AnyPort = IKE_PORT
    nat_traversal_port: AnyPort = NAT_TRAVERSAL_PORT


class ManagementSection(ConfigurationModel):
    """Connection management (RFC 4621): seconds, and accesses, the best first; see ``ue.management``."""

    automatic: bool = False
    prefer: tuple[str, ...] = ()
    hold: Interval = HOLD
    half_life: Interval = HALF_LIFE
    retry: Interval = RETRY
    linger: Interval = LINGER
    attach_patience: Interval = ATTACH_PATIENCE

    def policy(self, accesses: Iterable[str], retransmission: RetransmissionPolicy) -> Policy:
        """What the machine goes by: accesses that are not named come last, in their order."""
        given_up = sum(retransmission.interval(attempt) for attempt in range(retransmission.limit + 1))
        return Policy(
            prefer=tuple(dict.fromkeys((*self.prefer, *accesses))),
            hold=self.hold,
            half_life=self.half_life,
            retry=self.retry,
            linger=self.linger,
            patience=min(PATIENCE_MAXIMUM, given_up / 2),
            attach_patience=self.attach_patience,
        )


class RedirectSection(ConfigurationModel):
    """Which redirects are obeyed (RFC 5685); ``names``: addresses of gateways that are redirected to by name."""

    obey: RedirectObedience = RedirectObedience.NEVER
    names: dict[str, IpAddress] = {}


class ChildSaSection(ConfigurationModel):
    """The ESP SA that the attach asks for; BEET mode is for one host on the other side.

    ``local_networks`` are TSi in the place of all addresses, as no UE should have it (TS 24.302 §7.2.2.1).
    """

    mode: EspMode = EspMode.TUNNEL
    remote_host: IpAddress | None = None
    local_networks: tuple[IpNetwork, ...] = ()

    @model_validator(mode="after")
    def _one_host(self) -> ChildSaSection:
        if self.mode is EspMode.BEET and self.remote_host is None:
            raise PydanticCustomError("remote_host", "child_sa.remote_host, the one host that mode: beet is for")
        return self


class TraceSection(ConfigurationModel):
    """How much is kept, and whether keys may leave the process."""

    enabled: bool = True
    export_keys: bool = False
    ring: Annotated[Count, Field(ge=100)] = DEFAULT_RING


def _printable(text: str) -> str:
    """RFC 7296 §3.5: an identity has no terminators."""
    if not text or not text.isprintable():
        raise PydanticCustomError("identity", "text without control characters")
    return text


class UeConfiguration(ConfigurationModel):
    """Everything a UE needs to know; the first access is where it attaches unless told otherwise."""

    persona: PersonaHeader | None = None
    node: str = Field(default="ue", min_length=1)
    logging: LoggingSection = LoggingSection()
    imsi: ImsiText = ""
    plmn: PlmnSection
    usim: UsimSection | None = None
    eap: EapSection = EapSection()
    authentication: AuthenticationKind = AuthenticationKind.EAP
    psk: SharedKey | None = None
    certificate: CertificateSection | None = None
    identity: Annotated[str, AfterValidator(_printable)] | None = None
    imei: Digits | None = Field(default=None, pattern=r"^[0-9]{14,16}$")
    apn: ApnText
    pdn_type: PdnType = PdnType.IPV4
    request: RequestSection = RequestSection()
    gateway: GatewaySection
    algorithms: AlgorithmsSection = AlgorithmsSection()
    ike: IkeSection = IkeSection()
    retransmission: RetransmissionSection = RetransmissionSection()
    mobike: bool = True
    liveness_interval: Interval | None = LIVENESS_INTERVAL
    keepalive_interval: Interval | None = KEEPALIVE_INTERVAL
    child_lifetime: ChildLifetime | None = None
    ike_lifetime: IkeLifetime | None = None
    additional_children: Count = ADDITIONAL_CHILDREN
    force_encapsulation: AutoFlag = "auto"
    child_sa: ChildSaSection = ChildSaSection()
    fragmentation: bool = True
    fragment_size: Annotated[Count, Field(ge=256, le=65535)] = FRAGMENT_SIZE
    window_size: Annotated[Count, Field(ge=1, le=255)] = 1
    path_test_after: Interval | None = PATH_TEST_AFTER
    silence_interval: Interval | None = SILENCE_INTERVAL
    update_cookie: bool = False
    hold_lifetime: Interval | None = None
    childless: bool = False
    redirect: RedirectSection = RedirectSection()
    resumption: bool = False
    reactivate: bool = True
    retry: RetrySection = RetrySection()
    dns: DnsSection = DnsSection()
    accesses: dict[str, AccessSection] = Field(min_length=1)
    management: ManagementSection = ManagementSection()
    data_plane: DataPlaneSection = DataPlaneSection()
    additional_pdns: dict[str, AdditionalPdnSection] = {}
    attach_at_start: bool = False
    control: FilePath
    state: FilePath | None = None
    trace: TraceSection = TraceSection()
    telemetry: TelemetrySection | None = None

    @classmethod
    def completed(cls, document: Document, directory: Path | None) -> Document:
        """Laid over the defaults of the persona that it names, if it names one."""
        return over_persona(document, directory)

    @model_validator(mode="after")
    def _consistent(self) -> UeConfiguration:
        if self.telemetry is not None and not self.trace.enabled:
            raise unfit("true, where there is telemetry: spans are made of the trace", "trace", "enabled")
        self._can_authenticate()
        if not self.imsi and (self.usim is None or not self.usim.tells_imsi):
            raise unfit("an IMSI, which only a card or a server of one can tell instead", "imsi")
        if self.imsi and not Imsi(self.imsi).belongs_to(self.plmn.plmn):
            raise unfit("an IMSI that begins with the MCC and MNC under plmn", "imsi")
        group = self.ike.group
        if group is not None and all(suite.group != group for suite in IkePolicy.of(self.algorithms.ike).suites):
            raise unfit("the group of a suite under algorithms.ike", "ike", "group")
        nowhere = [name for name, each in self.accesses.items() if each.address.is_unspecified and not each.interface]
        if nowhere:
            raise unfit("an address or an interface", "accesses", nowhere[0])
        if not set(self.management.prefer) <= set(self.accesses):
            raise unfit(f"names of accesses: {', '.join(self.accesses)}", "management", "prefer")
        versions = [access.address.version for access in self.accesses.values()]
        known = {address.version for address in self.gateway.addresses}
        fixed = self.gateway.selection is None
        if fixed and (versions[0] not in known or (not self.mobike and not set(versions) <= known)):
            raise unfit("addresses of the gateway address's IP version", "accesses")
        through = [access for access in self.accesses.values() if access.next_hop is not None]
        if any(access.next_hop.version != access.address.version for access in through if access.next_hop):
            raise unfit("next hops of their access address's IP version", "accesses")
        host = self.child_sa.remote_host
        if host is not None and self.pdn_type.versions != (host.version,):
            raise unfit("an address of the IP version that pdn_type asks for alone", "child_sa", "remote_host")
        check_previous_addresses(self.request.previous_addresses, self.pdn_type)
        for name, pdn in self.pdns.items():
            check_previous_addresses(pdn.request.previous_addresses, pdn.pdn_type, ("additional_pdns", name, "request"))
        names = [Apn(self.apn).network_identifier, *(Apn(pdn.apn).network_identifier for pdn in self.pdns.values())]
        if len(set(names)) != len(names):
            raise unfit("PDN connections with an APN of their own each", "additional_pdns")
        planes = [self.data_plane, *(pdn.data_plane for pdn in self.pdns.values())]
        devices = [(plane.namespace, plane.device) for plane in planes if plane.kind is DataPlaneKind.TUN]
        if len(set(devices)) != len(devices):
            raise unfit("a data_plane.device of its own for each PDN connection", "additional_pdns")
        backend, only_python = self.data_plane.backend, self.only_python
        for name, section in self.additional_pdns.items():
            if section.data_plane is not None and section.data_plane.backend not in ("auto", backend):
                raise unfit("the backend of the first data_plane", "additional_pdns", name, "data_plane", "backend")
        if backend not in ("auto", Backend.PYTHON) and only_python is not None:
            raise unfit(f"auto or python ({only_python})", "data_plane", "backend")
        return self

    def _can_authenticate(self) -> None:
        needed = {
            AuthenticationKind.EAP: (
                self.usim or self.without_usim,
                "usim",
                "k and opc or op, eap.emergency with imei (15 digits), or authentication by psk or certificate",
            ),
            AuthenticationKind.PSK: (self.psk, "psk", "a key, which authentication: psk needs"),
            AuthenticationKind.CERTIFICATE: (
                self.certificate,
                "certificate",
                "a chain and its key, which authentication: certificate needs",
            ),
        }
        found, key, expected = needed[self.authentication]
        if found is None:
            raise unfit(expected, key)
        eap_only = self.gateway.eap_only and self.authentication is AuthenticationKind.EAP
        by_key = self.psk is not None and self.authentication is not AuthenticationKind.EAP
        if self.gateway.ca is None and not eap_only and not by_key:
            raise unfit("a PEM file to verify the gateway by, or eap_only: true", "gateway", "ca")

    @property
    def without_usim(self) -> str | None:
        """The IMEI that a UE without a USIM names itself by: in an emergency, and nowhere else."""
        usable = self.usim is None and self.eap.emergency and self.imei is not None and len(self.imei) == IMEI_LENGTH
        return self.imei if usable else None

    @property
    def only_python(self) -> str | None:
        """Why neither the kernel nor the compiled loop can carry ESP, whatever the machine has, if so."""
        planes = {self.apn: self.data_plane, **{name: pdn.data_plane for name, pdn in self.pdns.items()}}
        found = None
        for name, plane in planes.items():
            if plane.kind is DataPlaneKind.IN_PROCESS:
                found = f"data_plane.kind of {name} is in-process"
            elif plane.policy() != self.data_plane.policy():
                found = f"data_plane of {name} has another dscp, outer_mtu or clamp_mss"
        for name, access in self.accesses.items():
            if access.next_hop is not None or not access.hears:
                found = f"access {name} has a next hop or does not hear"
        return found

    @property
    def pdns(self) -> dict[str, UeConfiguration]:
        """What each of ``additional_pdns`` is configured by: as the first one, but for what its section says."""
        return {
            name: self.model_copy(
                update={
                    "apn": section.apn or name,
                    "pdn_type": section.pdn_type or self.pdn_type,
                    "request": section.request or self.request.model_copy(update={"previous_addresses": ()}),
                    "data_plane": section.data_plane or self._plane(number),
                    "additional_pdns": {},
                    "child_sa": ChildSaSection(),
                }
            )
            for number, (name, section) in enumerate(self.additional_pdns.items(), 1)
        }

    @property
    def namespaces(self) -> dict[str, str]:
        """The network namespaces of devices, by the keys that name them."""
        planes = {"data_plane": self.data_plane}
        for name, section in self.additional_pdns.items():
            if section.data_plane is not None:
                planes[f"additional_pdns.{name}.data_plane"] = section.data_plane
        return {f"{key}.namespace": plane.namespace for key, plane in planes.items() if plane.namespace is not None}

    @property
    def alone(self) -> frozenset[str]:
        """Those of ``pdns`` in a network namespace that no connection before them has."""
        found, known = set(), {None, self.data_plane.namespace}
        for name, pdn in self.pdns.items():
            if pdn.data_plane.namespace not in known:
                known.add(pdn.data_plane.namespace)
                found.add(name)
        return frozenset(found)

    def _plane(self, number: int) -> DataPlaneSection:
        """The data plane of another PDN connection: ue1, ue2, … beside ue0."""
        stem = self.data_plane.device.rstrip("0123456789")
        first = int(self.data_plane.device[len(stem) :] or 0)
        return self.data_plane.model_copy(
            update={"device": f"{stem}{first + number}", "routes": (), "resolv_conf": None}
        )

    @property
    def gateway_names(self) -> tuple[str, ...]:
        """The names that the gateway's certificate may carry (TS 33.402 §8.2.2)."""
        return self.gateway.names or (epdg_fqdn(self.plmn.plmn),)

    @property
    def selection_policy(self) -> SelectionPolicy | None:
        """How the gateway is selected; ``None``: it is at the configured address."""
        gateway = self.gateway
        if gateway.selection is None:
            return None
        configured = (*gateway.addresses, *gateway.alternatives)
        return gateway.selection.policy(self.plmn.plmn, configured, emergency=self.eap.emergency)

    def access_named(self, text: str) -> str | None:
        """The name of the access that ``text`` names, by its name or its address."""
        if text in self.accesses:
            return text
        with contextlib.suppress(ValueError):
            address = ip_address(text)
            return next((name for name, access in self.accesses.items() if access.address == address), None)
        return None


_SOMEBODY: dict[str, object] = {
    "imsi": "001010000000001",
    "plmn": {"mcc": "001", "mnc": "01"},
    "usim": {"k": "0" * 32, "opc": "0" * 32},
    "apn": "internet",
    "gateway": {"address": "192.0.2.1", "ca": "ca.pem"},
    "accesses": {"access": {"address": "192.0.2.2"}},
    "control": "ue.sock",
}


def effective_configuration(persona: str) -> tuple[PersonaHeader, dict[str, object]]:
    """Who a persona is, and the whole configuration of a UE that says nothing of how it speaks itself."""
    header, defaults = read_persona(persona_file(persona))
    whole = validate(Document.of(_SOMEBODY, "command line").over(defaults), UeConfiguration)
    everything = whole.model_dump(mode="json")
    shown = {key: value for key, value in everything.items() if key not in OWN}
    for key, parts in SHARED.items():
        shown[key] = {part: everything[key][part] for part in sorted(parts)}
    for key in ("address", "ca"):
        del shown["gateway"][key]
    return header, shown
