"""The judge of captures itself: what nodes sent goes before tshark at the end of every run, and it does find faults.

The verdict on all node and interop tests is in ``tests/conftest.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.io.tap import DatagramTap
from protocols.path import Endpoint
from protocols.path import Path as NetworkPath
from protocols.threegpp.observation import record_ike_event
from protocols.trace.recorder import Recorder
from protocols.trace.records import TraceRecord
from tests.harness.pair import Pair
from tests.peers import evidence
from tests.peers.processes import require_program
from tests.peers.tshark import Tshark

HERE = NetworkPath(Endpoint.of("192.0.2.1", 500), Endpoint.of("203.0.113.1", 500))


@pytest.fixture
def kept() -> Iterator[list[list[TraceRecord]]]:
    """The list is the test's own for a while."""
    require_program("tshark")
    others, evidence.KEPT[:] = list(evidence.KEPT), []
    yield evidence.KEPT
    evidence.KEPT[:] = others


def node_of(*extra: bytes) -> list[TraceRecord]:
    """What a UE's trace holds after an attach, with these beside what the machine sent."""
    pair = Pair(seed=1).attach()
    recorder = Recorder("ue", monotonic=lambda: 0.0, wall=lambda: 0.0, export_keys=True)
    tap = DatagramTap(recorder)
    for derived in pair.keys[:1]:
        record_ike_event(recorder, derived, "ue-1")
    for sender, datagram in pair.seen:
        encapsulating = 500 not in (datagram.path.local.port, datagram.path.remote.port)
        octets = bytes(4) + datagram.payload if encapsulating else datagram.payload
        path = datagram.path if sender == "ue" else datagram.path.reversed()
        tap.udp("out" if sender == "ue" else "in", path, octets, encapsulating=encapsulating)
    for octets in extra:
        tap.udp("out", HERE, octets, encapsulating=False)
    tap.udp("in", HERE.reversed(), b"rubbish that a test sent to the node", encapsulating=False)
    return [*recorder.since(0)]


def test_an_attach_is_in_order(kept: list[list[TraceRecord]], tmp_path: Path) -> None:
    """Two nodes of one name, each with sequence numbers of its own; what came in is not judged."""
    kept += [node_of(), node_of()]
    assert list(evidence.complaints(tmp_path, ())) == []
    (directory,) = tmp_path.glob("nodes-*")
    tshark = Tshark(tmp_path, directory / evidence.PROFILE_DIRECTORY)
    kinds = tshark.fields(directory / evidence.CAPTURE_FILE, ("isakmp.exchangetype", "isakmp.enc.decrypted"))
    assert [row["isakmp.exchangetype"][0] for row in kinds] == ["34", "35", "35", "35"] * 2
    assert [bool(row["isakmp.enc.decrypted"]) for row in kinds] == [False, True, True, True] * 2


def test_a_malformed_message_is_found(kept: list[list[TraceRecord]], tmp_path: Path) -> None:
    """A payload that says it is longer than the message; captures with their keys beside them are judged too."""
    message = bytearray(bytes.fromhex("0102030405060708 0000000000000000 21202208 00000000 00000024 0000ffff 00000000"))
    kept.append(node_of(bytes(message)))
    complaints = list(evidence.complaints(tmp_path, ()))
    assert complaints
    assert complaints[0].startswith(f"{tmp_path}/nodes-0/capture.pcapng, frame ")
    kept.clear()
    assert list(evidence.complaints(tmp_path / "none", [tmp_path / "nodes-0"])) == complaints
