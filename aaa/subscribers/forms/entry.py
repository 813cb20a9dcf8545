"""What one line or item of a file gave: a subscriber, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from aaa.subscribers.document import DocumentError, subscriber_from
from aaa.subscribers.subscriber import Subscriber
from protocols.errors import LocalError


class FileProblem(LocalError):
    """A file that cannot be read as a whole; one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A subscriber or a problem, and the line of the file where it stands (from 1)."""

    line: int
    subscriber: Subscriber | None = None
    problem: DocumentError | None = None


Document = dict[str, object]
Advance = Callable[[int], None]


def entries(
    documents: Iterable[tuple[int, Document | DocumentError]], defaults: Mapping[str, object]
) -> Iterator[Entry]:
    """Subscribers of documents; ``defaults`` are for the fields that a document leaves out.

    An IMSI that the file has had before is a problem.
    """
    lines: dict[str, int] = {}
    for line, document in documents:
        try:
            if isinstance(document, DocumentError):
                raise document
            subscriber = subscriber_from({**defaults, **document})
            imsi = str(subscriber.imsi)
            if imsi in lines:
                raise DocumentError("imsi", repr(imsi), f"every IMSI once, and line {lines[imsi]} has it")
        except DocumentError as problem:
            yield Entry(line=line, problem=problem)
        else:
            lines[imsi] = line
            yield Entry(line=line, subscriber=subscriber)
