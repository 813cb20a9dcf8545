"""BACKOFF_TIMER (TS 24.302 §8.2.9.1): how long a refused UE is to wait, as a GPRS timer 3 (TS 24.008 §10.5.7.4a)."""

from __future__ import annotations

import math

from protocols.buffer import Reader
from protocols.errors import LocalError, RemoteError
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.threegpp.causes import PrivateNotify

DEACTIVATED = math.inf
"""No time: the UE is not to come again before it is switched off and on (or its USIM is changed)."""

_COUNT_BITS = 5
_COUNT_MAXIMUM = (1 << _COUNT_BITS) - 1
_DEACTIVATED_UNIT = 0b111
# Seconds by unit, the finest first (TS 24.008 table 10.5.163a)
_UNITS = {0b011: 2, 0b100: 30, 0b101: 60, 0b000: 600, 0b001: 3600, 0b010: 36_000, 0b110: 1_152_000}
MAXIMUM = _COUNT_MAXIMUM * max(_UNITS.values())


def encode_backoff(seconds: float) -> bytes:
    """Length 1 and the timer; what no unit can say exactly is rounded up. ``LocalError`` beyond ``MAXIMUM``."""
    if seconds == DEACTIVATED:
        return bytes([1, _DEACTIVATED_UNIT << _COUNT_BITS])
    if not 0 <= seconds <= MAXIMUM:
        raise LocalError(f"a back-off of {seconds} s is not between 0 and {MAXIMUM} s")
    counts = {unit: math.ceil(seconds / length) for unit, length in _UNITS.items()}
    fitting = {unit: count for unit, count in counts.items() if count <= _COUNT_MAXIMUM}
    unit = min(fitting, key=lambda each: fitting[each] * _UNITS[each])
    return bytes([1, unit << _COUNT_BITS | fitting[unit]])


def decode_backoff(data: bytes) -> float:
    """Seconds, or ``DEACTIVATED``; ``RemoteError`` when it is anything but one octet long."""
    reader = Reader(data)
    body = reader.sub(reader.u8())
    reader.finish("BACKOFF_TIMER")
    octet = body.u8()
    body.finish("BACKOFF_TIMER")
    unit, count = octet >> _COUNT_BITS, octet & _COUNT_MAXIMUM
    if unit == _DEACTIVATED_UNIT:
        return DEACTIVATED
    length = _UNITS.get(unit)
    if length is None:
        raise RemoteError(f"BACKOFF_TIMER has the unit {unit}", NotifyType.INVALID_SYNTAX)
    return float(count * length)


def backoff_notify(seconds: float) -> NotifyPayload:
    """The payload that stands beside an error Notify; alone a UE ignores it."""
    return NotifyPayload(type=NotifyType.of(PrivateNotify.BACKOFF_TIMER), data=encode_backoff(seconds))
