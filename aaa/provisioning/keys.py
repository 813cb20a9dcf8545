"""``aaa master-key`` and ``aaa rekey-database``: the keys under which the keys of subscribers are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aaa.provisioning.opening import (
    ConfigurationOption,
    DatabaseOption,
    MasterKeysOption,
    Unshown,
    opened_database,
    refusal,
)
from aaa.provisioning.progress import Progress
from aaa.subscribers.master_keys import add_master_key, create_master_keys
from protocols.errors import LocalError
from protocols.io.configuration import exit_on_error

master_key_application = typer.Typer(
    name="master-key", help="Master keys for the keys of subscribers.", no_args_is_help=True, add_completion=False
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file of master keys.")]


@master_key_application.command()
@exit_on_error
def init(file: FileArgument) -> None:
    """Make a file with a new master key, which its owner alone may read."""
    create_master_keys(file)
    typer.echo(f"master key 1 made in {file}")


@master_key_application.command("add")
@exit_on_error
def add_key(file: FileArgument) -> None:
    """Add a newer master key; `aaa rekey-database` then seals everything under it."""
    version = add_master_key(file)
    typer.echo(f"master key {version} added to {file}")


@exit_on_error
def rekey_database(
    config: ConfigurationOption = None, database: DatabaseOption = None, master_keys: MasterKeysOption = None
) -> None:
    """Seal the keys of all subscribers under the newest master key, those in clear too."""
    with opened_database(config, database, master_keys) as opened, Progress() as progress:
        try:
            done = opened.rekey(progress.task("sealing", opened.count()))
        except LocalError:
            raise refusal(
                "--master-keys",
                Unshown("nothing"),
                "a file of master keys, or encryption.master_keys in the configuration",
            ) from None
    typer.echo(f"keys of {done} subscribers sealed")
