"""A session together with what carries it: its IKE SA, its Diameter session, its timer; whose sessions there are."""

from __future__ import annotations

import asyncio

from epdg.session import Session
from protocols.ikev2.events import Closed, Event
from protocols.ikev2.sa import IkeSa


class Live:
    """A session with the SA it belongs to and its Diameter session."""

    def __init__(self, session: Session, sa: IkeSa, diameter_session_id: str) -> None:
        self.session = session
        self.sa = sa  # the present one: rekeying replaces it
        self.first_spi = sa.local_spi
        self.diameter_session_id = diameter_session_id
        self.expiry: asyncio.TimerHandle | None = None
        self.moving_since: float | None = None
        self.moves = 0
        self.searched: tuple[tuple[object, ...], str] | None = None  # what it is found by, and what that was made of
        self.questions: set[asyncio.Task[None]] = set()
        self._awaited: dict[asyncio.Future[Event | None], type[Event]] = {}

    async def told(self, kind: type[Event], interval: float) -> Event | None:
        """The next event of a kind that the IKE SA tells; ``None``: it has ended, or so many seconds are over."""
        waiting: asyncio.Future[Event | None] = asyncio.get_running_loop().create_future()
        self._awaited[waiting] = kind
        try:
            async with asyncio.timeout(interval):
                return await waiting
        except TimeoutError:
            return None
        finally:
            del self._awaited[waiting]

    def tell(self, event: Event) -> None:
        """The IKE SA tells something, and somebody may wait for it."""
        for waiting, kind in self._awaited.items():
            if not waiting.done() and isinstance(event, (kind, Closed)):
                waiting.set_result(event if isinstance(event, kind) else None)


class SubscriberSessions:
    """Which sessions a subscriber has, so that nobody looks through those of all others when one more comes."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Live, None]] = {}  # in the order in which they became known
        self._names: dict[Live, str] = {}

    def follow(self, live: Live) -> None:
        """A session is there, or may have become another subscriber's: the AAA server has the last word on that."""
        name, before = live.session.subscriber, self._names.get(live)
        if name == before:
            return
        if before is not None:
            self.forget(live)
        self._names[live] = name
        self._of.setdefault(name, {})[live] = None

    def forget(self, live: Live) -> None:
        """A session has ended."""
        name = self._names.pop(live, None)
        if name is None:
            return
        del self._of[name][live]
        if not self._of[name]:
            del self._of[name]

    def beside(self, live: Live) -> tuple[Live, ...]:
        """The other sessions of the same subscriber."""
        return tuple(other for other in self._of.get(live.session.subscriber, ()) if other is not live)
