"""The ``dashboards`` command: serve the web application, or print the link that signs a browser in."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
import uvicorn

from dashboards.app import create_app
from dashboards.config import DashboardsConfig
from dashboards.deps import Services
from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import exit_on_error, load
from protocols.io.logging import start_logging

TOKEN_OCTETS = 24
BACKLOG = 128
STOPPED_BY = (signal.SIGINT, signal.SIGTERM)
SHUTDOWN_INTERVAL = 3  # seconds that open requests get when the server stops

application = typer.Typer(
    help="Web dashboard of the ePDG emulator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@application.callback()
def commands() -> None:
    """Web dashboard of the ePDG emulator."""


class Server(uvicorn.Server):
    """Ends event streams first: they would never end by themselves; a signal is a wish, not a failure."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Instead of uvicorn's: the exit status is 0, and further signals do not cut the bounded end short."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        loop = asyncio.get_running_loop()
        for number in STOPPED_BY:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in STOPPED_BY:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Stop soon: open requests get ``SHUTDOWN_INTERVAL``."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        services = self.config.app.state.services  # type: ignore[union-attr]
        assert isinstance(services, Services)
        services.hub.close()
        await super().shutdown(sockets=sockets)


def sign_in_link(config: DashboardsConfig, token: str, port: int | None = None) -> str:
    """Where a browser goes to be signed in."""
    address = config.listen.address
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == 4 else "::1")
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{host}:{port or config.listen.port}/sign-in?token={quote(token, safe='')}"


@application.command()
@exit_on_error
def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")],
    print_link: Annotated[
        bool, typer.Option("--print-link", help="Print the sign-in link of the configured token and stop.")
    ] = False,
) -> None:
    """Serve the dashboard until interrupted; the first line printed is the sign-in link."""
    settings = load(config, DashboardsConfig)
    if print_link:
        if settings.token is None:
            raise ConfigurationError(
                file=str(config),
                key="token",
                value=None,
                expected="a token: a generated one is known only to the server that printed it",
            )
        typer.echo(sign_in_link(settings, settings.token.reveal().decode()))
        return
    token = settings.token.reveal().decode() if settings.token else secrets.token_urlsafe(TOKEN_OCTETS)
    start_logging("dashboards")
    listening = listen(settings)
    typer.echo(f"Sign in at {sign_in_link(settings, token, listening.getsockname()[1])}")
    asyncio.run(build_server(settings, token).serve(sockets=[listening]))


def listen(settings: DashboardsConfig) -> socket.socket:
    """The listening socket; ``BackendError`` in one line when the address is taken."""
    family = socket.AF_INET6 if settings.listen.address.version == 6 else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((str(settings.listen.address), settings.listen.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise BackendError(f"cannot listen on {settings.listen}: {error.strerror or error}") from None
    return listening


def build_server(settings: DashboardsConfig, token: str) -> Server:
    """The server; requests are not logged, since the sign-in link carries the token."""
    return Server(
        uvicorn.Config(
            create_app(settings, token),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_INTERVAL,
            ws="none",
        )
    )


def main() -> None:
    """Console script."""
    application()


if __name__ == "__main__":
    main()
