"""One of our own nodes (``epdg serve``, ``ue serve``, …) as a process in a network namespace."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from lab.namespaces import Namespace, terminate
from protocols.errors import BackendError
from protocols.io.control import ControlClient, call_sync
from protocols.trace.records import JsonValue
from tests.peers import evidence
from tests.peers.processes import Peer, PeerError, wait_until

START_TIMEOUT = 60.0
CALL_TIMEOUT = 20.0


class NodeProcess(Peer):
    """``PREFIX python -m MODULE VERB -c CONFIGURATION`` in ``namespace``, its control socket in ``directory``.

    A context manager; its log is printed at the end for a failing test.
    """

    def __init__(
        self,
        namespace: Namespace,
        module: str,
        directory: Path,
        configuration: Mapping[str, object],
        *,
        verb: str = "serve",
        prefix: Sequence[str] = (),
        own_sysfs: bool = False,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self.module = module
        self.namespace = namespace
        self.directory = directory
        self.control = directory / f"{module}.sock"
        self.configuration = {"trace": {"export_keys": True}, **configuration, "control": self.control.name}
        self._verb = verb
        self._prefix = prefix
        self._own_sysfs = own_sysfs
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write the configuration, start the node, wait until it answers on its control socket."""
        file = self.directory / f"{self.module}.yaml"
        file.write_text(yaml.safe_dump(self.configuration))
        with (self.directory / f"{self.module}.log").open("ab") as output:
            self._process = self.namespace.popen(
                [*self._prefix, sys.executable, "-m", self.module, self._verb, "-c", file],
                stdout=output,
                stderr=subprocess.STDOUT,
                own_sysfs=self._own_sysfs,
            )
        wait_until(
            self._status,
            what=f"{self.module} starting",
            timeout=self._start_timeout,
            process=self._process,
            log=self.log,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def _status(self) -> JsonValue:
        with contextlib.suppress(BackendError):
            return call_sync(self.control, "node.status")
        return None

    def call(self, method: str, **params: JsonValue) -> dict[str, JsonValue]:
        """What a control method answers."""
        answer = asyncio.run(ControlClient(self.control, answer_interval=CALL_TIMEOUT).call(method, **params))
        if not isinstance(answer, dict):
            raise PeerError(f"{self.module} answers {method} with {answer!r}")
        return answer

    def log(self) -> str:
        """What it wrote so far."""
        return (self.directory / f"{self.module}.log").read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; its exit status."""
        assert self._process is not None
        evidence.keep(self.control)
        self._process.send_signal(number)
        return self._process.wait(START_TIMEOUT)

    def kill(self) -> None:
        """End it without a word."""
        assert self._process is not None
        evidence.keep(self.control)
        self._process.kill()
        self._process.wait(START_TIMEOUT)
        self._process = None

    def close(self) -> None:
        """End it; again is harmless."""
        if self._process is not None:
            evidence.keep(self.control)
            terminate(self._process)
            self._process = None
            print(f"--- {self.module} ---\n{self.log()}")
