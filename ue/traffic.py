"""Flows of echo requests through the tunnel, each driven on the running loop and keeping its score."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from itertools import count

from protocols.dataplane.userspace.host import FLOW_PORT, EchoClient, FlowKind, FlowStatistics
from protocols.errors import LocalError
from protocols.io.driver import Driver
from protocols.path import Address

FLOWS_KEPT = 4
DEFAULT_RATE = 50.0  # packets per second, as many as a voice codec sends
RATE_MAXIMUM = 2000.0  # packets per second; one process is no traffic generator


class _Sender:
    """An ``EchoClient`` in the shape that a driver drives."""

    def __init__(self, client: EchoClient) -> None:
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

    def __init__(
        self, number: int, client: EchoClient, send: Callable[[bytes], bool], limit: int | None = None
    ) -> None:
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
        if self._limit is not None and self.client.sent >= self._limit:
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
        if self._all_sent.is_set() and self.client.received == self.client.sent:
            self._all_answered.set()
        return own

    async def finished(self, patience: float) -> None:
        """Return when a limited flow has all its answers, or so many seconds after its last request."""
        await self._all_sent.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._all_answered.wait()

    def statistics(self, since: float | None, until: float | None) -> FlowStatistics:
        """The score between two moments of the loop's clock."""
        self.client.handle_timeout(self._driver.now())  # tells it the time; what is due goes out
        self._driver.pump()
        return self.client.statistics(since, until)


class Flows:
    """All flows of a UE; the latest is meant where none is named."""

    def __init__(self, send: Callable[[bytes], bool], numbers: Iterator[int] | None = None) -> None:
        """``numbers`` of flows, shared by the PDN connections of a UE."""
        self._send = send
        self._flows: dict[int, Flow] = {}
        self._started = 0
        self.numbers = numbers or count(1)

    def start(
        self, kind: FlowKind, source: Address, destination: Address, rate: float, limit: int | None = None
    ) -> Flow:
        """Begin another flow of ``rate`` packets per second, of ``limit`` packets where there is one."""
        if not 0 < rate <= RATE_MAXIMUM:
            raise LocalError(
                f"a rate of {rate:g} packets per second; above 0 and at most {RATE_MAXIMUM:g} are possible"
            )
        self._started = next(self.numbers)
        client = EchoClient(
            source=source,
            destination=destination,
            kind=kind,
            interval=1 / rate,
            identifier=FLOW_PORT + self._started % (0x10000 - FLOW_PORT),
        )
        flow = Flow(self._started, client, self._send, limit)
        self._flows[flow.number] = flow
        while len(self._flows) > FLOWS_KEPT:
            self._flows.pop(next(iter(self._flows))).stop()
        flow.start()
        return flow

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
