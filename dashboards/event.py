"""What happens, as one event for all who follow: its place, its name, its JSON; and which of them somebody wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


def as_json(data: object) -> str:
    """As events have it."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


class Told(NamedTuple):
    """An event's name and its JSON."""

    name: str
    data: str


Lookup = Callable[[Sequence[str]], Coroutine[Any, Any, Mapping[str, Told]]]


class Event:
    """One event: its place, its name, what it is about, and its JSON, ``None`` while that has to be asked for."""

    __slots__ = ("_data", "asked", "lookup", "name", "sequence", "session")

    def __init__(
        self,
        sequence: int,
        name: str,
        data: str | Callable[[], str] | None,
        session: str | None,
        lookup: Lookup | None = None,
    ) -> None:
        self.sequence = sequence
        self.name = name
        self.session = session
        self.lookup = lookup  # where to ask; None once that has been done
        self.asked: asyncio.Task[None] | None = None
        self._data = data

    @property
    def data(self) -> str | None:
        """Made when it is looked at first."""
        if callable(self._data):
            self._data = self._data()
        return self._data

    def may_be(self, names: Container[str]) -> bool:
        """Whether it has one of these names, or may turn out to have it when it is asked for."""
        return self.name in names or (self.lookup is not None and "session-gone" in names)

    def learn(self, told: Told | None) -> None:
        """The answer is here; ``None``: nobody knows."""
        self.lookup = self.asked = None
        if told is not None:
            self.name, self._data = told


Filter = Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events of these names; with ``sessions`` only what is about one of them, or about none."""

    names: frozenset[str]
    sessions: frozenset[str] | None = None

    def __call__(self, event: Event) -> bool:
        return event.may_be(self.names) and (
            self.sessions is None or event.session is None or event.session in self.sessions
        )
