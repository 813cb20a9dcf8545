"""Provisioning from the command line: ``aaa subscriber …``, ``aaa master-key …``, ``aaa rekey-database``."""

from __future__ import annotations

from aaa.provisioning.commands import application
from aaa.provisioning.keys import master_key_application, rekey_database
from aaa.provisioning.opening import (
    ConfigurationOption,
    DatabaseOption,
    JsonOption,
    MasterKeysOption,
    Unshown,
    opened_database,
    refusal,
    serving_database,
    unmigrated_database,
)
from aaa.provisioning.transfer import add_transfer_commands

__all__ = [
    "ConfigurationOption",
    "DatabaseOption",
    "JsonOption",
    "MasterKeysOption",
    "Unshown",
    "application",
    "master_key_application",
    "opened_database",
    "refusal",
    "rekey_database",
    "serving_database",
    "unmigrated_database",
]

add_transfer_commands(application)
