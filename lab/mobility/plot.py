"""A run as a picture: delay of every packet both ways, losses, moves and outages on one time axis.

PNG and SVG by matplotlib, without a display; the same run gives the same octets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.mobility.result import DirectionFigures, MoveResult, PacketSeries, RunResult
from protocols.errors import BackendError
from protocols.media.log import PacketFate

FORMATS = ("png", "svg")
SIZE_INCHES = (12.0, 6.4)
RESOLUTION = 110  # dots per inch of the PNG
POINTS_MAXIMUM = 20_000  # of a direction: more than the picture has columns, and an SVG that can be opened
DELIVERED, LOST, OUTAGE, MOVE, FAILED = "#2f6db5", "#c8352d", "#f3c4b9", "#3a7d44", "#8a5a00"
SETTINGS: Any = {
    "svg.hashsalt": "mobility",  # identifiers in the SVG: the same in every process
    "svg.fonttype": "none",  # text stays text
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


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


def _figure(result: RunResult, series: PacketSeries) -> Any:  # Any: matplotlib's classes are not typed strictly
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    up, down = figure.subplots(2, 1, sharex=True)
    verdict = "all expectations held" if result.passed else "an expectation failed"
    figure.suptitle(f"{result.title}: {result.place}, seed {result.seed}, {verdict}", fontsize=11)
    for axes, name, fates, figures in (
        (up, "Uplink", series.uplink, [move.uplink for move in result.moves]),
        (down, "Downlink", series.downlink, [move.downlink for move in result.moves]),
    ):
        _direction(axes, name, fates, result.moves, figures)
    up.set_xlim(0, max(result.duration_ms / 1000, 0.001))
    down.set_xlabel("seconds since the beginning")
    _name_moves(up, result.moves)
    handles, labels = up.get_legend_handles_labels()
    if handles:
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _direction(
    axes: Any,
    name: str,
    fates: Sequence[PacketFate],
    moves: Sequence[MoveResult],
    figures: Sequence[DirectionFigures | None],
) -> None:
    delivered = [fate for fate in fates if fate.received is not None]
    shown = delivered[:: max(1, len(delivered) // POINTS_MAXIMUM)]
    delays = [((fate.received or 0.0) - fate.sent) * 1000 for fate in shown]
    axes.set_ylabel(f"{name}\ndelay, ms")
    highest = max(delays, default=1.0)
    axes.set_ylim(-highest * 0.16, highest * 1.25)
    for move in moves:
        colour = MOVE if move.outcome == "completed" else FAILED
        axes.axvspan(
            move.started_ms / 1000,
            max(move.settled_ms, move.started_ms + 1) / 1000,
            color=colour,
            alpha=0.22,
            linewidth=0,
            label="move" if move.outcome == "completed" else f"move {move.outcome}",
        )
        axes.axvline(move.started_ms / 1000, color=colour, linewidth=1.0)
    for each in figures:
        if each is not None and each.outage_ms is not None and each.outage_from_ms is not None:
            start = each.outage_from_ms / 1000
            axes.axvspan(start, start + each.outage_ms / 1000, color=OUTAGE, alpha=0.6, linewidth=0, label="outage")
            words = f"{each.outage_ms:.0f} ms, {each.lost} lost"
            # right of the band at the top; where there is no room left of it
            axes.annotate(
                words,
                (start + each.outage_ms / 1000, highest * 1.22),
                xytext=(3, 0),
                textcoords="offset points",
                va="top",
                fontsize=8,
                color=LOST,
            )
    axes.plot(
        [fate.sent for fate in shown],
        delays,
        linestyle="none",
        marker=".",
        markersize=2.5,
        color=DELIVERED,
        label="packet, at its sending",
    )
    lost = [fate.sent for fate in fates if fate.received is None]
    axes.plot(
        lost,
        [-highest * 0.08] * len(lost),
        linestyle="none",
        marker="x",
        markersize=4,
        color=LOST,
        label="packet lost",
    )


def _name_moves(axes: Any, moves: Sequence[MoveResult]) -> None:
    for move in moves:
        axes.annotate(
            f"{move.number}: {move.origin} → {move.target}",
            (move.started_ms / 1000, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
            color=MOVE if move.outcome == "completed" else FAILED,
        )
