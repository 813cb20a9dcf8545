"""The sessions of a running gateway as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from protocols.trace.records import JsonValue

WIDTH = 200


def print_sessions(sessions: Sequence[JsonValue]) -> None:
    """What ``sessions.list`` answers; whole values, whatever the terminal's width: they are there to be pasted."""
    table = Table(box=None, pad_edge=False)
    for heading in ("session", "state", "IMSI", "APN", "inner address", "UE at", "moves"):
        table.add_column(heading, no_wrap=True, overflow="ignore")
    for session in sessions:
        if isinstance(session, dict):
            table.add_row(*_row(session))
    Console(width=WIDTH).print(table)


def _row(session: dict[str, JsonValue]) -> tuple[str, ...]:
    inner, paths, ike = session["inner_addresses"], session["paths"], session["ike"]
    remote = ""
    if isinstance(ike, dict) and isinstance(ike["path"], dict):
        remote = str(ike["path"]["remote"])
    moves = max(len(paths) - 1, 0) if isinstance(paths, list) else 0
    return (
        str(session["id"]),
        str(session["state"]),
        str(session["imsi"] or session["nai"]),
        str(session["apn"] or ""),
        ", ".join(map(str, inner)) if isinstance(inner, list) else "",
        remote,
        str(moves),
    )
