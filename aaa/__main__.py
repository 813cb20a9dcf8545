"""``aaa`` as a program: the AAA server and HSS. Its commands: ``aaa.command_line``."""

from __future__ import annotations

from protocols.io.process import run_command_line, starting


def main() -> None:
    """Entry point of the console script."""
    with starting():
        from aaa.command_line import application
    run_command_line(application)


if __name__ == "__main__":
    main()
