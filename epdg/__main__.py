"""``epdg`` as a program: the gateway. Its commands: ``epdg.command_line``."""

from __future__ import annotations

import contextlib

from protocols.io.process import starting


def main() -> None:
    """Entry point of the console script."""
    with starting():
        from epdg.command_line import app
        from protocols.io.console import run_application
    with contextlib.suppress(KeyboardInterrupt):
        run_application(app)


if __name__ == "__main__":
    main()
