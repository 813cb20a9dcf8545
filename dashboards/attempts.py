"""Attaches that failed, found in the rings: what was turned away or broke off early is no session of a gateway.

The gateway names what it turned away by the UE's IKE SPI, and what it began by its own; the UE has a name of its own as
well. Those of one attach are one attempt.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from dashboards.ring import Selection, Source, select

_GATEWAY = "epdg"


@dataclass(frozen=True, kw_only=True)
class FailedAttempt:
    """``identifier``: the gateway's latest name for it, else the UE's; ``text`` is what that node told last."""

    identifier: str
    wall: float
    text: str
    selection: Selection


def failed(sources: Iterable[Source], *, limit: int) -> tuple[list[FailedAttempt], int]:
    """The last ones, latest first, and how many the rings hold; an attach that succeeded after all is none."""
    given = list(sources)
    told = [
        (-failure.wall, source.name, name, failure.text)
        for source in given
        if source.kind in (_GATEWAY, "ue")
        for name, failure in source.trace.failures.items()
    ]
    total = len(told)
    heapq.heapify(told)
    seen: set[tuple[str, str]] = set()
    found: list[FailedAttempt] = []
    while told and len(found) < limit:
        wall, node, name, text = heapq.heappop(told)
        if (node, name) in seen:
            continue
        selection = select(given, name, None)
        seen |= {(source.name, part) for source, part, _, _ in selection.parts}
        if any(part in source.trace.attached for source, part, _, _ in selection.parts):
            continue
        of_gateway = [
            (source.trace.failures[part], part)
            for source, part, _, _ in selection.parts
            if source.kind == _GATEWAY and part in source.trace.failures
        ]
        if of_gateway:
            failure, name = max(of_gateway, key=lambda each: each[0].wall)
            text = failure.text
        found.append(FailedAttempt(identifier=name, wall=-wall, text=text, selection=selection))
    return found, total
