"""A gateway's addresses, and the Diameter peers of all nodes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from dashboards.action_schemas import AddressWanted, GatewayAddressList, IpText, PeerList, Preference
from dashboards.calls import ask, shown
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Operator, Reader, Services, ServicesDep
from dashboards.links import WITH_PEERS, NodeLink
from dashboards.peers import peers_of
from dashboards.problems import Problem, documented

router = APIRouter(tags=["gateways"], route_class=ConditionalRoute)

Gateway = Annotated[str, Path(min_length=1, max_length=64, description="its name under nodes", examples=["epdg"])]
Address = Annotated[IpText, Path(description="one of the gateway's")]
_READING = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_ACTING = (*_READING, HTTPStatus.CONFLICT)


@router.get("/gateways/{node}/addresses", dependencies=[Reader], responses=documented(*_READING))
async def list_addresses(given: ServicesDep, node: Gateway) -> GatewayAddressList:
    """The addresses at which the gateway serves UEs, and whether they are there."""
    return await _listed(_gateway(given, node))


@router.post("/gateways/{node}/addresses", dependencies=[Operator], responses=documented(*_ACTING))
async def add_address(given: ServicesDep, node: Gateway, wanted: AddressWanted) -> GatewayAddressList:
    """Serve UEs at another address of the gateway's machine, or again at one that was withdrawn; UEs are told."""
    link = _gateway(given, node)
    known = {each.address: each for each in (await _listed(link)).addresses}
    withdrawn = wanted.address in known and not known[wanted.address].present
    method = "addresses.restore" if withdrawn else "addresses.add"
    return shown(link, GatewayAddressList, await ask(link, method, address=wanted.address))


@router.delete("/gateways/{node}/addresses/{address}", dependencies=[Operator], responses=documented(*_ACTING))
async def remove_address(
    given: ServicesDep,
    node: Gateway,
    address: Address,
    silently: Annotated[bool, Query(description="of a configured address: UEs have to find out by themselves")] = False,
) -> GatewayAddressList:
    """Serve UEs there no more: what was added goes, what is configured is withdrawn; UEs are told (RFC 4555 §3.6)."""
    link = _gateway(given, node)
    known = {each.address: each for each in (await _listed(link)).addresses}
    if address in known and not known[address].configured:
        answer = await ask(link, "addresses.remove", address=address)
    else:
        answer = await ask(link, "addresses.withdraw", address=address, silently=silently)
    return shown(link, GatewayAddressList, answer)


@router.post("/gateways/{node}/addresses/{address}/prefer", dependencies=[Operator], responses=documented(*_ACTING))
async def prefer_address(
    given: ServicesDep, node: Gateway, address: Address, wanted: Preference | None = None
) -> GatewayAddressList:
    """Ask the UE of one session, or all UEs, to use this address."""
    link = _gateway(given, node)
    identifier = None if wanted is None else wanted.id
    params = {} if identifier is None else {"id": identifier}
    return shown(link, GatewayAddressList, await ask(link, "addresses.prefer", address=address, **params))


@router.get("/peers", dependencies=[Reader], responses=documented(HTTPStatus.UNAUTHORIZED))
async def list_peers(given: ServicesDep) -> PeerList:
    """The Diameter peers of gateways, AAA servers and HSSs: state, watchdog, what was sent and received."""
    links = [link for link in given.fleet.links if link.kind in WITH_PEERS]
    return PeerList(peers=peers_of(links), unreachable=[link.name for link in links if not link.reachable])


async def _listed(link: NodeLink) -> GatewayAddressList:
    return shown(link, GatewayAddressList, await ask(link, "addresses.list"))


def _gateway(given: Services, name: str) -> NodeLink:
    for link in given.fleet.gateways:
        if link.name == name:
            return link
    known = ", ".join(link.name for link in given.fleet.gateways) or "none"
    raise Problem(HTTPStatus.NOT_FOUND, "not-found", f"There is no gateway {name}; configured under nodes: {known}.")
