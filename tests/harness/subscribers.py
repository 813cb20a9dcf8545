"""Subscribers in memory, in the place of the subscriber database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aaa.subscribers import Subscriber
from protocols.algorithms.sqn import SqnState, Transition
from protocols.errors import BackendError
from protocols.threegpp.identity import Imsi


class Table:
    """What an HSS sees of a database; ``broken`` makes it fail."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self.rows = {subscriber.imsi: subscriber for subscriber in subscribers}
        self.broken = False

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``."""
        if self.broken:
            raise BackendError("the database is gone")
        return self.rows.get(imsi)

    def get_many(self, imsis: Sequence[Imsi]) -> dict[Imsi, Subscriber]:
        """Those that are there."""
        return {imsi: found for imsi in imsis if (found := self.get(imsi)) is not None}

    def change_sequence(self, imsi: Imsi, transition: Transition) -> SqnState:
        """Store what ``transition`` makes of SEQ_HE; what is stored then."""
        new = transition(SqnState(self.rows[imsi].sequence))
        self.rows[imsi] = replace(self.rows[imsi], sequence=new.seq)
        return new
