"""What the device remembers of one attach: addresses, SAs, paths, and the measures of attach and moves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.events import NatStatus
from protocols.ikev2.redirection import RedirectTrail
from protocols.path import Address, Path
from ue.authentication import Authentication
from ue.configuration import Granted
from ue.selection import Selection


class MoveOutcome(str, Enum):
    """How a move ended."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class Signalling(Protocol):
    """The IKE SA's counters of its own requests."""

    @property
    def requests_sent(self) -> int:
        """Requests, each counted once."""

    @property
    def retransmissions_sent(self) -> int:
        """Datagrams that repeated a request."""


@dataclass(frozen=True, kw_only=True)
class Identifiers:
    """What a move must leave as it is (RFC 4555 §3.5): inner addresses, the SPIs of all SAs."""

    addresses: tuple[Address, ...]
    spis: frozenset[tuple[bytes, bytes]]


@dataclass(kw_only=True)
class Move:
    """One move and its measures; times are the machine's seconds.

    ``update_interval`` is from the command to the gateway's answer to UPDATE_SA_ADDRESSES. ``ticket`` is
    ``None`` for the way back that nobody asked for. ``closed_old`` says whether it broke before it made.
    """

    origin: str
    target: str
    old: Path
    started: float
    ticket: int | None
    closed_old: bool
    before: Identifiers
    requests_before: int
    retransmissions_before: int
    new: Path | None = None
    outcome: MoveOutcome = MoveOutcome.PENDING
    why: str | None = None
    update_interval: float | None = None
    requests: int = 0
    retransmissions: int = 0
    nat: NatStatus | None = None
    inner_address_unchanged: bool | None = None
    spis_unchanged: bool | None = None


@dataclass(kw_only=True)
class PathUse:
    """A path that the connection has been on; the machine's seconds."""

    path: Path
    access: str
    since: float
    why: str
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class Onward:
    """Where an attach goes on: to a gateway, or to what a selection finds."""

    gateway: Address | None
    trail: RedirectTrail | None
    selection: Selection | None = None
    names: tuple[str, ...] = ()


class Connection:
    """What belongs to one attach: it begins with the command and ends when the IKE SA is gone.

    ``gateway`` and ``trail`` say by which selection or redirect it came about, ``redirect`` where it goes on,
    ``pending`` where it would, once a name is looked up; ``names``: see ``Connect``. ``selection`` goes on when the
    gateway does not serve, which ``turned_away`` says; ``heard``: it has answered. ``cause`` is the last refusal's,
    ``for_good``: nobody is left who has not barred the UE; ``unanswered``: the attach has failed by silence alone, or
    because the access cannot be used.
    ``nat_refusals``: how often it was begun anew because of a NAT (RFC 4555 §3.9).
    ``resumes``: it presents a ticket, so IDi is not EAP's. ``back_off``: seconds that a refusal asks to wait.
    ``reactivation``: the gateway ends it to have it set up again; ``reactivations``: how often that was done in a row.
    ``silence``: for how long nothing had been heard when the path was suspected.
    ``deleting``: this end has sent DELETE, by command or because the IKE SA must not go on. ``previous``: addresses
    that it is to keep (handover). ``patience``: for a gateway's first answer.
    """

    def __init__(self, access: str, ticket: int | None, authentication: Authentication, now: float) -> None:
        self.access = access
        self.started = now
        self.authentication = authentication
        self.attach_ticket: int | None = ticket
        self.gateway: Address | None = None
        self.trail: RedirectTrail | None = None
        self.redirect: Onward | None = None
        self.pending: Onward | None = None
        self.names: tuple[str, ...] = ()
        self.selection: Selection | None = None
        self.turned_away: str | None = None
        self.heard = False
        self.cause: int | None = None
        self.for_good = False
        self.unanswered = False
        self.nat_refusals = 0
        self.resumes = False
        self.back_off: float | None = None
        self.reactivation = False
        self.emergency_support = False
        self.reactivations = 0
        self.detach_ticket: int | None = None
        self.detach_requested = False
        self.deleting = False
        self.signalling: Signalling | None = None
        self._counted_before = (0, 0)
        self.established: float | None = None
        self.ended: float | None = None
        self.attach_interval: float | None = None
        self.attach_requests = 0
        self.attach_retransmissions = 0
        self.mobike = False
        self.nat = NatStatus()
        self.path: Path | None = None
        self.gateway_addresses: tuple[Address, ...] = ()
        self.testing: set[str] = set()
        self.silence: float | None = None
        self.suspended = False
        self.previous: tuple[Address, ...] = ()
        self.patience: float | None = None
        self.addresses: tuple[Address, ...] = ()
        self.dns: tuple[Address, ...] = ()
        self.p_cscf: tuple[Address, ...] = ()
        self.granted = Granted()
        self.only_allowed: int | None = None
        self.children: dict[bytes, ChildSaSpec] = {}
        self.paths: list[PathUse] = []
        self.moves: list[Move] = []
        self.move: Move | None = None
        self.last_error: tuple[str, str] | None = None

    @property
    def handed_over(self) -> bool | None:
        """Whether the gateway gave the addresses that were to be kept; ``None`` when none were, or not known yet."""
        return None if not self.previous or not self.addresses else set(self.previous) <= set(self.addresses)

    @property
    def selecting(self) -> bool:
        """Whether there is no gateway to talk to yet."""
        return self.selection is not None and self.selection.candidate is None

    @property
    def counts(self) -> tuple[int, int]:
        """Requests and retransmissions sent so far, under all IKE SAs that rekeying has made."""
        requests, retransmissions = self._counted_before
        if self.signalling is not None:
            requests += self.signalling.requests_sent
            retransmissions += self.signalling.retransmissions_sent
        return requests, retransmissions

    def continued(self, signalling: Signalling) -> None:
        """Another IKE SA has taken the place of the one before (RFC 7296 §2.18)."""
        self._counted_before = self.counts
        self.signalling = signalling

    @property
    def identifiers(self) -> Identifiers:
        """Inner addresses and SPIs now."""
        return Identifiers(
            addresses=self.addresses,
            spis=frozenset((spec.inbound_spi, spec.outbound_spi) for spec in self.children.values()),
        )
