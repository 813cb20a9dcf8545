"""What a node decides about its tunnels' headers (RFC 4301 §5.1.2, §8.2): outer DSCP, path MTU, MSS."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class MssClamping(Enum):
    """Whether the MSS of SYNs is lowered: not at all, or to what the path carries."""

    OFF = "off"
    AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class TunnelPolicy:
    """``dscp``: of the outer header, ``None``: the inner one's.

    ``outer_mtu``: octets of an outer packet, ``None``: what the network says. ``mss``: or a number of octets.
    """

    dscp: int | None = None
    outer_mtu: int | None = None
    mss: MssClamping | int = MssClamping.OFF


DEFAULT_POLICY = TunnelPolicy()
