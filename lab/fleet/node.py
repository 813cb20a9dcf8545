"""A process of a fleet: an engine and its control socket."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable

from lab.fleet.config import FleetFile
from lab.fleet.control import control_methods
from lab.fleet.engine import FleetEngine
from protocols.io.control import ControlServer
from protocols.io.platform import Platform
from protocols.io.process import expect_many


async def serve(file: FleetFile, ready: Callable[[], None] = lambda: None, platform: Platform | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the UEs detach then, a second signal does not wait for them."""

    loop = asyncio.get_running_loop()
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            hurry.set()
        stopping.set()

    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop)
    configuration = file.configuration
    try:
        async with FleetEngine(file, platform) as engine:
            methods = control_methods(engine, configuration.node)
            async with ControlServer(configuration.control, methods, engine.recorder):
                gc.collect()
                gc.freeze()
                expect_many()
                ready()
                await stopping.wait()
                leaving, hurrying = loop.create_task(engine.stop()), loop.create_task(hurry.wait())
                await asyncio.wait((leaving, hurrying), return_when=asyncio.FIRST_COMPLETED)
                if not leaving.done():
                    engine.hurry()
                    await leaving
                hurrying.cancel()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
