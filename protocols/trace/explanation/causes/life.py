"""Why a session that was up has ended, unless its UE detached it (TS 24.302 §7.2.4, §7.4.3, RFC 7296 §2.4, §2.8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.causes.phrases import begun, number, seconds, who_begins
from protocols.trace.explanation.story import Story, datum, reason_of, said
from protocols.trace.order import detail_of, text_of
from protocols.trace.records import TraceRecord

Find = Callable[[Story], Iterator[Found]]

_ENDS = ("detached", "attach-ended", "connection-lost")
_NO_RESPONSE = "no response to our request"
_ABORTED = "aborted"


def _ended_by(ending: str, sentence: Callable[[Story, TraceRecord], str]) -> Find:
    """Ends for which the gateway's own event has a word."""

    def find(story: Story) -> Iterator[Found]:
        for event in story.events("detached", of="epdg"):
            if said(event, "ending") == ending:
                yield Found(sentence=sentence(story, event), evidence=(event,))

    return find


def _closed(saying: str, sentence: Callable[[Story, TraceRecord], str]) -> Find:
    """Ends of the IKE SA's own: told by the gateway where it ended it, else by the UE."""

    def find(story: Story) -> Iterator[Found]:
        ends = [event for event in story.events(*_ENDS) if saying in said(event, "why")]
        for event in ends[:1]:
            yield Found(sentence=sentence(story, event), evidence=(event,))

    return find


def _lasted(story: Story, event: TraceRecord) -> str:
    """How long after the attach, as the end of a sentence."""
    attached = [each for each in story.events("attached") if (each.node, each.session) == (event.node, event.session)]
    return f", {seconds(event.wall - attached[-1].wall)} after the attach" if attached else ""


def _unanswered(story: Story, event: TraceRecord) -> str:
    """The request that was given up: what, how often it was sent, for how long."""
    sent = [
        each
        for each in story.messages("", direction="out")
        if each.node == event.node and each.wall <= event.wall and text_of(each, "name").endswith(" request")
    ]
    if not sent or "message_id" not in detail_of(sent[-1]):
        return "a request was given up without an answer"
    given_up = detail_of(sent[-1])["message_id"]
    copies = [each for each in sent if detail_of(each).get("message_id") == given_up]
    name, interval = text_of(copies[0], "name").removesuffix(" request"), event.wall - copies[0].wall
    return f"{name} was sent {len(copies)} times in {seconds(interval)} without an answer"


def _ue_silent(story: Story) -> Iterator[Found]:
    for event in story.events("detached", of="epdg"):
        if _NO_RESPONSE in said(event, "why"):
            yield Found(sentence=f"The UE fell silent: {_unanswered(story, event)}.", evidence=(event,))


def _gateway_silent(story: Story) -> Iterator[Found]:
    for event in story.events("connection-lost", of="ue"):
        if _NO_RESPONSE in said(event, "why"):
            yield Found(sentence=f"The gateway fell silent: {_unanswered(story, event)}.", evidence=(event,))


def _reason(story: Story) -> str:
    """Why the AAA server aborted, in its own words."""
    reasons = [said(event, "why") for event in story.events("session-aborted", "abort-failed", of="aaa")]
    return reasons[0] if reasons and reasons[0] else ""


def _terminated(story: Story) -> Iterator[Found]:
    told = list(story.events("deregistered-by-hss", of="aaa"))
    for event in story.events("detached", of="epdg") if told else ():
        if said(event, "ending") == _ABORTED:
            why = said(told[0], "text") or f"reason {datum(told[0], 'reason')}"
            sentence = f"The HSS ended the registration of subscriber {said(told[0], 'imsi')}: {why}."
            yield Found(sentence=sentence, evidence=(told[0], event))


def _aborted(story: Story, event: TraceRecord) -> str:
    reason = _reason(story)
    return f"The AAA server ended the session (ASR){f': {reason}' if reason else ''}."


def _aborted_attaching(story: Story) -> Iterator[Found]:
    for event in story.events("refused", of="epdg"):
        if reason_of(event) == _ABORTED:
            sentence = f"During the attach: {_aborted(story, event)[:1].lower()}{_aborted(story, event)[1:]}"
            yield Found(sentence=sentence, evidence=(event,))


def _dismissed(story: Story) -> Iterator[Found]:
    """The profile has changed so that the session cannot go on; the reason is in the words of ``dismissed``."""
    for event in story.events("dismissed", of="epdg"):
        if said(event, "cause") not in (_ABORTED, "esp-not-carried"):
            yield Found(sentence=f"The gateway ended the session: {said(event, 'why')}.", evidence=(event,))


def _hard_lifetime(story: Story, event: TraceRecord) -> str:
    refused = [said(each, "cause") for each in story.events("rekey-refused") if each.wall <= event.wall]
    why = f"; the last rekey was refused with {refused[-1]}" if refused else ""
    return f"{begun(said(event, 'why'))}{_lasted(story, event)}{why}."


LIFE: tuple[Cause, ...] = (
    Cause(
        name="ue-silent",
        title="UE silent during the session",
        clause="RFC 7296 §2.4 (liveness check)",
        advice="Look at the UE's access: radio, captive portal, NAT; ike.hold_lifetime keeps sessions longer.",
        find=_ue_silent,
    ),
    Cause(
        name="gateway-silent-later",
        title="Gateway silent during the session",
        clause="RFC 7296 §2.4 (liveness check), TS 24.302 §7.2.2A",
        advice="Look whether the gateway runs, and whether UDP 500 and 4500 reach it from the UE's access.",
        find=_gateway_silent,
    ),
    Cause(
        name="registration-terminated",
        title="Registration ended by the HSS",
        clause="TS 29.273 §8.1.2.2.3 (RTR), §7.1.2.4",
        advice="Look at the subscription in the HSS: it was removed, disabled, or an operator ended the registration.",
        find=_terminated,
    ),
    Cause(
        name="aborted-by-aaa",
        title="Session ended by the AAA server",
        clause="TS 29.273 §7.1.2.4 (ASR), TS 24.302 §7.4.3",
        advice="Ask whoever runs the AAA server; the reason is the one given there.",
        find=_ended_by(_ABORTED, _aborted),
    ),
    Cause(
        name="aborted-while-attaching",
        title="Attach ended by the AAA server",
        clause="TS 29.273 §7.1.2.4 (ASR), TS 24.302 §7.4.1.2",
        advice="Ask whoever runs the AAA server; the reason is the one given there.",
        find=_aborted_attaching,
    ),
    Cause(
        name="authorisation-withdrawn",
        title="Authorisation changed",
        clause="TS 29.273 §7.1.2.5 (RAR, AAR), §7.2.2.1.4, TS 24.302 §7.4.3",
        advice="Look at what has changed in the subscription; the UE may attach again under the new one.",
        find=_dismissed,
    ),
    Cause(
        name="detached-by-operator",
        title="Detached by the operator",
        clause="TS 24.302 §7.4.3, RFC 7296 §1.4.1",
        advice="Nothing: somebody wanted it; the dashboard's audit log has who, where it was asked for there.",
        find=_ended_by(
            "operator", lambda story, event: f"The operator of the gateway ended the session{_lasted(story, event)}."
        ),
    ),
    Cause(
        name="session-timeout",
        title="Session-Timeout over",
        clause="RFC 6733 §8.13, TS 29.273 §7.2.2.1.2, TS 24.302 §7.4.3",
        advice="Raise session_timeout of the subscriber or sessions.timeout of the AAA server.",
        find=_ended_by(
            "session-timeout",
            lambda story, event: (
                f"The session time of {seconds(number(event, 'granted') or 0.0)} that the AAA server granted is over."
            ),
        ),
    ),
    Cause(
        name="authentication-lifetime-over",
        title="No new authentication in time",
        clause="RFC 4478 §2 (AUTH_LIFETIME)",
        advice="Look why the UE did not authenticate anew, or raise ike.authentication_lifetime of the gateway.",
        find=_closed(
            "the authentication lifetime is over",
            lambda story, event: (
                f"The authentication lifetime was over and the UE had not authenticated anew{_lasted(story, event)}."
            ),
        ),
    ),
    Cause(
        name="superseded",
        title="Superseded by a new attach",
        clause="RFC 7296 §2.4 (INITIAL_CONTACT)",
        advice="Look at the UE's newer session; if two devices share an IMSI, give each its own.",
        find=_ended_by(
            "superseded",
            lambda story, event: (
                f"{who_begins(story)} attached anew and said by INITIAL_CONTACT that this session is "
                f"lost{_lasted(story, event)}."
            ),
        ),
    ),
    Cause(
        name="gateway-stopped",
        title="Gateway stopped",
        clause="TS 24.302 §7.4.3, RFC 7296 §1.4.1",
        advice="Nothing, if it was meant; the UE attaches again when the gateway is back.",
        find=_ended_by("gateway-stops", lambda story, event: f"The gateway was stopped{_lasted(story, event)}."),
    ),
    Cause(
        name="gateway-lost-the-session",
        title="IKE SA lost by the gateway",
        clause="RFC 6290 §3, §4.5 (QUICK_CRASH_DETECTION), RFC 7296 §2.21.4 (INVALID_IKE_SPI)",
        advice="Look whether the gateway was restarted or has given the session up; the UE may attach again at once.",
        find=_closed(
            "quick crash detection",
            lambda story, event: (
                f"The gateway no longer knows the IKE SA, and proved it by its crash token{_lasted(story, event)}."
            ),
        ),
    ),
    Cause(
        name="hard-lifetime-reached",
        title="Not rekeyed in time",
        clause="RFC 7296 §2.8",
        advice="Look at the rekeys before: refused, or lost; compare the lifetimes of both ends.",
        find=_closed("the hard lifetime of", _hard_lifetime),
    ),
    Cause(
        name="child-sa-exhausted",
        title="Child SA used up",
        clause="RFC 7296 §2.8, RFC 4303 §3.3.3 (sequence numbers), RFC 4301 §4.4.2.1 (lifetime in octets)",
        advice="Raise hard_octets and hard_packets of child_lifetime, set their soft limits, or rekey sooner.",
        find=_closed(
            "has carried all that it may",
            lambda story, event: f"{begun(said(event, 'why'))}, and no rekey came in time{_lasted(story, event)}.",
        ),
    ),
)
