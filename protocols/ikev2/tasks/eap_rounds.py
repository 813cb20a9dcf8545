"""EAP inside IKE_AUTH (RFC 7296 §2.16, §3.16, RFC 3748 §4, RFC 5998 §4): order, number of rounds, safe methods.

IKE passes EAP packets on and looks at their headers only. Left out: methods without keys, whose AUTH would be made
with SK_pi and SK_pr (§2.16 has them as a "SHOULD NOT").
"""

from __future__ import annotations

from protocols.eap.packet import EapCode, EapPacket, EapType
from protocols.errors import AuthenticationError, DecodeError, RemoteError
from protocols.ikev2.registry import NotifyType

ROUNDS_MAXIMUM = 30  # EAP-TLS with long chains takes a dozen

# RFC 5998 §4: mutual authentication, keys, no dictionary attacks. Of its list those whose EAP types are assigned.
SAFE_METHODS = frozenset(
    {
        EapType.TLS,
        EapType.SIM,
        EapType.AKA,
        EapType.AKA_PRIME,
        21,  # EAP-TTLS
        43,  # EAP-FAST
        46,  # EAP-PAX
        48,  # EAP-SAKE
        51,  # EAP-GPSK
        52,  # EAP-pwd
        53,  # EAP-EKE
    }
)
_WITHOUT_METHOD = frozenset({EapType.IDENTITY, EapType.NOTIFICATION})


class Rounds:
    """One end's view of the conversation; ``RemoteError`` when the peer leaves the order."""

    def __init__(self) -> None:
        self._rounds = 0
        self._identifier: int | None = None

    def asked(self, packet: bytes) -> None:
        """Gateway: this packet goes to the UE; its response has to carry the same Identifier (RFC 3748 §4.1)."""
        self._identifier = packet[1] if packet[:1] == bytes([EapCode.REQUEST]) and len(packet) > 1 else None

    def response(self, packet: bytes) -> None:
        """Gateway: a packet of the UE."""
        found = self._count(packet)
        if found.code is not EapCode.RESPONSE:
            raise _broken(f"an EAP-{found.code.name.capitalize()} of the UE")
        if self._identifier is None or found.identifier != self._identifier:
            raise _broken("an EAP response to nothing that was asked")
        self._identifier = None

    def request(self, packet: bytes, *, gateway_authenticated: bool) -> None:
        """UE: a packet of the gateway, who may have shown nothing but what EAP will show (RFC 5998 §4)."""
        found = self._count(packet)
        if found.code is EapCode.RESPONSE:
            raise _broken("an EAP response of the gateway")
        unsafe = found.code is EapCode.REQUEST and found.type not in _WITHOUT_METHOD | SAFE_METHODS
        if unsafe and not gateway_authenticated:
            raise AuthenticationError(
                f"EAP type {found.type} does not authenticate a gateway that shows nothing else (RFC 5998 §4)",
                NotifyType.AUTHENTICATION_FAILED,
            )

    def _count(self, packet: bytes) -> EapPacket:
        self._rounds += 1
        if self._rounds > ROUNDS_MAXIMUM:
            raise _broken(f"more than {ROUNDS_MAXIMUM} rounds of EAP")
        try:
            return EapPacket.decode(packet)
        except DecodeError as error:
            raise _broken(f"no EAP packet: {error}") from error


def _broken(why: str) -> RemoteError:
    return RemoteError(why, NotifyType.INVALID_SYNTAX)
