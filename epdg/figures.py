"""How long attaches and moves take at the gateway, and all that its child SAs have carried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from epdg.live import Live
from protocols.dataplane.port import ChildSaCounters
from protocols.histogram import Histogram
from protocols.ikev2.events import AddressesUpdated, AddressUpdateFailed, AddressUpdateStarted, Event

CARRIED = ("inbound_packets", "inbound_octets", "outbound_packets", "outbound_octets")


class Durations:
    """``attach``: from IKE_SA_INIT to the child SA. ``move``: from the first UPDATE_SA_ADDRESSES to the adopted path.

    What a UE misses of a move begins earlier, when its old address is gone: the gateway cannot see that.
    """

    def __init__(self) -> None:
        self.attach = Histogram()
        self.move = Histogram()

    def attached(self, live: Live, now: float) -> None:
        """A session is up."""
        self.attach.add(now - live.sa.created)

    def follow(self, live: Live, event: Event, now: float) -> None:
        """A move begins, goes on elsewhere, is complete or has failed."""
        if isinstance(event, AddressUpdateStarted):
            live.moving_since = now if live.moving_since is None else live.moving_since
        elif isinstance(event, AddressesUpdated):
            if live.moving_since is not None:
                self.move.add(now - live.moving_since)
            live.moving_since = None
        elif isinstance(event, AddressUpdateFailed):
            live.moving_since = None


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
