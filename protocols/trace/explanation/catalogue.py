"""All causes, the more telling ones first, and what they make of a session's records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocols.trace.explanation.cause import Cause, Finding, findings
from protocols.trace.explanation.causes.authentication import AUTHENTICATION
from protocols.trace.explanation.causes.child_sa import CHILD_SA
from protocols.trace.explanation.causes.configuration import CONFIGURATION
from protocols.trace.explanation.causes.gateway_proof import GATEWAY_PROOF
from protocols.trace.explanation.causes.identity import IDENTITY
from protocols.trace.explanation.causes.ike_sa_init import IKE_SA_INIT
from protocols.trace.explanation.causes.otherwise import OTHERWISE
from protocols.trace.explanation.causes.redirection import REDIRECTION
from protocols.trace.explanation.causes.silence import SILENCE
from protocols.trace.explanation.story import Story
from protocols.trace.records import TraceRecord

CATALOGUE: tuple[Cause, ...] = (
    *REDIRECTION,
    *IKE_SA_INIT,
    *GATEWAY_PROOF,
    *AUTHENTICATION,
    *CHILD_SA,
    *CONFIGURATION,
    *SILENCE,
    *IDENTITY,
    *OTHERWISE,
)


def explain(records: Iterable[TraceRecord], kinds: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """What went wrong, or was out of the ordinary, in a session; oldest first, empty when nothing did.

    ``records``: of one session from every node that traced (``dashboards.ladder.select``), ``kinds``: node name → kind.
    """
    return findings(Story(records, kinds), CATALOGUE)
