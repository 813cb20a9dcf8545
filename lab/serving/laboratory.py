"""The laboratory: takes what is wanted, plays one run after the other, and records what comes of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lab.mobility.stage_name import StageName
from lab.serving.catalogue import Catalogue
from lab.serving.player_process import Line, PlayerProcess
from lab.serving.queue import RunQueue
from lab.serving.run import Run, RunState, RunStep, Verdict, Wanted
from protocols.errors import StackError
from protocols.io.control import ControlError
from protocols.trace.recorder import Recorder

IDENTIFIER_OCTETS = 6
MODULE = "lab.serving.worker"

_log = logging.getLogger(__name__)


class Laboratory:
    """``run`` serves until cancelled; the run that is played then is stopped first."""

    def __init__(
        self, catalogue: Catalogue, queue: RunQueue, results: Path, recorder: Recorder, wall: Callable[[], float]
    ) -> None:
        self.catalogue = catalogue
        self.queue = queue
        self.totals: Counter[str] = Counter()
        self._results = results
        self._recorder = recorder
        self._wall = wall
        self._wake = asyncio.Event()
        self._process: PlayerProcess | None = None

    # --- what is asked

    def want(self, schedule: str, stage: StageName, seed: int | None) -> Run:
        """Let a run wait for its turn; ``ControlError`` when it cannot be played or too many wait."""
        named = self.catalogue.find(schedule, stage)
        wanted = Wanted(
            schedule=named.name,
            title=named.schedule.title,
            stage=stage,
            seed=named.schedule.seed if seed is None else seed,
            duration=named.schedule.duration,
        )
        run = Run(identifier=secrets.token_hex(IDENTIFIER_OCTETS), wanted=wanted, file=named.file, created=self._wall())
        self.queue.add(run)
        self._tell(run, "run-queued", f"{wanted.title} waits for its turn on the {stage.value} stage.")
        self._wake.set()
        return run

    def stop(self, identifier: str) -> Run:
        """Stop a run; one that is played has ended when its state says so. ``ControlError`` when it is over."""
        run = self.queue.find(identifier)
        if run.state.over:
            raise ControlError("not-now", f"run {identifier} is over: {run.state.value}")
        run.stopping = True
        if run.state is RunState.QUEUED:
            self._end(run, RunState.STOPPED, f"{run.wanted.title} was stopped before it began.")
        elif self._process is not None:
            self._process.stop()
        return run

    # --- playing

    async def run(self) -> None:
        """One after the other."""
        while True:
            self._wake.clear()
            if not (waiting := self.queue.queued):
                await self._wake.wait()
                continue
            await self._play(waiting[0])

    async def _play(self, run: Run) -> None:
        wanted = run.wanted
        name = f"{wanted.schedule}-{wanted.stage.value}-{wanted.seed}-{run.identifier}"
        words = ["-m", MODULE, str(run.file), wanted.stage.value, str(wanted.seed), str(self._results), name]
        process = self._process = PlayerProcess(words)
        run.state, run.started = RunState.RUNNING, self._wall()
        self._tell(run, "run-started", f"{wanted.title} begins on the {wanted.stage.value} stage, seed {wanted.seed}.")
        try:
            async with contextlib.aclosing(process.lines()) as lines:
                async for line in lines:
                    self._take(run, line)
        except asyncio.CancelledError:
            run.stopping = True
            raise
        except StackError as error:
            run.error = str(error)
        except Exception:  # noqa: BLE001 - top loop: a run must not end the node
            _log.exception("playing %s failed", run.identifier)
            run.error = "the laboratory made a mistake; its log says more"
        finally:
            self._process = None
            self._conclude(run, process)

    def _take(self, run: Run, line: Line) -> None:
        match line:
            case {"step": {"at": int() | float() as at, "node": str(node), "name": str(name), "text": str(text)}}:
                step = RunStep(at=at, node=node, name=name, text=text)
                run.happened(step)
                self._tell(run, "run-step", text, step)
            case {"result": {"name": str(name), "passed": bool(passed), "failed_checks": list(failed)}}:
                run.verdict = Verdict(result=name, passed=passed, failed_checks=tuple(map(str, failed)))
            case {"error": str(error)}:
                run.error = error
            case _:
                _log.warning("run %s tells what nobody understands", run.identifier)

    def _conclude(self, run: Run, process: PlayerProcess) -> None:
        title = run.wanted.title
        if run.verdict is not None:
            verdict = (
                "every expectation held" if run.verdict.passed else f"{len(run.verdict.failed_checks)} did not hold"
            )
            self._end(run, RunState.DONE, f"{title}: {verdict}.")
        elif run.stopping:
            self._end(run, RunState.STOPPED, f"{title} was stopped.")
        else:
            run.error = run.error or process.ending
            self._end(run, RunState.FAILED, f"{title} failed: {run.error}.")

    def _end(self, run: Run, state: RunState, text: str) -> None:
        run.state, run.ended = state, self._wall()
        self.totals[state.value] += 1
        self._tell(run, f"run-{state.value}", text)
        self.queue.forget()

    def _tell(self, run: Run, name: str, text: str, step: RunStep | None = None) -> None:
        self._recorder.event(name, text, {**run.view(), "step": None if step is None else step.view()})
