"""UEs of the emulator: what they are, and what a person or a test bench asks of them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from dashboards.calls import ask, carry_out, shown
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Operator, Reader, Services, ServicesDep
from dashboards.links import NodeLink
from dashboards.problems import Problem, documented
from dashboards.ue_schemas import (
    AccessGained,
    AttachWanted,
    FlowWanted,
    HintWanted,
    MoveWanted,
    OfConnection,
    OpenAccesses,
    PdnMove,
    RekeyChildWanted,
    UeFlow,
    UeFlows,
    UeList,
    UeListed,
    UeManagement,
    UeMoved,
    UeRekeyed,
    UeSession,
    UeView,
)
from protocols.trace.records import JsonValue

FLOW_NUMBER_MAXIMUM = (1 << 53) - 1

router = APIRouter(prefix="/ues", tags=["UEs"], route_class=ConditionalRoute)

Ue = Annotated[str, Path(min_length=1, max_length=64, description="its name under nodes", examples=["ue"])]
Access = Annotated[str, Path(min_length=1, max_length=100, description="name or address", examples=["wifi-b"])]
FlowNumber = Annotated[int, Path(ge=1, le=FLOW_NUMBER_MAXIMUM, description="`id` of the flow", examples=[1])]
_READING = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_ACTING = (*_READING, HTTPStatus.CONFLICT)


@router.get("", dependencies=[Reader], responses=documented(HTTPStatus.UNAUTHORIZED))
async def list_ues(given: ServicesDep) -> UeList:
    """Every configured UE with its connections; one that cannot be asked says why."""
    return UeList(ues=list(await asyncio.gather(*map(_listed, given.fleet.ues))))


@router.get("/{node}", dependencies=[Reader], responses=documented(*_READING))
async def get_ue(given: ServicesDep, node: Ue) -> UeView:
    """One UE: accesses, connections with their SAs, paths and moves, flows."""
    return await _view(_ue(given, node))


# --- its connections ----------------------------------------------------------------------------------


@router.post("/{node}/attach", dependencies=[Operator], responses=documented(*_ACTING))
async def attach(given: ServicesDep, node: Ue, wanted: AttachWanted | None = None) -> UeSession:
    """Attach; answered when the UE is attached, 409 says why it is not."""
    return shown(link := _ue(given, node), UeSession, await _carried_out(link, "ue.attach", wanted))


@router.post("/{node}/move", dependencies=[Operator], responses=documented(*_ACTING))
async def move(given: ServicesDep, node: Ue, wanted: MoveWanted) -> UeMoved:
    """Move to another access (RFC 4555 §3.5); answered when the gateway has agreed."""
    link = _ue(given, node)
    answer = await _carried_out(link, "ue.move", wanted)
    pdns = answer.get("pdns") if isinstance(answer, dict) else None
    outcomes: dict[str, JsonValue] = {}
    for apn, outcome in pdns.items() if isinstance(pdns, dict) else ():
        failed = isinstance(outcome, dict) and "error" in outcome
        outcomes[apn] = shown(link, PdnMove, outcome if failed else {"move": outcome}).model_dump(mode="json")
    return shown(link, UeMoved, {**answer, "pdns": outcomes} if isinstance(answer, dict) else answer)


@router.post("/{node}/detach", dependencies=[Operator], responses=documented(*_ACTING))
async def detach(given: ServicesDep, node: Ue, wanted: OfConnection | None = None) -> UeSession | None:
    """Detach one connection or all; answered when the gateway has answered or is given up."""
    link = _ue(given, node)
    return _session(link, await _carried_out(link, "ue.detach", wanted))


@router.post("/{node}/suspend", dependencies=[Operator], responses=documented(*_ACTING))
async def suspend(given: ServicesDep, node: Ue, wanted: OfConnection | None = None) -> UeSession | None:
    """Close every access: nothing is sent until the UE moves."""
    link = _ue(given, node)
    return _session(link, await _asked(link, "ue.suspend", wanted))


@router.post("/{node}/rekey-ike", dependencies=[Operator], responses=documented(*_ACTING))
async def rekey_ike_of_ue(given: ServicesDep, node: Ue, wanted: OfConnection | None = None) -> UeSession:
    """Begin to rekey the IKE SA (RFC 7296 §1.3.2)."""
    return shown(link := _ue(given, node), UeSession, await _asked(link, "ue.rekey-ike", wanted))


@router.post("/{node}/rekey-child", dependencies=[Operator], responses=documented(*_ACTING))
async def rekey_child_of_ue(given: ServicesDep, node: Ue, wanted: RekeyChildWanted | None = None) -> UeRekeyed:
    """Begin to rekey child SAs (RFC 7296 §1.3.3)."""
    return shown(link := _ue(given, node), UeRekeyed, await _asked(link, "ue.rekey-child", wanted))


@router.post("/{node}/liveness", dependencies=[Operator], responses=documented(*_ACTING))
async def liveness_of_ue(given: ServicesDep, node: Ue, wanted: OfConnection | None = None) -> UeSession:
    """Ask the gateway whether it lives (RFC 7296 §2.4); the ladder shows its answer."""
    return shown(link := _ue(given, node), UeSession, await _asked(link, "ue.liveness", wanted))


# --- its accesses -------------------------------------------------------------------------------------


@router.post("/{node}/accesses/{name}/close", dependencies=[Operator], responses=documented(*_ACTING))
async def close_access(given: ServicesDep, node: Ue, name: Access, wanted: OfConnection | None = None) -> OpenAccesses:
    """Close an access that a connection has kept open after a move."""
    return shown(link := _ue(given, node), OpenAccesses, await _asked(link, "ue.access.close", wanted, name=name))


@router.post("/{node}/accesses/{name}/lost", dependencies=[Operator], responses=documented(*_ACTING))
async def lose_access(given: ServicesDep, node: Ue, name: Access) -> UeManagement:
    """Tell connection management that the access has gone."""
    return shown(link := _ue(given, node), UeManagement, await _asked(link, "ue.access.lost", None, name=name))


@router.post("/{node}/accesses/{name}/gained", dependencies=[Operator], responses=documented(*_ACTING))
async def gain_access(given: ServicesDep, node: Ue, name: Access, wanted: AccessGained | None = None) -> UeManagement:
    """Tell it that the access is there, maybe with another address."""
    return shown(link := _ue(given, node), UeManagement, await _asked(link, "ue.access.gained", wanted, name=name))


@router.post("/{node}/accesses/{name}/hint", dependencies=[Operator], responses=documented(*_ACTING))
async def hint_access(given: ServicesDep, node: Ue, name: Access, wanted: HintWanted) -> UeManagement:
    """Tell it what a lower layer thinks of the access."""
    return shown(link := _ue(given, node), UeManagement, await _asked(link, "ue.access.hint", wanted, name=name))


# --- its traffic --------------------------------------------------------------------------------------


@router.get("/{node}/traffic", dependencies=[Reader], responses=documented(*_READING))
async def list_flows(given: ServicesDep, node: Ue) -> UeFlows:
    """The flows through the tunnel and their scores."""
    link = _ue(given, node)
    answer = await ask(link, "ue.status")
    return shown(link, UeFlows, {"flows": answer.get("traffic")} if isinstance(answer, dict) else answer)


@router.post("/{node}/traffic", status_code=HTTPStatus.CREATED, dependencies=[Operator], responses=documented(*_ACTING))
async def start_flow(given: ServicesDep, node: Ue, wanted: FlowWanted) -> UeFlow:
    """Start a flow: echo requests, a voice call, or records to a TCP echo service."""
    return shown(link := _ue(given, node), UeFlow, await _asked(link, "ue.traffic.start", wanted))


@router.delete("/{node}/traffic/{flow}", dependencies=[Operator], responses=documented(*_ACTING))
async def stop_flow(given: ServicesDep, node: Ue, flow: FlowNumber) -> UeFlow:
    """Stop a flow; its score stays for a while."""
    return shown(link := _ue(given, node), UeFlow, await ask(link, "ue.traffic.stop", id=flow))


def _ue(given: Services, name: str) -> NodeLink:
    for link in given.fleet.ues:
        if link.name == name:
            return link
    known = ", ".join(link.name for link in given.fleet.ues) or "none"
    raise Problem(HTTPStatus.NOT_FOUND, "not-found", f"There is no UE {name}; configured under nodes: {known}.")


async def _asked(link: NodeLink, method: str, wanted: BaseModel | None, **params: JsonValue) -> JsonValue:
    return await ask(link, method, **_params(wanted), **params)


async def _carried_out(link: NodeLink, method: str, wanted: BaseModel | None) -> JsonValue:
    return await carry_out(link, method, **_params(wanted))


def _params(wanted: BaseModel | None) -> dict[str, JsonValue]:
    return {} if wanted is None else wanted.model_dump(mode="json", exclude_none=True)


def _session(link: NodeLink, answer: JsonValue) -> UeSession | None:
    """The first connection as it was; null when it has never been attached, but another one was meant."""
    return None if answer is None else shown(link, UeSession, answer)


async def _view(link: NodeLink) -> UeView:
    node, ue = await asyncio.gather(ask(link, "node.status"), ask(link, "ue.status"))
    if not isinstance(node, dict) or not isinstance(ue, dict):
        return shown(link, UeView, None)
    return shown(link, UeView, {**node, **ue, "node": link.name})


async def _listed(link: NodeLink) -> UeListed:
    try:
        return UeListed(node=link.name, reachable=True, why=None, ue=await _view(link))
    except Problem as problem:
        return UeListed(node=link.name, reachable=False, why=problem.detail, ue=None)
