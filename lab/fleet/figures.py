"""What a fleet has counted and timed: values that add up over processes and fit into one line of JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from protocols.errors import DecodeError
from protocols.trace.records import JsonValue

SUCCESS = "success"
OTHER = "other"
CAUSES_MAXIMUM = 40  # of one procedure: a metric's labels stay few whatever gateways say
LOWEST = 0.0001  # seconds, or what else is observed; what is less counts as this
HIGHEST = 1000.0  # what is more counts as this
GROWTH = 1.02  # of one bucket to the next
ERROR_SHARE: float = math.sqrt(GROWTH) - 1  # of a percentile at most: a value counts as its bucket's geometric middle
BUCKETS = math.ceil(math.log(HIGHEST / LOWEST) / math.log(GROWTH))
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
WORST_PERCENTILES = (50.0, 10.0, 1.0)  # of what is better the more it is
DIRECTIONS = ("uplink", "downlink")


class Latency(str, Enum):
    """What is timed; ``lateness`` is the fleet's own: how long after its moment a UE began its attach."""

    ATTACH = "attach"
    MOVE = "move"
    DETACH = "detach"
    LATENESS = "lateness"


class Quality(str, Enum):
    """What is measured of each direction of voice, for every ten seconds or so of a call.

    ``loss``: packets that did not arrive, as a ratio. ``jitter``: seconds (RFC 3550 §6.4.1). ``mos``: ITU-T G.107.
    """

    LOSS = "loss"
    JITTER = "jitter"
    MOS = "mos"


class Histogram:
    """Seconds, ratios or scores in buckets that grow by 2 %: at most 814, percentiles within 1 %; extremes and sum
    exact.
    """

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.count = 0
        self.sum = 0.0
        self.minimum = math.inf
        self.maximum = 0.0

    def add(self, value: float) -> None:
        """One more observation."""
        bounded = min(max(value, LOWEST), HIGHEST)
        self.buckets[min(int(math.log(bounded / LOWEST) / math.log(GROWTH)), BUCKETS - 1)] += 1
        self.count += 1
        self.sum += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def percentile(self, percent: float) -> float | None:
        """The value below which so many percent lie (nearest rank); ``None`` without observations."""
        rank = max(1, math.ceil(self.count * percent / 100))
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                middle = LOWEST * math.pow(GROWTH, bucket + 0.5)
                return min(max(middle, self.minimum), self.maximum)
        return None

    def below(self, value: float) -> int:
        """How many observations lie in buckets that end at or below a value."""
        return sum(number for bucket, number in self.buckets.items() if LOWEST * math.pow(GROWTH, bucket + 1) <= value)

    def merge(self, other: Histogram) -> None:
        """Add another process's."""
        self.buckets.update(other.buckets)
        self.count += other.count
        self.sum += other.sum
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def to_json(self) -> dict[str, JsonValue]:
        """For another process."""
        return {
            "buckets": {str(bucket): number for bucket, number in self.buckets.items()},
            "sum": self.sum,
            "minimum": self.minimum if self.count else None,
            "maximum": self.maximum,
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> Histogram:
        """``DecodeError`` when it is none."""
        fields = _mapping(value)
        histogram = cls()
        for bucket, number in _mapping(fields.get("buckets")).items():
            histogram.buckets[int(bucket)] = int(_number(number))
        histogram.count = histogram.buckets.total()
        histogram.sum = _number(fields.get("sum"))
        histogram.maximum = _number(fields.get("maximum"))
        if histogram.count:
            histogram.minimum = _number(fields.get("minimum"))
        return histogram

    def summary(
        self, unit: str = "_ms", scale: float = 1000.0, percentiles: Sequence[float] = PERCENTILES
    ) -> dict[str, JsonValue]:
        """For people: what was observed times ``scale``, under names that end in ``unit``."""
        if not self.count:
            return {"count": 0}
        values = {
            "minimum": self.minimum,
            "average": self.sum / self.count,
            **{f"p{percent:g}": self.percentile(percent) for percent in percentiles},
            "maximum": self.maximum,
        }
        return {
            "count": self.count,
            **{f"{name}{unit}": None if value is None else round(value * scale, 3) for name, value in values.items()},
        }


@dataclass(kw_only=True)
class VoicePackets:
    """Of one direction: those sent whose fate is known, and those of them that did not arrive."""

    sent: int = 0
    lost: int = 0


@dataclass(kw_only=True)
class FleetFigures:
    """Counts since the fleet began, and how many UEs are at what now.

    ``waiting``: whose moment to attach has come but not their turn; ``unserved``: who still waited at the end.
    ``gathered``: whose first attach is over, well or not. ``outcomes``: of each procedure by cause, ``success`` or
    the name of the refusal. ``personas``: of attaches, by persona. ``calling``: in a voice call now; ``voice``: its
    packets, ``quality``: what came of them, by direction. ``lost``: connections that ended without the UE's wish.
    ``skipped``: events that made no sense when their time had come (a move of a UE whose attach was refused).
    ``abandoned``: UEs that had not left at the end in time. ``stray_ike``, ``stray_esp``: what came on accesses
    that their UEs had left, and was not heard.
    """

    begun: int = 0
    done: int = 0
    waiting: int = 0
    unserved: int = 0
    gathered: int = 0
    attaching: int = 0
    attached: int = 0
    calling: int = 0
    abandoned: int = 0
    skipped: int = 0
    failed: int = 0
    packets_sent: int = 0
    packets_received: int = 0
    packets_lost: int = 0
    stray_ike: int = 0
    stray_esp: int = 0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    personas: dict[str, Counter[str]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    voice: dict[str, VoicePackets] = field(default_factory=lambda: {name: VoicePackets() for name in DIRECTIONS})
    quality: dict[tuple[str, Quality], Histogram] = field(
        default_factory=lambda: {(name, quality): Histogram() for name in DIRECTIONS for quality in Quality}
    )
    latencies: dict[Latency, Histogram] = field(default_factory=lambda: {latency: Histogram() for latency in Latency})

    def outcome(self, procedure: str, cause: str, persona: str | None = None) -> None:
        """A procedure is over; causes beyond ``CAUSES_MAXIMUM`` are counted together."""
        _count(self.outcomes.setdefault(procedure, Counter()), cause)
        if persona is not None:
            _count(self.personas.setdefault(persona, Counter()), cause)

    def heard(self, direction: str, packets: VoicePackets, jitter: float | None, mos: float | None) -> None:
        """Some seconds of one direction of a call are over and known; jitter in seconds."""
        self.voice[direction].sent += packets.sent
        self.voice[direction].lost += packets.lost
        if packets.sent:
            self.quality[direction, Quality.LOSS].add(packets.lost / packets.sent)
        if jitter is not None:
            self.quality[direction, Quality.JITTER].add(jitter)
        if mos is not None:
            self.quality[direction, Quality.MOS].add(mos)

    def connection_lost(self, cause: str) -> None:
        """A connection ended without the UE's wish."""
        _count(self.lost, cause)

    def succeeded(self, procedure: str) -> int:
        """How often a procedure went well."""
        return self.outcomes.get(procedure, Counter())[SUCCESS]

    def refused(self, procedure: str) -> int:
        """How often it did not."""
        return self.outcomes.get(procedure, Counter()).total() - self.succeeded(procedure)

    def merge(self, other: FleetFigures) -> None:
        """Add another process's."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, others in ((self.outcomes, other.outcomes), (self.personas, other.personas)):
            for key, counter in others.items():
                _add(mine.setdefault(key, Counter()), counter)
        _add(self.lost, other.lost)
        for latency, histogram in other.latencies.items():
            self.latencies[latency].merge(histogram)
        for name, packets in other.voice.items():
            self.voice[name].sent += packets.sent
            self.voice[name].lost += packets.lost
        for place, histogram in other.quality.items():
            self.quality[place].merge(histogram)

    def to_json(self) -> dict[str, JsonValue]:
        """For another process."""
        return {
            **{name: getattr(self, name) for name in _NUMBERS},
            "outcomes": {key: dict(counter) for key, counter in self.outcomes.items()},
            "personas": {key: dict(counter) for key, counter in self.personas.items()},
            "lost": dict(self.lost),
            "latencies": {latency.value: histogram.to_json() for latency, histogram in self.latencies.items()},
            "voice": {
                name: {
                    "sent": packets.sent,
                    "lost": packets.lost,
                    **{quality.value: self.quality[name, quality].to_json() for quality in Quality},
                }
                for name, packets in self.voice.items()
            },
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> FleetFigures:
        """``DecodeError`` when it is no figures."""
        fields = _mapping(value)
        figures = cls()
        for name in _NUMBERS:
            setattr(figures, name, int(_number(fields.get(name))))
        figures.outcomes = {key: Counter(dict(_counts(each))) for key, each in _mapping(fields.get("outcomes")).items()}
        figures.personas = {key: Counter(dict(_counts(each))) for key, each in _mapping(fields.get("personas")).items()}
        figures.lost = Counter(dict(_counts(fields.get("lost"))))
        latencies = _mapping(fields.get("latencies"))
        for latency in Latency:
            figures.latencies[latency] = Histogram.from_json(latencies.get(latency.value))
        voice = _mapping(fields.get("voice"))
        for name in DIRECTIONS:
            direction = _mapping(voice.get(name))
            sent, lost = int(_number(direction.get("sent"))), int(_number(direction.get("lost")))
            figures.voice[name] = VoicePackets(sent=sent, lost=lost)
            for quality in Quality:
                figures.quality[name, quality] = Histogram.from_json(direction.get(quality.value))
        return figures

    def summary(self) -> dict[str, JsonValue]:
        """For people and the summary file."""
        return {
            **{name: getattr(self, name) for name in _NUMBERS if not name.startswith("packets_")},
            "packets": {
                "sent": self.packets_sent,
                "received": self.packets_received,
                "lost": self.packets_lost,
            },
            "outcomes": {key: dict(counter) for key, counter in sorted(self.outcomes.items())},
            "attaches_by_persona": {key: dict(counter) for key, counter in sorted(self.personas.items())},
            "lost": dict(self.lost),
            "latencies": {latency.value: histogram.summary() for latency, histogram in self.latencies.items()},
            "voice": {name: self._voice(name) for name in DIRECTIONS},
            "percentile_error_percent": round(ERROR_SHARE * 100, 2),
        }

    def _voice(self, name: str) -> dict[str, JsonValue]:
        packets = self.voice[name]
        return {
            "sent": packets.sent,
            "lost": packets.lost,
            "loss": self.quality[name, Quality.LOSS].summary("_percent", 100.0),
            "jitter": self.quality[name, Quality.JITTER].summary(),
            "mos": self.quality[name, Quality.MOS].summary("", 1.0, WORST_PERCENTILES),
        }


_NUMBERS = (
    "begun",
    "done",
    "waiting",
    "unserved",
    "gathered",
    "attaching",
    "attached",
    "calling",
    "abandoned",
    "skipped",
    "failed",
    "packets_sent",
    "packets_received",
    "packets_lost",
    "stray_ike",
    "stray_esp",
)


def _count(counter: Counter[str], cause: str, number: int = 1) -> None:
    counter[cause if cause in counter or len(counter) < CAUSES_MAXIMUM else OTHER] += number


def _add(counter: Counter[str], other: Counter[str]) -> None:
    """Another process's causes, which may be others: those that it has most go first, success before them."""
    for cause, number in sorted(other.items(), key=lambda each: (each[0] != SUCCESS, -each[1], each[0])):
        _count(counter, cause, number)


def _counts(value: JsonValue) -> Iterator[tuple[str, int]]:
    return ((key, int(_number(number))) for key, number in _mapping(value).items())


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(value, dict):
        raise DecodeError("no figures of a fleet")
    return value


def _number(value: JsonValue) -> float:
    if not isinstance(value, int | float):
        raise DecodeError("no figures of a fleet")
    return value
