"""The pump: carries a machine's events and datagrams out and arms the one timer it asks for.

Machines are known by their shape only, so that a node reaches no protocol through this module.
"""

from __future__ import annotations

import asyncio
import logging
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

    Datagrams go out before events: the answer to a DELETE leaves before its event closes the port it leaves
    by. What events install is there in time all the same, since nothing is received in between.
    """

    def __init__(
        self,
        machine: Machine[EventT, TransmitT],
        *,
        on_event: Callable[[EventT], None],
        transmit: Callable[[TransmitT], None],
    ) -> None:
        self._machine = machine
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
            busy = True
            while busy:
                busy = False
                while (sending := self._machine.poll_transmit()) is not None:
                    busy = True
                    self._transmit(sending)
                if (event := self._machine.poll_event()) is not None:
                    busy = True
                    self._on_event(event)
        finally:
            self._pumping = False
        self._arm()

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
