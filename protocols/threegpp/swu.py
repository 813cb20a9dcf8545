"""SWu as an extension of IKEv2 (TS 24.302 §7): what is announced and asked beside IKEv2's own payloads.

DEVICE_IDENTITY: the gateway asks for the equipment's identity with an empty one (§7.4.1.1); the UE answers
only once it has authenticated the server inside EAP (§8.2.9.2 has the encoding). P_CSCF_RESELECTION_SUPPORT:
the UE can take other P-CSCFs while it is attached. PDN_TYPE_IPv4_ONLY_ALLOWED and IPv6: the gateway tells a
dual-stack UE why it has one family only. BACKOFF_TIMER: a refusal says how long the UE is to wait; without an error
Notify beside it it means nothing (§8.2.9.1). REACTIVATION_REQUESTED_CAUSE: the UE whose tunnel the gateway deletes is
to set it up again (§7.2.4.2, §7.4.3). EMERGENCY_SUPPORT: the gateway serves emergency sessions. Besides, words for the
private refusals. Left out: EMERGENCY_CALL_NUMBERS, and everything of multiple bearers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from protocols.buffer import Reader
from protocols.errors import RemoteError
from protocols.ikev2.extension import Step
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import NotifyType
from protocols.threegpp.backoff import decode_backoff
from protocols.threegpp.causes import PrivateNotify, words

IDENTITY_TYPE_IMEI = 1
IDENTITY_TYPE_IMEISV = 2
TBCD_LENGTH = 8
END_MARK = "F"
P_CSCF_ATTRIBUTES = {4: (20, 16384, 16389), 6: (21, 16386, 16390)}  # RFC 7651, and what phones used before it
ONLY_ALLOWED = {PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED: 4, PrivateNotify.PDN_TYPE_IPV6_ONLY_ALLOWED: 6}


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


def n1_mode_capability(pdu_session: int) -> NotifyPayload:
    """N1_MODE_CAPABILITY: the PDU session that goes with the tunnel (TS 24.302 §8.2.9.15)."""
    return NotifyPayload(type=NotifyType(PrivateNotify.N1_MODE_CAPABILITY), data=bytes([1, pdu_session]))


def reactivation_notify() -> NotifyPayload:
    """REACTIVATION_REQUESTED_CAUSE, for the request that deletes the IKE SA (TS 24.302 §8.1.2.3)."""
    return NotifyPayload(type=NotifyType(PrivateNotify.REACTIVATION_REQUESTED_CAUSE))


class GatewaySwu:
    """The gateway's end: asks for the device identity when configured to, and keeps what comes.

    ``dropped`` counts what is malformed: a status type that cannot be read is ignored (RFC 7296 §3.10.1).
    """

    def __init__(
        self,
        *,
        request_device_identity: bool = False,
        emergency_support: bool = False,
        dropped: Counter[str] | None = None,
    ) -> None:
        self._request = request_device_identity
        self._emergency_support = emergency_support
        self.device_identity: str | None = None
        self.p_cscf_reselection = False
        self.dropped: Counter[str] = Counter() if dropped is None else dropped

    def payloads(self, step: Step) -> Sequence[Payload]:
        """An empty DEVICE_IDENTITY with the first EAP packet; EMERGENCY_SUPPORT at the end."""
        if self._request and step is Step.IDENTITY_RESPONSE:
            return (NotifyPayload(type=NotifyType(PrivateNotify.DEVICE_IDENTITY)),)
        if self._emergency_support and step is Step.FINAL_RESPONSE:
            return (NotifyPayload(type=NotifyType(PrivateNotify.EMERGENCY_SUPPORT)),)
        return ()

    def take(self, step: Step, message: Message) -> None:
        """Keep the UE's device identity, and whether it can take other P-CSCFs later."""
        if step is Step.IDENTITY_REQUEST:
            self.p_cscf_reselection = message.notify(PrivateNotify.P_CSCF_RESELECTION_SUPPORT) is not None
        notify = message.notify(PrivateNotify.DEVICE_IDENTITY)
        if notify is None:
            return
        try:
            self.device_identity = decode_device_identity(notify.data) or self.device_identity
        except RemoteError:
            self.dropped["device-identity-malformed"] += 1

    def explain(self, notify: NotifyPayload) -> str:
        """Words for a refusal."""
        return words(int(notify.type))


class DeviceSwu:
    """The UE's end: tells its IMEI when asked, after ``server_authenticated`` says that it may.

    ``pdu_session``: its identity, of a UE that could use N1 mode.
    ``only_allowed`` is told the IP version when the network allows no other (TS 24.302 §8.1.2.3), ``back_off`` the
    seconds that a refusal asks to wait, ``reactivation`` that the network deletes the tunnel to have it set up again,
    ``emergency_support`` that the gateway serves emergency sessions.
    """

    def __init__(
        self,
        *,
        imei: str | None = None,
        server_authenticated: Callable[[], bool] = lambda: False,
        p_cscf_reselection: bool = False,
        pdu_session: int | None = None,
        only_allowed: Callable[[int], None] = lambda version: None,
        back_off: Callable[[float], None] = lambda seconds: None,
        reactivation: Callable[[], None] = lambda: None,
        emergency_support: Callable[[], None] = lambda: None,
        dropped: Counter[str] | None = None,
    ) -> None:
        self._imei = imei
        self._server_authenticated = server_authenticated
        self._p_cscf_reselection = p_cscf_reselection
        self._pdu_session = pdu_session
        self._only_allowed = only_allowed
        self._back_off = back_off
        self._reactivation = reactivation
        self._emergency_support = emergency_support
        self._asked = False
        self.dropped: Counter[str] = Counter() if dropped is None else dropped

    def payloads(self, step: Step) -> Sequence[Payload]:
        """P_CSCF_RESELECTION_SUPPORT, N1_MODE_CAPABILITY with the identity; DEVICE_IDENTITY once, when it is due."""
        if step is Step.IDENTITY_REQUEST:
            reselection = NotifyPayload(type=NotifyType(PrivateNotify.P_CSCF_RESELECTION_SUPPORT))
            return (
                *((reselection,) if self._p_cscf_reselection else ()),
                *(() if self._pdu_session is None else (n1_mode_capability(self._pdu_session),)),
            )
        due = step in (Step.EAP_REQUEST, Step.FINAL_REQUEST)
        if not (due and self._asked and self._imei and self._server_authenticated()):
            return ()
        self._asked = False
        data = encode_device_identity(self._imei)
        return (NotifyPayload(type=NotifyType(PrivateNotify.DEVICE_IDENTITY), data=data),)

    def take(self, step: Step, message: Message) -> None:
        """Notice that the gateway asks, what it allows, and how it says no or goodbye."""
        if message.notify(PrivateNotify.DEVICE_IDENTITY) is not None:
            self._asked = True
        if step in (Step.FINAL_RESPONSE, Step.REFUSAL):
            for notify, version in ONLY_ALLOWED.items():
                if message.notify(notify) is not None:
                    self._only_allowed(version)
        if step is Step.FINAL_RESPONSE and message.notify(PrivateNotify.EMERGENCY_SUPPORT) is not None:
            self._emergency_support()
        if step is Step.REFUSAL:
            self._take_back_off(message.notify(PrivateNotify.BACKOFF_TIMER))
        elif step is Step.DELETION and message.notify(PrivateNotify.REACTIVATION_REQUESTED_CAUSE) is not None:
            self._reactivation()

    def _take_back_off(self, notify: NotifyPayload | None) -> None:
        if notify is None:
            return
        try:
            self._back_off(decode_backoff(notify.data))
        except RemoteError:
            self.dropped["backoff-timer-malformed"] += 1

    def explain(self, notify: NotifyPayload) -> str:
        """Words for a refusal."""
        return words(int(notify.type))
