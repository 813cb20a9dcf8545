"""Control methods that ask the UE of one session something and answer once it has, or has not.

::

    SK {}  -->            liveness (RFC 7296 §2.4)          SK {N(COOKIE2)}  -->       the path (RFC 4555 §3.7)
         <--  SK {}                                              <--  SK {N(COOKIE2)}

The request is one like any other of the IKE SA: it waits for those before it, is sent again, and unanswered for good
it ends the session. ``interval`` bounds how long the method waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from epdg.control.which import established_session
from epdg.live import Live
from epdg.sessions import Sessions
from epdg.swu import Swu
from protocols.errors import LocalError
from protocols.ikev2.events import Event, LivenessAnswered, PathValidated
from protocols.ikev2.tasks.informational import Liveness
from protocols.io.control import ControlError, Handler, Params
from protocols.io.parameters import number, unfit
from protocols.path import Path
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

ANSWER_INTERVAL = 10.0  # three retransmissions of the default policy
ANSWER_INTERVAL_MAXIMUM = 50.0  # control clients wait for a minute


class SessionQuestions:
    """Each answer: ``id``, ``answered``, ``seconds`` that it took, ``path`` on which it was asked."""

    def __init__(self, sessions: Sessions, swu: Swu, recorder: Recorder) -> None:
        self._sessions = sessions
        self._swu = swu
        self._recorder = recorder

    def methods(self) -> Mapping[str, Handler]:
        """By name."""
        return {
            "sessions.liveness": self.liveness,
            "sessions.check-path": self.check_path,
        }

    async def liveness(self, params: Params) -> JsonValue:
        """RFC 7296 §2.4: an empty INFORMATIONAL."""
        interval = _interval(params)
        live = established_session(self._sessions, params)
        path, start = live.sa.path, self._swu.now()
        self._swu.initiate(live.sa, Liveness(asked=True))
        event = await live.told(LivenessAnswered, interval)
        return self._outcome(live, "liveness", path, start, event)

    async def check_path(self, params: Params) -> JsonValue:
        """RFC 4555 §3.7: COOKIE2 on the path in use; a check or a move that is under way is ``not-now``."""
        interval = _interval(params)
        live = established_session(self._sessions, params)
        path, start = live.sa.path, self._swu.now()
        try:
            self._swu.check_path(live.sa)
        except LocalError as error:
            raise ControlError("not-now" if live.sa.mobility.negotiated else "not-possible", str(error)) from error
        event = await live.told(PathValidated, interval)
        proved = event if isinstance(event, PathValidated) and event.path == path else None
        return self._outcome(live, "path-check", path, start, proved)

    def _outcome(self, live: Live, what: str, path: Path, start: float, event: Event | None) -> JsonValue:
        seconds = round(self._swu.now() - start, 6)
        session = live.session
        asked = {"liveness": "whether it lives", "path-check": "to prove where it is"}[what]
        said = "answered after" if event is not None else "has not answered for"
        text = f"{session.imsi or session.nai} at {path.remote} was asked {asked} and {said} {seconds:.3f} s."
        data: dict[str, JsonValue] = {"remote": str(path.remote), "seconds": seconds}
        name = f"{what}-{'answered' if event is not None else 'unanswered'}"
        self._recorder.event(name, text, data, session.identifier)
        return {
            "id": session.identifier,
            "answered": event is not None,
            "seconds": seconds,
            "path": {"local": str(path.local), "remote": str(path.remote)},
        }


def _interval(params: Params) -> float:
    expected = f"interval is a number of seconds, above 0 and at most {ANSWER_INTERVAL_MAXIMUM:g}"
    interval = number(params, "interval", expected)
    if interval is None:
        return ANSWER_INTERVAL
    if not 0 < interval <= ANSWER_INTERVAL_MAXIMUM:
        raise unfit(expected)
    return interval
