"""A move that asks before it tells (RFC 4555 §3.10), as strongSwan moves.

::

    SK {}  -->                                          from the new address to all the gateway's, one Message ID
                          <--  SK {}                    answered where it came from; nothing has moved
    SK {N(UPDATE_SA_ADDRESSES), ...}  -->               to the address that has answered
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import Payload
from protocols.ikev2.registry import ExchangeType
from protocols.ikev2.tasks.mobike import patience, probe, update
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class ProbeThenUpdate:
    """An empty INFORMATIONAL on the new path; its answer starts the update. It goes on while it is the newest."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, sa: IkeSa, now: float) -> None:
        """What we send goes from the new address from now on; child SAs stay until the update is answered."""
        sa.mobility.scout = self
        probe.stop(sa)
        patience.resume(sa, now)
        sa.change_path(self._path, now)
        sa.enqueue(self, urgent=True)

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Nothing inside; nothing at all when a newer move has come."""
        return () if sa.mobility.scout is self else None

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """The path works, or another one to the same gateway does: move there."""
        if sa.mobility.scout is not self or sa.state is not SaState.ESTABLISHED:
            return
        sa.mobility.scout = None
        update.UpdateAddresses(path).start(sa, now)


def spread(sa: IkeSa) -> None:
    """The probe that has just been sent goes to the gateway's other addresses as well, with the same Message ID."""
    outstanding = sa.window.outstanding
    if outstanding is None or sa.mobility.scout is None or outstanding.task is not sa.mobility.scout:
        return
    for path in sa.mobility.pairs(sa)[: probe.PAIRS_MAXIMUM]:
        if path.local == sa.path.local:
            sa.repeat_on(path)
