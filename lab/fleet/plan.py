"""When each UE arrives, and what it does when: pure, the same for the same seed however many processes share it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from lab.fleet.arrivals import Arrivals
from lab.fleet.mix import PersonaMix
from lab.fleet.schedule import FleetEvent, FleetSchedule

DEFAULT_NETWORK = IPv4Network("127.0.80.0/24")  # of --with-nodes


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which UEs are one process's: every ``of``-th from ``number`` on."""

    number: int = 0
    of: int = 1


WHOLE = Part()


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A UE and when it comes, in seconds since the fleet began."""

    index: int
    at: float
    persona: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """An event and when it is due, in seconds since the UE came."""

    at: float
    event: FleetEvent


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """The whole fleet; ``rate`` in UEs a second over all processes, ``duration`` in seconds, both bounds at once.

    ``rounds``: how often a UE goes through its schedule at most; without, until the time is over.
    """

    count: int
    rate: float
    duration: float
    schedule: FleetSchedule
    mix: PersonaMix = PersonaMix()
    arrivals: Arrivals = Arrivals.EVEN
    rounds: int | None = None
    seed: int = 0

    def arriving(self, part: Part = WHOLE) -> Iterator[Arrival]:
        """The UEs of a process in the order in which they come; who would come after the end does not."""
        at, generator = 0.0, random.Random(f"{self.seed}/arrivals")
        for index in range(self.count):
            if at >= self.duration:
                return
            if index % part.of == part.number:
                yield Arrival(index=index, at=at, persona=self.mix.of(index, self.seed))
            even = self.arrivals is Arrivals.EVEN
            at = (index + 1) / self.rate if even else at + generator.expovariate(self.rate)

    def steps(self, index: int) -> Iterator[Step]:
        """What a UE does, round after round; it may be without end. A share of the UEs is the same UEs each time."""
        schedule, generator = self.schedule, random.Random(f"{self.seed}/ue/{index}")
        draw = random.Random(f"{self.seed}/share/{index}").random()
        begin, number = 0.0, 0
        while True:
            number += 1
            now, before = begin, 0.0
            for event in schedule.events:
                now += (event.at - before) * (1 + schedule.spread * generator.uniform(-1, 1))
                before = event.at
                if event.share is None or draw < event.share:
                    yield Step(at=now, event=event)
            if not schedule.repeat or number == self.rounds:
                return
            begin = max(now, begin + schedule.length) if schedule.length is not None else now + schedule.pause
