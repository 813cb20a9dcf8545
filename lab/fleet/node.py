"""A process of a fleet: an engine and its control socket."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocols.io.configuration import exit_on_error

if TYPE_CHECKING:
    from lab.fleet.config import FleetFile
    from protocols.io.platform import Platform

# The UEs are imported when they are served: commands of the laboratory have this module too.

GC_THRESHOLDS = (50_000, 20, 50)  # a full collection over thousands of UEs stalls all of them


async def serve(file: FleetFile, ready: Callable[[], None] = lambda: None, platform: Platform | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the UEs detach then, a second signal does not wait for them."""
    from lab.fleet.control import control_methods
    from lab.fleet.engine import FleetEngine
    from protocols.io.control import ControlServer

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
                gc.set_threshold(*GC_THRESHOLDS)
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


@exit_on_error
def serve_command(
    config: Annotated[Path, typer.Option("--config", "-c", help="Gateway, accesses and subscribers.")],
    control: Annotated[Path | None, typer.Option(help="Another control socket than the file's.")] = None,
    node: Annotated[str | None, typer.Option(help="Another name than the file's.")] = None,
) -> None:
    """Run one process of a fleet, which is told over its control socket what to do."""
    from lab.fleet.config import FleetFile

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    file = FleetFile.read(config).renamed(node=node, control=control)
    asyncio.run(serve(file))
