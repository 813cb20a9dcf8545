"""Message IDs, retransmission and the response cache of one IKE SA (RFC 7296 §2.1–§2.3), window size 1.

A request that is being answered elsewhere (*deferred*) absorbs its retransmissions; an answered one is
answered again with the same octets; anything else is out of the window and never answered (§2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocols.errors import LocalError
from protocols.ikev2.config import RetransmissionPolicy


class Disposition(Enum):
    """What to do with a received request."""

    NEW = "new"
    ANSWERED = "answered"
    IN_PROGRESS = "in-progress"
    OUT_OF_WINDOW = "out-of-window"


@dataclass(kw_only=True)
class OutstandingRequest:
    """The one request that awaits its response."""

    message_id: int
    octets: bytes
    attempt: int = 0


class Window:
    """Both directions' Message IDs."""

    def __init__(self, retransmission: RetransmissionPolicy) -> None:
        self._retransmission = retransmission
        self.next_request_id = 0
        self.outstanding: OutstandingRequest | None = None
        self.requests_sent = 0
        self.retransmissions_sent = 0
        self._expected_id = 0
        self._in_progress = False
        self._cached: bytes | None = None

    # -- requests we send

    def send(self, octets: bytes) -> float:
        """Record a new request; returns the interval to its first retransmission."""
        if self.outstanding is not None:
            raise LocalError("a request is outstanding and the window is 1")
        self.outstanding = OutstandingRequest(message_id=self.next_request_id, octets=octets)
        self.next_request_id += 1
        self.requests_sent += 1
        return self._retransmission.interval(0)

    def restart_initial(self) -> None:
        """IKE_SA_INIT starts anew (COOKIE, INVALID_KE_PAYLOAD): Message ID 0 again (§2.6)."""
        self.outstanding = None
        self.next_request_id = 0

    def retransmit(self) -> tuple[bytes, float] | None:
        """The octets to send again and the next interval; ``None`` when the limit is reached (§2.4)."""
        request = self.outstanding
        if request is None or request.attempt >= self._retransmission.limit:
            return None
        request.attempt += 1
        self.retransmissions_sent += 1
        return request.octets, self._retransmission.interval(request.attempt)

    def restart_retransmission(self) -> bool:
        """The next ``retransmit`` is the first again: the path changed (RFC 4555 §3.5). Is there a request?"""
        if self.outstanding is None:
            return False
        self.outstanding.attempt = -1
        return True

    def accept_response(self, message_id: int) -> bool:
        """Whether this response answers the outstanding request; if so it is outstanding no more."""
        if self.outstanding is None or self.outstanding.message_id != message_id:
            return False
        self.outstanding = None
        return True

    # -- requests we receive

    def classify(self, message_id: int) -> Disposition:
        """What to do with a received request."""
        if message_id == self._expected_id:
            return Disposition.IN_PROGRESS if self._in_progress else Disposition.NEW
        if message_id == self._expected_id - 1 and self._cached is not None:
            return Disposition.ANSWERED
        return Disposition.OUT_OF_WINDOW

    def begin(self) -> int:
        """A new request is being processed; returns its Message ID."""
        self._in_progress = True
        return self._expected_id

    @property
    def in_progress(self) -> bool:
        """Whether a received request awaits its (deferred) response."""
        return self._in_progress

    def answered(self, octets: bytes) -> None:
        """The response to the request in progress: cached until the next request (§2.1)."""
        if not self._in_progress:
            raise LocalError("no request is in progress")
        self._in_progress = False
        self._cached = octets
        self._expected_id += 1

    def cached_response(self) -> bytes:
        """The octets that answered the last request."""
        if self._cached is None:
            raise LocalError("no response is cached")
        return self._cached
