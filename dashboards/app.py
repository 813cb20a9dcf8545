"""The web application: routes, and what stands before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from dashboards import problems
from dashboards.audit import Audit, AuditLog
from dashboards.config import DashboardsConfig
from dashboards.deps import Services
from dashboards.description import describe
from dashboards.evidence import Evidence
from dashboards.explaining import Explanations
from dashboards.guard import Guard
from dashboards.links import Fleet
from dashboards.routes import (
    aaa_sessions,
    audit,
    events,
    evidence,
    explanations,
    faults,
    gateways,
    health,
    identity,
    laboratory,
    metrics,
    nodes,
    overview,
    pages,
    runs,
    session_actions,
    session_trace,
    sessions,
    subscribers,
    ues,
)
from dashboards.runs import Runs
from dashboards.security import Security
from dashboards.stream import EventHub

API = "/api/v1"
MODULES = (
    overview,
    sessions,
    session_actions,
    session_trace,
    evidence,
    gateways,
    explanations,
    ues,
    subscribers,
    aaa_sessions,
    faults,
    nodes,
    events,
    runs,
    laboratory,
    identity,
    audit,
)


def create_app(config: DashboardsConfig, token: str) -> FastAPI:
    """The application for a validated configuration; ``token`` is the operator's beside those of the file."""
    hub = EventHub(ring=config.event_ring)
    security = Security(config, token)
    fleet = Fleet(config, hub)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(fleet.run())
        try:
            yield
        finally:
            hub.close()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    app = FastAPI(
        title="ePDG dashboard",
        version=metadata.version("epdg-emulator"),
        description=(
            "Sessions, ladders and health of an ePDG and its neighbours. Reading is open while the server "
            "listens on loopback and `require_sign_in` is off; what changes state needs `Authorization: Bearer "
            "<token>` of an operator, or the cookie that a token was exchanged for. Errors are problem details "
            "(RFC 9457)."
        ),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,  # the names that a generated client has
    )
    log = AuditLog(config.audit_log, octets=config.audit_octets)
    app.state.services = Services(
        config=config,
        hub=hub,
        fleet=fleet,
        security=security,
        runs=Runs(config.results),
        audit=log,
        explanations=Explanations(),
        evidence=Evidence(),
    )
    app.state.routers = [*((API, module.router) for module in MODULES), ("", health.router)]
    # the last one added is the first one asked
    app.add_middleware(Audit, log=log, security=security)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST", "PATCH", "PUT", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "If-None-Match", "Last-Event-ID"),
            expose_headers=("ETag", "Retry-After"),
        )
    app.add_middleware(Guard, security=security)
    problems.install(app)
    for module in MODULES:
        app.include_router(module.router, prefix=API)
    app.include_router(metrics.router)
    app.include_router(health.router)
    pages.install(app)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app, app.state.routers)
        return app.openapi_schema

    setattr(app, "openapi", openapi)  # noqa: B010 - FastAPI's documented way to extend the description
    return app
