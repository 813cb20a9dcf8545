"""Why an attach ended in silence: nobody answered (RFC 7296 §2.4)."""

from __future__ import annotations

from collections.abc import Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.story import Story, fact, payloads, reason_of, said, words
from protocols.trace.order import detail_of, text_of
from protocols.trace.records import TraceRecord

SETUP_EXPIRED = "the set-up was not completed in time"


def _unanswered(story: Story) -> Iterator[TraceRecord]:
    for record in story.events("refused", of="ue"):
        if reason_of(record) == "no-response":
            yield record


def _count(record: TraceRecord, key: str) -> int:
    value = fact(record, key)
    return value if isinstance(value, int) else 0


def _never(story: Story) -> Iterator[Found]:
    for record in _unanswered(story):
        if _count(record, "requests") > 1:
            continue
        sent = _count(record, "retransmissions") + 1
        times = "was sent once" if sent == 1 else f"was sent {sent} times"
        sentence = (
            f"No response from the gateway {words(record, 'gateway')}: the IKE_SA_INIT request {times} on"
            f" {words(record, 'access')}"
        )
        if story.saw("epdg"):
            requests = story.messages("IKE_SA_INIT request", direction="in", of="epdg")
            arrived = any(detail_of(each).get("spi_i") == record.session for each in requests)
            sentence += ", it arrived there, and no response came back" if arrived else ", and never arrived there"
        yield Found(sentence=f"{sentence}.", evidence=(record,))


def _during(story: Story) -> Iterator[Found]:
    for record in _unanswered(story):
        if _count(record, "requests") < 2:
            continue
        last = story.last_before(record, "IKE_", direction="out", of="ue")
        what = "a request" if last is None else text_of(last, "summary") or text_of(last, "name")
        sentence = (
            f"The gateway {words(record, 'gateway')} fell silent during the attach: {what} on"
            f" {words(record, 'access')} was repeated {_count(record, 'retransmissions')} times without a response"
        )
        yield Found(sentence=f"{sentence}.", evidence=(record,) if last is None else (last, record))


def _ue_stopped(story: Story) -> Iterator[Found]:
    for record in story.events("attach-ended", of="epdg"):
        if said(record, "why") != SETUP_EXPIRED:
            continue
        last = story.last_before(record, "IKE_AUTH response", direction="out", of="epdg")
        if last is None or last.session != record.session:
            first = story.last_before(record, "IKE_SA_INIT response", direction="out", of="epdg")
            sentence = "The UE took the gateway's answer to IKE_SA_INIT, or never got it, and sent no IKE_AUTH request."
            yield Found(sentence=sentence, evidence=(record,) if first is None else (first, record))
        elif payloads(last, "EAP"):
            eap = payloads(last, "EAP")[0].get("eap")
            name = eap.get("name") if isinstance(eap, dict) else None
            yield Found(
                sentence=f"The UE stopped answering in the middle of EAP: {name or 'the last EAP packet'} of the"
                " gateway's was not answered.",
                evidence=(last, record),
            )


SILENCE: tuple[Cause, ...] = (
    Cause(
        name="gateway-silent",
        title="The gateway does not answer",
        clause="RFC 7296 §2.4, TS 24.302 §7.2.1.2",
        advice="Check the gateway's address, that it runs, and that UDP 500 and 4500 pass both ways (captive portal,"
        " firewall).",
        find=_never,
    ),
    Cause(
        name="gateway-fell-silent",
        title="The gateway fell silent during the attach",
        clause="RFC 7296 §2.4",
        advice="IKE_AUTH goes to UDP 4500 and is long: check that the port passes and that fragments are not lost"
        " (ike.fragmentation).",
        find=_during,
    ),
    Cause(
        name="ue-stopped-answering",
        title="The UE stopped answering during the attach",
        clause="RFC 7296 §2.4, RFC 3748 §4.1",
        advice="Look at the UE and at loss on the way: after an EAP request it may be waiting for its USIM, after"
        " IKE_SA_INIT it may not be able to use UDP 4500.",
        find=_ue_stopped,
    ),
)
