"""Which session a control method is about: the one that the parameter ``id`` names."""

from __future__ import annotations

from epdg.live import Live
from epdg.session import SessionState
from epdg.sessions import Sessions
from protocols.io.control import ControlError, Params


def live_session(sessions: Sessions, params: Params) -> Live:
    """One that has not ended; ``not-found``."""
    live = sessions.find(params.get("id"))
    if live is None:
        raise ControlError("not-found", f"no session {params.get('id')}")
    return live


def established_session(sessions: Sessions, params: Params) -> Live:
    """One that is up; ``not-found``, ``not-now``."""
    live = live_session(sessions, params)
    if live.session.state is not SessionState.ESTABLISHED:
        raise ControlError("not-now", f"session {live.session.identifier} is {live.session.state.value}")
    return live
