"""The data planes side by side on this machine: ours and strongSwan's kernel-libipsec, in one run.

    python -m benchmarks.data_plane [--rounds 3] [--seconds 5] [--only NAME ...] [--page docs/performance.md]
                                    [--results benchmarks/results/data_plane.json]

Needs root, Debian's strongSwan and iperf3 (``make bench``). Every round measures every contestant
(``benchmarks.contestants``) on a stage of its own: one TCP flow each way, the gateway's processor time for a packet of
1400 octets, packets of 64 octets a second with 2 % lost at most, and three times as many for some time. Then, in this
process, what one of our packets costs with more and more SAs installed. Medians count. The page is written from the
results; it says so where the machine was not quiet, the run short, or not everybody took part. ``--rounds 0`` measures
nothing and writes the page anew.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS, STRONGSWAN, Contestant
from benchmarks.esp import PATH, REMOTE, SystemEntropy, spec_of
from benchmarks.strongswan_moves import version
from benchmarks.tunnel_load import cost, overload, small_packets, tcp
from protocols.dataplane.fast.plane import ipsec_mb
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.ikev2.suites import EspSuite
from protocols.ip import IpPacket
from protocols.trace.records import JsonValue
from tests.peers.strongswan import CHARON

RESULTS = Path("benchmarks/results/data_plane.json")
PAGE = Path("docs/performance.md")
ROUNDS, SECONDS = 3, 5.0
OVERLOAD_SECONDS = 10.0
INSTALLED = (1, 1000, 50_000)
BATCH = 2000
SUITE = EspSuite.of("aes128gcm16")
LOAD_MAXIMUM = 0.3  # processes that want a processor, at the start of a run that counts
OTHERS_MAXIMUM = 0.03  # share of the machine's processor time that somebody else took meanwhile
DASH = "–"
HEADER = """# What the data plane carries

Written by `make bench` (`python -m benchmarks.data_plane`) from `benchmarks/results/data_plane.json`: a UE and a
gateway of one kind in namespaces of one machine, joined by veth links, AES-128-GCM in UDP, traffic to a host behind the
gateway. Both ends, sender and receiver share the machine's processors. Cells are the median (lowest to highest); ratios
are to strongSwan's, in the same run.
"""
SAS_HEADER = """
## SAs installed

Processor time for one of our packets of 1400 octets each way, AES-128-GCM, in one process, µs.
"""

FIGURES: Mapping[str, tuple[str, float, int]] = {  # name: title, factor, digits
    "uplink_gbit_s": ("one TCP flow, uplink, Gbit/s", 1, 2),
    "downlink_gbit_s": ("one TCP flow, downlink, Gbit/s", 1, 2),
    "uplink_packet_us": ("gateway's processor time for a packet of that flow, uplink, µs", 1, 2),
    "downlink_packet_us": ("the same, downlink, µs", 1, 2),
    "large_packet_us": ("the same for packets of 1400 octets one by one, 6,000 a second, µs", 1, 1),
    "small_packets_s": ("packets of 64 octets a second, loss up to 2 %, thousands", 1e-3, 1),
    "small_packets_s_per_core": ("the same for each processor that the gateway took, thousands", 1e-3, 1),
    "overload_goodput_s": ("of three times as many arrive a second, thousands", 1e-3, 1),
    "overload_memory_octets": ("what the gateway's memory grew by meanwhile, MB", 1e-6, 1),
    "overload_ping_median_ms": ("a ping beside it, median, ms", 1, 1),
    "overload_ping_worst_ms": ("a ping beside it, worst, ms", 1, 1),
    "overload_ping_lost": ("pings lost", 1, 0),
}


def measured(contestant: Contestant, seconds: float, overload_seconds: float) -> dict[str, JsonValue]:
    """Everything of one contestant, on a stage of its own."""
    with contextlib.redirect_stdout(io.StringIO()), contestant.open() as tunnel:  # the nodes' logs
        figures = {**tcp(tunnel, seconds), **cost(tunnel, seconds)}
        small, capable = small_packets(tunnel, min(1.0, seconds))
        return {**figures, **small, **overload(tunnel, capable, overload_seconds)}


# --- in this process: more and more SAs -----------------------------------------------------------------------


def installed(number: int, octets: int = 1400) -> dict[str, JsonValue]:
    """Microseconds for a packet each way at a gateway with so many SAs, the packets of 100 SAs all over the table."""
    gateway = UserspaceDataPlane(
        entropy=SystemEntropy(),
        deliver=lambda packet, spi: None,
        transmit=lambda packet, path, encapsulation, traffic_class: None,
    )
    for each in range(1, number + 1):
        gateway.install(spec_of(SUITE, each, gateway=True))
    chosen = range(1, number + 1, max(1, number // 100))
    down, up = [], []
    for each in chosen:
        ue = ip_address("10.45.0.0") + each
        down.append(IpPacket(source=REMOTE, destination=ue, protocol=253, payload=bytes(octets - 20)).encode())
        up.append(IpPacket(source=ue, destination=REMOTE, protocol=253, payload=bytes(octets - 20)).encode())
        gateway.send_inner(down[-1])  # keys the context
    packets = [down[index % len(down)] for index in range(BATCH)]
    begun = time.process_time()
    for packet in packets:
        gateway.send_inner(packet)
    sent = time.process_time() - begun
    first, sealed = _sealed(chosen, up)
    for packet in first:
        gateway.receive_esp(packet, PATH)
    begun = time.process_time()
    for packet in sealed:
        gateway.receive_esp(packet, PATH)
    received = time.process_time() - begun
    if gateway.drops:
        raise SystemExit(f"with {number} SAs packets were dropped: {gateway.drops}")
    return {"installed": number, "send_us": sent / BATCH * 1e6, "receive_us": received / len(sealed) * 1e6}


def _sealed(numbers: Sequence[int], packets: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """ESP of the UEs with these numbers: the first packet of each, and many more in turns."""
    transmitted: list[bytes] = []
    ues = UserspaceDataPlane(
        entropy=SystemEntropy(),
        deliver=lambda packet, spi: None,
        transmit=lambda packet, path, encapsulation, traffic_class: transmitted.append(packet),
    )
    for number in numbers:
        ues.install(spec_of(SUITE, number, gateway=False))
    for index in range(len(packets) + BATCH):
        ues.send_inner(packets[index % len(packets)])
    return transmitted[: len(packets)], transmitted[len(packets) :]


def _medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("send_us", "receive_us")
    return {"installed": rounds[0]["installed"], **{n: statistics.median(each[n] for each in rounds) for n in names}}


# --- how far the figures can be trusted -----------------------------------------------------------------------


class Quietness:
    """What others did on the machine while we measured: their share of its processor time."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0]
        self._total, self._busy = self._machine()
        self._ours = self._own()

    def others(self) -> float:
        """The share of all processor time that went to programs that are not ours."""
        total, busy = self._machine()
        ours = self._own() - self._ours
        return max(0.0, (busy - self._busy) - ours) / (total - self._total)

    @staticmethod
    def _machine() -> tuple[float, float]:
        """Seconds of all processors, and those in programs (proc(5): user, nice, system); interrupts are nobody's."""
        ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(ticks) / os.sysconf("SC_CLK_TCK"), sum(ticks[:3]) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own() -> float:
        found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in found)


def about(
    quiet: Quietness, rounds: int, seconds: float, overload_seconds: float, names: Sequence[str]
) -> dict[str, Any]:
    """The machine, the versions, and why the figures are provisional, if they are."""
    others, why = quiet.others(), []
    if quiet.load > LOAD_MAXIMUM:
        why.append(f"the machine's load was {quiet.load:.1f} at the start")
    if others > OTHERS_MAXIMUM:
        why.append(f"other programs took {others:.0%} of the processors meanwhile")
    if rounds < ROUNDS or seconds < SECONDS or overload_seconds < OVERLOAD_SECONDS:
        why.append(f"the run was short ({rounds} rounds, flows of {seconds:g} s, overload of {overload_seconds:g} s)")
    absent = [contestant.name for contestant in CONTESTANTS if contestant.name not in names]
    if absent:
        why.append(f"not measured: {', '.join(absent)}")
    return {
        "provisional": why,
        "rounds": rounds,
        "seconds": seconds,
        "overload_seconds": overload_seconds,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "strongswan": version([CHARON, "--version"], r"(\d+\.\d+\.\d+)"),
        "iperf3": version(["iperf3", "--version"], r"iperf (\S+)"),
        "libcrypto": version(["openssl", "version"], r"OpenSSL (\S+)"),
        "ipsec_mb": ipsec_mb(),
    }


# --- the page -------------------------------------------------------------------------------------------------


def _ciphers(head: Mapping[str, Any]) -> str:
    """Who does it for whom."""
    libcrypto = f"libcrypto {head['libcrypto']}"
    if head["ipsec_mb"] is None:
        return f"{libcrypto} for strongSwan and the compiled core"
    return f"{libcrypto} for strongSwan, libIPSec_MB {head['ipsec_mb']} for the compiled core"


def page(document: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    head = document["about"]
    parts = [HEADER]
    if head["provisional"]:
        parts.append(f"**Provisional**: {'; '.join(head['provisional'])}.\n")
    parts.append(
        f"{head['date']}, {head['processors']} processors, {head['machine']}, Python {head['python']}, strongSwan "
        f"{head['strongswan']}, iperf3 {head['iperf3']}; {head['rounds']} rounds. AES-GCM: {_ciphers(head)}.\n"
    )
    parts.append(table(document))
    parts.append(SAS_HEADER)
    rows = [["SAs", "send", "receive"]]
    rows += [[f"{row['installed']:,}", f"{row['send_us']:.1f}", f"{row['receive_us']:.1f}"] for row in document["sas"]]
    parts.append(_markdown(rows))
    return "\n".join(parts) + "\n"


def table(document: Mapping[str, Any]) -> str:
    """A row for each figure, a column for each contestant."""
    contestants = document["contestants"]
    rows = [["", *contestants]]
    reference = contestants.get(STRONGSWAN.name, [])
    for name, (title, factor, digits) in FIGURES.items():
        theirs = _median(reference, name)
        cells = []
        for contestant, runs in contestants.items():
            values = sorted(run[name] * factor for run in runs if run.get(name) is not None)
            if not values:
                cells.append(DASH)
                continue
            cell = f"{statistics.median(values):.{digits}f}"
            if len(values) > 1:
                cell += f" ({values[0]:.{digits}f} to {values[-1]:.{digits}f})"
            if contestant != STRONGSWAN.name and theirs:
                cell += f", × {statistics.median(values) / (theirs * factor):.2f}"
            cells.append(cell)
        rows.append([title, *cells])
    return _markdown(rows)


def _median(runs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [run[name] for run in runs if run.get(name) is not None]
    return statistics.median(values) if values else None


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each flow")
    parser.add_argument("--overload-seconds", type=float, default=OVERLOAD_SECONDS)
    parser.add_argument("--only", nargs="+", choices=[contestant.name for contestant in CONTESTANTS])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    if options.rounds:
        chosen = [each for each in CONTESTANTS if options.only is None or each.name in options.only]
        quiet = Quietness()
        found: dict[str, list[dict[str, JsonValue]]] = {contestant.name: [] for contestant in chosen}
        sas: list[list[dict[str, JsonValue]]] = []
        for number in range(options.rounds):
            for contestant in chosen:
                found[contestant.name].append(measured(contestant, options.seconds, options.overload_seconds))
                print(
                    f"round {number + 1}, {contestant.name}: {found[contestant.name][-1]}", file=sys.stderr, flush=True
                )
            sas.append([installed(each) for each in INSTALLED])
        names = [contestant.name for contestant in chosen]
        document = {
            "about": about(quiet, options.rounds, options.seconds, options.overload_seconds, names),
            "contestants": found,
            "sas": [_medians(rounds) for rounds in zip(*sas, strict=True)],
        }
        options.results.write_text(json.dumps(document, indent=1) + "\n")
    document = json.loads(options.results.read_text())
    options.page.write_text(page(document), encoding="utf-8")
    print(table(document))


if __name__ == "__main__":
    main()
