"""What a task is: one request of ours and its response, or the answer to one of the peer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from protocols.ikev2.events import Answer
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import Payload
from protocols.ikev2.registry import ExchangeType
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


@dataclass(frozen=True, kw_only=True)
class Response:
    """The answer to the request in progress; ``close`` ends the SA after it, in these words."""

    payloads: tuple[Payload, ...] = ()
    close: str | None = None
    by_peer: bool = False


class Task(Protocol):
    """One request of ours: what it carries and what its response means."""

    @property
    def exchange(self) -> ExchangeType:
        """The exchange type of the request."""

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """The payloads; ``None`` when the task has become pointless and no request is sent."""

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Act on the response; ``RemoteError`` ends the SA."""


class Concurrent:
    """A task whose request may be outstanding together with others of the kind (RFC 7296 §2.3)."""


class Deferred(Protocol):
    """Whoever asked a question and waits for ``IkeSa.answer``."""

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> Response | None:
        """Go on; a ``Response`` answers the request in progress, ``None``: another question was asked."""
