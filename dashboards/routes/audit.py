"""The audit log, for operators."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from dashboards.deps import Operator, ServicesDep
from dashboards.problems import Problem, documented
from dashboards.schemas import AuditEntry, AuditPage

PAGE = 50
PAGE_LIMIT = 500

router = APIRouter(prefix="/audit", tags=["audit"])


@router.get(
    "",
    dependencies=[Operator],
    responses=documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def list_audit(
    given: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="entries on a page")] = PAGE,
    cursor: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,18}$", description="`next` of the page before", examples=["4711"])
    ] = None,
) -> AuditPage:
    """Every action, done or refused, the last one first."""
    if given.audit.path is None:
        raise Problem(HTTPStatus.NOT_FOUND, "no-audit-log", "There is no audit log: audit_log is not configured.")
    entries, more = given.audit.page(before=None if cursor is None else int(cursor), limit=limit)
    return AuditPage(
        entries=[AuditEntry.model_validate(entry) for entry in entries],
        next=str(entries[-1]["sequence"]) if more else None,
    )
