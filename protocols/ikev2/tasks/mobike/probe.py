"""Path testing by the initiator (RFC 4555 §3.10), changed NAT mappings (§3.8), hints that a path is bad (§3.5).

A request that stays unanswered is repeated with the same Message ID on the other address pairs, in order of
preference, one at a time; the responder answers each where it came from and moves nothing. The pair that
is answered becomes the path by an UPDATE_SA_ADDRESSES. Each retransmission allows one round over at most
``PAIRS_MAXIMUM`` pairs. The responder does the same with a list of addresses it has to get through (§3.6).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from protocols.ikev2.events import PathSuspected, PathValidated, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import Payload
from protocols.ikev2.tasks import informational, natd
from protocols.ikev2.tasks.mobike import update
from protocols.ikev2.timing import Timer
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

PAIRS_MAXIMUM = 16
PROBE_INTERVAL = 0.1  # between two probes of a round


def unanswered(sa: IkeSa, now: float) -> None:
    """A request was sent again: is it the path? Starts the test, or another round of it."""
    mobility = sa.mobility
    patience = sa.config.path_test_after
    allowed = sa.first_initiator or mobility.announcing is not None
    if patience is None or not allowed or not mobility.negotiated or sa.state is not SaState.ESTABLISHED:
        return
    if mobility.testing is None:
        if sa.timers.get(Timer.PATH_TEST) is None:
            sa.timers.set(Timer.PATH_TEST, now + patience)
    elif not mobility.testing:
        widen(sa, now)


def probe_next(sa: IkeSa, now: float) -> None:
    """Repeat the outstanding request on the next pair."""
    mobility = sa.mobility
    if sa.window.outstanding is None or sa.state is not SaState.ESTABLISHED:
        stop(sa)
        return
    if mobility.testing is None:
        mobility.testing = _round(sa)
        if sa.first_initiator:
            sa.emit(PathSuspected(path=sa.path))
    if mobility.testing:
        path = mobility.testing.popleft()
        if mobility.update is sa.window.outstanding.task:
            mobility.update.from_several = True
        elif mobility.announcing is sa.window.outstanding.task and path.local != sa.path.local:
            mobility.announcing.from_several = True
        sa.repeat_on(path)
    if mobility.testing:
        sa.timers.set(Timer.PATH_TEST, now + PROBE_INTERVAL)


def widen(sa: IkeSa, now: float) -> None:
    """There are other pairs to test now: a new round, if a test is going on."""
    if sa.mobility.testing is not None:
        sa.mobility.testing = _round(sa)
        sa.timers.set(Timer.PATH_TEST, now)


def _round(sa: IkeSa) -> deque[Path]:
    return deque(sa.mobility.pairs(sa)[:PAIRS_MAXIMUM])


def stop(sa: IkeSa) -> None:
    """Nothing is tested any more."""
    sa.mobility.testing = None
    sa.timers.cancel(Timer.PATH_TEST)


def answered(sa: IkeSa, path: Path, now: float) -> None:
    """A response came on ``path``: during a test the initiator moves there, before anything else (§3.10)."""
    testing = sa.mobility.testing is not None
    stop(sa)
    if not testing or not sa.first_initiator or sa.state is not SaState.ESTABLISHED:
        return
    if path == sa.path:
        sa.emit(PathValidated(path=path))
    elif path in sa.mobility.pairs(sa):
        update.UpdateAddresses(path).start(sa, now)


def suspect(sa: IkeSa, now: float) -> None:
    """A hint that the path is bad: find out by a liveness check (§3.5), unless something is being asked already."""
    if sa.state is SaState.ESTABLISHED and not sa.mobility.suspended and sa.window.outstanding is None:
        sa.enqueue(informational.Liveness())


def mapping_probe(sa: IkeSa) -> tuple[Payload, ...]:
    """NAT detection in a liveness check, where this end moves and is behind a NAT (§3.8)."""
    wanted = sa.first_initiator and sa.mobility.negotiated and sa.nat.local
    return natd.offer(sa, sa.path) if wanted and sa.initiator_config.detect_mapping_changes else ()


def compare_mapping(sa: IkeSa, message: Message, now: float) -> None:
    """The responder sees another address of ours than at the last update: tell it that it is ours (§3.8)."""
    known, seen = sa.mobility.destination_hashes, natd.destination_hashes(message)
    if known is None or seen is None or known == seen or not sa.first_initiator or not sa.mobility.negotiated:
        return
    if sa.state is SaState.ESTABLISHED and sa.mobility.update is None:
        update.UpdateAddresses(sa.path).start(sa, now)
