"""What all uses of CREATE_CHILD_SA (RFC 7296 §1.3) have in common: nonces, key exchange, the child SA they make.

``ChildExchange`` is the initiator's side, ``grant`` the responder's; where additional key exchanges were chosen
the child SA is made after them (``followup_ke``). Left out: transport mode, IPComp, waiting
for traffic before the responder sends on an SA that replaces none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from protocols.errors import NegotiationError, RemoteError
from protocols.esp.sa import EspMode
from protocols.ikev2.events import CreateChildSaRefused
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
from protocols.ikev2.registry import ExchangeType, KeGroup, NotifyType
from protocols.ikev2.suites import EspSuite, KeyExchange
from protocols.ikev2.task import Concurrent, Response
from protocols.ikev2.tasks import beet, child, followup_ke, informational, intermediate, lifetime, offered_child

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

NONCE_LENGTH = 32  # §2.10: at least half the PRF's key, 16 to 256 octets
DELETED_MAXIMUM = 16


class Dialogue:
    """The initiator's nonce and key exchange of one CREATE_CHILD_SA; INVALID_KE_PAYLOAD changes the group."""

    def __init__(self) -> None:
        self.nonce = b""
        self.key_exchange: KeyExchange | None = None
        self._wanted: KeGroup | None = None
        self._tried: set[int] = set()

    def begin(self, sa: IkeSa, preferred: KeGroup | None) -> tuple[Payload, ...]:
        """Ni and, with a group, KEi: fresh in every request."""
        group = self._wanted or preferred
        self.nonce = sa.entropy.octets(NONCE_LENGTH)
        self.key_exchange = None if group is None else KeyExchange.generate(group, sa.entropy)
        if self.key_exchange is None:
            return (NoncePayload(data=self.nonce),)
        self._tried.add(int(self.key_exchange.group))
        ke = KePayload(group=self.key_exchange.group, data=self.key_exchange.public)
        return (NoncePayload(data=self.nonce), ke)

    def obey(self, notify: NotifyPayload, offered: set[int]) -> bool:
        """Take the group that INVALID_KE_PAYLOAD names, if we offered and have not tried it (§1.3)."""
        group = int.from_bytes(notify.data, "big") if len(notify.data) == 2 else 0
        if notify.type != NotifyType.INVALID_KE_PAYLOAD or group not in offered - self._tried:
            return False
        self._wanted = KeGroup(group)
        return True

    def shared(self, message: Message, group: KeGroup | None) -> bytes:
        """g^ir with the KEr of the answer; empty when the chosen suite has no group."""
        if group is None:
            return b""
        ke = message.first(KePayload)
        if ke is None or self.key_exchange is None or not ke.group == self.key_exchange.group == group:
            raise RemoteError("KE of another group than agreed", NotifyType.INVALID_SYNTAX)
        return self.key_exchange.shared(ke.data)


def refusal(message: Message) -> NotifyPayload | None:
    """The error Notify of a response, if it has one (§3.10.1)."""
    return next((notify for notify in message.all(NotifyPayload) if notify.type.is_error), None)


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What both ends agreed on for a child SA; its keys follow from it and the additional key exchanges."""

    suite: EspSuite
    spi: bytes
    peer_spi: bytes
    local: child.Selectors
    remote: child.Selectors
    secrets: tuple[bytes, bytes, bytes]
    exchange_initiator: bool
    mode: EspMode

    @property
    def lowest_nonce(self) -> bytes:
        """The lower of the two nonces."""
        return min(self.secrets[:2])

    def make(self, sa: IkeSa, additional: bytes, now: float) -> child.ChildSa:
        """The child SA."""
        spis, selectors = (self.spi, self.peer_spi), (self.local, self.remote)
        initiator = self.exchange_initiator
        return child.add(sa, self.suite, *spis, *selectors, self.secrets, initiator, now, additional, mode=self.mode)


class ChildExchange(Concurrent, ABC):
    """The initiator's side of a CREATE_CHILD_SA that makes a child SA, new or in place of another.

    ``following``: its additional key exchanges are under way.
    """

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self) -> None:
        self._dialogue = Dialogue()
        self._offer: child.Offer | None = None
        self._agreed: Agreed | None = None
        self.back_off = lifetime.BackOff()
        self.following = False
        self._deleted: deque[bytes] = deque(maxlen=DELETED_MAXIMUM)

    def deleted_by_peer(self, spi: bytes) -> None:
        """While our request waits the peer deletes a child SA that we do not know: it may be the one to come."""
        self._deleted.append(spi)

    @abstractmethod
    def made(self, sa: IkeSa, new: child.ChildSa, lowest_nonce: bytes, now: float) -> None:
        """The child SA is there."""

    @abstractmethod
    def refused(self, sa: IkeSa, notify: NotifyPayload, now: float) -> None:
        """The peer does not want it, or not now."""

    def ask(self, sa: IkeSa, local: child.Selectors, remote: child.Selectors, mode: EspMode) -> tuple[Payload, ...]:
        """[N(USE_BEET_MODE),] SA, Ni, [KEi,] TSi, TSr."""
        spi, policy = sa.spis.child_spi(), sa.config.esp_policy
        self._deleted.clear()
        self._offer = child.Offer(
            spi=spi,
            proposals=policy.proposals(spi, additional=True),
            local_selectors=local,
            remote_selectors=remote,
            mode=mode,
        )
        *chosen, tsi, tsr = self._offer.payloads()
        return (*chosen, *self._dialogue.begin(sa, policy.suites[0].group), tsi, tsr)

    def obey(self, sa: IkeSa, notify: NotifyPayload) -> bool:
        """Whether the request is worth repeating with another group."""
        groups = {int(suite.group) for suite in sa.config.esp_policy.suites if suite.group is not None}
        return self._dialogue.obey(notify, groups)

    def take(self, sa: IkeSa, message: Message, what: str, now: float, rival: bytes | None = None) -> None:
        """Make what the response grants, or do its additional key exchanges first; what we cannot take is deleted.

        ``rival`` is the lower nonce of the peer's exchange about the same SA (RFC 9370 §2.2.4): with the lowest of
        all "because there is nothing to delete yet, the initiator of this exchange just stops".
        """
        nonce = message.first(NoncePayload)
        if nonce is None or self._offer is None:
            raise RemoteError("CREATE_CHILD_SA response without a nonce", NotifyType.INVALID_SYNTAX)
        try:
            suite, spi, local, remote = self._offer.read(message)
            mode = beet.agreed(message, self._offer.mode, local, remote)
        except NegotiationError as error:
            notify = NotifyPayload(type=NotifyType(error.notify_type or NotifyType.NO_PROPOSAL_CHOSEN))
            sa.initiate(informational.DeleteChildSa(self._offer.spi, installed=False), now)  # §2.21.3
            sa.emit(CreateChildSaRefused(what=f"{what}: {error}", notify=notify, by_peer=False))
            return
        if spi in self._deleted:
            return  # the peer's DELETE overtook its response, and has been answered
        agreed = self._agreed = Agreed(
            suite=suite,
            spi=self._offer.spi,
            peer_spi=spi,
            local=local,
            remote=remote,
            secrets=(self._dialogue.nonce, nonce.data, self._dialogue.shared(message, suite.group)),
            exchange_initiator=True,
            mode=mode,
        )
        if not suite.additional:
            self.made(sa, agreed.make(sa, b"", now), agreed.lowest_nonce, now)
        elif rival is None or agreed.lowest_nonce > rival:
            self.following = True
            followup_ke.start(sa, self, suite, message, now)

    def completed(self, sa: IkeSa, message: Message, additional: bytes, now: float) -> None:
        """The last additional key exchange is done."""
        self.following = False
        if self._agreed is not None:
            self.made(sa, self._agreed.make(sa, additional, now), self._agreed.lowest_nonce, now)

    def abandoned(self, sa: IkeSa, notify: NotifyPayload, now: float) -> None:
        """The peer went on with none of it."""
        self.following = False
        self.refused(sa, notify, now)


# --- the responder's side


def grant(
    sa: IkeSa,
    message: Message,
    selectors: tuple[child.Selectors, child.Selectors],
    made: Callable[[child.ChildSa, bytes, float], None],
    now: float,
    subject: bytes | None = None,
    before: EspMode | None = None,
) -> Response | None:
    """Choose, narrow to ``selectors`` (ours, the peer's), make the child SA; or the Notify that asks for another KE.

    ``made`` gets the child SA and the lower of the two nonces, after the additional key exchanges if there are any;
    ``subject`` is our SPI of the child SA that it replaces, ``before`` its mode. ``None`` until the data plane has it.
    """
    offered, nonce, ke = message.first(SaPayload), message.first(NoncePayload), message.first(KePayload)
    tsi, tsr = message.first(TsiPayload), message.first(TsrPayload)
    if offered is None or nonce is None or tsi is None or tsr is None:
        raise RemoteError("CREATE_CHILD_SA without SA, nonce, TSi or TSr", NotifyType.INVALID_SYNTAX)
    answer, suite = select_esp(offered.proposals, sa.config.esp_policy, with_group=True, additional=True)
    granted_remote = child.narrow(tsi.selectors, selectors[1])
    granted_local = child.narrow(tsr.selectors, selectors[0])
    peer_spi = child.offered_spi(offered.proposals, answer)
    shared = b""
    ke_answer: tuple[KePayload, ...] = ()
    if suite.group is not None:
        if ke is None or ke.group != suite.group:
            return Response(payloads=(invalid_ke(suite.group),))
        public, shared = KeyExchange.respond(suite.group, ke.data, sa.entropy)
        ke_answer = (KePayload(group=suite.group, data=public),)
    nonce_r, spi = sa.entropy.octets(NONCE_LENGTH), sa.spis.child_spi()
    agreed = Agreed(
        suite=suite,
        spi=spi,
        peer_spi=peer_spi,
        local=granted_local,
        remote=granted_remote,
        secrets=(nonce.data, nonce_r, shared),
        exchange_initiator=False,
        mode=beet.agree(sa, beet.asked_for(message), granted_local, granted_remote, before),
    )

    def finish(payloads: tuple[Payload, ...], additional: bytes, now: float) -> Response | None:
        new = agreed.make(sa, additional, now)
        replaces = subject if subject in sa.children else None

        def conclude(carried: bool, now: float) -> Response:
            if carried:
                made(new, agreed.lowest_nonce, now)
                return Response(payloads=payloads)
            sa.emit(CreateChildSaRefused(what=asked_for(message), notify=offered_child.REFUSED, by_peer=False))
            return Response(payloads=(offered_child.REFUSED,))

        # §2.8: the initiator of a rekey cannot know the new keys before our response is there
        return offered_child.offer(sa, new, conclude, now, replaces=replaces, send_at_once=subject is None)

    payloads: tuple[Payload, ...] = (
        *beet.ask(agreed.mode),
        SaPayload(proposals=(replace(answer, spi=spi),)),
        NoncePayload(data=nonce_r),
        *ke_answer,
        TsiPayload(selectors=granted_remote),
        TsrPayload(selectors=granted_local),
    )
    if suite.additional:
        series = followup_ke.Unfinished(
            subject=subject or spi,
            lowest_nonce=agreed.lowest_nonce,
            methods=intermediate.methods(suite),
            finish=finish,
        )
        return Response(payloads=(*payloads, sa.followups.expect(sa, series, now)))
    return finish(payloads, b"", now)


def asked_for(message: Message) -> str:
    """What a CREATE_CHILD_SA request asks for, in words."""
    rekey = message.notify(NotifyType.REKEY_SA)
    if rekey is not None:
        return f"the rekey of child SA {rekey.spi.hex()}"
    return "the rekey of the IKE SA" if message.first(TsiPayload) is None else "an additional child SA"


def invalid_ke(group: KeGroup) -> NotifyPayload:
    """The group that we want, two octets (§1.3)."""
    return NotifyPayload(type=NotifyType.INVALID_KE_PAYLOAD, data=int(group).to_bytes(2, "big"))


def error(notify: NotifyType) -> Response:
    """Refuse a CREATE_CHILD_SA and nothing else."""
    return Response(payloads=(NotifyPayload(type=notify),))
