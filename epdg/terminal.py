"""Lines of the live ladder as text: the clock, the session, lanes with an arrow or a mark, what it is."""

from __future__ import annotations

from datetime import datetime

from rich.text import Text

from protocols.errors import printable
from protocols.trace.arrows import COLUMN, Entry
from protocols.trace.following import Line
from protocols.trace.ladder import draw_arrow

LANE_WIDTH = 11
_LANES = {column: place * LANE_WIDTH for place, column in enumerate(COLUMN.values())}
_WIDTH = max(_LANES.values()) + 3
_CLOCK_WIDTH, _NUMBER_WIDTH = 12, 4
_COLOURS = {"ikev2": "cyan", "eap": "magenta", "diameter": "green"}
NOT_ARRIVED, RETRANSMISSION = "(not arrived)", "(retransmission)"


def heading() -> Text:
    """The names of the columns."""
    names = "".join(f"{column:<{LANE_WIDTH}}" for column in _LANES)
    return Text(f"{'':{_CLOCK_WIDTH + _NUMBER_WIDTH + 2}}{names}".rstrip(), style="bold")


def drawn(line: Line) -> Text:
    """One line of the ladder; what nodes and peers wrote makes no lines of its own, and commands no terminal."""
    if line.entry is not None:
        return _entry(line, line.entry)
    text = _beginning(line)
    if line.finding is not None:
        text.append("".join(_lanes()))
        text.append(f" WHY: {printable(line.finding.sentence)}", style="bold red")
        text.append(f" ({line.finding.cause.clause}) {line.finding.cause.advice}", style="red")
    elif line.name is not None:
        node, session = line.name
        text.append("".join(_lanes()))
        text.append(f" session {printable(session)} at {printable(node)}", style="bold")
    return text


def remark(wall: float, words: str) -> Text:
    """A line about the nodes themselves."""
    return Text(f"{_clock(wall)} {'':{_NUMBER_WIDTH}} -- {printable(words)}", style="yellow")


def _entry(line: Line, entry: Entry) -> Text:
    lanes = _lanes()
    label, style = printable(entry.text), _COLOURS.get(entry.protocol or "", "")
    if entry.source in _LANES and entry.target in _LANES:
        source, target = _LANES[entry.source], _LANES[entry.target]
        draw_arrow(lanes, source, target, entry.retransmission)
        if entry.arrived is False:
            lanes[target - 1 if source < target else target + 1] = "x"
    else:
        here = entry.source if entry.source in _LANES else COLUMN.get(entry.node, "UE")
        lanes[_LANES[here]] = "*"
    if entry.kind == "event":
        style = "bold red" if entry.name in ("refused", "address-update-failed") else "bold"
    if entry.retransmission:
        label, style = f"{label}  {RETRANSMISSION}", "yellow"
    if entry.arrived is False:
        label, style = f"{label}  {NOT_ARRIVED}", "red"
    text = _beginning(line)
    text.append("".join(lanes), style=style)
    text.append(f" {label}", style=style)
    return text


def _beginning(line: Line) -> Text:
    number = f"#{line.number}" if line.number else ""
    return Text(f"{_clock(line.wall)} {number:<{_NUMBER_WIDTH}} ", style="dim", end="")


def _lanes() -> list[str]:
    lanes = [" "] * _WIDTH
    for place in _LANES.values():
        lanes[place] = "|"
    return lanes


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall).strftime("%H:%M:%S.%f")[:_CLOCK_WIDTH]
