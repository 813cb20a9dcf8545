"""``ue`` as a program: the emulated UE. Its commands: ``ue.command_line``."""

from __future__ import annotations

from protocols.io.process import starting


def main() -> None:
    """Entry point of the console script."""
    with starting():
        from protocols.io.console import run_application
        from ue.command_line import application
    run_application(application)


if __name__ == "__main__":
    main()
