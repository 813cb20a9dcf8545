"""The wrapper around the HSS port: vectors that are wrong, and an HSS that refuses, is slow or does not answer.

It stands at the AAA server's end of SWx, whether the HSS is in this process or elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aaa.faults.handlers import Sleep, in_hand, record
from aaa.faults.rule import AttachStep, Point
from aaa.faults.spoiling import spoil_vector
from aaa.faults.table import FaultTable, Occasion
from aaa.hss.port import HomeSubscriberServer, HssRefusal, SubscriberProfile, VectorRequest
from protocols.algorithms.vector import AkaAlgorithm, AkaVector
from protocols.diameter.dictionary import CommandCode, ServerAssignmentType, command_name
from protocols.diameter.peer import REQUEST_INTERVAL
from protocols.errors import BackendError
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder

Algorithms = Callable[[Imsi], Awaitable[AkaAlgorithm | None]]
MAR = command_name(CommandCode.MULTIMEDIA_AUTH, request=True)
SAR = command_name(CommandCode.SERVER_ASSIGNMENT, request=True)


class FaultyHss:
    """A home subscriber server under the rules; without any it passes everything on."""

    def __init__(
        self,
        hss: HomeSubscriberServer,
        table: FaultTable,
        recorder: Recorder,
        *,
        algorithms: Algorithms | None,
        sleep: Sleep,
    ) -> None:
        """``algorithms`` gives a subscriber's keyed functions; ``None`` where the keys are elsewhere."""
        self._hss = hss
        self._table = table
        self._recorder = recorder
        self._algorithms = algorithms
        self._sleep = sleep

    async def authentication_vector(self, request: VectorRequest) -> AkaVector:
        """A vector, right or as a rule wants it; one that follows AUTS is always right: the SQN was followed."""
        await self._answer(MAR, request.imsi)
        vector = await self._hss.authentication_vector(request)
        if not self._table or request.resynchronisation is not None:
            return vector
        occasion = self._occasion(MAR, request.imsi)
        fault = self._table.decide(occasion, Point.VECTOR)
        if fault is None:
            return vector
        algorithm = None
        if fault.action.needs_key:
            algorithm = None if self._algorithms is None else await self._algorithms(request.imsi)
            if algorithm is None:
                raise BackendError(f"fault rule {fault.rule} needs the keys of subscriber {request.imsi}")
        record(self._recorder, fault, occasion, Point.VECTOR)
        return spoil_vector(vector, fault.action, algorithm)

    async def register(self, imsi: Imsi, *, imei: str | None = None) -> SubscriberProfile:
        """This server serves the user; the profile."""
        await self._answer(SAR, imsi)
        return await self._hss.register(imsi, imei=imei)

    async def user_data(self, imsi: Imsi, *, imei: str | None = None) -> SubscriberProfile:
        """The profile of a user who is registered here."""
        await self._answer(SAR, imsi)
        return await self._hss.user_data(imsi, imei=imei)

    async def deregister(self, imsi: Imsi, why: ServerAssignmentType) -> None:
        """This server has no session of the user any more."""
        await self._answer(SAR, imsi)
        await self._hss.deregister(imsi, why)

    async def update_pgw(self, imsi: Imsi, apn: str, pgw: str | None) -> None:
        """The PDN gateway that serves ``apn``."""
        await self._answer(SAR, imsi)
        await self._hss.update_pgw(imsi, apn, pgw)

    async def _answer(self, command: str, imsi: Imsi) -> None:
        """Refuse or dawdle in the HSS's place, where a rule says so."""
        if not self._table:
            return
        occasion = self._occasion(command, imsi)
        fault = self._table.decide(occasion, Point.ANSWER)
        if fault is None:
            return
        record(self._recorder, fault, occasion, Point.ANSWER)
        action = fault.action
        if action.delay is not None:
            await self._sleep(action.delay)
        if action.silence:
            await self._sleep(REQUEST_INTERVAL)
            raise BackendError(f"no answer to {command}")
        if action.result is not None:
            raise HssRefusal(action.result, f"The HSS refused {command}.")

    def _occasion(self, command: str, imsi: Imsi) -> Occasion:
        outer = in_hand.get()
        return Occasion(
            commands=(command,) if outer is None else (command, outer.command),
            session_id=None if outer is None else outer.session_id,
            imsi=str(imsi),
            apn=None if outer is None else outer.apn,
            step=AttachStep.CHALLENGE if command == MAR else None,
        )
