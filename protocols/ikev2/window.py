"""Message IDs, retransmission and the response cache of one IKE SA (RFC 7296 §2.1–§2.3), in both directions.

Windows are 1 until SET_WINDOW_SIZE says otherwise (§2.3). A request that is being answered elsewhere
(*deferred*) absorbs its retransmissions; an answered one is answered again with the same octets; anything
else is out of the window and never answered (§2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocols.errors import LocalError
from protocols.ikev2.config import RetransmissionPolicy
from protocols.ikev2.message import Header, Message
from protocols.ikev2.task import Concurrent, Task
from protocols.path import Path

LAST_MESSAGE_ID: Final = 2**32 - 1  # §2.2: an IKE SA that gets there is closed; our last one carries the DELETE
PEER_SIZE_MAXIMUM: Final = 16  # what we keep of our own requests, whatever the peer promises to take


class Disposition(Enum):
    """What to do with a received request."""

    NEW = "new"
    ANSWERED = "answered"
    IN_PROGRESS = "in-progress"
    OUT_OF_WINDOW = "out-of-window"


@dataclass(frozen=True, kw_only=True)
class Received:
    """A message as it came: on which path, in how many fragments, the largest of them in octets."""

    message: Message
    path: Path
    fragments: int = 1
    largest: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A message and the datagrams that carry it; ``size`` is that of the IP datagrams they were to fit in."""

    message: Message
    datagrams: tuple[bytes, ...]
    size: int


@dataclass(kw_only=True)
class OutstandingRequest:
    """A request of ours that awaits its response."""

    task: Task
    sent: Sent
    due: float
    attempt: int = 0

    @property
    def message_id(self) -> int:
        """The Message ID that the response will have."""
        return self.sent.message.message_id


@dataclass(kw_only=True)
class Answered:
    """A request of the peer's with our response, kept in case the response was lost, as it may have been so often."""

    request: Received
    response: Sent
    repeated: int = 0


class Window:
    """Both directions' Message IDs. ``size`` is what we announced, ``peer_size`` what the peer did."""

    def __init__(self, retransmission: RetransmissionPolicy) -> None:
        self._retransmission = retransmission
        self.size = 1
        self.peer_size = 1
        self.next_request_id = 0
        self.requests_sent = 0
        self.retransmissions_sent = 0
        self._outstanding: dict[int, OutstandingRequest] = {}
        self._expected_id = 0  # the lowest Message ID that we have not answered
        self._in_progress: dict[int, Received] = {}
        self._answered: dict[int, Answered] = {}

    # -- requests we send

    @property
    def outstanding(self) -> OutstandingRequest | None:
        """The oldest request that awaits its response."""
        return next(iter(self._outstanding.values()), None)

    @property
    def exhausted(self) -> bool:
        """Whether the Message IDs of either end are used up, but for one of ours (§2.2)."""
        return self.next_request_id >= LAST_MESSAGE_ID or self._expected_id > LAST_MESSAGE_ID

    def may_send(self, task: Task) -> bool:
        """Whether the peer's window (§2.3) and what is outstanding let this task's request leave now."""
        oldest = self.outstanding
        if oldest is None:
            return True
        together = isinstance(task, Concurrent) and all(
            isinstance(other.task, Concurrent) for other in self._outstanding.values()
        )
        return together and self.next_request_id - oldest.message_id < self.peer_size

    def send(self, task: Task, sent: Sent, now: float) -> None:
        """Record a new request."""
        if not self.may_send(task):
            raise LocalError("the peer's window is full")
        self._outstanding[self.next_request_id] = OutstandingRequest(
            task=task, sent=sent, due=now + self._retransmission.interval(0)
        )
        self.next_request_id += 1
        self.requests_sent += 1

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Whose requests are outstanding."""
        return tuple([request.task for request in self._outstanding.values()])

    def forget(self) -> None:
        """Nothing is outstanding any more."""
        self._outstanding.clear()

    def restart_initial(self) -> None:
        """IKE_SA_INIT starts anew (COOKIE, INVALID_KE_PAYLOAD): Message ID 0 again (§2.6)."""
        self._outstanding.clear()
        self.next_request_id = 0

    def next_retransmission(self) -> float | None:
        """When a request is to be sent again."""
        return min((request.due for request in self._outstanding.values()), default=None)

    def due(self, now: float) -> list[OutstandingRequest]:
        """The requests whose interval is over."""
        return [request for request in self._outstanding.values() if request.due <= now]

    def retransmit(self, request: OutstandingRequest, now: float) -> bool:
        """Count one more transmission of a request; ``False`` when the limit is reached (§2.4)."""
        if request.attempt >= self._retransmission.limit:
            return False
        request.attempt += 1
        request.due = now + self._retransmission.interval(request.attempt)
        self.retransmissions_sent += 1
        return True

    def restart_retransmission(self, now: float) -> bool:
        """The next transmission is the first again: the path changed (RFC 4555 §3.5). Is there a request?"""
        for request in self._outstanding.values():
            request.attempt = -1
            request.due = now
        return bool(self._outstanding)

    def request_for(self, message: Message | Header) -> OutstandingRequest | None:
        """The outstanding request that a response may answer."""
        request = self._outstanding.get(message.message_id)
        return request if request is not None and request.sent.message.exchange == message.exchange else None

    def completed(self, request: OutstandingRequest) -> None:
        """Its response has come."""
        del self._outstanding[request.message_id]

    def reinstate(self, request: OutstandingRequest) -> None:
        """What came was no answer after all: the request is outstanding again."""
        self._outstanding[request.message_id] = request

    # -- requests we receive

    def classify(self, message_id: int) -> Disposition:
        """What to do with a received request."""
        if message_id in self._answered:
            return Disposition.ANSWERED
        if message_id in self._in_progress:
            return Disposition.IN_PROGRESS
        if self._expected_id <= message_id < self._expected_id + self.size:
            return Disposition.NEW
        return Disposition.OUT_OF_WINDOW

    def begin(self, request: Received) -> None:
        """A request is being processed, or has come again on another path."""
        self._in_progress[request.message.message_id] = request

    def in_progress(self, message_id: int) -> Received | None:
        """The request with this Message ID while it awaits its response."""
        return self._in_progress.get(message_id)

    def known_request(self, message_id: int) -> Received | None:
        """The request with this Message ID if it has been received already."""
        known = self._answered.get(message_id)
        return self._in_progress.get(message_id) if known is None else known.request

    def answered(self, request: Received, response: Sent) -> None:
        """The response to a request in progress: cached as long as the request can come again (§2.1, §2.3)."""
        message_id = request.message.message_id
        if self._in_progress.pop(message_id, None) is None:
            raise LocalError("the request is not in progress")
        self._answered[message_id] = Answered(request=request, response=response)
        while self._expected_id in self._answered:
            self._expected_id += 1
        # who sends request X has the responses to all up to X minus the window size
        oldest = max(self._answered) - self.size
        for old in [known for known in self._answered if known <= oldest and known < self._expected_id]:
            del self._answered[old]

    def answer_to(self, message_id: int) -> Answered | None:
        """What was answered to the request with this Message ID, while it is cached."""
        return self._answered.get(message_id)
