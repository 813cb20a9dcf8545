"""Trace records as JSON lines: one object a line, in the order they were written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from protocols.errors import DecodeError
from protocols.trace.records import TraceRecord


def encode_line(record: TraceRecord) -> str:
    """One line with its newline."""
    return json.dumps(record.to_json(), allow_nan=False, separators=(",", ":")) + "\n"


def decode_line(line: str) -> TraceRecord:
    """The record on a line; ``DecodeError`` on anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise DecodeError("not a line of JSON") from None
    return TraceRecord.from_json(value)


def decode_lines(lines: Iterable[str]) -> Iterator[TraceRecord]:
    """The records of a file; a last line that was cut off while being written is left out.

    ``DecodeError`` with the line's number on any other line that does not parse.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield decode_line(line)
        except DecodeError as error:
            if not line.endswith("\n"):
                return
            raise DecodeError(f"line {number}: {error}") from None


def in_order(records: Iterable[TraceRecord]) -> list[TraceRecord]:
    """Records of several nodes by wall clock; those of one node keep their own order."""
    return sorted(records, key=lambda record: (record.wall, record.node, record.sequence))
