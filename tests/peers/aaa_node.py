"""The real ``aaa serve`` as a process on loopback, and a gateway's Diameter client that attaches users to it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from aaa.subscribers import Subscriber, SubscriberDatabase
from lab.namespaces import terminate
from protocols.diameter.swm import Dea, Der, SessionIdSource, Sta, Str, TerminalInformation
from protocols.eap.packet import identity_response
from protocols.errors import BackendError
from protocols.io.control import call_sync
from protocols.io.diameter import DiameterIdentity, DiameterNode, PeerAddress
from protocols.trace.records import JsonValue
from tests.harness.aka_user import AkaUser
from tests.peers.processes import wait_until

HOST = "aaa.epc.mnc001.mcc001.3gppnetwork.org"
REALM = "epc.mnc001.mcc001.3gppnetwork.org"
GATEWAY = "epdg.epc.mnc001.mcc001.3gppnetwork.org"
START_TIMEOUT = 20.0
COMMAND_TIMEOUT = 30.0
ANSWER_TIMEOUT = 10.0
_STARTS = itertools.count(1)  # every gateway of a run has Session-Ids of its own (RFC 6733 §8.8)


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_aaa(*words: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One ``aaa`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "aaa", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT,
        check=False,
        env={**os.environ, **(environment or {})},
    )


@dataclass
class AaaProcess:
    """``aaa serve`` in ``directory`` under ``name``; database and configuration outlive the process."""

    directory: Path
    extra: str = ""
    listen: str = ""
    port: int = 0
    role: str = "both"
    name: str = "aaa"
    host: str = HOST
    options: str = ""  # of its database's URL
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def configuration(self) -> Path:
        """Where its configuration lies."""
        return self.directory / f"{self.name}.yaml"

    @property
    def control(self) -> Path:
        """Its control socket."""
        return self.directory / f"{self.name}.sock"

    @property
    def database_url(self) -> str:
        """Its database, for others."""
        return f"sqlite:///{self.directory / 'aaa.db'}"

    def write_configuration(self) -> Path:
        """Write the configuration; where it lies."""
        self.configuration.write_text(
            f"identity: {{host: {self.host}, realm: {REALM}}}\n"
            f"listen: {{port: {self.port}{self.listen}}}\n"
            + ("" if self.role == "aaa" else f"database: sqlite:///aaa.db{self.options}\n")
            + f"control: {self.name}.sock\n"
            + self.extra
        )
        return self.configuration

    def provision(self, *subscribers: Subscriber) -> None:
        """Put subscribers into its database, running or not."""
        with SubscriberDatabase(self.database_url) as database:
            database.migrate()
            for subscriber in subscribers:
                database.replace(subscriber)

    def __enter__(self) -> AaaProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            terminate(self.process)

    def start(self) -> None:
        """Start it and wait until it serves; the port it got is kept for the next start."""
        log = self.directory / f"{self.name}.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aaa", "serve", "-c", str(self.write_configuration()), "--role", self.role],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        status = wait_until(self._status, what="aaa", timeout=START_TIMEOUT, process=self.process, log=log.read_text)
        self.port = int(str(status["listen"]).split(", ")[0].rpartition(":")[2])

    def _status(self) -> dict[str, JsonValue] | None:
        with contextlib.suppress(BackendError):
            status = call_sync(self.control, "node.status")
            assert isinstance(status, dict)
            return status
        return None

    def call(self, method: str, **params: JsonValue) -> dict[str, JsonValue]:
        """A control method's answer."""
        answer = call_sync(self.control, method, **params)
        assert isinstance(answer, dict)
        return answer

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(START_TIMEOUT)

    def log(self) -> str:
        """What it wrote on standard error."""
        return (self.directory / f"{self.name}.log").read_text()


class Gateway:
    """An ePDG's end of SWm: one DER after the other until the server is done with a user."""

    def __init__(self, node: DiameterNode) -> None:
        self.node = node
        self._session_ids = SessionIdSource(GATEWAY, wall=next(_STARTS))

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, port: int, *, state: int = 1) -> AsyncIterator[Gateway]:
        """A gateway with an open connection; it has its sessions until it comes with a greater ``state``."""
        identity = DiameterIdentity(host=GATEWAY, realm=REALM, origin_state_id=state)
        node = DiameterNode(identity, reconnect_interval=0.05)
        try:
            node.add_peer(PeerAddress(host=HOST, address="127.0.0.1", port=port))
            await node.wait_open(ANSWER_TIMEOUT)
            yield cls(node)
        finally:
            await node.close()

    def session_id(self) -> str:
        """A new Session-Id."""
        return self._session_ids.next()

    async def exchange(
        self,
        session_id: str,
        packet: bytes,
        *,
        user_name: str | None = None,
        apn: str | None = "internet",
        visited: str | None = None,
        imei: str | None = None,
    ) -> Dea:
        """DER --> ; <-- DEA"""
        der = Der(
            session_id=session_id,
            origin_host=GATEWAY,
            origin_realm=REALM,
            destination_realm=REALM,
            user_name=user_name,
            eap_payload=packet,
            service_selection=apn,
            visited_network_identifier=visited,
            terminal_information=None if imei is None else TerminalInformation(imei),
        )
        return Dea.from_message(await self.node.request(der.to_message(), ANSWER_TIMEOUT))

    async def attach(
        self,
        user: AkaUser,
        *,
        apn: str | None = "internet",
        session_id: str | None = None,
        between: Callable[[], None] | None = None,
        visited: str | None = None,
        imei: str | None = None,
    ) -> list[Dea]:
        """All rounds; the DEAs in order. ``between`` is called after the first one."""
        session = session_id or self.session_id()
        packet: bytes | None = identity_response(1, user.nai.encode())
        answers: list[Dea] = []
        while packet is not None:
            answers.append(
                await self.exchange(session, packet, user_name=user.nai, apn=apn, visited=visited, imei=imei)
            )
            if between is not None and len(answers) == 1:
                between()
            payload = answers[-1].eap_payload
            packet = None if payload is None else user.take(payload)
            if not answers[-1].result.is_multi_round:
                break
        return answers

    async def terminate(self, session_id: str, user_name: str) -> Sta:
        """STR --> ; <-- STA"""
        request = Str(
            session_id=session_id,
            origin_host=GATEWAY,
            origin_realm=REALM,
            destination_realm=REALM,
            user_name=user_name,
        )
        return Sta.from_message(await self.node.request(request.to_message(), ANSWER_TIMEOUT))
