"""A YAML form of everything: a list below ``subscribers``, each item with the fields of ``aaa.subscribers.document``.

It is read event by event, so that a file of any length takes the memory of one subscriber. Scalars are text until a
field says otherwise: ``001010000000001`` is an IMSI, quoted or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from aaa.subscribers.document import KEY_FIELDS, DocumentError, described
from aaa.subscribers.forms.entry import Advance, Document, FileProblem
from aaa.subscribers.subscriber import Subscriber
from protocols.trace.records import JsonValue

ROOT = "subscribers"
_DEEPEST = 6  # a list of subscribers with lists of APNs needs four
_NULL = frozenset({"", "~", "null"})
# the parser in C, where PyYAML was built with it, is twenty times as fast
_Loader: type[yaml.BaseLoader] | type[yaml.CBaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_yaml(file: Path, advance: Advance = lambda octets: None) -> Iterator[tuple[int, Document | DocumentError]]:
    """Line numbers and documents; ``FileProblem`` where it is no YAML or no such list."""
    try:
        with file.open("rb") as opened, _problems_of(file):
            position = 0
            for item in _items(yaml.parse(opened, _Loader), file):
                yield item
                advance(opened.tell() - position)
                position = opened.tell()
    except OSError as error:
        raise FileProblem(f"{file}: {error.strerror}") from None


@contextmanager
def _problems_of(file: Path) -> Iterator[None]:
    """What PyYAML raises as ``FileProblem``."""
    try:
        yield
    except yaml.MarkedYAMLError as problem:  # without the snippet, which may hold keys
        mark = problem.problem_mark or problem.context_mark
        where = f"{file}:{mark.line + 1}" if mark is not None else str(file)
        raise FileProblem(f"{where}: got text that does not parse, expected YAML") from None
    except (yaml.YAMLError, ValueError):
        raise FileProblem(f"{file}: got text that does not parse, expected YAML") from None


def parse_yaml(text: str, name: str) -> Iterator[tuple[int, Document | DocumentError]]:
    """The same of text that is no file; ``name`` is what problems call it."""
    with _problems_of(Path(name)):
        yield from _items(yaml.parse(text, _Loader), Path(name))


def _items(events: Iterator[yaml.Event], file: Path) -> Iterator[tuple[int, Document | DocumentError]]:
    beginning = (
        yaml.StreamStartEvent,
        yaml.DocumentStartEvent,
        yaml.MappingStartEvent,
        yaml.ScalarEvent,
        yaml.SequenceStartEvent,
    )
    for kind in beginning:
        event = next(events, None)
        wrong_root = kind is yaml.ScalarEvent and getattr(event, "value", None) != ROOT
        if not isinstance(event, kind) or wrong_root:
            raise FileProblem(f"{file}: got something else, expected a list below {ROOT}")
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        item, line = _value(event, events, file, 1), _line(event)
        if isinstance(item, dict):
            yield line, {**item}
        else:
            yield line, DocumentError("item", "no mapping", "the fields of a subscriber")
    if not isinstance(next(events, None), yaml.MappingEndEvent):
        raise FileProblem(f"{file}: got another key, expected {ROOT} alone")


def _value(event: yaml.Event, events: Iterator[yaml.Event], file: Path, depth: int) -> JsonValue:
    """The value that begins with this event."""
    where = f"{file}:{_line(event)}"
    if depth > _DEEPEST:
        raise FileProblem(f"{where}: got lists without end, expected the fields of a subscriber")
    match event:
        case yaml.ScalarEvent():
            is_null = event.style in (None, "") and event.value in _NULL
            return None if is_null else str(event.value)
        case yaml.SequenceStartEvent():
            values: list[JsonValue] = []
            while not isinstance(following := next(events), yaml.SequenceEndEvent):
                values.append(_value(following, events, file, depth + 1))
            return values
        case yaml.MappingStartEvent():
            mapping: dict[str, JsonValue] = {}
            while not isinstance(following := next(events), yaml.MappingEndEvent):
                key = str(_value(following, events, file, depth + 1))
                if key in mapping:
                    raise FileProblem(f"{file}:{_line(following)}: got {key!r} twice, expected it once")
                mapping[key] = _value(next(events), events, file, depth + 1)
            return mapping
    raise FileProblem(f"{where}: got an alias, expected values in full")


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return 0 if mark is None else mark.line + 1


def write_yaml(subscribers: Iterable[Subscriber], *, secrets: bool) -> Iterator[str]:
    """The form, a piece for each subscriber; fields that are not set are left out, as are keys without ``secrets``."""
    yield f"{ROOT}:\n"
    for subscriber in subscribers:
        described_fields = described(subscriber, secrets=secrets)
        if not secrets:
            for field in KEY_FIELDS:
                del described_fields[field]
        lines = []
        for field, value in described_fields.items():
            if field == "apns":
                assert isinstance(value, list)
                lines.append("apns:" if value else "apns: []")
                lines += [f"  - {_flow(apn)}" for apn in value]
            elif value is not None:
                lines.append(f"{field}: {json.dumps(value)}")
        yield "  - " + "\n    ".join(lines) + "\n"


def _flow(apn: JsonValue) -> str:
    """A mapping on one line, which JSON is (YAML 1.2 §1.3)."""
    assert isinstance(apn, dict)
    return json.dumps({field: value for field, value in apn.items() if value is not None})
