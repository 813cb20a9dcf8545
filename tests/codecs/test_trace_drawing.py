"""The ladder as SVG and Mermaid: whatever a peer writes stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.trace.drawing import ENTRIES, render_svg
from protocols.trace.ladder import build_ladder
from protocols.trace.mermaid import plain, render_mermaid
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind, TraceRecord

# Of Mermaid's sequence diagrams: a participant, a message, a note; text has no character with a meaning but in codes
TEXT = r"(?:[^\W_]|[ ,.()/\[\]_=+*@'?!|:-]|#[0-9]+;)+"
LINE = re.compile(
    rf"sequenceDiagram|    participant c[0-9]+ as {TEXT}|    c[0-9]+--?(?:>>|x)c[0-9]+: {TEXT}"
    rf"|    Note over c[0-9]+: {TEXT}"
)
ODD = [
    '</text><script>alert("x")</script>',
    "a;b#c%%d\nparticipant e\r\n\tend",
    "]]>&amp;<!--",
    "\x00\x1b[31m\ufffe\ud800",
    "wrap: nowrap: x",
    "0001@nai.epc.mnc001.mcc001.3gppnetwork.org",
    "",
    "ПриветA\u202e\u0301",
]


def records(text: str) -> list[TraceRecord]:
    """A gateway that nobody else's trace goes with, and a message, a retransmission and an event with ``text``."""
    recorder = Recorder("epdg", monotonic=lambda: 0.0, wall=lambda: 5.0)
    for retransmission in (False, True):
        body: dict[str, JsonValue] = {
            "protocol": "ikev2",
            "direction": "in",
            "interface": "SWu",
            "peer": text,
            "name": "IKE_AUTH request",
            "summary": f"IKE_AUTH request 1 [ IDi({text}), IDr({text}) ]",
            "detail": {},
            "retransmission": retransmission,
        }
        recorder.record(Kind.MESSAGE, body, text)
    recorder.event("attach-requested", f"{text} asks for {text}", {"nai": text}, text)
    return list(recorder.since(0))


@pytest.mark.parametrize("text", ODD)
def test_odd_characters_stay_text(text: str) -> None:
    ladder = build_ladder(records(text))
    root = ElementTree.fromstring(render_svg(ladder, title=text, subtitle=[text]).encode())
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "line",
        "text",
        "path",
        "circle",
    }
    for line in render_mermaid(ladder).splitlines():
        assert LINE.fullmatch(line), line


@given(st.text())
def test_no_text_breaks_a_line_of_mermaid(text: str) -> None:
    assert re.fullmatch(TEXT, plain(text))
    assert not re.match(r"(no)?wrap:", plain(text), re.IGNORECASE)


def test_the_grammar_of_the_test_refuses_what_would_be_code() -> None:
    for line in ("    c0->>c1: a;b", "    c0->>c1: a#b", "    Note over c0: <b>", "end", "    c0->>c1: "):
        assert not LINE.fullmatch(line)


def test_a_long_ladder_is_cut_and_says_so() -> None:
    recorder = Recorder("epdg", monotonic=lambda: 0.0, wall=lambda: 5.0)
    for number in range(ENTRIES + 7):
        recorder.event("moved", f"Move {number}.", session="s")
    svg = render_svg(build_ladder(recorder.since(0)))
    assert "7 earlier entries are not drawn." in svg
    assert "Move 6." not in svg
    assert "Move 7." in svg
