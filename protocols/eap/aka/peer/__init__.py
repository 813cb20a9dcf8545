"""The peer's end of EAP-AKA (RFC 4187) and EAP-AKA' (RFC 9048): a pure machine and what it is told and tells."""

from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.peer.events import (
    ChallengeReceived,
    Failed,
    NetworkNameDiffers,
    PeerEvent,
    Succeeded,
    TemporaryIdentitiesChanged,
)
from protocols.eap.aka.peer.machine import EapAkaPeer
from protocols.eap.aka.peer.options import IdentityForm, NetworkNamePolicy, PeerOptions, PrivacyPolicy
from protocols.eap.aka.peer.temporary import Pseudonym, ReauthenticationContext, TemporaryIdentities

__all__ = [
    "AkaFailure",
    "ChallengeReceived",
    "EapAkaPeer",
    "Failed",
    "IdentityForm",
    "NetworkNameDiffers",
    "NetworkNamePolicy",
    "PacketDiscarded",
    "PacketToSend",
    "PeerEvent",
    "PeerOptions",
    "PrivacyPolicy",
    "Pseudonym",
    "ReauthenticationContext",
    "Succeeded",
    "TemporaryIdentities",
    "TemporaryIdentitiesChanged",
]
