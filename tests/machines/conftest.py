"""Every datagram that the ends of a ``Pair`` send in this suite ends up before tshark, which must find nothing wrong.

One capture and one key table for all tests; the verdict belongs to the last test of the suite. Octets that a
test injects itself, to be dropped, do not come from an end and are not in the capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet
from scapy.utils import PcapWriter

from protocols.errors import LocalError
from protocols.path import Datagram
from protocols.trace.keys import IkeKeysRecord
from tests.harness import pair
from tests.peers.processes import find_program
from tests.peers.tshark import Tshark

DATAGRAMS_PER_PAIR = 400
MARKER = bytes(4)  # RFC 3948 §2.2
LINKTYPE_RAW = 101


class Wire:
    """The capture of the whole suite."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.capture = scratch / "machines.pcap"
        self.rows: dict[str, None] = {}
        self.datagrams = 0
        self._writer = PcapWriter(str(self.capture), linktype=LINKTYPE_RAW, sync=False)

    def add(self, made: pair.Pair) -> None:
        """What the ends of a pair sent, and their keys."""
        for keys in made.keys:
            if len({each.keys for each in made.keys if (each.spi_i, each.spi_r) == (keys.spi_i, keys.spi_r)}) > 1:
                continue  # Wireshark has one row for an SA, and IKE_INTERMEDIATE changes its keys (RFC 9242 §3.3.1)
            record = IkeKeysRecord(
                spi_i=keys.spi_i,
                spi_r=keys.spi_r,
                sk_ei=keys.keys.sk_ei.reveal(),
                sk_er=keys.keys.sk_er.reveal(),
                sk_ai=keys.keys.sk_ai.reveal(),
                sk_ar=keys.keys.sk_ar.reveal(),
                encryption=keys.suite.encryption.name,
                encryption_key_bits=keys.suite.encryption_key_bits,
                integrity=None if keys.suite.integrity is None else keys.suite.integrity.name,
            )
            try:
                self.rows[record.row()] = None
            except LocalError:
                continue  # an algorithm that Wireshark has not
        for _, datagram in made.seen[:DATAGRAMS_PER_PAIR]:
            self._writer.write(bytes(packet_of(datagram)))
            self.datagrams += 1

    def complaints(self) -> list[str]:
        """What tshark finds malformed or in error."""
        self._writer.close()
        profile = self.scratch / "profile"
        profile.mkdir()
        (profile / "ikev2_decryption_table").write_text("".join(f"{row}\n" for row in self.rows))
        tshark = Tshark(self.scratch, profile)
        # tshark 4.0 reads CRLs and OCSP responses (encodings 7 and 14) as if they were certificates, and puts fragments
        # of both ends' messages together that have one Message ID
        other = tshark.fields(
            self.capture,
            ("frame.number",),
            display_filter="(isakmp.cert.encoding in {7, 14} && isakmp.typepayload == 37)"
            " || isakmp.fragment.overlap.conflicts",
        )
        passed = tuple(f"frame {row['frame.number'][0]}:" for row in other)
        # and the EAP of these tests is a script that no method would know
        complaints = [
            line
            for line in tshark.complaints(self.capture)
            if not line.startswith(passed) and "[Malformed Packet: EAP" not in line
        ]
        if self.rows and not tshark.fields(
            self.capture, ("frame.number",), display_filter="isakmp.typepayload == 46 && isakmp.enc.decrypted"
        ):
            complaints.append("nothing was decrypted")
        return complaints


def packet_of(datagram: Datagram) -> Packet:
    """A datagram as it would cross the wire; the marker is the driver's to add."""
    source, destination = datagram.path.local, datagram.path.remote
    payload = datagram.payload
    if 500 not in (source.port, destination.port) and payload != b"\xff":
        payload = MARKER + payload
    layer = IP if source.address.version == 4 else IPv6
    return (
        layer(src=str(source.address), dst=str(destination.address))
        / UDP(sport=source.port, dport=destination.port)
        / payload
    )


@pytest.fixture(scope="session")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire | None]:
    """The capture, judged at the end; ``None`` where tshark is not installed."""
    if find_program("tshark") is None:
        yield None
        return
    made = Wire(tmp_path_factory.mktemp("wire"))
    yield made
    complaints = made.complaints()
    assert not complaints, f"tshark, of {made.datagrams} datagrams: " + "\n".join(complaints[:20])


@pytest.fixture(autouse=True)
def _every_datagram_is_judged(wire: Wire | None) -> Iterator[None]:
    pair.PAIRS.clear()
    yield
    if wire is not None:
        for made in pair.PAIRS:
            wire.add(made)
    pair.PAIRS.clear()
