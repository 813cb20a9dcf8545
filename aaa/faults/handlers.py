"""The wrapper around the node's Diameter handlers: an answer that is ready is given to the fault rules first.

::

    request  -->  the server's own handler  -->  its answer  -->  a rule for it?  -->  what is sent

The server has done its part when a rule takes hold, and does not know of it. Only a session that it granted
and that the gateway is told is refused must not stay: ``forsake`` ends it as the gateway's STR would.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from aaa.faults.rule import AttachStep, Point
from aaa.faults.spoiling import has_eap, has_mac, spoil_answer, spoil_octets, step_of
from aaa.faults.table import Fault, FaultTable, Occasion
from protocols.diameter.codec import DiameterMessage, RequestError, Result, encode_message
from protocols.diameter.delivery import bound_to
from protocols.diameter.dictionary import CommandCode
from protocols.errors import DecodeError
from protocols.io.diameter.answers import Answer, AnswerOctets, Handler
from protocols.threegpp.identity import Imsi, Nai
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

Sleep = Callable[[float], Awaitable[None]]
SessionLookup = Callable[[str], Mapping[str, JsonValue] | None]
Forsake = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class InHand:
    """The request that is being handled, for whoever is asked in its course (the HSS port)."""

    command: str
    session_id: str | None
    imsi: str | None
    apn: str | None


in_hand: ContextVar[InHand | None] = ContextVar("in_hand", default=None)
"""Set while a request is handled; the questions it causes are asked in tasks that inherit it."""


class FaultyHandlers:
    """Wraps handlers; every fault that is applied is an event in the trace."""

    def __init__(
        self,
        table: FaultTable,
        recorder: Recorder,
        *,
        session: SessionLookup,
        forsake: Forsake,
        sleep: Sleep,
    ) -> None:
        """``session`` is what the server knows of a Session-Id, ``forsake`` ends one after a faked refusal."""
        self._table = table
        self._recorder = recorder
        self._session = session
        self._forsake = forsake
        self._sleep = sleep
        self._sequence = 0

    def wrap(self, handler: Handler) -> Handler:
        """``handler`` under the rules; without any it is called and nothing else happens."""

        async def wrapped(request: DiameterMessage) -> Answer:
            if not self._table:
                return await handler(request)
            before = self._known(request)
            token = in_hand.set(before)
            try:
                answer = await handler(request)
            finally:
                in_hand.reset(token)
            if isinstance(answer, AnswerOctets):
                return answer
            known = self._known(request)
            is_eap = request.command == CommandCode.DIAMETER_EAP
            occasion = Occasion(
                commands=(known.command,),
                session_id=known.session_id,
                imsi=known.imsi or before.imsi,
                apn=known.apn or before.apn,
                step=step_of(answer) if is_eap else None,
                has_eap=is_eap and has_eap(answer),
                has_mac=is_eap and has_mac(answer),
            )
            fault = self._table.decide(occasion, Point.ANSWER)
            return answer if fault is None else await self._apply(request, answer, fault, occasion)

        return wrapped

    async def _apply(
        self, request: DiameterMessage, answer: DiameterMessage, fault: Fault, occasion: Occasion
    ) -> Answer:
        action = fault.action
        record(self._recorder, fault, occasion, Point.ANSWER)
        self._sequence += 1
        spoiled = spoil_answer(request, answer, action, sequence=self._sequence)
        if action.result is not None and occasion.step is AttachStep.FINAL and _is_success(answer):
            self._forsake(occasion.session_id or "")
        if action.delay is not None:
            await self._sleep(action.delay)
        if not (action.silence or action.duplicate or action.truncate):
            return spoiled
        return AnswerOctets(spoil_octets(encode_message(bound_to(request, spoiled)), action))

    def _known(self, request: DiameterMessage) -> InHand:
        """Who and what a request is about, as far as it says and the server knows the session."""
        session_id = _text(request, "Session-Id")
        session = None if session_id is None else self._session(session_id)
        imsi, apn = (None, None) if session is None else (session.get("imsi"), session.get("apn"))
        return InHand(
            command=request.name,
            session_id=session_id,
            imsi=imsi if isinstance(imsi, str) else _imsi(_text(request, "User-Name")),
            apn=apn if isinstance(apn, str) else _text(request, "Service-Selection"),
        )


def record(recorder: Recorder, fault: Fault, occasion: Occasion, point: Point) -> None:
    """The event that tells a reader of the trace that what follows is wanted."""
    done = fault.action.described(point)
    who = f"subscriber {occasion.imsi}" if occasion.imsi is not None else "an unknown subscriber"
    recorder.event(
        "fault-applied",
        f"Fault rule {fault.rule}: {done}, for {who}, attempt {fault.attempt}.",
        {
            "rule": fault.rule,
            "action": done,
            "result": None if fault.action.result is None or point is Point.VECTOR else str(fault.action.result),
            "command": occasion.commands[0],
            "imsi": occasion.imsi,
            "attempt": fault.attempt,
        },
        occasion.session_id,
    )


def _is_success(answer: DiameterMessage) -> bool:
    try:
        return Result.from_message(answer).is_success
    except DecodeError:
        return False


def _text(message: DiameterMessage, name: str) -> str | None:
    try:
        return message.text(name)
    except RequestError:  # the handler answers what is wrong with it
        return None


def _imsi(user_name: str | None) -> str | None:
    """The IMSI in a User-Name: digits (SWx) or a permanent NAI (SWm)."""
    if user_name is None:
        return None
    try:
        return str(Imsi(user_name))
    except ValueError:
        pass
    try:
        imsi = Nai.parse(user_name).imsi
    except ValueError:
        return None
    return None if imsi is None else str(imsi)
