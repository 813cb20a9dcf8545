"""Where an exchange stands, with what is valid only there."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.server.challenge import Challenge
from protocols.eap.aka.server.events import IdentityRequest
from protocols.eap.aka.server.granted import Granted
from protocols.eap.aka.server.reauthentication import Reauthentication
from protocols.threegpp.identity import Imsi


@dataclass(frozen=True, slots=True)
class Initial:
    """Nothing received yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitingIdentity:
    """An identity was asked for."""

    identifier: int
    packet: bytes
    asked: IdentityRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitingContext:
    """The holder was asked for the context of a re-authentication identity; ``identifier`` is the last one used."""

    identifier: int
    identity: bytes
    imsi: Imsi
    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """The peer has named itself: full authentication comes next."""

    identifier: int
    identity: bytes
    imsi: Imsi


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitingVector:
    """The home network was asked; ``identifier`` is the last one used."""

    identifier: int
    identity: bytes
    imsi: Imsi
    kdfs: tuple[int, ...]
    negotiated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitingChallengeResponse:
    """A challenge is outstanding."""

    identifier: int
    challenge: Challenge


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitingReauthenticationResponse:
    """A re-authentication request is outstanding."""

    identifier: int
    reauthentication: Reauthentication


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitingAuthorisation:
    """The peer is authenticated; the holder was asked whether it may come in."""

    identifier: int
    granted: Granted


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepting:
    """A success notification was sent; EAP-Success follows whatever comes back (RFC 4187 §6.2)."""

    identifier: int
    granted: Granted


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusing:
    """A failure notification was sent; EAP-Failure follows its response (RFC 4187 §6.3.2)."""

    identifier: int
    cause: AkaFailure
    why: str


@dataclass(frozen=True, slots=True)
class Concluded:
    """Success or failure was reported."""


State = (
    Initial
    | AwaitingIdentity
    | AwaitingContext
    | AwaitingVector
    | AwaitingChallengeResponse
    | AwaitingReauthenticationResponse
    | AwaitingAuthorisation
    | Accepting
    | Refusing
    | Concluded
)
Outstanding = AwaitingIdentity | AwaitingChallengeResponse | AwaitingReauthenticationResponse


def following(identifier: int) -> int:
    """The next Identifier: it need only differ from the one before (RFC 3748 §4.1)."""
    return (identifier + 1) % 256


def preceding(identifier: int) -> int:
    """The Identifier whose following one this is."""
    return (identifier - 1) % 256
