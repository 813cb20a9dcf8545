"""Why sessions failed, made of what the rings have of them; kept until there is more to tell."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from dashboards.ring import Selection
from protocols.trace.explanation.catalogue import explain
from protocols.trace.explanation.cause import Finding

KEPT = 512  # explanations

_Standing = tuple[tuple[str, str, float, float, int], ...]


class Explanations:
    """Findings by what they were made of. Long sessions take a while: it is done beside the event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Standing, tuple[Finding, ...]] = OrderedDict()

    async def of(self, selection: Selection) -> tuple[Finding, ...]:
        """What the catalogue finds in a session's records, oldest first."""
        standing = tuple(
            (source.name, name, since, until, source.trace.last(name)) for source, name, since, until in selection.parts
        )
        found = self._kept.get(standing)
        if found is None:
            records = [record for _, record in selection.records(whole=True)]
            kinds = {source.name: source.kind for source, _, _, _ in selection.parts}
            found = await asyncio.to_thread(explain, records, kinds)
            self._kept[standing] = found
        self._kept.move_to_end(standing)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found
