"""Attaches that failed, found in the rings: what was turned away or broke off early is no session of a gateway.

The gateway names what it turned away by the UE's IKE SPI, and what it began by its own; the UE has a name of its own as
well. Those of one attach are one attempt.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dashboards.ring import Selection, Source, select

_GATEWAY = "epdg"


@dataclass(frozen=True, kw_only=True)
class FailedAttempt:
    """``identifier``: the gateway's latest name for it, else the UE's; ``text`` is what that node told last.

    ``outcome``: what the gateway counts it as, ``None`` of what no gateway told.
    """

    identifier: str
    wall: float
    text: str
    outcome: str | None
    selection: Selection


def failed(sources: Iterable[Source]) -> Iterator[FailedAttempt]:
    """Those that the rings hold, latest first; an attach that succeeded after all is none."""
    given = list(sources)
    told = [
        (-failure.wall, source.name, name, failure.text)
        for source in given
        if source.kind in (_GATEWAY, "ue")
        for name, failure in source.trace.failures.items()
    ]
    heapq.heapify(told)
    seen: set[tuple[str, str]] = set()
    while told:
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
        outcome = None
        if of_gateway:
            failure, name = max(of_gateway, key=lambda each: each[0].wall)
            text, outcome = failure.text, failure.outcome
        yield FailedAttempt(identifier=name, wall=-wall, text=text, outcome=outcome, selection=selection)
