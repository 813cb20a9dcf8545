"""Duplicate requests (RFC 6733 §3): Origin-Host and End-to-End Identifier tell them; each is handled once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protocols.diameter.codec import DiameterMessage

DUPLICATES_INTERVAL = 240.0  # RFC 6733 §3: End-to-End Identifiers stay unique for at least 4 minutes
DUPLICATES_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class AnswerOctets:
    """An answer that its handler has encoded itself: messages that are sent as they are, none for silence."""

    messages: tuple[bytes, ...]


Answer = DiameterMessage | AnswerOctets
Handler = Callable[[DiameterMessage], Awaitable[Answer]]


class AnswerCache:
    """Answers, and those in the making, for as long as their requests may come again."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[bytes, int, int, bytes], tuple[float, asyncio.Future[Answer]]] = OrderedDict()

    async def answer(self, request: DiameterMessage, handler: Handler) -> Answer:
        """What ``handler`` says, the first time; a duplicate MUST cause the same answer (RFC 6733 §3)."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._forget(now)
        key = (
            (request.octets("Origin-Host") or b"").lower(),
            request.end_to_end,
            request.command,
            request.octets("Session-Id") or b"",
        )
        present = self._answers.get(key)
        if present is not None:
            return await asyncio.shield(present[1])
        future: asyncio.Future[Answer] = loop.create_future()
        self._answers[key] = (now + DUPLICATES_INTERVAL, future)
        try:
            answer = await handler(request)
        except asyncio.CancelledError:
            self._answers.pop(key, None)
            future.cancel()
            raise
        future.set_result(answer)
        return answer

    def _forget(self, now: float) -> None:
        """What is too old, and the oldest when there is too much; never what is in the making."""
        while self._answers:
            key, (until, kept) = next(iter(self._answers.items()))
            if until > now and len(self._answers) < DUPLICATES_LIMIT:
                break
            if not kept.done():
                break
            del self._answers[key]

    def clear(self) -> None:
        """Forget everything; who waits is cancelled."""
        for _, answer in self._answers.values():
            answer.cancel()
        self._answers.clear()
