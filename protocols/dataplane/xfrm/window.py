"""Replay windows (RFC 4303 §3.4.3) as the kernel keeps them: the highest number, a bitmap that numbers go around in.

``replay_esn_val``: the bit of a number is at (number - 1) modulo the window's length.
"""

from __future__ import annotations

from typing import Any

from protocols.dataplane.xfrm.state import WORD_BITS


def united(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What either has seen; both of one length, of SAs with the same numbers."""
    newer, older = (one, other) if _highest(one) >= _highest(other) else (other, one)
    length = newer["replay_window"]
    words = list(newer["bmp"])
    for number in range(max(1, _highest(newer) - length + 1), _highest(older) + 1):
        word, bit = divmod((number - 1) % length, WORD_BITS)
        words[word] |= older["bmp"][word] & 1 << bit
    return {**newer, "bmp": words}


def _highest(window: dict[str, Any]) -> int:
    return int(window["seq"] | window["seq_hi"] << 32)
