"""What an EAP-AKA peer tells whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.peer.temporary import TemporaryIdentities
from protocols.eap.packet import EapType
from protocols.secret import Secret


@dataclass(frozen=True, slots=True)
class ChallengeReceived:
    """Ask the USIM, then ``answer``."""

    rand: bytes
    autn: bytes


@dataclass(frozen=True, slots=True)
class TemporaryIdentitiesChanged:
    """This is what the peer holds from now on; to be kept for the next authentication."""

    held: TemporaryIdentities


@dataclass(frozen=True, slots=True)
class NetworkNameDiffers:
    """The server names another access network than the one that this end is on, and that is taken (RFC 9048 §3.1)."""

    expected: str
    received: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """EAP-Success after mutual authentication; ``identity`` is what the keys were made of."""

    msk: Secret
    emsk: Secret
    identity: bytes
    method: EapType = EapType.AKA
    fast: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The exchange failed; ``why`` is one plain sentence."""

    cause: AkaFailure
    why: str


PeerEvent = (
    PacketToSend
    | ChallengeReceived
    | TemporaryIdentitiesChanged
    | NetworkNameDiffers
    | Succeeded
    | Failed
    | PacketDiscarded
)
