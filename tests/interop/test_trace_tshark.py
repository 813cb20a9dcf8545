"""tshark opens the captures and profiles that the trace writes, and decrypts them."""

from __future__ import annotations

import csv
import stat
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.utils import rdpcap

from protocols.diameter.codec import Avp, DiameterMessage, encode_message
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode
from protocols.diameter.events import Direction
from protocols.diameter.uri import Transport
from protocols.entropy import SeededEntropy
from protocols.esp.packet import sealer_of
from protocols.ikev2.events import MessageSent
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, encode_payloads
from protocols.ikev2.proposals import IkePolicy
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.sealer import Sealer
from protocols.ikev2.suites import EspSuite, IkeSuite
from protocols.io.diameter import Traffic
from protocols.io.evidence import CaptureFile, write_evidence
from protocols.io.tap import NAT_KEEPALIVE, NON_ESP_MARKER, DatagramTap
from protocols.path import Endpoint
from protocols.path import Path as NetworkPath
from protocols.secret import Secret
from protocols.trace.keys import EspKeysRecord, IkeKeysRecord, WiresharkProfile
from protocols.trace.recorder import Recorder
from protocols.trace.records import Kind, TraceRecord
from tests.harness.material import shared
from tests.harness.pair import Pair, initiator_config, responder_config
from tests.peers.tshark import Tshark

pytestmark = pytest.mark.peer

EPDG = Endpoint.of("127.0.1.1", 14500)
UE_A = Endpoint.of("127.0.2.1", 14500)
UE_B = Endpoint.of("127.0.3.1", 40123)
SPI_I, SPI_R = bytes.fromhex("0123456789abcdef"), bytes.fromhex("fedcba9876543210")
ESP_SPI = bytes.fromhex("070883c2")
WIRESHARK_INTEGRITY = {
    "HMAC_SHA1_96 [RFC2404]": "AUTH_HMAC_SHA1_96",
    "HMAC_SHA2_256_128 [RFC4868]": "AUTH_HMAC_SHA2_256_128",
    "HMAC_SHA2_384_192 [RFC4868]": "AUTH_HMAC_SHA2_384_192",
    "HMAC_SHA2_512_256 [RFC4868]": "AUTH_HMAC_SHA2_512_256",
    "ANY 96-bits of Authentication [No Checking]": "AUTH_AES_XCBC_96",
}


class Observer:
    """One node's recorder on clocks that a test moves, with everything it recorded."""

    def __init__(self, node: str) -> None:
        self.now = 1_700_000_000.0
        self.recorder = Recorder(node, monotonic=self._clock, wall=self._clock, export_keys=True)
        self.tap = DatagramTap(self.recorder)

    def _clock(self) -> float:
        self.now += 0.001
        return self.now

    @property
    def records(self) -> tuple[TraceRecord, ...]:
        return self.recorder.since(0)

    def keys(self, keys: IkeKeysRecord | EspKeysRecord) -> None:
        self.recorder.record(Kind.KEYS, keys.to_body())


def judge(directory: Path, records: tuple[TraceRecord, ...]) -> tuple[Tshark, Path]:
    """tshark with the profile written from these records, and their capture."""
    write_evidence(directory / "evidence", records)
    return Tshark(directory, directory / "evidence/wireshark-profile"), directory / "evidence/capture.pcapng"


def secret(length: int, seed: str) -> bytes:
    return SeededEntropy(seed).octets(length)


# --- IKEv2 ------------------------------------------------------------------------------------------


def aosp_rows() -> list[IkeKeysRecord]:
    table = shared("captures/aosp_cts_ikev2.ikev2_decryption_table").read_text()
    keys = []
    for spi_i, spi_r, sk_ei, sk_er, name, sk_ai, sk_ar, integrity in csv.reader(table.splitlines()):
        assert name.startswith("AES-CBC-"), name
        keys.append(
            IkeKeysRecord(
                spi_i=bytes.fromhex(spi_i),
                spi_r=bytes.fromhex(spi_r),
                sk_ei=bytes.fromhex(sk_ei),
                sk_er=bytes.fromhex(sk_er),
                sk_ai=bytes.fromhex(sk_ai),
                sk_ar=bytes.fromhex(sk_ar),
                encryption="ENCR_AES_CBC",
                encryption_key_bits=int(name.split("-")[2].split()[0]),
                integrity=WIRESHARK_INTEGRITY[integrity],
            )
        )
    return keys


def test_a_published_capture_rewritten_on_other_ports_decrypts_the_same(tmp_path: Path) -> None:
    source = shared("captures/aosp_cts_ikev2.pcap")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    table = shared("captures/aosp_cts_ikev2.ikev2_decryption_table").read_text()
    (theirs / "ikev2_decryption_table").write_text(table)
    observer = Observer("epdg")
    # a row that does not fit would silently drop all that follow
    observer.keys(
        IkeKeysRecord(
            spi_i=SPI_I,
            spi_r=SPI_R,
            sk_ei=bytes(36),
            sk_er=bytes(36),
            sk_ai=b"",
            sk_ar=b"",
            encryption="ENCR_CHACHA20_POLY1305",
            encryption_key_bits=None,
            integrity=None,
        )
    )
    for row in aosp_rows():
        observer.keys(row)
    for packet in rdpcap(str(source)):
        ports = {500: 15000, 4500: 14500}
        path = NetworkPath(
            Endpoint.of(packet[IP].src, ports[packet[UDP].sport]),
            Endpoint.of(packet[IP].dst, ports[packet[UDP].dport]),
        )
        octets = bytes(packet[UDP].payload)
        observer.tap.udp("out", path, octets, encapsulating=packet[UDP].sport == 4500)

    ours, capture = judge(tmp_path, observer.records)
    names = ("isakmp.messageid", "isakmp.typepayload", "isakmp.enc.decrypted", "isakmp.notify.msgtype")
    seen = ours.fields(capture, names)
    assert seen == Tshark(tmp_path, theirs).fields(source, names)
    assert sum(bool(row["isakmp.enc.decrypted"]) for row in seen) >= 20
    assert ours.complaints(capture) == []


@pytest.mark.parametrize(
    "text",
    [
        "aes128-sha256-x25519",
        "aes256-sha512-ecp256",
        "aes256gcm16-prfsha256-x25519",
        "3des-sha1-modp1024",
        "aes192ctr-sha384-x25519",
        "aes128-aesxcbc-x25519",
        "aes256ctr-aescmac-x25519",
        "aes128gcm8-prfsha256-x25519",
        "aes192gcm12-prfsha256-x25519",
        "aes128ccm8-prfsha256-x25519",
        "aes192ccm12-prfsha256-x25519",
        "aes256ccm16-prfsha256-x25519",
    ],
)
def test_ike_messages_before_and_after_a_move_are_decrypted(tmp_path: Path, text: str) -> None:
    suite = IkeSuite.of(text)
    integrity = secret(suite.integrity_key_length, "ai"), secret(suite.integrity_key_length, "ar")
    encryption = secret(suite.encryption_key_length, "ei"), secret(suite.encryption_key_length, "er")
    keys = IkeKeys(
        sk_d=Secret(b""),
        sk_ai=Secret(integrity[0]),
        sk_ar=Secret(integrity[1]),
        sk_ei=Secret(encryption[0]),
        sk_er=Secret(encryption[1]),
        sk_pi=Secret(b""),
        sk_pr=Secret(b""),
    )
    ends = {flag: Sealer(suite, keys, flag, SeededEntropy("iv")) for flag in (True, False)}
    ue, epdg = Observer("ue"), Observer("epdg")
    for observer in (ue, epdg):
        observer.keys(
            IkeKeysRecord(
                spi_i=SPI_I,
                spi_r=SPI_R,
                sk_ei=encryption[0],
                sk_er=encryption[1],
                sk_ai=integrity[0],
                sk_ar=integrity[1],
                encryption=suite.encryption.name,
                encryption_key_bits=suite.encryption_key_bits,
                integrity=None if suite.integrity is None else suite.integrity.name,
            )
        )
    for message_id, place in enumerate((UE_A, UE_B)):
        for response in (False, True):
            message = Message(
                spi_i=SPI_I,
                spi_r=SPI_R,
                exchange=ExchangeType.INFORMATIONAL,
                original_initiator=not response,
                response=response,
                message_id=message_id,
                payloads=() if response else (NotifyPayload(NotifyType.UPDATE_SA_ADDRESSES),),
            )
            octets = NON_ESP_MARKER + ends[not response].seal(message)
            sender, receiver = (epdg, ue) if response else (ue, epdg)
            local, remote = (EPDG, place) if response else (place, EPDG)
            sender.tap.udp("out", NetworkPath(local, remote), octets, encapsulating=True)
            receiver.tap.udp("in", NetworkPath(remote, local), octets, encapsulating=True)

    tshark, capture = judge(tmp_path, ue.records + epdg.records)
    rows = tshark.fields(
        capture, ("ip.src", "isakmp.notify.msgtype", "isakmp.enc.decrypted", "isakmp.ispi", "isakmp.flag_r")
    )
    assert [row["ip.src"][0] for row in rows] == ["127.0.2.1", "127.0.1.1", "127.0.3.1", "127.0.1.1"]
    assert [row["isakmp.notify.msgtype"] for row in rows] == [["16400"], [], ["16400"], []]
    assert tshark.complaints(capture) == []


@pytest.mark.parametrize("text", ["aes128-sha256-x25519", "aes256gcm16-prfsha256-ecp256"])
def test_a_fragmented_attach_is_put_together_and_decrypted(tmp_path: Path, text: str) -> None:
    """RFC 7383: every IKE_AUTH message in SKF payloads, with tshark's own reassembly."""
    policy = {"ike_policy": IkePolicy((IkeSuite.of(text),)), "fragment_size": 256}
    pair = Pair(initiator_config(**policy), responder_config(**policy)).attach()
    suite, keys = pair.ue.live.established_keys()
    observer = Observer("ue")
    observer.keys(
        IkeKeysRecord(
            spi_i=pair.ue.live.spi_i,
            spi_r=pair.ue.live.spi_r,
            sk_ei=keys.sk_ei.reveal(),
            sk_er=keys.sk_er.reveal(),
            sk_ai=keys.sk_ai.reveal(),
            sk_ar=keys.sk_ar.reveal(),
            encryption=suite.encryption.name,
            encryption_key_bits=suite.encryption_key_bits,
            integrity=None if suite.integrity is None else suite.integrity.name,
        )
    )
    for _, datagram in pair.seen:
        encapsulating = datagram.path.local.port == 4500
        octets = (NON_ESP_MARKER if encapsulating else b"") + datagram.payload
        observer.tap.udp("out", datagram.path, octets, encapsulating=encapsulating)

    tshark, capture = judge(tmp_path, observer.records)
    whole = "isakmp.reassembled.length"
    names = ("isakmp.messageid", "isakmp.flag_r", "isakmp.fragment.count", whole, "isakmp.typepayload")
    seen = {
        (int(row["isakmp.messageid"][0], 16), row["isakmp.flag_r"][0] in ("1", "True")): row
        for row in tshark.fields(capture, names)
        if row[whole]
    }
    sent = [e for node in (pair.ue, pair.epdg) for e in node.events if isinstance(e, MessageSent) and e.fragments > 1]
    assert len(sent) == len(seen) == 2
    for event in sent:
        message = event.message
        row = seen[message.message_id, message.response]
        assert row["isakmp.fragment.count"] == [str(event.fragments)]
        assert row[whole] == [str(len(encode_payloads(message.payloads)[1]))]
        kinds = [int(kind) for kind in row["isakmp.typepayload"]]
        assert [kind for kind in kinds if kind in {int(p.payload_type) for p in message.payloads}] == [
            int(payload.payload_type) for payload in message.payloads
        ]
    assert tshark.complaints(capture) == []


# --- ESP --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "3des-sha1",
        "aes128ctr-sha256",
        "aes256ctr-aesxcbc",
        "aes192-aescmac",
        "null-sha384",
        "aes128gcm8",
        "aes256gcm12",
    ],
)
def test_esp_of_ours_is_decrypted(tmp_path: Path, text: str) -> None:
    """Suites beyond those that Scapy and tshark both know, sealed by ourselves."""
    suite = EspSuite.of(text)
    key, integrity_key = secret(suite.encryption_key_length, "esp"), secret(suite.integrity_key_length, "auth")
    observer = Observer("ue")
    observer.keys(
        EspKeysRecord(
            spi=ESP_SPI,
            source=UE_A,
            destination=EPDG,
            encryption=suite.encryption.name,
            encryption_key=key,
            integrity=None if suite.integrity is None else suite.integrity.name,
            integrity_key=integrity_key,
        )
    )
    sealer = sealer_of(suite, ESP_SPI, Secret(key), Secret(integrity_key), SeededEntropy("iv"))
    inner = bytes(IP(src="10.45.0.2", dst="10.45.0.1") / ICMP() / b"abcdefgh")
    for sequence in (1, 2):
        octets = sealer.seal(sequence, inner, 4)
        observer.tap.udp("out", NetworkPath(UE_A, EPDG), octets, encapsulating=True)
    tshark, capture = judge(tmp_path, observer.records)
    rows = tshark.fields(capture, ("frame.protocols", "esp.sequence", "icmp.type"), display_filter="esp")
    assert [(row["esp.sequence"], row["icmp.type"]) for row in rows] == [(["1"], ["8"]), (["2"], ["8"])]
    assert tshark.complaints(capture) == []


ESP_SUITES = [
    ("AES-CBC", 16, "SHA2-256-128", "ENCR_AES_CBC", "AUTH_HMAC_SHA2_256_128", 32),
    ("AES-CBC", 32, "HMAC-SHA1-96", "ENCR_AES_CBC", "AUTH_HMAC_SHA1_96", 20),
    ("AES-GCM", 20, "NULL", "ENCR_AES_GCM_16", None, 0),
]


@pytest.mark.parametrize(
    ("scapy_name", "key_length", "scapy_integrity", "encryption", "integrity", "length"), ESP_SUITES
)
def test_esp_is_decrypted_on_every_path_of_a_moving_sa(
    tmp_path: Path,
    scapy_name: str,
    key_length: int,
    scapy_integrity: str,
    encryption: str,
    integrity: str | None,
    length: int,
) -> None:
    key, integrity_key = secret(key_length, "esp"), secret(length, "auth")
    observer = Observer("ue")
    peer = SecurityAssociation(
        ESP,
        spi=int.from_bytes(ESP_SPI, "big"),
        crypt_algo=scapy_name,
        crypt_key=key,
        auth_algo=scapy_integrity,
        auth_key=integrity_key or None,
        tunnel_header=IP(src="127.0.2.1", dst="127.0.1.1"),
    )
    for place in (UE_A, UE_B):
        observer.keys(
            EspKeysRecord(
                spi=ESP_SPI,
                source=place,
                destination=EPDG,
                encryption=encryption,
                encryption_key=key,
                integrity=integrity,
                integrity_key=integrity_key,
            )
        )
        inner = IP(src="10.45.0.2", dst="10.45.0.1") / ICMP() / b"abcdefgh"
        octets = bytes(peer.encrypt(inner)[ESP])
        observer.tap.udp("out", NetworkPath(place, EPDG), octets, encapsulating=True)
        observer.tap.ip("out", place.address, EPDG.address, octets)
        observer.tap.udp("out", NetworkPath(place, EPDG), NAT_KEEPALIVE, encapsulating=True)

    names = ("frame.protocols", "esp.icv_good", "esp.icv_bad", "esp.sequence", "icmp.type")
    tshark, capture = judge(tmp_path, observer.records)
    rows = tshark.fields(capture, names, display_filter="esp")
    assert [row["esp.sequence"] for row in rows] == [["1"], ["1"], ["2"], ["2"]]
    assert all("esp:ip:icmp" in row["frame.protocols"][0] for row in rows)
    assert [row["esp.icv_good"] for row in rows] == [["1"]] * 4
    assert all(row["icmp.type"] == ["8"] for row in rows)
    assert len(tshark.fields(capture, ("frame.number",), display_filter="udpencap.nat_keepalive")) == 2
    assert tshark.complaints(capture) == []

    # without the move's row its packets stay closed: the row is what opens them
    first = next(record for record in observer.records if record.kind is Kind.KEYS)
    datagrams = tuple(record for record in observer.records if record.kind is Kind.DATAGRAM)
    lacking, capture = judge(tmp_path / "lacking", (first, *datagrams))
    rows = lacking.fields(capture, names, display_filter="esp")
    assert ["icmp" in row["frame.protocols"][0] for row in rows] == [True, True, False, False]


# --- Diameter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.2"), ("::1", "2001:db8::7")])
def test_a_diameter_connection_is_reassembled(tmp_path: Path, addresses: tuple[str, str]) -> None:
    packets = rdpcap(str(shared("captures/swm_freediameter_relay.pcapng")))
    streams = [packet for packet in packets if TCP in packet and bytes(packet[TCP].payload)]
    ports = {streams[0][TCP].sport, streams[0][TCP].dport}
    streams = [packet for packet in streams if {packet[TCP].sport, packet[TCP].dport} == ports]
    server = Endpoint.of(addresses[0], 13868)
    client = Endpoint.of(addresses[1], 39001)
    aaa, epdg = Observer("aaa"), Observer("epdg")
    for packet in streams:
        octets = bytes(packet[TCP].payload)
        outgoing = packet[TCP].sport == streams[0][TCP].sport
        epdg.tap.tcp("out" if outgoing else "in", NetworkPath(client, server), octets)
        for piece in (octets[:7], octets[7:]):  # the other end read the stream in other pieces
            if piece:
                aaa.tap.tcp("in" if outgoing else "out", NetworkPath(server, client), piece)

    tshark, capture = judge(tmp_path, aaa.records + epdg.records)
    for port, source in ((client.port, streams[0][TCP].sport), (server.port, streams[0][TCP].dport)):
        stream = b"".join(bytes(packet[TCP].payload) for packet in streams if packet[TCP].sport == source)
        expected = []
        while stream:
            expected.append("0x" + stream[12:16].hex())  # Hop-by-Hop Identifier, RFC 6733 §3
            stream = stream[int.from_bytes(stream[1:4], "big") :]
        rows = tshark.fields(capture, ("diameter.hopbyhopid",), display_filter=f"tcp.srcport == {port}")
        assert [value for row in rows for value in row["diameter.hopbyhopid"]] == expected
        assert len(expected) >= 3
    assert tshark.complaints(capture) == []
    # not even a note on the stream, such as a retransmission or a segment out of order
    assert tshark.fields(capture, ("frame.number",), display_filter="tcp.analysis.flags") == []
    assert len(tshark.fields(capture, ("frame.number",), display_filter="tcp.checksum.status == 1")) > 20


@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.2"), ("::1", "2001:db8::7")])
def test_diameter_over_tls_and_sctp_is_readable(tmp_path: Path, addresses: tuple[str, str]) -> None:
    """What lay inside TLS stands in TCP; SCTP's DATA chunks hold the messages, a long one in two."""
    ports = {Transport.TLS: (5658, 15658), Transport.SCTP: (3868, 13868)}
    aaa, epdg = Observer("aaa"), Observer("epdg")
    expected: dict[int, list[str]] = {}
    number = 0
    for transport in ports:
        for port in ports[transport]:
            server, client = Endpoint.of(addresses[0], port), Endpoint.of(addresses[1], port + 20000)
            for size in (3, 65_000, 4):
                message = DiameterMessage(
                    command=CommandCode.DIAMETER_EAP,
                    application=SWM_APPLICATION,
                    request=True,
                    hop_by_hop=(number := number + 1),
                    avps=(Avp.of("Session-Id", "epdg.test;1;1"), Avp.of("Reply-Message", "x" * size)),
                )
                expected.setdefault(port, []).append(f"0x{number:08x}")
                for end, direction, local, remote in (
                    (epdg, Direction.OUT, client, server),
                    (aaa, Direction.IN, server, client),
                ):
                    crossed = Traffic(
                        direction=direction,
                        local=local,
                        remote=remote,
                        peer=None,
                        octets=encode_message(message),
                        message=message,
                        transport=transport,
                    )
                    for kind, body in crossed.records():
                        end.recorder.record(kind, body)
    assert {
        (record.body["transport"], str(record.body["local"]).rpartition(":")[2])
        for record in aaa.records
        if record.kind is Kind.DATAGRAM
    } == {(transport.value, str(port)) for transport in ports for port in ports[transport]}

    tshark, capture = judge(tmp_path, aaa.records + epdg.records)
    for transport, table in ((Transport.TLS, "tcp"), (Transport.SCTP, "sctp")):
        for port in ports[transport]:
            rows = tshark.fields(capture, ("diameter.hopbyhopid",), display_filter=f"{table}.dstport == {port}")
            assert [value for row in rows for value in row["diameter.hopbyhopid"]] == expected[port]
    assert tshark.complaints(capture) == []
    checked = tshark.fields(
        capture, ("sctp.checksum.status",), display_filter="sctp", options=("sctp.checksum:CRC 32c",)
    )
    assert [row["sctp.checksum.status"] for row in checked] == [["1"]] * 8  # good


# --- Files ------------------------------------------------------------------------------------------


def test_the_judge_does_complain_of_octets_that_are_cut_short(tmp_path: Path) -> None:
    observer = Observer("ue")
    header = SPI_I + SPI_R + bytes.fromhex("2120220800000000000000ff")
    path = NetworkPath(Endpoint.of("127.0.2.1", 15000), Endpoint.of("127.0.1.1", 15000))
    observer.tap.udp("out", path, header + bytes.fromhex("000000"), encapsulating=False)
    tshark, capture = judge(tmp_path, observer.records)
    assert tshark.complaints(capture)


def test_a_growing_capture_and_its_metadata(tmp_path: Path) -> None:
    observer = Observer("ue")
    file = CaptureFile(tmp_path / "live.pcapng")
    unsubscribe = observer.recorder.subscribe(file.add)
    path = NetworkPath(Endpoint.of("2001:db8::2", 4500), Endpoint.of("2001:db8::1", 4500))
    observer.tap.udp("out", path, NAT_KEEPALIVE, encapsulating=True, session="s1")
    observer.tap.udp("in", path, NAT_KEEPALIVE, encapsulating=True)
    unsubscribe()
    file.close()
    rows = Tshark(tmp_path).fields(
        tmp_path / "live.pcapng",
        ("ipv6.src", "udp.checksum.status", "frame.comment", "frame.interface_name", "frame.time_epoch"),
    )
    assert [row["ipv6.src"] for row in rows] == [["2001:db8::2"], ["2001:db8::1"]]
    assert [row["udp.checksum.status"] for row in rows] == [["1"], ["1"]]
    assert [row["frame.comment"] for row in rows] == [["ue: session s1"], []]
    assert all(row["frame.interface_name"] == ["ue"] for row in rows)
    first = next(record for record in observer.records if record.kind is Kind.DATAGRAM)
    assert float(rows[0]["frame.time_epoch"][0]) == pytest.approx(first.wall, abs=1e-6)


def test_evidence_is_for_its_owner_alone(tmp_path: Path) -> None:
    observer = Observer("ue")
    observer.recorder.event("attached", "ue is attached.")
    write_evidence(tmp_path / "evidence", observer.records)
    found = {path.relative_to(tmp_path).as_posix(): path for path in (tmp_path / "evidence").rglob("*")}
    assert {name for name, path in found.items() if path.is_file()} == {
        "evidence/trace.jsonl",
        "evidence/capture.pcapng",
        "evidence/ladder.txt",
        "evidence/ladder.json",
        "evidence/wireshark-profile/ikev2_decryption_table",
        "evidence/wireshark-profile/esp_sa",
        "evidence/wireshark-profile/decode_as_entries",
        "evidence/wireshark-profile/preferences",
    }
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in found.values())
    assert WiresharkProfile(observer.records).omitted == ()
