"""The pump: carries a machine's events and datagrams out and arms the one timer it asks for.

Machines are known by their shape only, so that a node reaches no protocol through this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

_log = logging.getLogger(__name__)

EventT = TypeVar("EventT", covariant=True)
TransmitT = TypeVar("TransmitT", covariant=True)


class Machine(Protocol[EventT, TransmitT]):
    """A sans-IO machine: polled outputs and the next deadline."""

    def poll_event(self) -> EventT | None:
        """The next event."""

    def poll_transmit(self) -> TransmitT | None:
        """The next thing to send."""

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""

    def handle_timeout(self, now: float) -> None:
        """Run what is due."""


class Driver(Generic[EventT, TransmitT]):
    """Drives one machine on the running loop, whose clock is the machine's ``now``.

    Datagrams go out before events: the answer to a DELETE leaves before its event closes the port it leaves by. Events
    that are ``urgent``, and those before them, come first: an SA that is installed must be there when the peer has the
    answer, since threads or the kernel may receive for it at once.
    """

    def __init__(
        self,
        machine: Machine[EventT, TransmitT],
        *,
        on_event: Callable[[EventT], None],
        transmit: Callable[[TransmitT], None],
        urgent: Callable[[EventT], bool] | None = None,
    ) -> None:
        self._machine = machine
        self._urgent = urgent
        self._events: deque[EventT] = deque()
        self._on_event = on_event
        self._transmit = transmit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._armed: float | None = None
        self._pumping = False
        self._closed = False

    def now(self) -> float:
        """The clock that the machine lives by."""
        return self._loop.time()

    def pump(self) -> None:
        """Poll until the machine has nothing more to say; call after every input. Re-entrant calls fold."""
        if self._pumping or self._closed:
            return
        self._pumping = True
        try:
            while self._turn():
                pass
        finally:
            self._pumping = False
        self._arm()

    def _turn(self) -> bool:
        """What waits to be sent, the urgent events before it, one event after it; whether there was anything."""
        sending = list(iter(self._machine.poll_transmit, None))
        self._events.extend(iter(self._machine.poll_event, None))
        busy = bool(sending or self._events)
        for _ in range(self._until_urgent()):
            self._on_event(self._events.popleft())
        for each in sending:
            self._transmit(each)
        if self._events:
            self._on_event(self._events.popleft())
        return busy

    def _until_urgent(self) -> int:
        """How many events are to be handled before anything is sent."""
        if self._urgent is None:
            return 0
        return max((number for number, event in enumerate(self._events, 1) if self._urgent(event)), default=0)

    def close(self) -> None:
        """Disarm the timer."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        deadline = self._machine.next_deadline()
        if self._closed or (deadline == self._armed and self._timer is not None):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed = deadline
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        try:
            self._machine.handle_timeout(self.now())
        except Exception:  # noqa: BLE001 - top loop: a defect in one SA must not stop the others' timers
            _log.exception("a timer's work failed")
        self.pump()
