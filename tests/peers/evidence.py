"""What our nodes sent in the tests, kept from their traces when they end, and all captures, before tshark at the end.

Nodes hold their records in memory and give them to who asks: the harness asks each node before it ends it. Only
what a node *sent* is judged: tests send it all kinds of rubbish. Captures that ``lab demo`` has written are
judged as they are, each with the keys that lie beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from protocols.errors import BackendError, DecodeError
from protocols.io.control import ControlClient, ControlError
from protocols.io.evidence import CAPTURE_FILE, PROFILE_DIRECTORY, write_profile
from protocols.trace.keys import WiresharkProfile
from protocols.trace.pcap import encode_capture
from protocols.trace.records import STREAMS, Kind, TraceRecord
from tests.peers.tshark import Tshark

RECORDS_PER_NODE = 2000
ANSWER_INTERVAL = 5.0
# tshark 4.0 reads CRLs and OCSP responses (encodings 7 and 14) as if they were certificates
OTHER_CERTIFICATES = "isakmp.cert.encoding in {7, 14} && isakmp.typepayload == 37"

KEPT: list[list[TraceRecord]] = []
"""The records of every node that has ended."""


def keep(control: Path) -> None:
    """Ask a node that is about to end for its trace; one that does not answer has none."""
    with ThreadPoolExecutor(1) as thread:  # the caller may be on an event loop
        records = thread.submit(lambda: asyncio.run(_records(control))).result()
    if records:
        KEPT.append(records)


async def _records(control: Path) -> list[TraceRecord]:
    found: list[TraceRecord] = []
    kinds = (Kind.DATAGRAM, Kind.KEYS)
    with contextlib.suppress(BackendError, ControlError, DecodeError, TimeoutError):
        async with asyncio.timeout(ANSWER_INTERVAL):
            client = ControlClient(control)
            standing = await client.call("trace.subscribe")
            last = standing.get("sequence") if isinstance(standing, dict) else None
            if not isinstance(last, int):
                return found
            async with contextlib.aclosing(client.subscribe(0)) as stream:
                async for record in stream:
                    if record.kind in kinds and len(found) < RECORDS_PER_NODE:
                        found.append(record)
                    if record.sequence >= last:
                        break
    return found


def complaints(scratch: Path, evidence: Iterable[Path]) -> Iterator[str]:
    """What tshark finds malformed or in error, in what nodes sent and in directories of evidence."""
    for number, batch in enumerate(_batches()):
        directory = scratch / f"nodes-{number}"
        directory.mkdir()
        (directory / CAPTURE_FILE).write_bytes(encode_capture(batch))
        write_profile(directory / PROFILE_DIRECTORY, WiresharkProfile(batch))
        yield from _judge(directory)
    for directory in evidence:
        yield from _judge(directory)


def _sent(record: TraceRecord) -> bool:
    return record.kind is Kind.KEYS or (
        record.body.get("direction") == "out" and record.body.get("transport") not in STREAMS
    )


def _batches() -> Iterator[list[TraceRecord]]:
    """Nodes with the same use of ports share a capture: what a port means holds for a whole one."""
    batches: dict[str, list[TraceRecord]] = {}
    for number, records in enumerate(KEPT):
        # nodes of two tests may have one name; their sequence numbers say nothing about each other
        sent = [replace(record, node=f"{record.node}-{number}") for record in records if _sent(record)]
        ports = WiresharkProfile(sent).files()["decode_as_entries"]
        if any(record.kind is Kind.DATAGRAM for record in sent):
            batches.setdefault(ports, []).extend(sent)
    yield from batches.values()


def _judge(directory: Path) -> Iterator[str]:
    capture, profile = directory / CAPTURE_FILE, directory / PROFILE_DIRECTORY
    if not profile.is_dir():
        return
    tshark = Tshark(directory, profile)
    found = tshark.complaints(capture)
    if found:
        others = tshark.fields(capture, ("frame.number",), display_filter=OTHER_CERTIFICATES)
        passed = tuple(f"frame {row['frame.number'][0]}:" for row in others)
        yield from (f"{capture}, {line}" for line in found if not line.startswith(passed))
