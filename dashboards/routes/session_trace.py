"""What the nodes recorded of a session: its ladder, its messages, and why it failed."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from dashboards import ladder, session_pages
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Reader, ServicesDep
from dashboards.explanation_schemas import Explanation, FindingView
from dashboards.problems import Problem, documented
from dashboards.session_lookup import PAGE, Cursor, Identifier, Limit, selection
from dashboards.trace_schemas import Ladder, LadderEntry, MessagePage, MessageView, TraceName
from protocols.trace.explanation.cause import main_finding
from protocols.trace.records import Kind, TraceRecord

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=ConditionalRoute)

MessageId = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[0-9]{1,15}$",
        description="node and record number",
        examples=["epdg:1"],
    ),
]
_PROBLEMS = documented(
    HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
)


@router.get("/{identifier}/explanation", dependencies=[Reader], responses=_PROBLEMS)
async def get_explanation(given: ServicesDep, identifier: Identifier) -> Explanation:
    """Why the session failed, or what was out of the ordinary, from what all nodes recorded.

    ``identifier`` may be anything that means one session: the gateway's, an IKE SPI, a Session-Id, a UE's name.
    """
    found = await given.explanations.of(await selection(given, identifier))
    main = main_finding(found)
    return Explanation(
        session=identifier,
        sentence=None if main is None else main.sentence,
        findings=[FindingView.model_validate(finding.to_json()) for finding in found],
        silent=given.fleet.silent,
    )


@router.get("/{identifier}/ladder", dependencies=[Reader], responses=_PROBLEMS)
async def get_ladder(given: ServicesDep, identifier: Identifier) -> Ladder:
    """The messages and events of one session, merged from what all nodes recorded."""
    entries, names, left_out = ladder.build(await selection(given, identifier), now=time.time())
    columns = ["UE", "ePDG", "AAA"]
    if any("HSS" in (entry.source, entry.target) for entry in entries):
        columns.append("HSS")
    return Ladder(
        session=identifier,
        columns=columns,
        entries=[LadderEntry.model_validate(entry.to_json()) for entry in entries],
        names=[TraceName(node=node, session=name) for node, name in names],
        left_out=left_out,
        silent=given.fleet.silent,
    )


@router.get("/{identifier}/messages", dependencies=[Reader], responses=_PROBLEMS)
async def get_messages(
    given: ServicesDep,
    identifier: Identifier,
    node: Annotated[str | None, Query(max_length=64, description="only as this node saw them")] = None,
    protocol: Annotated[str | None, Query(max_length=32, description="ikev2, diameter or eap")] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> MessagePage:
    """The records of a session's messages, oldest first, each as its node saw it, without payloads."""
    found = [
        (record.wall, source.name, record)
        for source, record in (await selection(given, identifier)).records()
        if record.kind is Kind.MESSAGE
        and (node is None or source.name == node)
        and (protocol is None or record.body.get("protocol") == protocol)
    ]
    found.sort(key=lambda item: (item[0], item[1], item[2].sequence))
    after = _decode_place(cursor)
    rest = [item for item in found if after is None or (item[0], item[1], item[2].sequence) > after]
    shown = rest[:limit]
    return MessagePage(
        messages=[_view(record) for _, _, record in shown],
        next=session_pages.encode([shown[-1][0], shown[-1][1], shown[-1][2].sequence]) if len(rest) > limit else None,
        total=len(found),
    )


@router.get("/{identifier}/messages/{message}", dependencies=[Reader], responses=_PROBLEMS)
async def get_message(given: ServicesDep, identifier: Identifier, message: MessageId) -> MessageView:
    """One message as its node saw it; of IKE with every payload, decoded and its octets, in ``detail.payloads``."""
    node, _, sequence = message.rpartition(":")
    record = (await selection(given, identifier)).find(node, int(sequence))
    if record is None or record.kind is not Kind.MESSAGE:
        detail = f"There is no message {message} of session {identifier}, or it is no longer kept."
        raise Problem(HTTPStatus.NOT_FOUND, "not-found", detail)
    return _view(record)


def _view(record: TraceRecord) -> MessageView:
    return MessageView(
        id=f"{record.node}:{record.sequence}",
        node=record.node,
        sequence=record.sequence,
        wall=record.wall,
        session=record.session,
        body=record.body,
    )


def _decode_place(cursor: str | None) -> tuple[float, str, int] | None:
    if cursor is None:
        return None
    match session_pages.decode(cursor):
        case [float() | int() as wall, str(name), int(sequence)]:
            return float(wall), name, sequence
    raise session_pages.bad_cursor()
