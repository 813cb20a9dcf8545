"""What the AAA server grants to a session (TS 29.273 §7.2.2.1.2, §7.2.2.1.4), and whether it still fits later."""

from __future__ import annotations

from dataclasses import dataclass

from epdg.pdn.configuration import WORDS, allowed_versions
from protocols.diameter.swm import Aaa, ApnConfiguration, Dea
from protocols.path import Address
from protocols.trace.records import JsonValue


@dataclass(frozen=True, kw_only=True)
class Authorisation:
    """A profile as it stands; ``session_timeout`` in seconds from when it was granted, ``None`` without end."""

    server: str
    apn_configuration: ApnConfiguration | None = None
    session_timeout: int | None = None
    renewed: float | None = None

    @classmethod
    def of(cls, answer: Dea | Aaa, renewed: float | None = None) -> Authorisation:
        """What an answer that says yes grants; ``renewed``: the wall clock where it is not the first one."""
        return cls(
            server=answer.origin_host,
            apn_configuration=answer.apn_configuration,
            session_timeout=answer.session_timeout,
            renewed=renewed,
        )

    def obstacle(self, former: Authorisation | None, apn: str | None, addresses: tuple[Address, ...]) -> str | None:
        """Why a session that is up cannot go on with this profile; ``None`` when it can."""
        profile = self.apn_configuration
        before = None if former is None else former.apn_configuration
        if profile is None:
            return None if before is None else f"the subscription does not include APN {apn} any more"
        if before is not None and profile.service_selection != before.service_selection:
            return f"the subscription has APN {profile.service_selection} in place of {before.service_selection}"
        allowed = allowed_versions(profile.pdn_type)
        if any(address.version not in allowed for address in addresses):
            return f"the subscription allows only {WORDS[allowed]} in APN {apn} now"
        for address in addresses:
            now, then = _static(profile, address.version), _static(before, address.version)
            if now != then and not _holds(now, address):
                return f"the subscription has the static address {now or 'no more'} in place of {then or address}"
        return None

    def changes(self, former: Authorisation | None) -> tuple[str, ...]:
        """The names of what is different from before."""
        mine, its = self.view(), {} if former is None else former.view()
        return tuple(name for name in mine if name not in ("server", "renewed") and mine[name] != its.get(name))

    def view(self) -> dict[str, JsonValue]:
        """As the control interface shows it."""
        profile = self.apn_configuration
        shown: dict[str, JsonValue] = {
            "server": self.server,
            "apn": None,
            "context_identifier": None,
            "pdn_type": None,
            "ambr": None,
            "qos": None,
            "static_addresses": [],
            "session_timeout": self.session_timeout,
            "renewed": self.renewed,
        }
        if profile is None:
            return shown
        shown["apn"] = profile.service_selection
        shown["context_identifier"] = profile.context_identifier
        shown["pdn_type"] = profile.pdn_type.name
        shown["static_addresses"] = [str(address) for address in profile.served_party_addresses]
        if profile.ambr is not None:
            shown["ambr"] = {"uplink_bits": profile.ambr.uplink, "downlink_bits": profile.ambr.downlink}
        if profile.qos is not None:
            shown["qos"] = {
                "qci": profile.qos.qci,
                "priority_level": profile.qos.arp.priority_level,
                "pre_emption_capability": profile.qos.arp.pre_emption_capability,
                "pre_emption_vulnerability": profile.qos.arp.pre_emption_vulnerability,
            }
        return shown


def _holds(granted: Address | None, address: Address) -> bool:
    """Whether it is the address, or of IPv6 the /64 with the address in it (TS 23.402 §4.7.3)."""
    if granted is None or address.version == 4:
        return address == granted
    return address.packed[:8] == granted.packed[:8]


def _static(profile: ApnConfiguration | None, version: int) -> Address | None:
    held = () if profile is None else profile.served_party_addresses
    return next((address for address in held if address.version == version), None)
