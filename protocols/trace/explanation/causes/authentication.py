"""Why EAP did not end in success, or needed another round (RFC 4187, RFC 9048, TS 33.102, TS 33.402)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.story import Story, datum, fact, said
from protocols.trace.order import detail_of, text_of
from protocols.trace.records import TraceRecord

REJECTED = "authentication rejected: "
FAILED = "Authentication failed: "
SEPARATION_OCTET, SEPARATION_BIT = 6, 0x80  # AMF follows SQN in AUTN (TS 33.102 §6.3.2, Annex H)


def _failed(*, server: str | None = None, peer: str | None = None) -> Callable[[Story, TraceRecord], bool]:
    """Events by what EAP-AKA failed of (``eap.aka.outcome.AkaFailure``), at either end."""

    def matches(story: Story, record: TraceRecord) -> bool:
        if text_of(record, "name") != "refused":
            return False
        if story.kind_of(record) == "aaa":
            return server is not None and datum(record, "failure") == server
        return story.kind_of(record) == "ue" and peer is not None and fact(record, "failure") == peer

    return matches


def _groups(
    story: Story, matches: Callable[[Story, TraceRecord], bool], response: str = ""
) -> Iterator[tuple[TraceRecord, ...]]:
    """Failures; in front of each the EAP response that led to it, where the AAA server got it."""
    for found in story.failures(lambda record: matches(story, record)):
        before = story.last_before(found[0], response, direction="in", of="aaa") if response else None
        yield found if before is None else (before, *found)


def _ue_says(found: tuple[TraceRecord, ...], story: Story) -> str:
    """The UE's finding as a clause, empty without its trace."""
    own = (said(record, "text") for record in found if story.kind_of(record) == "ue")
    return next((text.removeprefix(REJECTED) for text in own if text.startswith(REJECTED)), "")


def _aaa_says(found: tuple[TraceRecord, ...], story: Story) -> str:
    own = (text_of(record, "text") for record in found if story.kind_of(record) == "aaa")
    return next((text.removeprefix(FAILED).rstrip(".") for text in own if text.startswith(FAILED)), "")


def _separation(story: Story) -> Iterator[Found]:
    sentence = "The UE rejects the vector: the AMF separation bit in AUTN is 0, and EAP-AKA' demands 1."
    for found in _groups(story, _failed(peer="AMF separation bit is 0")):
        yield Found(sentence=sentence, evidence=found)
    if story.saw("ue"):
        return
    for found in _groups(story, _failed(server="network not authenticated")):
        challenge = story.last_before(found[0], "EAP-Request/AKA'-Challenge", direction="out", of="aaa")
        autn = "" if challenge is None else str(detail_of(challenge).get("AT_AUTN", ""))
        if autn and not bytes.fromhex(autn)[SEPARATION_OCTET] & SEPARATION_BIT:
            yield Found(sentence=sentence, evidence=found)


def _network_name(story: Story) -> Iterator[Found]:
    for found in _groups(story, _failed(peer="wrong network name")):
        yield Found(sentence=f"The UE rejects the challenge of EAP-AKA': {_ue_says(found, story)}.", evidence=found)


def _network_name_accepted(story: Story) -> Iterator[Found]:
    for record in story.events("network-name-differs", of="ue"):
        yield Found(
            sentence=f"The AAA server names the access network {said(record, 'received')}, the UE expected"
            f" {said(record, 'expected')} and went on.",
            evidence=(record,),
        )


def _autn_rejected(story: Story) -> Iterator[Found]:
    response = "EAP-Response/AKA-Authentication-Reject"
    either = _failed(server="network not authenticated", peer="network not authenticated")
    for found in _groups(story, either, response):
        sentence = "AUTN rejected by the UE: K or OPc in its USIM differ from the subscriber's in the HSS."
        yield Found(sentence=sentence, evidence=found)


def _not_resynchronised(story: Story) -> Iterator[Found]:
    either = _failed(server="sequence number out of range", peer="sequence number out of range")
    for found in _groups(story, either, "EAP-Response/AKA-Synchronization-Failure"):
        why = _aaa_says(found, story) or _ue_says(found, story)
        yield Found(sentence=f"SQN out of range, and resynchronisation did not help: {why}.", evidence=found)


def _resynchronised(story: Story) -> Iterator[Found]:
    succeeded = [record.sequence for record in story.events("authenticated", of="aaa")]
    for record in story.events("resynchronised", of="aaa"):
        if any(sequence > record.sequence for sequence in succeeded):
            yield Found(
                sentence=f"SQN out of range, re-synchronised: the USIM of {said(record, 'imsi')} had seen a later"
                " sequence number and reported it (AUTS), the HSS followed, and the attach went on.",
                evidence=(record,),
            )


def _wrong_res(story: Story) -> Iterator[Found]:
    for found in _groups(story, _failed(server="wrong RES"), "EAP-Response/AKA"):
        yield Found(sentence=f"The UE's answer to the challenge is wrong: {_aaa_says(found, story)}.", evidence=found)


def _wrong_mac(story: Story) -> Iterator[Found]:
    for found in _groups(story, _failed(peer="wrong AT_MAC"), "EAP-Response/AKA-Client-Error"):
        sentence = (
            f"The UE does not accept the EAP packet: {_ue_says(found, story)}, so that the AAA server's CK and IK are"
            " not the USIM's, or the packet was altered."
        )
        yield Found(sentence=sentence, evidence=found)
    for found in _groups(story, _failed(server="wrong AT_MAC"), "EAP-Response/AKA"):
        sentence = f"The AAA server does not accept the UE's EAP packet: {_aaa_says(found, story)}."
        yield Found(sentence=sentence, evidence=found)


def _client_error(story: Story) -> Iterator[Found]:
    response = "EAP-Response/AKA-Client-Error"
    for found in _groups(story, _failed(server="client error"), response):
        why = _ue_says(found, story)
        reason = f": {why}" if why else ", and does not say why: AT_MAC that does not verify is the usual reason"
        yield Found(sentence=f"The UE could not process the AAA server's EAP request{reason}.", evidence=found)


def _method(story: Story) -> Iterator[Found]:
    for found in _groups(story, _failed(server="method refused"), "EAP-Response/Nak"):
        yield Found(sentence=f"No common EAP method: {_aaa_says(found, story)}.", evidence=found)


def _withheld(story: Story) -> Iterator[Found]:
    for found in _groups(story, _failed(peer="permanent identity withheld"), "EAP-Response/AKA-Client-Error"):
        yield Found(
            sentence=f"The UE keeps its permanent identity to itself: {_ue_says(found, story)}.", evidence=found
        )


AUTHENTICATION: tuple[Cause, ...] = (
    Cause(
        name="amf-separation-bit",
        title="AMF separation bit is 0",
        clause="RFC 9048 §3.3, TS 33.402 §6.2, TS 33.102 Annex H",
        advice="Have the HSS set the separation bit in AMF (8000) of vectors for EAP-AKA', and separation_bit: true in"
        " the AAA server.",
        find=_separation,
    ),
    Cause(
        name="network-name-differs",
        title="The access network has another name",
        clause="RFC 9048 §3.1, TS 24.302 §8.1.1.2",
        advice="Make eap.network_name of the AAA server what the UE expects, which is WLAN on untrusted Wi-Fi.",
        find=_network_name,
    ),
    Cause(
        name="network-name-accepted",
        title="The access network has another name, which the UE accepted",
        clause="RFC 9048 §3.1, TS 24.302 §8.1.1.2",
        advice="Make eap.network_name of the AAA server what the UE expects: other UEs refuse.",
        find=_network_name_accepted,
        remark=True,
    ),
    Cause(
        name="autn-rejected",
        title="AUTN rejected by the UE",
        clause="RFC 4187 §6.3.1, TS 33.102 §6.3.3",
        advice="Compare K and OP or OPc of the USIM with the subscriber's, and whether both use Milenage or TUAK.",
        find=_autn_rejected,
    ),
    Cause(
        name="resynchronisation-failed",
        title="SQN out of range, not re-synchronised",
        clause="RFC 4187 §6.3.1, TS 33.102 §6.3.5, Annex C",
        advice="Compare ind_bits of USIM and subscriber, look whether two HSSs hand out vectors of one subscriber, and"
        " allow at least one of eap.resynchronisations.",
        find=_not_resynchronised,
    ),
    Cause(
        name="sqn-resynchronised",
        title="SQN out of range, re-synchronised",
        clause="TS 33.102 §6.3.5, RFC 4187 §9.6",
        advice="Nothing if it happens once; again and again it means that sequence numbers come from two sources.",
        find=_resynchronised,
        remark=True,
    ),
    Cause(
        name="wrong-res",
        title="RES is wrong",
        clause="RFC 4187 §9.4, TS 33.102 §6.3.3",
        advice="Compare the length of RES and the algorithm of the USIM (res_length) with the subscriber's.",
        find=_wrong_res,
    ),
    Cause(
        name="eap-mac-wrong",
        title="AT_MAC does not verify",
        clause="RFC 4187 §6.3.1, §10.15",
        advice="Compare the algorithm and OPc of USIM and subscriber; with given vectors, CK and IK of both files.",
        find=_wrong_mac,
    ),
    Cause(
        name="eap-method-refused",
        title="No common EAP method",
        clause="RFC 3748 §5.3.1, TS 33.402 §8.2.2",
        advice="Let both ends know EAP-AKA (type 23) or both EAP-AKA' (type 50): eap.methods of the UE and of the AAA"
        " server.",
        find=_method,
    ),
    Cause(
        name="permanent-identity-withheld",
        title="The UE does not tell its permanent identity",
        clause="RFC 4187 §4.1.5, §4.1.6",
        advice="Set eap.privacy of the UE to liberal, or have the AAA server keep the keys of the pseudonyms it gave.",
        find=_withheld,
    ),
    Cause(
        name="eap-client-error",
        title="The UE could not process an EAP request",
        clause="RFC 4187 §6.3.1, §9.9",
        advice="Trace the UE too: only it knows why; AT_MAC that does not verify is the usual reason.",
        find=_client_error,
    ),
)
