"""A fleet under Locust: every Locust user is one UE of the fleet process that its worker steers.

::

    locust master ──┬── worker ── control socket ── lab fleet serve ── IKE, ESP ── gateway
                    └── worker ── control socket ── lab fleet serve ── IKE, ESP ── gateway

    lab fleet locust --master --headless -u 2000 -r 50 -t 10m --expect-workers 2 --csv figures
    lab fleet locust --worker --master-host 192.0.2.1 --fleet-config fleet.yaml       (on each machine)

There is no IKE in the gevent process: it asks over the control socket and reports the latencies that the fleet process
measured. Worker n has the UEs from ``n * --fleet-range`` on, so that no two workers have the same.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

from locust import User, between, events, task  # before anything else opens a socket: it patches them
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from lab.fleet.blocking import BlockingControlClient
from lab.fleet.mix import PersonaMix
from lab.run_directory import RunDirectory
from protocols.errors import BackendError, StackError
from protocols.trace.records import JsonValue

PROTOCOL = "SWu"
READY_INTERVAL = 30.0
STOP_INTERVAL = 60.0
POLL_INTERVAL = 0.05
DEFAULT_RANGE = 10_000
TRIES_MAXIMUM = 5  # of one user in a row without an answer, half a second to two apart

_log = logging.getLogger("lab.fleet")


class FleetProcess:
    """The fleet process of this worker."""

    def __init__(self, config: Path) -> None:
        self._directory = RunDirectory("locust")
        directory = self._directory.path
        control = directory / "fleet.sock"
        self._log = directory / "fleet.log"
        words = ("-c", str(config), "--control", str(control))
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lab.fleet", *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self.client = BlockingControlClient(control)
        try:
            self._ready()
        except BaseException:
            self.close()
            raise

    def _ready(self) -> None:
        deadline = time.monotonic() + READY_INTERVAL
        while True:
            try:
                self.client.call("node.status")
                return
            except StackError as error:
                said = self._log.read_text(errors="replace").strip()
                if self._process.poll() is not None:
                    raise SystemExit(said or "the fleet process has ended") from None
                if time.monotonic() > deadline:
                    raise SystemExit(f"the fleet process does not get ready: {error}") from None
            time.sleep(POLL_INTERVAL)

    @property
    def end(self) -> str | None:
        """How it has ended, in words; ``None`` while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        said = self._log.read_text(errors="replace").strip().splitlines()
        return f"the fleet process has ended with status {status}" + (f": {said[-1]}" if said else "")

    def close(self) -> None:
        """Everybody detaches, then the process ends."""
        self._process.terminate()
        try:
            self._process.wait(STOP_INTERVAL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()


class Workplace:
    """What the users of this worker share; Locust may start users before the fleet process serves."""

    process: FleetProcess | None = None
    client: BlockingControlClient | None = None
    serves = threading.Event()
    mix = PersonaMix()
    numbers = count()
    given_up = False


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust's
def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this file."""
    parser.add_argument("--fleet-config", help="The fleet's configuration (lab/fleet/example.yaml), of a worker.")
    parser.add_argument("--fleet-control", help="The control socket of a `lab fleet serve` that runs already.")
    parser.add_argument("--fleet-persona", default="default", help="NAME=WEIGHT,…")
    parser.add_argument("--fleet-range", type=int, default=DEFAULT_RANGE, help="UEs that each worker has at most.")


def let_everybody_detach(environment: Environment, **_: Any) -> None:
    """The master stops the users and waits for them: told to quit, workers have half a second to report all."""
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        return
    workers = len(runner.clients.all)
    runner.stop()
    deadline = time.monotonic() + STOP_INTERVAL
    while len(runner.clients.ready) < workers and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)  # a worker is ready again once its users have ended and it has reported


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust's
def start_process(environment: Environment, **_: Any) -> None:
    """A worker, or a Locust without workers, starts its fleet process; the master has none."""
    if isinstance(environment.runner, MasterRunner):
        # last added is first called: the runner's own listener would make the workers quit at once
        environment.events.quitting.add_listener(let_everybody_detach)  # type: ignore[no-untyped-call]
        return
    options = environment.parsed_options
    if options is None or bool(options.fleet_config) == bool(options.fleet_control):
        raise SystemExit("--fleet-config: expected the fleet's configuration, or --fleet-control instead")
    Workplace.mix = PersonaMix.parse(options.fleet_persona)
    if options.fleet_config:
        Workplace.process = FleetProcess(Path(options.fleet_config))
        Workplace.client = Workplace.process.client
    else:
        Workplace.client = BlockingControlClient(options.fleet_control)
    Workplace.serves.set()


@events.test_stop.add_listener  # type: ignore[untyped-decorator]  # Locust's
def be_ready_again(environment: Environment, **_: Any) -> None:
    """A worker's users have all ended: Locust would wait --stop-timeout once more; the next start sets it anew."""
    if isinstance(environment.runner, WorkerRunner):
        environment.stop_timeout = 0.0


@events.quit.add_listener  # type: ignore[untyped-decorator]  # Locust's
def end_process(**_: Any) -> None:
    """The worker ends."""
    if Workplace.process is not None:
        Workplace.process.close()
        Workplace.process = None


def give_up(environment: Environment, why: str) -> None:
    """Nothing will be answered any more: the worker ends, with status 1 and one line that says why."""
    if Workplace.given_up:
        return
    Workplace.given_up = True
    _log.error("Given up: %s", why)
    environment.process_exit_code = 1
    if environment.runner is not None:
        environment.runner.greenlet.kill(block=False)  # what Locust waits for; it shuts down in order then


class FleetUe(User):
    """One UE: attached as long as its user lives, and now and then away."""

    wait_time = between(0.5, 2.0)

    def on_start(self) -> None:
        """A number of its own, and the first attach."""
        self.attached = False
        self.unanswered = 0
        Workplace.serves.wait()
        options = self.environment.parsed_options
        worker = max(0, getattr(self.environment.runner, "worker_index", 0))
        number = next(Workplace.numbers)
        if options is None or number >= options.fleet_range:
            raise SystemExit(f"--fleet-range: this worker has no UE left after {number}")
        self.index = worker * options.fleet_range + number
        self.persona = Workplace.mix.of(self.index, 0)
        self.attach()

    def on_stop(self) -> None:
        """The UE detaches with its user."""
        if self.attached:
            self.detach()

    @task(5)
    def talk(self) -> None:
        """Half a second of echo requests; each that is lost makes the talk a failure."""
        if not self.attached:
            return self.attach()
        answer = self._ask("talk", "fleet.ue.talk", rate=10, seconds=0.5)
        lost = answer.get("lost") if answer is not None else 0
        if lost:
            self._report("talk packets", 0.0, StackError(f"{lost} packets lost"))
        return None

    @task(4)
    def move(self) -> None:
        """To the next access."""
        if not self.attached:
            return self.attach()
        self._ask("move", "fleet.ue.move")
        return None

    @task(1)
    def come_back(self) -> None:
        """Detach and attach again."""
        if self.attached:
            self.detach()
        self.attach()

    def attach(self) -> None:
        """Attach."""
        self.attached = self._ask("attach", "fleet.ue.attach", persona=self.persona) is not None

    def detach(self) -> None:
        """Detach."""
        self._ask("detach", "fleet.ue.detach")
        self.attached = False

    def _ask(self, name: str, method: str, **params: JsonValue) -> dict[str, JsonValue] | None:
        """Ask the fleet process; what it measured (or how long the refusal took) goes to Locust."""
        assert Workplace.client is not None
        if Workplace.given_up:
            return None
        begun = time.monotonic()
        try:
            answer = Workplace.client.call(method, index=self.index, **params)
        except StackError as error:
            self._report(name, time.monotonic() - begun, error)
            self._unanswered(error)
            if name != "attach":
                self.attached = name != "detach" and self.attached and "not attached" not in str(error)
            return None
        self.unanswered = 0
        found = answer if isinstance(answer, dict) else {}
        seconds = found.get("seconds")
        self._report(name, seconds if isinstance(seconds, float) else time.monotonic() - begun, None)
        return found

    def _unanswered(self, error: StackError) -> None:
        """A process that is gone does not come back, one that says nothing may: for some tries."""
        if not isinstance(error, BackendError):
            self.unanswered = 0  # an answer, even if it is no
            return
        self.unanswered += 1
        end = None if Workplace.process is None else Workplace.process.end
        if end is not None:
            give_up(self.environment, end)
        elif self.unanswered >= TRIES_MAXIMUM:
            give_up(self.environment, f"no answer in {TRIES_MAXIMUM} tries: {error}")

    def _report(self, name: str, seconds: float, error: StackError | None) -> None:
        self.environment.events.request.fire(
            request_type=PROTOCOL,
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=error,
            context={},
        )
