"""``ue`` as a program: the emulated UE. Its commands: ``ue.command_line``."""

from __future__ import annotations

from protocols.io.process import run_command_line, starting


def main() -> None:
    """Entry point of the console script."""
    with starting():
        from ue.command_line import application
    run_command_line(application)


if __name__ == "__main__":
    main()
