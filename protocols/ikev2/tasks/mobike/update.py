"""UPDATE_SA_ADDRESSES (RFC 4555 §3.5), both ends.

::

    SK {N(UPDATE_SA_ADDRESSES), [N(NATD)*,] [N(ADDITIONAL_*)+,] [N(NO_NATS_ALLOWED),] [N(COOKIE2)]}  -->
          <--  SK {[N(NATD)*,] [N(COOKIE2)]}  or  SK {N(UNACCEPTABLE_ADDRESSES) | N(UNEXPECTED_NAT_DETECTED)}

The initiator sends from the new path at once, whatever is outstanding included. Its child SAs go with the request,
as §3.5 has it, where the old address is gone and the responder's is the one in use; else they follow the response,
which is then the check of the way there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.config import ReturnRoutability
from protocols.ikev2.events import AddressUpdateFailed, AddressUpdateStarted, NatStatus, SaState
from protocols.ikev2.habits import arranged
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.tasks import informational, natd
from protocols.ikev2.tasks.mobike import addresses, patience, probe
from protocols.ikev2.tasks.mobike.check import COOKIE2_LENGTH, start_check, supersede_check, verify_cookie
from protocols.ikev2.tasks.mobike.mobility import Mobility, adopt, move_children, updated, usable
from protocols.ikev2.tasks.mobike.prohibition import no_nats
from protocols.ikev2.timing import Timer
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class UpdateAddresses:
    """The initiator's move (§3.5): from now on the SA sends from ``path``; child SAs at once or by the response.

    It is pending as long as it is ``sa.mobility.update``. ``refused`` are the paths that the responder has
    found unacceptable on the way here. ``old_gone``: the address that ESP was sent from is no more.
    """

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, path: Path, refused: tuple[Path, ...] = (), *, old_gone: bool = False) -> None:
        self._path = path
        self._old_gone = old_gone
        self._old = path
        self._refused = refused
        self._cookie = b""
        self._retries = 0
        self.from_several = False
        self._listed = False

    def start(self, sa: IkeSa, now: float) -> None:
        """Change addresses at once; whatever is outstanding is retransmitted from there first (§3.5)."""
        pending = sa.mobility.update
        self._old = (sa.mobility.esp_path or sa.path) if pending is None else pending._old
        sa.mobility.update = self
        probe.stop(sa)
        sa.emit(AddressUpdateStarted(old=self._old, new=self._path, nat=sa.nat))
        patience.resume(sa, now)
        if sa.path == self._path and sa.window.restart_retransmission(now):
            sa.timers.set(Timer.RETRANSMIT, now)  # the same path again: there may be a way by now
        sa.change_path(self._path, now)
        if self._nothing_to_lose(sa):
            # "the initiator either suspects or knows that a NAT is likely to be present": as IPv4 is
            elsewhere = self._path.local.address != self._old.local.address
            move_children(sa, self._path, nat_suspected=elsewhere and self._path.local.address.version == 4)
        sa.enqueue(self, urgent=True)

    def _nothing_to_lose(self, sa: IkeSa) -> bool:
        """Whether ESP goes before the response: the old path cannot be used any more, and the responder's end of the
        new one has answered there before (§3.5, "the check has not been done for this responder address yet").
        """
        own = sa.mobility.own
        gone = self._old_gone or (own is not None and self._old.local not in own)
        return gone and self._old.remote == self._path.remote and not sa.habits.esp_waits_for_response

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """N(UPDATE_SA_ADDRESSES) and fresh NAT detection; nothing when a newer move has come."""
        if sa.mobility.update is not self:
            return None
        self.from_several, self._listed = False, addresses.due(sa) or sa.habits.always_lists_addresses
        payloads: list[Payload] = [
            NotifyPayload(type=NotifyType.UPDATE_SA_ADDRESSES),
            *natd.offer(sa, sa.path),
            *(addresses.payloads(sa) if self._listed else no_nats(sa)),
        ]
        if sa.initiator_config.update_cookie:
            self._cookie = sa.entropy.octets(COOKIE2_LENGTH)
            payloads.append(NotifyPayload(type=NotifyType.COOKIE2, data=self._cookie))
        return arranged(payloads, sa.habits.update_order)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """The gateway took the addresses, or says why not; an answer to an older move changes nothing."""
        if self._cookie:
            verify_cookie(message, self._cookie)
        mobility = sa.mobility
        if self._listed and (self.from_several or mobility.update is not self):
            mobility.told = frozenset()  # the list was completed by the address of a header, and that has changed
        if mobility.update is not self:
            self._repeated(sa, message, path)
            return
        if self.from_several or message.notify(NotifyType.UNEXPECTED_NAT_DETECTED) is not None:
            # §3.9: "SHOULD retry the operation several times using new INFORMATIONAL requests"; and of copies that a
            # path test has sent from other addresses the gateway may have taken the first for the move
            self._retries += 1
            if self._retries <= sa.config.retransmission.limit:
                sa.enqueue(self, urgent=True)
                return
        for refusal in message.all(NotifyPayload):
            if refusal.type.is_error:
                self._give_up(sa, refusal, now)
                return
        mobility.update = None
        sa.nat = natd.evaluate(message, path, sa.config.force_encapsulation) or sa.nat
        mobility.destination_hashes = natd.destination_hashes(message)
        adopt(sa, self._path)
        sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
        move_children(sa, self._path)
        sa.emit(updated(sa, self._old, validated=True))

    def _repeated(self, sa: IkeSa, message: Message, path: Path) -> None:
        """The same addresses are being told again (another way, a NAT perhaps): ESP need not wait for that answer."""
        newer = sa.mobility.update
        refused = any(notify.type.is_error for notify in message.all(NotifyPayload))
        if newer is None or newer._path != self._path or self.from_several or refused:
            return
        sa.nat = natd.evaluate(message, path, sa.config.force_encapsulation) or sa.nat
        adopt(sa, self._path)
        move_children(sa, self._path)

    def _give_up(self, sa: IkeSa, refusal: NotifyPayload, now: float) -> None:
        """§3.5: keep the previous addresses, "select another addresses and retry", or end where there are none."""
        mobility = sa.mobility
        mobility.update = None
        why = f"the gateway refused: {refusal.type.name}"
        if sa.habits.refused_update_is_fatal:
            sa.enqueue(informational.DeleteIkeSa(why), urgent=True)
            return
        sa.emit(AddressUpdateFailed(old=self._old, new=self._path, why=why))
        refused = (*self._refused, self._path)
        previous = mobility.validated
        if previous not in refused and (mobility.own is None or previous.local in mobility.own):
            sa.change_path(previous, now)
            move_children(sa, previous)
            return
        left = [path for path in (previous, *mobility.pairs(sa)) if path not in refused]
        usable_pairs = [path for path in left if mobility.own is None or path.local in mobility.own]
        if usable_pairs:
            UpdateAddresses(usable_pairs[0], refused).start(sa, now)
        else:
            # the responder answers where a request comes from: it can be told
            sa.enqueue(informational.DeleteIkeSa(f"{why}, and there is no other address"), urgent=True)


def take_update(sa: IkeSa, message: Message, path: Path, now: float) -> list[Payload]:
    """IKE goes to where the request came from; the child SAs by policy."""
    mobility = sa.mobility
    answer: list[Payload] = [*natd.offer(sa, path)]
    if message.message_id < mobility.newest_update:
        return answer  # §3.5: "it has already received a newer UPDATE_SA_ADDRESSES request"
    if not acceptable(sa, path):
        sa.dropped["unacceptable-addresses"] += 1
        return [NotifyPayload(type=NotifyType.UNACCEPTABLE_ADDRESSES)]
    mobility.newest_update = message.message_id
    if sa.state is SaState.DELETING:
        sa.change_path(path, now)  # our DELETE follows the peer; no child SA needs the address any more
        return answer
    mobility.rechecks, mobility.failed = 0, None
    relocate(sa, path, natd.evaluate(message, path, sa.config.force_encapsulation) or sa.nat, now)
    if mobility.preferred == path.local.address:
        # the peer is where it was asked to go: from now on it may know the others
        mobility.preferred = None
        addresses.announce_again(sa)
    return answer


def relocate(sa: IkeSa, path: Path, nat: NatStatus, now: float) -> None:
    """The transaction of a move: IKE at once, child SAs and the check of the new address by policy (§3.7)."""
    supersede_check(sa)
    old = sa.mobility.validated
    sa.emit(AddressUpdateStarted(old=old, new=path, nat=nat))
    sa.nat = nat
    sa.change_path(path, now)
    sa.timers.arm_keepalive(now, behind_nat=nat.local)
    policy = sa.responder_config.return_routability
    if policy is not ReturnRoutability.BEFORE_UPDATE:
        move_children(sa, path)
    if policy is ReturnRoutability.NEVER:
        adopt(sa, path)
        sa.emit(updated(sa, old, validated=False))
    else:
        start_check(sa)


def acceptable(sa: IkeSa, path: Path) -> bool:
    """Whether local policy accepts the pair in the IP header (§3.5)."""
    prefixes = sa.responder_config.acceptable_addresses
    address = path.remote.address
    return usable(address) and path.remote.port != 0 and (not prefixes or any(address in each for each in prefixes))


def succeed(old: IkeSa, new: IkeSa) -> None:
    """A rekeyed IKE SA is where the old one is, and finishes the move that the old one had begun."""
    new.path, new.nat = old.path, old.nat
    new.mobility = Mobility.inherit(old.mobility)
    new.mobility.update, new.mobility.announcing = old.mobility.update, old.mobility.announcing
    for waiting in (new.mobility.update, new.mobility.announcing):
        if waiting is not None:
            new.enqueue(waiting)
    if old.mobility.check is not None:
        start_check(new, back=old.mobility.check.back)
