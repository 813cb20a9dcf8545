"""What a UE of a fleet says: echo requests at a rate, or a voice call that is scored as it goes on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from lab.fleet.figures import SUCCESS, FleetFigures, VoicePackets
from protocols.dataplane.userspace.host import FLOW_PATIENCE
from protocols.media import voice
from protocols.media.log import Figures
from protocols.media.score import Opinion
from ue.traffic import Flow

ECHO_PATIENCE = FLOW_PATIENCE + 0.1  # then every packet is either answered or lost
VOICE_PATIENCE = voice.PATIENCE + 0.1  # the same of voice
VOICE_RATE = 1 / voice.VOICE_INTERVAL
WINDOW_INTERVAL = 10.0  # of a call, scored at a time: a long call is in the live figures too
CALL = "call"
NO_ANSWER = "no answer"
TOO_MANY = "too many at once"


class TalkKind(str, Enum):
    """Echo requests, or voice: a stream of 50 packets a second each way."""

    ECHO = "echo"
    VOICE = "voice"


class Talk(Protocol):
    """One talk of a UE."""

    @property
    def calling(self) -> bool:
        """Whether it is a voice call that goes on."""

    def end(self) -> None:
        """Say no more, and count what is known; a second time does nothing."""


@dataclass(frozen=True, kw_only=True)
class TalkScore:
    """What became of the packets of one talk; the rest is under way still."""

    sent: int
    received: int
    lost: int


class EchoTalk:
    """Echo requests, counted when their answers have had their time."""

    calling = False

    def __init__(self, flow: Flow, seconds: float, figures: FleetFigures) -> None:
        self._flow = flow
        self._figures = figures
        self._over = False
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._stop)

    @property
    def score(self) -> TalkScore:
        """As it is now."""
        found = self._flow.statistics()
        return TalkScore(sent=found.sent, received=found.received, lost=found.lost)

    def _stop(self) -> None:
        """The last packet has gone, on a busy machine later than was meant: its answer has its time from now on."""
        self._flow.stop()
        self._timer = self._loop.call_later(ECHO_PATIENCE, self.end)

    def end(self) -> None:
        """As ``Talk``."""
        if self._over:
            return
        self._over = True
        self._timer.cancel()
        self._flow.stop()
        score = self.score
        self._figures.packets_sent += score.sent
        self._figures.packets_received += score.received
        self._figures.packets_lost += score.lost
        self.ended.set()


class Call:
    """A voice call; its windows are of one length, ten seconds or so, each scored when all of it is known."""

    def __init__(self, flow: Flow, seconds: float, figures: FleetFigures) -> None:
        self._flow = flow
        self._figures = figures
        self._heard = False
        self.calling = True
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self._scored = began = loop.time()
        number = max(1, round(seconds / WINDOW_INTERVAL))
        bounds = [began + seconds * place / number for place in range(number + 1)]
        self._timers = [loop.call_at(until + VOICE_PATIENCE, self._score, until) for until in bounds[1:-1]]
        self._timers += [loop.call_at(bounds[-1], self._hang_up), loop.call_at(bounds[-1] + VOICE_PATIENCE, self.end)]
        self._over = False

    def end(self) -> None:
        """As ``Talk``; of the last seconds only what was reported is counted."""
        if self._over:
            return
        self._over = True
        for timer in self._timers:
            timer.cancel()
        self._hang_up()
        self._score(self._now())
        self._figures.outcome(CALL, SUCCESS if self._heard else NO_ANSWER)

    def _hang_up(self) -> None:
        self._flow.stop()
        self.calling = False

    def _score(self, until: float) -> None:
        since, self._scored = self._scored, until
        seen = self._flow.call_statistics(since, until)
        self._heard = self._heard or bool(seen.inbound.received)
        self._count("uplink", seen.outbound, seen.outbound_opinion)
        self._count("downlink", seen.inbound, seen.inbound_opinion)

    def _count(self, direction: str, figures: Figures, opinion: Opinion | None) -> None:
        packets = VoicePackets(sent=figures.sent, lost=figures.lost)
        jitter = None if figures.jitter_ms is None else figures.jitter_ms / 1000
        self._figures.heard(direction, packets, jitter, None if opinion is None else opinion.mos)
