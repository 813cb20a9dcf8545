"""Why the UE does not take the gateway for what it says it is (RFC 7296 §2.15, RFC 4945, TS 33.402 §8.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.story import Story, datum, payloads, reason_of, said, words
from protocols.trace.order import text_of
from protocols.trace.records import JsonValue, TraceRecord


def _judged(reason: str, sentence: Callable[[TraceRecord], str]) -> Callable[[Story], Iterator[Found]]:
    """The UE's verdict; the gateway hears AUTHENTICATION_FAILED afterwards."""

    def find(story: Story) -> Iterator[Found]:
        for record in story.events("refused", of="ue"):
            if reason_of(record) == reason:
                yield Found(sentence=sentence(record), evidence=(record,))

    return find


def _untrusted(record: TraceRecord) -> str:
    return (
        f"The UE does not trust the gateway's certificate {words(record, 'subject')}: it {words(record, 'why')}; the"
        f" UE trusts {words(record, 'anchors')}."
    )


def _names(record: TraceRecord) -> str:
    carried = words(record, "carried") or "no name"
    return f"The gateway's certificate is for {carried}, and the UE wants {words(record, 'wanted')}."


def _changed(story: Story, end: TraceRecord, name: str) -> bool | None:
    """Whether the last message of this name arrived with other payloads than it left with; ``None``: nobody knows."""
    of = ("ue", "epdg") if name.endswith("request") else ("epdg", "ue")
    sent = story.last_before(end, name, direction="out", of=of[0])
    received = story.last_before(end, name, direction="in", of=of[1])
    return None if sent is None or received is None else _octets(sent) != _octets(received)


def _octets(record: TraceRecord) -> list[JsonValue]:
    detail = record.body.get("detail")
    listed = detail.get("payloads") if isinstance(detail, dict) else None
    found = listed if isinstance(listed, list) else []
    return [each.get("octets") for each in found if isinstance(each, dict)]


def _signature(story: Story) -> Iterator[Found]:
    for record in story.events("refused", of="ue"):
        if reason_of(record) == "signature-wrong":
            altered = _changed(story, record, "IKE_SA_INIT response")
            why = (
                ": the IKE_SA_INIT response that it covers is not the one that the gateway sent"
                if altered
                else ": it was not made with the key of its certificate, or not over what the UE received"
            )
            yield Found(sentence=f"The gateway's signature in AUTH is wrong{why}.", evidence=(record,))


def _auth(story: Story) -> Iterator[Found]:
    def matches(record: TraceRecord) -> bool:
        return text_of(record, "name") == "refused" and reason_of(record) == "auth-wrong"

    for found in story.failures(matches):
        changed = [_changed(story, found[0], f"IKE_SA_INIT {kind}") for kind in ("request", "response")]
        why = f"the two ends have different values of the {words(found[0], 'key')}"
        if True in changed:
            why = "IKE_SA_INIT, which it covers, was altered on the way"
        elif None in changed:
            why += ", or IKE_SA_INIT was altered on the way"
        yield Found(
            sentence=f"AUTH of the {words(found[0], 'of')} does not verify with the {words(found[0], 'key')}: {why}.",
            evidence=found,
        )


def _unknown(story: Story) -> Iterator[Found]:
    if story.saw("ue"):
        return
    for record in story.events("refused", of="epdg"):
        if said(record, "cause") == "AUTHENTICATION_FAILED" and datum(record, "by_peer") is True:
            certificates = _last_certificates(story, record)
            shown = f" {certificates}" if certificates else ""
            yield Found(
                sentence=f"The UE does not accept the gateway: its certificate{shown} or its signature did not"
                " convince it.",
                evidence=(record,),
            )


def _last_certificates(story: Story, record: TraceRecord) -> str:
    message = story.last_before(record, "IKE_AUTH response", direction="out", of="epdg")
    shown = [] if message is None else payloads(message, "CERT")
    return ", ".join(str(each["subject"]) for each in shown if each.get("subject"))


GATEWAY_PROOF: tuple[Cause, ...] = (
    Cause(
        name="gateway-certificate-untrusted",
        title="The gateway's certificate is not trusted",
        clause="RFC 7296 §2.15, RFC 5280 §6.1, TS 33.402 §8.2.2",
        advice="Give the UE the authority that issued the gateway's certificate (gateway.ca), or the gateway a chain"
        " that leads to one the UE has (certificate.chain).",
        find=_judged("certificate-untrusted", _untrusted),
    ),
    Cause(
        name="gateway-certificate-expired",
        title="The gateway's certificate has expired",
        clause="RFC 5280 §4.1.2.5, §6.1.3",
        advice="Renew the gateway's certificate (epdg pki), and check the UE's clock.",
        find=_judged(
            "certificate-expired",
            lambda record: (
                f"The gateway's certificate {words(record, 'subject')} expired at {words(record, 'limit')};"
                f" the UE's clock says {words(record, 'now')}."
            ),
        ),
    ),
    Cause(
        name="gateway-certificate-early",
        title="The gateway's certificate is not valid yet",
        clause="RFC 5280 §4.1.2.5, §6.1.3",
        advice="Check the clocks of the UE and of the machine that issued the certificate.",
        find=_judged(
            "certificate-early",
            lambda record: (
                f"The gateway's certificate {words(record, 'subject')} is valid from"
                f" {words(record, 'limit')} on; the UE's clock says {words(record, 'now')}."
            ),
        ),
    ),
    Cause(
        name="gateway-certificate-names",
        title="The gateway's certificate is for another name",
        clause="RFC 4945 §3.1, TS 33.402 §8.2.2",
        advice="Issue the certificate for the ePDG's FQDN (epdg pki), or set gateway.names of the UE.",
        find=_judged("certificate-names", _names),
    ),
    Cause(
        name="gateway-certificate-revoked",
        title="The gateway's certificate was revoked",
        clause="RFC 5280 §5.3, RFC 6960 §2.2, RFC 4806",
        advice="Issue another certificate for the gateway; a revoked one stays so.",
        find=_judged(
            "certificate-revoked",
            lambda record: (
                f"The gateway's certificate {words(record, 'subject')} was revoked at"
                f" {words(record, 'since')}, says {words(record, 'source')}."
            ),
        ),
    ),
    Cause(
        name="gateway-signature-wrong",
        title="The gateway's signature is wrong",
        clause="RFC 7296 §2.15, RFC 7427 §3",
        advice="See that certificate and key of the gateway belong together, and that nothing on the way alters"
        " IKE_SA_INIT.",
        find=_signature,
    ),
    Cause(
        name="auth-from-msk-wrong",
        title="AUTH does not verify with the shared key",
        clause="RFC 7296 §2.15, §2.16",
        advice="See that the AAA server sends the MSK of this EAP exchange unaltered (EAP-Master-Session-Key), and that"
        " nothing on the way alters IKE_SA_INIT.",
        find=_auth,
    ),
    Cause(
        name="gateway-not-accepted",
        title="The UE does not accept the gateway",
        clause="RFC 7296 §2.21.2",
        advice="Compare the names and the issuer of the gateway's certificate with what the UE expects: the ePDG's FQDN"
        " and the operator's authority.",
        find=_unknown,
    ),
)
