"""Subscribers of an HSS: list, read, create, update, delete, import."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from dashboards.calls import NodeName, ask, server, shown
from dashboards.deps import Operator, Reader, ServicesDep
from dashboards.problems import documented
from dashboards.subscriber_schemas import (
    IMSI_PATTERN,
    Imported,
    ImportWanted,
    SubscriberChanged,
    SubscriberChanges,
    SubscriberPage,
    SubscriberRemoved,
    SubscriberView,
    SubscriberWanted,
)

PAGE = 50
PAGE_LIMIT = 500

router = APIRouter(prefix="/subscribers", tags=["subscribers"])

ImsiPath = Annotated[str, Path(pattern=IMSI_PATTERN)]
_PROBLEMS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@router.get("", dependencies=[Reader], responses=documented(*_PROBLEMS))
async def list_subscribers(
    given: ServicesDep,
    imsi: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$", description="how the IMSI begins")] = None,
    apn: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
    enabled: bool | None = None,
    text: Annotated[
        str | None, Query(min_length=1, max_length=100, description="in IMSI, MSISDN, IMEI or an APN's name")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="entries on a page")] = PAGE,
    cursor: Annotated[str | None, Query(max_length=15, description="`next` of the page before")] = None,
    node: NodeName = None,
) -> SubscriberPage:
    """Subscribers by ascending IMSI, without keys."""
    link = server(given, node)
    answer = await ask(
        link, "subscribers.list", imsi=imsi, apn=apn, enabled=enabled, text=text, limit=limit, cursor=cursor
    )
    return shown(link, SubscriberPage, answer)


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    dependencies=[Operator],
    responses=documented(*_PROBLEMS, HTTPStatus.CONFLICT),
)
async def add_subscriber(given: ServicesDep, subscriber: SubscriberWanted, node: NodeName = None) -> SubscriberView:
    """Provision one."""
    link = server(given, node)
    document = subscriber.model_dump(mode="json", exclude_none=True)
    return shown(link, SubscriberView, await ask(link, "subscribers.add", subscriber=document))


@router.post("/import", dependencies=[Operator], responses=documented(*_PROBLEMS, HTTPStatus.CONFLICT))
async def import_subscribers(given: ServicesDep, wanted: ImportWanted, node: NodeName = None) -> Imported:
    """Provision up to 1000, all or none; more in further requests."""
    link = server(given, node)
    answer = await ask(link, "subscribers.import", **wanted.model_dump(mode="json", exclude_none=True))
    return shown(link, Imported, answer)


@router.get("/{imsi}", dependencies=[Reader], responses=documented(*_PROBLEMS))
async def get_subscriber(
    request: Request,
    given: ServicesDep,
    imsi: ImsiPath,
    secrets: Annotated[bool, Query(description="with K, OP and OPc; needs the token")] = False,
    node: NodeName = None,
) -> SubscriberView:
    """One subscriber."""
    if secrets:
        given.security.check_operator(request)
    link = server(given, node)
    return shown(link, SubscriberView, await ask(link, "subscribers.get", imsi=imsi, secrets=secrets))


@router.patch("/{imsi}", dependencies=[Operator], responses=documented(*_PROBLEMS, HTTPStatus.CONFLICT))
async def update_subscriber(
    given: ServicesDep, imsi: ImsiPath, changes: SubscriberChanges, node: NodeName = None
) -> SubscriberChanged:
    """Change fields. Where the user is attached, the change reaches its gateway: PPR, RAR, or RTR, ASR."""
    link = server(given, node)
    document = changes.model_dump(mode="json", exclude_unset=True)
    return shown(link, SubscriberChanged, await ask(link, "subscribers.update", imsi=imsi, changes=document))


@router.delete("/{imsi}", dependencies=[Operator], responses=documented(*_PROBLEMS))
async def remove_subscriber(given: ServicesDep, imsi: ImsiPath, node: NodeName = None) -> SubscriberRemoved:
    """Forget one; where the user is attached, its sessions end."""
    link = server(given, node)
    return shown(link, SubscriberRemoved, await ask(link, "subscribers.remove", imsi=imsi))
