"""How long attaches and moves take at the gateway."""

from __future__ import annotations

from epdg.live import Live
from protocols.histogram import Histogram
from protocols.ikev2.events import AddressesUpdated, AddressUpdateFailed, AddressUpdateStarted, Event


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
            live.moves += event.old != event.new
            if live.moving_since is not None:
                self.move.add(now - live.moving_since)
            live.moving_since = None
        elif isinstance(event, AddressUpdateFailed):
            live.moving_since = None
