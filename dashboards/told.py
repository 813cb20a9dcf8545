"""Reading what nodes tell: whatever is not of the expected shape counts as not told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protocols.trace.records import JsonValue


def table(told: JsonValue | Mapping[str, JsonValue], *names: str) -> Mapping[str, JsonValue]:
    """The object under these names, empty without one."""
    found: JsonValue | Mapping[str, JsonValue] = told
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def counts(told: JsonValue | Mapping[str, JsonValue]) -> Iterator[tuple[str, float]]:
    """The members that are numbers."""
    for name, value in told.items() if isinstance(told, Mapping) else ():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
