"""Subscribers of an HSS: list, read, create, update, delete, import."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from starlette.convertors import StringConvertor, register_url_convertor

from dashboards.calls import NodeName, ask, server, shown
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Operator, Reader, ServicesDep
from dashboards.problems import Problem, documented
from dashboards.subscriber_schemas import (
    IMSI_PATTERN,
    ExportPart,
    HssTold,
    Imported,
    ImportWanted,
    RegistrationView,
    SubscriberChanged,
    SubscriberChanges,
    SubscriberPage,
    SubscriberRemoved,
    SubscriberView,
    SubscriberWanted,
)
from protocols.trace.records import JsonValue

PAGE = 50
PAGE_LIMIT = 500
FORMS = {"text/csv": "csv", "application/yaml": "yaml"}
FILE_LIMIT = 900_000  # octets: one request of the control socket
CSV_EXAMPLE = "IMSI,Ki,OPc\n001010000000001,465b5ce8b199b49faa5f0a2ee238a6bc,cd63cb71954a9f4e48a5994e37a02baf\n"
YAML_EXAMPLE = (
    "subscribers:\n  - imsi: 001010000000001\n    k: 465b5ce8b199b49faa5f0a2ee238a6bc\n"
    "    opc: cd63cb71954a9f4e48a5994e37a02baf\n    apns: [{apn: internet, type: ipv4v6}]\n"
)


class _SubscriberConvertor(StringConvertor):
    """Anything but what is a resource of its own."""

    regex = r"(?!(?:import|import-file|export)$)[^/]+"


register_url_convertor("subscriber", _SubscriberConvertor())
router = APIRouter(prefix="/subscribers", tags=["subscribers"], route_class=ConditionalRoute)

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


@router.post(
    "/import-file",
    dependencies=[Operator],
    responses=documented(*_PROBLEMS, HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "text/csv": {"schema": {"type": "string"}, "example": CSV_EXAMPLE},
                "application/yaml": {"schema": {"type": "string"}, "example": YAML_EXAMPLE},
            },
        }
    },
)
async def import_file(
    request: Request,
    given: ServicesDep,
    over: Annotated[bool, Query(description="over subscribers that are there already")] = False,
    apn: Annotated[
        list[str] | None, Query(description="for subscribers whose APNs the file leaves out; the first is the default")
    ] = None,
    node: NodeName = None,
) -> Imported:
    """Provision a file of a SIM vendor (``IMSI,Ki,OPc``) or of the YAML form, all or none; at most 900,000 octets."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in FORMS:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", f"Content-Type is {' or '.join(FORMS)}.")
    octets = bytearray()
    async for piece in request.stream():
        octets += piece
        if len(octets) > FILE_LIMIT:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"A file has at most {FILE_LIMIT} octets.")
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", "The file is not UTF-8 text.") from None
    link = server(given, node)
    defaults: dict[str, JsonValue] = {"apns": [*(apn or ["internet"])]}
    answer = await ask(link, "subscribers.import", text=text, format=FORMS[kind], over=over, defaults=defaults)
    return shown(link, Imported, answer)


@router.get(
    "/export",
    dependencies=[Reader],
    response_class=StreamingResponse,
    responses={
        200: {"content": {kind: {"schema": {"type": "string"}} for kind in FORMS}, "description": "The file."},
        **documented(*_PROBLEMS),
    },
)
async def export_subscribers(
    request: Request,
    given: ServicesDep,
    format: Annotated[Literal["csv", "yaml"], Query(description="of the file")] = "csv",
    imsi: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$", description="how the IMSI begins")] = None,
    secrets: Annotated[bool, Query(description="with K and OPc; needs the token")] = False,
    node: NodeName = None,
) -> StreamingResponse:
    """All subscribers as a file; keys on demand only."""
    if secrets:
        given.security.check_operator(request)
    link = server(given, node)

    async def part(cursor: str | None) -> ExportPart:
        params: dict[str, JsonValue] = {"format": format, "imsi": imsi, "secrets": secrets, "cursor": cursor}
        return shown(link, ExportPart, await ask(link, "subscribers.export", limit=PAGE_LIMIT, **params))

    first = await part(None)  # before the answer begins: a refusal is a problem

    async def parts() -> AsyncIterator[str]:
        held = first
        yield held.text
        while held.next is not None:
            held = await part(held.next)
            yield held.text

    kind = next(kind for kind, name in FORMS.items() if name == format)
    return StreamingResponse(parts(), media_type=kind)


@router.get("/{imsi:subscriber}", dependencies=[Reader], responses=documented(*_PROBLEMS))
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


@router.patch("/{imsi:subscriber}", dependencies=[Operator], responses=documented(*_PROBLEMS, HTTPStatus.CONFLICT))
async def update_subscriber(
    given: ServicesDep, imsi: ImsiPath, changes: SubscriberChanges, node: NodeName = None
) -> SubscriberChanged:
    """Change fields. Where the user is attached, the change reaches its gateway: PPR, RAR, or RTR, ASR."""
    link = server(given, node)
    document = changes.model_dump(mode="json", exclude_unset=True)
    return shown(link, SubscriberChanged, await ask(link, "subscribers.update", imsi=imsi, changes=document))


@router.delete("/{imsi:subscriber}", dependencies=[Operator], responses=documented(*_PROBLEMS))
async def remove_subscriber(given: ServicesDep, imsi: ImsiPath, node: NodeName = None) -> SubscriberRemoved:
    """Forget one; where the user is attached, its sessions end."""
    link = server(given, node)
    return shown(link, SubscriberRemoved, await ask(link, "subscribers.remove", imsi=imsi))


# --- where a subscriber is registered -----------------------------------------------------------------


@router.get("/{imsi:subscriber}/registration", dependencies=[Reader], responses=documented(*_PROBLEMS))
async def get_registration(given: ServicesDep, imsi: ImsiPath, node: NodeName = None) -> RegistrationView:
    """Which AAA server serves the user, and the PDN gateways that it reported."""
    link = server(given, node)
    return shown(link, RegistrationView, await ask(link, "registrations.get", imsi=imsi))


@router.delete("/{imsi:subscriber}/registration", dependencies=[Operator], responses=documented(*_PROBLEMS))
async def terminate_registration(
    given: ServicesDep,
    imsi: ImsiPath,
    reason: Annotated[str | None, Query(min_length=1, max_length=200, description="for people")] = None,
    node: NodeName = None,
) -> HssTold:
    """End it: RTR to the AAA server, which aborts the user's sessions at their gateways."""
    link = server(given, node)
    return shown(link, HssTold, await ask(link, "registrations.terminate", imsi=imsi, reason=reason))


@router.post("/{imsi:subscriber}/push-profile", dependencies=[Operator], responses=documented(*_PROBLEMS))
async def push_profile(given: ServicesDep, imsi: ImsiPath, node: NodeName = None) -> HssTold:
    """Tell the AAA server the profile as it is: PPR, and the gateways are asked to re-authorise."""
    link = server(given, node)
    return shown(link, HssTold, await ask(link, "registrations.push-profile", imsi=imsi))
