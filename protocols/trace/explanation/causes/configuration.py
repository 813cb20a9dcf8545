"""Why the UE got no inner address, and what it did not tell (RFC 7296 §2.19, TS 24.302 §7.4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.story import Story, payloads, reason_of, words
from protocols.trace.order import text_of
from protocols.trace.records import TraceRecord


def _gateway_finds(reason: str, sentence: Callable[[TraceRecord], str]) -> Callable[[Story], Iterator[Found]]:
    def matches(story: Story, record: TraceRecord) -> bool:
        name, kind = text_of(record, "name"), story.kind_of(record)
        return name == "refused" and kind == "epdg" and reason_of(record) == reason

    def find(story: Story) -> Iterator[Found]:
        for found in story.failures(lambda record: matches(story, record)):
            yield Found(sentence=sentence(found[0]), evidence=found)

    return find


def _exhausted(record: TraceRecord) -> str:
    wanted = words(record, "wanted")
    if wanted:
        return f"The inner address {wanted} that the UE asks for cannot be had in APN {words(record, 'apn')}."
    return f"No inner address is free in APN {words(record, 'apn')}: its pool is exhausted."


def _device_not_told(story: Story) -> Iterator[Found]:
    """Asked for, and the session went on."""
    asked = next((each for each in story.messages("IKE_AUTH response") if payloads(each, "N(DEVICE_IDENTITY)")), None)
    if asked is None or any(payloads(each, "N(DEVICE_IDENTITY)") for each in story.messages("IKE_AUTH request")):
        return
    for record in story.events("attached", of="epdg"):
        yield Found(
            sentence="The gateway asked for the device's identity (DEVICE_IDENTITY), and the UE did not tell its IMEI.",
            evidence=(asked, record),
        )


CONFIGURATION: tuple[Cause, ...] = (
    Cause(
        name="no-address-asked",
        title="The UE asks for no inner address",
        clause="RFC 7296 §2.19, §3.10.1 (FAILED_CP_REQUIRED), TS 24.302 §7.2.2.1",
        advice="Have the UE send CP(CFG_REQUEST) with INTERNAL_IP4_ADDRESS or INTERNAL_IP6_ADDRESS.",
        find=_gateway_finds(
            "no-address-asked",
            lambda record: (
                "The UE sent no CP(CFG_REQUEST) with an inner address: FAILED_CP_REQUIRED, for a UE of APN"
                f" {words(record, 'apn')} gets its address here."
            ),
        ),
    ),
    Cause(
        name="no-address-free",
        title="No inner address is free",
        clause="RFC 7296 §3.15.4 (INTERNAL_ADDRESS_FAILURE), TS 24.302 §7.4.1",
        advice="Enlarge apns.<APN>.pool, or look for sessions that should have ended; for an address that the UE brings"
        " along set requested_address: preferred.",
        find=_gateway_finds("no-address-free", _exhausted),
    ),
    Cause(
        name="pdn-type-not-allowed",
        title="The PDN type is not allowed",
        clause="TS 24.302 §7.4.1, §8.1.2.2, TS 29.273 §5.2.3.6",
        advice="Let the UE ask for an address of the IP version that the subscription and the APN's pools have, or add"
        " the other one there.",
        find=_gateway_finds(
            "pdn-type-not-allowed",
            lambda record: (
                f"PDN type: the UE asks for {words(record, 'asked')} and may have"
                f" {words(record, 'allowed')} in APN {words(record, 'apn')}."
            ),
        ),
    ),
    Cause(
        name="no-device-identity",
        title="The device's identity is required and missing",
        clause="TS 24.302 §7.4.1.1, §8.2.9.2",
        advice="Configure the UE's IMEI, or do not require it (ike.require_device_identity).",
        find=_gateway_finds(
            "no-device-identity",
            lambda record: (
                "The gateway asked for the device's identity (DEVICE_IDENTITY) and requires it, and the UE"
                " did not tell its IMEI."
            ),
        ),
    ),
    Cause(
        name="device-identity-not-told",
        title="The device's identity was asked for and not told",
        clause="TS 24.302 §7.2.2.1, §7.4.1.1",
        advice="Configure the UE's IMEI if equipment is to be checked; UEs may keep it to themselves.",
        find=_device_not_told,
        remark=True,
    ),
)
