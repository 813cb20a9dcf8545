"""``lab``: composes the nodes into something to look at and to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lab.demo import PACKETS_PER_SECOND, DemoOptions, run_demo
from lab.fleet.commands import application as fleet
from lab.mobility.command import list_schedules, run
from lab.stages import LoopbackStage, NamespaceStage
from protocols.io.configuration import exit_on_error

PLAIN_WIDTH = 160  # of tables where the output is no terminal

application = typer.Typer(
    name="lab",
    help="Laboratory of the ePDG emulator: runs UE, gateway, AAA server and dashboard together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


application.add_typer(fleet)


@application.callback()
def commands() -> None:
    """Laboratory of the ePDG emulator."""


@application.command()
@exit_on_error
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="End by itself; exit status 0 only if everything held, else 1.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Leave the evidence here: capture, Wireshark profile, trace, result.json. "
            "This switches key export on: the directory holds the session's keys.",
            file_okay=False,
        ),
    ] = None,
    netns: Annotated[
        bool, typer.Option("--netns", help="Across real network namespaces, with TUN devices and ping (root).")
    ] = False,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Without the dashboard.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="The dashboard's port on 127.0.0.1; by default 8080 or the next that is free."
        ),
    ] = None,
    pings_per_second: Annotated[
        float, typer.Option(min=5.0, max=500.0, help="Echo requests per second of every flow.")
    ] = PACKETS_PER_SECOND,
) -> None:
    """Attach a UE, move it between Wi-Fi networks while its traffic runs, and show every step."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PLAIN_WIDTH)
    options = DemoOptions(
        leave=leave,
        output=output,
        dashboard=not no_dashboard,
        port=port,
        packets_per_second=pings_per_second,
    )
    raise SystemExit(run_demo(NamespaceStage() if netns else LoopbackStage(), options, console))


application.command()(run)
application.command(name="list")(list_schedules)


def main() -> None:
    """Entry point of the console script."""
    application()


if __name__ == "__main__":
    main()
