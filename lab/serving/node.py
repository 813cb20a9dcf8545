"""``lab serve``: the laboratory, its trace and its control socket."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from lab.serving.catalogue import Catalogue
from lab.serving.config import LaboratoryConfiguration
from lab.serving.control import control_methods
from lab.serving.laboratory import Laboratory
from lab.serving.queue import RunQueue
from protocols.errors import BackendError
from protocols.io.clock import SystemClock
from protocols.io.control import ControlServer
from protocols.trace.recorder import Recorder


async def serve(configuration: LaboratoryConfiguration) -> None:
    """Until SIGTERM or SIGINT; the run that is played then is stopped first. ``BackendError`` when it cannot begin."""
    try:
        configuration.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"results: {configuration.results}: {error.strerror}") from error
    clock = SystemClock()
    recorder = Recorder(configuration.node, monotonic=clock.monotonic, wall=clock.wall, ring=configuration.trace.ring)
    laboratory = Laboratory(
        Catalogue(configuration.schedules),
        RunQueue(waiting=configuration.queue, kept=configuration.kept),
        configuration.results,
        recorder,
        clock.wall,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    methods = control_methods(laboratory, configuration, recorder)
    async with ControlServer(configuration.control, methods, recorder):
        working = loop.create_task(laboratory.run())
        waiting = loop.create_task(stopping.wait())
        try:
            await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, waiting):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
