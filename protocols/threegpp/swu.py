"""SWu as an extension of IKEv2 (TS 24.302 §7): DEVICE_IDENTITY, and words for the private refusals.

The gateway asks for the equipment's identity with an empty DEVICE_IDENTITY (§7.4.1.1); the UE answers
only once it has authenticated the server inside EAP (§8.2.9.2 has the encoding).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protocols.buffer import Reader
from protocols.errors import RemoteError
from protocols.ikev2.extension import Step
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import NotifyType
from protocols.threegpp.causes import PrivateNotify, words

IDENTITY_TYPE_IMEI = 1
IDENTITY_TYPE_IMEISV = 2
TBCD_LENGTH = 8
END_MARK = "F"


def encode_device_identity(digits: str) -> bytes:
    """DEVICE_IDENTITY data: two-octet length 9, type, eight TBCD octets (TS 24.302 §8.2.9.2)."""
    kind = IDENTITY_TYPE_IMEISV if len(digits) == 16 else IDENTITY_TYPE_IMEI
    padded = digits.ljust(2 * TBCD_LENGTH, END_MARK)
    swapped = "".join(padded[at + 1] + padded[at] for at in range(0, len(padded), 2))
    return (1 + TBCD_LENGTH).to_bytes(2, "big") + bytes([kind]) + bytes.fromhex(swapped)


def decode_device_identity(data: bytes) -> str | None:
    """The IMEI or IMEISV digits, ``None`` when the notify only asks; ``RemoteError`` on nonsense."""
    if not data:
        return None
    reader = Reader(data)
    body = reader.sub(reader.u16())
    reader.finish("DEVICE_IDENTITY")
    kind, octets = body.u8(), body.rest()
    digits = "".join(f"{octet & 15:X}{octet >> 4:X}" for octet in octets).rstrip(END_MARK)
    lengths = {IDENTITY_TYPE_IMEI: (14, 15), IDENTITY_TYPE_IMEISV: (16,)}
    if len(digits) not in lengths.get(kind, ()) or not digits.isdecimal():
        raise RemoteError(f"DEVICE_IDENTITY of type {kind} holds {digits!r}", NotifyType.INVALID_SYNTAX)
    return digits


class GatewaySwu:
    """The gateway's end: asks for the device identity when configured to, and keeps what comes."""

    def __init__(self, *, request_device_identity: bool = False) -> None:
        self._request = request_device_identity
        self.device_identity: str | None = None

    def payloads(self, step: Step) -> Sequence[Payload]:
        """An empty DEVICE_IDENTITY with the first EAP packet."""
        if self._request and step is Step.IDENTITY_RESPONSE:
            return (NotifyPayload(type=NotifyType(PrivateNotify.DEVICE_IDENTITY)),)
        return ()

    def take(self, step: Step, message: Message) -> None:
        """Keep the UE's device identity."""
        del step
        notify = message.notify(PrivateNotify.DEVICE_IDENTITY)
        if notify is not None:
            self.device_identity = decode_device_identity(notify.data) or self.device_identity

    def explain(self, notify: NotifyPayload) -> str:
        """Words for a refusal."""
        return words(int(notify.type))


class DeviceSwu:
    """The UE's end: tells its IMEI when asked, after ``server_authenticated`` says that it may."""

    def __init__(self, *, imei: str | None = None, server_authenticated: Callable[[], bool] = lambda: False) -> None:
        self._imei = imei
        self._server_authenticated = server_authenticated
        self._asked = False

    def payloads(self, step: Step) -> Sequence[Payload]:
        """DEVICE_IDENTITY once, when it is due."""
        due = step in (Step.EAP_REQUEST, Step.FINAL_REQUEST)
        if not (due and self._asked and self._imei and self._server_authenticated()):
            return ()
        self._asked = False
        data = encode_device_identity(self._imei)
        return (NotifyPayload(type=NotifyType(PrivateNotify.DEVICE_IDENTITY), data=data),)

    def take(self, step: Step, message: Message) -> None:
        """Notice that the gateway asks."""
        del step
        if message.notify(PrivateNotify.DEVICE_IDENTITY) is not None:
            self._asked = True

    def explain(self, notify: NotifyPayload) -> str:
        """Words for a refusal."""
        return words(int(notify.type))
