"""The figures of a demonstration, what was expected of them, the table, and ``result.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lab.traffic import FlowFigures
from protocols.errors import BackendError
from protocols.trace.records import JsonValue

SCHEMA = 1  # of result.json; docs/demo.md describes it
RESULT_FILE = "result.json"
TITLE = "What it took"
OUTAGE_MAXIMUM_MS = 1000.0  # what a call survives; redirected traffic is gone for longer than that


@dataclass(frozen=True, kw_only=True)
class AttachFigures:
    """The attach, as the UE measured it; ``swm_requests`` are the gateway's DERs."""

    access: str
    seconds: float
    ike_requests: int
    ike_retransmissions: int
    swm_requests: int
    ike_suite: str
    esp_suite: str
    inner_addresses: tuple[str, ...]
    dns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MoveFigures:
    """One move. ``seen_at`` is where the gateway sends ESP afterwards, ``address_checked`` whether the UE
    answered COOKIE2 there; ``redirected`` counts the ESP packets that the gateway sent to the new address
    although it was not adopted.
    """

    title: str
    origin: str
    target: str
    adoption_expected: bool
    nat_expected: bool
    adopted: bool
    why: str | None
    seen_at: str
    update_ms: float | None
    ike_requests: int
    ike_retransmissions: int
    inner_addresses_unchanged: bool
    ike_spis_unchanged: bool
    esp_spis_unchanged: bool
    nat_detected: bool
    address_checked: bool
    redirected: int
    flows: tuple[FlowFigures, ...]

    @property
    def outage_ms(self) -> float:
        """The longest time in which one of the flows had no answer."""
        return max((flow.longest_gap_ms for flow in self.flows), default=0.0)

    @property
    def packets_sent(self) -> int:
        """Packets of all flows in the window around the move."""
        return sum(flow.sent for flow in self.flows)

    @property
    def packets_lost(self) -> int:
        """Those that were never answered."""
        return sum(flow.lost for flow in self.flows)

    @property
    def spis_unchanged(self) -> bool:
        """Of the IKE SA and of its child SAs."""
        return self.ike_spis_unchanged and self.esp_spis_unchanged

    def failures(self) -> Iterable[str]:
        """What did not hold, one sentence each."""
        name = f"move from {self.origin} to {self.target}"
        if not self.inner_addresses_unchanged:
            yield f"{name}: the inner address changed"
        if not self.spis_unchanged:
            yield f"{name}: SPIs changed"
        if not all(flow.received for flow in self.flows):
            yield f"{name}: a flow got no answer at all"
        if self.adoption_expected:
            if not self.adopted:
                yield f"{name}: the gateway did not adopt the address ({self.why})"
            if not self.address_checked:
                yield f"{name}: the address was not checked by COOKIE2"
            if self.nat_detected is not self.nat_expected:
                found = "a NAT was found where there is none" if self.nat_detected else "the NAT was not found"
                yield f"{name}: {found}"
            if self.outage_ms >= OUTAGE_MAXIMUM_MS:
                yield f"{name}: an outage of {self.outage_ms:.0f} ms, {OUTAGE_MAXIMUM_MS:.0f} are allowed"
            return
        if self.adopted:
            yield f"{name}: the gateway adopted an address that was never checked"
        if self.address_checked:
            yield f"{name}: the check counted as answered"
        if self.redirected:
            yield f"{name}: {self.redirected} ESP packets went to the unchecked address"
        if self.packets_lost:
            yield f"{name}: {self.packets_lost} packets were lost, although the traffic stays where it is"
        if self.outage_ms >= OUTAGE_MAXIMUM_MS:
            yield f"{name}: an outage of {self.outage_ms:.0f} ms, although the traffic stays where it is"

    def to_json(self) -> dict[str, JsonValue]:
        """As ``result.json`` has it."""
        return {
            "title": self.title,
            "from": self.origin,
            "to": self.target,
            "adoption_expected": self.adoption_expected,
            "adopted": self.adopted,
            "why": self.why,
            "gateway_sends_to": self.seen_at,
            "update_ms": None if self.update_ms is None else round(self.update_ms, 3),
            "ike_requests": self.ike_requests,
            "ike_retransmissions": self.ike_retransmissions,
            "outage_ms": round(self.outage_ms, 3),
            "packets_sent": self.packets_sent,
            "packets_lost": self.packets_lost,
            "inner_addresses_unchanged": self.inner_addresses_unchanged,
            "ike_spis_unchanged": self.ike_spis_unchanged,
            "esp_spis_unchanged": self.esp_spis_unchanged,
            "nat_expected": self.nat_expected,
            "nat_detected": self.nat_detected,
            "address_checked": self.address_checked,
            "packets_redirected": self.redirected,
            "flows": [flow.to_json() for flow in self.flows],
        }


@dataclass(kw_only=True)
class DemoResult:
    """Everything that is known at the end.

    ``detached`` is ``None`` while nobody has tried; ``error`` is why the story broke off.
    """

    stage: str
    started: float
    packets_per_second: float
    destination: str
    attach: AttachFigures | None = None
    moves: list[MoveFigures] = field(default_factory=list)
    moves_expected: int = 0
    flows: tuple[FlowFigures, ...] = ()
    detached: bool | None = None
    stage_report: dict[str, JsonValue] = field(default_factory=dict)
    error: str | None = None

    def failures(self) -> list[str]:
        """What did not hold, one sentence each; empty when everything did."""
        found = [] if self.error is None else [self.error]
        if self.attach is None:
            found.append("the UE did not attach")
        if len(self.moves) < self.moves_expected:
            found.append(f"{len(self.moves)} of {self.moves_expected} moves were made")
        for move in self.moves:
            found += move.failures()
        if self.detached is False:
            found.append("the UE did not detach in order (DELETE, STR)")
        return found

    def to_json(self) -> dict[str, JsonValue]:
        """As ``result.json`` has it."""
        failures = self.failures()
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "started": self.started,
            "ok": not failures,
            "failures": list(failures),
            "attach": None if self.attach is None else _json(asdict(self.attach)),
            "moves": [move.to_json() for move in self.moves],
            "traffic": {
                "destination": self.destination,
                "packets_per_second": self.packets_per_second,
                "flows": [flow.to_json() for flow in self.flows],
            },
            "detached": self.detached,
            "stage_report": self.stage_report,
        }

    def write(self, directory: Path) -> None:
        """Write ``result.json``."""
        path = directory / RESULT_FILE
        try:
            path.touch(mode=0o600)
            path.write_text(json.dumps(self.to_json(), indent=2) + os.linesep, encoding="utf-8")
        except OSError as error:
            raise BackendError(f"{path}: {error.strerror}") from error

    def table(self, label: Callable[[str], str]) -> Table:
        """The figures for people; ``label`` is what they call an access."""
        table = Table(title=TITLE, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
        table.add_column("", no_wrap=True)
        for heading in ("time", "IKE requests", "outage", "lost", "inner IP kept", "SPIs kept"):
            table.add_column(heading, justify="right")
        for heading in ("NAT", "COOKIE2", "redirected"):
            table.add_column(heading)
        if self.attach is not None:
            attach = self.attach
            requests = _requests(attach.ike_requests, attach.ike_retransmissions)
            place = f"attach on {label(attach.access)}"
            table.add_row(place, f"{attach.seconds * 1000:.0f} ms", requests, "", "", *attach.inner_addresses[:1])
        for move in self.moves:
            table.add_row(
                f"{label(move.origin)} → {label(move.target)}",
                "" if move.update_ms is None else f"{move.update_ms:.0f} ms",
                _requests(move.ike_requests, move.ike_retransmissions),
                f"{move.outage_ms:.0f} ms",
                f"{move.packets_lost} of {move.packets_sent}",
                "yes" if move.inner_addresses_unchanged else "NO",
                "yes" if move.spis_unchanged else "NO",
                "" if not move.adopted else "found" if move.nat_detected else "none",
                "answered" if move.address_checked else "no answer",
                "traffic follows" if move.adopted else f"{move.redirected} packets",
                style="red" if list(move.failures()) else None,
            )
        return table

    def listing(self, label: Callable[[str], str]) -> Table:
        """The same figures in sentences, for a terminal that is too narrow for the table."""
        table = Table(title=TITLE, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        if self.attach is not None:
            attach = self.attach
            requests = _requests(attach.ike_requests, attach.ike_retransmissions)
            words = [f"{attach.seconds * 1000:.0f} ms", f"requests {requests}", *attach.inner_addresses[:1]]
            table.add_row(f"attach on {label(attach.access)}", ", ".join(words))
        for move in self.moves:
            requests = _requests(move.ike_requests, move.ike_retransmissions)
            cost = [] if move.update_ms is None else [f"{move.update_ms:.0f} ms"]
            cost += [f"requests {requests}", f"outage {move.outage_ms:.0f} ms"]
            cost += [f"lost {move.packets_lost} of {move.packets_sent}"]
            kept = [f"inner IP {'kept' if move.inner_addresses_unchanged else 'NOT KEPT'}"]
            kept += [f"SPIs {'kept' if move.spis_unchanged else 'NOT KEPT'}"]
            kept += [] if not move.adopted else ["NAT found" if move.nat_detected else "no NAT"]
            checked = [f"COOKIE2 {'answered' if move.address_checked else 'not answered'}"]
            checked += ["traffic follows" if move.adopted else f"{move.redirected} packets redirected"]
            table.add_row(
                f"{label(move.origin)} → {label(move.target)}",
                "\n".join(", ".join(words) for words in (cost, kept, checked)),
                style="red" if list(move.failures()) else None,
            )
        return table


def _requests(first: int, again: int) -> str:
    return f"{first} (+{again} again)" if again else str(first)


def _json(value: object) -> JsonValue:
    """A dataclass's dictionary with lists for its tuples."""
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    assert value is None or isinstance(value, str | int | float | bool)
    return value
