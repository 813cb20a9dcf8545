"""``ue select``: the decision on a gateway, with the real resolver and without an attach."""

from __future__ import annotations

from protocols.io.dns import Resolver
from protocols.trace.records import JsonValue
from ue.commands import Resolve, Tell
from ue.selection import Candidate, Selection, SelectionCommand, SelectionPolicy

NOT_TRIED = "not tried, this is no attach"


async def decide(policy: SelectionPolicy, version: int, resolver: Resolver) -> tuple[list[str], list[Candidate]]:
    """The sentences of a selection in which no gateway answers, and the gateways in their order."""
    selection, lines, candidates = Selection(policy, version), list[str](), list[Candidate]()
    commands: list[SelectionCommand] = selection.begin()
    while True:
        asked: Resolve | None = None
        for command in commands:
            if isinstance(command, Tell):
                if command.name != "gateway-selected" and NOT_TRIED not in command.text:
                    lines.append(command.text)
            else:
                asked = command
        if asked is not None:
            commands = selection.resolved(await resolver.resolve(asked.name, asked.kinds))
        elif selection.candidate is not None:
            candidates.append(selection.candidate)
            commands = selection.failed(NOT_TRIED)
        else:
            return lines, candidates


def views(candidates: list[Candidate]) -> list[JsonValue]:
    """As data."""
    return [candidate.view() for candidate in candidates]
