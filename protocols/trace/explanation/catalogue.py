"""All causes, the more telling ones first, and what they make of a session's records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocols.trace.explanation.cause import Cause, Finding, findings
from protocols.trace.explanation.causes.aaa_path import AAA_PATH
from protocols.trace.explanation.causes.authentication import AUTHENTICATION
from protocols.trace.explanation.causes.authorisation import AUTHORISATION
from protocols.trace.explanation.causes.child_sa import CHILD_SA
from protocols.trace.explanation.causes.configuration import CONFIGURATION
from protocols.trace.explanation.causes.data_plane import DATA_PLANE
from protocols.trace.explanation.causes.gateway_proof import GATEWAY_PROOF
from protocols.trace.explanation.causes.identity import IDENTITY
from protocols.trace.explanation.causes.ike_sa_init import IKE_SA_INIT
from protocols.trace.explanation.causes.life import LIFE
from protocols.trace.explanation.causes.mobility import MOBILITY
from protocols.trace.explanation.causes.otherwise import OTHERWISE
from protocols.trace.explanation.causes.redirection import REDIRECTION
from protocols.trace.explanation.causes.silence import SILENCE
from protocols.trace.explanation.story import Story
from protocols.trace.records import TraceRecord

CATALOGUE: tuple[Cause, ...] = (
    *AAA_PATH,
    *REDIRECTION,
    *IKE_SA_INIT,
    *GATEWAY_PROOF,
    *AUTHENTICATION,
    *AUTHORISATION,
    *CHILD_SA,
    *CONFIGURATION,
    *SILENCE,
    *MOBILITY,
    *LIFE,
    *DATA_PLANE,
    *IDENTITY,
    *OTHERWISE,
)


def explain(records: Iterable[TraceRecord], kinds: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """What went wrong, or was out of the ordinary, in a session; oldest first, empty when nothing did.

    ``records``: of one session from every node that traced (``dashboards.ring.select``), ``kinds``: node name → kind.
    """
    return findings(Story(records, kinds), CATALOGUE)
