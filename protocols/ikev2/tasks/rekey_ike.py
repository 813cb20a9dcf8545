"""Rekeying of the IKE SA by either end, and by both at once (RFC 7296 §1.3.2, §2.8, §2.8.2, §2.18, §2.25.2).

::

    SK {SA, Ni, KEi}  -->
                      <--  SK {SA, Nr, KEr}          the new SA inherits the child SAs
    SK {D(IKE)}  -->                                 the last request under the old SA
                      <--  SK {}

The new SA is a machine of its own: fresh SPIs, Message IDs from 0, keys from the old SK_d. Who started the
rekey is its original initiator. Both at once: two new SAs, of which the nonces choose one; the other is
deleted by who made it. A peer that answers TEMPORARY_FAILURE, deletes the old SA, or goes on under the SA it
made, did not notice our rekey: its SA is the one. With additional key exchanges the new SA is made after them
(``followup_ke``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocols.errors import NegotiationError, RemoteError
from protocols.ikev2.events import IkeSaRekeyed, OriginalRole, SaState, SuccessorCreated
from protocols.ikev2.keymat import derive_rekeyed_ike_keys
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import DeletePayload, KePayload, NoncePayload, NotifyPayload, Payload, SaPayload
from protocols.ikev2.proposals import IkePolicy, check_answer_ike, select_ike
from protocols.ikev2.registry import ExchangeType, KeGroup, NotifyType, ProtocolId
from protocols.ikev2.suites import IkeSuite, KeyExchange, Prf
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import (
    child_exchange,
    crash_detection,
    followup_ke,
    informational,
    intermediate,
    lifetime,
    mobike,
    set_window_size,
)
from protocols.ikev2.timing import Timer
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

IKE_SPI_LENGTH = 8
UNDELETED_MAXIMUM = 4  # IKE SAs that the peer has rekeyed and not deleted; RFC 7296 sets no limit


@dataclass(frozen=True, kw_only=True)
class Made:
    """An IKE SA that a rekey made, and the lower nonce of its exchange."""

    successor: IkeSa
    lowest_nonce: bytes


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What both ends agreed on for the new SA; ``spis`` are ours and the peer's, ``nonces`` Ni and Nr."""

    role: OriginalRole
    spis: tuple[bytes, bytes]
    suite: IkeSuite
    shared: bytes
    nonces: tuple[bytes, bytes]

    def make(self, sa: IkeSa, additional: bytes, now: float) -> Made:
        """The new SA, with the secrets of the additional key exchanges."""
        return Made(successor=succeed(sa, self, additional, now), lowest_nonce=min(self.nonces))


@dataclass(kw_only=True)
class Rekeying:
    """What an IKE SA knows of being rekeyed: our request that waits, the SA that the peer's request made."""

    own: RekeyIke | None = None
    rival: Made | None = None

    @property
    def under_way(self) -> bool:
        """Whether either end has begun."""
        return self.own is not None or self.rival is not None


class RekeyIke:
    """Replace the IKE SA (§2.18). ``following``: its additional key exchanges are under way."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self) -> None:
        self._dialogue = child_exchange.Dialogue()
        self._old_spi = b""
        self._spi = b""
        self._agreed: Agreed | None = None
        self._back_off = lifetime.BackOff()
        self.following = False

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """SA with our new SPI, Ni, KEi; nothing when a rekey is under way already."""
        if sa.state is not SaState.ESTABLISHED or sa.rekeying.under_way:
            return None
        if self._old_spi not in (b"", sa.local_spi):
            return None  # the peer has rekeyed it while this waited to be tried again
        self._old_spi = sa.local_spi
        theirs = followup_ke.postponed(sa, None, now)
        if theirs is not None:
            sa.later(self, theirs)  # §2.25.1: the peer has something under way
            return None
        self._spi = sa.spis.ike_spi()
        sa.rekeying.own = self
        proposals = _policy(sa).proposals(self._spi, additional=True)
        return (SaPayload(proposals=proposals), *self._dialogue.begin(sa, _preferred(sa)))

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Go on under the new SA and delete the old, or what the nonces say when the peer did the same."""
        notify = child_exchange.refusal(message)
        if notify is not None:
            self.abandoned(sa, notify, now)
            return
        agreed = self._agreed = self._take(sa, message)
        if not agreed.suite.additional:
            self.completed(sa, message, b"", now)
            return
        rival, theirs = self._rival(sa), sa.followups.of(followup_ke.THE_IKE_SA)
        nonce = rival.lowest_nonce if rival is not None else theirs.lowest_nonce if theirs is not None else None
        if nonce is not None and min(agreed.nonces) < nonce:
            # RFC 9370 §2.2.4: "because there is nothing to delete yet, the initiator .. just stops"
            sa.rekeying.own = None
            if rival is not None:
                settle(sa, rival.successor, now)
            elif theirs is not None:
                sa.later(self, theirs.deadline)  # should the peer not go on
            return
        sa.followups.forget(followup_ke.THE_IKE_SA)
        self.following = True
        followup_ke.start(sa, self, agreed.suite, message, now)

    def abandoned(self, sa: IkeSa, notify: NotifyPayload, now: float) -> None:
        """The peer refused, in CREATE_CHILD_SA or in what followed it."""
        self.following, sa.rekeying.own = False, None
        rival, theirs = self._rival(sa), sa.followups.of(followup_ke.THE_IKE_SA)
        if rival is not None:
            settle(sa, rival.successor, now)  # §2.8.2: the peer did not notice; its SA is the one
        elif theirs is not None:
            sa.later(self, theirs.deadline)  # the same, and its SA is not made yet
        elif self._dialogue.obey(notify, {int(suite.group) for suite in _policy(sa).suites}):
            sa.initiate(self, now, urgent=True)
        else:
            lifetime.refused(sa, self, self._back_off, "the rekey of the IKE SA", notify, now)

    def completed(self, sa: IkeSa, message: Message, additional: bytes, now: float) -> None:
        """The new SA is made with the last response of all."""
        if self._agreed is None:
            return
        self.following, sa.rekeying.own = False, None
        rival = self._rival(sa)
        made = self._agreed.make(sa, additional, now)
        made.successor.crash.take(message)
        if rival is not None and made.lowest_nonce < rival.lowest_nonce:
            # §2.8.2: "the new IKE SA containing the lowest nonce SHOULD be deleted by the node that created it"
            made.successor.initiate(informational.DeleteIkeSa("both ends rekeyed the IKE SA at once"), now)
            settle(sa, rival.successor, now)
            return
        settle(sa, made.successor, now)
        if sa.config.crash_secrets:
            made.successor.initiate(crash_detection.RenewToken(), now)  # RFC 6290 §4.4
        # §2.8: "the Delete payload to delete itself MUST be the last request sent over the old IKE SA"
        sa.enqueue(informational.DeleteIkeSa("replaced by rekeying"))

    def _rival(self, sa: IkeSa) -> Made | None:
        """What the peer's rekey has made, unless the peer has deleted it since."""
        rival = sa.rekeying.rival
        return None if rival is None or rival.successor.state is SaState.CLOSED else rival

    def _take(self, sa: IkeSa, message: Message) -> Agreed:
        offered, nonce = message.first(SaPayload), message.first(NoncePayload)
        if offered is None or nonce is None or len(offered.proposals) != 1:
            raise RemoteError("response to the rekey of the IKE SA without SA or nonce", NotifyType.INVALID_SYNTAX)
        answer = offered.proposals[0]
        suite = check_answer_ike(_policy(sa).proposals(self._spi, additional=True), answer)
        shared = self._dialogue.shared(message, suite.group)
        return Agreed(
            role=OriginalRole.INITIATOR,
            spis=(self._spi, _spi(answer.spi)),
            suite=suite,
            shared=shared,
            nonces=(self._dialogue.nonce, nonce.data),
        )


def _undeleted(sa: IkeSa) -> Iterator[IkeSa]:
    """What was rekeyed before this SA and has not been deleted: the initiator of a rekey has to (§2.8)."""
    while (old := sa.predecessor) is not None:
        yield old
        sa = old


def process_request(sa: IkeSa, message: Message, now: float) -> Response:
    """The peer rekeys the IKE SA."""
    if sum(1 for _ in _undeleted(sa)) > UNDELETED_MAXIMUM:
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)
    busy = any(subject != followup_ke.THE_IKE_SA for subject in sa.followups.subjects)
    if (
        sa.rekeying.rival is not None
        or busy
        or not all(isinstance(task, RekeyIke | informational.Liveness) for task in sa.requests_under_way)
    ):
        # §2.25.1: we create, rekey or close a child SA; and a move must not be split between two SAs.
        # RFC 9370 §2.2.4: "a TEMPORARY_FAILURE notification MUST be sent" while our own FollowupKe is outstanding
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)
    offered, nonce, ke = message.first(SaPayload), message.first(NoncePayload), message.first(KePayload)
    if offered is None or nonce is None:
        raise RemoteError("CREATE_CHILD_SA without SA or nonce", NotifyType.INVALID_SYNTAX)
    spi = sa.spis.ike_spi()
    try:
        answer, suite = select_ike(offered.proposals, _policy(sa), spi, additional=True)
    except NegotiationError:
        answer, suite = select_ike(offered.proposals, sa.config.ike_policy, spi, additional=True)
    peer_spi = _spi(next(proposal.spi for proposal in offered.proposals if proposal.number == answer.number))
    if ke is None or ke.group != suite.group:
        return Response(payloads=(child_exchange.invalid_ke(suite.group),))
    public, shared = KeyExchange.respond(suite.group, ke.data, sa.entropy)
    nonces = (nonce.data, sa.entropy.octets(child_exchange.NONCE_LENGTH))
    role = OriginalRole.RESPONDER
    agreed = Agreed(role=role, spis=(spi, peer_spi), suite=suite, shared=shared, nonces=nonces)

    def finish(payloads: tuple[Payload, ...], additional: bytes, now: float) -> Response:
        made = agreed.make(sa, additional, now)
        if sa.rekeying.own is not None:
            # §2.25.2: we are rekeying it too: answer as usual, compare the nonces when our response is there
            sa.rekeying.rival = made
        else:
            settle(sa, made.successor, now)
        return Response(payloads=(*payloads, *crash_detection.announce(made.successor)))

    payloads = (
        SaPayload(proposals=(answer,)),
        NoncePayload(data=nonces[1]),
        KePayload(group=suite.group, data=public),
    )
    if suite.additional:
        series = followup_ke.Unfinished(
            subject=followup_ke.THE_IKE_SA,
            lowest_nonce=min(nonces),
            methods=intermediate.methods(suite),
            finish=finish,
        )
        return Response(payloads=(*payloads, sa.followups.expect(sa, series, now)))
    return finish(payloads, b"", now)


def succeed(sa: IkeSa, agreed: Agreed, additional: bytes, now: float) -> IkeSa:
    """The new SA (§2.18)."""
    new = type(sa)(
        sa.config,
        role=agreed.role,
        spi=agreed.spis[0],
        peer_spi=agreed.spis[1],
        path=sa.path,
        entropy=sa.entropy,
        now=now,
        spis=sa.spis,
        extension=sa.extension,
    )
    new.nat, new.mobility, new.peer_hashes = sa.nat, mobike.Mobility.inherit(sa.mobility), sa.peer_hashes
    new.fragmentation.inherit(sa.fragmentation)
    new.nonce_i, new.nonce_r = agreed.nonces
    sa.emit(SuccessorCreated(successor=new))
    sa.successors.append(new)
    new.predecessor = sa
    old_suite, old_keys = sa.established_keys()
    # "it is the old IKE SA's PRF that is used to generate SKEYSEED"
    prf, spis = Prf.of(old_suite.prf), (new.spi_i, new.spi_r)
    suite, secret = agreed.suite, agreed.shared
    keys = derive_rekeyed_ike_keys(suite, prf, old_keys.sk_d, secret, *agreed.nonces, *spis, additional)
    new.adopt_keys(suite, keys)
    new.enter(SaState.ESTABLISHED, f"rekeyed from {sa.local_spi.hex()}")
    return new


def settle(sa: IkeSa, heir: IkeSa, now: float) -> None:
    """``heir`` takes the place of ``sa`` with all its child SAs (§2.8); what waits to be sent goes there."""
    sa.rekeying.own = sa.rekeying.rival = None
    sa.followups.clear()
    for made in sa.successors:
        if made is not heir:
            made.timers.set(Timer.SUPERSEDED, now + lifetime.SUPERSEDED_LIFETIME)
    sa.heir = heir
    heir.inherit(sa, now)
    sa.enter(SaState.REKEYED, f"replaced by {heir.local_spi.hex()}")
    sa.timers.set(Timer.SUPERSEDED, now + lifetime.SUPERSEDED_LIFETIME)
    sa.emit(IkeSaRekeyed(successor=heir))
    lifetime.arm_ike(heir, now)
    set_window_size.announce(heir)  # §2.3: a rekeyed SA "starts with window size 1" again
    heir.resume(now)


def deleted_by_peer(sa: IkeSa, now: float) -> None:
    """D(IKE) from a peer that did not notice our rekey: its own is the one, ours is forgotten (§2.8.2)."""
    rival = sa.rekeying.rival
    if rival is not None and rival.successor.state is not SaState.CLOSED:
        sa.forget_requests()
        settle(sa, rival.successor, now)


def used_by_peer(sa: IkeSa, message: Message, now: float) -> None:
    """The peer goes on under the SA that it made while our own rekey of the old one waits: it did not notice."""
    old = sa.predecessor
    ends = any(delete.protocol == ProtocolId.IKE for delete in message.all(DeletePayload))
    if old is not None and old.heir is None and message.payloads and not ends:
        deleted_by_peer(old, now)


def _policy(sa: IkeSa) -> IkePolicy:
    """The suites that keep the PRF, where there are any.

    §2.18 makes the new keys "using the new IKE SA's PRF"; strongSwan makes them with the old one's, so that an SA
    whose PRF changes is lost at the first message.
    """
    return sa.config.ike_policy.keeping(sa.established_keys()[0].prf)


def _preferred(sa: IkeSa) -> KeGroup:
    """The group in use, if the policy has it still: an equivalent SA (§2.8)."""
    groups = [suite.group for suite in _policy(sa).suites]
    in_use = sa.established_keys()[0].group
    return in_use if in_use in groups else groups[0]


def _spi(spi: bytes) -> bytes:
    if len(spi) != IKE_SPI_LENGTH or not any(spi):
        raise NegotiationError(f"{spi.hex() or 'nothing'} is no IKE SPI", NotifyType.NO_PROPOSAL_CHOSEN)
    return spi
