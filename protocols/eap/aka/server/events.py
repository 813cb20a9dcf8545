"""What the server's machine is told, and what it asks and reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocols.eap.aka.attributes import KDF_CK_IK_PRIME
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.temporary import LAST_COUNTER, ReauthenticationContext
from protocols.eap.packet import EapType
from protocols.errors import RemoteError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi

DEFAULT_RESYNCHRONISATIONS = 2  # one is enough unless another attach of the same USIM runs beside
DEFAULT_REAUTHENTICATIONS = 16  # RFC 4187 §5.1 asks for a limit and leaves it to us
DEFAULT_NETWORK_NAME = b"WLAN"  # TS 24.302 §6.4.2.5, table 8.1.1.2-1


class IdentityRequest(Enum):
    """Which identity an EAP-Request/AKA-Identity asks for (RFC 4187 §9.1)."""

    ANY = "AT_ANY_ID_REQ"
    FULL_AUTHENTICATION = "AT_FULLAUTH_ID_REQ"
    PERMANENT = "AT_PERMANENT_ID_REQ"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Policy of a server for one exchange.

    ``methods`` are offered in their order, a Nak leads to the next one that the peer wants;
    ``identity_chooses`` lets the leading digit of a known identity choose the first among them.
    ``always_request_identity`` asks although the identity is usable; ``first_identity_request`` is what is
    asked first, ``None`` for what RFC 4187 §4.1.4 says. ``reauthentications`` limits those after one full
    authentication (§5.1). ``kdfs`` are offered by AT_KDF in their order and contain 1; another value in
    front makes the peer negotiate (RFC 9048 §3.2). ``bidding`` sends AT_BIDDING in EAP-AKA where EAP-AKA' is
    among ``methods`` (RFC 9048 §4). ``separation_bit`` demands the AMF separation bit in vectors of
    EAP-AKA' (RFC 9048 §3.3). ``authorisation`` makes the machine ask ``Authenticated`` before success.
    """

    methods: tuple[EapType, ...] = (EapType.AKA,)
    identity_chooses: bool = True
    always_request_identity: bool = False
    first_identity_request: IdentityRequest | None = None
    pseudonyms: bool = True
    reauthentication: bool = True
    reauthentications: int = DEFAULT_REAUTHENTICATIONS
    checkcode: bool = True
    result_indications: bool = False
    resynchronisations: int = DEFAULT_RESYNCHRONISATIONS
    network_name: bytes = DEFAULT_NETWORK_NAME
    kdfs: tuple[int, ...] = (KDF_CK_IK_PRIME,)
    bidding: bool = True
    separation_bit: bool = True
    authorisation: bool = False

    def __post_init__(self) -> None:
        if not self.methods or set(self.methods) - {EapType.AKA, EapType.AKA_PRIME}:
            raise ValueError("methods are EAP-AKA, EAP-AKA' or both")
        if not self.network_name:
            raise ValueError("the network name must not be empty")  # RFC 9048 §3.1
        if KDF_CK_IK_PRIME not in self.kdfs or len(set(self.kdfs)) != len(self.kdfs):
            raise ValueError("key derivation functions contain 1, and each once")
        if not 1 <= self.reauthentications <= LAST_COUNTER:
            raise ValueError(f"fast re-authentications are 1 to {LAST_COUNTER}")


@dataclass(frozen=True, slots=True)
class Resynchronisation:
    """What the home network needs to resynchronise (TS 33.102 §6.3.5): the RAND used, and AUTS."""

    rand: bytes
    auts: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRequested:
    """A fresh vector is needed: answer with ``answer_vector`` or one of the refusals.

    For EAP-AKA' the vector's CK and IK are CK' and IK' for ``network_name``, which is ``None`` in EAP-AKA.
    """

    identity: bytes
    imsi: Imsi
    resynchronisation: Resynchronisation | None = None
    method: EapType = EapType.AKA
    network_name: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRequested:
    """A fast re-authentication identity came: answer with ``answer_context``.

    ``username`` is the one-time identity, ours and of this ``imsi``: whoever keeps its context hands it out
    once and forgets it.
    """

    identity: bytes
    username: str
    imsi: Imsi


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """The peer's response is right: ``authorise`` or ``deny`` it. ``fast`` tells re-authentication."""

    imsi: Imsi
    identity: bytes
    method: EapType
    fast: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The peer is authenticated; ``packet`` is the EAP-Success, ``identity`` what the keys were made of.

    ``context`` is to be stored before the packet leaves: the peer may come back with its identity. ``fast``
    tells a fast re-authentication from a full one.
    """

    msk: Secret
    emsk: Secret
    imsi: Imsi
    identity: bytes
    packet: bytes
    method: EapType = EapType.AKA
    fast: bool = False
    context: ReauthenticationContext | None = None
    pseudonym: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The exchange failed; ``packet`` is the EAP-Failure, ``why`` one plain sentence."""

    cause: AkaFailure
    why: str
    packet: bytes


ServerEvent = PacketToSend | VectorRequested | ContextRequested | Authenticated | Succeeded | Failed | PacketDiscarded


class ResponseRefused(RemoteError):
    """A response that parses is wrong: a notification of failure answers it (RFC 4187 §6.3.2)."""

    def __init__(self, cause: AkaFailure, why: str) -> None:
        super().__init__(why)
        self.cause = cause
