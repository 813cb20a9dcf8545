"""A fleet's figures for people: a table that is renewed every second, or a line a second where there is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lab.fleet.figures import DIRECTIONS, SUCCESS, FleetFigures, Latency, Quality
from protocols.errors import printable

WINDOW = 5  # samples, one a second, that a rate is taken over
SHOWN = ("attach", "move", "detach", "call", "rekey", "suspend")


class Pace:
    """How fast something goes: over the last seconds, and at most from one sample to the next."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)
        self.peak = 0.0

    def add(self, now: float, count: int) -> None:
        """One more sample."""
        if self._samples:
            before, had = self._samples[-1]
            if now > before:
                self.peak = max(self.peak, (count - had) / (now - before))
        self._samples.append((now, count))

    @property
    def current(self) -> float:
        """Per second, over the window."""
        if len(self._samples) < 2:
            return 0.0
        (first, had), (last, has) = self._samples[0], self._samples[-1]
        return (has - had) / (last - first) if last > first else 0.0


class Show:
    """Shows figures as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._began = time.monotonic()
        self.paces = {name: Pace() for name in SHOWN}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Between the first and the last figures."""
        self._began = time.monotonic()
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def take(self, figures: FleetFigures) -> None:
        """New figures; called once a second."""
        now = time.monotonic()
        for name, pace in self.paces.items():
            pace.add(now, figures.succeeded(name))
        if self._live is not None:
            tables = (table(figures, self.paces), *voice_tables(figures))
            self._live.update(Group(Text(self._line(figures, now)), *tables), refresh=True)
        elif not self._console.is_terminal:
            self._console.print(self._line(figures, now), soft_wrap=True)

    def _line(self, figures: FleetFigures, now: float) -> str:
        attach, move = figures.latencies[Latency.ATTACH], figures.latencies[Latency.MOVE]
        return (
            f"{now - self._began:4.0f} s  UEs {figures.begun}  {_waiting(figures)}attached {figures.attached}  "
            f"attaches {figures.succeeded('attach')} ({self.paces['attach'].current:.1f}/s, "
            f"p50 {_milliseconds(attach.percentile(50))}, p99 {_milliseconds(attach.percentile(99))})  "
            f"refused {figures.refused('attach')}  "
            f"moves {figures.succeeded('move')} ({self.paces['move'].current:.1f}/s, "
            f"p99 {_milliseconds(move.percentile(99))})  lost packets {figures.packets_lost}{_calls(figures)}"
        )


def table(figures: FleetFigures, paces: dict[str, Pace]) -> Table:
    """Procedures by rate, cause and latency."""
    whole = Table(box=None, pad_edge=False)
    for column in ("procedure", "succeeded", "per s", "peak", "p50 ms", "p90 ms", "p99 ms", "max ms", "not succeeded"):
        whole.add_column(column, justify="left" if column in ("procedure", "not succeeded") else "right")
    for name in SHOWN:
        causes = figures.outcomes.get(name)
        if not causes:
            continue
        histogram = next((figures.latencies[latency] for latency in Latency if latency.value == name), None)
        numbers = ["", "", "", ""]
        if histogram is not None and histogram.count:
            numbers = [_number(histogram.percentile(percent)) for percent in (50, 90, 99)]
            numbers.append(_number(histogram.maximum))
        others = ", ".join(f"{cause} {number}" for cause, number in causes.most_common() if cause != SUCCESS)
        pace = paces[name]
        whole.add_row(
            name, str(causes[SUCCESS]), f"{pace.current:.1f}", f"{pace.peak:.1f}", *numbers, printable(others)
        )
    return whole


def voice_tables(figures: FleetFigures) -> list[Table]:
    """Loss, jitter and MOS of every ten seconds of calls, by direction; none where nobody calls."""
    if not any(packets.sent for packets in figures.voice.values()):
        return []
    whole = Table(box=None, pad_edge=False)
    for column in ("voice", "packets", "lost", "loss % p50", "p90", "p99"):
        whole.add_column(column, justify="left" if column == "voice" else "right")
    for column in ("jitter ms p50", "p90", "p99", "MOS p50", "p10", "p1"):
        whole.add_column(column, justify="right")
    for direction in DIRECTIONS:
        packets, row = figures.voice[direction], []
        for quality, scale, percentiles in (
            (Quality.LOSS, 100.0, (50, 90, 99)),
            (Quality.JITTER, 1000.0, (50, 90, 99)),
            (Quality.MOS, 1.0, (50, 10, 1)),
        ):
            found = figures.quality[direction, quality]
            row += [_scaled(found.percentile(percent), scale) for percent in percentiles]
        whole.add_row(direction, str(packets.sent), str(packets.lost), *row)
    return [whole]


def _waiting(figures: FleetFigures) -> str:
    """Who has come and does not attach yet: more come than the gateway takes."""
    return f"waiting {figures.waiting}  " if figures.waiting else ""


def _calls(figures: FleetFigures) -> str:
    """Of the worse direction."""
    scores = [figures.quality[direction, Quality.MOS] for direction in DIRECTIONS]
    worst = [found.percentile(10) for found in scores if found.count]
    if not figures.calling and not worst:
        return ""
    mos = _scaled(min((each for each in worst if each is not None), default=None), 1.0)
    return f"  calls {figures.calling} (MOS p10 {mos or '-'})"


def _scaled(value: float | None, scale: float) -> str:
    return "" if value is None else f"{value * scale:.2f}"


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
