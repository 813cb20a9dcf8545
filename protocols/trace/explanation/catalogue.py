"""All causes, the more telling ones first, and what they make of a session's records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocols.trace.explanation.cause import Cause, Finding, findings
from protocols.trace.explanation.causes.aaa_path import AAA_PATH
from protocols.trace.explanation.causes.authentication import AUTHENTICATION
from protocols.trace.explanation.causes.authorisation import AUTHORISATION
from protocols.trace.explanation.causes.data_plane import DATA_PLANE
from protocols.trace.explanation.causes.life import LIFE
from protocols.trace.explanation.causes.mobility import MOBILITY
from protocols.trace.explanation.story import Story
from protocols.trace.records import TraceRecord

CATALOGUE: tuple[Cause, ...] = (*AAA_PATH, *AUTHENTICATION, *AUTHORISATION, *MOBILITY, *LIFE, *DATA_PLANE)


def explain(records: Iterable[TraceRecord], kinds: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """What went wrong, or was out of the ordinary, in a session; oldest first, empty when nothing did.

    ``records``: of one session from every node that traced (``dashboards.ladder.select``), ``kinds``: node name → kind.
    """
    return findings(Story(records, kinds), CATALOGUE)
