"""Who may do what: the operator's token, the cookie it is exchanged for, and the guards against other sites.

Reading is open while the server listens on loopback. Whatever changes state needs the bearer token, or
the cookie together with proof that the request comes from our own page (RFC 6265bis §8.8: SameSite alone
does not separate the ports of one host). A ``Host`` that is a foreign name is refused, so that a page of
another site cannot read through a name it points at this machine.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import Response

from dashboards.config import DashboardsConfig
from dashboards.problems import unauthorized

COOKIE_LIFETIME = 12 * 3600  # seconds; a working day
COOKIES_KEPT = 256  # signed-in browsers; the oldest is signed out


class Security:
    """Checks requests; keeps the signed-in browsers in memory only."""

    def __init__(
        self, config: DashboardsConfig, token: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._token = token.encode()
        self._open = config.open_to_read
        self._hosts = frozenset({"localhost", *(host.lower() for host in config.hosts)})
        self._signed_in: dict[str, float] = {}  # cookie -> when it stops counting
        self.cookie_name = f"epdg-dashboard-{config.listen.port}"

    def token_is_right(self, token: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(token.encode(), self._token)

    def sign_in(self, response: Response) -> None:
        """Give the browser a cookie of its own; the token itself never goes into one."""
        value = secrets.token_urlsafe(32)
        self._signed_in[value] = self._monotonic() + COOKIE_LIFETIME
        while len(self._signed_in) > COOKIES_KEPT:
            del self._signed_in[next(iter(self._signed_in))]
        response.set_cookie(
            self.cookie_name, value, max_age=COOKIE_LIFETIME, path="/", httponly=True, samesite="strict"
        )

    def sign_out(self, request: Request, response: Response) -> None:
        """Forget the browser's cookie."""
        self._signed_in.pop(request.cookies.get(self.cookie_name, ""), None)
        response.delete_cookie(self.cookie_name, path="/", httponly=True, samesite="strict")

    def is_signed_in(self, request: Request) -> bool:
        """Whether the request carries the cookie of a signed-in browser."""
        return self._signed_in.get(request.cookies.get(self.cookie_name, ""), 0.0) > self._monotonic()

    def check_reader(self, request: Request) -> None:
        """Reading: anybody on loopback, else the token or the cookie."""
        if self._open or self._bearer(request) or self.is_signed_in(request):
            return
        raise unauthorized("This server can be reached from other machines: sign in to read.")

    def check_operator(self, request: Request) -> None:
        """Changing state: the token, or the cookie on a request of our own page."""
        if self._bearer(request):
            return
        if not self.is_signed_in(request):
            raise unauthorized("Only somebody who has signed in may change anything.")
        if not self._is_own_page(request):
            raise unauthorized("The cookie counts only for requests of this server's own page.")

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

    def _bearer(self, request: Request) -> bool:
        """A bearer token, when there is one, must be right (RFC 6750 §3.1)."""
        value = request.headers.get("authorization")
        if value is None:
            return False
        scheme, _, token = value.partition(" ")
        if scheme.lower() != "bearer" or not self.token_is_right(token.strip()):
            raise unauthorized("The bearer token is not right.")
        return True

    def _is_own_page(self, request: Request) -> bool:
        """``Sec-Fetch-Site`` or ``Origin`` must say so; a browser always sends one on an unsafe method."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if site is not None and site != "same-origin":
            return False
        if origin is not None:
            return origin == f"{request.url.scheme}://{request.headers.get('host', '')}"
        return site is not None
