"""Log lines of a node, for people and for machines; the operating system's clocks and randomness."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from protocols.io.clock import SystemClock
from protocols.io.entropy import SystemEntropy
from protocols.io.logging import SESSION, start_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = tuple(root.handlers), root.level
    yield io.StringIO()
    for handler in tuple(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def test_machines_read_one_object_a_line(stream: io.StringIO) -> None:
    start_logging("epdg", machine_readable=True, stream=stream)
    logging.getLogger("a.room").debug("not shown")
    try:
        raise ZeroDivisionError("of ours")
    except ZeroDivisionError:
        logging.getLogger("a.room").exception("two\nlines of %s", "text")
    (line,) = stream.getvalue().splitlines()
    value = json.loads(line)
    assert (value["node"], value["level"], value["logger"]) == ("epdg", "error", "a.room")
    assert value["text"] == "two\nlines of text"
    assert "session" not in value
    moment = datetime.fromisoformat(value["time"])
    assert moment.utcoffset() == timedelta(0)
    assert value["traceback"].endswith("ZeroDivisionError: of ours")


def test_a_line_about_a_session_has_its_id(stream: io.StringIO) -> None:
    start_logging("epdg", machine_readable=True, stream=stream)
    logging.getLogger("a.room").info("it moved", extra={SESSION: "12ab"})
    assert list(json.loads(stream.getvalue())) == ["time", "level", "node", "logger", "session", "text"]
    assert json.loads(stream.getvalue())["session"] == "12ab"


def test_what_a_peer_wrote_makes_no_line_of_its_own(stream: io.StringIO) -> None:
    start_logging("aaa", stream=stream)
    logging.getLogger("a.room").warning("it said %s", "no\n2026-01-01 aaa INFO: all is well\x1b[2J\udcff é")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r" aaa WARNING a.room: it said no\n2026-01-01 aaa INFO: all is well\x1b[2J\udcff é")


def test_starting_again_replaces_the_former_log(stream: io.StringIO) -> None:
    former = io.StringIO()
    start_logging("ue", stream=former)
    start_logging("ue", level=logging.WARNING, stream=stream)
    logging.getLogger("a.room").info("not shown")
    logging.getLogger("a.room").warning("shown")
    assert former.getvalue() == ""
    assert stream.getvalue().endswith(" ue WARNING a.room: shown\n")


def test_the_systems_clocks_and_randomness() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    assert clock.monotonic() >= before
    assert abs(clock.moment().timestamp() - clock.wall()) < 60
    entropy = SystemEntropy()
    assert len(entropy.octets(48)) == 48
    assert entropy.octets(16) != entropy.octets(16)
