"""Path testing by the initiator (RFC 4555 §3.10), changed NAT mappings (§3.8), hints that a path is bad (§3.5).

A request that stays unanswered, or a hint, puts the path in *doubt*: for ``path_test_after`` the request is
repeated there every ``DOUBT_INTERVAL``, with the same Message ID. Only when all of that stays unanswered, and
nothing else that is authentic has come meanwhile (IKE, or ESP as the data plane counts it), is the request
repeated on the other address pairs, in order of preference, one at a time; the responder answers each where
it came from and moves nothing. The pair that is answered first becomes the path by an UPDATE_SA_ADDRESSES.

Where each direction loses the share p at random, a path that works is left wrongly with probability
(1 - (1 - p)^2)^n after n repetitions: 24 of them, 30 % each way, 1e-7; less where ESP comes beside. RFC 7296
§2.4 wants intervals that grow: these are bounded, small, and go only where an answer is overdue.

Each retransmission allows one round over at most ``PAIRS_MAXIMUM`` pairs, ``ROUND_REPETITIONS`` times each. The
responder tries other pairs with a list of addresses that it has to get through (§3.6), without the doubt.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil
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
ROUND_REPETITIONS = 3  # other paths may lose packets too
DOUBT_INTERVAL = 0.05  # between two repetitions on the path in doubt
DOUBTS_WHILE_HEARD = 2  # what the peer sends arrives, what it is asked does not: half a path is none (RFC 4621 §5.1.2)


@dataclass(kw_only=True)
class Doubt:
    """The path in use is being asked: ``left`` more times; what is heard after ``since`` speaks for it.

    ``again``: how often it has been asked that long although the peer was heard.
    """

    left: int
    since: float | None = None
    again: int = 0


def unanswered(sa: IkeSa, now: float) -> None:
    """A request was sent again: is it the path? Starts the doubt, or another round of the test."""
    mobility = sa.mobility
    if mobility.testing is None and mobility.doubt is None:
        _doubt(sa, now)
    elif mobility.testing is not None and not mobility.testing and _allowed(sa):
        widen(sa, now)


def _allowed(sa: IkeSa) -> bool:
    wanted = sa.first_initiator or sa.mobility.announcing is not None
    on = sa.config.path_test_after is not None
    return on and wanted and sa.mobility.negotiated and sa.state is SaState.ESTABLISHED


def _doubt(sa: IkeSa, now: float, again: int = 0) -> None:
    patience = sa.config.path_test_after
    if patience is None or not _allowed(sa):
        return
    times = ceil(patience / DOUBT_INTERVAL) if sa.first_initiator else 0
    sa.mobility.doubt = Doubt(left=times, again=again)
    sa.timers.set(Timer.PATH_TEST, now + (DOUBT_INTERVAL if times else patience))


def probe_next(sa: IkeSa, now: float) -> None:
    """Repeat the outstanding request on the path in doubt, or on the next pair."""
    mobility = sa.mobility
    if sa.window.outstanding is None or sa.state is not SaState.ESTABLISHED:
        stop(sa)
        return
    if mobility.testing is None:
        if _asked_again(sa, now):
            return
        mobility.testing = _round(sa)
        if sa.first_initiator:
            sa.emit(PathSuspected(path=sa.path))
    elif _heard_since(sa) and mobility.doubt is not None and mobility.doubt.again < DOUBTS_WHILE_HEARD:
        stop(sa)
        sa.emit(PathValidated(path=sa.path))
        return
    if mobility.testing:
        path = mobility.testing.popleft()
        if path != sa.path and mobility.update is sa.window.outstanding.task:
            mobility.update.from_several = True
        elif mobility.announcing is sa.window.outstanding.task and path.local != sa.path.local:
            mobility.announcing.from_several = True
        sa.repeat_on(path)
    if mobility.testing:
        sa.timers.set(Timer.PATH_TEST, now + PROBE_INTERVAL)


def _asked_again(sa: IkeSa, now: float) -> bool:
    """Repeat on the path in use, as long as that is in doubt and no longer."""
    doubt = sa.mobility.doubt
    if doubt is None:
        return False
    if doubt.since is None:
        doubt.since = now  # what the data plane has counted until now may have come before the doubt
    if not doubt.left and sa.first_initiator and _heard_since(sa) and doubt.again < DOUBTS_WHILE_HEARD:
        _doubt(sa, now, doubt.again + 1)
        return sa.mobility.doubt is not None
    if not doubt.left:
        return False
    doubt.left -= 1
    sa.repeat_on(sa.path)
    sa.timers.set(Timer.PATH_TEST, now + DOUBT_INTERVAL)
    return True


def _heard_since(sa: IkeSa) -> bool:
    doubt = sa.mobility.doubt
    return doubt is not None and doubt.since is not None and sa.mobility.heard_at > doubt.since


def widen(sa: IkeSa, now: float) -> None:
    """There are other pairs to test now: a new round, if a test is going on."""
    if sa.mobility.testing is not None:
        sa.mobility.testing = _round(sa)
        sa.timers.set(Timer.PATH_TEST, now)


def _round(sa: IkeSa) -> deque[Path]:
    pairs = sa.mobility.pairs(sa)[:PAIRS_MAXIMUM]
    return deque(pairs * (ROUND_REPETITIONS if sa.first_initiator else 1))


def stop(sa: IkeSa) -> None:
    """Nothing is tested any more."""
    sa.mobility.testing = sa.mobility.doubt = None
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
    """A hint that the path is bad: find out by a liveness check (§3.5), or by what is being asked already."""
    if sa.state is not SaState.ESTABLISHED or sa.mobility.suspended:
        return
    if sa.window.outstanding is None:
        sa.enqueue(informational.Liveness(suspicious=True))
    if sa.mobility.testing is None and sa.mobility.doubt is None:
        _doubt(sa, now)


def mapping_probe(sa: IkeSa, *, suspicious: bool = False) -> tuple[Payload, ...]:
    """NAT detection in a liveness check, where this end moves and is, or may be by now, behind a NAT (§3.8)."""
    wanted = sa.first_initiator and sa.mobility.negotiated and sa.mobility.nat_traversal
    if not wanted or not (sa.nat.local or suspicious) or not sa.initiator_config.detect_mapping_changes:
        return ()
    return natd.offer(sa, sa.path)


def compare_mapping(sa: IkeSa, message: Message, now: float) -> None:
    """The responder sees another address of ours than at the last update: tell it that it is ours (§3.8)."""
    known, seen = sa.mobility.destination_hashes, natd.destination_hashes(message)
    if known is not None and not sa.nat.local:
        known = frozenset({natd.detection_hash(sa.spi_i, sa.spi_r, sa.path.local)})  # seen as we are until now
    if known is None or seen is None or known == seen or not sa.first_initiator or not sa.mobility.negotiated:
        return
    if sa.state is SaState.ESTABLISHED and sa.mobility.update is None:
        update.UpdateAddresses(sa.path).start(sa, now)
