"""Why a user who is who it says may not attach all the same (TS 24.302 §7.4.1.2, TS 29.273 §7.1.2.1.2).

The AAA server's own event tells why it refused; where that server is not traced, the gateway's has the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.causes.phrases import begun, listed, number, seconds, stay_away, texts, who, who_begins
from protocols.trace.explanation.story import Story, fact, reason_of, said, words
from protocols.trace.order import text_of
from protocols.trace.records import TraceRecord

Sentence = Callable[[Story, TraceRecord], str]
Find = Callable[[Story], Iterator[Found]]

BASE, VENDOR_3GPP = 0, 10415
_RAT_NAMES = {0: "WLAN", 1: "Virtual"}  # RAT-Type (TS 29.212 §5.3.31)


def _by_server(cause: str, result: tuple[int, int], sentence: Sentence, *, saying: str = "") -> Find:
    """Refusals of the AAA server's by its cause and words; ``result`` (vendor, code) is for where it is not traced."""

    def find(story: Story) -> Iterator[Found]:
        own = list(story.events("refused", of="aaa"))
        for event in own:
            if said(event, "cause") == cause and saying in text_of(event, "text"):
                yield Found(sentence=sentence(story, event), evidence=(event,))
        for event in () if own else story.events("refused", of="epdg"):
            if (fact(event, "vendor"), fact(event, "result")) == result and saying in words(event, "said"):
                yield Found(sentence=sentence(story, event), evidence=(event,))

    return find


def _by_gateway(reason: str, sentence: Sentence) -> Find:
    """Refusals of the gateway's own."""

    def find(story: Story) -> Iterator[Found]:
        for event in story.events("refused", of="epdg"):
            if reason_of(event) == reason:
                yield Found(sentence=sentence(story, event), evidence=(event,))

    return find


def _server_words(event: TraceRecord) -> str:
    """What the AAA server says, from its own event or from Error-Message, without the full stop."""
    return (words(event, "said") or text_of(event, "text")).rstrip(".")


def _apn_not_subscribed(story: Story, event: TraceRecord) -> str:
    asked = said(event, "requested") or words(event, "apn")
    held = texts(event, "subscribed")
    has = f", and has {listed(held)}" if held else ""
    wanted = f"APN {asked}" if asked else "any APN"
    return f"{who_begins(story)} has no subscription to {wanted}{has}."


def _rat_type(story: Story, event: TraceRecord) -> str:
    rat = number(event, "rat_type")
    kind = "WLAN" if rat is None else _RAT_NAMES.get(int(rat), f"type {int(rat)}")
    return f"The subscription of {who(story)} bars access by radio of {kind}."


def _too_busy(story: Story) -> Iterator[Found]:
    for event in story.events("refused", of="epdg"):
        if (fact(event, "vendor"), fact(event, "result")) == (BASE, 3004):
            why = f" ({_server_words(event)})" if words(event, "said") else ""
            yield Found(sentence=f"The AAA server is too busy{why}{stay_away(event)}.", evidence=(event,))


def _overloaded(story: Story) -> Iterator[Found]:
    for event in story.events("refused", of="epdg"):
        overload = fact(event, "overload")
        if isinstance(overload, int) and overload:
            sentence = f"The AAA server is overloaded, for {seconds(overload)} by its report{stay_away(event)}."
            yield Found(sentence=sentence, evidence=(event,))


def _held_back(story: Story) -> Iterator[Found]:
    for event in story.events("attach-held-back", of="ue"):
        left = number(event, "seconds")
        until = "until it is switched off and on" if left is None else f"for another {seconds(left)}"
        sentence = f"The UE did not even ask: after {said(event, 'cause')} it stays away {until}."
        yield Found(sentence=sentence, evidence=(event,))


AUTHORISATION: tuple[Cause, ...] = (
    Cause(
        name="user-unknown",
        title="Unknown subscriber",
        clause="TS 29.273 §8.1.2.1.2, TS 24.302 §8.1.2.2 (USER_UNKNOWN)",
        advice="Add the subscriber to the HSS, or correct the IMSI of the USIM.",
        find=_by_server(
            "user-unknown", (VENDOR_3GPP, 5001), lambda story, event: f"The HSS does not know {who(story)}."
        ),
    ),
    Cause(
        name="no-non-3gpp-subscription",
        title="No subscription to non-3GPP access",
        clause="TS 29.273 §8.1.2.1.2, TS 24.302 §8.1.2.2 (NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED)",
        advice="Set non_3gpp_allowed of the subscriber in the HSS.",
        find=_by_server(
            "non-3gpp-not-subscribed",
            (VENDOR_3GPP, 5450),
            lambda story, event: f"{who_begins(story)} has no subscription to non-3GPP access.",
        ),
    ),
    Cause(
        name="roaming-not-allowed",
        title="Roaming not allowed",
        clause="TS 29.273 §8.1.2.1.2, TS 24.302 §8.1.2.2 (PLMN_NOT_ALLOWED)",
        advice="Set roaming_allowed or add the network to visited_networks of the subscriber, "
        "or have the UE select an ePDG at home.",
        find=_by_server(
            "roaming-not-allowed",
            (VENDOR_3GPP, 5004),
            lambda story, event: f"Roaming is not allowed: {_server_words(event)}.",
        ),
    ),
    Cause(
        name="rat-type-not-allowed",
        title="Access by WLAN barred",
        clause="TS 29.273 §7.1.2.1.2, TS 24.302 §8.1.2.2 (RAT_TYPE_NOT_ALLOWED)",
        advice="Set wlan_allowed of the subscriber in the HSS.",
        find=_by_server("rat-type-not-allowed", (VENDOR_3GPP, 5421), _rat_type),
    ),
    Cause(
        name="apn-not-subscribed",
        title="APN not subscribed",
        clause="TS 29.273 §7.1.2.1.2, TS 24.302 §8.1.2.2 (NO_APN_SUBSCRIPTION)",
        advice="Add the APN to the subscription, or have the UE ask for one that it has.",
        find=_by_server("apn-not-subscribed", (VENDOR_3GPP, 5451), _apn_not_subscribed),
    ),
    Cause(
        name="no-apn",
        title="No APN asked for and no default",
        clause="TS 24.302 §7.2.2.1, §8.1.2.2 (NO_APN_SUBSCRIPTION)",
        advice="Set default_apn of the gateway, mark an APN of the subscription as the default, "
        "or have the UE name one in IDr.",
        find=_by_gateway(
            "no-apn",
            lambda story, event: (
                "The UE names no APN in IDr, none comes from a subscription, and the gateway has no default_apn."
            ),
        ),
    ),
    Cause(
        name="apn-not-served",
        title="APN allowed, but not served here",
        clause="TS 24.302 §7.4.1.2, §8.1.2.2 (PDN_CONNECTION_REJECTION)",
        advice="Add the APN with an address pool under apns of the gateway, or take it out of the subscription.",
        find=_by_gateway(
            "apn-not-served",
            lambda story, event: (
                f"The AAA server allows APN {words(event, 'apn')}, and this gateway does not serve it."
            ),
        ),
    ),
    Cause(
        name="subscriber-disabled",
        title="Subscriber barred",
        clause="TS 29.273 §7.1.2.1.2 (Non-3GPP-IP-Access), TS 24.302 §8.1.2.2 (AUTHORIZATION_REJECTED)",
        advice="Enable the subscriber in the HSS.",
        find=_by_server(
            "subscriber-disabled",
            (BASE, 5003),
            lambda story, event: f"{who_begins(story)} is disabled: barred from non-3GPP access.",
            saying="barred",
        ),
    ),
    Cause(
        name="equipment-bound-elsewhere",
        title="Subscription bound to another device",
        clause="TS 29.273 §7.1.2.1.2, TS 24.302 §8.1.2.2 (ILLEGAL_ME); the binding is this project's (docs/aaa.md)",
        advice="Use the device that the subscription is bound to, or change imei of the subscriber in the HSS.",
        find=_by_server(
            "illegal-equipment",
            (VENDOR_3GPP, 5554),
            lambda story, event: f"{_server_words(event)}.",
            saying="bound to another",
        ),
    ),
    Cause(
        name="illegal-equipment",
        title="Equipment on the black list",
        clause="TS 29.273 §7.1.2.1.2, TS 22.016 §3.3, TS 24.302 §8.1.2.2 (ILLEGAL_ME)",
        advice="Take the IMEI off equipment.black of the AAA server, "
        "or look at equipment.unknown and equipment.unidentified.",
        find=_by_server("illegal-equipment", (VENDOR_3GPP, 5554), lambda story, event: f"{_server_words(event)}."),
    ),
    Cause(
        name="too-many-connections",
        title="Too many PDN connections",
        clause="TS 24.302 §7.4.1.2, §8.1.2.2 (MAX_CONNECTION_REACHED)",
        advice="Detach a PDN connection, or raise limits.connections_per_ue of the gateway.",
        find=_by_gateway(
            "too-many-connections",
            lambda story, event: (
                f"{who_begins(story)} has {words(event, 'limit')} PDN connections already, "
                "which is as many as the gateway allows."
            ),
        ),
    ),
    Cause(
        name="emergency-unauthenticated",
        title="Emergency session without authentication refused",
        clause="TS 33.402 §13.3, TS 24.302 §8.1.2.2 (UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED)",
        advice="Set emergency.unauthenticated: allow at the gateway and at the AAA server, where the law wants it.",
        find=_by_gateway("unauthenticated-emergency", lambda story, event: f"{begun(said(event, 'text'))}."),
    ),
    Cause(
        name="congestion",
        title="Gateway congested",
        clause="TS 24.302 §7.4.1.2, §8.1.2.2 (CONGESTION), §8.2.9.1 (BACKOFF_TIMER)",
        advice="Wait, raise limits.congestion_threshold of the gateway, or add a gateway.",
        find=_by_gateway(
            "congestion",
            lambda story, event: f"The gateway has as many sessions as it takes{stay_away(event)}.",
        ),
    ),
    Cause(
        name="aaa-overloaded",
        title="AAA server overloaded",
        clause="RFC 7683 §7.5 (OC-Validity-Duration), TS 24.302 §8.2.9.1 (BACKOFF_TIMER)",
        advice="Wait until the report is over, or give the AAA server less to do.",
        find=_overloaded,
    ),
    Cause(
        name="aaa-too-busy",
        title="AAA server too busy",
        clause="RFC 6733 §7.1.3 (DIAMETER_TOO_BUSY), TS 24.302 §8.1.2.2 (CONGESTION)",
        advice="Wait, or look at sessions.unfinished_limit of the AAA server: many attaches may have come to nothing.",
        find=_too_busy,
    ),
    Cause(
        name="back-off-running",
        title="UE stays away",
        clause="TS 24.302 §7.2.2.2, §8.2.9.1 (BACKOFF_TIMER)",
        advice="Wait, switch the UE off and on, or attach with force.",
        find=_held_back,
    ),
)
