"""The records of several nodes in one order: by wall clock, but never an arrival before its sending.

Wall clocks of two nodes may disagree, and on virtual time whole exchanges happen at one instant; so what
one node sent and another received is paired first. A received message belongs to the latest unpaired
sent one with the same protocol, interface, name and summary that agrees in the identifying details both
records carry (``IDENTIFYING_DETAILS``); a received datagram to the first unpaired sent one with the same
octets, whatever a NAT did to its addresses.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from protocols.trace.jsonl import in_order
from protocols.trace.records import STREAMS, JsonValue, Kind, TraceRecord

# IKE header fields, Session-Id AVP, End-to-End Identifier (a relay changes Hop-by-Hop), EAP Identifier
IDENTIFYING_DETAILS = ("spi_i", "spi_r", "message_id", "Session-Id", "end_to_end", "identifier")
CLOCK_SKEW = 0.05  # how much earlier than its sending a message may seem to arrive, seconds
EAP = "EAP"  # not an interface: carried inside SWu and SWm, and the gateway passes it through
MATCH_INTERVAL = 30.0  # how long a sent message may be under way, seconds

Place = tuple[str, int]  # a node, and the index of a record among its records


class Timeline:
    """Records by node, what they have to do with one another, and their common order."""

    def __init__(self, records: Iterable[TraceRecord]) -> None:
        self.by_node: dict[str, list[TraceRecord]] = {}
        for record in in_order(records):
            self.by_node.setdefault(record.node, []).append(record)
        for own in self.by_node.values():
            own.sort(key=lambda record: record.sequence)
        self.senders: dict[Place, Place] = {}  # arrival of a message → its sending
        self.receivers: dict[Place, Place] = {}  # sending of a message → its arrival
        self.datagram_senders: dict[Place, Place] = {}  # the same of datagrams
        self._pair_messages()
        self._pair_datagrams()

    @property
    def started(self) -> float:
        """The earliest wall clock, 0 without records."""
        return min((own[0].wall for own in self.by_node.values()), default=0.0)

    def record(self, place: Place) -> TraceRecord:
        """The record at a place."""
        return self.by_node[place[0]][place[1]]

    def places(self) -> Iterator[Place]:
        """All records: each node's in its own order, sent before received, else by wall clock."""
        ready = [(records[0].wall, (node, 0)) for node, records in self.by_node.items()]
        heapq.heapify(ready)
        waiting: dict[Place, tuple[float, Place]] = {}
        done: set[Place] = set()
        while ready or waiting:
            if not ready:  # pairs that cross: the earliest goes on without its cause
                cause = min(waiting, key=lambda cause: waiting[cause])
                done.add(cause)
                heapq.heappush(ready, waiting.pop(cause))
            wall, place = heapq.heappop(ready)
            sending = self.senders.get(place) or self.datagram_senders.get(place)
            if sending is not None and sending not in done:
                waiting[sending] = (wall, place)
                continue
            yield place
            done.add(place)
            if place in waiting:
                heapq.heappush(ready, waiting.pop(place))
            node, index = place
            if index + 1 < len(self.by_node[node]):
                heapq.heappush(ready, (self.by_node[node][index + 1].wall, (node, index + 1)))

    def _of_kind(self, kind: Kind) -> tuple[list[Place], list[Place]]:
        """The places of what was sent and of what was received, each by wall clock."""
        sent: list[Place] = []
        received: list[Place] = []
        for node, records in self.by_node.items():
            for index, record in enumerate(records):
                if record.kind is kind:
                    (sent if record.body.get("direction") == "out" else received).append((node, index))
        for places in (sent, received):
            places.sort(key=lambda place: (self.record(place).wall, place))
        return sent, received

    def _pair_messages(self) -> None:
        sent, received = self._of_kind(Kind.MESSAGE)
        unpaired: dict[tuple[str, ...], list[Place]] = {}
        for place in sent:
            unpaired.setdefault(_likeness(self.record(place)), []).append(place)
        for place in received:
            alike = unpaired.get(_likeness(self.record(place)), [])
            candidates = [sending for sending in alike if self._belongs(sending, place)]
            if not candidates:
                continue
            # of retransmissions the latest one sent before it arrived: the lost ones stay unpaired
            arrival = self.record(place).wall
            sending = max(candidates, key=lambda candidate: _nearness(self.record(candidate).wall, arrival))
            alike.remove(sending)
            self.senders[place], self.receivers[sending] = sending, place

    def _belongs(self, sending: Place, arrival: Place) -> bool:
        before, after = self.record(sending), self.record(arrival)
        if sending[0] == arrival[0] or not -CLOCK_SKEW <= after.wall - before.wall <= MATCH_INTERVAL:
            return False
        ours, theirs = detail_of(before), detail_of(after)
        return all(ours[key] == theirs[key] for key in IDENTIFYING_DETAILS if key in ours and key in theirs)

    def _pair_datagrams(self) -> None:
        sent, received = self._of_kind(Kind.DATAGRAM)
        unpaired: dict[JsonValue, deque[Place]] = {}
        for place in sent:
            payload = _unique_payload(self.record(place))
            if payload:
                unpaired.setdefault(payload, deque()).append(place)
        for place in received:
            alike = unpaired.get(_unique_payload(self.record(place)))
            if alike and alike[0][0] != place[0]:
                self.datagram_senders[place] = alike.popleft()


def text_of(record: TraceRecord, key: str) -> str:
    """A text of the record's body, empty when absent."""
    value = record.body.get(key)
    return value if isinstance(value, str) else ""


def detail_of(record: TraceRecord) -> dict[str, JsonValue]:
    """The ``detail`` of a message record without its ``payloads``, which fill pages; empty when absent."""
    detail = record.body.get("detail")
    return {key: value for key, value in detail.items() if key != "payloads"} if isinstance(detail, dict) else {}


def end_to_end(record: TraceRecord) -> TraceRecord:
    """An EAP packet is the same at both its ends (RFC 3748 §2.3), whatever carries it there."""
    if record.kind is not Kind.MESSAGE or record.body.get("protocol") != "eap":
        return record
    return replace(record, body={**record.body, "interface": EAP})


def _likeness(record: TraceRecord) -> tuple[str, ...]:
    return tuple(text_of(record, key) for key in ("protocol", "interface", "name", "summary"))


def _nearness(sending: float, arrival: float) -> tuple[bool, float]:
    return (sending <= arrival, -abs(arrival - sending))


def _unique_payload(record: TraceRecord) -> str:
    """The payload by which a datagram is known again: not a stream's pieces, not a keepalive."""
    payload = text_of(record, "payload")
    return payload if len(payload) > 2 and record.body.get("transport") not in STREAMS else ""
