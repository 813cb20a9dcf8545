"""What both ends of EAP-AKA and EAP-AKA' report alike: causes of failure, packets to send, packets passed over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class AkaFailure(Enum):
    """Why an EAP-AKA exchange failed; the value is a plain word for people and records."""

    USER_UNKNOWN = "user unknown"
    IDENTITY_UNUSABLE = "identity unusable"
    BACKEND = "no authentication vector"
    METHOD_REFUSED = "method refused"
    AUTN_REJECTED = "network not authenticated"
    SYNCHRONISATION = "sequence number out of range"
    IDENTITY_WITHHELD = "permanent identity withheld"
    SEPARATION_BIT = "AMF separation bit is 0"
    NETWORK_NAME = "wrong network name"
    KEY_DERIVATION_FUNCTION = "no key derivation function agreed"
    BIDDING_DOWN = "bidding down"
    WRONG_RES = "wrong RES"
    WRONG_MAC = "wrong AT_MAC"
    WRONG_CHECKCODE = "wrong AT_CHECKCODE"
    WRONG_COUNTER = "wrong AT_COUNTER"
    DENIED = "access denied"
    MALFORMED = "malformed message"
    UNEXPECTED = "unexpected message"
    CLIENT_ERROR = "client error"
    NOTIFICATION = "notified failure"
    REFUSED = "refused by the server"


@dataclass(frozen=True, slots=True)
class PacketToSend:
    """An EAP packet for the other end."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class PacketDiscarded:
    """A packet was passed over in silence, as RFC 3748 §4 asks; nothing is sent for it."""

    why: str
