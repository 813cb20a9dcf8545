"""Configuration of the gateway, how the UE finds it, and what it does when that fails: ``gateway``, ``retry``."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from protocols.ikev2.revocation import RevocationPolicy
from protocols.io.configuration import ConfigurationModel, Count, Digits, FilePath, Interval, IpAddress, Port
from protocols.io.dns import ResolverSettings
from protocols.path import Address
from protocols.threegpp.identity import Plmn
from ue.retry import INTERVALS, Bar, RetryPolicy, Rule, ranges
from ue.selection import ConfiguredUse, FqdnKind, PreferredPlmn, SelectionPolicy

IKE_PORT = 500  # RFC 7296 §2.23
NAT_TRAVERSAL_PORT = 4500  # RFC 3947
DNS_PORT = 53
DNS_TIMEOUT = 5.0  # seconds for one name, all servers and repetitions together
NAME_MAXIMUM = 253  # RFC 1035 §3.1, as text
_NAME = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?\Z"
)


def _identifier(value: object) -> Address | str:
    """A home ePDG identifier (TS 31.102 §4.2.103): an address or an FQDN."""
    if not isinstance(value, str):
        raise PydanticCustomError("gateway", "an IP address or a domain name such as epdg.example.org")
    try:
        return ip_address(value)
    except ValueError:
        pass
    if len(value) > NAME_MAXIMUM or not _NAME.match(value):
        raise PydanticCustomError("gateway", "an IP address or a domain name such as epdg.example.org")
    return value


def _causes(value: tuple[str | int, ...]) -> tuple[str | int, ...]:
    try:
        found = ranges(value)
    except ValueError:
        found = ()
    if not found or any(first > last for first, last in found):
        raise PydanticCustomError("causes", "causes such as USER_UNKNOWN, 24 or 9000-9050")
    return value


GatewayIdentifier = Annotated[IpAddress | str, BeforeValidator(_identifier)]
Mcc = Annotated[Digits, Field(pattern=r"^[0-9]{3}$")]
AreaCode = Annotated[Count, Field(le=0xFFFF)]


class PlmnSection(ConfigurationModel):
    """A network (TS 23.003 §12.1)."""

    mcc: Digits = Field(pattern=r"^[0-9]{3}$")
    mnc: Digits = Field(pattern=r"^[0-9]{2,3}$")

    @property
    def plmn(self) -> Plmn:
        """The network as a value."""
        return Plmn(self.mcc, self.mnc)


class RegisteredSection(PlmnSection):
    """The network of the UE's 3GPP access, and the area codes it broadcasts there."""

    tracking_area: AreaCode | None = None
    tracking_area_5g: Annotated[Count, Field(le=0xFFFFFF)] | None = None
    location_area: AreaCode | None = None


class PreferredPlmnSection(ConfigurationModel):
    """An entry of the ePDG selection information (TS 31.102 §4.2.104)."""

    plmn: PlmnSection | Literal["any"]
    fqdn: FqdnKind = FqdnKind.OPERATOR
    priority: Annotated[Count, Field(ge=1)] = 1

    def entry(self) -> PreferredPlmn:
        """The machine's value."""
        plmn = None if isinstance(self.plmn, str) else self.plmn.plmn
        return PreferredPlmn(plmn=plmn, fqdn=self.fqdn, priority=self.priority)


class SelectionSection(ConfigurationModel):
    """Gateway selection (TS 23.402 §4.5.4); ``patience``: seconds for a gateway's first answer."""

    configured: tuple[GatewayIdentifier, ...] = ()
    configured_use: ConfiguredUse = ConfiguredUse.HOME
    preferred: tuple[PreferredPlmnSection, ...] = ()
    registered: RegisteredSection | None = None
    country: Mcc | None = None
    home_mccs: tuple[Mcc, ...] = ()
    patience: Interval | None = None

    @model_validator(mode="after")
    def _something_to_use(self) -> SelectionSection:
        if self.configured_use is ConfiguredUse.ONLY and not self.configured:
            raise PydanticCustomError("selection", "gateways under configured, which configured_use: only needs")
        return self

    def policy(self, home: Plmn, configured: tuple[Address, ...], *, emergency: bool) -> SelectionPolicy:
        """The machine's policy; ``configured`` come before those listed here."""
        registered = self.registered
        return SelectionPolicy(
            home=home,
            configured=(*configured, *self.configured),
            configured_use=self.configured_use,
            preferred=tuple(each.entry() for each in self.preferred),
            registered=None if registered is None else registered.plmn,
            country=self.country,
            home_mccs=self.home_mccs,
            tracking_area=None if registered is None else registered.tracking_area,
            tracking_area_5g=None if registered is None else registered.tracking_area_5g,
            location_area=None if registered is None else registered.location_area,
            emergency=emergency,
        )


class GatewaySection(ConfigurationModel):
    """The ePDG, and how it proves itself; ``other_address`` is of the other IP version.

    ``alternatives`` are tried too where its address does not answer the first request (RFC 4555 §3.1).
    ``selection``: how it is found; addresses given here are then the first ones configured.
    ``names``: its certificate must carry one of them; without any the FQDN it was selected by, or the PLMN's, counts.
    """

    address: IpAddress | None = None
    selection: SelectionSection | None = None
    other_address: IpAddress | None = None
    alternatives: tuple[IpAddress, ...] = ()
    ike_port: Port = IKE_PORT
    nat_traversal_port: Port = NAT_TRAVERSAL_PORT
    names: tuple[str, ...] = ()
    ca: FilePath | None = None
    eap_only: bool = False
    revocation: RevocationPolicy = RevocationPolicy.OFF
    crls: tuple[FilePath, ...] = ()
    ocsp_responders: tuple[FilePath, ...] = ()

    @model_validator(mode="after")
    def _of_both_versions(self) -> GatewaySection:
        if self.address is None:
            if self.selection is None:
                raise PydanticCustomError("gateway", "gateway.address, or gateway.selection to find it by")
            if self.other_address is not None or self.alternatives:
                raise PydanticCustomError("gateway", "address, which other_address and alternatives stand beside")
        elif self.other_address is not None and self.other_address.version == self.address.version:
            raise PydanticCustomError("gateway", "an other_address of the IP version that address is not of")
        return self

    @property
    def addresses(self) -> tuple[IpAddress, ...]:
        """Its address, and that of the other IP version, as far as they are configured."""
        return tuple(each for each in (self.address, self.other_address) if each is not None)


class DnsSection(ConfigurationModel):
    """Name servers; none: those of the system."""

    servers: tuple[IpAddress, ...] = ()
    port: Port = DNS_PORT
    timeout: Interval = DNS_TIMEOUT

    def settings(self) -> ResolverSettings:
        """The resolver's settings."""
        return ResolverSettings(servers=self.servers, port=self.port, timeout=self.timeout)


class RetryRuleSection(ConfigurationModel):
    """What some causes lead to, in place of the standard's rule."""

    causes: Annotated[tuple[str | int, ...], AfterValidator(_causes), Field(min_length=1)]
    bars: Bar = Bar.NONE
    elsewhere: bool = False
    tries: Annotated[Count, Field(ge=1)] | None = None

    def rule(self) -> Rule:
        """The machine's rule."""
        return Rule(causes=ranges(self.causes), bars=self.bars, elsewhere=self.elsewhere, tries=self.tries)


class RetrySection(ConfigurationModel):
    """The pace of a UE that is to stay attached."""

    intervals: tuple[Interval, ...] = Field(default=INTERVALS, min_length=1)
    give_up_after: Annotated[Count, Field(ge=1)] | None = None
    then: Interval | None = None
    rules: tuple[RetryRuleSection, ...] = ()

    def policy(self) -> RetryPolicy:
        """The machine's policy."""
        return RetryPolicy(
            intervals=self.intervals,
            give_up_after=self.give_up_after,
            then=self.then,
            rules=tuple(each.rule() for each in self.rules),
        )
