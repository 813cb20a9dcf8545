"""What a node decides about its tunnels' headers (RFC 4301 §5.1.2, §8.2): outer DSCP, path MTU, MSS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TunnelPolicy:
    """``dscp``: of the outer header, ``None``: the inner one's.

    ``outer_mtu``: octets of an outer packet, ``None``: what the network says. ``mss``: what SYNs may say at most, in
    octets or (``auto``) what the path carries, ``None``: anything.
    """

    dscp: int | None = None
    outer_mtu: int | None = None
    mss: int | Literal["auto"] | None = None


DEFAULT_POLICY = TunnelPolicy()
