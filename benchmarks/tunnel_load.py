"""What is measured through a ``benchmarks.contestants.Tunnel``: TCP, cost per packet, small packets, overload."""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import Tunnel
from benchmarks.udp_sender import PORT
from lab.namespaces import CORE, Namespace, terminate
from protocols.trace.records import JsonValue
from tests.peers.processes import require_program, wait_until

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")  # the unit of /proc/PID/stat
LOSS_MAXIMUM = 0.02
HEADERS = 28  # IPv4 and UDP
SMALL, LARGE = 64, 1400  # octets of an inner packet
LARGE_RATE = 6000.0  # packets a second at which the cost of a large packet is taken: every contestant carries them
FIRST_RATE = 4000.0
RATE_MINIMUM, RATE_MAXIMUM = 250.0, 1_000_000.0
BISECTIONS = 4
OVERLOAD_FACTOR = 3
SETTLE_INTERVAL = 0.1  # for what is on the way to arrive, once nothing is sent any more
PING_INTERVAL = 0.05
IPERF_PORT = 5201


@dataclass(frozen=True, kw_only=True)
class Flood:
    """What came of datagrams at a rate: ``cpu`` are seconds of the gateway's."""

    offered: float
    sent: int
    received: int
    seconds: float
    cpu: float

    @property
    def loss(self) -> float:
        """The share that did not arrive."""
        return max(0.0, 1 - self.received / self.sent) if self.sent else 1.0

    @property
    def rate(self) -> float:
        """Packets that arrived in a second."""
        return self.received / self.seconds

    @property
    def cost(self) -> float | None:
        """Microseconds of the gateway's processor time for each that arrived."""
        return self.cpu / self.received * 1e6 if self.received else None


def cpu_seconds(tunnel: Tunnel) -> float:
    """Processor time that the gateway took so far, user and system, the kernel's threads for it included (proc(5))."""
    found = _cpu_seconds(tunnel.gateway_pid)
    if tunnel.kernel_threads is not None:
        found += sum(_cpu_seconds(pid) for pid in _named(tunnel.kernel_threads))
    return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _named(prefix: str) -> Iterator[int]:
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if (directory / "comm").read_text().startswith(prefix):
                yield int(directory.name)


def forget_peak(pid: int) -> None:
    """Let ``VmHWM`` begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory(pid: int, name: str) -> int:
    """Octets of memory that a process holds, ``VmRSS``, or has held at most, ``VmHWM`` (proc(5))."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def received_datagrams(namespace: Namespace) -> int:
    """UDP datagrams that reached a socket, whether or not it had room (RFC 4113; RcvbufErrors is Linux's).

    The sockets, not an interface: there, datagrams that a segmentation offload carries as one are one packet.
    """
    table = namespace.call(lambda: Path("/proc/thread-self/net/snmp").read_text())
    names, values = (line.split()[1:] for line in table.splitlines() if line.startswith("Udp: "))
    counters = dict(zip(names, map(int, values), strict=True))
    return counters["InDatagrams"] + counters["RcvbufErrors"]


# --- TCP ------------------------------------------------------------------------------------------------------


def tcp(tunnel: Tunnel, seconds: float) -> dict[str, JsonValue]:
    """One iperf3 flow each way: Gbit/s at the receiver, processors that the gateway took, µs of them for a segment."""
    require_program("iperf3")
    server = tunnel.stage.core.popen(
        ["iperf3", "-s", "-B", str(CORE.ip), "-p", str(IPERF_PORT)], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _listens(tunnel.stage.core), what="iperf3 listening", timeout=10, process=server)
        return {
            **_tcp_flow(tunnel, seconds, "uplink", ()),
            **_tcp_flow(tunnel, seconds, "downlink", ("-R",)),
        }
    finally:
        terminate(server)


def _listens(namespace: Namespace) -> bool:
    table = namespace.call(lambda: Path("/proc/thread-self/net/tcp").read_text())
    return f":{IPERF_PORT:04X} 00000000:0000 0A" in table


def _tcp_flow(tunnel: Tunnel, seconds: float, name: str, options: tuple[str, ...]) -> dict[str, JsonValue]:
    command = ["iperf3", "-c", str(CORE.ip), "-p", str(IPERF_PORT), "-B", tunnel.inner, "-t", f"{seconds:g}", "-J"]
    before, begun = cpu_seconds(tunnel), time.monotonic()
    done = tunnel.stage.ue.run([*command, *options], timeout=seconds + 30)
    cpu = cpu_seconds(tunnel) - before
    busy = cpu / (time.monotonic() - begun)
    said = json.loads(done.stdout)
    if "error" in said:
        raise SystemExit(f"iperf3, {name}: {said['error']}")
    end = said["end"]
    packets = end["sum_received"]["bytes"] / said["start"]["tcp_mss_default"]
    return {
        f"{name}_gbit_s": end["sum_received"]["bits_per_second"] / 1e9,
        f"{name}_gateway_processors": busy,
        f"{name}_packet_us": cpu / packets * 1e6,
        f"{name}_retransmissions": end["sum_sent"].get("retransmits"),
    }


# --- UDP ------------------------------------------------------------------------------------------------------


@contextmanager
def _sink(tunnel: Tunnel) -> Iterator[None]:
    """A socket in the core that has the port and is never read: what arrives costs nobody anything."""

    def bound() -> socket.socket:
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sink.bind((str(CORE.ip), PORT))
        return sink

    with tunnel.stage.core.call(bound):
        yield


def flood(tunnel: Tunnel, octets: int, rate: float, seconds: float) -> Flood:
    """Datagrams of ``octets`` (the inner packet) from the UE to the core, ``rate`` a second."""
    command = [sys.executable, "-m", "benchmarks.udp_sender", str(CORE.ip), "--source", tunnel.inner]
    command += ["--octets", str(octets - HEADERS), "--rate", f"{rate:g}", "--seconds", f"{seconds:g}"]
    with _sink(tunnel):
        received, cpu = received_datagrams(tunnel.stage.core), cpu_seconds(tunnel)
        done = tunnel.stage.ue.run(command, timeout=seconds + 30)
        _wait_quiet(tunnel)
        received = received_datagrams(tunnel.stage.core) - received
        cpu = cpu_seconds(tunnel) - cpu
    said = json.loads(done.stdout)
    return Flood(
        offered=rate,
        sent=said["sent"],
        received=received,
        seconds=said["seconds"],
        cpu=cpu,
    )


def _wait_quiet(tunnel: Tunnel) -> None:
    """Until nothing that was sent arrives any more."""
    last = -1
    while (seen := received_datagrams(tunnel.stage.core)) != last:
        last = seen
        time.sleep(SETTLE_INTERVAL)


def cost(tunnel: Tunnel, seconds: float) -> dict[str, JsonValue]:
    """Processor time of the gateway for a packet of 1400 octets, at a rate that everybody carries."""
    found = flood(tunnel, LARGE, LARGE_RATE, seconds)
    return {"large_packet_us": found.cost, "large_packet_loss": found.loss}


def capacity(tunnel: Tunnel, seconds: float) -> Flood:
    """The highest rate of 64 octets that arrives but for 2 %: doubled or halved to both sides of it, then bisected."""
    best = lost = None
    rate = FIRST_RATE
    while lost is None and rate <= RATE_MAXIMUM:
        best, lost, rate = _tried(tunnel, rate, seconds, best, lost)
    while best is None and lost is not None and lost > RATE_MINIMUM:
        best, lost, _ = _tried(tunnel, lost / 2, seconds, best, lost)
    if best is None:
        raise SystemExit(f"not even {RATE_MINIMUM:.0f} packets of {SMALL} octets a second arrive")
    for _ in range(BISECTIONS):
        if lost is None:
            break
        best, lost, _ = _tried(tunnel, (best.offered + lost) / 2, seconds, best, lost)
    return best


def _tried(
    tunnel: Tunnel, rate: float, seconds: float, best: Flood | None, lost: float | None
) -> tuple[Flood | None, float | None, float]:
    """The best rate and the worst as they are known then, and the next one upwards."""
    found = flood(tunnel, SMALL, rate, seconds)
    keeps_up = found.sent >= (1 - LOSS_MAXIMUM) * rate * found.seconds
    if found.loss <= LOSS_MAXIMUM and keeps_up:
        return found, lost, rate * 2
    return best, rate, rate * 2


def small_packets(tunnel: Tunnel, seconds: float) -> tuple[dict[str, JsonValue], Flood]:
    """Packets of 64 octets a second with a loss of 2 % at most, whole and for each processor of the gateway's."""
    found = capacity(tunnel, seconds)
    return {
        "small_packets_s": found.rate,
        "small_packets_loss": found.loss,
        "small_packet_us": found.cost,
        "small_packets_s_per_core": None if not found.cost else 1e6 / found.cost,
    }, found


def overload(tunnel: Tunnel, capable: Flood, seconds: float) -> dict[str, JsonValue]:
    """Three times the capacity: what still arrives, what the gateway's memory grows by, and a ping beside it."""
    forget_peak(tunnel.gateway_pid)
    before = memory(tunnel.gateway_pid, "VmRSS")
    count = max(2, int(seconds / PING_INTERVAL))
    ping = tunnel.stage.ue.popen(
        ["ping", "-n", "-i", f"{PING_INTERVAL:g}", "-c", str(count), "-W", "2", "-I", tunnel.inner, str(CORE.ip)],
        stdout=subprocess.PIPE,
    )
    found = flood(tunnel, SMALL, capable.rate * OVERLOAD_FACTOR, seconds)
    output = (ping.communicate(timeout=seconds + 30)[0] or b"").decode()
    answered = sorted(float(each) for each in re.findall(r"time=([\d.]+) ms", output))
    return {
        "overload_offered_s": found.sent / found.seconds,
        "overload_goodput_s": found.rate,
        "overload_goodput_of_capacity": found.rate / capable.rate if capable.rate else None,
        "overload_memory_octets": memory(tunnel.gateway_pid, "VmHWM") - before,
        "overload_ping_median_ms": statistics.median(answered) if answered else None,
        "overload_ping_worst_ms": answered[-1] if answered else None,
        "overload_ping_lost": count - len(answered),
    }
