"""The last IKE_AUTH response (RFC 7296 §1.2), whichever way the ends have proved who they are.

::

    <--  SK {[IDr, CERT*,] AUTH, [N(QCD),] [CP, SAr2, TSi, TSr,] N(..)}

Both AUTH payloads are verified, or made, by who calls; here is what the response grants beside, at either end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import ConfigurationReply
from protocols.ikev2.extension import Step
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import IdiPayload, IdrPayload, Payload
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import (
    auth,
    child,
    config,
    crash_detection,
    mobike,
    offered_child,
    reauthentication,
    redirect,
    tickets,
)

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


def take(
    sa: IkeSa, message: Message, offer: child.Offer | None, identity: IdiPayload, identity_r: IdrPayload, now: float
) -> None:
    """The initiator: take what the gateway, whose AUTH has verified, grants or refuses."""
    if redirect.obey_final(sa, message, now):
        return
    no_child = child.refused(message)
    if no_child is not None:
        sa.extension.take(Step.REFUSAL, message)
        auth.close_without_child(sa, no_child, now)
        return
    sa.extension.take(Step.FINAL_RESPONSE, message)
    sa.mobility.negotiated = mobike.wanted(sa) and mobike.announced(message)
    mobike.take_announcement(sa, message)
    child.accept(sa, offer, message, now)
    reauthentication.take(sa, message, now)
    auth.establish(sa, identity, identity_r, config.granted(message), now)
    tickets.receive(sa, message, identity_r, now)


def grant(
    sa: IkeSa,
    request: child.Request | None,
    reply: ConfigurationReply,
    identity: IdiPayload,
    identity_r: IdrPayload,
    proof: tuple[Payload, ...],
    now: float,
) -> Response | None:
    """The responder: ``proof`` and what follows it; the SA is up. ``None`` until the data plane has its child SA."""
    new, granted = child.grant_or_refuse(sa, request, reply, now)

    def conclude(carried: bool, now: float) -> Response:
        payloads: tuple[Payload, ...] = (
            *proof,
            *crash_detection.announce(sa),
            *(granted if carried else (offered_child.REFUSED,)),
            *(mobike.announce(sa) if sa.mobility.negotiated else ()),
            *reauthentication.announce(sa, now),
            *tickets.grant(sa, identity, identity_r, reply.session, now),
            *sa.extension.payloads(Step.FINAL_RESPONSE),
        )
        auth.establish(sa, identity, identity_r, reply.attributes, now)
        return Response(payloads=payloads)

    return conclude(True, now) if new is None else offered_child.offer(sa, new, conclude, now)
