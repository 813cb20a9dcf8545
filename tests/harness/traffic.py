"""A ``Pair`` with data planes, traffic both ways and the UE's watch over silence: two accesses, one of which loses.

Everything is the product's but the link, which loses at random from a seed, and the accesses, which are addresses.
"""

from __future__ import annotations

import heapq
from random import Random

from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    AddressesUpdated,
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    ChildSaRetired,
    Event,
    PathSuspected,
    PathValidated,
)
from protocols.path import Datagram, Endpoint, Path
from tests.harness.pair import Node, Pair, answer_as_ue, initiator_config, responder_config
from ue.silence import SilenceWatch

A = Endpoint.of("192.0.2.1", 4500)
B = Endpoint.of("198.51.100.1", 4500)
UE_INNER, HOST_INNER = bytes([10, 45, 0, 2]), bytes([10, 99, 0, 1])
LATENCY = 0.02
HOLD_LIFETIME = 600.0


def inner_packet(source: bytes, destination: bytes, size: int = 60) -> bytes:
    """An IPv4 packet of UDP; nobody looks at its checksums."""
    udp = b"\x13\x88\x13\x88" + (size - 20).to_bytes(2, "big") + bytes(size - 26)
    header = b"\x45\x00" + size.to_bytes(2, "big") + bytes(4) + b"\x40\x11\x00\x00" + source + destination
    return header + udp


UP, DOWN = inner_packet(UE_INNER, HOST_INNER), inner_packet(HOST_INNER, UE_INNER)


class TrafficPair(Pair):
    """``up`` and ``down`` are packets a second; ``loss`` is each way, on the UE's address A only."""

    def __init__(
        self, seed: int, *, up: float, down: float, loss: float = 0.0, interval: float = 0.5, liveness: float = 120.0
    ) -> None:
        super().__init__(
            initiator_config(liveness_interval=liveness), responder_config(hold_lifetime=HOLD_LIFETIME), seed
        )
        entropy = SeededEntropy(f"planes {seed}")
        self.random = Random(seed)
        self.loss = 0.0
        self.dead: set[Endpoint] = set()
        self.watch = SilenceWatch(interval)
        self.hints = self.suspicions = 0
        self.moves: list[tuple[float, Endpoint]] = []
        self.arrived: dict[str, list[float]] = {"ue": [], "epdg": []}
        self.planes = {
            name: UserspaceDataPlane(
                entropy=entropy,
                deliver=lambda packet, spi, name=name: self._delivered(name),  # type: ignore[misc]
                transmit=lambda octets, path, encapsulated, mark, name=name: self._esp(name, octets, path),  # type: ignore[misc]
            )
            for name in ("ue", "epdg")
        }
        self.ue = Node(
            "ue",
            IkeEndpoint(
                entropy=SeededEntropy(f"ue {seed}"),
                inbound_packets=lambda spi: self.planes["ue"].counters(spi).evidence,
            ),
            answers=answer_as_ue,
        )
        self.installed: set[bytes] = set()
        self.attach()
        self.loss = loss
        self._rates = {"ue": up, "epdg": down}
        # each direction has a phase of its own
        self._due = {name: self.now + self.random.random() / rate for name, rate in self._rates.items() if rate}

    def _narrate(self, node: Node, event: Event) -> None:
        plane = self.planes[node.name]
        match event:
            case ChildSaInstalled():
                plane.install(event.spec)
                if node is self.ue:
                    self.installed.add(event.spec.inbound_spi)
            case ChildSaPathChanged():
                plane.update_path(event.inbound_spi, event.path, event.encapsulation)
            case ChildSaRetired():
                plane.retire(event.inbound_spi)
            case ChildSaRemoved():
                plane.remove(event.inbound_spi)
                self.installed.discard(event.inbound_spi)
            case PathSuspected():
                self.suspicions += 1
                self.ue.endpoint.set_addresses(self.ue.live, [A, B], self.now, tell=False)
            case AddressesUpdated() | PathValidated() if node is self.ue:
                if isinstance(event, AddressesUpdated) and event.new != event.old:
                    self.moves.append((self.now, event.new.local))
                    self.watch.moved()
                self.ue.endpoint.set_addresses(self.ue.live, None, self.now, tell=False)

    def _lost(self, sender: str, path: Path) -> bool:
        at = path.local if sender == "ue" else path.remote
        return at in self.dead or (at == A and self.random.random() < self.loss)

    def _carry(self, sender: str, datagram: Datagram) -> None:
        self.seen.append((sender, datagram))
        if not self._lost(sender, datagram.path):
            self._fly(sender, datagram)

    def _esp(self, sender: str, octets: bytes, path: Path) -> None:
        if not self._lost(sender, path):
            self._fly(f"{sender} esp", Datagram(path, octets))

    def _fly(self, sender: str, datagram: Datagram) -> None:
        self._count += 1
        arriving = Datagram(datagram.path.reversed(), datagram.payload)
        heapq.heappush(self._flying, (self.now + LATENCY, self._count, sender, arriving))

    def _delivered(self, name: str) -> None:
        self.arrived[name].append(self.now)
        if name == "ue":
            self.watch.stirred(self.now)

    def run(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass, with traffic once the pair is attached."""
        end = self.now + seconds
        while True:
            self._settle()
            ends = [node.endpoint.next_deadline() for node in (self.ue, self.epdg)]
            times = [*ends, self.watch.deadline, *getattr(self, "_due", {}).values()]
            if self._flying:
                times.append(self._flying[0][0])
            following = min((at for at in times if at is not None), default=None)
            if following is None or following > end:
                break
            self.now = max(self.now, following)
            self._arrive()
            self._send_due()
            self._look()
            for node in (self.ue, self.epdg):
                node.endpoint.handle_timeout(self.now)
            for node in (self.ue, self.epdg):
                node.events.clear()
            self.wire.clear()
        self.now = end

    def _arrive(self) -> None:
        while self._flying and self._flying[0][0] <= self.now:
            _, _, sender, datagram = heapq.heappop(self._flying)
            name, _, esp = sender.partition(" ")
            to = "epdg" if name == "ue" else "ue"
            if esp:
                self.planes[to].receive_esp(datagram.payload, datagram.path)
            else:
                (self.epdg if to == "epdg" else self.ue).endpoint.receive(datagram, self.now)

    def _send_due(self) -> None:
        for name, at in getattr(self, "_due", {}).items():
            if at <= self.now:
                self.planes[name].send_inner(UP if name == "ue" else DOWN)
                self._due[name] = at + 1.0 / self._rates[name]
                if name == "ue":
                    self.watch.stirred(self.now)

    def _look(self) -> None:
        if self.watch.deadline is None or self.watch.deadline > self.now:
            return
        counters = [self.planes["ue"].counters(spi) for spi in self.installed]
        sent, heard = sum(each.outbound_packets for each in counters), sum(each.evidence for each in counters)
        if self.watch.look(sent, heard, self.now):
            self.hints += 1
            self.ue.endpoint.suspect(self.ue.live, self.now)

    @property
    def ue_at(self) -> Endpoint:
        """Where the UE's IKE SA is."""
        return self.ue.live.path.local
