"""DSCP and ECN of outer and inner headers (RFC 4301 §5.1.2, RFC 2983 §3 and §4.1, RFC 6040 §4).

A traffic class is the octet of DSCP (six bits) and ECN (two), IPv4's "type of service" and IPv6's "traffic class".
DSCP goes from inside to outside or is a fixed value, never back: the inner DSCP is left alone on decapsulation.
ECN is in RFC 6040's normal mode, which IKEv2 implies (RFC 7296 §2.24).
"""

from __future__ import annotations

from protocols.ip import checksum_after

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3  # RFC 3168 §5
ECN_MASK = 0x03
DSCP_MAXIMUM = 63

# RFC 6040 §4.2, figure 4, of what is not simply the inner field again: (inner, outer) → result, None: drop.
_CHANGED: dict[tuple[int, int], int | None] = {
    (NOT_ECT, CE): None,
    (ECT_0, ECT_1): ECT_1,
    (ECT_0, CE): CE,
    (ECT_1, CE): CE,
}
# "(!!!)" and "(!)" in the figure: what no tunnel's ingress brings about.
_UNUSED = frozenset({(NOT_ECT, ECT_0), (NOT_ECT, ECT_1), (NOT_ECT, CE), (ECT_1, ECT_0), (CE, ECT_1)})


def traffic_class_of(packet: bytes) -> int:
    """The traffic class of an IP packet, of either version."""
    if packet[0] >> 4 == 4:
        return packet[1]
    return (packet[0] << 4 & 0xF0) | packet[1] >> 4


def outer_traffic_class(packet: bytes, dscp: int | None) -> int:
    """What the outer header of an inner ``packet`` gets: the inner ECN, and ``dscp`` or (``None``) the inner DSCP."""
    inner = traffic_class_of(packet)
    return inner if dscp is None else dscp << 2 | inner & ECN_MASK


def is_unused(packet: bytes, outer: int) -> bool:
    """Whether inner and outer ECN stand to each other as no ingress of today leaves them (RFC 6040 §4.2)."""
    return (traffic_class_of(packet) & ECN_MASK, outer & ECN_MASK) in _UNUSED


def decapsulated(packet: bytes, outer: int) -> bytes | None:
    """The inner ``packet`` with the ECN that it has behind a tunnel whose ``outer`` traffic class came with it.

    ``None``: it has to be dropped (RFC 6040 §4.2), congestion was met and its transport could not be told otherwise.
    """
    inner = traffic_class_of(packet) & ECN_MASK
    ecn = _CHANGED.get((inner, outer & ECN_MASK), inner)
    if ecn is None:
        return None
    return packet if ecn == inner else _with_ecn(packet, ecn)


def _with_ecn(packet: bytes, ecn: int) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:1] + bytes([packet[1] & 0xCF | ecn << 4]) + packet[2:]
    old = packet[:2]
    new = bytes([packet[0], packet[1] & 0xFC | ecn])
    checksum = checksum_after(packet[10:12], old, new)
    return new + packet[2:10] + checksum + packet[12:]
