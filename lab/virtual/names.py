"""Names on virtual time: what DNS would say, after the time it would take, or never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from protocols.io.dns import ResolverSettings
from protocols.names import RecordKind, Resolution
from protocols.path import Address

DELAY = 0.02  # seconds from a question to its answer


class VirtualNames:
    """``addresses`` and ``replacements`` (NAPTR) by name, in small letters; ``silent``: no name server answers."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[Address, ...]] = {}
        self.replacements: dict[str, tuple[str, ...]] = {}
        self.delay = DELAY
        self.silent = False

    def open(self, settings: ResolverSettings, clock: Callable[[], float]) -> VirtualResolver:
        """What ``Platform.resolver`` is given; the loop's time is the only clock."""
        del clock
        return VirtualResolver(self, settings)


class VirtualResolver:
    """Asks ``VirtualNames``; keeps no answers."""

    def __init__(self, names: VirtualNames, settings: ResolverSettings) -> None:
        self._names = names
        self._settings = settings

    async def resolve(self, name: str, kinds: Sequence[RecordKind]) -> Resolution:
        """All kinds one after the other."""
        key = name.rstrip(".").lower()
        addresses: list[Address] = []
        replacements: list[str] = []
        for kind in kinds:
            if self._names.silent:
                await asyncio.sleep(self._settings.timeout)
                return Resolution(name=name, failure=f"no answer from DNS within {self._settings.timeout:g} s")
            await asyncio.sleep(self._names.delay)
            if kind is RecordKind.NAPTR:
                replacements += self._names.replacements.get(key, ())
            else:
                known = self._names.addresses.get(key, ())
                addresses += [each for each in known if RecordKind.of_version(each.version) is kind]
        return Resolution(name=name, addresses=tuple(addresses), replacements=tuple(replacements))
