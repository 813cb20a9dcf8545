"""Requests that wait for their answer on one connection (RFC 6733 §3, §6.2): matching, time-out, withdrawal."""

from __future__ import annotations

import heapq

from protocols.diameter.codec import DiameterMessage


class PendingRequests:
    """By Hop-by-Hop Identifier, with a deadline each; an answered one leaves its deadline to be skipped."""

    def __init__(self) -> None:
        self._requests: dict[int, DiameterMessage] = {}
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, hop_by_hop: int) -> bool:
        return hop_by_hop in self._requests

    def add(self, request: DiameterMessage, deadline: float) -> None:
        """A request was sent; it fails at ``deadline``."""
        self._requests[request.hop_by_hop] = request
        heapq.heappush(self._deadlines, (deadline, request.hop_by_hop))

    def take(self, answer: DiameterMessage) -> DiameterMessage | None:
        """The request of an answer, which waits no more; ``None`` when the answer belongs to none."""
        request = self._requests.get(answer.hop_by_hop)
        if (
            request is None
            or request.command != answer.command
            or request.application != answer.application
            or request.end_to_end != answer.end_to_end
        ):
            return None
        return self._requests.pop(answer.hop_by_hop)

    def withdraw(self, request: DiameterMessage) -> bool:
        """Forget a request; False when it does not wait."""
        return self._requests.pop(request.hop_by_hop, None) is not None

    def expired(self, now: float) -> list[DiameterMessage]:
        """Forget and return the requests without an answer at ``now``, earliest deadline first."""
        failed: list[DiameterMessage] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, hop_by_hop = heapq.heappop(self._deadlines)
            request = self._requests.pop(hop_by_hop, None)
            if request is not None:
                failed.append(request)
        return failed

    def next_deadline(self) -> float | None:
        """When the next request fails."""
        while self._deadlines and self._deadlines[0][1] not in self._requests:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def clear(self) -> tuple[DiameterMessage, ...]:
        """Forget and return all, in the order they were sent."""
        requests = tuple(self._requests.values())
        self._requests.clear()
        self._deadlines.clear()
        return requests
