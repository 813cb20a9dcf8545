"""The ``dashboards`` command: serve the web application, print the link that signs a browser in, keep tokens."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
import uvicorn

from dashboards import tls
from dashboards.app import create_app
from dashboards.config import DashboardsConfig
from dashboards.deps import Services
from dashboards.tokens import NAME_PATTERN, RESERVED, TOKEN_OCTETS, Role, Tokens
from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import exit_on_error, load
from protocols.io.console import run_application

SOCKET_MESSAGE_OCTETS = 4096  # of what the reader of a WebSocket says, which nobody takes up
BACKLOG = 128
STOPPED_BY = (signal.SIGINT, signal.SIGTERM)
SHUTDOWN_INTERVAL = 3  # seconds that open requests get when the server stops
GC_THRESHOLDS = (50_000, 20, 50)  # with full rings of traces a full collection holds everything up for 0.2 s

application = typer.Typer(
    help="Web dashboard of the ePDG emulator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


token_commands = typer.Typer(help="Tokens of people and programs.", no_args_is_help=True)
application.add_typer(token_commands, name="token")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")]


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
    scheme = "http" if config.tls is None else "https"
    return f"{scheme}://{host}:{port or config.listen.port}/sign-in?token={quote(token, safe='')}"


@application.command()
@exit_on_error
def serve(
    config: ConfigOption,
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
    if settings.tls is not None:
        tls.check(str(config), settings.tls)
    Tokens(settings.tokens).all()
    token = settings.token.reveal().decode() if settings.token else secrets.token_urlsafe(TOKEN_OCTETS)
    settings.logging.start("dashboards")
    server = build_server(settings, token)
    listening = listen(settings)
    gc.freeze()  # what has been loaded stays
    gc.set_threshold(*GC_THRESHOLDS)
    typer.echo(f"Sign in at {sign_in_link(settings, token, listening.getsockname()[1])}")
    asyncio.run(server.serve(sockets=[listening]))


@token_commands.command("add")
@exit_on_error
def add_token(
    name: Annotated[str, typer.Argument(help="Whose it is, for the page and the audit log.")],
    role: Annotated[Role, typer.Option("--role", help="What it is good for.")],
    config: ConfigOption,
) -> None:
    """Make a token and print it: it is not kept and cannot be shown again."""
    if not re.fullmatch(NAME_PATTERN, name) or name in RESERVED:
        raise ConfigurationError(
            file="dashboards token add",
            key="NAME",
            value=name,
            expected=f"up to 64 letters, digits and . _ @ -, none of {', '.join(sorted(RESERVED))}",
        )
    typer.echo(_tokens(config).add(name, role))


@token_commands.command("list")
@exit_on_error
def list_tokens(config: ConfigOption) -> None:
    """Names, roles and when each was made."""
    for token in _tokens(config).all():
        made = datetime.fromtimestamp(token.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        typer.echo(f"{token.name}\t{token.role.value}\t{made}")


@token_commands.command("remove")
@exit_on_error
def remove_token(name: Annotated[str, typer.Argument(help="As listed.")], config: ConfigOption) -> None:
    """Forget a token: it stops counting at once, and whoever signed in by it is signed out."""
    _tokens(config).remove(name)


def _tokens(config: Path) -> Tokens:
    settings = load(config, DashboardsConfig)
    if settings.tokens is None:
        raise ConfigurationError(
            file=str(config), key="tokens", value=None, expected="the file that keeps tokens, such as tokens.json"
        )
    return Tokens(settings.tokens)


def listen(settings: DashboardsConfig) -> socket.socket:
    """The listening socket; ``BackendError`` in one line when the address is taken."""
    family = socket.AF_INET6 if settings.listen.address.version == 6 else socket.AF_INET
    # Only where the protocol is named does asyncio turn Nagle's algorithm off: small answers waited 40 ms for an ACK
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
    app = create_app(settings, token)
    app.state.services.audit.check()
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_INTERVAL,
            ws="wsproto",
            ws_max_size=SOCKET_MESSAGE_OCTETS,
            ssl_certfile=settings.tls.certificate if settings.tls else None,
            ssl_keyfile=settings.tls.key if settings.tls else None,
        )
    )


def main() -> None:
    """Console script."""
    run_application(application)


if __name__ == "__main__":
    main()
