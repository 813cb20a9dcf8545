"""Who may do what: tokens with roles, the cookie they are exchanged for, and the guards against other sites.

Reading is open while the server listens on loopback and signing in is not required. Whatever changes state needs an
operator's bearer token, or the cookie together with proof that the request comes from our own page (RFC 6265bis
§8.8: SameSite alone does not separate the ports of one host). A ``Host`` that is a foreign name is refused, so that a
page of another site cannot read through a name it points at this machine.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address

from starlette.requests import HTTPConnection
from starlette.responses import Response

from dashboards.config import DashboardsConfig
from dashboards.problems import Problem, unauthorized
from dashboards.tokens import CONFIGURED, Role, Tokens, digest

COOKIE_LIFETIME = 12 * 3600  # seconds; a working day
COOKIES_KEPT = 256  # signed-in browsers; the oldest is signed out


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: the name of the token, and its role."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class _Visit:
    """A signed-in browser: until when, and by which token."""

    until: float
    sha256: str


class Security:
    """Checks requests; keeps the signed-in browsers in memory only."""

    def __init__(
        self, config: DashboardsConfig, token: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._configured = digest(token)
        self._tokens = Tokens(config.tokens)
        self._open = config.open_to_read
        self._secure = config.tls is not None
        self._hosts = frozenset({"localhost", *(host.lower() for host in config.hosts)})
        self._origins = frozenset(config.cors_origins)
        self._visits: dict[str, _Visit] = {}  # by cookie
        self.cookie_name = f"epdg-dashboard-{config.listen.port}"

    # --- who it is

    def holder(self, token: str) -> Principal | None:
        """Whose token it is; digests are compared in constant time."""
        return self._of(digest(token))

    def principal(self, request: HTTPConnection) -> Principal | None:
        """Who asks, by bearer token or cookie; a wrong bearer token is nobody's."""
        if "authorization" in request.headers:
            return self._bearer(request)
        return self._visitor(request)

    def sign_in(self, response: Response, token: str) -> None:
        """Give the browser a cookie of the token's role; the token itself never goes into one."""
        value = secrets.token_urlsafe(32)
        self._visits[value] = _Visit(self._monotonic() + COOKIE_LIFETIME, digest(token))
        while len(self._visits) > COOKIES_KEPT:
            del self._visits[next(iter(self._visits))]
        response.set_cookie(
            self.cookie_name,
            value,
            max_age=COOKIE_LIFETIME,
            path="/",
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )

    def sign_out(self, request: HTTPConnection, response: Response) -> None:
        """Forget the browser's cookie."""
        self._visits.pop(request.cookies.get(self.cookie_name, ""), None)
        response.delete_cookie(self.cookie_name, path="/", httponly=True, samesite="strict", secure=self._secure)

    # --- what they may

    def check_reader(self, request: HTTPConnection) -> None:
        """Reading: anybody while it is open, else any token or cookie; a wrong bearer token never (RFC 6750 §3.1)."""
        if self.principal(request) is not None:
            return
        if "authorization" in request.headers:
            raise unauthorized("The bearer token is not right.")
        if not self._open:
            raise unauthorized("Reading needs a token on this server: sign in to read.")

    def check_signed_in(self, request: HTTPConnection) -> Principal:
        """Somebody of whichever role: by token, or by the cookie on a request of our own page."""
        found = self.principal(request)
        if found is None and "authorization" in request.headers:
            raise unauthorized("The bearer token is not right.")
        if found is None:
            raise unauthorized("Only somebody who has signed in may change anything.")
        if "authorization" not in request.headers and not self._is_own_page(request):
            raise unauthorized("The cookie counts only for requests of this server's own page.")
        return found

    def check_operator(self, request: HTTPConnection) -> None:
        """Changing state, and reading secrets: operators only; 403 for others."""
        found = self.check_signed_in(request)
        if found.role is not Role.OPERATOR:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "role-needed",
                f"This needs the role {Role.OPERATOR.value}; {found.name} is a {found.role.value}.",
                needed=Role.OPERATOR.value,
                role=found.role.value,
            )

    def accepts_host(self, host: str) -> bool:
        """Whether a ``Host`` field names this server: an address, localhost or a configured name."""
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        else:
            name = name.partition(":")[0]
        if name in self._hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def accepts_origin(self, request: HTTPConnection) -> bool:
        """Whether a WebSocket may be opened from there: browsers let every page try (RFC 6455 §10.2)."""
        origin = request.headers.get("origin")
        return origin is None or origin in self._origins or origin == self._own_origin(request)

    def _of(self, sha256: str) -> Principal | None:
        if hmac.compare_digest(sha256, self._configured):
            return Principal(CONFIGURED, Role.OPERATOR)
        token = self._tokens.find(sha256)
        return None if token is None else Principal(token.name, token.role)

    def _bearer(self, request: HTTPConnection) -> Principal | None:
        scheme, _, token = request.headers["authorization"].partition(" ")
        return self.holder(token.strip()) if scheme.lower() == "bearer" else None

    def _visitor(self, request: HTTPConnection) -> Principal | None:
        visit = self._visits.get(request.cookies.get(self.cookie_name, ""))
        return None if visit is None or visit.until <= self._monotonic() else self._of(visit.sha256)

    def _is_own_page(self, request: HTTPConnection) -> bool:
        """``Sec-Fetch-Site`` or ``Origin`` must say so; a browser always sends one on an unsafe method."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if site is not None and site != "same-origin":
            return False
        if origin is not None:
            return origin == self._own_origin(request)
        return site is not None

    @staticmethod
    def _own_origin(request: HTTPConnection) -> str:
        scheme = {"ws": "http", "wss": "https"}.get(request.url.scheme, request.url.scheme)
        return f"{scheme}://{request.headers.get('host', '')}"
