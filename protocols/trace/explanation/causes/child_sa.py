"""Why there is no child SA, or no other in its place (RFC 7296 §1.3, §2.7 to §2.9)."""

from __future__ import annotations

from collections.abc import Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.causes.proposals import differences, offer
from protocols.trace.explanation.story import Story, datum, payloads, reason_of, said, words
from protocols.trace.order import text_of
from protocols.trace.records import TraceRecord

IKE_SA = "the rekey of the IKE SA"


def _refused(story: Story, reason: str, notify: str) -> Iterator[tuple[TraceRecord, ...]]:
    """Attempts whose child SA the gateway refused; without its trace, by the Notify in IKE_AUTH."""

    def matches(record: TraceRecord) -> bool:
        if text_of(record, "name") != "refused":
            return False
        if story.kind_of(record) == "epdg":
            return reason_of(record) == reason
        if story.saw("epdg") or story.kind_of(record) != "ue" or said(record, "cause") != notify:
            return False
        last = story.last_before(record, "IKE_", direction="in", of="ue")
        return (
            last is not None and text_of(last, "name").startswith("IKE_AUTH") and bool(payloads(last, f"N({notify})"))
        )

    return story.failures(matches)


def _no_proposal(story: Story) -> Iterator[Found]:
    for found in _refused(story, "no-esp-proposal", "NO_PROPOSAL_CHOSEN"):
        why = differences(found[0])
        if story.kind_of(found[0]) == "ue":
            asked = [each for each in story.messages("IKE_AUTH", direction="out", of="ue") if payloads(each, "SAi2")]
            why = f"the gateway takes nothing of {offer(asked[-1], 'SAi2') if asked else 'what was offered'}"
        yield Found(sentence=f"Child SA: no common ESP proposal: {why}.", evidence=found)


def _selectors(story: Story) -> Iterator[Found]:
    for found in _refused(story, "ts-unacceptable", "TS_UNACCEPTABLE"):
        why = "the gateway allows none of the traffic selectors that the UE asks for"
        if story.kind_of(found[0]) == "epdg":
            why = f"the UE asks for {words(found[0], 'offered')}, and the gateway allows {words(found[0], 'allowed')}"
        yield Found(sentence=f"Child SA: no common traffic selectors: {why}.", evidence=found)


def _not_carried(story: Story) -> Iterator[Found]:
    def matches(record: TraceRecord) -> bool:
        name = text_of(record, "name")
        return (name == "esp-not-carried" and story.kind_of(record) == "epdg") or (
            name in ("refused", "esp-not-carried")
            and story.kind_of(record) == "ue"
            and "esp-not-carried" in (name, reason_of(record))
        )

    for found in story.failures(matches):
        first = found[0]
        who = "UE" if story.kind_of(first) == "ue" else "gateway"
        why = (said(first, "why") or said(first, "text")).removeprefix("ESP cannot be carried: ")
        yield Found(sentence=f"The {who}'s data plane cannot carry the child SA: {why}.", evidence=found)


def _rekeys(story: Story, *, of_ike_sa: bool) -> Iterator[tuple[TraceRecord, ...]]:
    """Refused ones, each as both ends told of it."""
    told: list[TraceRecord] = []
    for record in story.events("rekey-refused"):
        if (said(record, "what") == IKE_SA) is of_ike_sa:
            if told and (
                story.kind_of(told[-1]) == story.kind_of(record) or said(told[-1], "cause") != said(record, "cause")
            ):
                yield tuple(told)
                told = []
            told.append(record)
    if told:
        yield tuple(told)


def _rekey_refused(story: Story, *, of_ike_sa: bool) -> Iterator[Found]:
    for told in _rekeys(story, of_ike_sa=of_ike_sa):
        refusing = next((record for record in told if datum(record, "by_peer") is False), told[-1])
        of_ue = (story.kind_of(refusing) == "ue") is (datum(refusing, "by_peer") is False)
        who = "UE" if of_ue else "gateway"
        cause = said(refusing, "cause")
        why = cause
        if reason_of(refusing) in ("no-esp-proposal", "no-ike-proposal"):
            why = f"{cause}, {differences(refusing)}"
        elif cause == "TEMPORARY_FAILURE":
            why = "TEMPORARY_FAILURE, it was rekeying itself"
        again = "; it is tried again" if any(datum(record, "again") is True for record in told) else ""
        sentence = f"The {who} refused {said(refusing, 'what')}: {why}{again}."
        yield Found(sentence=sentence, evidence=told)


CHILD_SA: tuple[Cause, ...] = (
    Cause(
        name="no-esp-proposal",
        title="No common ESP proposal",
        clause="RFC 7296 §2.7, §2.21.2, §3.3.6",
        advice="Allow one of the UE's algorithms in ike.esp_suites of the gateway, or have the UE offer one that is"
        " allowed.",
        find=_no_proposal,
    ),
    Cause(
        name="ts-unacceptable",
        title="No common traffic selectors",
        clause="RFC 7296 §2.9, TS 24.302 §7.2.2.1",
        advice="Have the UE offer all addresses in TSi and TSr: the gateway narrows TSi to the inner address.",
        find=_selectors,
    ),
    Cause(
        name="esp-not-carried",
        title="The data plane cannot carry the child SA",
        clause="RFC 7296 §2.9, docs/data-plane.md",
        advice="Run doctor on the node: the kernel may lack the algorithm or the mode; else take it out of the suites.",
        find=_not_carried,
    ),
    Cause(
        name="child-rekey-refused",
        title="Rekey of a child SA refused",
        clause="RFC 7296 §1.3.3, §2.8, §2.25",
        advice="For NO_PROPOSAL_CHOSEN compare the groups of esp_suites at both ends: a group counts in a rekey alone."
        " TEMPORARY_FAILURE passes.",
        find=lambda story: _rekey_refused(story, of_ike_sa=False),
        remark=True,
    ),
    Cause(
        name="ike-rekey-refused",
        title="Rekey of the IKE SA refused",
        clause="RFC 7296 §1.3.2, §2.18, §2.25.2",
        advice="TEMPORARY_FAILURE passes: both ends were rekeying at once; give them different lifetimes or jitter.",
        find=lambda story: _rekey_refused(story, of_ike_sa=True),
        remark=True,
    ),
)
