"""``aaa``: the 3GPP AAA server and HSS of the emulator, and the provisioning of its subscribers."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from aaa import provisioning
from aaa.commands import ControlOption, control_of, faults
from aaa.config import AaaConfiguration, Role
from aaa.control import node_name
from aaa.provisioning import ConfigurationOption, DatabaseOption, MasterKeysOption
from aaa.runtime import serve
from aaa.session_commands import sessions
from protocols.io.configuration import exit_on_error, load
from protocols.io.control import call_sync

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
application.add_typer(faults)
application.add_typer(sessions)


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
    configuration.logging.start(node_name(role), as_json=log_json, verbose=verbose)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if role is Role.AAA and configuration.eap.temporary is None:
        asyncio.run(serve(configuration, None, role))
        return
    with provisioning.serving_database(config, has_subscribers=role is not Role.AAA) as database:
        asyncio.run(serve(configuration, database, role))


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


@application.command("roll-eap-key")
@exit_on_error
def roll_eap_key(config: ConfigurationOption = None, control: ControlOption = None) -> None:
    """Make pseudonyms and re-authentication identities under a new key; a running node still reads its older ones."""
    answer = call_sync(control_of(config, control), "eap.roll-key")
    assert isinstance(answer, dict)
    typer.echo(f"temporary identities are made under key {answer['index']}")
