"""Rekeying of child SAs by either end (RFC 7296 §1.3.3, §2.8, §2.25), and their lifetimes.

::

    SK {N(REKEY_SA), SA, Ni, [KEi,] TSi, TSr}  -->
                      <--  SK {SA, Nr, [KEr,] TSi, TSr}
    SK {D(old)}  -->
                      <--  SK {D(old)}

Left out here: additional child SAs and rekeying of the IKE SA, both answered NO_ADDITIONAL_SAS.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocols.errors import NegotiationError, RemoteError
from protocols.ikev2.events import ChildSaInstalled, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from protocols.ikev2.proposals import select_esp
from protocols.ikev2.registry import ExchangeType, NotifyType, ProtocolId
from protocols.ikev2.suites import KeyExchange
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import informational
from protocols.ikev2.tasks.child import Offer, add, arm_rekey, narrow, offered_spi
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

NONCE_LENGTH = 32


class RekeyChild:
    """Replace a child SA by a fresh one with the same selectors (§2.8), then delete the old one."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, inbound_spi: bytes) -> None:
        self._old_spi = inbound_spi
        self._nonce = b""
        self._key_exchange: KeyExchange | None = None
        self._offer: Offer | None = None

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """N(REKEY_SA), SA, Ni, [KE,] TSi, TSr; nothing when the old SA is gone or replaced already."""
        old = sa.children.get(self._old_spi)
        if old is None or old.replaced:
            return None
        old.rekeying = True
        spi = sa.spis.child_spi()
        proposals = sa.config.esp_policy.proposals(spi)
        self._offer = Offer(
            spi=spi,
            proposals=proposals,
            local_selectors=old.spec.local_selectors,
            remote_selectors=old.spec.remote_selectors,
        )
        self._nonce = sa.entropy.octets(NONCE_LENGTH)
        group = sa.config.esp_policy.suites[0].group
        ke: tuple[Payload, ...] = ()
        if group is not None:
            self._key_exchange = KeyExchange.generate(group, sa.entropy)
            ke = (KePayload(group=group, data=self._key_exchange.public),)
        chosen, *selectors = self._offer.payloads()
        rekey = NotifyPayload(type=NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=self._old_spi)
        return (rekey, chosen, NoncePayload(data=self._nonce), *ke, *selectors)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Take over to the new SA and delete the old; a refusal leaves the old one in use."""
        if self._offer is None:
            return
        old = sa.children.get(self._old_spi)
        if old is not None:
            old.rekeying = False
        refused = [n for n in message.all(NotifyPayload) if n.type.is_error]
        if refused:
            if old is not None:
                arm_rekey(sa, old, now)
            return
        nonce, ke = message.first(NoncePayload), message.first(KePayload)
        if nonce is None:
            raise RemoteError("CREATE_CHILD_SA response without a nonce", NotifyType.INVALID_SYNTAX)
        suite, spi, local, remote = self._offer.read(message)
        shared = b""
        if suite.group is not None:
            if ke is None or self._key_exchange is None or ke.group != self._key_exchange.group:
                raise NegotiationError("KE of another group than agreed", NotifyType.INVALID_SYNTAX)
            shared = self._key_exchange.shared(ke.data)
        nonces = (self._nonce, nonce.data, shared)
        new = add(sa, suite, self._offer.spi, spi, local, remote, nonces, True, now)
        if old is None:
            # the peer's DELETE overtook its response: the new SA is all there is
            sa.emit(ChildSaInstalled(spec=new.spec))
            return
        old.replaced = True
        sa.emit(ChildSaInstalled(spec=new.spec, replaces=self._old_spi))
        sa.initiate(informational.DeleteChildSa(self._old_spi), now)


def process_request(sa: IkeSa, message: Message, path: Path, now: float) -> Response:
    """CREATE_CHILD_SA from the peer: a rekey of a child SA, or an error that ends nothing (§2.21.3)."""
    del path
    if sa.state is not SaState.ESTABLISHED:
        return error(NotifyType.TEMPORARY_FAILURE)  # §2.25.2: the IKE SA is being deleted
    rekey = message.notify(NotifyType.REKEY_SA)
    if rekey is None or rekey.protocol != ProtocolId.ESP:
        return error(NotifyType.NO_ADDITIONAL_SAS)
    old = next((c for c in sa.children.values() if c.spec.outbound_spi == rekey.spi), None)
    if old is None:
        missing = NotifyPayload(type=NotifyType.CHILD_SA_NOT_FOUND, protocol=ProtocolId.ESP, spi=rekey.spi)
        return Response(payloads=(missing,))  # §2.25.1
    if old.replaced or old.rekeying:
        return error(NotifyType.TEMPORARY_FAILURE)
    offered, nonce, ke = message.first(SaPayload), message.first(NoncePayload), message.first(KePayload)
    tsi, tsr = message.first(TsiPayload), message.first(TsrPayload)
    if offered is None or nonce is None or tsi is None or tsr is None:
        raise RemoteError("CREATE_CHILD_SA without SA, nonce, TSi or TSr", NotifyType.INVALID_SYNTAX)
    answer, suite = select_esp(offered.proposals, sa.config.esp_policy, with_group=ke is not None)
    shared = b""
    ke_answer: tuple[KePayload, ...] = ()
    if suite.group is not None:
        if ke is None or ke.group != suite.group:
            wanted = int(suite.group).to_bytes(2, "big")
            return Response(payloads=(NotifyPayload(type=NotifyType.INVALID_KE_PAYLOAD, data=wanted),))
        public, shared = KeyExchange.respond(suite.group, ke.data, sa.entropy)
        ke_answer = (KePayload(group=suite.group, data=public),)
    remote = narrow(tsi.selectors, old.spec.remote_selectors)
    local = narrow(tsr.selectors, old.spec.local_selectors)
    nonce_r, spi = sa.entropy.octets(NONCE_LENGTH), sa.spis.child_spi()
    peer_spi = offered_spi(offered.proposals, answer)
    new = add(sa, suite, spi, peer_spi, local, remote, (nonce.data, nonce_r, shared), False, now)
    old.replaced = True
    # §2.8: the initiator cannot know the new keys before our response is there
    sa.emit(ChildSaInstalled(spec=new.spec, replaces=old.spec.inbound_spi, send_at_once=False))
    return Response(
        payloads=(
            SaPayload(proposals=(replace(answer, spi=spi),)),
            NoncePayload(data=nonce_r),
            *ke_answer,
            TsiPayload(selectors=remote),
            TsrPayload(selectors=local),
        )
    )


def rekey_due(sa: IkeSa, now: float) -> None:
    """Start the rekeying of child SAs whose time has come."""
    for spi, child in list(sa.children.items()):
        if child.rekey_at is None or child.replaced:
            continue
        if child.rekey_at <= now:
            child.rekey_at = None
            sa.initiate(RekeyChild(spi), now)
        else:
            sa.timers.arm_child_lifetime(child.rekey_at)


def error(notify: NotifyType) -> Response:
    """Refuse a CREATE_CHILD_SA and nothing else."""
    return Response(payloads=(NotifyPayload(type=notify),))
