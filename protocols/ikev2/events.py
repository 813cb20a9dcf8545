"""Everything an ``IkeSa`` tells (events), asks (questions) and is told (commands and answers)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from protocols.errors import Fact
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, IdrPayload, NotifyPayload
from protocols.ikev2.redirection import Gateway, RedirectStage, RedirectTrail
from protocols.ikev2.registry import ConfigType
from protocols.ikev2.suites import IkeSuite
from protocols.ikev2.ticket import ResumableSession
from protocols.path import Address, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class OriginalRole(Enum):
    """Who started the IKE SA: order of SPIs, direction of keys, who may move addresses."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


class AuthenticationKind(Enum):
    """How an end proves itself in IKE_AUTH (RFC 7296 §2.15, §2.16)."""

    EAP = "eap"
    PSK = "psk"
    CERTIFICATE = "certificate"


class SaState(Enum):
    """States of an IKE SA, named by procedure."""

    INITIAL = "initial"
    INIT_SENT = "init-sent"
    INTERMEDIATE = "intermediate"
    HALF_OPEN = "half-open"
    AUTHENTICATING = "authenticating"
    ESTABLISHED = "established"
    REKEYED = "rekeyed"
    DELETING = "deleting"
    CLOSED = "closed"


@dataclass(frozen=True, kw_only=True)
class NatStatus:
    """What NAT detection found (RFC 7296 §2.23): a NAT before us, before the peer; or UDP was forced."""

    local: bool = False
    remote: bool = False
    forced: bool = False

    @property
    def encapsulation(self) -> bool:
        """Whether ESP goes in UDP."""
        return self.local or self.remote or self.forced


# --- observations -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MessageSent:
    """A message left, in the clear, in so many datagrams; ``retransmission`` when it had left before."""

    message: Message
    path: Path
    retransmission: bool = False
    fragments: int = 1


@dataclass(frozen=True, kw_only=True)
class MessageReceived:
    """A message arrived and was authentic (or belongs to IKE_SA_INIT), in the clear.

    Of a fragmented message that comes again only the first fragment is told of (RFC 7383 §2.6.1).
    """

    message: Message
    path: Path
    retransmission: bool = False
    fragments: int = 1


@dataclass(frozen=True, kw_only=True)
class StateChanged:
    """The machine changed its state."""

    old: SaState
    new: SaState
    why: str


@dataclass(frozen=True, kw_only=True)
class IkeKeysDerived:
    """Keys of the IKE SA: for key export only."""

    spi_i: bytes
    spi_r: bytes
    suite: IkeSuite
    keys: IkeKeys


# --- outcomes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Established:
    """The IKE SA is up, and its child SA, if it begins with one, was told of before; what either end was given."""

    identity: IdiPayload
    responder_identity: IdrPayload | None
    configuration: tuple[ConfigurationAttribute, ...]
    mobike: bool
    nat: NatStatus
    path: Path
    requests: int


@dataclass(frozen=True, kw_only=True)
class ChildSaInstalled:
    """A child SA is to carry traffic; ``replaces`` is the inbound SPI it takes over from (rekey).

    Without ``send_at_once`` the replaced one goes on sending until the peer shows that it has the new one
    (RFC 7296 §2.8).
    """

    spec: ChildSaSpec
    replaces: bytes | None = None
    send_at_once: bool = True


@dataclass(frozen=True, kw_only=True)
class ChildSaOffered:
    """The peer asks for a child SA, which nothing but the data plane can refuse now; answer ``ChildSaAnswer``.

    It is to receive from now on, as ``ChildSaInstalled`` has it, which follows unless it is refused.
    """

    spec: ChildSaSpec
    replaces: bytes | None = None
    send_at_once: bool = True


@dataclass(frozen=True, kw_only=True)
class ChildSaPathChanged:
    """Send this child SA's traffic on another path from now on."""

    inbound_spi: bytes
    path: Path
    encapsulation: bool


@dataclass(frozen=True, kw_only=True)
class ChildSaRetired:
    """A child SA that another has replaced was deleted: it sends no more, and receives until it is removed.

    Packets sent before the DELETE may be overtaken by it.
    """

    inbound_spi: bytes


@dataclass(frozen=True, kw_only=True)
class ChildSaRemoved:
    """A child SA is gone; ``with_ike_sa``: because its IKE SA is."""

    inbound_spi: bytes
    why: str
    with_ike_sa: bool = False


@dataclass(frozen=True)
class SuccessorCreated:
    """A rekey has made another IKE SA (RFC 7296 §2.18), which may or may not become the one in use."""

    successor: IkeSa


@dataclass(frozen=True)
class SpiRenewed:
    """IKE_SA_INIT starts anew with another SPI of ours; what comes for ``old`` is nobody's any more."""

    old: bytes


@dataclass(frozen=True)
class IkeSaRekeyed:
    """``successor`` has inherited everything: it is the SA to use from now on (RFC 7296 §2.8)."""

    successor: IkeSa


@dataclass(frozen=True)
class ReauthenticationDue:
    """Authenticate anew, by another IKE SA, before ``until`` (RFC 4478 §2); then delete this one."""

    until: float


@dataclass(frozen=True, kw_only=True)
class CreateChildSaRefused:
    """A CREATE_CHILD_SA came to nothing and ended nothing; ``again_at``: when it is tried again.

    ``reason`` and ``facts`` say to programs what this end found wrong.
    """

    what: str
    notify: NotifyPayload
    again_at: float | None = None
    by_peer: bool = True
    reason: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AddressUpdateStarted:
    """The peer asked to move (gateway) or we did (UE); nothing is adopted yet."""

    old: Path
    new: Path
    nat: NatStatus


@dataclass(frozen=True, kw_only=True)
class AddressesUpdated:
    """The SA and all its child SAs are on the new path (RFC 4555 §3.5).

    ``validated``: it is known to work both ways: COOKIE2 came back or, at the end that moved, the response did.
    """

    old: Path
    new: Path
    nat: NatStatus
    validated: bool


@dataclass(frozen=True, kw_only=True)
class AddressUpdateFailed:
    """The SA and its child SAs are where they were."""

    old: Path
    new: Path
    why: str


@dataclass(frozen=True, kw_only=True)
class PathValidated:
    """A check of the path in use was answered: return routability (RFC 4555 §3.7), or a path test (§3.10)."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class LivenessAnswered:
    """The peer answered a liveness check that somebody asked for (RFC 7296 §2.4), and from where."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class PeerAddressesChanged:
    """The peer's complete list of addresses (RFC 4555 §3.6), the one it told this from first; nothing has moved."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, kw_only=True)
class PathSuspected:
    """UE: a request stays unanswered; other address pairs are being tested (RFC 4555 §3.10)."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class EspFollowed:
    """Gateway: ESP goes to where the peer's authentic ESP comes from (RFC 4555 §3.8); IKE is where it was."""

    old: Path
    new: Path


@dataclass(frozen=True, kw_only=True)
class Suspended:
    """UE: it has no address; nothing is sent until the next move."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class ConfigurationExchanged:
    """Our CFG_REQUEST or CFG_SET was answered; ``answer`` is ``None`` where the response had no such payload."""

    type: ConfigType
    attributes: tuple[ConfigurationAttribute, ...]
    answer: tuple[ConfigurationAttribute, ...] | None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The peer or we refused; ``notify`` says how on the wire, ``text`` says why in plain words.

    ``reason`` and ``facts`` say it to programs, where it was this end that found it out.
    """

    text: str
    notify: NotifyPayload | None = None
    by_peer: bool = True
    reason: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The IKE SA is gone, with all child SAs; ``resumed``: in favour of one that ``Resumed`` is about."""

    why: str
    by_peer: bool = False
    resumed: bool = False


@dataclass(frozen=True, kw_only=True)
class Redirected:
    """UE: the gateway sends us to another one (RFC 5685); connect there with ``trail`` in the configuration.

    Before the SA was established it ends by itself; later it is for the owner to delete it (§5).
    """

    gateway: Gateway
    stage: RedirectStage
    trail: RedirectTrail


@dataclass(frozen=True, kw_only=True)
class RedirectIgnored:
    """A redirect was not obeyed; ``gateway`` is ``None`` when its kind of identity is unknown."""

    gateway: Gateway | None
    why: str


@dataclass(frozen=True, kw_only=True)
class PeerRedirected:
    """Gateway: the peer was told to go elsewhere (RFC 5685 §5, §6)."""

    gateway: Gateway
    stage: RedirectStage


@dataclass(frozen=True)
class TicketReceived:
    """UE: what resumes this SA should it be lost (RFC 5723 §4.2); to be forgotten when the SA is deleted (§6.2)."""

    session: ResumableSession


@dataclass(frozen=True)
class TicketRejected:
    """UE: the gateway does not accept the ticket (TICKET_NACK); a full exchange follows by itself."""


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Gateway: the peer has proved that the ticket of this former SA is its own (RFC 5723 §4.3.4)."""

    identity: IdiPayload
    former_spi_i: bytes
    former_spi_r: bytes


# --- questions and answers ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class IdentityReceived:
    """Gateway: a UE presents itself; with EAP answer with ``EapReply``, ``RedirectReply`` or ``Refusal``.

    With a pre-shared key or a certificate the UE has proved itself: the question is ``ConfigurationRequested``.
    ``redirectable``: the UE has announced REDIRECT (RFC 5685 §3).
    """

    identity: IdiPayload
    responder_identity: IdrPayload | None
    configuration: tuple[ConfigurationAttribute, ...]
    path: Path
    authentication: AuthenticationKind = AuthenticationKind.EAP
    redirectable: bool = False


@dataclass(frozen=True, kw_only=True)
class EapResponseReceived:
    """Gateway: an EAP packet for the AAA server; answer with ``EapReply`` or ``Refusal``."""

    packet: bytes


@dataclass(frozen=True, kw_only=True)
class EapRequestReceived:
    """UE: an EAP packet for the USIM; answer with ``EapReply``."""

    packet: bytes


@dataclass(frozen=True, kw_only=True)
class ConfigurationRequested:
    """Gateway: the UE is authenticated and wants addresses; answer ``ConfigurationReply``,
    ``RedirectReply`` (when ``redirectable``) or ``Refusal``.

    ``resumed``: the UE was authenticated before; what ``ConfigurationReply.session`` said then (RFC 5723).
    ``initial_contact``: the UE has no other SA with us (RFC 7296 §2.4), whatever we may think.
    """

    identity: IdiPayload
    responder_identity: IdrPayload | None
    configuration: tuple[ConfigurationAttribute, ...]
    initial_contact: bool = False
    redirectable: bool = False
    resumed: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class ConfigurationReceived:
    """The peer's CFG_REQUEST or CFG_SET on an SA that is up (RFC 7296 §3.15); answer ``ConfigurationAnswer``."""

    type: ConfigType
    attributes: tuple[ConfigurationAttribute, ...]


@dataclass(frozen=True, kw_only=True)
class ConfigurationAnswer:
    """Values for a CFG_REQUEST, or the attributes of a CFG_SET that are accepted (their values do not matter)."""

    attributes: tuple[ConfigurationAttribute, ...] = ()


@dataclass(frozen=True)
class ChildSaAnswer:
    """Whether the data plane has a child SA; without, the peer is refused it, and the IKE SA goes on."""

    carried: bool


@dataclass(frozen=True, kw_only=True)
class EapReply:
    """An EAP packet for the peer; with EAP-Success comes the MSK. UE: ``msk`` once it is known."""

    packet: bytes | None = None
    msk: Secret | None = None


@dataclass(frozen=True, kw_only=True)
class ConfigurationReply:
    """What the UE gets: attributes and the selectors its child SA may use (remote: the UE's side).

    ``session`` goes into a ticket, sealed, for the question after a resumption; ``None`` refuses one.
    ``notifies`` go along and say what is to be known of it (a profile's status types).
    """

    attributes: tuple[ConfigurationAttribute, ...]
    local_selectors: tuple[TrafficSelector, ...]
    remote_selectors: tuple[TrafficSelector, ...]
    notifies: tuple[NotifyPayload, ...] = ()
    session: bytes | None = b""


@dataclass(frozen=True)
class RedirectReply:
    """Send the peer to another gateway instead of serving it (RFC 5685 §6)."""

    gateway: Gateway


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Refuse the peer with this Notify (and EAP-Failure when there is one).

    ``beside`` go along and say more of it (a profile's status types); ``reason`` and ``facts`` are for ``Refused``.
    """

    notify: NotifyPayload
    text: str
    eap_packet: bytes | None = None
    beside: tuple[NotifyPayload, ...] = ()
    reason: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


Event = (
    MessageSent
    | MessageReceived
    | StateChanged
    | IkeKeysDerived
    | Established
    | ChildSaOffered
    | ChildSaInstalled
    | ChildSaPathChanged
    | ChildSaRetired
    | ChildSaRemoved
    | SuccessorCreated
    | SpiRenewed
    | IkeSaRekeyed
    | ReauthenticationDue
    | CreateChildSaRefused
    | AddressUpdateStarted
    | AddressesUpdated
    | AddressUpdateFailed
    | PathValidated
    | LivenessAnswered
    | PeerAddressesChanged
    | PathSuspected
    | EspFollowed
    | Suspended
    | ConfigurationExchanged
    | Refused
    | Redirected
    | RedirectIgnored
    | PeerRedirected
    | TicketReceived
    | TicketRejected
    | Resumed
    | Closed
    | IdentityReceived
    | EapResponseReceived
    | EapRequestReceived
    | ConfigurationRequested
    | ConfigurationReceived
)
Answer = EapReply | ConfigurationReply | ConfigurationAnswer | ChildSaAnswer | RedirectReply | Refusal
