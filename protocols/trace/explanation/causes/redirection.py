"""UEs that were sent to another gateway (RFC 5685)."""

from __future__ import annotations

from collections.abc import Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.story import Story, datum, reason_of, said, words
from protocols.trace.order import text_of
from protocols.trace.records import TraceRecord


def _obeyed(story: Story, stage: str) -> Iterator[TraceRecord]:
    """Seen by the UE; by the gateway alone where the UE is not traced. Not those that led in a circle."""
    circles = [record for record in story.events("refused", of="ue") if reason_of(record) == "redirect-loop"]
    for record in story.events("redirected", of="ue" if story.saw("ue") else "epdg"):
        if datum(record, "stage") == stage and not circles:
            yield record
    if stage == "IKE_SA_INIT" and not story.saw("ue"):
        for record in story.events("turned-away", of="epdg"):
            if reason_of(record) == "redirected":
                yield record


def _init(story: Story) -> Iterator[Found]:
    for record in _obeyed(story, "IKE_SA_INIT"):
        gateway = said(record, "gateway") or words(record, "gateway")
        sentence = f"The gateway answered IKE_SA_INIT by sending the UE to the gateway {gateway}."
        yield Found(sentence=sentence, evidence=(record,))


def _authentication(story: Story) -> Iterator[Found]:
    for record in _obeyed(story, "IKE_AUTH"):
        sentence = f"Once it had authenticated the UE, the gateway sent it to the gateway {said(record, 'gateway')}."
        yield Found(sentence=sentence, evidence=(record,))


def _loop(story: Story) -> Iterator[Found]:
    for record in story.events("refused", of="ue"):
        if reason_of(record) == "redirect-loop":
            before = tuple(each for each in _before(story, record) if text_of(each, "name") == "redirected")
            yield Found(
                sentence=f"The UE gave up after {words(record, 'limit')} redirects, the last one to"
                f" {words(record, 'gateway')} ({words(record, 'stage')}): gateways send it to one another.",
                evidence=(*before, record),
            )


def _before(story: Story, end: TraceRecord) -> Iterator[TraceRecord]:
    for record in story.events("redirected", of="ue"):
        if record.sequence < end.sequence:
            yield record


def _not_obeyed(story: Story) -> Iterator[Found]:
    def matches(record: TraceRecord) -> bool:
        return text_of(record, "name") == "redirect-ignored"

    for found in story.failures(matches):
        first = found[0]
        yield Found(
            sentence=f"The gateway sends the UE to {said(first, 'gateway') or 'a gateway of an unknown kind'}, and the"
            f" UE does not go there: {said(first, 'why')}.",
            evidence=found,
        )


REDIRECTION: tuple[Cause, ...] = (
    Cause(
        name="redirect-loop",
        title="Gateways redirect the UE in a circle",
        clause="RFC 5685 §7",
        advice="See that the gateway which is redirected to does not redirect itself (ike.redirect).",
        find=_loop,
    ),
    Cause(
        name="redirect-not-obeyed",
        title="The UE does not obey a redirect",
        clause="RFC 5685 §3, §9.2, §10",
        advice="Set redirect.obey of the UE, give it an access of the IP version that it is sent to, or redirect after"
        " authentication (ike.redirect.stage).",
        find=_not_obeyed,
    ),
    Cause(
        name="redirected-in-ike-sa-init",
        title="Redirected in IKE_SA_INIT",
        clause="RFC 5685 §3, §4",
        advice="Nothing, if the load is to be spread so; see ike.redirect of the gateway.",
        find=_init,
        remark=True,
    ),
    Cause(
        name="redirected-in-ike-auth",
        title="Redirected in IKE_AUTH",
        clause="RFC 5685 §6",
        advice="Nothing, if the load is to be spread so; see ike.redirect of the gateway.",
        find=_authentication,
        remark=True,
    ),
)
