"""``python -m lab.fleet``: one process of a fleet without the rest of the laboratory, so that it is soon there."""

from __future__ import annotations

import typer

from lab.fleet.serving import serve_command
from protocols.io.console import run_application


def main() -> None:
    """Entry point."""
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    application.command()(serve_command)
    run_application(application)


if __name__ == "__main__":
    main()
