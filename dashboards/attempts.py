"""Attaches that failed, found in the rings: what was turned away or broke off early is no session of a gateway.

The gateway names what it turned away by the UE's IKE SPI, and what it began by its own; the UE has a name of its own as
well. Those of one attach are one attempt.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from dashboards.ring import TURNED_AWAY, WITHOUT_REFUSAL, Selection, Source, select

OTHER = "other"  # what a gateway counts refusals as, of causes beyond those that it tells apart
_GATEWAY = "epdg"


@dataclass(frozen=True, kw_only=True)
class FailedAttempt:
    """``identifier``: the gateway's latest name for it, else the UE's; ``text`` is what that node told last.

    ``outcome``: what the gateway ``gateway`` told that it came to, both ``None`` of what no gateway told.
    """

    identifier: str
    wall: float
    text: str
    outcome: str | None
    gateway: str | None
    selection: Selection

    def counted_as(self, told_apart: Mapping[str, Collection[str]]) -> str | None:
        """Under what its gateway counts it; ``told_apart``: by gateway, causes of refusals that are counted each.

        There are so many that further ones are counted together.
        """
        causes = told_apart.get(self.gateway or "", ())
        together = OTHER in causes and self.outcome not in (*causes, None, WITHOUT_REFUSAL, TURNED_AWAY)
        return OTHER if together else self.outcome


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
            (source.trace.failures[part], part, source.name)
            for source, part, _, _ in selection.parts
            if source.kind == _GATEWAY and part in source.trace.failures
        ]
        outcome = gateway = None
        if of_gateway:
            failure, name, gateway = max(of_gateway, key=lambda each: each[0].wall)
            text, outcome = failure.text, failure.outcome
        yield FailedAttempt(
            identifier=name, wall=-wall, text=text, outcome=outcome, gateway=gateway, selection=selection
        )
