"""Evidence of a run on disk: the records, a capture, the profile that decrypts it, the ladder.

``DIR/trace.jsonl``, ``DIR/capture.pcapng``, ``DIR/ladder.txt``, ``DIR/ladder.json`` and
``DIR/wireshark-profile/`` (``WIRESHARK_CONFIG_DIR=DIR/wireshark-profile wireshark DIR/capture.pcapng``).
Files are for their owner alone: with key export on they hold secrets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TextIO

from protocols.errors import BackendError
from protocols.trace import jsonl
from protocols.trace.keys import WiresharkProfile
from protocols.trace.ladder import build_ladder, render_text
from protocols.trace.pcap import CaptureEncoder, encode_capture
from protocols.trace.records import TraceRecord

TRACE_FILE = "trace.jsonl"
CAPTURE_FILE = "capture.pcapng"
LADDER_TEXT_FILE = "ladder.txt"
LADDER_JSON_FILE = "ladder.json"
PROFILE_DIRECTORY = "wireshark-profile"


class EvidenceWriter:
    """Collects the records of one or several nodes in a directory; ``close()`` writes what needs all.

    ``add`` appends to ``trace.jsonl`` at once, so that an aborted run leaves its trace. Files that can
    not be written raise ``BackendError``.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._trace: TextIO | None = open(  # noqa: SIM115 - held until close()
                self.directory / TRACE_FILE, "w", encoding="utf-8", buffering=1, opener=_private
            )
        except OSError as problem:
            raise _failed(self.directory, problem) from None

    def add(self, record: TraceRecord) -> None:
        """Take one record of any node; after ``close()`` records are let go."""
        if self._trace is None:
            return
        try:
            self._trace.write(jsonl.encode_line(record))
        except OSError as problem:
            raise _failed(self.directory, problem) from None

    def close(self) -> None:
        """Write the capture, the profile and the ladder from all records taken."""
        if self._trace is None:
            return
        try:
            self._trace.close()
            self._trace = None
            records = read_trace(self.directory / TRACE_FILE)
            _write(self.directory / CAPTURE_FILE, encode_capture(records))
            write_profile(self.directory / PROFILE_DIRECTORY, WiresharkProfile(records))
            ladder = build_ladder(records)
            _write(self.directory / LADDER_TEXT_FILE, render_text(ladder).encode())
            _write(self.directory / LADDER_JSON_FILE, json.dumps(ladder.to_json(), indent=1).encode())
        except OSError as problem:
            raise _failed(self.directory, problem) from None

    def __enter__(self) -> EvidenceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CaptureFile:
    """A capture that grows with a running node: subscribe ``add`` to its recorder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._encoder = CaptureEncoder()
        try:
            self._file: BinaryIO | None = open(  # noqa: SIM115 - held until close()
                self.path, "wb", buffering=0, opener=_private
            )
            self._file.write(self._encoder.start())
        except OSError as problem:
            raise _failed(self.path, problem) from None

    def add(self, record: TraceRecord) -> None:
        """Append the record's packets, if it has any."""
        if self._file is None:
            return
        try:
            self._file.write(self._encoder.encode(record))
        except OSError as problem:
            raise _failed(self.path, problem) from None

    def close(self) -> None:
        """Close the file; later records are let go."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_evidence(directory: Path | str, records: Iterable[TraceRecord]) -> None:
    """Write the evidence of a finished run."""
    with EvidenceWriter(directory) as writer:
        for record in jsonl.in_order(records):
            writer.add(record)


def write_profile(directory: Path, profile: WiresharkProfile) -> None:
    """Write a Wireshark configuration directory; its keys are for the owner alone."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, text in profile.files().items():
            _write(directory / name, text.encode())
    except OSError as problem:
        raise _failed(directory, problem) from None


def read_trace(path: Path | str) -> list[TraceRecord]:
    """The records of a ``trace.jsonl``; ``BackendError`` when unreadable, ``DecodeError`` when wrong."""
    try:
        with open(path, encoding="utf-8") as lines:
            return list(jsonl.decode_lines(lines))
    except OSError as problem:
        raise _failed(Path(path), problem) from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write(path: Path, octets: bytes) -> None:
    with open(path, "wb", opener=_private) as file:
        file.write(octets)


def _failed(path: Path, problem: OSError) -> BackendError:
    return BackendError(f"{path}: cannot be written or read: {problem.strerror or problem}")
