"""``lab fleet locust``: Locust with the fleet's locustfile, for more machines than one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import typer

from protocols.errors import ConfigurationError

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def run_locust(context: typer.Context) -> None:
    """Run Locust with the fleet's locustfile; every option is Locust's own (and --fleet-… of the file)."""
    if importlib.util.find_spec("locust") is None:
        raise ConfigurationError(
            file="command line", key="locust", value="no such package", expected="pip install '.[fleet]'"
        )
    os.execv(sys.executable, [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *context.args])
