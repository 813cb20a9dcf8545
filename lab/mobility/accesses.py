"""The accesses of a schedule as machines of ``lab.network``, with the addresses that a stage gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from lab.configurations import merged
from lab.mobility.schedule import DirectionSection, Family, NatSection, Schedule
from lab.network.access import AccessNetwork
from lab.network.nat import Nat, NatKind
from protocols.path import Address
from protocols.trace.records import JsonValue


def nat_machine(section: NatSection, outside: Address) -> Nat | None:
    """The NAT of a section, ``None`` for none."""
    return None if section.kind is NatKind.NONE else Nat(section.kind, outside, section.lifetime)


def access_machines(
    schedule: Schedule, addresses: Mapping[str, Address], outsides: Mapping[str, Address]
) -> dict[str, AccessNetwork]:
    """The accesses by name, as they are at the beginning."""
    return {
        name: AccessNetwork(
            name,
            addresses[name],
            uplink=section.up.impairments(),
            downlink=section.down.impairments(),
            nat=nat_machine(section.nat, outsides[name]),
            captive=section.captive,
            up=section.present,
        )
        for name, section in schedule.accesses.items()
    }


def change_quality(access: AccessNetwork, up: DirectionSection | None, down: DirectionSection | None) -> None:
    """Another quality from the next datagram on."""
    if up is not None:
        access.uplink = up.impairments()
    if down is not None:
        access.downlink = down.impairments()


@dataclass(frozen=True, kw_only=True)
class Places:
    """Which address has what of a schedule, by the schedule's names."""

    accesses: dict[str, Address]
    outsides: dict[str, Address]
    gateways: dict[str, Address]

    def ue_changes(self, schedule: Schedule) -> dict[str, JsonValue]:
        """What the UE's configuration must say of gateway and persona, and what the schedule says of the UE."""
        first = next(iter(self.gateways.values()))
        others = [address for address in self.gateways.values() if address.version != first.version]
        same = [address for address in self.gateways.values() if address.version == first.version]
        gateway: dict[str, JsonValue] = {"address": str(first)}
        if others:
            gateway["other_address"] = str(others[0])
        alternatives: list[JsonValue] = [str(address) for address in (*same[1:], *others[1:])]
        if alternatives:
            gateway["alternatives"] = alternatives
        changes: dict[str, JsonValue] = {"gateway": gateway}
        if schedule.persona is not None:
            changes["persona"] = schedule.persona
        return merged(changes, schedule.ue)


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """Patterns of addresses with a place for a number, which counts from 1."""

    access4: str
    access6: str
    outside: str
    gateway4: str
    gateway6: str

    def places(self, schedule: Schedule) -> Places:
        """The addresses of a schedule; NATs are of IPv4."""
        accesses = {
            name: ip_address((self.access4 if each.family is Family.IPV4 else self.access6).format(number))
            for number, (name, each) in enumerate(schedule.accesses.items(), 1)
        }
        outsides = {name: ip_address(self.outside.format(number)) for number, name in enumerate(accesses, 1)}
        gateways = {
            name: ip_address((self.gateway4 if family is Family.IPV4 else self.gateway6).format(number))
            for number, (name, family) in enumerate(schedule.gateway.addresses.items(), 1)
        }
        return Places(accesses=accesses, outsides=outsides, gateways=gateways)
