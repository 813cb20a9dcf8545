"""Debian's PostgreSQL as a cluster of its own: made in a directory under ``/tmp``, on a loopback port, ended by pid.

``PostgreSql`` is a context manager. The server refuses to be root, so under root it and ``initdb`` run as
``nobody``. Everybody needs a password (SCRAM). ``fsync`` is off, because no test ends the machine; what a server
that is killed has not written is lost all the same, and ``wal_writer_delay`` makes sure of that.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers.aaa_node import free_port
from tests.peers.processes import Peer, PeerError, find_program, tail, wait_until

if TYPE_CHECKING:
    import psycopg

READY_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
UNPRIVILEGED_USER = "nobody"
ADMINISTRATOR = "administrator"
ROLE = "aaa"  # owns the databases, and may nothing else
PASSWORD = "a-Word+that:is~Secret"
URL_PASSWORD = "a-Word+that%3Ais~Secret"
SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "max_connections": "40",
    "shared_buffers": "16MB",
    "wal_writer_delay": "10s",
}


def require_psycopg() -> None:
    """Skip the calling test without the driver."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra: postgresql)")


def require_postgresql() -> Path:
    """Where PostgreSQL's programs lie, the newest ones; skips the calling test without them or without psycopg."""
    require_psycopg()
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
    for directory in sorted(versions, key=lambda path: int(path.parent.name), reverse=True):
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    on_path = find_program("initdb")
    if on_path is None:
        pytest.skip("postgres is not installed (Debian packages: .ci/peers.txt)")
    return on_path.resolve().parent


class PostgreSql(Peer):
    """One cluster; ``database()`` makes an empty database that belongs to ``ROLE``."""

    def __init__(self) -> None:
        self._programs = require_postgresql()
        self.directory = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self.port = free_port()
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED_USER)
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def begin(self) -> None:
        """With a role of its own."""
        self._initialise()
        self.start()
        self._execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")

    def _initialise(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)  # in a directory that is the server's alone
        made = subprocess.run(
            [
                self._programs / "initdb",
                *("--pgdata", self.directory / "data", "--username", ADMINISTRATOR, "--pwfile", password),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
            ],
            cwd=self.directory,
            capture_output=True,
            timeout=READY_TIMEOUT,
            check=False,
            **self._as_user,
        )
        if made.returncode != 0:
            raise PeerError(f"initdb: exit status {made.returncode}\n{tail((made.stdout + made.stderr).decode())}")

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        settings = {
            **SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
        }
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    *("-D", self.directory / "data"),
                    *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
                ],
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._as_user,
            )
        wait_until(self._answers, what="PostgreSQL", timeout=READY_TIMEOUT, process=self._process, log=self.log)

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            self._execute("SELECT 1")
            return True
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT disconnects everybody, SIGQUIT is a crash; again is harmless."""
        if self._process is None:
            return
        for number in (how, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
                break
        self._process = None

    def close(self) -> None:
        """End the server and remove everything; its log is printed for a failing test."""
        self.stop()
        print(f"--- PostgreSQL ---\n{tail(self.log())}")
        shutil.rmtree(self.directory)

    def log(self) -> str:
        """What it wrote so far."""
        log = self.directory / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    # --- its databases ------------------------------------------------------------------------------

    def database(self, settings: Mapping[str, str] | None = None) -> str:
        """The URL of a new database; ``settings`` hold for every connection to it."""
        self._databases += 1
        name = f"aaa{self._databases}"
        self._execute(f"CREATE DATABASE {name} OWNER {ROLE}")
        for setting, value in (settings or {}).items():
            self._execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
        return self.url(name)

    def url(self, name: str, *, password: str = URL_PASSWORD) -> str:
        """The URL of a database that may exist."""
        return f"postgresql+psycopg://{ROLE}:{password}@127.0.0.1:{self.port}/{name}"

    def socket_url(self, url: str) -> str:
        """The same database over the Unix socket."""
        name = url.rpartition("/")[2]
        return f"postgresql+psycopg://{ROLE}:{URL_PASSWORD}@/{name}?host={self.directory}&port={self.port}"

    @contextlib.contextmanager
    def transaction(self, url: str) -> Iterator[psycopg.Connection]:
        """A transaction by somebody else (psycopg without SQLAlchemy), committed at the end of the block."""
        import psycopg

        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            yield connection

    def wait_for_waiter(self, url: str) -> None:
        """Until a connection to the database waits for a lock."""
        name = url.rpartition("/")[2]
        question = (
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE datname = '{name}' AND wait_event_type = 'Lock' AND state = 'active'"
        )
        wait_until(
            lambda: self._execute(question) == 1,
            what="somebody waiting for a lock",
            timeout=READY_TIMEOUT,
            log=self.log,
        )

    def _execute(self, statement: str) -> object:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=ADMINISTRATOR,
            password=PASSWORD,
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return None if row is None else row[0]
