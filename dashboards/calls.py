"""Asking a node on behalf of a request: which node is meant, and its refusals as problems."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Query
from pydantic import BaseModel, ValidationError

from dashboards.audit import asked
from dashboards.deps import Services
from dashboards.links import NodeLink
from dashboards.problems import Problem
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue

ModelT = TypeVar("ModelT", bound=BaseModel)

NodeName = Annotated[
    str | None,
    Query(max_length=64, description="an AAA server or HSS, by its name under nodes; the first one without it"),
]

_STATUS = {
    "not-found": HTTPStatus.NOT_FOUND,
    "bad-params": HTTPStatus.UNPROCESSABLE_ENTITY,
    "bad-parameter": HTTPStatus.UNPROCESSABLE_ENTITY,
    "refused": HTTPStatus.CONFLICT,
    "unknown-method": HTTPStatus.NOT_FOUND,
    "exists": HTTPStatus.CONFLICT,
    "not-now": HTTPStatus.CONFLICT,
    "not-possible": HTTPStatus.CONFLICT,
    "move-failed": HTTPStatus.CONFLICT,
    "detach-failed": HTTPStatus.CONFLICT,
}


async def ask(link: NodeLink, method: str, **params: JsonValue) -> JsonValue:
    """Call a node; its refusals become problems, and the audit log names it."""
    asked(link.name)
    try:
        return await link.call(method, **params)
    except ControlError as error:
        raise _refusal(link, error) from None


async def carry_out(link: NodeLink, method: str, **params: JsonValue) -> JsonValue:
    """As ``ask``, of a procedure that is answered when its outcome is known."""
    asked(link.name)
    try:
        return await link.carry_out(method, **params)
    except ControlError as error:
        raise _refusal(link, error) from None


def _refusal(link: NodeLink, error: ControlError) -> Problem:
    status = _STATUS.get(error.code, HTTPStatus.BAD_GATEWAY)
    code = error.code if error.code in _STATUS else "node-failed"
    return Problem(status, code, f"{link.name}: {error.message}", node=link.name)


def server(given: Services, name: str | None) -> NodeLink:
    """The AAA server or HSS that a request means."""
    for link in given.fleet.servers:
        if name in (None, link.name):
            return link
    known = ", ".join(link.name for link in given.fleet.servers) or "none"
    wanted = "There is no AAA server" if name is None else f"There is no AAA server {name}"
    raise Problem(HTTPStatus.NOT_FOUND, "not-found", f"{wanted}; configured under nodes: {known}.")


def shown(link: NodeLink, model: type[ModelT], answer: JsonValue) -> ModelT:
    """The answer as the API says it; ``Problem`` 502 when it is something else."""
    try:
        return model.model_validate(answer)
    except ValidationError:
        raise Problem(
            HTTPStatus.BAD_GATEWAY,
            "node-failed",
            f"{link.name} answered in a way this dashboard does not understand.",
            node=link.name,
        ) from None
