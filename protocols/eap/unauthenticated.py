"""Emergency sessions without authentication (TS 33.402 §13.3 and Annex A.4, TS 23.003 §19.3.6): EAP without a method.

::

    UE                                    gateway                          3GPP AAA server
     IDi imei<IMEI>@sos.invalid    -->     EAP-Response/Identity    -->     by policy
                                   <--                              <--     EAP-Success, MSK
     AUTH (MSK)                    -->

Both ends make the MSK of the IMEI, which is no secret: AUTH then proves nothing, and IKE goes its usual way. Left
out: the MAC address in place of an IMEI, and a UE whose IMSI cannot be authenticated.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import deque
from dataclasses import dataclass

from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.peer.events import Failed
from protocols.eap.packet import EapCode, EapPacket, EapType, identity_response
from protocols.errors import DecodeError
from protocols.secret import Secret
from protocols.threegpp.identity import EMERGENCY_REALM, Nai

_FC = 0x22
_P0 = b"unauth-emer"
_IMEI = re.compile(r"[0-9]{15}\Z")


def emergency_nai(imei: str) -> str:
    """The identity of a UE without an IMSI (TS 23.003 §19.3.6); ``ValueError`` unless ``imei`` has 15 digits."""
    if not _IMEI.match(imei):
        raise ValueError("an IMEI of 15 digits")
    return str(Nai(username=f"imei{imei}", realm=EMERGENCY_REALM))


def emergency_msk(imei: str) -> Secret:
    """The MSK, 32 octets: the KDF of TS 33.220 §B.2 under the IMEI's digits (TS 33.402 Annex A.4)."""
    string = bytes([_FC]) + _P0 + len(_P0).to_bytes(2, "big")
    return Secret(hmac.digest(imei.encode(), string, hashlib.sha256))


@dataclass(frozen=True, slots=True)
class Admitted:
    """The network lets the UE in without authentication."""

    msk: Secret
    identity: str


class UnauthenticatedPeer:
    """The UE's end of one exchange: says its IMEI, takes EAP-Success."""

    refusal: Failed | None = None
    server_authenticated = False

    def __init__(self, imei: str) -> None:
        """``imei`` has 15 digits; ``ValueError``."""
        self.identity = emergency_nai(imei)
        self._imei = imei
        self._events: deque[PacketToSend | Admitted | Failed | PacketDiscarded] = deque()

    def receive(self, octets: bytes) -> None:
        """An EAP packet of the network. A method in it wants a USIM, which this UE has not."""
        try:
            packet = EapPacket.decode(octets)
        except DecodeError as error:
            self._events.append(PacketDiscarded(f"not an EAP packet: {error}"))
            return
        match packet.code, packet.type:
            case EapCode.SUCCESS, _:
                self._events.append(Admitted(emergency_msk(self._imei), self.identity))
            case EapCode.FAILURE, _:
                self._events.append(Failed(AkaFailure.REFUSED, "the network sent EAP-Failure"))
            case EapCode.REQUEST, EapType.IDENTITY:
                self._events.append(PacketToSend(identity_response(packet.identifier, self.identity.encode())))
            case EapCode.REQUEST, _:
                self._events.append(Failed(AkaFailure.METHOD_REFUSED, "the network wants a USIM, which is not there"))
            case _:
                self._events.append(PacketDiscarded("not for a peer"))

    def poll_event(self) -> PacketToSend | Admitted | Failed | PacketDiscarded | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None
