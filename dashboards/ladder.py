"""One session's message ladder: the arrows of what the gateway, the AAA and the UE each recorded of it.

Its arrows are ``protocols.trace.arrows``; what belongs to a session is ``dashboards.ring``.
"""

from __future__ import annotations

from dashboards.ring import Selection
from protocols.trace.arrows import Entry, merge

ENTRIES = 2000  # newest entries shown
RECORDS = 8000  # newest records they are made of


def build(selection: Selection, *, now: float) -> tuple[list[Entry], list[tuple[str, str]], int]:
    """The entries in order, the (node, session name) pairs they came from, and how many were left out."""
    selected = selection.records()
    selected.sort(key=lambda pair: pair[1].wall)
    left_out = max(0, len(selected) - RECORDS)
    selected = selected[left_out:]
    kinds = {source.name: source.kind for source, _ in selected}
    entries = merge((record for _, record in selected), kinds, now=now)
    pairs = sorted({(source.name, record.session or "") for source, record in selected})
    beyond = max(0, len(entries) - ENTRIES)
    return entries[beyond:], pairs, left_out + beyond
