"""What an operator has a gateway do with one session; a refusal is the gateway's own sentence."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query
from pydantic import BaseModel

from dashboards.action_schemas import (
    Answered,
    Begun,
    ChildRekey,
    ChildRekeyBegun,
    DetachCause,
    Question,
    Reauthentication,
    Redirected,
    Redirection,
    Restoration,
)
from dashboards.calls import ask, carry_out, shown
from dashboards.deps import Operator, Services, ServicesDep
from dashboards.problems import documented
from dashboards.schemas import Detached
from dashboards.session_lookup import Identifier, find_session
from protocols.trace.records import JsonValue

BegunT = TypeVar("BegunT", bound=Begun)

router = APIRouter(prefix="/sessions", tags=["sessions"])

_PROBLEMS = documented(
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@router.delete("/{identifier}", status_code=HTTPStatus.ACCEPTED, dependencies=[Operator], responses=_PROBLEMS)
async def detach_session(
    given: ServicesDep,
    identifier: Identifier,
    cause: Annotated[
        DetachCause, Query(description="`reactivate`: the UE is told to come again (TS 24.302 §8.1.2.3)")
    ] = "operator",
) -> Detached:
    """Detach: the gateway deletes the SAs towards the UE and ends the Diameter session."""
    link, _ = await find_session(given, identifier)
    await ask(link, "sessions.detach", id=identifier, cause=cause)
    return Detached(id=identifier, gateway=link.name)


@router.post("/{identifier}/rekey-ike", status_code=HTTPStatus.ACCEPTED, dependencies=[Operator], responses=_PROBLEMS)
async def rekey_ike(given: ServicesDep, identifier: Identifier) -> Begun:
    """Rekey the IKE SA (RFC 7296 §1.3.2); answered once it has begun."""
    return await _begun(given, Begun, "sessions.rekey-ike", identifier)


@router.post("/{identifier}/rekey-child", status_code=HTTPStatus.ACCEPTED, dependencies=[Operator], responses=_PROBLEMS)
async def rekey_child(given: ServicesDep, identifier: Identifier, wanted: ChildRekey | None = None) -> ChildRekeyBegun:
    """Rekey one child SA or all (RFC 7296 §1.3.3); answered once it has begun."""
    return await _begun(given, ChildRekeyBegun, "sessions.rekey-child", identifier, wanted)


@router.post("/{identifier}/liveness", dependencies=[Operator], responses=_PROBLEMS)
async def liveness(given: ServicesDep, identifier: Identifier, wanted: Question | None = None) -> Answered:
    """Ask the UE whether it lives (RFC 7296 §2.4); answered once it has, or ``interval`` is over."""
    return await _asked(given, "sessions.liveness", identifier, wanted)


@router.post("/{identifier}/check-path", dependencies=[Operator], responses=_PROBLEMS)
async def check_path(given: ServicesDep, identifier: Identifier, wanted: Question | None = None) -> Answered:
    """Have the UE prove where it is (RFC 4555 §3.7); 409 during a check or a move, and without MOBIKE."""
    return await _asked(given, "sessions.check-path", identifier, wanted)


@router.post("/{identifier}/redirect", status_code=HTTPStatus.ACCEPTED, dependencies=[Operator], responses=_PROBLEMS)
async def redirect(given: ServicesDep, identifier: Identifier, wanted: Redirection) -> Redirected:
    """Send the UE to another gateway (RFC 5685 §5); 409 when it did not announce that it can be sent."""
    return await _begun(given, Redirected, "sessions.redirect", identifier, wanted)


@router.post(
    "/{identifier}/restore-pcscf", status_code=HTTPStatus.ACCEPTED, dependencies=[Operator], responses=_PROBLEMS
)
async def restore_p_cscf(given: ServicesDep, identifier: Identifier, wanted: Restoration) -> Begun:
    """Tell the UE of other P-CSCFs (TS 23.380 §5.6.5); 409 when it did not announce that it takes them."""
    return await _begun(given, Begun, "sessions.restore-pcscf", identifier, wanted)


@router.post(
    "/{identifier}/reauthenticate", status_code=HTTPStatus.ACCEPTED, dependencies=[Operator], responses=_PROBLEMS
)
async def reauthenticate(given: ServicesDep, identifier: Identifier, wanted: Reauthentication | None = None) -> Begun:
    """Tell the UE to authenticate anew (RFC 4478 §2)."""
    return await _begun(given, Begun, "sessions.reauthenticate", identifier, wanted)


async def _begun(
    given: Services, model: type[BegunT], method: str, identifier: str, wanted: BaseModel | None = None
) -> BegunT:
    link, _ = await find_session(given, identifier)
    return shown(link, model, await ask(link, method, id=identifier, **_params(wanted)))


async def _asked(given: Services, method: str, identifier: str, wanted: Question | None) -> Answered:
    link, _ = await find_session(given, identifier)
    return shown(link, Answered, await carry_out(link, method, id=identifier, **_params(wanted)))


def _params(wanted: BaseModel | None) -> dict[str, JsonValue]:
    """The members that were given."""
    return {} if wanted is None else wanted.model_dump(mode="json", exclude_none=True)
