"""What a peer that is authenticated gets."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.eap.aka.server.notification import Protection
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.eap.packet import EapType
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """Keys, temporary identities, and whether both ends want result indications (RFC 4187 §6.2)."""

    identity: bytes
    imsi: Imsi
    method: EapType
    fast: bool
    msk: Secret
    emsk: Secret
    context: ReauthenticationContext | None
    pseudonym: str | None
    protection: Protection
    result_indications: bool
