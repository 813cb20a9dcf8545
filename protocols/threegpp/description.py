"""What 3GPP puts into IKEv2's places for private use, as values for people (TS 24.302 §8.2.9)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from protocols.threegpp.backoff import decode_backoff
from protocols.threegpp.causes import PrivateNotify
from protocols.threegpp.swu import P_CSCF_ATTRIBUTES, decode_device_identity
from protocols.trace.records import JsonValue


def _back_off(data: bytes) -> JsonValue:
    seconds = decode_backoff(data)
    return "until it is switched off and on" if math.isinf(seconds) else f"{seconds:g} s"


NOTIFY_DATA: Mapping[int, Callable[[bytes], JsonValue]] = {
    PrivateNotify.BACKOFF_TIMER: _back_off,
    PrivateNotify.DEVICE_IDENTITY: decode_device_identity,
}
"""What the data of private Notify types means; they raise as decoders of octets do."""

ATTRIBUTE_NAMES: Mapping[int, str] = {
    number: f"P_CSCF_IP{version}_ADDRESS ({number}, before RFC 7651)"
    for version, numbers in P_CSCF_ATTRIBUTES.items()
    for number in numbers
    if number > 21
}
"""Configuration attributes that phones used for P-CSCF addresses before RFC 7651 gave them numbers."""
