"""The records of all nodes of a run as they come: handed on, counted, and waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing

from protocols.errors import BackendError
from protocols.io.control import ControlClient
from protocols.trace.records import JsonValue, Kind, TraceRecord

ALL_BUT_DATAGRAMS = tuple(kind for kind in Kind if kind is not Kind.DATAGRAM)

Matches = Callable[[TraceRecord], bool]


class Traces:
    """Follows nodes; ``takers`` get every record."""

    def __init__(self, takers: Sequence[Callable[[TraceRecord], None]]) -> None:
        self._takers = takers
        self._kept: list[TraceRecord] = []  # events and messages: hundreds, not the thousands of datagrams
        self._waiting: list[tuple[Matches, asyncio.Future[TraceRecord]]] = []
        self.esp_sent_to: Counter[str] = Counter()  # address → ESP packets that the gateway sent there

    async def follow(self, client: ControlClient, kinds: Sequence[Kind] | None) -> None:
        """Take the records of a node from its first to its last."""
        async with aclosing(client.subscribe(0, kinds)) as records:  # type: ignore[type-var]
            async for record in records:
                self.take(record)

    def take(self, record: TraceRecord) -> None:
        """Take one record."""
        for taker in self._takers:
            taker(record)
        body = record.body
        if record.kind is Kind.DATAGRAM:
            if body.get("protocol") == "esp" and body.get("direction") == "out":
                self.esp_sent_to[str(body.get("remote")).rpartition(":")[0]] += 1
            return
        if record.kind not in (Kind.EVENT, Kind.MESSAGE):
            return
        self._kept.append(record)
        for entry in [entry for entry in self._waiting if entry[0](record)]:
            self._waiting.remove(entry)
            if not entry[1].done():
                entry[1].set_result(record)

    async def expect(self, matches: Matches, *, what: str, interval: float) -> TraceRecord:
        """The first record that matches, kept or to come; ``BackendError`` says ``what`` did not happen."""
        found = next(self.matching(matches), None)
        if found is not None:
            return found
        future: asyncio.Future[TraceRecord] = asyncio.get_running_loop().create_future()
        entry = (matches, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(interval):
                return await future
        except TimeoutError:
            raise BackendError(f"{what}: not within {interval:g} s") from None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def matching(self, matches: Matches) -> filter[TraceRecord]:
        """The kept records that match, oldest first."""
        return filter(matches, self._kept)


def event(node: str, *names: str, after: float) -> Matches:
    """Matches events of a node by name, from a moment of wall clock on."""

    def matches(record: TraceRecord) -> bool:
        return (
            record.kind is Kind.EVENT
            and record.node == node
            and record.wall >= after
            and record.body.get("name") in names
        )

    return matches


def message(node: str, direction: str, *, name: str, containing: str = "", after: float = 0.0) -> Matches:
    """Matches messages of a node by direction, name and what their summary contains; no retransmissions."""

    def matches(record: TraceRecord) -> bool:
        body = record.body
        return (
            record.kind is Kind.MESSAGE
            and record.node == node
            and record.wall >= after
            and body.get("direction") == direction
            and body.get("name") == name
            and containing in str(body.get("summary"))
            and body.get("retransmission") is not True
        )

    return matches


def data(record: TraceRecord) -> dict[str, JsonValue]:
    """The data of an event."""
    found = record.body.get("data")
    return found if isinstance(found, dict) else {}
