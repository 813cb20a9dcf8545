"""The questions of SWm sessions, carried to the HSS and answered: every one of them, whatever happens there."""

from __future__ import annotations

import logging

from aaa.authorization import backend_refusal, hss_refusal
from aaa.events import (
    ContextIssued,
    ContextRequested,
    DeregistrationRequested,
    Question,
    RegistrationRequested,
    TemporaryQuestion,
    UserDataRequested,
    VectorRequested,
)
from aaa.hss.in_process import Bridge
from aaa.hss.port import SERVED, HomeSubscriberServer, HssRefusal, SubscriberProfile
from aaa.server import SwmServer
from aaa.temporary import TemporaryIdentities
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.errors import AuthenticationError, StackError

_log = logging.getLogger(__name__)

_NOT_HERE = frozenset(
    {
        Result.of(ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_NOT_REGISTERED),
        Result.of(ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED),
    }
)


async def answer(question: Question, hss: HomeSubscriberServer, server: SwmServer) -> None:
    """Ask the HSS; whatever it raises on purpose ends the attach, not the node. Runs in a task of its own."""
    SERVED.set(question.session_id)
    try:
        match question:
            case VectorRequested():
                server.vector_answered(question, await hss.authentication_vector(question.request))
            case RegistrationRequested():
                server.profile_answered(question, await hss.register(question.imsi, imei=question.imei))
            case UserDataRequested():
                server.profile_answered(question, await _user_data(question, hss))
    except AuthenticationError as error:
        assert isinstance(question, VectorRequested)
        server.vector_refused(question, str(error))
    except HssRefusal as error:
        server.refused(question, hss_refusal(error))
    except StackError as error:
        _log.error("session %s: %s", question.session_id, error)
        server.refused(question, backend_refusal(str(error)))
    except Exception:  # noqa: BLE001 - top loop of a question: a defect must not end the node
        _log.exception("session %s: the HSS failed", question.session_id)
        server.refused(question, backend_refusal("the server failed; see its log"))


async def answer_temporary(
    question: TemporaryQuestion, identities: TemporaryIdentities | None, bridge: Bridge | None, server: SwmServer
) -> None:
    """Ask the store of re-authentication contexts; one that fails costs a full authentication and nothing else."""
    context: ReauthenticationContext | None = None
    try:
        if identities is not None and bridge is not None:
            match question:
                case ContextRequested(imsi=imsi, username=username):
                    context = await bridge.run(lambda: identities.take(imsi, username))
                case ContextIssued(context=issued):
                    await bridge.run(lambda: identities.keep(issued))
    except StackError as error:
        _log.error("session %s: %s", question.session_id, error)
    except Exception:  # noqa: BLE001 - top loop, as above
        _log.exception("session %s: the store of re-authentication contexts failed", question.session_id)
    if isinstance(question, ContextRequested):
        server.context_answered(question, context)
    else:
        server.context_kept(question)


async def deregister(request: DeregistrationRequested, hss: HomeSubscriberServer) -> None:
    """Tell the HSS that this server has no session of a user any more; nobody waits for what it says."""
    try:
        await hss.deregister(request.imsi, request.why)
    except HssRefusal as error:  # it knew before us: it ended the registration itself, or another server has it
        _log.info("subscriber %s: the HSS keeps no registration here: %s", request.imsi, error)
    except StackError as error:
        _log.error("subscriber %s could not be deregistered: %s", request.imsi, error)
    except Exception:  # noqa: BLE001 - top loop, as above
        _log.exception("subscriber %s could not be deregistered", request.imsi)


async def _user_data(question: UserDataRequested, hss: HomeSubscriberServer) -> SubscriberProfile:
    """The profile; an HSS that lost the registration, ended it or gave it away a moment ago, is asked for it anew."""
    try:
        return await hss.user_data(question.imsi, imei=question.imei)
    except HssRefusal as error:
        if error.result not in _NOT_HERE:
            raise
        return await hss.register(question.imsi, imei=question.imei)
