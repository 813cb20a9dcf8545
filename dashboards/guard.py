"""What stands before every route: foreign host names, sizes of requests, and the fields of every answer for safety."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboards.problems import problem_response
from dashboards.security import Security

BODY_LIMIT = 1_000_000  # octets; a line of the control socket has 1 MiB
TARGET_LIMIT = 8192  # octets of path and query
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Swagger UI writes style elements of its own
_DOCS_POLICY = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
_TOO_LARGE = f"A request's body has at most {BODY_LIMIT} octets."


class Guard:
    """Refuses what is foreign or too large; adds the security fields. Plain ASGI: streams pass."""

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self._app = app
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self._is_own_host(scope):
            await send({"type": "websocket.close"})  # before the handshake: 403
            return
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

        refusal = self._refusal(scope)
        if refusal is not None:
            status, code, detail = refusal
            await problem_response(status, code, detail, instance=scope["path"])(scope, receive, guarded)
            return
        await self._app(scope, _bounded(receive), guarded)

    def _is_own_host(self, scope: Scope) -> bool:
        return self._security.accepts_host(Headers(scope=scope).get("host", ""))

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str, str] | None:
        if not self._is_own_host(scope):
            host = Headers(scope=scope).get("host", "")
            detail = f"This server is not {host}. A DNS name of it has to be listed under hosts."
            return HTTPStatus.MISDIRECTED_REQUEST, "foreign-host", detail
        if len(scope["raw_path"]) + len(scope["query_string"]) > TARGET_LIMIT:
            detail = f"Path and query have at most {TARGET_LIMIT} octets together."
            return HTTPStatus.REQUEST_URI_TOO_LONG, "too-long", detail
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_LIMIT:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", _TOO_LARGE
        return None


def _bounded(receive: Receive) -> Receive:
    """A body that does not say its length is counted."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > BODY_LIMIT:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
        return message

    return counted


def _cache_control(path: str) -> str:
    return "no-cache" if path.startswith("/static/") else "no-store"
