"""Packets per second of the fast data plane's core on one processor core, with one SA and with many.

    python benchmarks/fast_core.py [--octets 64 1400] [--sas 1 50000] [--rounds 7] [--output FILE]

``seal`` and ``open`` are batches of the compiled core without sockets: flow, SA lookup, replay window, AES-128-GCM,
selectors, counters. ``one`` sends all packets by the last of the SAs installed, ``all`` spreads them over all of them
in random order, so that each finds its keys out of the cache. ``python`` is the userspace data plane, one of its SAs.
Processor time of the thread; the median of several rounds, cases taking turns. ``×`` is the time of a packet to that of
the first number of SAs, by one of them, in the same round. Memory is that of both ends, per end.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from array import array
from ipaddress import ip_address
from pathlib import Path as FilePath
from statistics import median

from protocols.dataplane.fast.plane import FastDataPlane
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.suites import EspSuite
from protocols.ip import IpPacket
from protocols.path import Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector

SUITE = "aes128gcm16"
BATCH = 64  # packets of one call
BATCHES = 200  # in a round
STRIDE = 2048
REMOTE = ip_address("192.0.2.80")
GATEWAY, UE = Endpoint.of("192.0.2.1", 4500), Endpoint.of("198.51.100.7", 4500)
PACKED_PATH = b"".join(
    bytes((4,)) + end.port.to_bytes(2, "big") + end.address.packed.ljust(16, b"\x00") for end in (UE, GATEWAY)
)


def spec_of(suite: EspSuite, number: int, *, gateway: bool) -> ChildSaSpec:
    """A child SA of UE ``number``, each with its own keys, the same in both directions."""
    spi = (0x10000 + number).to_bytes(4, "big")
    key = Secret(number.to_bytes(4, "big") * (suite.encryption_key_length // 4))
    none = Secret(b"")
    ue = TrafficSelector.host(ip_address("10.0.0.0") + number)
    anything = TrafficSelector.network("0.0.0.0/0")
    return ChildSaSpec(
        inbound_spi=spi,
        outbound_spi=spi,
        suite=suite,
        inbound_encryption_key=key,
        inbound_integrity_key=none,
        outbound_encryption_key=key,
        outbound_integrity_key=none,
        local_selectors=(anything,) if gateway else (ue,),
        remote_selectors=(ue,) if gateway else (anything,),
        path=Path(GATEWAY, UE) if gateway else Path(UE, GATEWAY),
    )


def down(number: int, octets: int) -> bytes:
    """A packet to UE ``number``."""
    destination = ip_address("10.0.0.0") + number
    return IpPacket(source=REMOTE, destination=destination, protocol=253, payload=bytes(octets - 20)).encode()


def resident_kilobytes() -> int:
    for line in FilePath("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise SystemExit("/proc/self/status has no VmRSS")


class Ends:
    """A gateway that seals and the UEs' end that opens, with as many SAs."""

    def __init__(self, sas: int) -> None:
        self.sas = sas
        suite = EspSuite.of(SUITE)
        before = resident_kilobytes()
        self.gateway, self.ues = (FastDataPlane(deliver=lambda *_: None, transmit=lambda *_: None) for _ in range(2))
        for number in range(1, sas + 1):
            self.gateway.install(spec_of(suite, number, gateway=True))
            self.ues.install(spec_of(suite, number, gateway=False))
        self.chance = random.Random(sas)
        self.installed_kilobytes = (resident_kilobytes() - before) // 2

    def key_all(self) -> None:
        """A first packet of each SA: its contexts are made."""
        for first in range(1, self.sas + 1, BATCH):
            self.batch(list(range(first, min(first + BATCH, self.sas + 1))), 64)

    def batch(self, numbers: list[int], octets: int) -> tuple[float, float]:
        """Seconds to seal and to open a packet to each UE of ``numbers``."""
        slots = bytearray(b"".join(down(number, octets).ljust(STRIDE, b"\x00") for number in numbers))
        lengths, offsets = array("i", [octets] * len(numbers)), array("i", bytes(4 * len(numbers)))
        out = bytearray(len(slots))
        begin = time.thread_time()
        sealed = self.gateway.core.seal_batch(slots, STRIDE, lengths, out, STRIDE)
        middle = time.thread_time()
        opened = self.ues.core.open_batch(out, STRIDE, lengths, offsets, PACKED_PATH, 0)
        end = time.thread_time()
        if sealed != len(numbers) or opened != len(numbers):
            raise SystemExit(f"{sealed} sealed and {opened} opened of {len(numbers)}")
        return middle - begin, end - middle


class Case:
    """Packets of one length by one SA or by all of those installed."""

    def __init__(self, ends: Ends, octets: int, *, spread: bool) -> None:
        self.ends, self.octets, self.spread = ends, octets, spread
        self.seal: list[float] = []
        self.open: list[float] = []

    def measure(self) -> None:
        """One round."""
        seal = opened = 0.0
        for _ in range(BATCHES):
            first = 1 if self.spread else self.ends.sas
            numbers = [self.ends.chance.randint(first, self.ends.sas) for _ in range(BATCH)]
            times = self.ends.batch(numbers, self.octets)
            seal += times[0]
            opened += times[1]
        self.seal.append(seal)
        self.open.append(opened)

    def row(self, beside: Case) -> dict[str, object]:
        """The median round, and its times by those of another case."""
        packets = BATCH * BATCHES
        return {
            "plane": "fast",
            "sas": self.ends.sas,
            "packets_by": "all" if self.spread else "one",
            "inner_octets": self.octets,
            "seal_per_second": round(packets / median(self.seal)),
            "open_per_second": round(packets / median(self.open)),
            "seal_ratio": _ratio(self.seal, beside.seal),
            "open_ratio": _ratio(self.open, beside.open),
        }


def _ratio(ours: list[float], others: list[float]) -> float:
    return round(median(our / other for our, other in zip(ours, others, strict=True)), 2)


class PythonCase:
    """The same by the userspace data plane, one SA."""

    def __init__(self, octets: int) -> None:
        self.octets = octets
        self.packet = down(1, octets)
        self.sent: list[bytes] = []
        self.gateway, self.ues = (
            UserspaceDataPlane(
                entropy=SeededEntropy(1), deliver=lambda *_: None, transmit=lambda octets, *_: self.sent.append(octets)
            )
            for _ in range(2)
        )
        self.gateway.install(spec_of(EspSuite.of(SUITE), 1, gateway=True))
        self.ues.install(spec_of(EspSuite.of(SUITE), 1, gateway=False))
        self.seal: list[float] = []
        self.open: list[float] = []

    def measure(self) -> None:
        """One round."""
        self.sent.clear()
        begin = time.thread_time()
        for _ in range(BATCH * BATCHES // 4):
            self.gateway.send_inner(self.packet)
        middle = time.thread_time()
        path = Path(UE, GATEWAY)
        for octets in self.sent:
            self.ues.receive_esp(octets, path)
        self.seal.append(middle - begin)
        self.open.append(time.thread_time() - middle)

    def row(self) -> dict[str, object]:
        """The median round."""
        packets = BATCH * BATCHES // 4
        return {
            "plane": "python",
            "sas": 1,
            "packets_by": "one",
            "inner_octets": self.octets,
            "seal_per_second": round(packets / median(self.seal)),
            "open_per_second": round(packets / median(self.open)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octets", type=int, nargs="+", default=[64, 1400], help="inner packet lengths")
    parser.add_argument("--sas", type=int, nargs="+", default=[1, 50000], help="SAs installed at each end")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=FilePath, help="write the results there as JSON")
    arguments = parser.parse_args()
    cases: list[Case] = []
    memory = []
    for sas in arguments.sas:
        before = resident_kilobytes()
        ends = Ends(sas)
        ends.key_all()
        both = resident_kilobytes() - before
        memory.append(
            {
                "sas": sas,
                "octets_per_sa_installed": ends.installed_kilobytes * 1024 // sas,
                "octets_per_sa_one_direction_keyed": both * 512 // sas,
            }
        )
        cases += [
            Case(ends, octets, spread=spread)
            for octets in arguments.octets
            for spread in ((False, True) if sas > 1 else (False,))
        ]
    python = [PythonCase(octets) for octets in arguments.octets]
    for _ in range(arguments.rounds):
        for case in (*cases, *python):
            case.measure()
    alone = {case.octets: case for case in cases if case.ends.sas == arguments.sas[0] and not case.spread}
    rows = [case.row(alone[case.octets]) for case in cases]
    line = "{plane:7} {sas:6} {packets_by:>4} {inner_octets:6} {seal_per_second:9} {open_per_second:9}"
    print(f"{'plane':7} {'SAs':>6} {'by':>4} {'octets':>6} {'seal/s':>9} {'open/s':>9} {'seal ×':>6} {'open ×':>6}")
    for row in rows:
        print((line + " {seal_ratio:6.2f} {open_ratio:6.2f}").format(**row))
    rows += [each.row() for each in python]
    for row in rows[len(cases) :]:
        print(line.format(**row))
    if arguments.output:
        about = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "suite": SUITE,
            "rounds": arguments.rounds,
            "packets_per_round": BATCH * BATCHES,
            "packets_per_batch": BATCH,
            "memory": [each for each in memory if each["sas"] > 1],
        }
        arguments.output.write_text(json.dumps({"about": about, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
