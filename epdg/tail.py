"""The command ``epdg tail``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from epdg.config import EpdgConfiguration
from protocols.errors import ConfigurationError
from protocols.io.configuration import exit_on_error, load


@exit_on_error
def tail(
    sockets: Annotated[
        list[Path] | None, typer.Argument(metavar="[SOCKET]...", help="Control sockets of nodes.", show_default=False)
    ] = None,
    configuration: Annotated[
        Path | None, typer.Option("--config", "-c", help="The gateway's configuration (YAML): its control socket.")
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", "--aaa", help="The control socket of another node, as SOCKET; may be repeated."),
    ] = None,
    session: Annotated[str | None, typer.Option(help="Only this session: its id, an SPI, a Session-Id.")] = None,
    imsi: Annotated[str | None, typer.Option(help="Only sessions of this IMSI.")] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Begin with what the nodes have kept.")] = False,
) -> None:
    """Show the messages and events of sessions as they happen, and why one failed; Ctrl-C ends it.

    With the sockets of gateway, AAA server, HSS and UE every message is one arrow, and those that did not arrive show.
    """
    from epdg.live_ladder import show  # the catalogue of causes takes a while

    paths = [] if configuration is None else [load(configuration, EpdgConfiguration).control]
    paths += [*(sockets or ()), *(others or ())]
    if not paths:
        raise ConfigurationError(
            file="command line", key="SOCKET", value=None, expected="-c FILE, or control sockets of nodes"
        )
    asyncio.run(show(tuple(dict.fromkeys(paths)), session=session, imsi=imsi, kept=kept))
