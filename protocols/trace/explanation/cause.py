"""What a cause is: when it is the one, the sentence, the clause, and what to try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from protocols.trace.explanation.story import Story
from protocols.trace.records import JsonValue, TraceRecord


@dataclass(frozen=True, kw_only=True)
class Found:
    """A cause at work: one sentence with its full stop, and the records that show it, oldest first, never none."""

    sentence: str
    evidence: tuple[TraceRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """An entry of the catalogue.

    ``name`` is a slug that scripts may rely on, ``title`` a few words for a table, ``clause`` the standard's text that
    says so (or this project's page), ``advice`` one sentence of what to try. ``find`` yields each time that it is seen.
    ``remark``: out of the ordinary, and the session went on all the same. ``fallback``: looked for where nothing but
    remarks was found.
    """

    name: str
    title: str
    clause: str
    advice: str
    find: Callable[[Story], Iterator[Found]]
    remark: bool = False
    fallback: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A cause that was found; ``wall`` is when, ``evidence`` the (node, sequence) of records."""

    cause: Cause
    sentence: str
    wall: float
    evidence: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "cause": self.cause.name,
            "title": self.cause.title,
            "remark": self.cause.remark,
            "sentence": self.sentence,
            "clause": self.cause.clause,
            "advice": self.cause.advice,
            "wall": self.wall,
            "evidence": [{"node": node, "sequence": sequence} for node, sequence in self.evidence],
        }


def findings(story: Story, causes: Iterable[Cause]) -> tuple[Finding, ...]:
    """All that is found, oldest first. A record explains once: the first cause in the catalogue that ends there."""
    taken: set[tuple[str, int]] = set()
    found: list[Finding] = []
    for cause in sorted(causes, key=lambda cause: cause.fallback):
        if cause.fallback and not all(finding.cause.remark for finding in found):
            continue
        for each in cause.find(story):
            evidence = tuple((record.node, record.sequence) for record in each.evidence)
            if evidence[-1] in taken:
                continue
            taken.add(evidence[-1])
            found.append(Finding(cause=cause, sentence=each.sentence, wall=each.evidence[-1].wall, evidence=evidence))
    return tuple(sorted(found, key=lambda finding: finding.wall))


def main_finding(found: Sequence[Finding]) -> Finding | None:
    """Why the session failed: the last finding that is no remark; ``None`` when nothing failed."""
    return next((finding for finding in reversed(found) if not finding.cause.remark), None)
