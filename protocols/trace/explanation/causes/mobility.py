"""What went wrong, or was out of the ordinary, on a move (RFC 4555): addresses not adopted, dead paths, NATs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.causes.phrases import number, seconds, texts
from protocols.trace.explanation.story import Story, datum, said
from protocols.trace.order import text_of
from protocols.trace.records import TraceRecord

Find = Callable[[Story], Iterator[Found]]


def _address(endpoint: str) -> str:
    """Without the port."""
    return endpoint.rpartition(":")[0].strip("[]")


def _check_unanswered(story: Story) -> Iterator[Found]:
    for event in story.events("address-update-failed", of="epdg"):
        if "return-routability" in said(event, "why"):
            sentence = (
                "UPDATE_SA_ADDRESSES answered, return-routability check unanswered for "
                f"{seconds(number(event, 'seconds') or 0.0)}: address {_address(said(event, 'new'))} not adopted, "
                f"ESP still goes to {_address(said(event, 'old'))}."
            )
            yield Found(sentence=sentence, evidence=(event,))


def _check_cut_short(story: Story) -> Iterator[Found]:
    for event in story.events("address-update-unchecked", of="epdg"):
        sentence = (
            f"Whether the UE can be reached at {_address(said(event, 'new'))} was never known: {said(event, 'why')}."
        )
        yield Found(sentence=sentence, evidence=(event,))


def _wrong_cookie(story: Story) -> Iterator[Found]:
    for event in story.events("detached", "connection-lost"):
        if "COOKIE2 came back wrong" in said(event, "why"):
            end = "gateway" if story.kind_of(event) == "epdg" else "UE"
            yield Found(
                sentence=f"COOKIE2 came back with other octets than the {end} had sent: it closed the IKE SA.",
                evidence=(event,),
            )


def _move_failed(saying: str, sentence: Callable[[TraceRecord], str]) -> Find:
    """Moves that the UE gave up, for a reason that its event tells."""

    def find(story: Story) -> Iterator[Found]:
        for event in story.events("move-failed", of="ue"):
            if saying in said(event, "why"):
                yield Found(sentence=sentence(event), evidence=(event,))

    return find


def _asked_at(event: TraceRecord) -> str:
    return _address(said(event, "new")) or said(event, "to")


def _no_mobike(story: Story) -> Iterator[Found]:
    for event in story.events("move-impossible", "attaching-anew", of="ue"):
        ends = "attach anew" if text_of(event, "name") == "attaching-anew" else "stay"
        sentence = (
            f"MOBIKE was not negotiated: the UE cannot take its session from {said(event, 'from')} to "
            f"{said(event, 'to')}, and has to {ends}."
        )
        yield Found(sentence=sentence, evidence=(event,))


def _update_unanswered(event: TraceRecord) -> str:
    interval, retransmissions = number(event, "seconds") or 0.0, datum(event, "retransmissions")
    return (
        f"UPDATE_SA_ADDRESSES from {_asked_at(event)} went unanswered for {seconds(interval)}, "
        f"though it was repeated {retransmissions} times: the UE is not on {said(event, 'to')}."
    )


def _dead_path(story: Story) -> Iterator[Found]:
    """A path test that has found another way: from the suspicion to the move that nobody asked for."""
    suspected: TraceRecord | None = None
    for event in story.events("path-suspected", "moved", of="ue"):
        if text_of(event, "name") == "path-suspected":
            suspected = suspected or event
        elif suspected is not None and datum(event, "asked") is False:
            silence = seconds((number(suspected, "silence") or 0.0) + event.wall - suspected.wall)
            sentence = (
                f"Nothing was heard on {said(suspected, 'access')} for {silence}: the UE looked for another path and "
                f"is on {said(event, 'to')}."
            )
            yield Found(sentence=sentence, evidence=(suspected, event))
            suspected = None
        else:
            suspected = None


def _gateway_address(story: Story) -> Iterator[Found]:
    told: TraceRecord | None = None
    for event in story.events("gateway-addresses", "gateway-address-changed", of="ue"):
        if text_of(event, "name") == "gateway-addresses":
            told = event
            continue
        old, new = _address(said(event, "old")), _address(said(event, "new"))
        withdrawn = told is not None and old not in texts(told, "addresses")
        why = "the gateway has withdrawn it" if withdrawn else "nothing was heard from it any more"
        sentence = f"The UE uses the gateway's address {new} in place of {old}: {why}."
        yield Found(sentence=sentence, evidence=(event,) if told is None or not withdrawn else (told, event))


def _followed(story: Story) -> Iterator[Found]:
    for event in story.events("esp-followed", of="epdg"):
        sentence = f"A NAT on the way has given the UE another mapping: ESP goes to {said(event, 'remote')} now."
        yield Found(sentence=sentence, evidence=(event,))


def _not_followed(story: Story) -> Iterator[Found]:
    moves = list(story.events("moved", "address-update-failed", "address-update-unchecked", of="epdg"))
    for event in story.events("esp-from-elsewhere", of="epdg"):
        if any(said(move, "new") == said(event, "remote") and move.wall >= event.wall for move in moves):
            continue  # it was sent ahead of a move, which has an outcome of its own
        sentence = (
            f"The UE's ESP comes from {said(event, 'remote')}, and the gateway sends to the old address all the same: "
            "what goes to the UE is lost until it moves."
        )
        yield Found(sentence=sentence, evidence=(event,))


def _not_handed_over(story: Story) -> Iterator[Found]:
    for event in story.events("not-handed-over", of="ue"):
        wanted, given = ", ".join(texts(event, "wanted")), ", ".join(texts(event, "given"))
        sentence = f"The UE came with {wanted} and was given {given}: connections through the old address are lost."
        yield Found(sentence=sentence, evidence=(event,))


MOBILITY: tuple[Cause, ...] = (
    Cause(
        name="check-unanswered",
        title="Address not adopted",
        clause="RFC 4555 §3.7 (return routability), §3.5",
        advice="Look at the way back to the new address: a firewall or NAT there, or loss; "
        "ike.return_routability_interval is how long the gateway waits.",
        find=_check_unanswered,
    ),
    Cause(
        name="check-cut-short",
        title="Address never checked",
        clause="RFC 4555 §3.5, §3.7",
        advice="Look at what came between: a newer move is the UE's right, an end of the session has its own cause.",
        find=_check_cut_short,
        remark=True,
    ),
    Cause(
        name="wrong-cookie2",
        title="COOKIE2 came back wrong",
        clause="RFC 4555 §3.7, §4.2.5",
        advice="Look at the end that answered: it must return COOKIE2 as it came; somebody else may have answered.",
        find=_wrong_cookie,
    ),
    Cause(
        name="unacceptable-addresses",
        title="Address refused by the gateway",
        clause="RFC 4555 §3.5, §4.1.1 (UNACCEPTABLE_ADDRESSES)",
        advice="Add the network of the UE's address to ike.acceptable_addresses of the gateway.",
        find=_move_failed(
            "UNACCEPTABLE_ADDRESSES",
            lambda event: (
                f"The gateway does not accept UEs at {_asked_at(event)}: the UE stays on {said(event, 'from')}."
            ),
        ),
    ),
    Cause(
        name="mobike-not-negotiated",
        title="No MOBIKE",
        clause="RFC 4555 §3.2 (MOBIKE_SUPPORTED), TS 24.302 §7.2.2.1",
        advice="Enable mobike at both ends; a UE without it can only attach again where it is.",
        find=_no_mobike,
    ),
    Cause(
        name="update-unanswered",
        title="UPDATE_SA_ADDRESSES not answered",
        clause="RFC 4555 §3.5, §3.10",
        advice="Look whether UDP 4500 gets from the new access to the gateway and back.",
        find=_move_failed("another path answered", _update_unanswered),
    ),
    Cause(
        name="dead-path-left",
        title="Dead path left",
        clause="RFC 4555 §3.10, §3.12",
        advice="Nothing: the session lives; look at the access that was left.",
        find=_dead_path,
        remark=True,
    ),
    Cause(
        name="gateway-address-changed",
        title="Another address of the gateway",
        clause="RFC 4555 §3.6 (ADDITIONAL_*_ADDRESS), §3.10",
        advice="Nothing, if the address was withdrawn on purpose; else look at the gateway's interface.",
        find=_gateway_address,
        remark=True,
    ),
    Cause(
        name="nat-rebound",
        title="NAT mapping followed",
        clause="RFC 7296 §2.23, RFC 4555 §3.8",
        advice="Nothing; a shorter keepalive_interval of the UE keeps mappings alive.",
        find=_followed,
        remark=True,
    ),
    Cause(
        name="nat-rebinding-not-followed",
        title="NAT mapping not followed",
        clause="RFC 7296 §2.23, RFC 4555 §3.8",
        advice="Set ike.follow_esp of the gateway; a shorter keepalive_interval of the UE keeps mappings alive.",
        find=_not_followed,
    ),
    Cause(
        name="address-not-kept",
        title="Inner address not kept",
        clause="TS 24.302 §7.2.2.1, §7.4.1.1 (handover)",
        advice="Look whether the address is free and in the APN's pool; apns.*.requested_address: required refuses.",
        find=_not_handed_over,
        remark=True,
    ),
)
