"""Why IKE_SA_INIT made no IKE SA (RFC 7296 §1.2, §2.5 to §2.7, §2.21.1; RFC 8019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.causes.proposals import differences, offer
from protocols.trace.explanation.story import Story, fact, payloads, reason_of, said, words
from protocols.trace.order import text_of
from protocols.trace.records import TraceRecord

REQUEST, RESPONSE = "IKE_SA_INIT request", "IKE_SA_INIT response"


def _refusals(story: Story, reason: str, notify: str) -> Iterator[tuple[TraceRecord, ...]]:
    """Attempts that the gateway refused in IKE_SA_INIT; without its trace, by the Notify that came."""

    def matches(record: TraceRecord) -> bool:
        name, kind = text_of(record, "name"), story.kind_of(record)
        if kind == "epdg" and name in ("refused", "turned-away"):
            return reason_of(record) == reason
        if story.saw("epdg") or kind != "ue" or name != "refused" or said(record, "cause") != notify:
            return False
        last = story.last_before(record, "IKE_", direction="in", of="ue")
        return last is not None and bool(payloads(last, f"N({notify})")) and text_of(last, "name").startswith(RESPONSE)

    return story.failures(matches)


def _turned_away(story: Story, *reasons: str) -> Iterator[tuple[TraceRecord, ...]]:
    return story.failures(lambda record: text_of(record, "name") == "turned-away" and reason_of(record) in reasons)


def _of_ue(story: Story, reason: str) -> Callable[[TraceRecord], bool]:
    return lambda record: (
        text_of(record, "name") == "refused" and story.kind_of(record) == "ue" and reason_of(record) == reason
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _no_proposal(story: Story) -> Iterator[Found]:
    for found in _refusals(story, "no-ike-proposal", "NO_PROPOSAL_CHOSEN"):
        why = differences(found[0])
        if story.kind_of(found[0]) == "ue":
            request = story.last_before(found[0], REQUEST, direction="out", of="ue")
            why = f"the gateway takes nothing of {'what was offered' if request is None else offer(request, 'SAi1')}"
        yield Found(sentence=f"No common IKE proposal: {why}.", evidence=found)


def _wrong_group(story: Story) -> Iterator[Found]:
    for found in story.failures(_of_ue(story, "ke-group")):
        last = found[-1]
        yield Found(
            sentence=f"The gateway wants {words(last, 'asked')} for the key exchange, the UE sent {words(last, 'sent')}"
            f" and does not change (ike.invalid_ke: {words(last, 'obeys')}); it offers {words(last, 'offered')}.",
            evidence=found,
        )

    if not story.saw("ue"):
        yield from _group_never_changed(story)


def _group_never_changed(story: Story) -> Iterator[Found]:
    """The gateway's view: it asked more than once, and the UE never came with the group."""
    asked = tuple(
        message for message in story.messages(RESPONSE, direction="out") if payloads(message, "N(INVALID_KE_PAYLOAD)")
    )
    if len(asked) < 2 or any(payloads(message, "SAr1") for message in story.messages(RESPONSE, after=asked[-1])):
        return
    request = story.last_before(asked[-1], REQUEST, direction="in", of="epdg")
    sent = [] if request is None else [str(each.get("group")) for each in payloads(request, "KEi")]
    group = payloads(asked[-1], "N(INVALID_KE_PAYLOAD)")[0].get("data")
    yield Found(
        sentence=f"The gateway asked {_times(len(asked))} for group {group} for the key exchange, and the UE goes on"
        f" sending {', '.join(sent) or 'another one'}.",
        evidence=asked,
    )


def _cookie_not_returned(story: Story) -> Iterator[Found]:
    for found in _turned_away(story, "cookie-demanded"):
        returned = [
            message
            for message in story.messages(REQUEST)
            if payloads(message, "N(COOKIE)") and (story.kind_of(message) == "epdg" or not story.saw("epdg"))
        ]
        demands = [record for record in found if text_of(record, "name") == "turned-away"]
        wrong = any(reason_of(record) == "cookie-wrong" for record in story.events("turned-away", of="epdg"))
        if returned or wrong:
            continue
        heard = any(payloads(message, "N(COOKIE)") for message in story.messages(RESPONSE, direction="in", of="ue"))
        lost = " its responses did not reach the UE" if story.saw("ue") and not heard else " the UE did not obey"
        yield Found(
            sentence=f"The gateway, which has {words(demands[0], 'half_open')} half-open IKE SAs, demanded a COOKIE"
            f" {_times(len(demands))} and none came back:{lost}.",
            evidence=found,
        )


def _cookie_not_accepted(story: Story) -> Iterator[Found]:
    for found in _turned_away(story, "cookie-wrong"):
        wrong = [record for record in found if text_of(record, "name") == "turned-away"]
        yield Found(
            sentence=f"The UE at {said(wrong[-1], 'remote')} returned a COOKIE {_times(len(wrong))} that is not the"
            " gateway's: the COOKIE, the nonce, the SPI or the UE's address changed on the way.",
            evidence=found,
        )


def _version(story: Story) -> Iterator[Found]:
    for found in _refusals(story, "major-version", "INVALID_MAJOR_VERSION"):
        version = fact(found[0], "version")
        spoken = "a version" if version is None else f"version {version}"
        yield Found(sentence=f"The UE speaks {spoken} of IKE, the gateway speaks version 2 only.", evidence=found)


def _malformed(story: Story) -> Iterator[Found]:
    for found in _refusals(story, "malformed", "INVALID_SYNTAX"):
        text = said(found[0], "text")
        why = f": {text}" if story.kind_of(found[0]) == "epdg" and text else ""
        yield Found(sentence=f"The UE's IKE_SA_INIT request does not parse{why}.", evidence=found)


def _critical(story: Story) -> Iterator[Found]:
    for found in _refusals(story, "critical-payload", "UNSUPPORTED_CRITICAL_PAYLOAD"):
        kind = fact(found[0], "payload_type")
        payload = "a payload" if kind is None else f"a payload of type {kind}"
        yield Found(
            sentence=f"The UE's IKE_SA_INIT request has {payload} that is critical, and the gateway does not know it.",
            evidence=found,
        )


def _half_open(story: Story) -> Iterator[Found]:
    for found in _turned_away(story, "half-open-limit", "half-open-limit-per-source"):
        first = found[0]
        of = f" from the address of {said(first, 'remote')}" if reason_of(first).endswith("source") else ""
        yield Found(
            sentence=f"The gateway dropped the IKE_SA_INIT request of {said(first, 'remote')}: it takes no"
            f" more than {words(first, 'limit')} half-open at a time{of}.",
            evidence=found,
        )


IKE_SA_INIT: tuple[Cause, ...] = (
    Cause(
        name="no-ike-proposal",
        title="No common IKE proposal",
        clause="RFC 7296 §2.7, §3.3.6",
        advice="Allow one of the UE's algorithms in ike.suites of the gateway ('legacy' holds those of old phones),"
        " or have the UE offer one that is allowed.",
        find=_no_proposal,
    ),
    Cause(
        name="ke-group-not-agreed",
        title="The UE does not change to the key exchange group asked for",
        clause="RFC 7296 §1.2, §2.7",
        advice="Let the UE offer the gateway's group in every proposal, or put a group of the UE's first in ike.suites"
        " of the gateway.",
        find=_wrong_group,
    ),
    Cause(
        name="cookie-not-accepted",
        title="The COOKIE that came back is wrong",
        clause="RFC 7296 §2.6, RFC 8019 §4",
        advice="Look for a NAT that changes the UE's address with each packet, or for something that alters packets.",
        find=_cookie_not_accepted,
    ),
    Cause(
        name="cookie-not-returned",
        title="No COOKIE came back",
        clause="RFC 7296 §2.6",
        advice="Look for loss on the way to the UE; if the gateway is not under attack, raise ike.cookie_threshold.",
        find=_cookie_not_returned,
    ),
    Cause(
        name="major-version",
        title="Another major version of IKE",
        clause="RFC 7296 §2.5",
        advice="Configure the UE for IKEv2.",
        find=_version,
    ),
    Cause(
        name="malformed-request",
        title="The IKE_SA_INIT request does not parse",
        clause="RFC 7296 §2.21.1, §3.10.1 (INVALID_SYNTAX)",
        advice="Look at the octets of the datagram: the UE's encoding is wrong, or something on the way alters it.",
        find=_malformed,
    ),
    Cause(
        name="critical-payload",
        title="An unknown payload is critical",
        clause="RFC 7296 §2.5",
        advice="Switch the extension off at the UE, or have it clear the critical bit.",
        find=_critical,
    ),
    Cause(
        name="half-open-limit",
        title="Too many half-open IKE SAs",
        clause="RFC 8019 §4.2, RFC 7296 §2.6",
        advice="Find out who begins and does not go on; many UEs behind one address need a higher"
        " ike.half_open_limit_per_source, many in all a higher ike.half_open_limit.",
        find=_half_open,
    ),
)
