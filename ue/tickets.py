"""Procedures of a device that somebody waits for, each under the number that its ``Finished`` carries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from protocols.io.control import ControlError
from ue.commands import Command, Finished


class Tickets:
    """``carry_out`` takes the commands that a procedure begins with."""

    def __init__(self, carry_out: Callable[[list[Command]], None]) -> None:
        self._carry_out = carry_out
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[str | None]] = {}

    def next(self) -> int:
        """One that nobody waits for."""
        return next(self._numbers)

    async def wait_for(self, code: str, begin: Callable[[int], list[Command]]) -> None:
        """Begin a procedure and return when it is over; ``ControlError`` with ``code`` when it fails.

        ``LocalError``: it is not possible now.
        """
        ticket = self.next()
        outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        commands = begin(ticket)
        self._waiting[ticket] = outcome
        try:
            self._carry_out(commands)
            failure = await outcome
        finally:
            self._waiting.pop(ticket, None)
        if failure is not None:
            raise ControlError(code, failure)

    def finish(self, command: Finished) -> None:
        """A procedure is over."""
        waiting = self._waiting.get(command.ticket)
        if waiting is not None and not waiting.done():
            waiting.set_result(command.failure)
