"""The ladder as a Mermaid sequence diagram, for a ticket or a page that draws such."""

from __future__ import annotations

import re

from protocols.trace.ladder import Entry, Ladder

_PLAIN = frozenset(" ,.()/[]_=+*@-'?!|")
_WRAP = re.compile(r"(?:no)?wrap:", re.IGNORECASE)


def render_mermaid(ladder: Ladder) -> str:
    """One line each: a retransmission is dashed, what its receiver has no record of ends in a cross.

    What the peer wrote is written with entity codes, so that it stays text.
    """
    places = {column.name: f"c{number}" for number, column in enumerate(ladder.columns)}
    lines = ["sequenceDiagram"]
    lines += [f"    participant {place} as {plain(name)}" for name, place in places.items()]
    lines += [f"    {_line(ladder, entry, places)}" for entry in ladder.entries]
    return "\n".join(lines) + "\n"


def _line(ladder: Ladder, entry: Entry, places: dict[str, str]) -> str:
    text = plain(f"{entry.at:+.3f} s {entry.summary}")
    source = places[entry.source]
    if entry.destination is None:
        return f"Note over {source}: {text}"
    stroke, head = "--" if entry.retransmission else "-", "x" if ladder.is_unreported(entry) else ">>"
    return f"{source}{stroke}{head}{places[entry.destination]}: {text}"


def plain(text: str) -> str:
    """Text that Mermaid takes as such: one line, everything with a meaning of its own as an entity code."""
    words = " ".join(text.split()) or "-"
    if _WRAP.match(words):
        words = words.replace(":", "\0", 1)
    return "".join(
        character if character.isalnum() or character in _PLAIN or character == ":" else f"#{_code(character)};"
        for character in words
    )


def _code(character: str) -> int:
    code = ord(":") if character == "\0" else ord(character)
    # controls and surrogates have no form in HTML: the replacement character stands for them
    return code if code >= ord(" ") and not 0x7F <= code < 0xA0 and not 0xD800 <= code < 0xE000 else 0xFFFD
