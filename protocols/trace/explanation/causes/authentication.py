"""Why EAP did not end in success (RFC 4187, RFC 9048, TS 33.402)."""

from __future__ import annotations

from collections.abc import Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.story import Story


def _autn_rejected(story: Story) -> Iterator[Found]:
    for message in story.messages("EAP-Response/AKA-Authentication-Reject", direction="in", of="aaa"):
        yield Found(
            sentence="AUTN rejected by the UE: K or OPc in its USIM differ from the subscriber's in the HSS.",
            evidence=(message,),
        )


AUTHENTICATION: tuple[Cause, ...] = (
    Cause(
        name="autn-rejected",
        title="AUTN rejected by the UE",
        clause="RFC 4187 §6.3.1, TS 33.102 §6.3.3",
        advice="Compare K and OP or OPc of the USIM with the subscriber's, and whether both use Milenage or TUAK.",
        find=_autn_rejected,
    ),
)
