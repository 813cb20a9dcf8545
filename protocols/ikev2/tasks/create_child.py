"""CREATE_CHILD_SA (RFC 7296 §1.3): which of its three uses a request is, and additional child SAs (§1.3.1).

::

    SK {SA, Ni, [KEi,] TSi, TSr}  -->
                      <--  SK {SA, Nr, [KEr,] TSi, TSr}  |  SK {N(error)}

A request is a rekey of the IKE SA (a proposal for protocol IKE, ``rekey_ike``), a rekey of a child SA
(N(REKEY_SA), ``rekey_child``) or else asks for one more child SA, which either end may do. Error answers end
nothing (§1.3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import NegotiationError
from protocols.ikev2.events import ChildSaInstalled, CreateChildSaRefused, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload, SaPayload
from protocols.ikev2.registry import ExchangeType, NotifyType, ProtocolId
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import beet, child, child_exchange, followup_ke, lifetime, rekey_child, rekey_ike
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class CreateChild(child_exchange.ChildExchange):
    """One more child SA (§1.3.1)."""

    def __init__(self, local_selectors: child.Selectors, remote_selectors: child.Selectors) -> None:
        super().__init__()
        self._selectors = (local_selectors, remote_selectors)

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Nothing once the IKE SA ends."""
        if sa.state is not SaState.ESTABLISHED:
            return None
        return self.ask(sa, *self._selectors, beet.wish(sa, self._selectors[1]))

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Install what was granted; a refusal ends nothing."""
        notify = child_exchange.refusal(message)
        if notify is None:
            self.take(sa, message, "an additional child SA", now)
        else:
            self.refused(sa, notify, now)

    def made(self, sa: IkeSa, new: child.ChildSa, lowest_nonce: bytes, now: float) -> None:
        """Install it."""
        sa.emit(ChildSaInstalled(spec=new.spec))

    def refused(self, sa: IkeSa, notify: NotifyPayload, now: float) -> None:
        """With another group, later, or not at all."""
        if self.obey(sa, notify):
            sa.initiate(self, now, urgent=True)
        else:
            lifetime.refused(sa, self, self.back_off, "an additional child SA", notify, now)


def tell_refused(sa: IkeSa, message: Message, error: NegotiationError) -> None:
    """This end has refused a request of the peer's; not that it asks for another group, which goes on."""
    if error.notify_type == NotifyType.INVALID_KE_PAYLOAD or message.exchange != ExchangeType.CREATE_CHILD_SA:
        return
    what = child_exchange.asked_for(message)
    notify = NotifyPayload(type=NotifyType(error.notify_type or NotifyType.NO_PROPOSAL_CHOSEN))
    sa.emit(CreateChildSaRefused(what=what, notify=notify, by_peer=False, reason=error.reason, facts=error.facts))


def process_request(sa: IkeSa, message: Message, now: float) -> Response | None:
    """CREATE_CHILD_SA from the peer: one of the three uses, or an error that ends nothing."""
    if sa.state is not SaState.ESTABLISHED:
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)  # §2.25.2: the IKE SA is being closed, or is replaced
    offered = message.first(SaPayload)
    if offered is not None and any(proposal.protocol == ProtocolId.IKE for proposal in offered.proposals):
        return rekey_ike.process_request(sa, message, now)
    if sa.rekeying.under_way or sa.followups.of(followup_ke.THE_IKE_SA) is not None:
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)  # §2.25.2
    rekey = message.notify(NotifyType.REKEY_SA)
    if rekey is not None:
        return rekey_child.process_request(sa, message, rekey, now)
    unfinished = sum(subject not in sa.children for subject in sa.followups.subjects)
    if sum(not one.replaced for one in sa.children.values()) + unfinished > sa.config.additional_children:
        return child_exchange.error(NotifyType.NO_ADDITIONAL_SAS)

    def made(new: child.ChildSa, lowest_nonce: bytes, now: float) -> None:
        sa.emit(ChildSaInstalled(spec=new.spec))

    return child_exchange.grant(sa, message, child.allowed(sa), made, now)
