"""Traffic through the UE's tunnel and its score: flows of the UE itself, or the system's own ``ping``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from lab.processes import NodeProcess, poll_until
from protocols.errors import BackendError
from protocols.io.control import ControlClient
from protocols.trace.records import JsonValue

IN_FLIGHT_INTERVAL = 3.0  # longer than the UE's patience with an answer
KINDS = ("icmp", "udp")

# iputils: "[1700000000.123456] 64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.321 ms"
_REPLY = re.compile(r"^\[(?P<wall>[0-9.]+)\] .*icmp_seq=(?P<number>[0-9]+) .*time=(?P<trip>[0-9.]+) ms(?P<more>.*)$")
_TRANSMITTED = re.compile(r"^(?P<sent>[0-9]+) packets transmitted")


@dataclass(frozen=True, kw_only=True)
class FlowFigures:
    """One flow between two moments; ``longest_gap_ms`` is the longest time without an answer."""

    kind: str
    sent: int
    received: int
    lost: int
    longest_gap_ms: float
    rtt_average_ms: float | None

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "kind": self.kind,
            "sent": self.sent,
            "received": self.received,
            "lost": self.lost,
            "longest_gap_ms": round(self.longest_gap_ms, 3),
            "rtt_average_ms": None if self.rtt_average_ms is None else round(self.rtt_average_ms, 3),
        }


class Traffic(Protocol):
    """What runs while the UE moves; moments are wall-clock seconds."""

    async def start(self, rate: float) -> None:
        """Begin; every flow sends ``rate`` packets per second."""

    async def stop(self) -> None:
        """Send no more and wait until every packet is answered or lost."""

    async def answered(self) -> tuple[int, ...]:
        """How many packets of each flow have been answered so far."""

    async def figures(self, since: float | None, until: float | None) -> tuple[FlowFigures, ...]:
        """The score of the packets sent between two moments, of every flow."""


class UeFlows:
    """ICMP echo and UDP echo that the UE sends by itself, by way of its control socket."""

    def __init__(self, ue: ControlClient, destination: IPv4Address) -> None:
        self._ue = ue
        self._destination = destination
        self._flows: list[int] = []

    async def start(self, rate: float) -> None:
        """Begin a flow of each kind."""
        self._flows = []
        for kind in KINDS:
            answer = await self._ue.call(
                "ue.traffic.start", kind=kind, destination=str(self._destination), rate=float(rate)
            )
            self._flows.append(int(_number(answer, "id")))

    async def stop(self) -> None:
        """Stop all flows; nothing is in flight afterwards."""
        for flow in self._flows:
            await self._ue.call("ue.traffic.stop", id=flow)

        async def landed() -> bool | None:
            for flow in self._flows:
                if _number(await self._ue.call("ue.traffic.statistics", id=flow), "in_flight"):
                    return None
            return True

        await poll_until(landed, what="packets in flight neither arrive nor count as lost", interval=IN_FLIGHT_INTERVAL)

    async def answered(self) -> tuple[int, ...]:
        """How many packets of each flow have been answered so far."""
        return tuple(flow.received for flow in await self.figures(None, None))

    async def figures(self, since: float | None, until: float | None) -> tuple[FlowFigures, ...]:
        """The score of the packets sent between two moments, of every flow."""
        figures = []
        for flow in self._flows:
            answer = await self._ue.call("ue.traffic.statistics", id=flow, since=since, until=until)
            assert isinstance(answer, dict)
            average = answer.get("rtt_average_ms")
            figures.append(
                FlowFigures(
                    kind=str(answer["kind"]),
                    sent=int(_number(answer, "sent")),
                    received=int(_number(answer, "received")),
                    lost=int(_number(answer, "lost")),
                    longest_gap_ms=_number(answer, "longest_gap_ms"),
                    rtt_average_ms=float(average) if isinstance(average, int | float) else None,
                )
            )
        return tuple(figures)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer as ``ping`` reports it."""

    number: int
    received: float
    trip: float

    @property
    def sent(self) -> float:
        """When its request went."""
        return self.received - self.trip


def parse_ping(text: str) -> tuple[list[Reply], int | None]:
    """The first answer to each request by ``ping -D``, and how many requests it sent in all if it has ended."""
    replies: dict[int, Reply] = {}
    transmitted = None
    for line in text.splitlines():
        if (found := _REPLY.match(line)) is not None:
            number = int(found["number"])
            reply = Reply(number=number, received=float(found["wall"]), trip=float(found["trip"]) / 1000)
            replies.setdefault(number, reply)
        elif (found := _TRANSMITTED.match(line)) is not None:
            transmitted = int(found["sent"])
    return [replies[number] for number in sorted(replies)], transmitted


def ping_figures(
    replies: Sequence[Reply], transmitted: int | None, interval: float, since: float | None, until: float | None
) -> FlowFigures:
    """The score between two moments; when an unanswered request went is told by its neighbours.

    Without ``transmitted`` requests behind the last answer are not known of.
    """
    start, end = since if since is not None else float("-inf"), until if until is not None else float("inf")
    answered = [reply for reply in replies if start <= reply.sent <= end]
    moments: list[float] = []  # of requests that nobody answered
    known = [Reply(number=0, received=replies[0].sent - replies[0].number * interval, trip=0.0)] if replies else []
    known += replies
    for before, after in pairwise(known):
        step = (after.sent - before.sent) / (after.number - before.number)
        moments += [before.sent + step * number for number in range(1, after.number - before.number)]
    if replies and transmitted is not None:
        last = replies[-1]
        moments += [last.sent + interval * number for number in range(1, transmitted - last.number + 1)]
    lost = sum(start <= moment <= end for moment in moments)
    arrivals = sorted(reply.received for reply in replies if start <= reply.received <= end)
    edges = [*([since] if since is not None else []), *arrivals, *([until] if until is not None else [])]
    gap = max((later - earlier for earlier, later in pairwise(edges)), default=0.0)
    trips = [reply.trip for reply in answered]
    return FlowFigures(
        kind="icmp",
        sent=len(answered) + lost,
        received=len(answered),
        lost=lost,
        longest_gap_ms=gap * 1000,
        rtt_average_ms=sum(trips) / len(trips) * 1000 if trips else None,
    )


class SystemPing:
    """The system's own ``ping``; ``place`` says how a command is run where the UE is."""

    def __init__(self, destination: IPv4Address, log: Path, place: Callable[[Sequence[str]], list[str]]) -> None:
        self._destination = destination
        self._log = log
        self._place = place
        self._interval = 1.0
        self._process: NodeProcess | None = None
        self._runs = 0

    async def start(self, rate: float) -> None:
        """Begin."""
        self._interval = 1 / rate
        self._runs += 1
        log = self._log.with_name(f"{self._log.stem}-{self._runs}.log")
        words = ["ping", "-n", "-D", "-i", f"{self._interval:g}", str(self._destination)]
        self._process = NodeProcess("ping", self._place(words), log=log)
        await self._process.start()

    async def stop(self) -> None:
        """SIGINT makes it print how many requests it sent."""
        if self._process is None:
            return
        await self._process.interrupt()
        if parse_ping(self._process.text())[1] is None:
            raise BackendError("ping ended without its summary")

    async def answered(self) -> tuple[int, ...]:
        """How many requests have been answered so far."""
        return (len(self._parsed()[0]),)

    async def figures(self, since: float | None, until: float | None) -> tuple[FlowFigures, ...]:
        """The score of the requests sent between two moments."""
        return (ping_figures(*self._parsed(), self._interval, since, until),)

    def _parsed(self) -> tuple[list[Reply], int | None]:
        return parse_ping("" if self._process is None else self._process.text())


def _number(value: JsonValue, key: str) -> float:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, int | float):
        raise BackendError(f"the UE's statistics have no {key}")
    return found
