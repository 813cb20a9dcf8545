"""What went wrong between the gateway, the AAA server and the HSS (RFC 6733, TS 29.273), and what was made to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.causes.phrases import listed, number, seconds, stay_away
from protocols.trace.explanation.story import Story, datum, fact, reason_of, said, words
from protocols.trace.order import text_of
from protocols.trace.records import TraceRecord

_ANOTHER_SESSION = "is of another session"
_NO_ANSWER = "no answer from"
_NO_APPLICATION = "DIAMETER_NO_COMMON_APPLICATION"
_SUCCESS = "DIAMETER_SUCCESS"
_HSS_COMMANDS = ("MAR", "SAR")
_UNABLE_TO_COMPLY = (0, 5012)
_BACKEND = "The home subscriber server failed: "


def _after(story: Story, record: TraceRecord, name: str, kind: str) -> tuple[TraceRecord, ...]:
    """The first event of this name at a node of this kind that comes after a record, none without."""
    place = story.records.index(record)
    later = (each for each in story.events(name, of=kind) if story.records.index(each) > place)
    return tuple(each for each, _ in zip(later, range(1), strict=False))


def _fault_rule(story: Story, *, harmless: bool) -> Iterator[Found]:
    """``harmless``: no refusal follows."""
    for event in story.events("fault-applied", of="aaa"):
        if harmless is any(_after(story, event, "refused", kind) for kind in ("epdg", "ue")):
            continue
        told: tuple[TraceRecord, ...] = ()
        if said(event, "result") not in ("", _SUCCESS):  # what a refusal says is the rule's then, and nobody's fault
            told = _after(story, event, "refused", "aaa" if said(event, "command") in _HSS_COMMANDS else "epdg")
        where = f"in the answer to {said(event, 'command')}: {said(event, 'action')}"
        told_away = stay_away(told[0]) if told else ""
        sentence = f"The fault rule {said(event, 'rule')} of the AAA server did it, {where}{told_away}."
        yield Found(sentence=sentence, evidence=(event, *told))


def _unreachable(story: Story) -> Iterator[tuple[TraceRecord, tuple[TraceRecord, ...]]]:
    """The gateway asked in vain; with the refusal that this led to."""
    for event in story.events("aaa-unreachable", of="epdg"):
        yield event, (event, *_after(story, event, "refused", "epdg"))


def _peers(event: TraceRecord) -> list[dict[str, object]]:
    peers = datum(event, "peers")
    return [dict(peer) for peer in peers if isinstance(peer, dict)] if isinstance(peers, list) else []


def _why(peer: dict[str, object]) -> str:
    return f" ({peer['last_error']})" if peer.get("last_error") else ""


def _is_down(event: TraceRecord) -> bool:
    """Whether there was nobody to ask."""
    return _NO_ANSWER not in said(event, "why") and _ANOTHER_SESSION not in said(event, "why")


def _no_common_application(story: Story) -> Iterator[Found]:
    for event, evidence in _unreachable(story):
        for peer in _peers(event):
            if _is_down(event) and _NO_APPLICATION in str(peer.get("last_error")):
                sentence = (
                    f"The Diameter peer {peer.get('host')} refuses the gateway: no application in common, so no SWm."
                )
                yield Found(sentence=sentence, evidence=evidence)


def _no_peer(story: Story) -> Iterator[Found]:
    for event, evidence in _unreachable(story):
        if not _is_down(event):
            continue
        states = tuple(f"{peer.get('host')} is {str(peer.get('state')).lower()}{_why(peer)}" for peer in _peers(event))
        known = listed(states) or "none is configured"
        yield Found(sentence=f"The gateway has no Diameter peer to ask: {known}.", evidence=evidence)


def _no_answer(story: Story) -> Iterator[Found]:
    for event, evidence in _unreachable(story):
        command, _, rest = said(event, "why").partition(f": {_NO_ANSWER} ")
        if rest:
            interval = seconds(number(event, "seconds") or 0.0)
            server = rest.partition(" in ")[0]
            yield Found(
                sentence=f"The AAA server {server} did not answer {command} within {interval}.", evidence=evidence
            )


def _another_session(story: Story) -> Iterator[Found]:
    for event, evidence in _unreachable(story):
        if _ANOTHER_SESSION in said(event, "why"):
            sentence = "The AAA server's answer has a Session-Id that is not the request's: it was not taken."
            yield Found(sentence=sentence, evidence=evidence)


def _unusable(saying: str, sentence: str) -> Callable[[Story], Iterator[Found]]:
    def find(story: Story) -> Iterator[Found]:
        for event in story.events("refused", of="epdg"):
            why = words(event, "what")
            if reason_of(event) == "aaa-unusable" and saying in why:
                yield Found(sentence=sentence.format(why=why.rpartition("cannot be used: ")[2]), evidence=(event,))

    return find


def _backend(story: Story) -> Iterator[tuple[TraceRecord, str]]:
    """What the AAA server says of an HSS that failed."""
    for event in story.events("refused", of="aaa"):
        if said(event, "cause") == "backend-failed":
            yield event, text_of(event, "text").removeprefix(_BACKEND).rstrip(".")


def _hss_silent(story: Story) -> Iterator[Found]:
    for event, why in _backend(story):
        command, _, rest = why.partition(f": {_NO_ANSWER} ")
        if rest:
            server, _, interval = rest.partition(" in ")
            sentence = f"The HSS {server} did not answer the AAA server's {command} within {interval}."
            yield Found(sentence=sentence, evidence=(event,))


def _hss_unreachable(story: Story) -> Iterator[Found]:
    for event, why in _backend(story):
        if "Diameter peer" in why or "went down" in why:
            command = why.partition(":")[0]
            yield Found(
                sentence=f"The AAA server has no HSS to send {command} to: none is connected.", evidence=(event,)
            )


def _hss_failed(story: Story) -> Iterator[Found]:
    for event, why in _backend(story):
        yield Found(sentence=f"The HSS failed: {why}.", evidence=(event,))


def _unable_to_comply(story: Story) -> Iterator[Found]:
    if any(story.events("refused", of="aaa")):
        return
    for event in story.events("refused", of="epdg"):
        if (fact(event, "vendor"), fact(event, "result")) == _UNABLE_TO_COMPLY:
            why = words(event, "said").rstrip(".")
            sentence = f"The AAA server is unable to comply; it says: {why or 'nothing more'}."
            yield Found(sentence=sentence, evidence=(event,))


def _failed_over(story: Story) -> Iterator[Found]:
    for event in story.events("aaa-failover", of="epdg"):
        sentence = f"{said(event, 'host')} answered in the place of {said(event, 'former')}, which is down."
        yield Found(sentence=sentence, evidence=(event,))


def _str_failed(story: Story) -> Iterator[Found]:
    for event in story.events("str-failed", of="epdg"):
        sentence = f"The AAA server does not know of the session's end ({said(event, 'why')})."
        yield Found(sentence=sentence, evidence=(event,))


AAA_PATH: tuple[Cause, ...] = (
    Cause(
        name="fault-rule",
        title="A fault rule of the laboratory",
        clause="docs/aaa.md, Faults",
        advice="Remove the rule, with aaa fault remove or on the dashboard, if it has done its work.",
        find=functools.partial(_fault_rule, harmless=False),
    ),
    Cause(
        name="fault-rule-survived",
        title="A fault rule of the laboratory, without harm",
        clause="docs/aaa.md, Faults",
        advice="Remove the rule, with aaa fault remove or on the dashboard, if it has done its work.",
        find=functools.partial(_fault_rule, harmless=True),
        remark=True,
    ),
    Cause(
        name="diameter-no-common-application",
        title="Diameter peer without SWm",
        clause="RFC 6733 §5.3, §7.1.5 (DIAMETER_NO_COMMON_APPLICATION), TS 29.273 §7.2",
        advice="Look at whom diameter.peers of the gateway leads to: the AAA server serves SWm, an HSS does not.",
        find=_no_common_application,
    ),
    Cause(
        name="no-diameter-peer",
        title="No Diameter peer",
        clause="RFC 6733 §2.1, §5.1, TS 29.273 §7.2",
        advice="Start the AAA server, or correct diameter.peers of the gateway: host, address and port.",
        find=_no_peer,
    ),
    Cause(
        name="aaa-silent",
        title="AAA server does not answer",
        clause="TS 29.273 §7.2, RFC 6733 §5.5.4, TS 24.302 §8.1.2.2 (NETWORK_FAILURE)",
        advice="Look at the AAA server's log and load, and at diameter.request_interval of the gateway.",
        find=_no_answer,
    ),
    Cause(
        name="aaa-answer-of-another-session",
        title="Answer with another Session-Id",
        clause="RFC 6733 §8.8, §6.2",
        advice="Look at the Session-Id of the DEA: an agent on the way or the AAA server is broken.",
        find=_another_session,
    ),
    Cause(
        name="aaa-success-without-msk",
        title="Success without an MSK",
        clause="TS 29.273 §7.2.2.1.2 (EAP-Master-Session-Key), RFC 4072 §4.1.3",
        advice="Look at the DEA: a success has EAP-Payload and EAP-Master-Session-Key.",
        find=_unusable("succeeds without", "The AAA server says success, and gives no EAP-Success or no MSK."),
    ),
    Cause(
        name="aaa-answer-unusable",
        title="Answer that cannot be used",
        clause="RFC 6733 §7.1.5 (DIAMETER_MISSING_AVP), TS 29.273 §7.2.2.1.2",
        advice="Look at the DEA against its format in TS 29.273.",
        find=_unusable("", "The AAA server's answer cannot be used: {why}."),
    ),
    Cause(
        name="hss-silent",
        title="HSS does not answer",
        clause="TS 29.273 §8.1.2.1.2, §7.1.2.1.2, RFC 6733 §7.1.5 (DIAMETER_UNABLE_TO_COMPLY)",
        advice="Look at the HSS and its database, and at hss.timeout of the AAA server.",
        find=_hss_silent,
    ),
    Cause(
        name="hss-unreachable",
        title="No HSS to ask",
        clause="TS 29.273 §8.1.2.1.2, RFC 6733 §2.1, §7.1.5 (DIAMETER_UNABLE_TO_COMPLY)",
        advice="Start the HSS, or correct hss.peers of the AAA server.",
        find=_hss_unreachable,
    ),
    Cause(
        name="hss-failed",
        title="HSS failed",
        clause="TS 29.273 §7.1.2.1.2, RFC 6733 §7.1.5 (DIAMETER_UNABLE_TO_COMPLY)",
        advice="Look at the HSS's log and at its answer on SWx.",
        find=_hss_failed,
    ),
    Cause(
        name="aaa-unable-to-comply",
        title="AAA server unable to comply",
        clause="RFC 6733 §7.1.5 (DIAMETER_UNABLE_TO_COMPLY), TS 24.302 §8.1.2.2 (NETWORK_FAILURE)",
        advice="Look at the AAA server's log; with its trace the dashboard says more.",
        find=_unable_to_comply,
    ),
    Cause(
        name="aaa-failover",
        title="Another AAA server took over",
        clause="RFC 6733 §5.5.4, TS 29.273 §7.2.3.5 (AAA-Failure-Indication)",
        advice="Nothing, if it was meant; else start the AAA server that is down.",
        find=_failed_over,
        remark=True,
    ),
    Cause(
        name="end-not-told",
        title="AAA server not told of the end",
        clause="RFC 6733 §8.4 (STR), TS 29.273 §7.1.2.3",
        advice="Nothing: the AAA server ends the session when its Session-Timeout is over.",
        find=_str_failed,
        remark=True,
    ),
)
