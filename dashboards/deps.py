"""What routes are given: the nodes, the event hub, and the checks of who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.requests import HTTPConnection

from dashboards.audit import AuditLog
from dashboards.config import DashboardsConfig
from dashboards.evidence import Evidence
from dashboards.explaining import Explanations
from dashboards.links import Fleet
from dashboards.runs import Runs
from dashboards.security import Security
from dashboards.stream import EventHub


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything one application shares."""

    config: DashboardsConfig
    hub: EventHub
    fleet: Fleet
    security: Security
    runs: Runs
    audit: AuditLog
    explanations: Explanations
    evidence: Evidence


def services(request: HTTPConnection) -> Services:
    """The application's services."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


ServicesDep = Annotated[Services, Depends(services)]


def reader(request: Request, given: ServicesDep) -> None:
    """Refuse who may not read."""
    given.security.check_reader(request)


def operator(request: Request, given: ServicesDep) -> None:
    """Refuse who may not change anything."""
    given.security.check_operator(request)


def signed_in(request: Request, given: ServicesDep) -> None:
    """Refuse who has not signed in."""
    given.security.check_signed_in(request)


Reader = Depends(reader)
SignedIn = Depends(signed_in)
Operator = Depends(operator)
