"""BEET mode octet by octet (RFC 7402 appendix B): header left out and made again, IPv4 options kept."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert, IPOption_Timestamp
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.ipsec import ESP, SecurityAssociation

from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError, LocalError
from protocols.esp.beet import PSEUDO_HEADER, InnerAddresses, fits, host_of, restore, strip
from protocols.esp.sa import ChildSa, DropReason, EspMode
from protocols.ip import UDP as UDP_PROTOCOL
from protocols.ip import IpPacket, checksum
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS, mirrored, ue_spec

UE4, HOST4 = ip_address("10.45.0.2"), ip_address("10.99.0.1")
UE6, HOST6 = ip_address("2001:db8:45::2"), ip_address("2001:db8:99::1")
AT_HOST4 = InnerAddresses(local=HOST4, remote=UE4)
AT_HOST6 = InnerAddresses(local=HOST6, remote=UE6)

# --- by hand

IPV4_UDP = bytes.fromhex("1388 1389 0008 0000".replace(" ", ""))


def with_checksum(header: str, rest: bytes) -> bytes:
    """A packet whose header is written without its checksum."""
    octets = bytes.fromhex(header.replace(" ", ""))
    return octets[:10] + checksum(octets).to_bytes(2, "big") + octets[12:] + rest


OPTION_4 = "94040000"  # router alert
OPTION_8 = "94040000 01010100"
VECTORS = {
    "IPv4": (with_checksum("4500001c 00004000 40110000 0a2d0002 0a630001", IPV4_UDP), 17, IPV4_UDP),
    "four octets of options": (
        with_checksum(f"46000020 00004000 40110000 0a2d0002 0a630001 {OPTION_4}", IPV4_UDP),
        94,
        bytes.fromhex("11000000" + OPTION_4) + IPV4_UDP,
    ),
    "eight octets of options": (
        with_checksum(f"47000024 00004000 40110000 0a2d0002 0a630001 {OPTION_8}", IPV4_UDP),
        94,
        bytes.fromhex("11010400 01010101" + OPTION_8) + IPV4_UDP,
    ),
    "forty octets of options": (
        with_checksum(f"4f000044 00004000 40110000 0a2d0002 0a630001 {OPTION_8 * 5}", IPV4_UDP),
        94,
        bytes.fromhex("11050400 01010101" + OPTION_8 * 5) + IPV4_UDP,
    ),
    "no payload": (with_checksum("45000014 00004000 40fd0000 0a2d0002 0a630001", b""), 253, b""),
}


@pytest.mark.parametrize("name", VECTORS)
def test_by_hand_both_ways(name: str) -> None:
    packet, next_header, payload = VECTORS[name]
    assert strip(packet) == (next_header, payload)
    assert restore(next_header, payload, AT_HOST4) == packet


def test_ipv6_by_hand_both_ways() -> None:
    """Extension headers stay before the upper layer."""
    rest = bytes.fromhex("1100010400000000") + IPV4_UDP
    packet = bytes.fromhex("60000000 0010 3c 40".replace(" ", "")) + UE6.packed + HOST6.packed + rest
    assert strip(packet) == (60, rest)
    assert restore(60, rest, AT_HOST6) == packet
    plain = bytes.fromhex("60000000 0008 11 40".replace(" ", "")) + UE6.packed + HOST6.packed + IPV4_UDP
    assert strip(plain) == (17, IPV4_UDP)
    assert restore(17, IPV4_UDP, AT_HOST6) == plain


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "11000000",
        "11000000940400",
        "11010400010101019404000001010",  # cut
        "1100080001010101",  # more padding than header
        "1100040001010101",  # no options at all: there must be no pseudo header then
        "11060400" + "01" * 60,  # more than an IPv4 header can have
        "1100020001019404",  # not a multiple of four
        "11ff0400" + "01" * 60,
    ],
)
def test_impossible_pseudo_headers_are_refused(payload: str) -> None:
    octets = bytes.fromhex(payload if len(payload) % 2 == 0 else payload + "0")
    with pytest.raises(DecodeError):
        restore(PSEUDO_HEADER, octets, AT_HOST4)


def test_every_truncation_of_a_pseudo_header_is_refused() -> None:
    _, next_header, payload = VECTORS["forty octets of options"]
    for end in range(48):
        with pytest.raises(DecodeError):
            restore(next_header, payload[:end], AT_HOST4)


def test_what_does_not_fit_into_a_packet_is_refused() -> None:
    for addresses in (AT_HOST4, AT_HOST6):
        with pytest.raises(DecodeError):
            restore(17, bytes(65536), addresses)


# --- scapy judges


@pytest.mark.parametrize(
    "packet",
    [
        IP(src=str(UE4), dst=str(HOST4), flags="DF", id=0) / UDP(sport=5000, dport=5001) / b"some words",
        IP(src=str(UE4), dst=str(HOST4), flags="DF", id=0) / TCP(sport=5000, dport=80, flags="S"),
        IP(src=str(UE4), dst=str(HOST4), flags="DF", id=0, options=[IPOption_Router_Alert()]) / ICMP() / b"ping",
        IP(src=str(UE4), dst=str(HOST4), flags="DF", id=0, options=[IPOption_Timestamp(), IPOption_NOP()]) / UDP(),
        IPv6(src=str(UE6), dst=str(HOST6)) / ICMPv6EchoRequest(id=1, seq=2, data=b"ping"),
        IPv6(src=str(UE6), dst=str(HOST6)) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / b"words",
    ],
    ids=lambda packet: packet.summary(),
)
def test_packets_of_scapy_come_back_the_same(packet: IP | IPv6) -> None:
    """Its checksums and lengths, ours from the same addresses: not an octet differs."""
    octets = bytes(packet)
    addresses = AT_HOST4 if packet.version == 4 else AT_HOST6
    assert restore(*strip(octets), addresses) == octets


def test_scapy_opens_what_is_sealed_and_finds_the_upper_layer() -> None:
    """To it a BEET packet is one in transport mode: the next header is the upper layer's."""
    spec = replace(ue_spec("aes128gcm16"), mode=EspMode.BEET, remote_selectors=(TrafficSelector.host(HOST_ADDRESS),))
    sa = ChildSa(spec, SeededEntropy(1))
    inner = IP(src=str(UE_ADDRESS), dst=str(HOST_ADDRESS)) / UDP(sport=5000, dport=5001) / b"some words"
    key = spec.outbound_encryption_key.reveal()
    judge = SecurityAssociation(ESP, spi=int.from_bytes(spec.outbound_spi, "big"), crypt_algo="AES-GCM", crypt_key=key)
    outer = IP(src="192.0.2.1", dst="198.51.100.1") / ESP(sa.seal(bytes(inner), 4))
    opened = judge.decrypt(IP(bytes(outer)))
    assert opened.proto == UDP_PROTOCOL
    assert bytes(opened[UDP].payload) == b"some words"
    assert (opened[UDP].sport, opened[UDP].dport) == (5000, 5001)
    assert sa.overhead_saved_octets == 20


# --- an SA in that mode


def pair(mode: EspMode = EspMode.BEET) -> tuple[ChildSa, ChildSa]:
    spec = replace(ue_spec("aes128gcm16"), mode=mode, remote_selectors=(TrafficSelector.host(HOST_ADDRESS),))
    return ChildSa(spec, SeededEntropy(1)), ChildSa(mirrored(spec), SeededEntropy(2))


def udp(payload: bytes = b"words") -> bytes:
    return bytes(IP(src=str(UE_ADDRESS), dst=str(HOST_ADDRESS), ttl=64, flags="DF", id=0) / UDP(dport=9) / payload)


def test_both_ends_count_what_the_header_would_have_taken() -> None:
    ue, gateway = pair()
    tunnel, _ = pair(EspMode.TUNNEL)
    sealed = ue.seal(udp(), 4)
    assert len(tunnel.seal(udp(), 4)) - len(sealed) == 20
    assert gateway.open(sealed) == udp()
    assert (ue.overhead_saved_octets, gateway.overhead_saved_octets) == (20, 20)
    assert (ue.outbound_octets, gateway.inbound_octets) == (len(udp()), len(udp()))
    assert tunnel.overhead_saved_octets == 0


def test_fragments_are_not_carried() -> None:
    """Their identification and offset would be lost with the header; RFC 6946's atomic fragments are whole."""
    ue, _ = pair()
    for flags, offset in (("MF", 0), (0, 100)):
        piece = bytes(
            IP(src=str(UE_ADDRESS), dst=str(HOST_ADDRESS), flags=flags, frag=offset, id=7, proto=17) / b"12345678"
        )
        assert not ue.carries(piece)
        with pytest.raises(LocalError):
            strip(piece)
    assert ue.carries(udp())
    six = IPv6(src=str(UE6), dst=str(HOST6))
    with pytest.raises(LocalError):
        strip(bytes(six / IPv6ExtHdrFragment(m=1, id=7) / UDP()))
    atomic = bytes(six / IPv6ExtHdrFragment(id=7) / UDP())
    assert restore(*strip(atomic), AT_HOST6) == atomic


def test_a_packet_of_tunnel_mode_is_something_else_in_an_sa_of_beet_mode() -> None:
    """Protocol 4 inside: the selectors of the SA decide, which here allow any protocol of the two hosts."""
    _, gateway = pair()
    tunnel, _ = pair(EspMode.TUNNEL)
    opened = gateway.open(tunnel.seal(udp(), 4))
    assert isinstance(opened, bytes)
    assert IpPacket.decode(opened).protocol == 4
    beet, _ = pair()
    _, other = pair(EspMode.TUNNEL)
    assert other.open(beet.seal(udp(), 4)) is DropReason.MALFORMED


@pytest.mark.parametrize("payload", [b"", b"\x45", bytes(24)])
def test_what_the_selectors_do_not_allow_is_dropped_whatever_the_payload(payload: bytes) -> None:
    """RFC 4301 §5.2: judged by the packet with its header, not by the octets behind it."""
    here = replace(TrafficSelector.host(UE_ADDRESS), protocol=UDP_PROTOCOL, start_port=9, end_port=9)
    spec = replace(
        ue_spec("aes128gcm16"),
        mode=EspMode.BEET,
        local_selectors=(here,),
        remote_selectors=(TrafficSelector.host(HOST_ADDRESS),),
    )
    _, gateway = pair()
    any_protocol = IP(src=str(HOST_ADDRESS), dst=str(UE_ADDRESS), proto=253) / payload
    sealed = gateway.seal(bytes(any_protocol), 4)
    assert ChildSa(spec, SeededEntropy(1)).open(sealed) is DropReason.BAD_SELECTOR


def test_selectors_of_more_than_one_host_a_side_do_not_fit() -> None:
    one, two = TrafficSelector.host(UE4), TrafficSelector.host(HOST4)
    web = replace(two, protocol=6, start_port=80, end_port=80)
    six, net = TrafficSelector.host(UE6), TrafficSelector.network("10.99.0.0/24")
    assert fits((one,), (two, web))
    assert host_of((two, web)) == HOST4
    for local, remote in (((one,), (net,)), ((one,), (two, one)), ((six,), (two,)), ((), (two,))):
        assert not fits(local, remote)
        with pytest.raises(LocalError, match="one host on each side"):
            ChildSa(
                replace(
                    ue_spec("aes128gcm16"), mode=EspMode.BEET, local_selectors=local or (net,), remote_selectors=remote
                ),
                SeededEntropy(1),
            )


@given(
    protocol=st.integers(0, 255).filter(lambda value: value != PSEUDO_HEADER),
    words=st.integers(0, 10),
    payload=st.binary(max_size=200),
)
def test_round_trip_of_any_ipv4_packet(protocol: int, words: int, payload: bytes) -> None:
    options = b"\x01" * (4 * words)
    header = bytes((0x45 + words, 0)) + (20 + 4 * words + len(payload)).to_bytes(2, "big")
    header += bytes.fromhex("0000400040") + bytes((protocol, 0, 0)) + UE4.packed + HOST4.packed + options
    packet = header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload
    next_header, rest = strip(packet)
    assert restore(next_header, rest, AT_HOST4) == packet
    assert len(packet) - len(rest) == (20 if not words else 16 - (4 if words % 2 == 0 else 0))


@given(next_header=st.integers(0, 255), payload=st.binary(max_size=80))
def test_whatever_comes_is_a_packet_of_the_two_hosts_or_refused(next_header: int, payload: bytes) -> None:
    try:
        packet = restore(next_header, payload, AT_HOST4)
    except DecodeError:
        assert next_header == PSEUDO_HEADER
        return
    assert (packet[12:16], packet[16:20]) == (UE4.packed, HOST4.packed)
    assert checksum(packet[: (packet[0] & 15) * 4]) == 0
    assert int.from_bytes(packet[2:4], "big") == len(packet)
