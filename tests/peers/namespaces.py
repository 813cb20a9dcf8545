"""The access topology of ``lab.namespaces`` for tests: skips where it cannot be made, gone at the end.

``namespaces()`` yields an ``AccessTopology`` (the drawing is in ``lab/namespaces.py``): namespaces ``ue``
(10.77.1.2 on access A, preferred, and 10.77.2.2 on access B), ``router``, ``gateway`` (10.77.0.1, a host
address 10.77.100.1 behind it on its ``lo``) and ``core`` (10.77.3.2). Reverse-path filters are off, the
router and the gateway forward. ``ping`` is the traffic of the kernels' own.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.namespaces import AccessTopology, Namespace, access_topology
from lab.router import why_no_nat
from protocols.errors import BackendError
from protocols.path import Address
from tests.peers.processes import require_program, require_root


def require_namespaces() -> None:
    """Skip the calling test without root or where network namespaces are forbidden."""
    require_root()
    try:
        Namespace("probe").close()
    except BackendError as error:
        pytest.skip(f"network namespaces are not allowed here: {error}")


def require_nftables_nat() -> None:
    """Skip the calling test where the kernel has no NAT by nftables."""
    reason = why_no_nat()
    if reason is not None:
        pytest.skip(reason)


@contextlib.contextmanager
def namespaces() -> Iterator[AccessTopology]:
    """The access topology; skips where ``require_namespaces`` does."""
    require_namespaces()
    with access_topology() as topology:
        yield topology


@dataclass(frozen=True, kw_only=True)
class Ping:
    """What iputils' ping counted."""

    sent: int
    received: int
    output: str


def ping(
    namespace: Namespace,
    destination: Address | str,
    *,
    count: int = 3,
    source: Address | str | None = None,
    wait: float = 1.0,
    size: int = 56,
) -> Ping:
    """Send ``count`` ICMP echo requests of ``size`` octets from inside ``namespace``, optionally from an address.

    One after the other, each by a ping of its own: one that has had an answer waits for its last one no longer than
    twice the longest round trip so far or its interval, whatever ``-W`` says, and calls it lost (ping(8)).
    """
    require_program("ping")
    words = ["ping", "-n", "-q", "-c", "1", "-W", str(wait), "-s", str(size)]
    if source is not None:
        words += ["-I", str(source)]
    sent, received, output = 0, 0, ""
    for _ in range(count):
        done = namespace.run([*words, str(destination)], timeout=wait + 10)
        output += done.stdout + done.stderr
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", done.stdout)
        if counts is not None:
            sent += int(counts[1])
            received += int(counts[2])
    return Ping(sent=sent, received=received, output=output)


def answers_of_the_kernel() -> int:
    """RSTs and "destination unreachable" that the kernel of this namespace has sent (RFC 4022, RFC 4293)."""
    network = Path("/proc/thread-self/net")
    rows = [line.split() for line in (network / "snmp").read_text().splitlines()]
    values = {
        name[0] + key: int(value)
        for name, numbers in zip(rows[::2], rows[1::2], strict=True)
        for key, value in zip(name[1:], numbers[1:], strict=True)
    }
    unreachable = next(
        int(line.split()[1]) for line in (network / "snmp6").read_text().splitlines() if "Icmp6OutDestUnreachs" in line
    )
    return values["Tcp:OutRsts"] + values["Icmp:OutDestUnreachs"] + unreachable
