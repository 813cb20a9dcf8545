"""Rekeying of child SAs by either end, and by both at once (RFC 7296 §1.3.3, §2.8, §2.8.1, §2.25.1).

::

    SK {N(REKEY_SA), SA, Ni, [KEi,] TSi, TSr}  -->
                      <--  SK {SA, Nr, [KEr,] TSi, TSr}
    SK {D(old)}  -->
                      <--  SK {D(old)}

Both at once: each answers as usual, which makes two new child SAs. When an end has its response it knows all
four nonces; who made the SA with the lowest one deletes that SA, the other deletes the old one. An end whose
request was so late that the peer did not notice is answered CHILD_SA_NOT_FOUND or TEMPORARY_FAILURE, and has
a new child SA all the same: the peer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import ChildSaInstalled, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import NotifyType, ProtocolId
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import child, child_exchange, create_child, followup_ke, informational, lifetime
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class RekeyChild(child_exchange.ChildExchange):
    """Replace a child SA by a fresh one with the same selectors (§2.8), then delete the old one."""

    def __init__(self, inbound_spi: bytes) -> None:
        super().__init__()
        self._old_spi = inbound_spi
        self._old: child.ChildSa | None = None

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """N(REKEY_SA), SA, Ni, [KEi,] TSi, TSr; nothing when the old SA is gone, replaced or being closed."""
        old = self._old = sa.children.get(self._old_spi)
        if old is None or old.replaced or old.closing or sa.state is not SaState.ESTABLISHED:
            return None
        theirs = followup_ke.postponed(sa, self._old_spi, now)
        if theirs is not None:
            sa.later(self, theirs)  # the peer is about to replace it; if not, we do
            return None
        old.rekey, old.rival = self, None
        rekey = NotifyPayload(type=NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=self._old_spi)
        return (rekey, *self.ask(sa, old.spec.local_selectors, old.spec.remote_selectors, old.spec.mode))

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Take over to the new SA and delete the old, or what the nonces say when the peer did the same."""
        old = self._old
        if old is None:
            return
        old.rekey = None
        notify = child_exchange.refusal(message)
        if notify is not None:
            self.refused(sa, notify, now)
            return
        theirs = sa.followups.of(self._old_spi)
        alive = old.rival is not None and old.rival.inbound_spi in sa.children
        nonce = old.rival.lowest_nonce if alive and old.rival else None if theirs is None else theirs.lowest_nonce
        self.take(sa, message, f"the rekey of child SA {self._old_spi.hex()}", now, nonce)
        if self.following:
            old.rekey = self
            sa.followups.forget(self._old_spi)  # the peer, whose nonce is the lowest, stops
        elif theirs is not None and not old.replaced:
            sa.later(self, theirs.deadline)  # should the peer not go on

    def made(self, sa: IkeSa, new: child.ChildSa, lowest: bytes, now: float) -> None:
        """The new SA takes over, or the nonces say otherwise."""
        old = self._old
        if old is None:
            return
        old.rekey = None
        sa.followups.forget(self._old_spi)
        rival = sa.children.get(old.rival.inbound_spi) if old.rival is not None else None
        if old.rival is not None and rival is not None and lowest < old.rival.lowest_nonce:
            # §2.8.1: "the SA created with the lowest of the four nonces SHOULD be closed by the endpoint that
            # created it"; until then packets are accepted on it
            lifetime.superseded(sa, new, now)
            replaces = rival.spec.inbound_spi
            sa.emit(ChildSaInstalled(spec=new.spec, replaces=replaces, send_at_once=False))
            sa.initiate(informational.DeleteChildSa(new.spec.inbound_spi), now)
            return
        if rival is not None:
            lifetime.superseded(sa, rival, now)  # the peer, who made it, deletes it
        if self._old_spi not in sa.children:
            # the peer's DELETE overtook its response: the new SA is all there is
            sa.emit(ChildSaInstalled(spec=new.spec))
            return
        lifetime.superseded(sa, old, now)
        sa.emit(ChildSaInstalled(spec=new.spec, replaces=self._old_spi))
        sa.initiate(informational.DeleteChildSa(self._old_spi), now)

    def refused(self, sa: IkeSa, notify: NotifyPayload, now: float) -> None:
        """The peer did not notice that both rekey it, does not know it, or does not want to now."""
        old = self._old
        if old is None:
            return
        old.rekey = None
        theirs = sa.followups.of(self._old_spi)
        if theirs is not None:
            sa.later(self, theirs.deadline)  # the peer's own rekey of it is under way
            return
        if old.rival is not None or old.closing or sa.children.get(self._old_spi) is not old:
            return  # §2.8.1: the peer has rekeyed it, or either end has closed it, meanwhile
        if self.obey(sa, notify):
            sa.initiate(self, now, urgent=True)
        elif notify.type == NotifyType.CHILD_SA_NOT_FOUND:
            # §2.25: "SHOULD silently delete the Child SA and send a request to create a new Child SA"
            child.remove(sa, self._old_spi, "the peer does not know it any more", now)
            local, remote = old.spec.local_selectors, old.spec.remote_selectors
            if not any(one.carries(local, remote) for one in sa.children.values()):
                sa.initiate(create_child.CreateChild(local, remote), now)
        else:
            what = f"the rekey of child SA {self._old_spi.hex()}"
            lifetime.refused(sa, self, self.back_off, what, notify, now)


def process_request(sa: IkeSa, message: Message, rekey: NotifyPayload, now: float) -> Response | None:
    """The peer rekeys a child SA, by the SPI it receives on."""
    old = next((c for c in sa.children.values() if c.spec.outbound_spi == rekey.spi), None)
    if old is None and any(isinstance(task, child_exchange.ChildExchange) for task in sa.requests_under_way):
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)  # it may be what the peer has just made for us
    if rekey.protocol != ProtocolId.ESP or old is None:
        missing = NotifyPayload(type=NotifyType.CHILD_SA_NOT_FOUND, protocol=rekey.protocol, spi=rekey.spi)
        return Response(payloads=(missing,))  # §2.25.1
    if old.replaced or old.closing:
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)  # §2.25.1: we are trying to close it
    if sum(one.replaced for one in sa.children.values()) > 2 * sa.config.additional_children + 1:
        # "the initiator of the rekey" deletes what it has replaced (§2.8): one that never does waits until we do
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)
    if isinstance(old.rekey, RekeyChild) and old.rekey.following:
        # RFC 9370 §2.2.4: our series is in progress: "a TEMPORARY_FAILURE notification MUST be sent"
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)

    def made(new: child.ChildSa, lowest_nonce: bytes, now: float) -> None:
        replaces = old.spec.inbound_spi if old.spec.inbound_spi in sa.children else None
        if old.rekey is not None:
            # §2.25.1: we are rekeying it too: answer as usual, compare the nonces when our response is there
            old.rival = child.Rival(inbound_spi=new.spec.inbound_spi, lowest_nonce=lowest_nonce)
        lifetime.superseded(sa, old, now)
        # §2.8: the initiator cannot know the new keys before our response is there
        sa.emit(ChildSaInstalled(spec=new.spec, replaces=replaces, send_at_once=False))

    selectors = (old.spec.local_selectors, old.spec.remote_selectors)
    return child_exchange.grant(sa, message, selectors, made, now, old.spec.inbound_spi, old.spec.mode)


def child_due(sa: IkeSa, now: float) -> None:
    """Rekey the child SAs whose time has come, delete what is superseded, end what nothing replaced."""
    for spi, one in list(sa.children.items()):
        if one.expires_at is not None and one.expires_at <= now:
            one.expires_at = None
            if not one.replaced:
                lifetime.expire(sa, f"the hard lifetime of child SA {spi.hex()} is over and no rekey replaced it", now)
                return
            sa.initiate(informational.DeleteChildSa(spi), now)
        if one.rekey_at is not None and one.rekey_at <= now:
            one.rekey_at = None
            sa.initiate(RekeyChild(spi), now)
        lifetime.arm(sa, one)


def limit_reached(sa: IkeSa, inbound_spi: bytes, now: float, *, hard: bool) -> None:
    """The data plane says that a child SA has carried as much as it should, or as it may."""
    one = sa.children.get(inbound_spi)
    if one is None or one.replaced or sa.state is not SaState.ESTABLISHED:
        return
    if hard:
        lifetime.expire(sa, f"child SA {inbound_spi.hex()} has carried all that it may", now)
    elif one.rekey is None:
        one.rekey_at = None
        sa.initiate(RekeyChild(inbound_spi), now)
