"""``aaa``: the 3GPP AAA server and HSS of the emulator, and the provisioning of its subscribers."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from aaa import provisioning
from aaa.config import AaaConfiguration, Role
from aaa.provisioning import ConfigurationOption, DatabaseOption, JsonOption
from aaa.runtime import node_name, serve
from protocols.io.configuration import exit_on_error, load
from protocols.io.control import call_sync
from protocols.io.logging import start_logging
from protocols.trace.records import JsonValue

application = typer.Typer(
    name="aaa",
    help="3GPP AAA server (SWm) and HSS of the ePDG emulator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
application.add_typer(provisioning.application)


@application.command("serve")
@exit_on_error
def serve_command(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")],
    role: Annotated[
        Role, typer.Option(help="aaa: SWm with an HSS elsewhere; hss: SWx alone; both in one process.")
    ] = Role.BOTH,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log debugging detail.")] = False,
) -> None:
    """Serve SWm and SWx until SIGTERM or SIGINT."""
    configuration = load(config, AaaConfiguration)
    configuration.check(role, str(config))
    start_logging(node_name(role), level=logging.DEBUG if verbose else logging.INFO, machine_readable=log_json)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if role is Role.AAA and configuration.eap.temporary is None:
        asyncio.run(serve(configuration, None, role))
        return
    with provisioning.unmigrated_database(config, None) as database:
        asyncio.run(serve(configuration, database, role))


@application.command()
@exit_on_error
def migrate(config: ConfigurationOption = None, database: DatabaseOption = None) -> None:
    """Bring the subscriber database to the newest revision."""
    with provisioning.unmigrated_database(config, database) as opened:
        before = opened.revision()
        after = opened.migrate()
    typer.echo(f"database is at revision {after}" + ("" if before == after else f" (was {before or 'empty'})"))


@application.command("roll-eap-key")
@exit_on_error
def roll_eap_key(
    config: ConfigurationOption = None,
    control: Annotated[Path | None, typer.Option("--control", help="The node's control socket, instead of -c.")] = None,
) -> None:
    """Make pseudonyms and re-authentication identities under a new key; a running node still reads its older ones."""
    answer = call_sync(_control(config, control), "eap.roll-key")
    assert isinstance(answer, dict)
    typer.echo(f"temporary identities are made under key {answer['index']}")


@application.command()
@exit_on_error
def sessions(
    config: ConfigurationOption = None,
    control: Annotated[Path | None, typer.Option("--control", help="The node's control socket, instead of -c.")] = None,
    imsi: Annotated[str | None, typer.Option(help="Only of this subscriber.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the SWm sessions of a running node."""
    control = _control(config, control)
    found: list[JsonValue] = []
    cursor: JsonValue = None
    while True:
        answer = call_sync(control, "sessions.list", imsi=imsi, cursor=cursor)
        assert isinstance(answer, dict)
        page = answer["sessions"]
        assert isinstance(page, list)
        found += page
        cursor = answer["next"]
        if cursor is None:
            break
    if as_json:
        typer.echo(json.dumps(found))
        return
    for session in found:
        assert isinstance(session, dict)
        typer.echo(_line(session))


def _line(session: dict[str, JsonValue]) -> str:
    created = session["created"]
    moment = datetime.fromtimestamp(created).isoformat(" ", "seconds") if isinstance(created, float) else "-"
    error = session["last_error"]
    why = f"  {error['text']}" if isinstance(error, dict) else ""
    words = (session["imsi"], session["state"], session["apn"], session["gateway"])
    return "  ".join((moment, *(str(word or "-") for word in words), str(session["id"]))) + why


def main() -> None:
    """Entry point of the console script."""
    application()


def _control(config: Path | None, control: Path | None) -> Path:
    """The control socket that the options name."""
    if control is not None:
        return control
    if config is None:
        expected = "a control socket, or -c with a configuration file"
        raise provisioning.refusal("--control", provisioning.Unshown("nothing"), expected)
    return load(config, AaaConfiguration).control


if __name__ == "__main__":
    main()
