"""Which task a request is for, and which a timer: what the peer asks and what is due goes to the tasks from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.message import Message
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.table import Procedure
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import (
    child,
    child_exchange,
    create_child,
    followup_ke,
    ike_auth,
    informational,
    init,
    intermediate,
    lifetime,
    mobike,
    reauthentication,
    redirect,
    rekey_child,
    rekey_ike,
    resume,
    tickets,
)
from protocols.ikev2.timing import Timer
from protocols.path import Datagram

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


def process_request(
    sa: IkeSa, procedure: Procedure, message: Message, datagram: Datagram, now: float
) -> Response | None:
    """The response to a legal request; ``None`` when it has to wait for the answer to a question."""
    path = datagram.path
    if procedure is Procedure.INIT:
        return init.process_request(sa, message, datagram, now)
    if procedure is Procedure.RESUME:
        return resume.process_request(sa, message, datagram, now)
    if mobike.refused_while_moving(sa, message):
        return child_exchange.error(NotifyType.TEMPORARY_FAILURE)
    if procedure is Procedure.INFORMATIONAL:
        rekey_ike.used_by_peer(sa, message, now)
        redirect.process_request(sa, message, now)
        return informational.process_request(sa, message, path, now)
    if procedure is Procedure.CREATE_CHILD:
        rekey_ike.used_by_peer(sa, message, now)
        mobike.rekeyed_from(sa, message, path, now)
        return create_child.process_request(sa, message, now)
    if procedure is Procedure.FOLLOWUP_KE:
        return followup_ke.process_request(sa, message, now)
    sa.path = path  # until the SA is up its path is where authentic requests come from (§2.11)
    sa.mobility.validated = path
    if procedure is Procedure.INTERMEDIATE:
        return intermediate.process_request(sa, message)
    if sa.resumption.presented is not None:
        resume.process_auth(sa, message, now)
        return None
    ike_auth.process_request(sa, procedure, message, now)
    return None


def run_timer(sa: IkeSa, timer: Timer, now: float) -> None:
    """What a task wanted to be told about is due."""
    if timer is Timer.CHILD_LIFETIME:
        rekey_child.child_due(sa, now)
    elif timer is Timer.RETIRED:
        child.remove_retired(sa, now)
    elif timer is Timer.IKE_REKEY:
        sa.enqueue(rekey_ike.RekeyIke())
    elif timer is Timer.IKE_EXPIRY:
        lifetime.expire(sa, "the hard lifetime of the IKE SA is over and no rekey replaced it", now)
    elif timer is Timer.SUPERSEDED:
        sa.close("it was over and nobody deleted it", now)
    elif timer is Timer.AUTHENTICATION:
        reauthentication.due(sa, now)
    elif timer is Timer.RETURN_ROUTABILITY:
        mobike.check_expired(sa, now)
    elif timer is Timer.CHECK_AGAIN:
        mobike.check_again(sa)
    elif timer is Timer.FOLLOWUP_KE:
        sa.followups.expire(sa, now)
    elif timer is Timer.PATH_TEST:
        mobike.probe_next(sa, now)
    elif timer is Timer.REDIRECTED:
        redirect.overdue(sa, now)
    elif timer is Timer.TICKET:
        tickets.refresh_due(sa)
