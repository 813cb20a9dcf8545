"""The data-plane port: what a node asks of whatever carries its ESP (userspace, kernel, recording).

``ChildSaSpec`` (in ``protocols.esp.sa``) is a frozen value; an implementation keeps its own state by
inbound SPI. Calls are synchronous and complete before they return; what happens later (a selector
violation, a lifetime, a NAT rebinding) is reported by ``poll_event``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from protocols.esp.sa import ChildSaSpec
from protocols.path import Path


class Backend(str, Enum):
    """What carries ESP: this process in Python or by its compiled core and threads, or the kernel (XFRM)."""

    PYTHON = "python"
    COMPILED = "compiled"
    KERNEL = "kernel"


class Carries(Protocol):
    """Whatever counts what it carries: an SA, its counters, a sum of several."""

    @property
    def inbound_packets(self) -> int:
        """From the peer."""

    @property
    def inbound_octets(self) -> int:
        """Of inner IP."""

    @property
    def outbound_packets(self) -> int:
        """To the peer."""

    @property
    def outbound_octets(self) -> int:
        """Of inner IP."""


@dataclass(frozen=True, kw_only=True)
class ChildSaCounters:
    """What one child SA carried and dropped since it was installed; octets are inner IP octets.

    ``strayed_packets`` are those of ``inbound_packets`` that came between other addresses than the path's
    (RFC 4555 §3.12): they do not show that the peer can be reached on it. ``too_big``, ``fragment`` and
    ``congestion`` are drops as in ``protocols.esp.sa.DropReason``; ``fragmented`` are packets that went in pieces,
    ``mss_clamped`` SYNs of either direction, ``congestion_marked`` inbound packets that were marked CE on the way
    (RFC 6040), ``ecn_unused`` those whose inner and outer ECN do not go together (RFC 6040 §4.2).
    ``overhead_saved_octets`` are those of inner IP headers that BEET mode has left out, both directions.
    """

    inbound_packets: int = 0
    strayed_packets: int = 0
    inbound_octets: int = 0
    outbound_packets: int = 0
    outbound_octets: int = 0
    replayed: int = 0
    bad_icv: int = 0
    bad_selector: int = 0
    malformed: int = 0
    dummy: int = 0
    too_big: int = 0
    fragment: int = 0
    congestion: int = 0
    fragmented: int = 0
    mss_clamped: int = 0
    congestion_marked: int = 0
    ecn_unused: int = 0
    overhead_saved_octets: int = 0

    @property
    def evidence(self) -> int:
        """Packets that show that the peer lives and is where we think it is (RFC 4555 §3.12)."""
        return self.inbound_packets - self.strayed_packets


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What all child SAs of a plane have carried since it was made, removed ones included: inner IP."""

    inbound_packets: int = 0
    inbound_octets: int = 0
    outbound_packets: int = 0
    outbound_octets: int = 0

    @classmethod
    def sum(cls, each: Iterable[Carries]) -> Carried:
        """Of several, each with these attributes."""
        inbound_packets = inbound_octets = outbound_packets = outbound_octets = 0
        for one in each:
            inbound_packets += one.inbound_packets
            inbound_octets += one.inbound_octets
            outbound_packets += one.outbound_packets
            outbound_octets += one.outbound_octets
        return cls(
            inbound_packets=inbound_packets,
            inbound_octets=inbound_octets,
            outbound_packets=outbound_packets,
            outbound_octets=outbound_octets,
        )


@dataclass(frozen=True, kw_only=True)
class PeerEndpointObserved:
    """Authenticated, replay-fresh ESP arrived from another address or port than the path's remote."""

    inbound_spi: bytes
    path: Path


@dataclass(frozen=True, kw_only=True)
class SequenceNumbersRunningOut:
    """An SA has sent most of its sequence numbers and wants a rekey; ``exhausted``: it sends no more."""

    inbound_spi: bytes
    exhausted: bool


@dataclass(frozen=True, kw_only=True)
class LifetimeReached:
    """An SA has carried what ``ChildSaSpec.limits`` say; ``hard``: it carries nothing more (RFC 7296 §2.8)."""

    inbound_spi: bytes
    hard: bool


DataPlaneEvent = PeerEndpointObserved | SequenceNumbersRunningOut | LifetimeReached


class DataPlane(Protocol):
    """Installs, moves and removes child SAs. Unknown SPIs raise ``LocalError``."""

    def install(self, spec: ChildSaSpec) -> None:
        """Carry traffic by ``spec`` in both directions from now on (as the newest SA of its selectors)."""

    def replace(self, old_inbound_spi: bytes, spec: ChildSaSpec, *, send_at_once: bool = True) -> None:
        """Install ``spec`` and send by it; the old SA still receives until it is removed (rekey).

        Without ``send_at_once`` the old SA sends until the new one has received a packet or the old one is
        removed, whichever comes first (RFC 7296 §2.8). Of several that wait for the same old one, those that
        another overtakes with ``send_at_once`` wait for that one then (§2.8.1).
        """

    def update_path(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """Send on another path; keys, sequence numbers and the replay window stay (RFC 4555 §3.5)."""

    def expect(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """Take packets on another path too, which may become the one to send on (RFC 4555 §3.5, §3.7)."""

    def retire(self, inbound_spi: bytes) -> None:
        """Send nothing by it any more; it receives until it is removed."""

    def remove(self, inbound_spi: bytes) -> None:
        """Forget an SA, both directions."""

    def counters(self, inbound_spi: bytes) -> ChildSaCounters:
        """The counters of one SA."""

    def poll_event(self) -> DataPlaneEvent | None:
        """The next event, ``None`` when there is none."""
