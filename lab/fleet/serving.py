"""``lab fleet serve`` and ``python -m lab.fleet``: one process of a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protocols.io.configuration import exit_on_error


@exit_on_error
def serve_command(
    config: Annotated[Path, typer.Option("--config", "-c", help="Gateway, accesses and subscribers.")],
    control: Annotated[Path | None, typer.Option(help="Another control socket than the file's.")] = None,
    node: Annotated[str | None, typer.Option(help="Another name than the file's.")] = None,
) -> None:
    """Run one process of a fleet, which is told over its control socket what to do."""
    import asyncio
    import logging

    from lab.fleet.config import FleetFile
    from lab.fleet.node import serve

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    file = FleetFile.read(config).renamed(node=node, control=control)
    asyncio.run(serve(file))
