"""The real ``lab serve`` as a process, and what belongs to the run that it plays."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from protocols.errors import BackendError
from protocols.io.control import call_sync
from protocols.trace.records import JsonValue
from tests.peers.processes import wait_until

START_TIMEOUT = 30.0
STOP_TIMEOUT = 60.0  # with a run on real sockets, whose nodes take leave one after the other


@dataclass
class LabProcess:
    """``lab serve`` in ``directory``; ``extra`` goes into its configuration."""

    directory: Path
    extra: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def control(self) -> Path:
        """Its control socket."""
        return self.directory / "lab.sock"

    @property
    def results(self) -> Path:
        """Where it leaves what came of runs."""
        return self.directory / "results"

    @property
    def log(self) -> str:
        """What it has printed."""
        return (self.directory / "lab.log").read_text()

    def command(self) -> list[str]:
        """Write the configuration; the command that serves it."""
        path = self.directory / "lab.yaml"
        path.write_text(f"results: results\ncontrol: lab.sock\n{self.extra}")
        return [sys.executable, "-m", "lab", "serve", "-c", str(path)]

    def __enter__(self) -> LabProcess:
        with (self.directory / "lab.log").open("wb") as output:
            self.process = subprocess.Popen(self.command(), stdout=output, stderr=subprocess.STDOUT)
        wait_until(self._answers, what="lab", timeout=START_TIMEOUT, log=lambda: self.log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def _answers(self) -> bool:
        try:
            self.call("node.status")
        except BackendError:
            return False
        return True

    def call(self, method: str, **params: JsonValue) -> dict[str, JsonValue]:
        """What a control method answers."""
        answer = call_sync(self.control, method, **params)
        assert isinstance(answer, dict)
        return answer

    def run(self, schedule: str, stage: str = "virtual", **params: JsonValue) -> str:
        """Ask for a run; its identifier."""
        return str(self.call("lab.run", schedule=schedule, stage=stage, **params)["id"])

    def state(self, identifier: str) -> str:
        """Of a run."""
        return str(self.call("lab.get", id=identifier)["state"])

    def over(self, identifier: str, timeout: float = 60.0) -> dict[str, JsonValue]:
        """A run as it is when it is over."""

        def ended() -> dict[str, JsonValue] | None:
            run = self.call("lab.get", id=identifier)
            return None if run["state"] in ("queued", "running") else run

        return wait_until(ended, what=f"the end of run {identifier}", timeout=timeout, log=lambda: self.log)

    def player(self) -> int:
        """The process that plays the present run."""
        assert self.process is not None
        children = [pid for pid, (parent, _) in _processes().items() if parent == self.process.pid]
        assert len(children) == 1, children
        return children[0]


def session_of(leader: int) -> list[int]:
    """The processes of the session that a process leads or has led."""
    return [pid for pid, (_, session) in _processes().items() if session == leader]


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and session of every process that is not dead (proc_pid_stat(5))."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = path.read_text(errors="replace").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if state not in ("Z", "X"):
            found[int(path.parent.name)] = (int(parent), int(session))
    return found
