"""Fault rules of an AAA server: list, add, remove."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path

from dashboards.aaa_schemas import FaultRules, FaultRuleView, FaultRuleWanted, FaultsCleared
from dashboards.calls import NodeName, ask, server, shown
from dashboards.deps import Operator, Reader, ServicesDep
from dashboards.problems import documented

router = APIRouter(prefix="/faults", tags=["faults"])

RuleName = Annotated[str, Path(min_length=1, max_length=64, description="the rule's name")]
_PROBLEMS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@router.get("", dependencies=[Reader], response_model_exclude_defaults=True, responses=documented(*_PROBLEMS))
async def list_faults(given: ServicesDep, node: NodeName = None) -> FaultRules:
    """The rules, in the order in which they are asked; the first that is for an answer decides."""
    link = server(given, node)
    return shown(link, FaultRules, await ask(link, "faults.list"))


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    dependencies=[Operator],
    response_model_exclude_defaults=True,
    responses=documented(*_PROBLEMS, HTTPStatus.CONFLICT),
)
async def add_fault(given: ServicesDep, rule: FaultRuleWanted, node: NodeName = None) -> FaultRuleView:
    """Add a rule behind the others; it is gone when the node ends."""
    link = server(given, node)
    wanted = rule.model_dump(mode="json", exclude_none=True)
    return shown(link, FaultRuleView, await ask(link, "faults.add", rule=wanted))


@router.delete("", dependencies=[Operator], responses=documented(*_PROBLEMS))
async def clear_faults(given: ServicesDep, node: NodeName = None) -> FaultsCleared:
    """Remove every rule, those of the configuration too."""
    link = server(given, node)
    return shown(link, FaultsCleared, await ask(link, "faults.clear"))


@router.delete(
    "/{name}", dependencies=[Operator], response_model_exclude_defaults=True, responses=documented(*_PROBLEMS)
)
async def remove_fault(given: ServicesDep, name: RuleName, node: NodeName = None) -> FaultRuleView:
    """Remove one rule; what it was and did."""
    link = server(given, node)
    return shown(link, FaultRuleView, await ask(link, "faults.remove", name=name))
