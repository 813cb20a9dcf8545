"""The audit log: one JSON line for every action, done or refused, in files that are rotated by size.

An action is a request by an unsafe method (RFC 9110 §9.2.1), the sign-in link, or one that asks for evidence or keys. A
line says when, who, in which role, from where, what was asked of which node, and how it was answered. Neither body nor
header fields are written, nor the query but for its asking for keys: there is where secrets would be. The newest file
has the configured name, older ones ``.1`` to ``.4`` behind it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboards.security import Security
from protocols.errors import BackendError
from protocols.io.durable import OWNER_ONLY

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
ASKING = ("secrets", "keys")  # parameters by which keys are asked for
FILES = 5  # the newest and four older ones
PATH_CHARACTERS = 512  # of a path that are written

logger = logging.getLogger("dashboards")
_asked: ContextVar[list[str] | None] = ContextVar("asked", default=None)

Entry = dict[str, Any]


def asked(node: str) -> None:
    """A node is asked on behalf of the present request."""
    nodes = _asked.get()
    if nodes is not None:
        nodes.append(node)


class AuditLog:
    """Appends entries and pages through them; without a path there is no log."""

    def __init__(self, path: Path | None, *, octets: int, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._octets = octets
        self._wall = wall
        self._lock = threading.Lock()  # pages are read beside the event loop
        self._sequence = next((entry["sequence"] for entry in self._newest_first()), 0)

    def append(self, entry: Entry) -> None:
        """Number, date and write an entry; ``BackendError`` when that is not possible."""
        if self.path is None:
            return
        with self._lock:
            self._sequence += 1
            numbered = {"sequence": self._sequence, "wall": round(self._wall(), 3), **entry}
            line = json.dumps(numbered, ensure_ascii=True).encode() + b"\n"
            try:
                self._rotate(len(line))
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, OWNER_ONLY)
                with open(descriptor, "ab+") as file:
                    file.write(line if _is_whole(file) else b"\n" + line)
            except OSError as error:
                raise BackendError(f"audit_log: {self.path}: {error.strerror}") from None

    def check(self) -> None:
        """``BackendError`` when the file cannot be written."""
        if self.path is not None and not os.access(self.path if self.path.exists() else self.path.parent, os.W_OK):
            raise BackendError(f"audit_log: {self.path} cannot be written")

    def page(self, *, before: int | None, limit: int) -> tuple[list[Entry], bool]:
        """Up to ``limit`` entries older than number ``before``, newest first; whether there are more."""
        found: list[Entry] = []
        with self._lock:
            for entry in self._newest_first():
                if before is not None and entry["sequence"] >= before:
                    continue
                if len(found) == limit:
                    return found, True
                found.append(entry)
        return found, False

    def _newest_first(self) -> Iterator[Entry]:
        for number in range(FILES):
            try:
                lines = self._file(number).read_bytes().splitlines() if self.path else []
            except OSError:
                return
            for line in reversed(lines):
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # cut short when the machine went down
                if isinstance(entry, dict) and isinstance(entry.get("sequence"), int):
                    yield entry

    def _rotate(self, more: int) -> None:
        newest = self._file(0)
        if not newest.exists() or newest.stat().st_size + more <= self._octets:
            return
        for number in range(FILES - 1, 0, -1):
            if self._file(number - 1).exists():
                self._file(number - 1).replace(self._file(number))

    def _file(self, number: int) -> Path:
        assert self.path is not None
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")


class Audit:
    """Writes an entry for every action when its answer begins. Plain ASGI."""

    def __init__(self, app: ASGIApp, log: AuditLog, security: Security) -> None:
        self._app = app
        self._log = log
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._log.path is None or scope["type"] != "http" or not _is_action(scope):
            await self._app(scope, receive, send)
            return
        nodes: list[str] = []
        place = _asked.set(nodes)
        # who it was before the request: signing out forgets it
        before = self._security.principal(Request(scope))

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, before, nodes, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            _asked.reset(place)

    def _note(self, scope: Scope, before: Any, nodes: list[str], status: int) -> None:
        who = scope.get("state", {}).get("signed_in_as") or before
        remote = scope["client"][0] if scope.get("client") else ""
        entry = {
            "who": who.name if who else _stranger(remote),
            "role": who.role.value if who else None,
            "remote": remote,
            "method": scope["method"],
            "path": scope["path"][:PATH_CHARACTERS],
            "node": nodes[-1] if nodes else None,
            "about": {name: str(value)[:PATH_CHARACTERS] for name, value in scope.get("path_params", {}).items()}
            | dict.fromkeys(_asked_for(scope), "true"),
            "status": status,
        }
        try:
            self._log.append(entry)
        except BackendError as error:
            logger.error("an action is not in the audit log: %s: %s", error, entry)


def _is_whole(file: BinaryIO) -> bool:
    """Whether the last line was written to its end: the machine may have gone down, or the disk been full."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _is_action(scope: Scope) -> bool:
    return (
        scope["method"] not in SAFE
        or scope["path"] == "/sign-in"
        or scope["path"].endswith("/evidence")
        or bool(_asked_for(scope))
    )


def _asked_for(scope: Scope) -> list[str]:
    """Those of ``ASKING`` that the query turns on."""
    query = Request(scope).query_params
    return [name for name in ASKING if query.get(name, "false").lower() not in ("false", "0", "off", "no", "f", "n")]


def _stranger(remote: str) -> str:
    """What somebody without a token is called."""
    try:
        return "loopback" if ip_address(remote).is_loopback else "nobody"
    except ValueError:
        return "nobody"
