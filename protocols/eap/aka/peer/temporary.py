"""Temporary identities that a peer has been given: pseudonym and fast re-authentication context (RFC 4187 §4.1, §5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.eap.packet import EapType
from protocols.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Pseudonym:
    """A pseudonym username as the server gave it, and the method that it came by."""

    method: EapType
    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReauthenticationContext:
    """What fast re-authentication needs (RFC 4187 §5.1, RFC 9048 §3.3).

    ``identity`` is the one that the server gave, to be used once; ``counter`` the highest one accepted since the full
    authentication, 0 straight after it; ``k_re`` MK in EAP-AKA, K_re in EAP-AKA'.
    """

    method: EapType
    identity: str
    counter: int
    k_encr: Secret
    k_aut: Secret
    k_re: Secret
    network_name: str = field(default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryIdentities:
    """What a peer holds between two authentications."""

    pseudonym: Pseudonym | None = None
    reauthentication: ReauthenticationContext | None = None
