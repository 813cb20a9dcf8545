"""What a person at the terminal sees: protocol steps as arrows, events as sentences, in order of time.

SWu and SWm are shown as the gateway sees them, EAP and SWx as the AAA server does. Records of several nodes come
by several sockets, so each is held back for a moment to be put in order. Plain text where the output is no
terminal.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from rich.console import Console
from rich.text import Text

from protocols.trace.records import JsonValue, Kind, TraceRecord

HOLD_INTERVAL = 0.15  # seconds a record waits for earlier ones of other nodes
# The gateway records a message after what it answers has left: on one machine the UE, which only has to
# receive that, may say what has become of it a moment earlier.
UE_LAG = 0.003
SHOWN_AS = {"ue": "UE", "epdg": "ePDG", "aaa": "AAA"}
UNSHOWN_MESSAGES = ("DWR", "DWA")  # watchdogs tell nothing of the story
UNSHOWN_EVENTS = ("started",)
GOOD = ("attached", "moved", "authenticated", "peer-up")
BAD = ("refused", "address-update-failed", "move-failed", "connection-lost", "peer-down", "aaa-unreachable")
ROUTE_WIDTH = 40
NARROW_WIDTH = 120  # columns of a terminal that leave too little for the payloads behind a whole route
NARROW_ROUTE_WIDTH = 22


class Narrator:
    """Prints records in order; ``close`` prints what is still held back."""

    def __init__(self, console: Console, *, wall: Callable[[], float], places: dict[str, str]) -> None:
        """``places``: what people call the addresses that the UE may be seen at."""
        self._console = console
        self._wall = wall
        self._places = places
        self._held: list[tuple[float, int, Text, bool]] = []
        self._numbers = count()
        self._narrow = console.is_terminal and console.width < NARROW_WIDTH
        self._started: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take(self, record: TraceRecord) -> None:
        """Show a record, if it is one for people."""
        line = self._line(record)
        if line is not None:
            if self._started is None:
                self._started = record.wall
            lag = UE_LAG if record.node == "ue" else 0.0
            self._hold(record.wall + lag, line, may_be_cut=record.kind is Kind.MESSAGE)

    def heading(self, title: str) -> None:
        """A new chapter."""
        self._hold(self._wall(), Text(f"\n── {title}", style="bold cyan"))

    def say(self, text: str, style: str = "", *, follows_ue: bool = False) -> None:
        """A sentence of the laboratory's own; ``follows_ue``: about what the UE has just said."""
        self._hold(self._wall() + (UE_LAG if follows_ue else 0.0), Text(f"{'':9}     {text}", style=style))

    def flush(self) -> None:
        """Print everything that is held back."""
        self._print_until(float("inf"))

    def _hold(self, wall: float, line: Text, *, may_be_cut: bool = False) -> None:
        if self._started is None:
            self._started = wall
        heapq.heappush(self._held, (wall, next(self._numbers), line, may_be_cut))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HOLD_INTERVAL, self._due)

    def _due(self) -> None:
        self._timer = None
        self._print_until(self._wall() - HOLD_INTERVAL)
        if self._held:
            self._timer = asyncio.get_running_loop().call_later(HOLD_INTERVAL, self._due)

    def _print_until(self, wall: float) -> None:
        while self._held and self._held[0][0] <= wall:
            _, _, line, may_be_cut = heapq.heappop(self._held)
            if may_be_cut and self._console.is_terminal:
                self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
            else:
                self._console.print(line, soft_wrap=True)

    # --- lines

    def _line(self, record: TraceRecord) -> Text | None:
        at = f"{record.wall - (record.wall if self._started is None else self._started):+9.3f}"
        if record.kind is Kind.MESSAGE:
            return self._message(at, record)
        name = str(record.body.get("name"))
        if record.kind is not Kind.EVENT or name in UNSHOWN_EVENTS:
            return None
        style = "green" if name in GOOD else "bold red" if name in BAD else "yellow"
        who = SHOWN_AS.get(record.node, record.node)
        return Text.assemble((at, "dim"), "  ", (f"{who + ':':6}", "bold"), (str(record.body.get("text")), style))

    def _message(self, at: str, record: TraceRecord) -> Text | None:
        body = record.body
        protocol, outgoing = body.get("protocol"), body.get("direction") == "out"
        summary, style = str(body.get("summary")), ""
        if record.node == "epdg" and protocol == "ikev2":
            near, far = "ePDG", "UE " + self._place(str(body.get("peer")))
        elif protocol == "diameter" and (record.node == "epdg" or body.get("interface") == "SWx"):
            near, far = ("ePDG", "AAA") if record.node == "epdg" else ("AAA", "HSS")
            style = "magenta"
            if body.get("name") in UNSHOWN_MESSAGES:
                return None
            summary = _with_result(summary, body.get("detail"))
        elif record.node == "aaa" and protocol == "eap":
            near, far = "AAA", "UE"
            summary, style = f"  {summary}", "dim"
        else:
            return None
        route = f"{near} → {far}" if outgoing else f"{far} → {near}"
        if body.get("retransmission") is True:
            # first where the end of the line will be cut off
            summary = f"(again) {summary}" if self._narrow else f"{summary}  (again)"
        width = NARROW_ROUTE_WIDTH if self._narrow else ROUTE_WIDTH
        return Text.assemble((at, "dim"), f"  {route:{width}} ", (summary, style))

    def _place(self, peer: str) -> str:
        place = self._places.get(peer.rpartition(":")[0])
        if place is None:
            return f"({peer})"
        return f"({place})" if self._narrow else f"({place}, {peer})"


def _with_result(summary: str, detail: JsonValue) -> str:
    """``DEA DIAMETER_SUCCESS [ … ]``: an answer with what it says."""
    result = detail.get("Result-Code") if isinstance(detail, dict) else None
    if not isinstance(result, str):
        return summary
    name, _, rest = summary.partition(" ")
    return f"{name} {result.partition(' ')[0]} {rest}"
