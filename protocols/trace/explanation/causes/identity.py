"""Identities that the AAA server could not use, so that EAP took another round (RFC 4187 §4.1, TS 23.003 §19.3)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.story import Story
from protocols.trace.order import detail_of, text_of
from protocols.trace.records import TraceRecord

PERMANENT = re.compile(r"[06][0-9]{6,15}@")  # TS 23.003 §19.3.2
PSEUDONYM, REAUTHENTICATION = ("2", "7"), ("4", "8")  # §19.3.4, §19.3.5: of EAP-AKA, of EAP-AKA'
ASKED = "EAP-Request/AKA"


def _first_rounds(story: Story) -> Iterator[tuple[TraceRecord, str, TraceRecord]]:
    """What the UE said it is, and the AAA server's next packet."""
    given: dict[str | None, tuple[TraceRecord, str]] = {}
    for message in story.messages("EAP-", of="aaa"):
        if text_of(message, "direction") == "in" and text_of(message, "name") == "EAP-Response/Identity":
            given[message.session] = (message, str(detail_of(message).get("identity", "")))
        elif text_of(message, "direction") == "out" and message.session in given:
            said, identity = given.pop(message.session)
            yield said, identity, message


def _asks(message: TraceRecord) -> bool:
    return text_of(message, "name").startswith(ASKED) and text_of(message, "name").endswith("-Identity")


def _then(story: Story, asked: TraceRecord) -> str:
    """What the UE answered to a request for its identity."""
    for message in story.messages("EAP-Response/AKA", direction="in", of="aaa", after=asked):
        value = detail_of(message).get("AT_IDENTITY")
        if isinstance(value, str):
            return f" and got {bytes.fromhex(value).decode('utf-8', 'replace')}"
    return " and got none"


def _reauthentication(story: Story) -> Iterator[Found]:
    for given, identity, answer in _first_rounds(story):
        if identity.startswith(REAUTHENTICATION) and not text_of(answer, "name").endswith("-Reauthentication"):
            yield Found(
                sentence=f"The AAA server has no context for the fast re-authentication identity {identity} any more:"
                " a full authentication followed.",
                evidence=(given, answer),
            )


def _pseudonym(story: Story) -> Iterator[Found]:
    for given, identity, answer in _first_rounds(story):
        if identity.startswith(PSEUDONYM) and _asks(answer):
            yield Found(
                sentence=f"The AAA server does not know the pseudonym {identity}: it asked for another"
                f" identity{_then(story, answer)}.",
                evidence=(given, answer),
            )


def _unusable(story: Story) -> Iterator[Found]:
    for given, identity, answer in _first_rounds(story):
        known = identity.startswith((*PSEUDONYM, *REAUTHENTICATION)) or PERMANENT.match(identity)
        if not known and _asks(answer):
            yield Found(
                sentence=f"IDi {identity!r} is no NAI of an IMSI: the AAA server asked for another"
                f" identity{_then(story, answer)}.",
                evidence=(given, answer),
            )


IDENTITY: tuple[Cause, ...] = (
    Cause(
        name="reauthentication-unknown",
        title="Fast re-authentication identity unknown",
        clause="RFC 4187 §5.3, §5.1",
        advice="Nothing: contexts expire (eap.temporary.lifetime) and are for one use; if it happens each time, see"
        " that all AAA servers share the database.",
        find=_reauthentication,
        remark=True,
    ),
    Cause(
        name="pseudonym-unknown",
        title="Pseudonym unknown",
        clause="RFC 4187 §4.1.1.8, §4.1.4",
        advice="Have the AAA servers share eap.temporary.key_file, and keep older keys longer (rollovers_kept).",
        find=_pseudonym,
        remark=True,
    ),
    Cause(
        name="identity-unusable",
        title="IDi is no NAI of an IMSI",
        clause="TS 24.302 §7.2.2.1, TS 23.003 §19.3.2, RFC 4187 §4.1.4",
        advice="Let the UE say its NAI in IDi (0 or 6, the IMSI, @nai.epc.mnc….mcc….3gppnetwork.org): a round less.",
        find=_unusable,
        remark=True,
    ),
)
