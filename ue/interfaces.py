"""What the kernel tells of interfaces, as triggers of connection management (RFC 4621 §5.1.1): addresses, routes.

An access whose last route to the gateway goes is lost, its address or not, and is back with the route. Whoever renews
a lease deletes routes and sets them anew in the same moment, so that a route has to be gone for ``ABSENCE_INTERVAL``.
An access that never had a route in the main table may have policy routing: nothing is concluded then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from protocols.io.netlink import Interface, Route
from protocols.path import Address
from ue.config import AccessSection
from ue.steering import Steering

ABSENCE_INTERVAL = 0.1  # RFC 4621 leaves it to us


class InterfaceTriggers:
    """``gateways``: the addresses that IKE SAs use now."""

    def __init__(
        self, sections: Mapping[str, AccessSection], steering: Steering, gateways: Callable[[], Iterable[Address]]
    ) -> None:
        self._sections = {name: section for name, section in sections.items() if section.interface is not None}
        self._steering = steering
        self._gateways = gateways
        self._cut_off: set[str] = set()  # accesses with an address and without a route
        self._absences: dict[str, asyncio.TimerHandle] = {}

    @property
    def names(self) -> list[str]:
        """The interfaces to watch."""
        return [section.interface for section in self._sections.values() if section.interface is not None]

    def close(self) -> None:
        """Conclude nothing more."""
        for access in list(self._absences):
            self._present(access)

    def changed(self, name: str, old: Interface, new: Interface) -> None:
        """An interface is otherwise than before."""
        for access, section in self._sections.items():
            if section.interface != name:
                continue
            before, after = _address_of(section, old), _address_of(section, new)
            if after is None:
                self._present(access)
                self._cut_off.discard(access)
                if before is not None:
                    self._steering.lost(access)
            elif access in self._cut_off:
                self._look_for_a_route(access, after, new)
            else:
                if after != before:
                    self._steering.gained(access, after)
                changed = after == before and _routes_of(old, after.version) != _routes_of(new, after.version)
                self._routes(access, self._gateways_of(after.version), old, new, changed=changed)

    def _gateways_of(self, version: int) -> tuple[Address, ...]:
        """Those that an access of an IP version can reach at all."""
        return tuple(gateway for gateway in self._gateways() if gateway.version == version)

    def _routes(
        self, access: str, gateways: tuple[Address, ...], old: Interface, new: Interface, *, changed: bool
    ) -> None:
        if any(map(new.reaches, gateways)):
            self._present(access)
        elif any(map(old.reaches, gateways)) and access not in self._absences:
            loop = asyncio.get_running_loop()
            self._absences[access] = loop.call_later(ABSENCE_INTERVAL, self._absent, access)
        if changed and access not in self._absences:
            self._steering.route_changed(access)

    def _absent(self, access: str) -> None:
        del self._absences[access]
        self._cut_off.add(access)
        self._steering.lost(access, "its route to the gateway")

    def _present(self, access: str) -> None:
        absence = self._absences.pop(access, None)
        if absence is not None:
            absence.cancel()

    def _look_for_a_route(self, access: str, address: Address, new: Interface) -> None:
        gateways = self._gateways_of(address.version)
        if not gateways or any(map(new.reaches, gateways)):
            self._cut_off.discard(access)
            self._steering.gained(access, address, what="its route back")


def _routes_of(interface: Interface, version: int) -> set[Route]:
    return {route for route in interface.routes if route.destination.version == version}


def _address_of(section: AccessSection, interface: Interface) -> Address | None:
    """The access's address, while its interface has it and is up."""
    fitting = [each for each in interface.usable if each.version == section.address.version]
    if not section.address.is_unspecified:
        return section.address if section.address in fitting else None
    return next(iter(fitting), None)
