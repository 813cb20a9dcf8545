"""The ladder as a drawing (SVG 1.1): self-contained, light, for screens and paper.

A column for each box, an arrow for each message with its RFC notation above, a band for each event. Retransmissions
are dashed; what its receiver has no record of ends in a cross before it. A text that is cut has the whole of it as
its tooltip.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from xml.sax.saxutils import escape

from protocols.trace.ladder import Column, Entry, Ladder

ENTRIES = 1000  # newest entries drawn
TITLES = {"ue": "UE", "epdg": "ePDG", "aaa": "AAA", "hss": "HSS"}

_MARGIN = 24
_TIME_WIDTH = 84
_LANE = 340  # between two columns
_HALF_HEAD = 62
_LINE = 13  # of text
_CHARACTER = 5.6  # mean width of one at 10 px
_TITLE_CHARACTER = 8.2
_GAP = 13  # between entries
_LINES = 4  # of a label at most
_CROSS = 0.72  # where the arrow of a lost message ends, as a part of its way
_COLOURS = {"ikev2": "#1d4f91", "eap": "#0b6e6e", "diameter": "#6b3fa0", "esp": "#4a6b2a", "keepalive": "#6f6f6f"}
_UNKNOWN = "#6f6f6f"
_LOST = "#b3261e"
_BANDS = {  # fill and stroke of an event's band by what it tells
    "bad": ("#fdeceb", "#d9827c"),
    "good": ("#eaf5ea", "#86b88a"),
    "other": ("#f1f3f6", "#b9c2cf"),
}
_BAD = ("refused", "rejected", "fail", "lost", "error", "timeout", "dropped", "unreachable")
_GOOD = ("attached", "moved", "authenticated", "established", "up")

_STYLE = """\
text{font-family:"DejaVu Sans","Segoe UI",Helvetica,Arial,sans-serif;font-size:10px;fill:#1c1f24}
.title{font-size:15px;font-weight:bold}.sub{font-size:11px;fill:#4b5563}
.head{font-size:12px;font-weight:bold;text-anchor:middle}.node{font-size:9px;fill:#5b6472;text-anchor:middle}
.time{font-size:9px;fill:#5b6472;text-anchor:end}
.name{font-weight:bold}.mark{font-style:italic}.label{text-anchor:middle;paint-order:stroke;stroke:#fff;stroke-width:3px}
"""


def render_svg(ladder: Ladder, *, title: str = "", subtitle: Sequence[str] = ()) -> str:
    """The drawing as a document of its own, below ``title`` and lines under it."""
    return _Drawing(ladder).document(title, subtitle)


class _Drawing:
    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._columns = ladder.columns
        first = _MARGIN + _TIME_WIDTH + _HALF_HEAD
        self._lanes = {column.name: first + number * _LANE for number, column in enumerate(ladder.columns)}
        last = max(self._lanes.values(), default=first)
        self._width = last + _HALF_HEAD + _MARGIN
        self._parts: list[str] = []
        self._y = float(_MARGIN)

    def document(self, title: str, subtitle: Sequence[str]) -> str:
        """All of it, from the title to the columns' feet."""
        self._titles(title, subtitle)
        top = self._y
        self._heads(top)
        self._y = top + 46
        entries = self._ladder.entries
        if len(entries) > ENTRIES:
            self._text(_MARGIN, self._y + 12, "sub", f"{len(entries) - ENTRIES} earlier entries are not drawn.")
            self._y += 24
        for entry in entries[-ENTRIES:]:
            if entry.destination is None:
                self._band(entry)
            else:
                self._arrow(entry, entry.destination)
        if not self._ladder.entries:
            self._text(_MARGIN, self._y + 12, "sub", "Nothing was recorded.")
            self._y += 24
        bottom = self._y + 6
        self._heads(bottom)
        height = bottom + 34 + _MARGIN
        lifelines = "".join(
            f'<line x1="{x}" y1="{top + 34:g}" x2="{x}" y2="{bottom:g}" stroke="#c3c9d2" stroke-width="1"/>'
            for x in self._lanes.values()
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self._width}" height="{height:g}" '
            f'viewBox="0 0 {self._width} {height:g}">\n'
            f"<title>{_clean(title or 'Ladder')}</title>\n<style>{_STYLE}</style>\n"
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n{lifelines}\n' + "\n".join(self._parts) + "\n</svg>\n"
        )

    def _titles(self, title: str, subtitle: Sequence[str]) -> None:
        wide = int((self._width - 2 * _MARGIN) / _TITLE_CHARACTER)
        for css, text, step, width in [
            ("title", title, 20, wide),
            *(("sub", each, 15, wide + 40) for each in subtitle),
        ]:
            for line in textwrap.wrap(_visible(text), max(width, 30)):
                self._y += step
                self._text(_MARGIN, self._y, css, line)
        self._y += 14

    def _heads(self, y: float) -> None:
        for column in self._columns:
            x = self._lanes[column.name]
            dash = "" if column.traced else ' stroke-dasharray="4 3"'
            self._parts.append(
                f'<rect x="{x - _HALF_HEAD}" y="{y:g}" width="{2 * _HALF_HEAD}" height="34" rx="5" fill="#f7f8fa" '
                f'stroke="#5b6472"{dash}/>'
            )
            self._text(x, y + 15, "head", TITLES.get(column.kind, "peer"))
            self._text(x, y + 27, "node", _short(_of(column), 22), whole=column.name)

    def _band(self, entry: Entry) -> None:
        fill, stroke = _BANDS[_mood(entry.name)]
        left = _MARGIN + _TIME_WIDTH
        width = self._width - _MARGIN - left
        prefix = f"{entry.source}: "
        lines, cut = _lines(prefix + entry.summary, int((width - 24) / _CHARACTER))
        height = len(lines) * _LINE + 9
        self._y += _GAP
        self._time(entry, self._y + _LINE + 1)
        self._parts.append(
            f'<rect x="{left}" y="{self._y:g}" width="{width}" height="{height}" rx="4" fill="{fill}" '
            f'stroke="{stroke}"/><circle cx="{self._lanes[entry.source]}" cy="{self._y:g}" r="3.5" fill="{stroke}"/>'
        )
        for number, line in enumerate(lines):
            self._text(left + 12, self._y + _LINE + 1 + number * _LINE, "", line, whole=entry.summary if cut else "")
        self._y += height

    def _arrow(self, entry: Entry, destination: str) -> None:
        lost, colour = self._ladder.is_unreported(entry), _COLOURS.get(entry.protocol, _UNKNOWN)
        start, end = self._lanes[entry.source], self._lanes[destination]
        name, _, rest = _visible(entry.summary).partition(" [")
        room = int((max(abs(end - start), _LANE) - 30) / _CHARACTER)
        notation, cut = _lines(f"[{rest}", room) if rest else ([], False)
        middle = (start + end) / 2 if start != end else start + _LANE / 2
        self._y += _GAP
        coloured = f' style="fill:{_LOST if lost else colour}"'
        self._label(middle, "label name", _short(name, room), whole=entry.summary, style=coloured)
        for mark, stands in (("retransmission", entry.retransmission), (f"no record of it at {destination}", lost)):
            if stands:
                self._label(middle, "label mark", mark, style=coloured)
        for line in notation:
            self._label(middle, "label", line, whole=entry.summary if cut else "")
        self._y += 8
        self._time(entry, self._y + 3)
        self._stroke(entry, start, end, _LOST if lost else colour, lost=lost)

    def _label(self, x: float, css: str, text: str, *, whole: str = "", style: str = "") -> None:
        self._y += _LINE
        self._text(x, self._y, css, text, whole=whole, style=style)

    def _stroke(self, entry: Entry, start: float, end: float, colour: str, *, lost: bool) -> None:
        y, right = self._y, 1 if end >= start else -1
        dash = ' stroke-dasharray="6 4"' if entry.retransmission else ""
        weight = "3" if entry.protocol == "esp" else "1.4"
        if lost:
            x = start + (end - start) * _CROSS
            head = (
                f'<path d="M{x - 4:g} {y - 4:g}L{x + 4:g} {y + 4:g}M{x - 4:g} {y + 4:g}L{x + 4:g} {y - 4:g}" '
                f'stroke="{colour}" stroke-width="2.2" fill="none"/>'
            )
        else:
            x = end - 7 * right
            back = end - 9 * right
            head = f'<path d="M{end:g} {y:g}L{back:g} {y - 4.5:g}L{back:g} {y + 4.5:g}z" fill="{colour}"/>'
        self._parts.append(
            f'<line x1="{start:g}" y1="{y:g}" x2="{x:g}" y2="{y:g}" stroke="{colour}" '
            f'stroke-width="{weight}"{dash}/>{head}'
        )

    def _time(self, entry: Entry, y: float) -> None:
        self._text(_MARGIN + _TIME_WIDTH - 12, y, "time", f"{entry.at:+.3f} s")

    def _text(self, x: float, y: float, css: str, text: str, *, whole: str = "", style: str = "") -> None:
        tooltip = f"<title>{_clean(whole)}</title>" if whole else ""
        kind = f' class="{css}"' if css else ""
        self._parts.append(f'<text x="{x:g}" y="{y:g}"{kind}{style}>{tooltip}{_clean(text)}</text>')


def _of(column: Column) -> str:
    return column.name if column.traced else f"{column.name} (no trace)"


def _mood(name: str) -> str:
    if any(part in name for part in _BAD):
        return "bad"
    return "good" if any(name == part or name.endswith(f"-{part}") for part in _GOOD) else "other"


def _lines(text: str, width: int) -> tuple[list[str], bool]:
    """The text on a few lines, and whether it was cut."""
    lines = textwrap.wrap(_visible(text), max(width, 20), break_on_hyphens=False)
    if len(lines) <= _LINES:
        return lines, False
    return [*lines[: _LINES - 1], _short(" ".join(lines[_LINES - 1 :]), max(width, 20))], True


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _visible(text: str) -> str:
    """Without what XML 1.0 §2.2 has no place for, and on one line."""
    return " ".join("".join(character if _is_character(character) else "\ufffd" for character in text).split())


def _is_character(character: str) -> bool:
    code = ord(character)
    return character in "\t\n\r" or 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or code > 0xFFFF


def _clean(text: str) -> str:
    return escape(_visible(text))
