"""What a person at a terminal sees: one line for each record, whatever a gateway has written of it."""

from __future__ import annotations

import io

from rich.console import Console

from protocols.trace.recorder import Recorder
from ue.narration import Narrator

HOSTILE = "a\nb\x1b[2J\x00"
SHOWN = r"a\nb\x1b[2J\x00"


def test_a_gateways_words_make_no_lines_and_command_no_terminal() -> None:
    written = io.StringIO()
    narrator = Narrator(Console(file=written, soft_wrap=True, highlight=False, width=200))
    recorder = Recorder("ue", monotonic=lambda: 0.0, wall=lambda: 0.0)
    recorder.event("refused", f"It says that it is {HOSTILE}.")
    for record in recorder.since(0):
        narrator.take(record)
    narrator.say(f"no: {HOSTILE}")
    narrator.session({"state": "established", "application_version": HOSTILE})
    lines = written.getvalue().splitlines()
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert sum(SHOWN in line for line in lines) == 3
