"""Flows through the tunnel, each driven on the running loop and keeping its score.

Echo requests (ICMP, UDP), a voice call, or records that a TCP echo service sends back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import count
from typing import Protocol

from protocols.dataplane.userspace.clients import StreamKind, TcpClient, VoiceClient
from protocols.dataplane.userspace.host import FLOW_PORT, EchoClient, FlowKind, FlowStatistics
from protocols.entropy import Entropy
from protocols.errors import LocalError
from protocols.io.driver import Driver
from protocols.ip import TCP, UDP, icmp_of
from protocols.media.log import Entry, Figures
from protocols.media.voice import VoiceStatistics
from protocols.path import Address
from protocols.trace.records import JsonValue

FLOWS_KEPT = 4
DEFAULT_RATE = 50.0  # packets per second, as many as a voice codec sends
RATE_MAXIMUM = 2000.0  # packets per second; one process is no traffic generator

RECENT_INTERVAL = 10.0
KINDS: dict[str, FlowKind | StreamKind] = {kind.value: kind for kinds in (FlowKind, StreamKind) for kind in kinds}

Client = EchoClient | VoiceClient | TcpClient


class _Sender:
    """A client in the shape that a driver drives."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def poll_event(self) -> None:
        """A flow has no events."""

    def poll_transmit(self) -> bytes | None:
        return self._client.poll_packet()

    def next_deadline(self) -> float | None:
        return self._client.next_deadline()

    def handle_timeout(self, now: float) -> None:
        self._client.handle_timeout(now)


class Flow:
    """One flow and what drives it."""

    def __init__(self, number: int, client: Client, send: Callable[[bytes], bool], limit: int | None = None) -> None:
        self.number = number
        self.client = client
        self._limit = limit
        self._all_sent = asyncio.Event()
        self._all_answered = asyncio.Event()
        self._send = send
        self._driver: Driver[None, bytes] = Driver(
            _Sender(client), on_event=lambda event: None, transmit=self._transmit
        )

    def _transmit(self, packet: bytes) -> None:
        if self._limit is not None and isinstance(self.client, EchoClient) and self.client.sent >= self._limit:
            self.client.stop(self._driver.now())
            self._all_sent.set()
        self._send(packet)  # what no SA takes is lost, and the flow's score says so

    def start(self) -> None:
        """Send from now on."""
        self.client.start(self._driver.now())
        self._driver.pump()

    def stop(self) -> None:
        """Send no more; answers still count."""
        self.client.stop(self._driver.now())
        self._driver.pump()

    def receive(self, packet: bytes) -> bool:
        """Whether a packet answers a request of this flow."""
        own = self.client.receive(packet, self._driver.now())
        client = self.client
        if isinstance(client, EchoClient):
            if self._all_sent.is_set() and client.received == client.sent:
                self._all_answered.set()
        elif own:
            self._driver.pump()  # a stream answers, and its deadlines move
        return own

    async def finished(self, patience: float) -> None:
        """Return when a limited flow has all its answers, or so many seconds after its last request."""
        await self._all_sent.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._all_answered.wait()

    def view(self, since: float | None, until: float | None) -> dict[str, JsonValue]:
        """The score between two moments of the loop's clock, by name."""
        self._tell_the_time()
        client = self.client
        now = self._driver.now()
        if isinstance(client, EchoClient):
            return {**asdict(self.statistics(since, until)), "duplicates": client.duplicates}
        if isinstance(client, TcpClient):
            return dict(asdict(client.statistics(now, since, until)))
        seen = client.statistics(now, since, until)
        opinions = {"uplink": seen.outbound_opinion, "downlink": seen.inbound_opinion}
        return {
            "ssrc": client.call.ssrc,
            "uplink": _figures(seen.outbound),
            "downlink": _figures(seen.inbound),
            "in_flight": seen.in_flight,
            "mos": {name: None if each is None else round(each.mos, 3) for name, each in opinions.items()},
        }

    def recent(self) -> dict[str, JsonValue]:
        """The score for a list of flows: of a voice call its last ten seconds, the whole of it takes a while."""
        return self.view(self._driver.now() - RECENT_INTERVAL if isinstance(self.client, VoiceClient) else None, None)

    def log(self, since: float | None, until: float | None, wall: Callable[[float], float]) -> dict[str, JsonValue]:
        """What this end of a voice call has sent and received; ``LocalError`` for another flow."""
        self._tell_the_time()
        if not isinstance(self.client, VoiceClient):
            raise LocalError(f"flow {self.number} is no voice call and has no log")
        call = self.client.call
        return {
            "ssrc": call.ssrc,
            "sent": _entries(call.sent_log(since, until), wall),
            "received": _entries(call.received_log(since, until), wall),
        }

    def statistics(self, since: float | None = None, until: float | None = None) -> FlowStatistics:
        """The score of echo requests; ``LocalError`` for another flow."""
        self._tell_the_time()
        if not isinstance(self.client, EchoClient):
            raise LocalError(f"flow {self.number} sends no echo requests")
        return self.client.statistics(since, until)

    def call_statistics(self, since: float, until: float) -> VoiceStatistics:
        """The score of a voice call between two moments of the loop's clock; ``LocalError`` for another flow."""
        self._tell_the_time()
        if not isinstance(self.client, VoiceClient):
            raise LocalError(f"flow {self.number} is no voice call")
        return self.client.statistics(self._driver.now(), since, until)

    def _tell_the_time(self) -> None:
        """What is due goes out."""
        self.client.handle_timeout(self._driver.now())
        self._driver.pump()


class Reservations(Protocol):
    """Who must know which ports are a flow's: ``protocols.io.aside.PacketPort``, say."""

    def reserve(self, protocol: int, address: Address, port: int) -> None:
        """Before the first packet; ``StackError`` when it cannot be. Of ICMP ``port`` is the echo identifier."""

    def release(self, protocol: int, address: Address, port: int) -> None:
        """Nothing more is expected; again is harmless."""


class Flows:
    """All flows of a UE; the latest is meant where none is named."""

    def __init__(
        self,
        send: Callable[[bytes], bool],
        entropy: Entropy,
        numbers: Iterator[int] | None = None,
        *,
        reservations: Reservations | None = None,
    ) -> None:
        """``numbers`` of flows, shared by the PDN connections of a UE.

        ``reservations`` has the port of a flow as long as it is remembered and the inner address is there.
        """
        self._send = send
        self._entropy = entropy
        self._reservations = reservations
        self._reserved: dict[int, tuple[int, Address, int]] = {}
        self._flows: dict[int, Flow] = {}
        self._started = 0
        self.numbers = numbers or count(1)

    def start(
        self, kind: FlowKind | StreamKind, source: Address, destination: Address, rate: float, limit: int | None = None
    ) -> Flow:
        """Begin another flow: ``rate`` packets or records per second, ``limit`` echo requests where there is one.

        ``LocalError`` for a rate that is not possible, ``StackError`` when the port cannot be reserved.
        """
        if not 0 < rate <= RATE_MAXIMUM:
            raise LocalError(
                f"a rate of {rate:g} packets per second; above 0 and at most {RATE_MAXIMUM:g} are possible"
            )
        number = next(self.numbers)
        port = FLOW_PORT + number % (0x10000 - FLOW_PORT)
        client = self._client(kind, source, destination, 1 / rate, port)
        self._reserve(number, (_protocol_of(kind, source), source, port))
        flow = Flow(number, client, self._send, limit)
        self._started = number
        self._flows[number] = flow
        while len(self._flows) > FLOWS_KEPT:
            oldest = self._flows.pop(next(iter(self._flows)))
            oldest.stop()
            self._release(oldest.number)
        flow.start()
        return flow

    def _reserve(self, number: int, reservation: tuple[int, Address, int]) -> None:
        if self._reservations is not None:
            self._reservations.reserve(*reservation)
            self._reserved[number] = reservation

    def _release(self, number: int) -> None:
        reservation = self._reserved.pop(number, None)
        if self._reservations is not None and reservation is not None:
            self._reservations.release(*reservation)

    def _client(
        self, kind: FlowKind | StreamKind, source: Address, destination: Address, interval: float, port: int
    ) -> Client:
        if isinstance(kind, FlowKind):
            return EchoClient(source=source, destination=destination, kind=kind, interval=interval, identifier=port)
        stream = VoiceClient if kind is StreamKind.VOICE else TcpClient
        return stream(source=source, destination=destination, interval=interval, port=port, entropy=self._entropy)

    def find(self, number: int | None = None) -> Flow:
        """A flow, ``LocalError`` when there is none."""
        flow = self._flows.get(self._started if number is None else number)
        if flow is None:
            raise LocalError("no traffic was started" if number is None else f"there is no flow {number}")
        return flow

    def all(self) -> tuple[Flow, ...]:
        """The flows that are remembered, oldest first."""
        return tuple(self._flows.values())

    def receive(self, packet: bytes) -> bool:
        """Whether a packet from the tunnel answers one of the flows."""
        return any(flow.receive(packet) for flow in self._flows.values())

    def stop_all(self) -> None:
        """The inner address is gone."""
        for flow in self._flows.values():
            flow.stop()
            self._release(flow.number)


def _protocol_of(kind: FlowKind | StreamKind, source: Address) -> int:
    """What a flow's packets carry."""
    if kind is FlowKind.ICMP:
        return icmp_of(source)
    return TCP if kind is StreamKind.TCP else UDP


def _figures(figures: Figures) -> JsonValue:
    view: dict[str, JsonValue] = dict(asdict(figures))
    for name in ("longest_gap_ms", "jitter_ms"):
        value = view[name]
        view[name] = round(value, 3) if isinstance(value, float) else value
    return view


def _entries(log: Iterable[Entry], wall: Callable[[float], float]) -> JsonValue:
    return [[sequence, wall(moment)] for sequence, moment in log]
