"""``lab``: composes the nodes into something to look at and to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.fleet.commands import application as fleet
from lab.mobility.command import list_schedules, run
from protocols.errors import ConfigurationError, LocalError
from protocols.io.configuration import exit_on_error
from protocols.io.console import run_application

# What a command needs beyond this is imported by the command: a host is to answer at once.

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
        float | None, typer.Option(min=5.0, max=500.0, help="Echo requests per second of every flow; 50 by default.")
    ] = None,
) -> None:
    """Attach a UE, move it between Wi-Fi networks while its traffic runs, and show every step."""
    from rich.console import Console

    from lab.demo import PACKETS_PER_SECOND, DemoOptions, run_demo
    from lab.stages import LoopbackStage, NamespaceStage

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PLAIN_WIDTH)
    options = DemoOptions(
        leave=leave,
        output=output,
        dashboard=not no_dashboard,
        port=port,
        packets_per_second=pings_per_second or PACKETS_PER_SECOND,
    )
    raise SystemExit(run_demo(NamespaceStage() if netns else LoopbackStage(), options, console))


@application.command()
@exit_on_error
def host(
    control: Annotated[Path, typer.Option(help="Control socket: host.start, host.stop, host.log, host.status.")],
    address: Annotated[
        list[str] | None, typer.Option(help="Answer calls here; repeatable, every IPv4 address by default.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="UDP port of voice calls.")] = 5004,
    echo_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="UDP echo on this port as well (RFC 862 has 7).")
    ] = None,
) -> None:
    """Be a host that answers and places voice calls on real sockets and keeps their logs."""
    from lab.host import ANY_ADDRESS, HostOptions, parse_address, run_host

    try:
        addresses = tuple(parse_address(each) for each in address or ())
    except LocalError as error:
        raise ConfigurationError(
            file="command line", key="--address", value=", ".join(address or ()), expected=f"IP addresses; {error}"
        ) from None
    run_host(
        HostOptions(control=control, addresses=addresses or (ANY_ADDRESS[4],), voice_port=port, echo_port=echo_port)
    )


@application.command()
@exit_on_error
def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")],
) -> None:
    """Play schedules for whoever asks over the control socket, the dashboard say; until SIGTERM or Ctrl-C."""
    import asyncio

    from lab.serving.config import LaboratoryConfiguration
    from lab.serving.node import serve as serve_laboratory
    from protocols.io.configuration import load

    settings = load(config, LaboratoryConfiguration)
    settings.logging.start(settings.node)
    asyncio.run(serve_laboratory(settings))


application.command()(run)
application.command(name="list")(list_schedules)


def main() -> None:
    """Entry point of the console script."""
    run_application(application)


if __name__ == "__main__":
    main()
