"""ESP that came and was dropped (RFC 4303 §3.4): told once, when the session ends, for each reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.causes.phrases import number
from protocols.trace.explanation.story import Story, said
from protocols.trace.records import TraceRecord


def _dropped(reason: str, sentence: str) -> Callable[[Story], Iterator[Found]]:
    """``sentence`` ends behind how many of how many there were."""

    def find(story: Story) -> Iterator[Found]:
        for event in story.events("esp-dropped", of="epdg"):
            if said(event, "reason") == reason:
                yield Found(sentence=f"{_how_many(event)} {sentence}.", evidence=(event,))

    return find


def _too_big(story: Story) -> Iterator[Found]:
    for event in story.events("esp-dropped", of="epdg"):
        if said(event, "reason") == "too_big":
            count = int(number(event, "count") or 0)
            packets = "packet" if count == 1 else "packets"
            sentence = (
                f"The gateway dropped {count} {packets} to the UE: too big for the tunnel, and not to be fragmented."
            )
            yield Found(sentence=sentence, evidence=(event,))


def _how_many(event: TraceRecord) -> str:
    count, taken = int(number(event, "count") or 0), int(number(event, "inbound_packets") or 0)
    packets = "packet" if count == 1 else "packets"
    return f"The gateway dropped {count} ESP {packets} of the UE, beside {taken} that it took:"


DATA_PLANE: tuple[Cause, ...] = (
    Cause(
        name="esp-wrong-icv",
        title="ESP with a wrong ICV",
        clause="RFC 4303 §3.4.4 (integrity check value)",
        advice="Compare keys and algorithms of both ends; else the packets were changed on the way, or are forged.",
        find=_dropped("bad_icv", "their ICV is wrong"),
        remark=True,
    ),
    Cause(
        name="esp-replayed",
        title="ESP replayed",
        clause="RFC 4303 §3.4.3 (anti-replay window)",
        advice="Look for a network that doubles or much reorders packets, or for somebody who replays them.",
        find=_dropped("replayed", "they had come before, or are older than the replay window"),
        remark=True,
    ),
    Cause(
        name="esp-outside-selectors",
        title="Inner address forged",
        clause="RFC 4301 §5.2 (check of selectors), RFC 7296 §2.9",
        advice="Look at what the UE sends from: an address that is not its own, or one of before the attach.",
        find=_dropped("bad_selector", "their inner addresses are not those of the UE's traffic selectors"),
        remark=True,
    ),
    Cause(
        name="esp-malformed",
        title="ESP malformed",
        clause="RFC 4303 §2, §3.4.4",
        advice="Look at the UE's ESP: padding, Next Header and the inner packet have to make sense.",
        find=_dropped("malformed", "they make no sense inside"),
        remark=True,
    ),
    Cause(
        name="packets-too-big",
        title="Packets too big for the tunnel",
        clause="RFC 4301 §8.2.1",
        advice="Lower the MTU of the sender, or look for a firewall that drops the ICMP message which told it.",
        find=_too_big,
        remark=True,
    ),
)
