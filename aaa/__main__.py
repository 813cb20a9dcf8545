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
from aaa.config import AaaConfiguration
from aaa.provisioning import ConfigurationOption, DatabaseOption, JsonOption, MasterKeysOption
from aaa.runtime import NODE, serve
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
application.add_typer(provisioning.master_key_application)
application.command("rekey-database")(provisioning.rekey_database)


@application.command("serve")
@exit_on_error
def serve_command(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")],
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log debugging detail.")] = False,
) -> None:
    """Serve SWm until SIGTERM or SIGINT."""
    configuration = load(config, AaaConfiguration)
    start_logging(NODE, level=logging.DEBUG if verbose else logging.INFO, machine_readable=log_json)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with provisioning.serving_database(config) as database:
        asyncio.run(serve(configuration, database))


@application.command()
@exit_on_error
def migrate(
    config: ConfigurationOption = None, database: DatabaseOption = None, master_keys: MasterKeysOption = None
) -> None:
    """Bring the subscriber database to the newest revision."""
    with provisioning.unmigrated_database(config, database, master_keys) as opened:
        before = opened.revision()
        after = opened.migrate()
    typer.echo(f"database is at revision {after}" + ("" if before == after else f" (was {before or 'empty'})"))


@application.command()
@exit_on_error
def sessions(
    config: ConfigurationOption = None,
    control: Annotated[Path | None, typer.Option("--control", help="The node's control socket, instead of -c.")] = None,
    imsi: Annotated[str | None, typer.Option(help="Only of this subscriber.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the SWm sessions of a running node."""
    if control is None:
        if config is None:
            raise provisioning.refusal(
                "--control", provisioning.Unshown("nothing"), "a control socket, or -c with a configuration file"
            )
        control = load(config, AaaConfiguration).control
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


if __name__ == "__main__":
    main()
