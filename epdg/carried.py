"""What child SAs have carried, those that are gone too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from protocols.dataplane.port import ChildSaCounters

CARRIED = ("inbound_packets", "inbound_octets", "outbound_packets", "outbound_octets")


class Carried:
    """Packets and octets of inner IP by direction; what ended SAs have carried stays in the sum."""

    def __init__(self) -> None:
        self._gone: Counter[str] = Counter()

    def ended(self, counters: ChildSaCounters | None) -> None:
        """A child SA is removed; these are the last it has counted."""
        self._add(self._gone, counters)

    def total(self, present: Iterable[ChildSaCounters | None]) -> dict[str, int]:
        """With those that are installed now."""
        found = Counter(self._gone)
        for counters in present:
            self._add(found, counters)
        return {name: found[name] for name in CARRIED}

    def _add(self, to: Counter[str], counters: ChildSaCounters | None) -> None:
        if counters is not None:
            to.update({name: getattr(counters, name) for name in CARRIED})
