"""Invariant: whatever octets a node has received, their records make a bundle; nothing raises, every file is whole."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.io.tap import DatagramTap
from protocols.path import Endpoint, Path
from protocols.trace.bundle import bundle
from protocols.trace.jsonl import decode_lines
from protocols.trace.recorder import Recorder
from protocols.trace.records import Kind, TraceRecord
from protocols.trace.selection import records_of
from tests.harness.evidence_story import told

PATH = Path(Endpoint.of("203.0.113.1", 4500), Endpoint.of("10.1.0.2", 4500))


def whole(files: dict[str, bytes], count: int) -> None:
    ElementTree.fromstring(files["ladder.svg"])
    assert len(list(decode_lines(files["trace.jsonl"].decode().splitlines(keepends=True)))) == count
    for name in ("capture.pcapng", "decrypted.pcapng"):
        octets, position = files.get(name, b""), 0
        while position < len(octets):  # blocks one after the other, their lengths at both ends
            length = int.from_bytes(octets[position + 4 : position + 8], "little")
            assert length >= 12
            assert octets[position + length - 4 : position + length] == octets[position + 4 : position + 8]
            position += length
        assert position == len(octets)


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=80)), max_size=6))
def test_datagrams_of_any_octets(datagrams: list[tuple[bool, bytes]]) -> None:
    recorder = Recorder("epdg", monotonic=lambda: 0.0, wall=lambda: 5.0)
    tap = DatagramTap(recorder)
    for encapsulating, octets in datagrams:
        tap.udp("in", PATH, octets, encapsulating=encapsulating)
        tap.ip("in", PATH.local.address, PATH.remote.address, octets)
        tap.tcp("in", PATH, octets)
    records = recorder.since(0)
    records_of(records, {"id": "0123456789abcdef"})
    for with_keys in (False, True):
        whole(bundle(records, with_keys=with_keys), len(records))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_datagrams_of_a_session_with_octets_changed(data: st.DataObject) -> None:
    """With the keys that open some of them still."""
    records = list(told(export_keys=True).records[:90])
    places = [place for place, record in enumerate(records) if record.kind is Kind.DATAGRAM]
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=8)):
        records[place] = mangled(data, records[place])
    whole(bundle(records, session=told(export_keys=True).session, with_keys=True), len(records))


def mangled(data: st.DataObject, record: TraceRecord) -> TraceRecord:
    octets = bytearray.fromhex(str(record.body["payload"]))
    if octets:
        octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    del octets[data.draw(st.integers(0, len(octets))) :]
    return replace(record, body={**record.body, "payload": octets.hex()})
