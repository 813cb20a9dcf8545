"""Rekeying of the IKE SA by either end, and by both at once (RFC 7296 §1.3.2, §2.8, §2.8.2, §2.18, §2.25.2).

::

    SK {SA, Ni, KEi}  -->
                      <--  SK {SA, Nr, KEr}          the new SA inherits the child SAs
    SK {D(IKE)}  -->                                 the last request under the old SA
                      <--  SK {}

The new SA is a machine of its own: fresh SPIs, Message IDs from 0, keys from the old SK_d. Who started the
rekey is its original initiator. Both at once: two new SAs, of which the nonces choose one; the other is
deleted by who made it. A peer that answers TEMPORARY_FAILURE, deletes the old SA, or goes on under the SA it
made, did not notice our rekey: its SA is the one. Left out: additional key exchanges (RFC 9370).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocols.errors import NegotiationError, RemoteError
from protocols.ikev2.events import IkeSaRekeyed, OriginalRole, SaState, SuccessorCreated
from protocols.ikev2.keymat import derive_rekeyed_ike_keys
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import DeletePayload, KePayload, NoncePayload, Payload, SaPayload
from protocols.ikev2.proposals import IkePolicy, check_answer_ike, select_ike
from protocols.ikev2.registry import ExchangeType, KeGroup, NotifyType, ProtocolId
from protocols.ikev2.suites import IkeSuite, KeyExchange, Prf
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import child_exchange, crash_detection, informational, lifetime, mobike, set_window_size
from protocols.ikev2.timing import Timer
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

IKE_SPI_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class Made:
    """An IKE SA that a rekey made, and the lower nonce of its exchange."""

    successor: IkeSa
    lowest_nonce: bytes


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
    """Replace the IKE SA (§2.18)."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self) -> None:
        self._dialogue = child_exchange.Dialogue()
        self._spi = b""
        self._back_off = lifetime.BackOff()

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """SA with our new SPI, Ni, KEi; nothing when a rekey is under way already."""
        if sa.state is not SaState.ESTABLISHED or sa.rekeying.under_way:
            return None
        self._spi = sa.spis.ike_spi()
        sa.rekeying.own = self
        proposals = _policy(sa).proposals(self._spi)
        return (SaPayload(proposals=proposals), *self._dialogue.begin(sa, _preferred(sa)))

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Go on under the new SA and delete the old, or what the nonces say when the peer did the same."""
        sa.rekeying.own = None
        rival = sa.rekeying.rival
        if rival is not None and rival.successor.state is SaState.CLOSED:
            rival = None  # the peer has deleted it since
        notify = child_exchange.refusal(message)
        if notify is not None:
            if rival is not None:
                settle(sa, rival.successor, now)  # §2.8.2: the peer did not notice; its SA is the one
            elif self._dialogue.obey(notify, {int(suite.group) for suite in _policy(sa).suites}):
                sa.initiate(self, now, urgent=True)
            else:
                lifetime.refused(sa, self, self._back_off, "the rekey of the IKE SA", notify, now)
            return
        made = self._take(sa, message, now)
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

    def _take(self, sa: IkeSa, message: Message, now: float) -> Made:
        offered, nonce = message.first(SaPayload), message.first(NoncePayload)
        if offered is None or nonce is None or len(offered.proposals) != 1:
            raise RemoteError("response to the rekey of the IKE SA without SA or nonce", NotifyType.INVALID_SYNTAX)
        answer = offered.proposals[0]
        suite = check_answer_ike(_policy(sa).proposals(self._spi), answer)
        peer_spi = _spi(answer.spi)
        shared = self._dialogue.shared(message, suite.group)
        nonces = (self._dialogue.nonce, nonce.data)
        new = succeed(sa, OriginalRole.INITIATOR, (self._spi, peer_spi), suite, shared, nonces, now)
        return Made(successor=new, lowest_nonce=min(nonces))


def process_request(sa: IkeSa, message: Message, now: float) -> Response:
    """The peer rekeys the IKE SA."""
    if sa.rekeying.rival is not None or not all(
        isinstance(task, RekeyIke | informational.Liveness) for task in sa.requests_under_way
    ):
        # §2.25.1: we create, rekey or close a child SA; and a move must not be split between two SAs
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)
    offered, nonce, ke = message.first(SaPayload), message.first(NoncePayload), message.first(KePayload)
    if offered is None or nonce is None:
        raise RemoteError("CREATE_CHILD_SA without SA or nonce", NotifyType.INVALID_SYNTAX)
    spi = sa.spis.ike_spi()
    try:
        answer, suite = select_ike(offered.proposals, _policy(sa), spi)
    except NegotiationError:
        answer, suite = select_ike(offered.proposals, sa.config.ike_policy, spi)
    peer_spi = _spi(next(proposal.spi for proposal in offered.proposals if proposal.number == answer.number))
    if ke is None or ke.group != suite.group:
        return Response(payloads=(child_exchange.invalid_ke(suite.group),))
    public, shared = KeyExchange.respond(suite.group, ke.data, sa.entropy)
    nonces = (nonce.data, sa.entropy.octets(child_exchange.NONCE_LENGTH))
    new = succeed(sa, OriginalRole.RESPONDER, (spi, peer_spi), suite, shared, nonces, now)
    if sa.rekeying.own is not None:
        # §2.25.2: we are rekeying it too: answer as usual, compare the nonces when our response is there
        sa.rekeying.rival = Made(successor=new, lowest_nonce=min(nonces))
    else:
        settle(sa, new, now)
    return Response(
        payloads=(
            SaPayload(proposals=(answer,)),
            NoncePayload(data=nonces[1]),
            KePayload(group=suite.group, data=public),
            *crash_detection.announce(new),
        )
    )


def succeed(
    sa: IkeSa,
    role: OriginalRole,
    spis: tuple[bytes, bytes],
    suite: IkeSuite,
    shared: bytes,
    nonces: tuple[bytes, bytes],
    now: float,
) -> IkeSa:
    """The new SA (§2.18); ``spis`` are ours and the peer's, ``nonces`` the exchange initiator's and the other's."""
    new = type(sa)(
        sa.config,
        role=role,
        spi=spis[0],
        peer_spi=spis[1],
        path=sa.path,
        entropy=sa.entropy,
        now=now,
        spis=sa.spis,
        extension=sa.extension,
    )
    new.nat, new.mobility, new.peer_hashes = sa.nat, mobike.Mobility.inherit(sa.mobility), sa.peer_hashes
    new.fragmentation.inherit(sa.fragmentation)
    new.nonce_i, new.nonce_r = nonces
    sa.emit(SuccessorCreated(successor=new))
    sa.successors.append(new)
    new.predecessor = sa
    old_suite, old_keys = sa.established_keys()
    # "it is the old IKE SA's PRF that is used to generate SKEYSEED"
    keys = derive_rekeyed_ike_keys(suite, Prf.of(old_suite.prf), old_keys.sk_d, shared, *nonces, new.spi_i, new.spi_r)
    new.adopt_keys(suite, keys)
    new.enter(SaState.ESTABLISHED, f"rekeyed from {sa.local_spi.hex()}")
    return new


def settle(sa: IkeSa, heir: IkeSa, now: float) -> None:
    """``heir`` takes the place of ``sa`` with all its child SAs (§2.8); what waits to be sent goes there."""
    sa.rekeying.own = sa.rekeying.rival = None
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
