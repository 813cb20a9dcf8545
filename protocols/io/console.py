"""Console scripts of typer's: what is wrong with the words of a command is one line and exit status 2 as well."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

import typer

from protocols.errors import printable
from protocols.io.process import run_command_line

EXIT_ABORTED = 1
# its base, by which all of them are caught, has no public name
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])


def run_application(application: typer.Typer) -> None:
    """Run ``application`` to the end of the process; ``--help`` is typer's, as is what is said without any word."""
    run_command_line(lambda: sys.exit(status_of(application)))


def status_of(application: typer.Typer, words: Sequence[str] | None = None) -> int:
    """Run ``application``, with the words of the process's command line by default; the exit status."""
    try:
        return application(args=words, standalone_mode=False) or 0
    except UsageError as error:
        message = " ".join(error.format_message().split())
        if message:  # the help has been shown instead, where there is none
            command = "" if error.ctx is None else f"{error.ctx.command_path}: "
            print(printable(f"{command}{message[0].lower()}{message[1:]}"), file=sys.stderr)
        return error.exit_code
    except typer.Abort:
        return EXIT_ABORTED
