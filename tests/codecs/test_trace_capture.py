"""Captures and Wireshark profiles as octets and rows; what tshark makes of them is tested in interop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgReader

from protocols.errors import DecodeError, LocalError
from protocols.io.tap import NAT_KEEPALIVE, NON_ESP_MARKER, DatagramTap, classify_udp
from protocols.path import Endpoint
from protocols.path import Path as NetworkPath
from protocols.trace.keys import EspKeysRecord, IkeKeysRecord, WiresharkProfile
from protocols.trace.pcap import CaptureEncoder, checksum, encode_capture
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind, TraceRecord

UE, EPDG = Endpoint.of("192.0.2.1", 40000), Endpoint.of("198.51.100.1", 4500)
NAT = Endpoint.of("203.0.113.9", 61000)
ESP = bytes.fromhex("0102030400000001") + bytes(24)


def node(name: str, instant: float = 1_700_000_000.0) -> tuple[Recorder, DatagramTap]:
    recorder = Recorder(name, monotonic=lambda: 0.0, wall=lambda: instant, export_keys=True)
    return recorder, DatagramTap(recorder)


def packets(octets: bytes, directory: Path) -> list[Packet]:
    file = directory / "capture.pcapng"
    file.write_bytes(octets)
    with PcapNgReader(str(file)) as reader:
        return list(reader)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 255, 1400])
@pytest.mark.parametrize(("source", "destination"), [("192.0.2.1", "198.51.100.1"), ("2001:db8::1", "::1")])
def test_headers_and_checksums_are_what_scapy_computes(
    tmp_path: Path, length: int, source: str, destination: str
) -> None:
    recorder, tap = node("ue")
    payload = bytes(number * 37 % 256 for number in range(length))
    path = NetworkPath(Endpoint.of(source, 500), Endpoint.of(destination, 15000))
    tap.udp("out", path, payload, encapsulating=False)
    tap.tcp("out", path, payload)
    tap.ip("out", path.local.address, path.remote.address, payload)
    found = packets(encode_capture(recorder.since(0)), tmp_path)
    assert len(found) == (6 if payload else 5)  # UDP, three of the handshake, the data, ESP
    for packet in found:
        again = packet.copy()
        for layer, fields in (
            (IP, ("len", "chksum")),
            (IPv6, ("plen",)),
            (UDP, ("len", "chksum")),
            (TCP, ("chksum", "dataofs")),
        ):
            if layer in again:
                for field in fields:
                    delattr(again[layer], field)
        assert bytes(again) == bytes(packet)
    assert bytes(found[0][UDP].payload) == payload


def test_the_internet_checksum_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF  # RFC 1071 §3


def test_one_instant_of_virtual_time_keeps_cause_before_effect(tmp_path: Path) -> None:
    ue, ue_tap = node("ue")
    epdg, epdg_tap = node("epdg")
    there, back = NetworkPath(UE, EPDG), NetworkPath(EPDG, UE)
    for octets in (ESP + b"1", ESP + b"3"):
        ue_tap.udp("out", there, octets, encapsulating=True)
        epdg_tap.udp("in", back, octets, encapsulating=True)
        epdg_tap.udp("out", back, octets + b"answer", encapsulating=True)
        ue_tap.udp("in", there, octets + b"answer", encapsulating=True)
    found = packets(encode_capture(epdg.since(0) + ue.since(0)), tmp_path)
    assert [(packet[IP].src, bytes(packet[UDP].payload)[32:]) for packet in found] == [
        ("192.0.2.1", b"1"),
        ("198.51.100.1", b"1answer"),
        ("192.0.2.1", b"3"),
        ("198.51.100.1", b"3answer"),
    ]


def test_lost_repeated_and_translated_datagrams_stay_visible(tmp_path: Path) -> None:
    ue, ue_tap = node("ue")
    epdg, epdg_tap = node("epdg")
    ue_tap.udp("out", NetworkPath(UE, EPDG), ESP + b"lost", encapsulating=True)
    ue_tap.udp("out", NetworkPath(UE, EPDG), ESP + b"twice", encapsulating=True)
    epdg_tap.udp("in", NetworkPath(EPDG, UE), ESP + b"twice", encapsulating=True)
    epdg_tap.udp("in", NetworkPath(EPDG, UE), ESP + b"twice", encapsulating=True)
    ue_tap.udp("out", NetworkPath(UE, EPDG), ESP + b"translated", encapsulating=True)
    epdg_tap.udp("in", NetworkPath(EPDG, NAT), ESP + b"translated", encapsulating=True)
    found = packets(encode_capture(epdg.since(0) + ue.since(0)), tmp_path)
    seen = sorted((bytes(packet[UDP].payload)[32:], packet[IP].src) for packet in found)
    assert seen == [
        (b"lost", "192.0.2.1"),
        (b"translated", "192.0.2.1"),
        (b"translated", "203.0.113.9"),
        (b"twice", "192.0.2.1"),
        (b"twice", "192.0.2.1"),
    ]


def test_streams_are_numbered_without_holes(tmp_path: Path) -> None:
    recorder, tap = node("epdg")
    path = NetworkPath(Endpoint.of("127.0.0.1", 40000), Endpoint.of("127.0.0.1", 13868))
    tap.tcp("out", path, bytes(130_000))
    tap.tcp("in", path, b"answer")
    tap.tcp("out", path, b"more")
    found = [packet[TCP] for packet in packets(encode_capture(recorder.since(0)), tmp_path)]
    assert [segment.flags for segment in found[:3]] == ["S", "SA", "A"]
    following: dict[int, int] = {}
    for segment in found:
        assert segment.seq == following.get(segment.sport, segment.seq)
        if "A" in segment.flags:
            assert segment.ack == following[segment.dport]
        length = len(segment[Raw].load) if Raw in segment else 0
        following[segment.sport] = segment.seq + length + (1 if "S" in segment.flags else 0)
    assert sum(len(segment[Raw].load) for segment in found if Raw in segment) == 130_010


@pytest.mark.parametrize(
    "change",
    [
        {"direction": "up"},
        {"transport": "dccp"},
        {"local": "nowhere"},
        {"local": "192.0.2.1"},
        {"local": "192.0.2.1:70000"},
        {"local": "192.0.2.300:500"},
        {"remote": None},
        {"remote": "[2001:db8::1]:500"},
        {"payload": "zz"},
        {"payload": None},
    ],
)
def test_a_datagram_record_that_is_none_is_refused(change: dict[str, JsonValue]) -> None:
    recorder, tap = node("ue")
    tap.udp("out", NetworkPath(UE, EPDG), ESP, encapsulating=True)
    (record,) = recorder.since(0)
    CaptureEncoder().encode(record)
    with pytest.raises(DecodeError):
        CaptureEncoder().encode(replace(record, body={**record.body, **change}))


@pytest.mark.parametrize(
    ("octets", "encapsulating", "protocol"),
    [
        (NAT_KEEPALIVE, True, "keepalive"),
        (NON_ESP_MARKER + bytes(28), True, "ikev2"),
        (NON_ESP_MARKER + bytes(27), True, "unknown"),
        (ESP, True, "esp"),
        (ESP[:8], True, "unknown"),
        (bytes(28), False, "ikev2"),
        (bytes(27), False, "unknown"),
        (b"", False, "unknown"),
    ],
)
def test_what_crosses_a_port_is_told_apart(octets: bytes, encapsulating: bool, protocol: str) -> None:
    assert classify_udp(octets, encapsulating=encapsulating) == protocol


# --- Profiles ---------------------------------------------------------------------------------------

IKE = IkeKeysRecord(
    spi_i=b"i" * 8,
    spi_r=b"r" * 8,
    sk_ei=b"\x11" * 16,
    sk_er=b"\x22" * 16,
    sk_ai=b"\x33" * 32,
    sk_ar=b"\x44" * 32,
    encryption="ENCR_AES_CBC",
    encryption_key_bits=128,
    integrity="AUTH_HMAC_SHA2_256_128",
)
CHILD = EspKeysRecord(
    spi=bytes.fromhex("070883c2"),
    source=UE,
    destination=EPDG,
    encryption="ENCR_AES_GCM_16",
    encryption_key=b"\x55" * 20,
    integrity=None,
    integrity_key=b"",
)


def profile(*keys: IkeKeysRecord | EspKeysRecord) -> WiresharkProfile:
    recorder, _ = node("epdg")
    for one in keys:
        recorder.record(Kind.KEYS, one.to_body())
    return WiresharkProfile(recorder.since(0))


def test_rows_as_wireshark_reads_them() -> None:
    files = profile(IKE, CHILD).files()
    assert files["ikev2_decryption_table"] == (
        f'{"69" * 8},{"72" * 8},{"11" * 16},{"22" * 16},"AES-CBC-128 [RFC3602]",'
        f'{"33" * 32},{"44" * 32},"HMAC_SHA2_256_128 [RFC4868]"\n'
    )
    assert files["esp_sa"] == (
        '"IPv4","192.0.2.1","198.51.100.1","0x070883c2","AES-GCM with 16 octet ICV [RFC4106]",'
        f'"0x{"55" * 20}","NULL",""\n'
    )


def test_bodies_come_back() -> None:
    assert IkeKeysRecord.of(IKE.to_body()) == IKE
    assert EspKeysRecord.of(CHILD.to_body()) == CHILD


def test_both_ends_report_one_row_and_a_move_adds_one() -> None:
    moved = replace(CHILD, source=NAT)
    rows = profile(CHILD, CHILD, moved, IKE, IKE).files()
    assert rows["ikev2_decryption_table"].count("\n") == 1
    assert [row.split(",")[1] for row in rows["esp_sa"].splitlines()] == ['"192.0.2.1"', '"203.0.113.9"']


@pytest.mark.parametrize(
    "unfit",
    [
        replace(IKE, sk_ei=b"\x11" * 24),
        replace(IKE, sk_er=b""),
        replace(IKE, sk_ar=b"\x44" * 20),
        replace(IKE, encryption_key_bits=None),
        replace(IKE, encryption_key_bits=256),
        replace(IKE, encryption="ENCR_CHACHA20_POLY1305"),
        replace(IKE, integrity="AUTH_UNKNOWN_99"),
        replace(IKE, integrity=None),
        replace(IKE, spi_r=b""),
        replace(IKE, encryption="ENCR_AES_GCM_16"),
        replace(CHILD, encryption_key=b"\x55" * 16),
        replace(CHILD, encryption="ENCR_CHACHA20_POLY1305"),
        replace(CHILD, encryption="ENCR_AES_CBC", encryption_key=b"\x55" * 16),
        replace(CHILD, spi=b""),
    ],
)
def test_keys_that_do_not_fit_never_become_a_row(unfit: IkeKeysRecord | EspKeysRecord) -> None:
    with pytest.raises(LocalError):
        unfit.row()
    written = profile(unfit, IKE, CHILD)
    assert len(written.omitted) == 1
    for name in ("ikev2_decryption_table", "esp_sa"):
        rows = [row for row in written.files()[name].splitlines() if not row.startswith("#")]
        assert len(rows) == 1
        assert f"# left out: {written.omitted[0]}" in written.files()[name]


def test_an_ike_sa_has_the_row_of_its_last_keys() -> None:
    """Additional key exchanges change the keys of an SA (RFC 9370 §2.2.2), and Wireshark knows one set for each."""
    later = replace(IKE, sk_ei=b"\x99" * 16)
    written = profile(IKE, IKE, later, later).files()["ikev2_decryption_table"]
    assert written == later.row() + "\n"


@pytest.mark.parametrize(
    "change",
    [
        {"table": "tls"},
        {"sk_ei": "xyz"},
        {"sk_ei": None},
        {"encryption": 12},
        {"encryption_key_bits": "128"},
    ],
)
def test_a_keys_record_that_is_none_is_refused(change: dict[str, JsonValue]) -> None:
    record = TraceRecord(
        sequence=1, monotonic=0.0, wall=0.0, node="ue", kind=Kind.KEYS, body={**IKE.to_body(), **change}
    )
    with pytest.raises(DecodeError):
        WiresharkProfile([record])


def test_decode_as_names_few_ports_and_no_standard_ones() -> None:
    recorder, tap = node("epdg")
    for client, server, octets, encapsulating in (
        (40001, 14500, ESP, True),
        (40002, 14500, NON_ESP_MARKER + bytes(28), True),
        (40001, 15000, b"spi" + bytes(25), False),
        (40003, 15000, b"spi" + bytes(25), False),
        (40004, 4500, ESP, True),
        (500, 500, b"spi" + bytes(25), False),
    ):
        path = NetworkPath(Endpoint.of("127.0.1.1", server), Endpoint.of("127.0.2.1", client))
        tap.udp("in", path, octets, encapsulating=encapsulating)
    for client in (50001, 50002):
        tap.tcp("in", NetworkPath(Endpoint.of("127.0.0.1", 13868), Endpoint.of("127.0.0.1", client)), b"x")
    assert WiresharkProfile(recorder.since(0)).files()["decode_as_entries"].splitlines() == [
        "decode_as_entry: udp.port,15000,(none),ISAKMP",
        "decode_as_entry: udp.port,14500,(none),UDPENCAP",
        "decode_as_entry: tcp.port,13868,(none),Diameter",
    ]
