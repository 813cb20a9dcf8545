"""``epdg`` as a program: the gateway. Its commands: ``epdg.command_line``."""

from __future__ import annotations

import contextlib

from protocols.io.process import run_command_line, starting


def main() -> None:
    """Entry point of the console script."""
    with starting():
        from epdg.command_line import app
    with contextlib.suppress(KeyboardInterrupt):
        run_command_line(app)


if __name__ == "__main__":
    main()
