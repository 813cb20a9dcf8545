"""A run as a picture: delay of every packet both ways, losses, moves, outages and events on one time axis.

PNG and SVG by matplotlib, without a display; the same run gives the same octets. Long times in which nothing
happens are cut out of the axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from lab.mobility.result import DirectionFigures, MoveResult, PacketSeries, RunResult
from protocols.errors import BackendError
from protocols.media.log import PacketFate

FORMATS = ("png", "svg")
WIDTH, HEIGHT, LANE_HEIGHT = 12.0, 6.2, 0.18  # inches: of the picture, of both directions, of a line of names
RESOLUTION = 110  # dots per inch of the PNG
POINTS_MAXIMUM = 20_000  # of a direction: more than the picture has columns, and an SVG that can be opened
IDLE_INTERVAL = 60.0  # seconds without packet and event that are cut out
LONG_MS = 600_000  # from here on the axis has hours and minutes
PANELS_MAXIMUM = 6
LANES_MAXIMUM = 8
CHARACTER_WIDTH = 0.0062  # of the picture's width, at the size of the names
COMMAND_MS = 1000.0  # from a command to the move at most
DISTURBANCE = 1.6  # silences above so many times the stream's own pace are outages
DELIVERED, LOST, OUTAGE, MOVE, FAILED, EVENT = "#2f6db5", "#c8352d", "#f3c4b9", "#3a7d44", "#8a5a00", "#5c6670"
SETTINGS: Any = {
    "svg.hashsalt": "mobility",  # identifiers in the SVG: the same in every process
    "svg.fonttype": "none",  # text stays text
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A part of the time axis, seconds, and where it lies in the picture's width, shares of it."""

    start: float
    end: float
    left: float
    width: float

    def share(self, moment: float) -> float:
        """Where a moment is in the picture's width."""
        return self.left + self.width * (moment - self.start) / (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class Label:
    """A name at a moment: of a move or of an event."""

    moment: float
    text: str
    colour: str


def write_plots(result: RunResult, series: PacketSeries, stem: Path) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg; ``BackendError`` when they cannot be written."""
    import matplotlib  # late: it takes most of a second, and nothing else needs it

    with matplotlib.rc_context(SETTINGS):
        figure = _figure(result, series)
        written = []
        for kind in FORMATS:
            path = stem.with_name(f"{stem.name}.{kind}")
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            try:
                figure.savefig(path, format=kind, dpi=RESOLUTION, metadata=metadata)
            except OSError as error:
                raise BackendError(f"{path}: {error.strerror}") from error
            written.append(path)
    return written


# --- what is shown ------------------------------------------------------------------------------------


def panels_of(moments: Sequence[float], duration: float) -> list[Panel]:
    """The parts of the time axis in which something happens, at most ``PANELS_MAXIMUM``."""
    ordered = sorted({0.0, *moments})
    idle = sorted(
        (later - earlier, earlier, later) for earlier, later in pairwise(ordered) if later - earlier > IDLE_INTERVAL
    )[-(PANELS_MAXIMUM - 1) :]
    last = duration if duration - ordered[-1] <= IDLE_INTERVAL else ordered[-1]
    bounds = [0.0, *(bound for _, *cut in sorted(idle, key=lambda each: each[1]) for bound in cut), last]
    spans = [(start, max(end, start + 0.001)) for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
    margin = min(0.01 * max(end - start for start, end in spans), IDLE_INTERVAL / 3) if idle else 0.0
    spans = [(start - margin, end + margin) for start, end in spans]
    total = sum(end - start for start, end in spans)
    widths = [max((end - start) / total, 0.08) for start, end in spans]
    left, panels = 0.0, []
    for (start, end), width in zip(spans, widths, strict=True):
        share = width / sum(widths)
        panels.append(Panel(start=start, end=end, left=left, width=share))
        left += share
    return panels


def labels_of(result: RunResult) -> list[Label]:
    """The names of moves and events in order; an event that commands a move that is there is that move."""
    commands = [move for move in result.moves if move.commanded]
    labels = [
        Label(
            moment=move.started_ms / 1000,
            text=f"{move.number}: {move.origin} → {move.target}",
            colour=_colour(move),
        )
        for move in result.moves
    ]
    labels += [
        Label(moment=event.at_ms / 1000, text=event.text, colour=EVENT)
        for event in result.events
        if not any(move.cause == event.text and 0 <= move.started_ms - event.at_ms < COMMAND_MS for move in commands)
    ]
    return sorted(labels, key=lambda label: label.moment)


def lanes_of(labels: Sequence[Label], panels: Sequence[Panel]) -> list[tuple[Label, Panel, int, bool]]:
    """Each label with its panel, its line from 0 on, and whether its text stands left of its moment.

    No two texts of a line overlap. What finds no line has none.
    """
    placed, ends = [], list[float]()
    for label in labels:
        panel = next((each for each in panels if each.start <= label.moment <= each.end), None)
        if panel is None:
            continue
        at, width = panel.share(label.moment), CHARACTER_WIDTH * (len(label.text) + 2)
        leftwards = at + width > 1
        start = at - width if leftwards else at
        lane = next((number for number, end in enumerate(ends) if end <= start), len(ends))
        if lane == LANES_MAXIMUM:
            continue
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = start + width
        placed.append((label, panel, lane, leftwards))
    return placed


def _colour(move: MoveResult) -> str:
    return MOVE if move.outcome == "completed" else FAILED


def _moments(result: RunResult, series: PacketSeries) -> Iterator[float]:
    yield from (fate.sent for fates in (series.uplink, series.downlink) for fate in fates)
    yield from (event.at_ms / 1000 for event in result.events)
    for move in result.moves:
        yield from (move.started_ms / 1000, move.settled_ms / 1000)


# --- how it is drawn ----------------------------------------------------------------------------------


def _figure(result: RunResult, series: PacketSeries) -> Any:  # Any: matplotlib's classes are not typed strictly
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = panels_of([*_moments(result, series)], result.duration_ms / 1000)
    labels = labels_of(result)
    placed = lanes_of(labels, panels)
    lanes = 1 + max((lane for _, _, lane, _ in placed), default=0)
    layout = ConstrainedLayoutEngine(h_pad=0.05, hspace=0.0, wspace=0.02)
    figure = Figure(figsize=(WIDTH, HEIGHT + lanes * LANE_HEIGHT), layout=layout)
    FigureCanvasAgg(figure)
    rows = figure.subplots(
        3,
        len(panels),
        sharex="col",
        squeeze=False,
        width_ratios=[panel.width for panel in panels],
        height_ratios=[lanes * LANE_HEIGHT, HEIGHT / 2, HEIGHT / 2],
    )
    verdict = "all expectations held" if result.passed else "an expectation failed"
    figure.suptitle(f"{result.title}: {result.place}, seed {result.seed}, {verdict}", fontsize=11)
    directions = (
        (rows[1], "Uplink", series.uplink, [move.uplink for move in result.moves]),
        (rows[2], "Downlink", series.downlink, [move.downlink for move in result.moves]),
    )
    for row, name, fates, figures in directions:
        row[0].set_ylabel(f"{name}\ndelay, ms")
        _direction(row, panels, fates, result.moves, figures)
        for axes in row:
            for label in labels:
                axes.axvline(
                    label.moment, color=label.colour, linewidth=0.9, alpha=0.35 if label.colour == EVENT else 1
                )
    _names(rows[0], panels, placed, lanes)
    long = result.duration_ms > LONG_MS
    for axes, panel in zip(rows[2], panels, strict=True):
        axes.set_xlim(panel.start, panel.end)
        _ticks(axes, panel, long=long)
    for row in rows[1:]:
        _cuts(row)
    rows[2][len(panels) // 2].set_xlabel("time since the beginning" if long else "seconds since the beginning")
    _legend(figure, rows[1:])
    return figure


def _direction(
    row: Sequence[Any],
    panels: Sequence[Panel],
    fates: Sequence[PacketFate],
    moves: Sequence[MoveResult],
    figures: Sequence[DirectionFigures | None],
) -> None:
    """One direction's packets, and behind them the moves and their outages."""
    delivered = [fate for fate in fates if fate.received is not None]
    shown = delivered[:: max(1, len(delivered) // POINTS_MAXIMUM)]
    delays = [((fate.received or 0.0) - fate.sent) * 1000 for fate in shown]
    lost = [fate.sent for fate in fates if fate.received is None]
    highest = max(delays, default=1.0) or 1.0
    pace = median([later.sent - earlier.sent for earlier, later in pairwise(fates)] or [0.0]) * 1000
    words = [
        Label(moment=move.started_ms / 1000, text=f"{each.outage_ms:.0f} ms, {each.lost} lost", colour=LOST)
        for move, each in zip(moves, figures, strict=True)
        if each is not None and each.outage_ms is not None
    ]
    placed = lanes_of(words, panels)
    lanes = 1 + max((lane for _, _, lane, _ in placed), default=0)
    for axes in row:
        axes.set_ylim(-highest * 0.16, highest * (1.12 + 0.1 * lanes))
        for move, each in zip(moves, figures, strict=True):
            axes.axvspan(
                move.started_ms / 1000,
                max(move.settled_ms, move.started_ms + 1) / 1000,
                color=_colour(move),
                alpha=0.22,
                linewidth=0,
                label="move" if move.outcome == "completed" else f"move {move.outcome}",
            )
            if each is not None and each.outage_from_ms is not None and (each.outage_ms or 0) > DISTURBANCE * pace:
                start = each.outage_from_ms / 1000
                end = start + (each.outage_ms or 0) / 1000
                axes.axvspan(start, end, color=OUTAGE, alpha=0.6, linewidth=0, label="outage")
        sent = [fate.sent for fate in shown]
        axes.plot(sent, delays, ".", markersize=2.5, color=DELIVERED, label="packet, at its sending")
        axes.plot(lost, [-highest * 0.08] * len(lost), "x", markersize=4, color=LOST, label="packet lost")
    for label, panel, lane, leftwards in placed:
        height = highest * (1.1 + 0.1 * (lanes - lane))
        _write(row[panels.index(panel)], label, (label.moment, height), "data", leftwards=leftwards)


def _names(row: Sequence[Any], panels: Sequence[Panel], placed: Sequence[Any], lanes: int) -> None:
    """The names of moves and events above both directions, each with a line down to them."""
    for axes in row:
        axes.set_ylim(0, lanes)
        axes.axis("off")
    for label, panel, lane, leftwards in placed:
        axes = row[panels.index(panel)]
        axes.plot([label.moment] * 2, [0, lanes - lane], color=label.colour, linewidth=0.9, alpha=0.35)
        _write(axes, label, (label.moment, lanes - lane), "data", leftwards=leftwards)


def _write(axes: Any, label: Label, at: tuple[float, float], coordinates: str, *, leftwards: bool) -> None:
    axes.annotate(
        label.text,
        at,
        xycoords=coordinates,
        xytext=(-3 if leftwards else 3, 0),
        textcoords="offset points",
        ha="right" if leftwards else "left",
        va="top",
        fontsize=8,
        color=label.colour,
        annotation_clip=False,
    ).set_in_layout(False)


def _ticks(axes: Any, panel: Panel, *, long: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=max(1, round(10 * panel.width)), steps=[1, 2, 5, 10], integer=long))
    if long:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda moment, _: _clock(moment)))


def _clock(moment: float) -> str:
    minutes, seconds = divmod(round(moment), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hours}:{minutes:02}:{seconds:02}"


def _cuts(row: Sequence[Any]) -> None:
    """Strokes where the axis is cut; one scale for the whole row."""
    for axes in row[1:]:
        axes.spines.left.set_visible(False)
        axes.tick_params(left=False, labelleft=False)
    for before, after in pairwise(row):
        for axes, edge in ((before, 1), (after, 0)):
            axes.plot(
                [edge], [0], marker=[(-0.5, -1), (0.5, 1)], markersize=9, color="black", mew=1, mec="black",
                linestyle="none", transform=axes.transAxes, clip_on=False,
            )  # fmt: skip


def _legend(figure: Any, rows: Any) -> None:
    found: dict[str, Any] = {}
    for axes in (each for row in rows for each in row):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=5, frameon=False)
