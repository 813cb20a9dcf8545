"""A result for people: moves, directions and expectations as tables on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lab.mobility.result import DirectionFigures, MoveResult, Opinions, RunResult


def show(result: RunResult, console: Console) -> None:
    """Print everything that a person wants to know of a run."""
    console.print(f"\n{result.title} ({result.place}, seed {result.seed})", style="bold")
    for attach in result.attaches:
        console.print(
            f"Attached on {attach.access} at {attach.at_ms / 1000:.3f} s, in {attach.ms:.1f} ms with {attach.requests} "
            f"requests, {attach.retransmissions} retransmissions."
        )
    if result.moves:
        for table in _moves(result):
            console.print(table)
        console.print("Pairs are uplink/downlink, requests are sent + repeated.\n")
    for name, figures in (("Uplink", result.uplink), ("Downlink", result.downlink)):
        if figures.sent:
            console.print(
                f"{name}: {figures.sent} packets sent, {figures.lost} lost, {figures.duplicated} duplicated, "
                f"{figures.reordered} reordered, longest silence {_number(figures.outage_ms)} ms, "
                f"MOS {_number(figures.mos, 2)}."
            )
    console.print(_checks(result))
    failed = sum(not check.passed for check in result.checks)
    words = f"{failed} of {len(result.checks)} expectations failed." if failed else "Every expectation held."
    console.print(words, style="bold red" if failed else "bold green")


def _moves(result: RunResult) -> list[Table]:
    """Three tables, each narrow enough for a terminal of 80 columns."""
    packets = _table("Move", "At, s", "Cause", "Outcome", "Outage, ms", "Lost")
    signalling = _table("Move", "Update, ms", "Check, ms", "Requests", "Trips", "Kept")
    voice = _table("Move", "Twice", "Reordered", "MOS before", "during", "after")
    for move in result.moves:
        name = f"{move.number} {move.origin} → {move.target}"
        packets.add_row(
            name,
            f"{move.started_ms / 1000:.3f}",
            move.cause,
            _outcome(move),
            _both(move, "outage_ms"),
            _both(move, "lost"),
        )
        signalling.add_row(
            name,
            _number(move.update_ms),
            _number(move.check_ms),
            f"{move.requests}+{move.retransmissions}",
            str(move.round_trips),
            _kept(move),
        )
        voice.add_row(
            name,
            _both(move, "duplicated"),
            _both(move, "reordered"),
            _opinions(move.mos_before),
            _opinions(move.mos_during),
            _opinions(move.mos_after),
        )
    return [packets, signalling, voice]


def _table(*titles: str) -> Table:
    """Words may be folded, figures may not."""
    table = Table(box=SIMPLE_HEAD)
    for title in titles:
        words = title in ("Move", "Cause", "Outcome")
        table.add_column(title, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    return table


def _outcome(move: MoveResult) -> str:
    if move.why is None:
        return move.outcome
    return move.why if move.why.startswith(move.outcome) else f"{move.outcome}: {move.why}"


def _checks(result: RunResult) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for title in ("Expectation", "Expected", "Found", ""):
        table.add_column(title)
    for check in result.checks:
        style = None if check.passed else "red"
        table.add_row(check.subject, check.expected, check.found, "held" if check.passed else "FAILED", style=style)
    return table


def _both(move: MoveResult, name: str) -> str:
    return f"{_of(move.uplink, name)}/{_of(move.downlink, name)}"


def _of(figures: DirectionFigures | None, name: str) -> str:
    if figures is None:
        return "–"
    value = getattr(figures, name)
    open_end = "+" if name == "outage_ms" and not figures.recovered else ""
    return _number(value) + open_end if isinstance(value, float) else str("–" if value is None else value)


def _kept(move: MoveResult) -> str:
    if move.inner_address_unchanged is None or move.spis_unchanged is None:
        return "–"
    lost = [
        word for word, kept in (("address", move.inner_address_unchanged), ("SPIs", move.spis_unchanged)) if not kept
    ]
    return "not " + ", ".join(lost) if lost else "all"


def _opinions(opinions: Opinions) -> str:
    return f"{_number(opinions.uplink, 2)}/{_number(opinions.downlink, 2)}"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
