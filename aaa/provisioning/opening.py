"""Which database a command works on, and what the commands share. A refusal is one line; keys are never echoed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aaa.config import AaaConfiguration
from aaa.subscribers import MasterKeys, SubscriberDatabase
from aaa.subscribers.document import DocumentError
from aaa.subscribers.master_keys import create_master_keys, read_master_keys
from protocols.errors import ConfigurationError
from protocols.io.configuration import load
from protocols.threegpp.identity import Imsi

ConfigurationOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The node's configuration file, for its database.")
]
DatabaseOption = Annotated[str | None, typer.Option("--database", help="An SQLAlchemy URL, such as sqlite:///aaa.db.")]
MasterKeysOption = Annotated[
    Path | None,
    typer.Option("--master-keys", envvar="AAA_MASTER_KEYS", help="The file of master keys, with --database."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImsiArgument = Annotated[str, typer.Argument(metavar="IMSI", help="6 to 15 digits.")]


_log = logging.getLogger(__name__)

MAXIMUM_IMSI_LENGTH = 15  # TS 23.003 §2.2


class Unshown:
    """Stands for a value that is not echoed, or that is absent."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


def refusal(key: str, value: object, expected: str) -> ConfigurationError:
    """A command line that is wrong, in one line."""
    return ConfigurationError(file="command line", key=key, value=value, expected=expected)


def refused_field(error: DocumentError) -> ConfigurationError:
    """The same of a field that an option gave."""
    field, _, _ = error.field.partition(".")
    name = {"imsi": "IMSI", "apns": "--apn", "subscriber": "options"}.get(field, "--" + field.replace("_", "-"))
    return refusal(name, Unshown(error.got), error.expected)


def wanted_imsi(text: str) -> Imsi:
    """The IMSI that is the command's argument."""
    try:
        return Imsi(text)
    except ValueError:
        raise refusal("IMSI", text, "6 to 15 digits") from None


def first_digits(text: str | None) -> str | None:
    """What ``--imsi-prefix`` says."""
    if text is not None and not (text.isascii() and text.isdigit() and len(text) <= MAXIMUM_IMSI_LENGTH):
        raise refusal("--imsi-prefix", text, f"up to {MAXIMUM_IMSI_LENGTH} digits")
    return text


@contextmanager
def unmigrated_database(
    config: Path | None, database: str | None, master_keys: Path | None = None
) -> Iterator[SubscriberDatabase]:
    """The database that ``--database`` or the configuration file names, as it is."""
    file, key = "command line", "--database"
    keys: MasterKeys | None = None
    if database is None:
        if config is None:
            expected = "a database URL, or -c with a configuration file"
            raise refusal("--database", Unshown("nothing"), expected)
        configuration = load(config, AaaConfiguration)
        database, section = configuration.database, configuration.encryption
        file, key = str(config), "database"
        if database is None:
            raise ConfigurationError(file=file, key=key, value=None, expected="a database URL")
        if master_keys is None and section.master_keys is not None:
            master_keys = section.master_keys
            if section.create and not master_keys.exists():
                create_master_keys(master_keys)
    if master_keys is not None:
        keys = read_master_keys(master_keys)
    try:
        opened = SubscriberDatabase(database, keys)
    except ValueError as error:
        expected = f"an SQLAlchemy URL such as sqlite:///aaa.db ({error})"
        hidden = Unshown("a value that is not shown")
        raise ConfigurationError(file=file, key=key, value=hidden, expected=expected) from None
    with opened:
        yield opened


@contextmanager
def opened_database(
    config: Path | None, database: str | None, master_keys: Path | None = None
) -> Iterator[SubscriberDatabase]:
    """The same, its schema brought up to date."""
    with unmigrated_database(config, database, master_keys) as opened:
        opened.migrate()
        yield opened


@contextmanager
def serving_database(config: Path, *, has_subscribers: bool = True) -> Iterator[SubscriberDatabase]:
    """The same for a node that serves, whose log says when keys of subscribers are stored in clear."""
    with opened_database(config, None) as opened:
        in_clear = opened.keys_in_clear()
        if has_subscribers and not opened.seals_keys:
            _log.warning("Keys of subscribers are stored in clear: %s has no encryption.master_keys.", config)
        elif in_clear:
            _log.warning("Keys of %d subscribers are stored in clear: `aaa rekey-database` seals them.", in_clear)
        yield opened
