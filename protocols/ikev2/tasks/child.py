"""Child SAs (RFC 7296 §2.9, §2.17): offered, chosen and narrowed, keyed; the one that IKE_AUTH makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from protocols.errors import NegotiationError, RemoteError
from protocols.esp.sa import UNLIMITED, ChildSaSpec, EspMode
from protocols.ikev2.events import ChildSaInstalled, ChildSaRemoved, ChildSaRetired, ConfigurationReply, Refused
from protocols.ikev2.keymat import derive_child_keys
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from protocols.ikev2.proposals import check_answer_esp, select_esp
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.spi import RESERVED_MAXIMUM
from protocols.ikev2.suites import EspSuite, Prf
from protocols.ikev2.task import Task
from protocols.ikev2.tasks import beet, config, lifetime
from protocols.ikev2.timing import Timer
from protocols.path import Path
from protocols.selectors import TrafficSelector

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

NONCE_LENGTH = 32
SPI_LENGTH = 4
RECEIVE_GRACE = 2.0  # longer than ESP and the DELETE that overtook it are on the way
# §2.21.2: "the only ones to cause the IKE SA to be deleted or not created, without a Delete payload"
FATAL = (NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, NotifyType.INVALID_SYNTAX, NotifyType.AUTHENTICATION_FAILED)
SELECTORS_MAXIMUM = 255  # §3.13: the number of selectors is one octet
Selectors = tuple[TrafficSelector, ...]


@dataclass(frozen=True)
class Rival:
    """A child SA that the peer made from one that we are rekeying too, and the lower nonce of its exchange."""

    inbound_spi: bytes
    lowest_nonce: bytes


@dataclass(kw_only=True)
class ChildSa:
    """A child SA of an IKE SA.

    ``rekey`` is our request to rekey it that waits for its response, ``rival`` what the peer made meanwhile;
    ``replaced`` once a rekeyed one has taken over, ``closing`` once we have sent its DELETE.
    """

    spec: ChildSaSpec
    rekey_at: float | None = None
    expires_at: float | None = None
    rekey: Task | None = None
    rival: Rival | None = None
    replaced: bool = False
    closing: bool = False

    def carries(self, local: Selectors, remote: Selectors) -> bool:
        """Whether it will go on carrying the traffic of these selectors."""
        return not (self.replaced or self.closing) and all(
            any(mine.covers(one) for mine in have)
            for have, wanted in ((self.spec.local_selectors, local), (self.spec.remote_selectors, remote))
            for one in wanted
        )

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
    mode: EspMode

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
            mode=beet.wish(sa, settings.remote_selectors),
        )

    def payloads(self) -> tuple[Payload, ...]:
        """[N(USE_BEET_MODE),] SA, TSi, TSr of the end that sends the request."""
        return (
            *beet.ask(self.mode),
            SaPayload(proposals=self.proposals),
            TsiPayload(selectors=self.local_selectors),
            TsrPayload(selectors=self.remote_selectors),
        )

    def accept(self, sa: IkeSa, message: Message, now: float) -> None:
        """Install what the response to IKE_AUTH grants."""
        suite, spi, local, remote = self.read(message)
        mode = beet.agreed(message, self.mode, local, remote)
        sa.granted = (local, sa.initiator_config.remote_selectors)
        add(sa, suite, self.spi, spi, local, remote, (sa.nonce_i, sa.nonce_r, b""), True, now, mode=mode)

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

    beet: bool
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
        return cls(
            beet=beet.asked_for(message),
            proposals=offered.proposals,
            remote_selectors=tsi.selectors,
            local_selectors=tsr.selectors,
        )

    def grant(self, sa: IkeSa, reply: ConfigurationReply, now: float) -> tuple[ChildSa, tuple[Payload, ...]]:
        """Choose, narrow to what the configuration allows and add the child SA: it, and the answer."""
        answer, suite = select_esp(self.proposals, sa.config.esp_policy, with_group=False)
        remote = narrow(self.remote_selectors, reply.remote_selectors)
        local = narrow(self.local_selectors, reply.local_selectors)
        sa.granted = (reply.local_selectors, reply.remote_selectors)
        mode = beet.agree(sa, self.beet, local, remote)
        spi = sa.spis.child_spi()
        new = add(
            sa,
            suite,
            spi,
            offered_spi(self.proposals, answer),
            local,
            remote,
            (sa.nonce_i, sa.nonce_r, b""),
            False,
            now,
            mode=mode,
        )
        return new, (
            *beet.ask(mode),
            SaPayload(proposals=(replace(answer, spi=spi),)),
            TsiPayload(selectors=remote),
            TsrPayload(selectors=local),
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
    additional: bytes = b"",
    *,
    mode: EspMode = EspMode.TUNNEL,
) -> ChildSa:
    """Derive KEYMAT (§2.17) and keep the child SA; ``secrets`` are Ni, Nr and g^ir (empty without PFS).

    ``additional`` are the secrets of the additional key exchanges (RFC 9370).
    """
    ike_suite, keys = sa.established_keys()
    nonce_i, nonce_r, shared = secrets
    material = derive_child_keys(suite, Prf.of(ike_suite.prf), keys.sk_d, nonce_i, nonce_r, shared, additional)
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
        replay_window=sa.config.replay_window,
        limits=UNLIMITED if sa.config.child_lifetime is None else sa.config.child_lifetime.usage,
        mode=mode,
    )
    child = sa.children[spi] = ChildSa(spec=spec)
    lifetime.arm_child(sa, spi, now)
    return child


def allowed(sa: IkeSa) -> tuple[Selectors, Selectors]:
    """What child SAs of this IKE SA may select, our side and the peer's: what its configuration granted."""
    if sa.granted is None:
        raise NegotiationError("nothing was granted to this IKE SA", NotifyType.TS_UNACCEPTABLE)
    return sa.granted


def accept(sa: IkeSa, offer: Offer | None, message: Message, now: float) -> None:
    """Install the child SA that the last IKE_AUTH response grants; none was asked for in a childless SA."""
    if offer is not None:
        offer.accept(sa, message, now)
    else:
        sa.granted = (sa.initiator_config.local_selectors, sa.initiator_config.remote_selectors)


def grant_or_refuse(
    sa: IkeSa, request: Request | None, reply: ConfigurationReply, now: float
) -> tuple[ChildSa | None, tuple[Payload, ...]]:
    """CP, SA, TSi, TSr; or an error Notify, which refuses the child SA and leaves the IKE SA (§1.2, §2.21.2)."""
    if request is None:
        sa.granted = (reply.local_selectors, reply.remote_selectors)  # for child SAs to come (RFC 6023)
        return None, config.build_reply(reply)
    try:
        new, granted = request.grant(sa, reply, now)
    except NegotiationError as error:
        notify = NotifyPayload(type=NotifyType(error.notify_type or NotifyType.NO_PROPOSAL_CHOSEN))
        text = f"no child SA: {error}"
        sa.emit(Refused(text=text, notify=notify, by_peer=False, reason=error.reason, facts=error.facts))
        return None, (notify,)
    return new, (*config.build_reply(reply), *granted)


def refused(message: Message) -> NotifyPayload | None:
    """The error Notify of an IKE_AUTH response that authenticates the peer all the same (§1.2, §2.21.2)."""
    if message.first(AuthPayload) is None:
        return None
    errors = [notify for notify in message.all(NotifyPayload) if notify.type.is_error]
    return None if any(notify.type in FATAL for notify in errors) else next(iter(errors), None)


def announce_installed(sa: IkeSa) -> None:
    """Tell of the child SA that IKE_AUTH made."""
    for child in sa.children.values():
        sa.emit(ChildSaInstalled(spec=child.spec))


def remove(sa: IkeSa, inbound_spi: bytes, why: str, now: float) -> None:
    """Forget a child SA, known or not; one that was replaced receives what is still on the way."""
    gone = sa.children.pop(inbound_spi, None)
    if gone is None:
        return
    if not gone.replaced:
        sa.emit(ChildSaRemoved(inbound_spi=inbound_spi, why=why))
        return
    sa.retired[inbound_spi] = now + RECEIVE_GRACE
    sa.timers.set_earlier(Timer.RETIRED, now + RECEIVE_GRACE)
    sa.emit(ChildSaRetired(inbound_spi=inbound_spi))


def remove_retired(sa: IkeSa, now: float) -> None:
    """Nothing of these is on the way any more."""
    for spi, until in list(sa.retired.items()):
        if until <= now:
            del sa.retired[spi]
            sa.emit(ChildSaRemoved(inbound_spi=spi, why="replaced"))
        else:
            sa.timers.set_earlier(Timer.RETIRED, until)


def narrow(offered: Selectors, allowed: Selectors) -> Selectors:
    """What both sides select (§2.9); TS_UNACCEPTABLE when nothing is left."""
    common = [both for one in offered for other in allowed if (both := one.intersect(other)) is not None]
    if not common:
        raise NegotiationError(
            f"selectors {', '.join(map(str, offered))} lie outside {', '.join(map(str, allowed))}",
            NotifyType.TS_UNACCEPTABLE,
            reason="ts-unacceptable",
            facts={"offered": [str(each) for each in offered], "allowed": [str(each) for each in allowed]},
        )
    return tuple(dict.fromkeys(common))[:SELECTORS_MAXIMUM]


def narrowed(answer: Selectors, offered: Selectors, name: str) -> None:
    """The peer may narrow what we offered, never widen it (§2.9)."""
    if not answer or not all(any(wide.covers(one) for wide in offered) for one in answer):
        raise NegotiationError(f"the peer widened {name}", NotifyType.TS_UNACCEPTABLE)


def offered_spi(proposals: tuple[Proposal, ...], answer: Proposal) -> bytes:
    """The peer's inbound SPI: that of the proposal we chose."""
    spi = next((p.spi for p in proposals if p.number == answer.number), b"")
    if len(spi) != SPI_LENGTH or int.from_bytes(spi, "big") <= RESERVED_MAXIMUM:
        raise NegotiationError(f"{spi.hex() or 'nothing'} is no ESP SPI", NotifyType.NO_PROPOSAL_CHOSEN)
    return spi
