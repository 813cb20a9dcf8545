"""Duplicate requests (RFC 6733 §3): Origin-Host and End-to-End Identifier tell them; each is handled once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protocols.diameter.codec import DiameterMessage

DUPLICATES_INTERVAL = 240.0  # RFC 6733 §3: End-to-End Identifiers stay unique for at least 4 minutes
ANSWERS_LIMIT = 16 * 1024 * 1024  # octets of AVPs kept; RFC 6733 leaves it to us
_AVP_OCTETS = 64  # what an AVP costs besides its data, about


@dataclass(frozen=True, slots=True)
class AnswerOctets:
    """An answer that its handler has encoded itself: messages that are sent as they are, none for silence."""

    messages: tuple[bytes, ...]


Answer = DiameterMessage | AnswerOctets
Handler = Callable[[DiameterMessage], Awaitable[Answer]]
_Key = tuple[bytes, int, int, bytes]


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    answer: Answer
    octets: int


class AnswerCache:
    """Answers for as long as their requests may come again, of ``limit`` octets in all; and those in the making."""

    def __init__(self, limit: int = ANSWERS_LIMIT) -> None:
        self._limit = limit
        self._in_work: dict[_Key, asyncio.Future[Answer]] = {}
        self._answers: OrderedDict[_Key, _Kept] = OrderedDict()
        self.octets = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def in_work(self) -> int:
        """Requests whose answer is in the making."""
        return len(self._in_work)

    def knows(self, request: DiameterMessage) -> bool:
        """Whether a request is a duplicate, so that answering it is no work."""
        key = _key(request)
        return key in self._answers or key in self._in_work

    def answer(self, request: DiameterMessage, handler: Handler) -> asyncio.Future[Answer]:
        """What ``handler`` says, the first time; a duplicate MUST cause the same answer (RFC 6733 §3).

        Others may wait for it too: it is not to be awaited without a shield.
        """
        loop = asyncio.get_running_loop()
        self._forget(loop.time())
        key = _key(request)
        kept = self._answers.get(key)
        if kept is not None:
            present: asyncio.Future[Answer] = loop.create_future()
            present.set_result(kept.answer)
            return present
        if key not in self._in_work:
            self._in_work[key] = asyncio.ensure_future(handler(request))
            self._in_work[key].add_done_callback(lambda made: self._made(key, made, loop.time()))
        return self._in_work[key]

    def _made(self, key: _Key, made: asyncio.Future[Answer], now: float) -> None:
        self._in_work.pop(key, None)
        if made.cancelled() or made.exception() is not None:
            return
        answer = made.result()
        octets = _octets(answer)
        self._answers[key] = _Kept(now + DUPLICATES_INTERVAL, answer, octets)
        self.octets += octets
        self._forget(now)

    def _forget(self, now: float) -> None:
        """What is too old, and the oldest when there is too much."""
        while self._answers:
            kept = next(iter(self._answers.values()))
            if kept.until > now and self.octets <= self._limit:
                break
            self._answers.popitem(last=False)
            self.octets -= kept.octets

    async def close(self) -> None:
        """Forget everything; what is in the making is cancelled."""
        in_work = list(self._in_work.values())
        for future in in_work:
            future.cancel()
        await asyncio.gather(*in_work, return_exceptions=True)
        self._answers.clear()
        self.octets = 0


def _key(request: DiameterMessage) -> _Key:
    return (
        (request.octets("Origin-Host") or b"").lower(),
        request.end_to_end,
        request.command,
        request.octets("Session-Id") or b"",
    )


def _octets(answer: Answer) -> int:
    """What keeping an answer costs, about."""
    if isinstance(answer, AnswerOctets):
        return sum(len(octets) for octets in answer.messages)
    return sum(_AVP_OCTETS + len(avp.data) for avp in answer.avps)
