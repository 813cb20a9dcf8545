"""What a packet costs a gateway's worker when traffic is spread evenly over many SAs (``fast_loop --sas``).

One gateway's loop between its TUN device and its port 4500, in namespaces; AES-128-GCM, UDP packets of 64 octets and
1400. Each SA has a UE of its own: an inner address, and a port of one outer address, as behind a NAT. ``down``: sent to
the inner addresses by a socket in the gateway's namespace; what leaves is lost at the other end of the wire. ``up``:
sealed by a core of the UEs' and sent by a raw socket, to a host of the gateway that never reads.

Sender and worker share a processor, and the worker does not interrupt the sender (SCHED_BATCH): its turns find full
queues. The cost is the processor
time of the worker's thread, system calls included, by the packets that it sealed or opened. With one SA packets go in
trains (UDP GSO and GRO), with many of them they cannot: a few are what very many are to be compared with.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path as FilePath
from statistics import median

from protocols.dataplane.fast.plane import FastDataPlane
from protocols.esp.sa import ChildSaSpec
from protocols.ip import IpPacket
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.fast_ends import GATEWAY_OUTER, HOST_INNER, PORT, UE_NETWORKS, UE_OUTER, WIRE, End, end_in, wired
from tests.dataplane.pairs import mirrored, ue_spec

SUITE = "aes128gcm16"
FIRST_INNER = ip_address("10.45.0.1")
FIRST_PORT = 10_000
MOST = 50_000
BATCH = 64
STRIDE = 2048
NOBODY = "02:00:00:00:00:01"
INNER_PORT = 5201
HOST, GATEWAY, UES = HOST_INNER[0].ip, GATEWAY_OUTER[0].ip, UE_OUTER[0].ip


def _spec(number: int) -> ChildSaSpec:
    """The child SA of UE ``number``, its own end."""
    spi = (0x10000 + number).to_bytes(4, "big")
    return replace(
        ue_spec(SUITE, number=number, replay_window=1024),
        inbound_spi=spi,
        outbound_spi=spi,
        local_selectors=(TrafficSelector.host(FIRST_INNER + number),),
        remote_selectors=(TrafficSelector.network("0.0.0.0/0"),),
        path=Path(Endpoint(UES, FIRST_PORT + number), Endpoint(GATEWAY, PORT)),
    )


def _udp(length: int, port: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", port, INNER_PORT, length, 0) + payload.ljust(length - 8, b"\x00")


def _worker_time(thread: int) -> float:
    return int(FilePath(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) / 1e9


def _workers() -> set[int]:
    tasks = FilePath("/proc/self/task").iterdir()
    return {int(task.name) for task in tasks if (task / "comm").read_text().startswith("esp-")}


@dataclass(eq=False)
class Gateway:
    """A gateway with so many SAs, and the core of their UEs."""

    sas: int
    end: End
    ues: FastDataPlane
    thread: int
    raw: Callable[[], socket.socket]
    chance: random.Random

    def numbers(self) -> list[int]:
        return [self.chance.randrange(self.sas) for _ in range(BATCH)]

    def down(self, opened: socket.socket, octets: int) -> None:
        """One batch to UEs drawn by lot."""
        payload = bytes(octets - 28)
        for number in self.numbers():
            with contextlib.suppress(OSError):
                opened.sendto(payload, (str(FIRST_INNER + number), INNER_PORT))

    def up(self, opened: socket.socket, octets: int) -> None:
        """One batch from them."""
        numbers = self.numbers()
        inner = [
            IpPacket(source=FIRST_INNER + number, destination=HOST, protocol=17, payload=_udp(octets - 20, INNER_PORT))
            for number in numbers
        ]
        slots = bytearray(b"".join(packet.encode().ljust(STRIDE, b"\x00") for packet in inner))
        lengths, out = array("i", [octets] * BATCH), bytearray(len(slots))
        self.ues.core.seal_batch(slots, STRIDE, lengths, out, STRIDE)
        for at, number in enumerate(numbers):
            esp = bytes(out[at * STRIDE : at * STRIDE + lengths[at]])
            datagram = struct.pack(">HHHH", FIRST_PORT + number, PORT, 8 + len(esp), 0) + esp
            with contextlib.suppress(OSError):
                opened.sendto(
                    IpPacket(source=UES, destination=GATEWAY, protocol=17, payload=datagram).encode(),
                    (str(GATEWAY), 0),
                )

    def cost(self, direction: str, octets: int, seconds: float) -> tuple[float, float]:
        """Microseconds of a packet in the worker, and packets of a message."""
        if direction == "down":
            opened, send = self.end.socket(socket.AF_INET, socket.SOCK_DGRAM), self.down
        else:
            opened, send = self.raw(), self.up
        with opened:
            before, spent = self.end.counters, _worker_time(self.thread)
            _go(lambda: send(opened, octets), seconds)
            spent = _worker_time(self.thread) - spent
        after = self.end.counters
        if direction == "down":
            packets, messages = after.sealed - before.sealed, after.sent_trains - before.sent_trains
        else:
            packets, messages = after.opened - before.opened, after.received_trains - before.received_trains
        return spent * 1e6 / packets, packets / messages


def _go(send: Callable[[], None], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        send()


@contextlib.contextmanager
def _gateway(sas: int) -> Iterator[Gateway]:
    others = _workers()
    with wired() as (ues, namespace), contextlib.ExitStack() as undo:
        namespace.add_neighbour(WIRE, UES, NOBODY)
        end = end_in(namespace, HOST_INNER, UE_NETWORKS, 1)
        undo.callback(end.close)
        end.open_link(GATEWAY)
        sealing = FastDataPlane(deliver=lambda *_: None, transmit=lambda *_: None)
        for number in range(sas):
            spec = _spec(number)
            sealing.install(spec)
            end.plane.install(mirrored(spec))
        host = undo.enter_context(end.socket(socket.AF_INET, socket.SOCK_DGRAM))
        host.bind((str(HOST), INNER_PORT))
        end.loop.start()
        (thread,) = _workers() - others
        os.sched_setaffinity(thread, {min(os.sched_getaffinity(0))})
        os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        yield Gateway(
            sas=sas,
            end=end,
            ues=sealing,
            thread=thread,
            raw=lambda: ues.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)),
            chance=random.Random(sas),
        )


def measure(numbers: list[int], seconds: float, rounds: int) -> list[dict[str, float | str]]:
    """Rows and a table of them; cases take turns, ratios are medians of those within a round."""
    if max(numbers) > MOST:
        raise SystemExit(f"--sas: got {max(numbers)}, expected at most {MOST}")
    cases = [(direction, octets) for direction in ("down", "up") for octets in (64, 1400)]
    found: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as undo:
        gateways = [undo.enter_context(_gateway(sas)) for sas in numbers]
        before = os.sched_getaffinity(0)
        undo.callback(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, {min(before)})
        for _ in range(rounds):
            for direction, octets in cases:
                for gateway in gateways:
                    found.setdefault((direction, octets, gateway.sas), []).append(
                        gateway.cost(direction, octets, seconds)
                    )
    rows: list[dict[str, float | str]] = []
    print(f"{'way':5} {'octets':>6} {'SAs':>6} {'µs/packet':>9} {'per message':>11}   µs by that with fewer SAs")
    for direction, octets in cases:
        for at, sas in enumerate(numbers):
            runs = found[direction, octets, sas]
            ratios = {
                f"by_{fewer}": median(
                    ours[0] / other[0] for ours, other in zip(runs, found[direction, octets, fewer], strict=True)
                )
                for fewer in numbers[:at]
            }
            cost, messages = (median(run[which] for run in runs) for which in range(2))
            rows.append(
                {"direction": direction, "octets": octets, "sas": sas}
                | {"gateway_us_per_packet": round(cost, 3), "packets_per_message": round(messages, 2)}
                | {name: round(ratio, 3) for name, ratio in ratios.items()}
            )
            shown = "  ".join(f"{name[3:]}: {ratio:.2f}" for name, ratio in ratios.items())
            print(f"{direction:5} {octets:6} {sas:6} {cost:9.2f} {messages:11.1f}   {shown}")
    return rows
