"""Child SAs (RFC 7296 §1.3, §2.8, §2.9, §2.17): the one of IKE_AUTH, and rekeying by either end.

::

    SK {N(REKEY_SA), SA, Ni, [KEi,] TSi, TSr}  -->
                      <--  SK {SA, Nr, [KEr,] TSi, TSr}
    SK {D(old)}  -->
                      <--  SK {D(old)}

Left out here: additional child SAs and rekeying of the IKE SA, both answered NO_ADDITIONAL_SAS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from protocols.errors import NegotiationError, RemoteError
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.events import ChildSaInstalled, ChildSaRemoved, ConfigurationReply, OriginalRole, SaState
from protocols.ikev2.keymat import derive_child_keys
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from protocols.ikev2.proposals import check_answer_esp, select_esp
from protocols.ikev2.registry import ExchangeType, NotifyType, ProtocolId
from protocols.ikev2.suites import EspSuite, KeyExchange, Prf
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import informational
from protocols.path import Path
from protocols.selectors import TrafficSelector

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

NONCE_LENGTH = 32
SPI_LENGTH = 4
Selectors = tuple[TrafficSelector, ...]


@dataclass(kw_only=True)
class ChildSa:
    """A child SA of an IKE SA; ``replaced`` once a rekeyed one has taken over."""

    spec: ChildSaSpec
    rekey_at: float | None = None
    rekeying: bool = False
    replaced: bool = False

    def moved(self, path: Path, encapsulation: bool) -> None:
        """Its packets go another way; nothing else changes."""
        self.spec = replace(self.spec, path=path, encapsulation=encapsulation)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What this end offers for a child SA, in IKE_AUTH or to rekey one."""

    spi: bytes
    proposals: tuple[Proposal, ...]
    local_selectors: Selectors
    remote_selectors: Selectors

    @classmethod
    def make(cls, sa: IkeSa) -> Offer:
        """The offer of the initiator's configuration, with a fresh inbound SPI; no KE in IKE_AUTH."""
        spi = sa.spis.child_spi()
        settings = sa.initiator_config
        return cls(
            spi=spi,
            proposals=sa.config.esp_policy.proposals(spi, with_group=False),
            local_selectors=settings.local_selectors,
            remote_selectors=settings.remote_selectors,
        )

    def payloads(self) -> tuple[Payload, ...]:
        """SA, TSi, TSr of the end that sends the request."""
        return (
            SaPayload(proposals=self.proposals),
            TsiPayload(selectors=self.local_selectors),
            TsrPayload(selectors=self.remote_selectors),
        )

    def accept(self, sa: IkeSa, message: Message, now: float) -> None:
        """Install what the response to IKE_AUTH grants."""
        suite, spi, local, remote = self.read(message)
        add(sa, suite, self.spi, spi, local, remote, (sa.nonce_i, sa.nonce_r, b""), True, now)

    def read(self, message: Message) -> tuple[EspSuite, bytes, Selectors, Selectors]:
        """Suite, the peer's SPI and the narrowed selectors; wider ones are refused (§2.9)."""
        chosen, tsi, tsr = message.first(SaPayload), message.first(TsiPayload), message.first(TsrPayload)
        if chosen is None or tsi is None or tsr is None or len(chosen.proposals) != 1:
            raise RemoteError("no child SA in the response", NotifyType.INVALID_SYNTAX)
        suite = check_answer_esp(self.proposals, chosen.proposals[0])
        narrowed(tsi.selectors, self.local_selectors, "TSi")
        narrowed(tsr.selectors, self.remote_selectors, "TSr")
        return suite, offered_spi(chosen.proposals, chosen.proposals[0]), tsi.selectors, tsr.selectors


@dataclass(frozen=True, kw_only=True)
class Request:
    """The child SA a UE asks for in its first IKE_AUTH request, kept until it is authenticated."""

    proposals: tuple[Proposal, ...]
    remote_selectors: Selectors
    local_selectors: Selectors

    @classmethod
    def of(cls, sa: IkeSa, message: Message) -> Request:
        """Read SA, TSi and TSr."""
        del sa
        offered, tsi, tsr = message.first(SaPayload), message.first(TsiPayload), message.first(TsrPayload)
        if offered is None or tsi is None or tsr is None:
            raise RemoteError("IKE_AUTH without SA, TSi or TSr", NotifyType.INVALID_SYNTAX)
        return cls(proposals=offered.proposals, remote_selectors=tsi.selectors, local_selectors=tsr.selectors)

    def grant(self, sa: IkeSa, reply: ConfigurationReply, now: float) -> tuple[Payload, ...]:
        """Choose, narrow to what the configuration allows, add the child SA and answer."""
        answer, suite = select_esp(self.proposals, sa.config.esp_policy, with_group=False)
        remote = narrow(self.remote_selectors, reply.remote_selectors)
        local = narrow(self.local_selectors, reply.local_selectors)
        spi = sa.spis.child_spi()
        add(
            sa,
            suite,
            spi,
            offered_spi(self.proposals, answer),
            local,
            remote,
            (sa.nonce_i, sa.nonce_r, b""),
            False,
            now,
        )
        return (
            SaPayload(proposals=(replace(answer, spi=spi),)),
            TsiPayload(selectors=remote),
            TsrPayload(selectors=local),
        )


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
        old = sa.children.get(self._old_spi)
        if old is None or self._offer is None:
            return
        old.rekeying = False
        refused = [n for n in message.all(NotifyPayload) if int(n.type) < informational.ERROR_TYPES_END]
        if refused:
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
        exchange = KeyExchange.generate(suite.group, sa.entropy)
        shared = exchange.shared(ke.data)
        ke_answer = (KePayload(group=suite.group, data=exchange.public),)
    remote = narrow(tsi.selectors, old.spec.remote_selectors)
    local = narrow(tsr.selectors, old.spec.local_selectors)
    nonce_r, spi = sa.entropy.octets(NONCE_LENGTH), sa.spis.child_spi()
    peer_spi = offered_spi(offered.proposals, answer)
    new = add(sa, suite, spi, peer_spi, local, remote, (nonce.data, nonce_r, shared), False, now)
    old.replaced = True
    sa.emit(ChildSaInstalled(spec=new.spec, replaces=old.spec.inbound_spi))
    return Response(
        payloads=(
            SaPayload(proposals=(replace(answer, spi=spi),)),
            NoncePayload(data=nonce_r),
            *ke_answer,
            TsiPayload(selectors=remote),
            TsrPayload(selectors=local),
        )
    )


def add(
    sa: IkeSa,
    suite: EspSuite,
    spi: bytes,
    peer_spi: bytes,
    local: Selectors,
    remote: Selectors,
    secrets: tuple[bytes, bytes, bytes],
    exchange_initiator: bool,
    now: float,
) -> ChildSa:
    """Derive KEYMAT (§2.17) and keep the child SA; ``secrets`` are Ni, Nr and g^ir (empty without PFS)."""
    ike_suite, keys = sa.established_keys()
    nonce_i, nonce_r, shared = secrets
    material = derive_child_keys(suite, Prf.of(ike_suite.prf), keys.sk_d, nonce_i, nonce_r, shared)
    out_e, out_a, in_e, in_a = material.ei, material.ai, material.er, material.ar
    if not exchange_initiator:
        out_e, out_a, in_e, in_a = in_e, in_a, out_e, out_a
    spec = ChildSaSpec(
        inbound_spi=spi,
        outbound_spi=peer_spi,
        suite=suite,
        inbound_encryption_key=in_e,
        inbound_integrity_key=in_a,
        outbound_encryption_key=out_e,
        outbound_integrity_key=out_a,
        local_selectors=local,
        remote_selectors=remote,
        path=sa.mobility.child_path(sa),
        encapsulation=sa.mobility.encapsulation(sa),
    )
    child = sa.children[spi] = ChildSa(spec=spec)
    arm_rekey(sa, child, now)
    return child


def announce_installed(sa: IkeSa) -> None:
    """Tell of the child SA that IKE_AUTH made."""
    for child in sa.children.values():
        sa.emit(ChildSaInstalled(spec=child.spec))


def remove(sa: IkeSa, inbound_spi: bytes, why: str) -> None:
    """Forget a child SA, known or not."""
    if sa.children.pop(inbound_spi, None) is not None:
        sa.emit(ChildSaRemoved(inbound_spi=inbound_spi, why=why))


def arm_rekey(sa: IkeSa, child: ChildSa, now: float) -> None:
    """Rekey in time: the original responder a tenth later, so that the ends do not collide (§2.8)."""
    lifetime = sa.config.child_lifetime
    if lifetime is None:
        return
    child.rekey_at = now + lifetime * (1.1 if sa.role is OriginalRole.RESPONDER else 1.0)
    sa.arm_child_lifetime(child.rekey_at)


def rekey_due(sa: IkeSa, now: float) -> None:
    """Start the rekeying of child SAs whose time has come."""
    for spi, child in list(sa.children.items()):
        if child.rekey_at is None or child.replaced:
            continue
        if child.rekey_at <= now:
            child.rekey_at = None
            sa.initiate(RekeyChild(spi), now)
        else:
            sa.arm_child_lifetime(child.rekey_at)


def narrow(offered: Selectors, allowed: Selectors) -> Selectors:
    """What both sides select (§2.9); TS_UNACCEPTABLE when nothing is left."""
    common = [both for one in offered for other in allowed if (both := one.intersect(other)) is not None]
    if not common:
        raise NegotiationError(
            f"selectors {', '.join(map(str, offered))} lie outside {', '.join(map(str, allowed))}",
            NotifyType.TS_UNACCEPTABLE,
        )
    return tuple(dict.fromkeys(common))


def narrowed(answer: Selectors, offered: Selectors, name: str) -> None:
    """The peer may narrow what we offered, never widen it (§2.9)."""
    if not answer or not all(any(wide.covers(one) for wide in offered) for one in answer):
        raise NegotiationError(f"the peer widened {name}", NotifyType.TS_UNACCEPTABLE)


def offered_spi(proposals: tuple[Proposal, ...], answer: Proposal) -> bytes:
    """The peer's inbound SPI: that of the proposal we chose."""
    spi = next((p.spi for p in proposals if p.number == answer.number), b"")
    if len(spi) != SPI_LENGTH:
        raise NegotiationError(f"an ESP SPI of {len(spi)} octets", NotifyType.NO_PROPOSAL_CHOSEN)
    return spi


def error(notify: NotifyType) -> Response:
    """Refuse a CREATE_CHILD_SA and nothing else."""
    return Response(payloads=(NotifyPayload(type=notify),))
