"""A child SA as two of the kernel's SAs: what is asked of the kernel, what it has counted.

Counters outlive the kernel's: a move may make an SA anew, and an SA whose hard limit was reached is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from socket import AF_INET, AF_INET6
from typing import Any

from protocols.dataplane.xfrm.algorithms import key_attributes
from protocols.dataplane.xfrm.messages import (
    XFRM_INF,
    XFRM_MODE_BEET,
    XFRM_MODE_TUNNEL,
    XFRM_SA_XFLAG_DONT_ENCAP_DSCP,
    XFRM_STATE_AF_UNSPEC,
    XFRM_STATE_ESN,
    XFRMA_REPLAY_ESN_MAX,
)
from protocols.dataplane.xfrm.selectors import Pair
from protocols.errors import LocalError
from protocols.esp.beet import InnerAddresses
from protocols.esp.sa import (
    MAXIMUM_EXTENDED_SEQUENCE,
    MAXIMUM_SEQUENCE,
    REPLAY_WINDOW_MINIMUM,
    ChildSaSpec,
    EspMode,
    UsageLimits,
)
from protocols.io.link import UDP_ENCAP_ESPINUDP
from protocols.ip import IPV4_HEADER_LENGTH, IPV6_HEADER_LENGTH
from protocols.path import Address, Endpoint, Path

ESP = 50
WORD_BITS = 32


def check_window(spec: ChildSaSpec) -> None:
    """``LocalError`` for a replay window that the kernel has not."""
    if spec.replay_window > XFRMA_REPLAY_ESN_MAX:
        raise LocalError(f"a replay window of {spec.replay_window} packets, the kernel has {XFRMA_REPLAY_ESN_MAX}")


@dataclass(kw_only=True)
class Tally:
    """What the kernel counted, or had counted before an SA was made anew."""

    octets: int = 0
    packets: int = 0
    replayed: int = 0
    bad_icv: int = 0

    @classmethod
    def of(cls, info: Any) -> Tally:
        """From a ``usersa_info``."""
        stats = info["stats"]
        return cls(
            octets=info["curlft"]["bytes"],
            packets=info["curlft"]["packets"],
            replayed=stats["replay"] + stats["replay_window"],
            bad_icv=stats["integrity_failed"],
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            octets=self.octets + other.octets,
            packets=self.packets + other.packets,
            replayed=self.replayed + other.replayed,
            bad_icv=self.bad_icv + other.bad_icv,
        )

    def lost_since(self, before: Tally) -> Tally:
        """What of ``before`` is no longer counted here."""
        return Tally(
            octets=max(0, before.octets - self.octets),
            packets=max(0, before.packets - self.packets),
            replayed=max(0, before.replayed - self.replayed),
            bad_icv=max(0, before.bad_icv - self.bad_icv),
        )


@dataclass(eq=False, kw_only=True)
class Direction:
    """One of the kernel's SAs. ``gone``: the kernel has it no more; ``kept``: what those that are gone had counted.

    ``earlier``: those of former paths that the kernel still has. ``elsewhere``: what of the usage limits is used up by
    others than this one. ``started``: the sequence number before its first one. ``former_source``: the source that the
    kernel's SA still has.
    """

    inbound: bool
    spi: int
    path: Path
    encapsulation: bool
    kept: Tally = field(default_factory=Tally)
    gone: bool = True
    started: int = 0
    former_source: Address | None = None
    elsewhere: Tally = field(default_factory=Tally)
    earlier: list[Direction] = field(default_factory=list)

    def leave(self) -> Direction:
        """The SA as it is, to stay behind on its path."""
        left = replace(self, kept=Tally(), earlier=[])
        self.earlier.append(left)
        return left

    @property
    def source(self) -> Endpoint:
        """Where the outer packets come from."""
        return self.path.remote if self.inbound else self.path.local

    @property
    def destination(self) -> Endpoint:
        """Where the outer packets go to."""
        return self.path.local if self.inbound else self.path.remote

    @property
    def addresses(self) -> tuple[Address, Address]:
        """Source and destination as the kernel's SA has them."""
        return self.former_source or self.source.address, self.destination.address

    @property
    def family(self) -> int:
        """Of the outer packets."""
        return AF_INET if self.destination.address.version == 4 else AF_INET6

    @property
    def place(self) -> tuple[Address, int]:
        """Where events about it are sorted to."""
        return self.destination.address, self.spi

    @property
    def identity(self) -> dict[str, Any]:
        """``usersa_id``: how the kernel finds it."""
        return {"daddr": str(self.destination.address), "spi": self.spi, "family": self.family, "proto": ESP}

    @property
    def encap(self) -> dict[str, Any]:
        """The attribute of UDP encapsulation (RFC 3948), or none."""
        if not self.encapsulation:
            return {}
        ports = {"encap_sport": self.source.port, "encap_dport": self.destination.port}
        return {"encap": {"encap_type": UDP_ENCAP_ESPINUDP, **ports}}


@dataclass(eq=False, kw_only=True)
class Child:
    """A child SA in the kernel. ``serial`` counts up: of several with the same selectors the newest sends.

    ``if_id``: the XFRM interface that its packets pass, 0: none. ``copies_dscp``: whether the outer header has the
    inner one's DSCP (RFC 4301 §5.1.2), else zeros.
    """

    spec: ChildSaSpec
    pairs: tuple[Pair, ...]
    reqid: int
    serial: int
    if_id: int = 0
    copies_dscp: bool = True
    waits_for: bytes | None = None
    sending: bool = field(init=False)
    strayed: int = 0
    observed: Endpoint | None = None
    soft_reached: bool = False
    spent: bool = False
    inbound: Direction = field(init=False)
    outbound: Direction = field(init=False)

    def __post_init__(self) -> None:
        self.sending = self.waits_for is None
        self.inbound, self.outbound = (
            Direction(
                inbound=inbound,
                spi=int.from_bytes(spi, "big"),
                path=self.spec.path,
                encapsulation=self.spec.encapsulation,
            )
            for inbound, spi in ((True, self.spec.inbound_spi), (False, self.spec.outbound_spi))
        )

    @property
    def directions(self) -> tuple[Direction, Direction]:
        """Both, the one towards us first."""
        return self.inbound, self.outbound

    @property
    def maximum_sequence(self) -> int:
        """The last sequence number that may be sent (RFC 4303 §3.3.3)."""
        return MAXIMUM_EXTENDED_SEQUENCE if self.spec.suite.esn else MAXIMUM_SEQUENCE

    @property
    def soft_sequence(self) -> int:
        """How many packets sent call for a rekey: seven eighths of the sequence numbers, as in userspace."""
        return self.maximum_sequence - (self.maximum_sequence >> 3)

    @property
    def mode(self) -> int:
        """As the kernel calls it."""
        return XFRM_MODE_BEET if self.spec.mode is EspMode.BEET else XFRM_MODE_TUNNEL

    @property
    def omitted_header_length(self) -> int:
        """Octets of each inner packet that BEET mode leaves out, and the kernel does not count; IPv4 options aside."""
        if self.spec.mode is not EspMode.BEET:
            return 0
        return IPV4_HEADER_LENGTH if self.spec.local_selectors[0].version == 4 else IPV6_HEADER_LENGTH

    @property
    def interface(self) -> dict[str, Any]:
        """The attribute of an XFRM interface, or none."""
        return {"if_id": self.if_id} if self.if_id else {}

    def _selector(self, direction: Direction) -> dict[str, Any]:
        """Of the SA itself: in BEET mode the inner addresses, which packets do not show; else policies alone select.

        Then the addresses inside may be of both families.
        """
        if self.spec.mode is not EspMode.BEET:
            return {"family": 0}
        inner = InnerAddresses.of(self.spec.local_selectors, self.spec.remote_selectors)
        source, destination = (inner.remote, inner.local) if direction.inbound else (inner.local, inner.remote)
        return {
            "family": AF_INET if source.version == 4 else AF_INET6,
            "saddr": str(source),
            "prefixlen_s": source.max_prefixlen,
            "daddr": str(destination),
            "prefixlen_d": destination.max_prefixlen,
        }

    def template(self, direction: Direction) -> dict[str, Any]:
        """What a policy asks of the SA: outbound exactly this one, inbound any with its ``reqid``."""
        wanted: dict[str, Any] = {
            "id": {"proto": ESP},
            "family": direction.family,
            "reqid": self.reqid,
            "mode": self.mode,
            "aalgos": 0xFFFFFFFF,
            "ealgos": 0xFFFFFFFF,
            "calgos": 0xFFFFFFFF,
        }
        if not direction.inbound:
            wanted["id"] = {"daddr": str(direction.destination.address), "spi": direction.spi, "proto": ESP}
            wanted["saddr"] = str(direction.source.address)
        return wanted

    def request(self, direction: Direction) -> dict[str, Any]:
        """``usersa_info`` with its attributes, for a new SA."""
        spec = self.spec
        keys = (
            (spec.inbound_encryption_key, spec.inbound_integrity_key)
            if direction.inbound
            else (spec.outbound_encryption_key, spec.outbound_integrity_key)
        )
        values = {
            "sel": self._selector(direction),
            "id": {"daddr": str(direction.destination.address), "spi": direction.spi, "proto": ESP},
            "saddr": str(direction.source.address),
            "family": direction.family,
            "mode": self.mode,
            "reqid": self.reqid,
            "flags": (XFRM_STATE_AF_UNSPEC if spec.mode is EspMode.TUNNEL else 0)
            | (XFRM_STATE_ESN if spec.suite.esn else 0),
            "lft": self._limits(direction),
            **key_attributes(spec.suite, *keys),
            **direction.encap,
            **self.interface,
            **({} if self.copies_dscp else {"sa_extra_flags": XFRM_SA_XFLAG_DONT_ENCAP_DSCP}),
        }
        # A sender has no window, but the kernel wants one of every SA with extended sequence numbers.
        window = spec.replay_window if direction.inbound else REPLAY_WINDOW_MINIMUM if spec.suite.esn else 0
        if window:
            # By the size of other windows the kernel counts bits wrongly around the first packet, and takes it twice.
            window = 1 << (window - 1).bit_length()
            values["replay_esn_val"] = {"replay_window": window, "bmp": [0] * (window // WORD_BITS)}
        return values

    def _limits(self, direction: Direction) -> dict[str, int]:
        limits: UsageLimits = self.spec.limits
        used = direction.elsewhere
        soft_packets, hard_packets = _rest(limits.soft_packets, used.packets), _rest(limits.hard_packets, used.packets)
        if not direction.inbound:
            # The kernel says nothing of sequence numbers that run out; it counts packets, which is the same.
            soft_sequence, hard_sequence = (
                max(0, each - direction.started) for each in (self.soft_sequence, self.maximum_sequence)
            )
            soft_packets = min(soft_sequence, soft_sequence if soft_packets is None else soft_packets)
            hard_packets = min(hard_sequence, hard_sequence if hard_packets is None else hard_packets)
        elif self.waits_for is not None:
            soft_packets = 1  # tells of the first packet, by which it takes over
        return {
            "soft_byte_limit": _limit(_rest(limits.soft_octets, used.octets)),
            "hard_byte_limit": _limit(_rest(limits.hard_octets, used.octets)),
            "soft_packet_limit": _limit(soft_packets),
            "hard_packet_limit": _limit(hard_packets),
        }


def _rest(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)


def _limit(value: int | None) -> int:
    return XFRM_INF if value is None else value
