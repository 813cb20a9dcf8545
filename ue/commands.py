"""What the device tells the runtime to do; each that is answered names the method of ``Device`` for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from protocols.eap.aka.peer import TemporaryIdentities
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.events import Answer
from protocols.ikev2.redirection import RedirectTrail
from protocols.ikev2.ticket import ResumableSession
from protocols.names import RecordKind
from protocols.path import Address, Endpoint, Path
from protocols.trace.records import JsonValue
from ue.backoff import BackOff


class Procedure(Enum):
    """What somebody may be waiting for."""

    ATTACH = "attach"
    MOVE = "move"
    DETACH = "detach"


@dataclass(frozen=True, kw_only=True)
class AccessPorts:
    """Where the ports on an access are bound."""

    ike: Endpoint
    nat_traversal: Endpoint


@dataclass(frozen=True, kw_only=True)
class OpenAccess:
    """Open the ports on an access; answer through ``access_opened`` or ``access_failed``."""

    access: str


@dataclass(frozen=True, kw_only=True)
class CloseAccess:
    """Close the ports on an access: what is sent or arrives there is lost from now on."""

    access: str


@dataclass(frozen=True, kw_only=True)
class Connect:
    """Start an IKE SA from this access; answer through ``connected``.

    ``gateway`` when the gateway was selected, or a redirect, which ``trail`` tells of, leads to another than the
    configured one (RFC 5685). ``names``: its certificate must carry one of these, by default the configured ones.
    ``patience``: seconds for its first answer, by default as long as the request is retransmitted.
    ``session`` is resumed where it can be (RFC 5723). ``identity`` is IDi with EAP. ``previous_addresses`` are asked
    for, because the UE comes with them from another access (handover).
    """

    access: str
    identity: str
    gateway: Address | None = None
    trail: RedirectTrail | None = None
    session: ResumableSession | None = None
    previous_addresses: tuple[Address, ...] = ()
    names: tuple[str, ...] = ()
    patience: float | None = None


@dataclass(frozen=True, kw_only=True)
class Resolve:
    """Look a name up; answer through ``resolved``."""

    name: str
    kinds: tuple[RecordKind, ...]


@dataclass(frozen=True, kw_only=True)
class ConnectSuccessor:
    """Start a second IKE SA that is to take the place of the present one, asking for its inner addresses.

    ``gateway``: the address that the present one uses now, which a redirect or a move has led to. ``identity`` is
    IDi with EAP.
    """

    access: str
    identity: str
    gateway: Address
    addresses: tuple[Address, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerSuccessor:
    """Answer the open question of the second IKE SA."""

    answer: Answer


@dataclass(frozen=True, kw_only=True)
class AdoptSuccessor:
    """The second IKE SA takes over; delete the first. Answer through ``adopted``."""


@dataclass(frozen=True, kw_only=True)
class DropSuccessor:
    """Let the second IKE SA go."""

    why: str


@dataclass(frozen=True, kw_only=True)
class MoveSa:
    """Move the IKE SA to this access, by this path (RFC 4555 §3.5); ``old_gone``: the former access is closed."""

    access: str
    path: Path
    old_gone: bool = False


@dataclass(frozen=True, kw_only=True)
class SuspendSa:
    """Send nothing until the next ``MoveSa``: the UE has no address (RFC 4621 §5.4)."""


@dataclass(frozen=True, kw_only=True)
class UseAddresses:
    """These are the UE's addresses, for path tests (RFC 4555 §3.10); ``None``: the one in use."""

    addresses: tuple[Endpoint, ...] | None


@dataclass(frozen=True, kw_only=True)
class DeleteSa:
    """Delete the IKE SA, with a word to the gateway where there are keys to say it with."""

    why: str


@dataclass(frozen=True, kw_only=True)
class AskUsim:
    """AUTHENTICATE; answer through ``usim_answered``."""

    rand: bytes
    autn: bytes


@dataclass(frozen=True, kw_only=True)
class KeepTemporaryIdentities:
    """Remember pseudonym and fast re-authentication context, where the UE is to keep them over a restart."""

    held: TemporaryIdentities


@dataclass(frozen=True, kw_only=True)
class AnswerIke:
    """Answer the open question of the IKE SA."""

    answer: Answer


@dataclass(frozen=True, kw_only=True)
class StartHost:
    """Give the inner addresses to a host or device; answer through ``host_started`` or ``host_failed``."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, kw_only=True)
class StopHost:
    """Take the inner addresses away."""


@dataclass(frozen=True, kw_only=True)
class InstallChildSa:
    """Carry traffic by a child SA; ``replaces`` is the inbound SPI that it takes over from."""

    spec: ChildSaSpec
    replaces: bytes | None
    send_at_once: bool = True


@dataclass(frozen=True, kw_only=True)
class UpdateChildSa:
    """Send a child SA's traffic on another path."""

    inbound_spi: bytes
    path: Path
    encapsulation: bool


@dataclass(frozen=True, kw_only=True)
class ExpectChildSa:
    """Take a child SA's traffic on another path too, which may become the one to send on."""

    inbound_spi: bytes
    path: Path
    encapsulation: bool


@dataclass(frozen=True, kw_only=True)
class RetireChildSa:
    """Send nothing by a child SA any more."""

    inbound_spi: bytes


@dataclass(frozen=True, kw_only=True)
class RemoveChildSa:
    """Forget a child SA."""

    inbound_spi: bytes


@dataclass(frozen=True, kw_only=True)
class KeepBackOff:
    """Remember how long the network wants to be left alone, over a restart too; ``None``: nothing any more."""

    back_off: BackOff | None


@dataclass(frozen=True, kw_only=True)
class Tell:
    """An event a person wants to know: its name, one plain sentence, data."""

    name: str
    text: str
    data: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A procedure that was asked for under ``ticket`` is over; ``failure`` is one plain sentence."""

    procedure: Procedure
    ticket: int
    failure: str | None = None


Command = (
    OpenAccess
    | CloseAccess
    | Connect
    | Resolve
    | ConnectSuccessor
    | AnswerSuccessor
    | AdoptSuccessor
    | DropSuccessor
    | MoveSa
    | UseAddresses
    | SuspendSa
    | DeleteSa
    | AskUsim
    | KeepTemporaryIdentities
    | AnswerIke
    | StartHost
    | StopHost
    | InstallChildSa
    | ExpectChildSa
    | UpdateChildSa
    | RetireChildSa
    | RemoveChildSa
    | KeepBackOff
    | Tell
    | Finished
)
