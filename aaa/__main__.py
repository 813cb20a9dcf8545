"""``aaa`` as a program: the AAA server and HSS. Its commands: ``aaa.command_line``."""

from __future__ import annotations

from protocols.io.process import starting


def main() -> None:
    """Entry point of the console script."""
    with starting():
        from aaa.command_line import application
        from protocols.io.console import run_application
    run_application(application)


if __name__ == "__main__":
    main()
