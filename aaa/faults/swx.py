"""The wrapper around an HSS's handlers on SWx: what ``aaa.faults.hss`` does at the other end, for any AAA server."""

from __future__ import annotations

from dataclasses import replace

from aaa.faults.handlers import FaultyHandlers, record
from aaa.faults.hss import Algorithms
from aaa.faults.rule import AttachStep, Point
from aaa.faults.spoiling import spoil_vector
from aaa.faults.table import FaultTable, Occasion
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import DiameterMessage
from protocols.diameter.dictionary import CommandCode
from protocols.diameter.swx import AuthItem, Maa, Mar
from protocols.errors import BackendError
from protocols.io.diameter.answers import Answer, AnswerOctets, Handler
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder


class FaultySwx:
    """Wraps MAR's and SAR's handlers: vectors first, then the answer as a whole."""

    def __init__(
        self, handlers: FaultyHandlers, table: FaultTable, recorder: Recorder, *, algorithms: Algorithms | None
    ) -> None:
        self._handlers = handlers
        self._table = table
        self._recorder = recorder
        self._algorithms = algorithms

    def wrap(self, handler: Handler) -> Handler:
        """``handler`` under the rules."""

        async def wrapped(request: DiameterMessage) -> Answer:
            answer = await handler(request)
            if not self._table or request.command != CommandCode.MULTIMEDIA_AUTH or isinstance(answer, AnswerOctets):
                return answer
            return await self._spoilt(request, answer)

        return self._handlers.wrap(wrapped)

    async def _spoilt(self, request: DiameterMessage, answer: DiameterMessage) -> DiameterMessage:
        mar, maa = Mar.from_message(request), Maa.from_message(answer)
        if not maa.items or mar.resynchronisation is not None:
            return answer
        occasion = Occasion(
            commands=(request.name,),
            session_id=mar.session_id,
            imsi=mar.user_name,
            step=AttachStep.CHALLENGE,
        )
        fault = self._table.decide(occasion, Point.VECTOR)
        if fault is None:
            return answer
        algorithm = None
        if fault.action.needs_key:
            algorithm = None if self._algorithms is None else await self._algorithms(Imsi(mar.user_name))
            if algorithm is None:
                raise BackendError(f"fault rule {fault.rule} needs the keys of subscriber {mar.user_name}")
        record(self._recorder, fault, occasion, Point.VECTOR)
        items = tuple(_item(item, spoil_vector(_vector(item), fault.action, algorithm)) for item in maa.items)
        return replace(maa, items=items).to_message(request)


def _vector(item: AuthItem) -> AkaVector:
    return AkaVector(rand=item.rand, autn=item.autn, xres=item.xres, ck=item.ck, ik=item.ik)


def _item(item: AuthItem, vector: AkaVector) -> AuthItem:
    return replace(item, autn=vector.autn, ck=vector.ck, ik=vector.ik)
