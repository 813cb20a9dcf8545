"""The fault rules of a process and what is put around its ports; a node is composed with one of these."""

from __future__ import annotations

from collections.abc import Iterable

from aaa.eap import EapService
from aaa.faults.eap import FaultyEap
from aaa.faults.handlers import FaultyHandlers, Forsake, SessionLookup, Sleep
from aaa.faults.hss import Algorithms, FaultyHss
from aaa.faults.rule import FaultRule
from aaa.faults.swx import FaultySwx
from aaa.faults.table import FaultTable
from aaa.hss.port import HomeSubscriberServer
from protocols.trace.recorder import Recorder


class Faults:
    """One table, and the wrappers that ask it."""

    def __init__(
        self, rules: Iterable[FaultRule], recorder: Recorder, *, algorithms: Algorithms | None, sleep: Sleep
    ) -> None:
        """``algorithms`` gives a subscriber's keyed functions; ``None`` where the keys are elsewhere."""
        self.table = FaultTable(rules)
        self._recorder = recorder
        self._algorithms = algorithms
        self._sleep = sleep

    @property
    def has_keys(self) -> bool:
        """Whether a right MAC can be made for a wrong AUTN."""
        return self._algorithms is not None

    def eap(self, service: EapService) -> EapService:
        """For the EAP server of an AAA server."""
        return FaultyEap(options=service.options, rules=service.rules, ring=service.ring, table=self.table)

    def handlers(self, *, session: SessionLookup, forsake: Forsake) -> FaultyHandlers:
        """For the Diameter handlers of an AAA server."""
        return FaultyHandlers(self.table, self._recorder, session=session, forsake=forsake, sleep=self._sleep)

    def hss(self, hss: HomeSubscriberServer) -> FaultyHss:
        """For the port through which an AAA server asks its HSS."""
        return FaultyHss(hss, self.table, self._recorder, algorithms=self._algorithms, sleep=self._sleep)

    def swx(self) -> FaultySwx:
        """For the Diameter handlers of an HSS."""
        handlers = self.handlers(session=lambda _: None, forsake=lambda _: None)
        return FaultySwx(handlers, self.table, self._recorder, algorithms=self._algorithms)
