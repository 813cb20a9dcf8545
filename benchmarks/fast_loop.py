"""Throughput of the fast path between two kernels, and the processor time a gateway takes for it.

    python benchmarks/fast_loop.py [--seconds 4] [--rounds 3] [--suites aes128gcm16] [--sas N...] [--output FILE]

Two ends with a static SA in network namespaces (tests/dataplane/fast_ends.py), AES-128-GCM in UDP, inner MTU 1400, one
worker each; iperf3 is the traffic. Needs root. Both ends, both kernels and iperf3 share this machine's cores, so that a
flow's rate is that of all of them together; what a gateway takes is the processor time of its worker's thread, system
calls and the kernel's work inside them included.

``tcp``: one flow of full segments (1400 octets). ``udp``: packets of 64 octets, as many as come. ``down`` is from the
TUN device to the network, ``up`` the other way. ``overload``: ESP with unknown SPIs floods the gateway beside a flow of
200 Mbit/s, whose loss is what the kernel's queue of the port had no room for. The best of several rounds counts, cases
taking turns: the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks import spread
from tests.dataplane.fast_ends import HOST_INNER, MTU, UE_INNER, End, Pair, ends

PORT = 5201
UDP_SEGMENT = 103
UDP_HEADERS = 28
SMALL_PAYLOAD = 64 - UDP_HEADERS
FLOOD_SEGMENTS = 40
FLOOD_OCTETS = 1400


def worker_time(thread: int) -> float:
    """Seconds of processor time of a thread."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) / 1e9


def workers() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("esp-"):
            found.add(int(task.name))
    return found


@contextlib.contextmanager
def server(end: End, address: str) -> Iterator[None]:
    """iperf3 for one client."""
    process = end.namespace.popen(
        ["iperf3", "-s", "-1", "-B", address, "-p", str(PORT), "--forceflush"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b"listening" in line:
            break
    try:
        yield
    finally:
        process.stdout.close()
        process.terminate()
        process.wait()


@contextlib.contextmanager
def flood(pair: Pair) -> Iterator[None]:
    """ESP that nobody wants, from the UE's machine to the gateway's port."""
    stop = threading.Event()
    to = pair.gateway.links[0].local
    train = (b"\x12\x34\x56\x78" + bytes(FLOOD_OCTETS - 4)) * FLOOD_SEGMENTS
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", FLOOD_OCTETS))]

    def send() -> None:
        with pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    opened.sendmsg([train], control, 0, (str(to.address), to.port))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def measure(suite: str, what: str, direction: str, seconds: float) -> dict[str, float]:
    """One run of iperf3: octets, packets and processor time of the gateway's worker."""
    before = workers()
    async with ends(suite) as pair:
        gateway_thread = max(workers() - before)  # started last
        sender, receiver = (pair.ue, pair.gateway) if direction == "up" else (pair.gateway, pair.ue)
        address = str((HOST_INNER if direction == "up" else UE_INNER)[0].ip)
        words = ["iperf3", "-c", address, "-p", str(PORT), "-t", str(seconds), "-J"]
        if what == "udp":
            words += ["-u", "-b", "0", "-l", str(SMALL_PAYLOAD)]
        elif what == "overload":
            words += ["-u", "-b", "200M", "-l", str(MTU - UDP_HEADERS)]
        with server(receiver, address), contextlib.ExitStack() as undo:
            if what == "overload":
                undo.enter_context(flood(pair))
            begin = worker_time(gateway_thread)
            done = await asyncio.to_thread(sender.namespace.run, words, timeout=seconds + 30)
            spent = worker_time(gateway_thread) - begin
            counters = pair.gateway.counters
        report = json.loads(done.stdout)
        if "error" in report:
            raise SystemExit(f"iperf3: {report['error']}")
        pair.check_sums()
        if what == "tcp":
            rate = report["end"]["sum_received"]["bits_per_second"]
        else:
            rate = report["end"]["sum"]["bits_per_second"] * (1 - report["end"]["sum"]["lost_percent"] / 100)
        data, answers = (counters.opened, counters.sealed) if direction == "up" else (counters.sealed, counters.opened)
        row: dict[str, float] = {
            "gbit_per_second": rate / 1e9,
            "packets": data,
            "answers": answers,
            "gateway_us_per_packet": spent * 1e6 / data,
            "gateway_packets_per_second_and_core": data / spent,
            "packets_per_message": data
            / max(1, counters.received_trains if direction == "up" else counters.sent_trains),
        }
        if what == "overload":
            unwanted = counters.opening_drops.get("unknown_spi", 0)
            row["unwanted_packets"] = unwanted
            row["packets_per_message"] = counters.received / counters.received_trains
            row["lost_percent"] = report["end"]["sum"]["lost_percent"]
            row["gateway_us_per_packet"] = spent * 1e6 / (data + unwanted)
            del row["gateway_packets_per_second_and_core"]
        return row


async def _flows(arguments: argparse.Namespace) -> list[dict[str, object]]:
    cases = [
        (suite, what, direction)
        for suite in arguments.suites
        for what, direction in (("tcp", "down"), ("tcp", "up"), ("udp", "down"), ("udp", "up"), ("overload", "up"))
    ]
    runs: dict[tuple[str, str, str], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(arguments.rounds):
        for case in cases:
            runs[case].append(await measure(*case, arguments.seconds))
    results: list[dict[str, object]] = []
    print(f"{'suite':15} {'what':8} {'way':5} {'Gbit/s':>7} {'µs/packet':>9} {'per core':>9} {'per message':>11}")
    for (suite, what, direction), rows in runs.items():
        best = min(rows, key=lambda row: row["gateway_us_per_packet"])
        fastest = max(row["gbit_per_second"] for row in rows)
        row = {name: round(value, 3) for name, value in best.items()} | {"gbit_per_second": round(fastest, 3)}
        results.append({"suite": suite, "what": what, "direction": direction, **row})
        print(
            f"{suite:15} {what:8} {direction:5} {fastest:7.2f} {best['gateway_us_per_packet']:9.2f}"
            f" {best.get('gateway_packets_per_second_and_core', 0):9.0f} {best['packets_per_message']:11.1f}"
        )
    return results


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--suites", nargs="+", default=["aes128gcm16"])
    parser.add_argument("--sas", type=int, nargs="+", default=[], help="instead: SAs that traffic is spread over")
    parser.add_argument("--output", type=Path, help="write the results there as JSON")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("network namespaces and TUN devices need root")
    if arguments.sas:
        results: object = spread.measure(arguments.sas, arguments.seconds, arguments.rounds)
    else:
        results = await _flows(arguments)
    if arguments.output:
        about = {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "inner_mtu": MTU,
            "seconds": arguments.seconds,
            "rounds": arguments.rounds,
            "load_average": os.getloadavg(),
        }
        arguments.output.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
