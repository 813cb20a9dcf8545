"""A UE and a gateway in network namespaces, child SAs between them in their kernels, and an eye on the wire.

::

    10.45.0.2, 2001:db8:45::2 (lo) ue ── ue0 ─────────────────────── gw0 ── gateway 192.0.2.80, 2001:db8:80::80 (lo)
                                     198.51.100.7, 203.0.113.9       192.0.2.1, 2001:db8:2::1 (lo)
                                     2001:db8:1::7
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from lab.namespaces import Namespace
from protocols.dataplane.xfrm.backend import XfrmDataPlane
from protocols.esp.sa import ChildSaSpec
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import GATEWAY_OUTER, UE_ELSEWHERE, UE_OUTER, mirrored, ue_spec

INNER = {4: ("10.45.0.2", "192.0.2.80"), 6: ("2001:db8:45::2", "2001:db8:80::80")}
UE_OUTER_6 = Endpoint.of("2001:db8:1::7", 4500)
GATEWAY_OUTER_6 = Endpoint.of("2001:db8:2::1", 4500)
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
PORT = 5000
BATCH = 64  # far fewer than the thousand that a kernel queues for a device
IN_HAND = 2  # sent and not counted as such yet, when it begins and when it ends
UE_PORTS = (4500, UE_ELSEWHERE.port)
PAYLOAD = b"a packet of a hundred octets, near enough".ljust(72, b".")
INNER_LENGTH = 20 + 8 + len(PAYLOAD)
ANSWER_INTERVAL = 10.0
ESP, UDP = 50, 17
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>


@dataclass(frozen=True)
class Seen:
    """An ESP packet on the wire."""

    octets: bytes
    source: str
    spi: int
    sequence: int
    encapsulated: bool


def esp_of(packet: bytes) -> Seen | None:
    """The ESP packet, in UDP or not, that an outer packet holds."""
    if packet[0] >> 4 == 4:
        source, protocol, start = socket.inet_ntop(socket.AF_INET, packet[12:16]), packet[9], (packet[0] & 15) * 4
    else:
        source, protocol, start = socket.inet_ntop(socket.AF_INET6, packet[8:24]), packet[6], 40
    if protocol == UDP and 4500 in (
        int.from_bytes(packet[start : start + 2], "big"),
        int.from_bytes(packet[start + 2 : start + 4], "big"),
    ):
        start += 8
    elif protocol != ESP:
        return None
    spi = int.from_bytes(packet[start : start + 4], "big")
    sequence = int.from_bytes(packet[start + 4 : start + 8], "big")
    return Seen(packet, source, spi, sequence, protocol == UDP) if spi else None


@dataclass(kw_only=True)
class Scene:
    """``ue_plane`` and ``gateway_plane`` are the two kernels'."""

    ue: Namespace
    gateway: Namespace
    ue_plane: XfrmDataPlane
    gateway_plane: XfrmDataPlane
    wire: socket.socket
    injector: socket.socket
    link_address: bytes
    inner: dict[tuple[str, int], socket.socket]
    clear: dict[str, socket.socket]
    spec: ChildSaSpec = field(default_factory=ue_spec)

    def install(self, spec: ChildSaSpec) -> ChildSaSpec:
        """Both ends of a child SA."""
        self.ue_plane.install(spec)
        self.gateway_plane.install(mirrored(spec))
        self.spec = spec
        return spec

    def move(self, path: Path, encapsulation: bool) -> None:
        """Both ends, the gateway first."""
        self.gateway_plane.update_path(self.spec.outbound_spi, path.reversed(), encapsulation)
        self.ue_plane.update_path(self.spec.inbound_spi, path, encapsulation)

    def send(self, sender: str, count: int = 1, version: int = 4, payload: bytes = PAYLOAD) -> int:
        """Packets from ``ue`` or ``gateway`` to the other; how many arrived."""
        receiver = "gateway" if sender == "ue" else "ue"
        for number in range(count):
            self.inner[sender, version].sendto(payload, (INNER[version][receiver == "gateway"], PORT))
            if number % BATCH == BATCH - 1:
                self.settle()
        return self.arrived(receiver, version)

    def settle(self) -> None:
        """Return when all packets on their way have come: one in the clear has followed them in each direction."""
        for sender, receiver in (("ue", "gateway"), ("gateway", "ue")):
            self.clear[sender].send(b"behind them")
            self.clear[receiver].recv(64)

    def arrived(self, receiver: str, version: int = 4) -> int:
        """How many packets have come to the receiver; they are taken."""
        self.settle()
        found = 0
        while True:
            try:
                self.inner[receiver, version].recv(2048, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            found += 1

    def seen(self) -> list[Seen]:
        """The ESP packets of both directions since the last time."""
        self.settle()
        found = []
        while True:
            try:
                packet = self.wire.recv(65535, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return [each for each in map(esp_of, found) if each is not None]
            found.append(packet)

    def inject(self, packet: bytes) -> None:
        """An outer packet from the UE's side of the wire; it has come in on return."""
        kind = ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6
        self.injector.sendto(packet, ("ue0", kind, 0, 0, self.link_address))
        self.settle()

    @contextmanager
    def flood(self, sender: str) -> Iterator[Flood]:
        """Packets as fast as they go, from a thread."""
        flood = Flood(self, sender)
        flood.start()
        try:
            yield flood
        finally:
            flood.stop()


class Flood:
    """What ``Scene.flood`` sends; ``sent`` and ``refused`` by the kernel are counted."""

    def __init__(self, scene: Scene, sender: str) -> None:
        self.counted: Counter[str] = Counter()
        self._scene = scene
        self._sender = sender
        self._stopping = threading.Event()
        self._batch = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flood")

    def start(self) -> None:
        """Send from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self._thread.join()

    def wait(self) -> None:
        """Return when packets have been sent meanwhile."""
        for _ in range(2):  # the first may have begun before
            self._batch.clear()
            assert self._batch.wait(ANSWER_INTERVAL), "the flood has ended"

    @contextmanager
    def beside(self) -> Iterator[Callable[[], int]]:
        """Around what is done meanwhile; afterwards, how many packets another processor can have sent beside it."""
        before = self.counted["sent"]
        after: list[int] = []
        yield lambda: after[0] - before + IN_HAND
        after.append(self.counted["sent"])

    def _run(self) -> None:
        there = (INNER[4][self._sender == "ue"], PORT)
        while not self._stopping.is_set():
            for _ in range(BATCH):
                try:
                    self._scene.inner[self._sender, 4].sendto(PAYLOAD, there)
                except OSError:
                    self.counted["refused"] += 1
                else:
                    self.counted["sent"] += 1
            self._scene.settle()
            self._batch.set()


def repeated(seen: Sequence[Seen]) -> set[tuple[int, int]]:
    """SPIs and sequence numbers that more than one packet has."""
    counted = Counter((each.spi, each.sequence) for each in seen)
    return {key for key, count in counted.items() if count > 1}


def dual_stack(spec: ChildSaSpec) -> ChildSaSpec:
    """With both versions inside."""
    return replace(
        spec,
        local_selectors=tuple(TrafficSelector.host(ends[0]) for ends in INNER.values()),
        remote_selectors=tuple(TrafficSelector.network(text) for text in ("0.0.0.0/0", "::/0")),
    )


@contextmanager
def scene() -> Iterator[Scene]:
    """Everything, and gone at the end."""
    with ExitStack() as stack:
        ue = stack.enter_context(Namespace("ue", ipv6=True))
        gateway = stack.enter_context(Namespace("gateway", ipv6=True))
        ue.connect("ue0", gateway, "gw0")
        for address in ("198.51.100.7/24", "203.0.113.9/24", "2001:db8:1::7/64"):
            ue.add_address("ue0", address)
        for address in ("198.51.100.1/24", "203.0.113.1/24", "2001:db8:1::1/64"):
            gateway.add_address("gw0", address)
        for address in ("192.0.2.1/32", "192.0.2.80/32", "2001:db8:2::1/128", "2001:db8:80::80/128"):
            gateway.add_address("lo", address)
        for address in ("10.45.0.2/32", "2001:db8:45::2/128"):
            ue.add_address("lo", address)
        ue.add_route("0.0.0.0/0", via="198.51.100.1")
        ue.add_route("::/0", via="2001:db8:1::1")
        gateway.add_route("10.45.0.2/32", via="198.51.100.7")
        gateway.add_route("2001:db8:45::2/128", via="2001:db8:1::7")
        link_address = bytes.fromhex(gateway.link_address("gw0").replace(":", ""))
        gateway.add_neighbour("gw0", UE_OUTER.address, ue.link_address("ue0"))
        gateway.add_neighbour("gw0", UE_ELSEWHERE.address, ue.link_address("ue0"))

        def outer(ports: Sequence[int]) -> list[socket.socket]:
            made = []
            for port in ports:
                for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                    each = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                    if family == socket.AF_INET6:
                        each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    each.bind((address, port))
                    made.append(each)
            return made

        def packets(interface: str) -> socket.socket:
            made = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
            made.bind((interface, ETH_P_ALL))
            return made

        def talker(version: int, address: str) -> socket.socket:
            made = stack.enter_context(socket.socket(FAMILIES[version], socket.SOCK_DGRAM))
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
            made.bind((address, PORT))
            return made

        inner = {}
        for version, (mine, theirs) in INNER.items():
            inner["ue", version] = ue.call(lambda v=version, a=mine: talker(v, a))
            inner["gateway", version] = gateway.call(lambda v=version, a=theirs: talker(v, a))

        def clear(mine: tuple[str, int], theirs: tuple[str, int]) -> socket.socket:
            made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made.bind(mine)
            made.connect(theirs)
            made.settimeout(ANSWER_INTERVAL)
            return made

        ends = {"ue": (str(UE_OUTER.address), PORT), "gateway": ("198.51.100.1", PORT)}
        made = Scene(
            clear={
                "ue": ue.call(lambda: clear(ends["ue"], ends["gateway"])),
                "gateway": gateway.call(lambda: clear(ends["gateway"], ends["ue"])),
            },
            ue=ue,
            gateway=gateway,
            ue_plane=ue.call(lambda: XfrmDataPlane(sockets=outer(UE_PORTS))),
            gateway_plane=gateway.call(lambda: XfrmDataPlane(sockets=outer((4500,)))),
            wire=gateway.call(lambda: packets("gw0")),
            injector=ue.call(lambda: packets("ue0")),
            link_address=link_address,
            inner=inner,
        )
        stack.callback(made.gateway_plane.close)
        stack.callback(made.ue_plane.close)
        yield made


PATHS = {
    4: Path(UE_OUTER, GATEWAY_OUTER),
    6: Path(UE_OUTER_6, GATEWAY_OUTER_6),
}
ELSEWHERE = Path(UE_ELSEWHERE, GATEWAY_OUTER)
