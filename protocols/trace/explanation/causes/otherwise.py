"""What no other cause explains: the words of the node that refused."""

from __future__ import annotations

from collections.abc import Iterator

from protocols.trace.explanation.cause import Cause, Found
from protocols.trace.explanation.story import Story, datum
from protocols.trace.order import text_of
from protocols.trace.records import TraceRecord


def _refused(story: Story) -> Iterator[Found]:
    def matches(record: TraceRecord) -> bool:
        echo = story.kind_of(record) == "epdg" and datum(record, "by_peer") is True and story.saw("ue")
        return text_of(record, "name") == "refused" and datum(record, "cause") != "cancelled" and not echo

    for found in story.failures(matches):
        # the UE hears of it last and knows least
        telling = next((record for record in found if story.kind_of(record) != "ue"), found[-1])
        yield Found(sentence=text_of(telling, "text").rstrip(".") + ".", evidence=found)


OTHERWISE: tuple[Cause, ...] = (
    Cause(
        name="refused-otherwise",
        title="Refused",
        clause="RFC 7296 §2.21, TS 24.302 §8.1.2",
        advice="Read the messages before it: no cause of the catalogue explains this refusal.",
        find=_refused,
        fallback=True,
    ),
)
