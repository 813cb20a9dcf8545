"""The web application: routes, problem details, and what every answer carries for safety."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboards import problems
from dashboards.config import DashboardsConfig
from dashboards.deps import Operator, Services
from dashboards.links import Fleet
from dashboards.problems import PROBLEM_SCHEMA, problem_response
from dashboards.routes import aaa_sessions, events, faults, identity, metrics, nodes, pages, runs, sessions, subscribers
from dashboards.runs import Runs
from dashboards.security import Security
from dashboards.stream import EventHub

API = "/api/v1"
MODULES = (sessions, subscribers, aaa_sessions, faults, nodes, events, runs, identity)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Swagger UI writes style elements of its own
_DOCS_POLICY = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


class Guard:
    """Refuses foreign host names; adds the security fields to every answer. Plain ASGI: streams pass."""

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self._app = app
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                policy = _DOCS_POLICY if scope["path"] == "/docs" else _POLICY
                headers.setdefault("Content-Security-Policy", policy)
                headers.setdefault("Cache-Control", _cache_control(scope["path"]))
            await send(message)

        host = Headers(scope=scope).get("host", "")
        if not self._security.accepts_host(host):
            refusal = problem_response(
                HTTPStatus.MISDIRECTED_REQUEST,
                "foreign-host",
                f"This server is not {host}. A DNS name of it has to be listed under hosts.",
                instance=scope["path"],
            )
            await refusal(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def _cache_control(path: str) -> str:
    return "no-cache" if path.startswith("/static/") else "no-store"


def _require_bearer(schema: dict[str, Any]) -> None:
    """Say in the description which operations need the token: those that ``Operator`` guards."""
    for module in MODULES:
        for route in module.router.routes:
            if isinstance(route, APIRoute) and Operator in route.dependencies:
                for method in route.methods or ():
                    schema["paths"][API + route.path][method.lower()]["security"] = [{"bearer": []}]


def create_app(config: DashboardsConfig, token: str) -> FastAPI:
    """The application for a validated configuration; ``token`` is what operators sign in with."""
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
            "listens on loopback; what changes state needs `Authorization: Bearer <token>` or the cookie of "
            "the sign-in link. Errors are problem details (RFC 9457)."
        ),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.services = Services(config=config, hub=hub, fleet=fleet, security=security, runs=Runs(config.results))
    app.add_middleware(Guard, security=security)
    problems.install(app)
    for module in MODULES:
        app.include_router(module.router, prefix=API)
    app.include_router(metrics.router)
    pages.install(app)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = schema.setdefault("components", {})
            described = components.setdefault("schemas", {})
            described["Problem"] = PROBLEM_SCHEMA
            for unused in ("HTTPValidationError", "ValidationError"):
                described.pop(unused, None)
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            _require_bearer(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    setattr(app, "openapi", openapi)  # noqa: B010 - FastAPI's documented way to extend the description
    return app
