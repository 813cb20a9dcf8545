"""The configuration of the gateway: read once into frozen objects; ``epdg/example.yaml`` shows every key."""

from __future__ import annotations

import contextlib
import re
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from protocols.dataplane.port import Backend
from protocols.ikev2.config import (
    ADDITIONAL_CHILDREN,
    COOKIE_RATE,
    COOKIE_THRESHOLD,
    FRAGMENT_SIZE,
    HALF_OPEN_LIFETIME,
    HALF_OPEN_LIMIT,
    HALF_OPEN_LIMIT_PER_SOURCE,
    KEEPALIVE_INTERVAL,
    RETRANSMIT_BASE_INTERVAL,
    RETRANSMIT_LIMIT,
    RETURN_ROUTABILITY_INTERVAL,
    UNPROTECTED_RATE,
    RetransmissionPolicy,
    ReturnRoutability,
)
from protocols.ikev2.events import AuthenticationKind
from protocols.ikev2.redirection import REDIRECTED_LIFETIME
from protocols.ikev2.revocation import RevocationPolicy
from protocols.ikev2.ticket import TICKET_KEY_INTERVAL, TICKET_LIFETIME
from protocols.io.algorithms import DEFAULT_SUITES, EspSuites, IkeSuites
from protocols.io.configuration import (
    AutoFlag,
    ConfigurationModel,
    Count,
    Digits,
    FilePath,
    Interval,
    IpAddress,
    IpNetwork,
    LoggingSection,
    Port,
    SharedKey,
    unfit,
)
from protocols.io.diameter.configuration import DiameterIdentityText, DiameterNodeSection
from protocols.io.lifetime import ChildLifetime, ChildLifetimeSection, IkeLifetime, IkeLifetimeSection
from protocols.io.telemetry import TelemetrySection
from protocols.io.tunnel import TunnelSection

DEFAULT_RING = 20_000
HOLD_LIFETIME = 300.0  # RFC 4555 §3.11: "at least five minutes before giving up"
DOMAIN_NAME = re.compile(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?", re.ASCII)


def _gateway(value: object) -> object:
    if not isinstance(value, str):
        return value
    with contextlib.suppress(ValueError):
        return ip_address(value)
    if DOMAIN_NAME.fullmatch(value) is None:
        raise PydanticCustomError("gateway", "an address or a domain name such as epdg2.example")
    return value


GatewayName = Annotated[IPv4Address | IPv6Address | str, BeforeValidator(_gateway)]
InterfaceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Limit = Annotated[Count, Field(ge=1)]


class PlmnSection(ConfigurationModel):
    """The network this gateway belongs to (TS 23.003 §12.1)."""

    mcc: Digits = Field(pattern=r"^[0-9]{3}$")
    mnc: Digits = Field(pattern=r"^[0-9]{2,3}$")


class ListenSection(ConfigurationModel):
    """Where IKE is served; the two ports stand for 500 and 4500."""

    addresses: tuple[IpAddress, ...] = Field(min_length=1)
    ike_port: Port = 500
    nat_traversal_port: Port = 4500


class CertificateSection(ConfigurationModel):
    """PEM files that ``epdg pki init`` makes.

    ``authority``: certificates above the chain, for UEs' CERTREQ to name. ``ocsp``: responses in DER to staple.
    """

    chain: FilePath
    key: FilePath
    authority: FilePath | None = None
    ocsp: tuple[FilePath, ...] = ()
    pss: bool = False


class AuthenticationSection(ConfigurationModel):
    """How UEs may prove themselves, and how the gateway does to those without EAP."""

    methods: tuple[AuthenticationKind, ...] = Field(default=(AuthenticationKind.EAP,), min_length=1)
    gateway: AuthenticationKind | None = None
    psk: dict[str, SharedKey] = Field(default_factory=dict)
    certificate_authorities: tuple[FilePath, ...] = ()
    revocation: RevocationPolicy = RevocationPolicy.OFF
    crls: tuple[FilePath, ...] = ()
    ocsp_responders: tuple[FilePath, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> AuthenticationSection:
        if self.gateway is AuthenticationKind.EAP:
            raise unfit("psk or certificate", "gateway")
        by_key = AuthenticationKind.PSK in (*self.methods, self.gateway)
        if by_key and not self.psk:
            raise unfit("the keys of the UEs", "psk")
        if AuthenticationKind.CERTIFICATE in self.methods and not self.certificate_authorities:
            raise unfit("PEM files", "certificate_authorities")
        return self

    @property
    def shows_certificate(self) -> bool:
        """Whether some UE without EAP is shown a certificate."""
        others = [method for method in self.methods if method is not AuthenticationKind.EAP]
        return any((self.gateway or method) is AuthenticationKind.CERTIFICATE for method in others)


class RetransmissionSection(ConfigurationModel):
    """Exponential back-off of our requests (RFC 7296 §2.4)."""

    base_interval: Interval = RETRANSMIT_BASE_INTERVAL
    limit: Count = RETRANSMIT_LIMIT

    def policy(self) -> RetransmissionPolicy:
        """The machine's policy."""
        return RetransmissionPolicy(base_interval=self.base_interval, limit=self.limit)


class RedirectPoint(str, Enum):
    """When UEs are redirected: before anything is computed, or once the AAA server has accepted them."""

    INIT = "init"
    AUTHENTICATION = "authentication"


class RedirectSection(ConfigurationModel):
    """Send UEs that can be redirected to another gateway (RFC 5685) from ``threshold`` sessions on.

    IKE_SA_INIT requests to one of the ``anycast`` addresses are redirected always (§4).
    """

    gateway: GatewayName
    stage: RedirectPoint = RedirectPoint.INIT
    threshold: Count = 0
    anycast: tuple[IpAddress, ...] = ()


class ResumptionSection(ConfigurationModel):
    """Tickets for session resumption (RFC 5723), sealed by a secret that outlives the process."""

    secret_file: FilePath
    lifetime: Interval = TICKET_LIFETIME
    key_interval: Interval = TICKET_KEY_INTERVAL

    @model_validator(mode="after")
    def _outlived(self) -> ResumptionSection:
        if self.lifetime > self.key_interval:
            raise unfit("at most key_interval", "lifetime")
        return self


class IkeSection(ConfigurationModel):
    """What the gateway accepts and how patient it is."""

    suites: IkeSuites = DEFAULT_SUITES
    esp_suites: EspSuites = DEFAULT_SUITES
    eap_only: bool = False
    mobike: bool = True
    force_encapsulation: AutoFlag = "auto"
    allow_beet: bool = False
    return_routability: ReturnRoutability = ReturnRoutability.BEFORE_UPDATE
    return_routability_interval: Interval = RETURN_ROUTABILITY_INTERVAL
    acceptable_addresses: tuple[IpNetwork, ...] = ()
    follow_esp: bool = True
    move_by_rekey: bool = True
    hold_lifetime: Interval | None = HOLD_LIFETIME
    liveness_interval: Interval | None = 120.0
    keepalive_interval: Interval | None = KEEPALIVE_INTERVAL
    half_open_lifetime: Interval = HALF_OPEN_LIFETIME
    cookie_threshold: Count = COOKIE_THRESHOLD
    cookie_rate: Rate = COOKIE_RATE
    half_open_limit: Limit = HALF_OPEN_LIMIT
    half_open_limit_per_source: Limit = HALF_OPEN_LIMIT_PER_SOURCE
    unprotected_rate: Rate = UNPROTECTED_RATE
    qcd_secret: FilePath | None = None
    child_lifetime: ChildLifetime | None = ChildLifetimeSection(soft=3600.0)
    ike_lifetime: IkeLifetime | None = IkeLifetimeSection(soft=86400.0)
    additional_children: Count = ADDITIONAL_CHILDREN
    authentication_lifetime: Interval | None = None
    retransmission: RetransmissionSection = RetransmissionSection()
    request_device_identity: bool = False
    require_device_identity: bool = False
    application_version: str | None = Field(default="epdg-emulator", pattern=r"^[ -~]{1,255}$")
    ue_liveness_period: Annotated[Count, Field(ge=1, le=0xFFFFFFFF)] | None = None
    fragmentation: bool = True
    fragment_size: Annotated[Count, Field(ge=256, le=65535)] = FRAGMENT_SIZE
    window_size: Annotated[Count, Field(ge=1, le=255)] = 1
    childless: bool = False
    redirect: RedirectSection | None = None
    redirected_lifetime: Interval = REDIRECTED_LIFETIME
    resumption: ResumptionSection | None = None


class DiameterSection(DiameterNodeSection):
    """Who the gateway is on SWm and whom it asks."""

    host: DiameterIdentityText
    realm: DiameterIdentityText
    destination_realm: DiameterIdentityText | None = None
    request_interval: Interval = 10.0

    @model_validator(mode="after")
    def _of_others(self) -> DiameterSection:
        if any(peer.host == self.host for peer in self.peers):
            raise unfit("other nodes than host itself", "peers")
        return self


class Reactivation(str, Enum):
    """Whether UEs that the AAA server has detached are told to attach again (TS 24.302 §7.4.3)."""

    NEVER = "never"
    ALWAYS = "always"


class AaaInitiatedSection(ConfigurationModel):
    """What happens to UEs whose session the AAA server ends (ASR), or changes so that it cannot go on (RAR)."""

    reactivation: Reactivation = Reactivation.NEVER


class UnauthenticatedEmergency(str, Enum):
    """Whether UEs that cannot be authenticated may have emergency sessions; the AAA server decides on the allowed."""

    ALLOW = "allow"
    REFUSE = "refuse"


class EmergencySection(ConfigurationModel):
    """Emergency sessions (TS 24.302 §7.2.5); the APN has its addresses under ``apns``."""

    apn: Annotated[str, AfterValidator(str.lower)] = "sos"
    unauthenticated: UnauthenticatedEmergency = UnauthenticatedEmergency.REFUSE


class LimitsSection(ConfigurationModel):
    """How many sessions there may be: of one UE, and in all; emergency sessions do not ask."""

    connections_per_ue: Limit | None = None
    congestion_threshold: Limit | None = None


class RequestedAddress(str, Enum):
    """What becomes of a UE that asks for the address it had (handover) when that is not free."""

    PREFERRED = "preferred"
    REQUIRED = "required"


def _one_or_more(value: object) -> object:
    """A value alone stands for a list of one."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _range(value: object) -> tuple[IpAddress, IpAddress]:
    refusal = PydanticCustomError("range", "an address, a network, or a range such as 10.45.0.2-10.45.0.99")
    if not isinstance(value, str):
        raise refusal
    first, dash, last = value.partition("-")
    try:
        if not dash:
            network = ip_network(first.strip())
            return network[0], network[-1]
        start, end = ip_address(first.strip()), ip_address(last.strip())
    except ValueError:
        raise refusal
    if start.version != end.version or int(start) > int(end):
        raise refusal
    return start, end


AddressRange = Annotated[tuple[IpAddress, IpAddress], BeforeValidator(_range)]


class EgressMode(str, Enum):
    """How packets of UEs go on: with their addresses, behind the gateway's, or not at all."""

    ROUTED = "routed"
    MASQUERADED = "masqueraded"
    NONE = "none"


class ApnSection(ConfigurationModel):
    """A packet data network: its addresses, what the UE is told, and how its packets go on.

    ``pool6`` holds a /64 for each UE. ``egress_next_hop``: routers on ``egress_interface``, one of each version.
    """

    pool: Annotated[tuple[IPv4Network, ...], BeforeValidator(_one_or_more)] = ()
    pool6: Annotated[tuple[IPv6Network, ...], BeforeValidator(_one_or_more)] = ()
    excluded: tuple[AddressRange, ...] = ()
    stable_addresses: bool = False
    dns: tuple[IpAddress, ...] = ()
    p_cscf: tuple[IpAddress, ...] = ()
    requested_address: RequestedAddress = RequestedAddress.PREFERRED
    egress: EgressMode = EgressMode.ROUTED
    egress_interface: InterfaceName | None = None
    egress_next_hop: tuple[IpAddress, ...] = ()
    ue_to_ue: bool = False

    @field_validator("pool")
    @classmethod
    def _large_enough(cls, value: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
        if any(network.num_addresses < 4 for network in value):
            raise PydanticCustomError("pool", "networks with room for at least two hosts, such as 10.45.0.0/24")
        return value

    @field_validator("pool6")
    @classmethod
    def _of_prefixes(cls, value: tuple[IPv6Network, ...]) -> tuple[IPv6Network, ...]:
        if any(network.prefixlen > 63 for network in value):
            raise PydanticCustomError("pool6", "networks with a /64 for each UE, such as 2001:db8:45::/48")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ApnSection:
        if not self.networks:
            raise PydanticCustomError("pool", "pool (IPv4), pool6 (IPv6) or both")
        if self.egress_next_hop and self.egress_interface is None:
            raise PydanticCustomError("egress_next_hop", "an egress_interface where there is an egress_next_hop")
        if len({address.version for address in self.egress_next_hop}) < len(self.egress_next_hop):
            raise PydanticCustomError("egress_next_hop", "at most one egress_next_hop of each IP version")
        if self.egress is EgressMode.NONE and self.egress_interface is not None:
            raise PydanticCustomError("egress", "no egress_interface where egress is none")
        return self

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The pools there are."""
        return (*self.pool, *self.pool6)

    @property
    def has_egress_of_its_own(self) -> bool:
        """Whether something about its egress is not as it is by default."""
        return self.egress is not EgressMode.ROUTED or self.egress_interface is not None or self.ue_to_ue


class DataPlaneKind(str, Enum):
    """Where decapsulated packets go."""

    IN_PROCESS = "in-process"
    TUN = "tun"


class DataPlaneSection(TunnelSection):
    """``in-process``: a host inside the gateway answers echo. ``tun``: a device of the kernel's (root)."""

    kind: DataPlaneKind = DataPlaneKind.IN_PROCESS
    hosts: tuple[IpAddress, ...] = ()
    device: InterfaceName = "epdg0"
    mtu: Annotated[int, Field(ge=576, le=9000)] = 1400


class AccountingSection(ConfigurationModel):
    """A line of CSV for each session that ends; at ``rotate_octets`` the file makes room, so many old ones are kept."""

    file: FilePath
    rotate_octets: Annotated[int, Field(ge=4096)] = 10_000_000
    kept_files: Annotated[Count, Field(le=1000)] = 9


class TraceSection(ConfigurationModel):
    """How much is kept, and whether keys may leave the process."""

    enabled: bool = True
    export_keys: bool = False
    ring: Annotated[int, Field(ge=100)] = DEFAULT_RING


class EpdgConfiguration(ConfigurationModel):
    """Everything the gateway needs to know."""

    node: str = Field(default="epdg", min_length=1)
    plmn: PlmnSection
    listen: ListenSection
    certificate: CertificateSection | None = None
    further_certificates: tuple[CertificateSection, ...] = ()
    authentication: AuthenticationSection = AuthenticationSection()
    ike: IkeSection = IkeSection()
    diameter: DiameterSection
    apns: dict[str, ApnSection] = Field(min_length=1)
    default_apn: str | None = None
    refusals: FilePath | None = None
    aaa_initiated: AaaInitiatedSection = AaaInitiatedSection()
    emergency: EmergencySection | None = None
    limits: LimitsSection = LimitsSection()
    data_plane: DataPlaneSection = DataPlaneSection()
    control: FilePath
    trace: TraceSection = TraceSection()
    logging: LoggingSection = LoggingSection()
    accounting: AccountingSection | None = None
    telemetry: TelemetrySection | None = None

    @field_validator("apns")
    @classmethod
    def _apart(cls, value: dict[str, ApnSection]) -> dict[str, ApnSection]:
        """Networks of two APNs that overlap would need a routing domain (VRF) each."""
        known: list[tuple[str, IPv4Network | IPv6Network]] = []
        for name, apn in value.items():
            for network in apn.networks:
                for other, there in known:
                    if network.version == there.version and network.overlaps(there):
                        words = f"pools that do not overlap: {network} of {name} and {there} of {other} do"
                        raise PydanticCustomError("apns", "{words}", {"words": words})
                known.append((name, network))
        return value

    @model_validator(mode="after")
    def _consistent(self) -> EpdgConfiguration:
        self.check()
        return self

    def check(self) -> None:
        """Whether the sections go together; ``PydanticCustomError`` when they do not."""
        if self.data_plane.kind is DataPlaneKind.IN_PROCESS:
            if self.data_plane.backend not in ("auto", Backend.PYTHON):
                raise unfit("auto or python where data_plane.kind is in-process", "data_plane", "backend")
            special = [name for name, apn in self.apns.items() if apn.has_egress_of_its_own]
            if special:
                words = f"data_plane.kind: tun, which egress, egress_interface and ue_to_ue of {special[0]} need"
                raise PydanticCustomError("egress", "{words}", {"words": words})
        if self.telemetry is not None and not self.trace.enabled:
            raise unfit("true, where there is telemetry: spans are made of the trace", "trace", "enabled")
        if self.default_apn is not None and self.default_apn not in self.apns:
            raise unfit("one of the APNs listed under apns", "default_apn")
        if self.emergency is not None and self.emergency.apn not in self.apns:
            raise unfit("one of the APNs listed under apns", "emergency", "apn")
        eap = AuthenticationKind.EAP in self.authentication.methods
        if self.certificate is None and eap and not self.ike.eap_only:
            raise unfit("a certificate, or ike.eap_only: true", "certificate")
        if self.certificate is None and (self.authentication.shows_certificate or self.further_certificates):
            raise unfit("a certificate, which the gateway has to show", "certificate")
        if eap and not self.diameter.peers:
            raise unfit("an AAA server, or authentication without eap", "diameter", "peers")
