"""The userspace data plane: two ends and what passes between them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from protocols.dataplane.port import ChildSaCounters, PeerEndpointObserved, SequenceNumbersRunningOut
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.esp.packet import sealer_of
from protocols.esp.sa import MAXIMUM_SEQUENCE, ChildSaSpec, DropReason
from protocols.ip import UDP, IpPacket, UdpDatagram
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import (
    GATEWAY_OUTER,
    GATEWAY_PATH,
    HOST_ADDRESS,
    SUITES,
    UE_ADDRESS,
    UE_ELSEWHERE,
    UE_OUTER,
    mirrored,
    ue_spec,
)


class End:
    """A data plane whose two outputs are lists."""

    def __init__(self, name: str) -> None:
        self.delivered: list[tuple[bytes, bytes]] = []
        self.transmitted: list[tuple[bytes, Path, bool]] = []
        self.plane = UserspaceDataPlane(
            entropy=SeededEntropy(name),
            deliver=lambda packet, inbound_spi: self.delivered.append((packet, inbound_spi)),
            transmit=lambda octets, path, encapsulation, traffic_class: self.transmitted.append(
                (octets, path, encapsulation)
            ),
        )

    def sent(self, packet: bytes) -> bytes:
        """The ESP packet for an inner packet."""
        before = len(self.transmitted)
        assert self.plane.send_inner(packet)
        assert len(self.transmitted) == before + 1
        return self.transmitted[-1][0]


def packet(source: str = str(UE_ADDRESS), destination: str = str(HOST_ADDRESS), data: bytes = b"hi") -> bytes:
    from_, to = ip_address(source), ip_address(destination)
    payload = UdpDatagram(source_port=5000, destination_port=7, payload=data).encode(from_, to)
    return IpPacket(source=from_, destination=to, protocol=UDP, payload=payload).encode()


UP, DOWN = packet(), packet(str(HOST_ADDRESS), str(UE_ADDRESS))


def ends(suite: str = "aes128-sha256") -> tuple[End, End, ChildSaSpec]:
    spec = ue_spec(suite)
    ue, epdg = End("ue"), End("epdg")
    ue.plane.install(spec)
    epdg.plane.install(mirrored(spec))
    return ue, epdg, spec


@pytest.mark.parametrize("suite", SUITES)
def test_through_the_tunnel_and_back(suite: str) -> None:
    ue, epdg, spec = ends(suite)
    epdg.plane.receive_esp(ue.sent(UP), GATEWAY_PATH)
    ue.plane.receive_esp(epdg.sent(DOWN), spec.path)
    assert epdg.delivered == [(UP, spec.outbound_spi)]
    assert ue.delivered == [(DOWN, spec.inbound_spi)]
    assert ue.transmitted[0][1:] == (spec.path, True)
    assert epdg.transmitted[0][1:] == (GATEWAY_PATH, True)
    assert ue.plane.counters(spec.inbound_spi) == ChildSaCounters(
        inbound_packets=1, inbound_octets=len(DOWN), outbound_packets=1, outbound_octets=len(UP)
    )
    assert ue.plane.drops == epdg.plane.drops == {}


def test_what_is_dropped_is_counted_by_reason() -> None:
    ue, epdg, spec = ends()
    spi = spec.outbound_spi
    octets = ue.sent(UP)
    epdg.plane.receive_esp(octets, GATEWAY_PATH)
    epdg.plane.receive_esp(octets, GATEWAY_PATH)  # replayed
    later = ue.sent(UP)
    epdg.plane.receive_esp(later[:-1] + bytes([later[-1] ^ 1]), GATEWAY_PATH)  # wrong ICV
    epdg.plane.receive_esp(later[:20], GATEWAY_PATH)  # no room for an ICV
    epdg.plane.receive_esp(spi, GATEWAY_PATH)  # not even a header
    epdg.plane.receive_esp(b"\x12\x34\x56\x78" + later[4:], GATEWAY_PATH)
    epdg.plane.receive_esp(b"\xff", GATEWAY_PATH)
    epdg.plane.receive_esp(b"", GATEWAY_PATH)
    sealer = sealer_of(
        spec.suite,
        spec.outbound_spi,
        spec.outbound_encryption_key,
        spec.outbound_integrity_key,
        SeededEntropy("x"),
    )
    epdg.plane.receive_esp(sealer.seal(50, b"", 59), GATEWAY_PATH)  # dummy
    epdg.plane.receive_esp(sealer.seal(51, packet("10.45.0.3"), 4), GATEWAY_PATH)  # somebody else's address
    assert epdg.delivered == [(UP, spi)]
    assert epdg.plane.counters(spi) == ChildSaCounters(
        inbound_packets=1,
        inbound_octets=len(UP),
        replayed=1,
        bad_icv=1,
        malformed=2,
        dummy=1,
        bad_selector=1,
    )
    expected = {
        DropReason.REPLAYED: 1,
        DropReason.BAD_ICV: 1,
        DropReason.MALFORMED: 2,
        DropReason.UNKNOWN_SPI: 3,
        DropReason.DUMMY: 1,
        DropReason.BAD_SELECTOR: 1,
    }
    assert epdg.plane.drops == expected
    epdg.plane.remove(spi)
    assert epdg.plane.drops == expected  # the node's totals outlive its SAs


def test_packets_without_an_sa_stay_inside() -> None:
    ue, epdg, spec = ends()
    assert not ue.plane.send_inner(packet("10.45.0.99"))
    assert not epdg.plane.send_inner(packet(str(HOST_ADDRESS), "10.45.0.99"))
    assert not epdg.plane.send_inner(packet("2001:db8::1", "2001:db8::2"))
    assert not ue.plane.send_inner(b"")
    assert not ue.plane.send_inner(UP[:-1])
    assert ue.plane.drops == {DropReason.NO_SA: 1, DropReason.NOT_IP: 2}
    assert epdg.plane.drops == {DropReason.NO_SA: 2}
    assert ue.transmitted == epdg.transmitted == []
    assert ue.plane.counters(spec.inbound_spi).outbound_packets == 0


def test_rekey_the_new_sa_sends_and_the_old_still_receives() -> None:
    ue, epdg, old = ends()
    new = ue_spec(number=2)
    in_flight = ue.sent(UP)
    epdg.plane.replace(mirrored(old).inbound_spi, mirrored(new))
    ue.plane.replace(old.inbound_spi, new)
    assert ue.sent(UP)[:4] == new.outbound_spi
    assert epdg.sent(DOWN)[:4] == new.inbound_spi
    epdg.plane.receive_esp(in_flight, GATEWAY_PATH)
    epdg.plane.receive_esp(ue.transmitted[-1][0], GATEWAY_PATH)
    assert epdg.delivered == [(UP, old.outbound_spi), (UP, new.outbound_spi)]
    ue.plane.remove(old.inbound_spi)
    epdg.plane.remove(old.outbound_spi)
    epdg.plane.receive_esp(in_flight, GATEWAY_PATH)
    assert epdg.plane.drops == {DropReason.UNKNOWN_SPI: 1}
    assert ue.sent(UP)[:4] == new.outbound_spi


def test_rekey_the_old_sa_sends_until_the_new_one_has_received() -> None:
    """RFC 7296 §2.8: the responder of a rekeying waits for a packet on the new SA."""
    ue, epdg, old = ends()
    new = ue_spec(number=2)
    epdg.plane.replace(mirrored(old).inbound_spi, mirrored(new), send_at_once=False)
    assert epdg.sent(DOWN)[:4] == old.inbound_spi
    ue.plane.replace(old.inbound_spi, new)
    forged = bytearray(ue.sent(UP))
    forged[-1] ^= 1
    epdg.plane.receive_esp(bytes(forged), GATEWAY_PATH)
    assert epdg.sent(DOWN)[:4] == old.inbound_spi
    epdg.plane.receive_esp(ue.sent(UP), GATEWAY_PATH)
    assert epdg.sent(DOWN)[:4] == new.inbound_spi


def test_rekey_the_new_sa_sends_when_the_old_one_is_removed() -> None:
    """RFC 7296 §2.8: the peer's DELETE says as well that it has the new SA; a successor may go first."""
    _, epdg, old = ends()
    second, third = ue_spec(number=2), ue_spec(number=3)
    epdg.plane.replace(mirrored(old).inbound_spi, mirrored(third), send_at_once=False)
    epdg.plane.remove(mirrored(third).inbound_spi)
    assert epdg.sent(DOWN)[:4] == old.inbound_spi
    epdg.plane.replace(mirrored(old).inbound_spi, mirrored(second), send_at_once=False)
    epdg.plane.remove(mirrored(old).inbound_spi)
    assert epdg.sent(DOWN)[:4] == second.inbound_spi


def test_when_the_newest_goes_the_one_before_sends() -> None:
    ue, _, old = ends()
    new = ue_spec(number=2)
    ue.plane.replace(old.inbound_spi, new)
    ue.plane.remove(new.inbound_spi)
    assert ue.sent(UP)[:4] == old.outbound_spi
    ue.plane.remove(old.inbound_spi)
    assert not ue.plane.send_inner(UP)


def test_a_move_keeps_sequence_numbers_and_window() -> None:
    """RFC 4555 §3.5: only the addresses of the SAs change."""
    ue, epdg, spec = ends()
    first = ue.sent(UP)
    epdg.plane.receive_esp(first, GATEWAY_PATH)
    moved = Path(UE_ELSEWHERE, GATEWAY_OUTER)
    ue.plane.update_path(spec.inbound_spi, moved, False)
    epdg.plane.update_path(spec.outbound_spi, moved.reversed(), False)
    second = ue.sent(UP)
    assert ue.transmitted[-1][1:] == (moved, False)
    assert second[4:8] == (2).to_bytes(4, "big")
    epdg.plane.receive_esp(first, moved.reversed())
    epdg.plane.receive_esp(second, moved.reversed())
    epdg.sent(DOWN)
    assert epdg.transmitted[-1][1:] == (moved.reversed(), False)
    counters = epdg.plane.counters(spec.outbound_spi)
    assert (counters.inbound_packets, counters.replayed, counters.outbound_packets) == (2, 1, 1)
    assert epdg.plane.poll_event() is None


def test_another_remote_end_point_is_reported_and_never_followed() -> None:
    ue, epdg, spec = ends()
    elsewhere = Path(GATEWAY_OUTER, UE_ELSEWHERE)
    rebound = Path(GATEWAY_OUTER, Endpoint(UE_OUTER.address, 40000))
    spi = spec.outbound_spi

    def poll() -> list[PeerEndpointObserved]:
        found = []
        while (event := epdg.plane.poll_event()) is not None:
            found.append(event)
        return found

    old = ue.sent(UP)
    epdg.plane.receive_esp(old, GATEWAY_PATH)
    epdg.plane.receive_esp(old, elsewhere)  # a replay proves nothing
    forged = ue.sent(UP)
    epdg.plane.receive_esp(forged[:-1] + bytes([forged[-1] ^ 1]), elsewhere)  # a wrong ICV neither
    assert poll() == []

    for _ in range(3):
        epdg.plane.receive_esp(ue.sent(UP), elsewhere)
    assert poll() == [PeerEndpointObserved(inbound_spi=spi, path=elsewhere)]
    epdg.plane.receive_esp(ue.sent(UP), elsewhere)
    assert poll() == []  # said once
    epdg.plane.receive_esp(ue.sent(UP), rebound)
    epdg.plane.receive_esp(ue.sent(UP), elsewhere)
    assert poll() == [PeerEndpointObserved(inbound_spi=spi, path=elsewhere)]  # the last place counts
    epdg.plane.receive_esp(ue.sent(UP), GATEWAY_PATH)
    epdg.plane.receive_esp(ue.sent(UP), elsewhere)
    assert poll() == [PeerEndpointObserved(inbound_spi=spi, path=elsewhere)]  # back and away again
    epdg.sent(DOWN)
    assert epdg.transmitted[-1][1] == GATEWAY_PATH

    epdg.plane.receive_esp(ue.sent(UP), rebound)
    epdg.plane.update_path(spi, rebound, True)  # followed meanwhile: nothing left to say
    epdg.plane.receive_esp(ue.sent(UP), rebound)
    assert poll() == []
    epdg.plane.receive_esp(ue.sent(UP), elsewhere)
    epdg.plane.remove(spi)
    assert poll() == []


def test_without_encapsulation_ports_mean_nothing() -> None:
    ue, epdg, spec = ends()
    epdg.plane.update_path(spec.outbound_spi, GATEWAY_PATH, False)
    bare = Path(Endpoint(GATEWAY_OUTER.address, 0), Endpoint(UE_OUTER.address, 0))
    epdg.plane.receive_esp(ue.sent(UP), bare)
    assert len(epdg.delivered) == 1
    assert epdg.plane.poll_event() is None
    elsewhere = Path(bare.local, Endpoint(UE_ELSEWHERE.address, 0))
    epdg.plane.receive_esp(ue.sent(UP), elsewhere)
    assert epdg.plane.poll_event() == PeerEndpointObserved(inbound_spi=spec.outbound_spi, path=elsewhere)


def test_esp_in_the_other_form_than_agreed_is_taken_and_moves_nothing() -> None:
    """RFC 7296 §2.23: ESP with and without UDP may come at any time; a packet without a port is from no other port."""
    bare = Path(GATEWAY_OUTER, Endpoint(UE_OUTER.address, 0))
    for encapsulation, path in ((True, bare), (False, GATEWAY_PATH)):
        ue, epdg, spec = ends()
        spi = spec.outbound_spi
        epdg.plane.update_path(spi, GATEWAY_PATH, encapsulation)
        epdg.plane.receive_esp(ue.sent(UP), path)
        assert len(epdg.delivered) == 1
        assert epdg.plane.poll_event() is None
        assert epdg.plane.counters(spi).strayed_packets == 0
        epdg.sent(DOWN)
        assert epdg.transmitted[-1][1:] == (GATEWAY_PATH, encapsulation)
    # from another address it has strayed, and says so once
    ue, epdg, spec = ends()
    stray = Path(GATEWAY_OUTER, Endpoint(UE_ELSEWHERE.address, 0))
    for _ in range(2):
        epdg.plane.receive_esp(ue.sent(UP), stray)
    assert epdg.plane.poll_event() == PeerEndpointObserved(inbound_spi=spec.outbound_spi, path=stray)
    assert epdg.plane.poll_event() is None
    assert epdg.plane.counters(spec.outbound_spi).strayed_packets == 2


def test_sequence_numbers_run_out_with_two_warnings() -> None:
    """RFC 4303 §3.3.3: the counter must not cycle."""
    ue, _, spec = ends()
    sa = ue.plane.child_sa(spec.inbound_spi)
    sa.sequence = MAXIMUM_SEQUENCE // 8 * 7 - 10
    spi, events = spec.inbound_spi, []
    for _ in range(30):
        ue.sent(UP)
        events.append(ue.plane.poll_event())
    assert [event for event in events if event] == [SequenceNumbersRunningOut(inbound_spi=spi, exhausted=False)]
    sa.sequence = MAXIMUM_SEQUENCE - 1
    ue.sent(UP)
    assert ue.plane.poll_event() == SequenceNumbersRunningOut(inbound_spi=spi, exhausted=True)
    assert not ue.plane.send_inner(UP)
    assert ue.plane.drops == {DropReason.SEQUENCE_EXHAUSTED: 1}
    assert ue.plane.poll_event() is None


def test_a_gateway_finds_the_sa_of_each_ue() -> None:
    epdg = End("epdg")
    specs = {}
    for number in range(1, 301):
        address = f"10.45.{number >> 8}.{number & 255}"
        specs[address] = ue_spec(number=number, ue_address=address)
        epdg.plane.install(mirrored(specs[address]))
    for address, spec in specs.items():
        assert epdg.sent(packet(str(HOST_ADDRESS), address))[:4] == spec.inbound_spi


def test_selectors_of_every_shape_find_their_sa() -> None:
    """A prefix, a range that is no prefix, several selectors, ports, IPv6: the newest that matches."""
    ue = End("ue")

    def install(number: int, local: list[TrafficSelector], remote: list[TrafficSelector]) -> bytes:
        spec = replace(ue_spec(number=number), local_selectors=tuple(local), remote_selectors=tuple(remote))
        ue.plane.install(spec)
        return spec.outbound_spi

    network, host = TrafficSelector.network, TrafficSelector.host
    odd = TrafficSelector(start=ip_address("192.0.2.5"), end=ip_address("192.0.2.77"))
    sip = replace(network("0.0.0.0/0"), protocol=UDP, start_port=7, end_port=7)
    everything = install(1, [host("10.45.0.2"), network("2001:db8:1::/64")], [network("0.0.0.0/0"), network("::/0")])
    ranged = install(2, [network("0.0.0.0/0")], [odd])
    subnet = install(3, [host("10.45.0.2")], [network("192.0.2.64/26")])
    several = install(4, [host("10.45.0.2"), host("10.45.0.3")], [host("198.51.100.1"), host("198.51.100.9")])
    ported = install(5, [host("10.45.0.5")], [sip])

    def spi(source: str, destination: str) -> bytes | None:
        inner = packet(source, destination)
        return ue.sent(inner)[:4] if ue.plane.send_inner(inner) else None

    assert spi("10.45.0.2", "8.8.8.8") == everything
    assert spi("2001:db8:1::77", "2001:db8:ff::1") == everything
    assert spi("2001:db8:2::77", "2001:db8:ff::1") is None
    assert spi("10.45.0.2", "192.0.2.4") == everything
    assert spi("10.45.0.2", "192.0.2.5") == ranged
    assert spi("10.99.0.1", "192.0.2.77") == ranged
    assert spi("10.99.0.1", "192.0.2.78") is None
    assert spi("10.45.0.2", "192.0.2.70") == subnet
    assert spi("10.45.0.2", "192.0.2.127") == subnet
    assert spi("10.45.0.2", "198.51.100.9") == several
    assert spi("10.45.0.3", "198.51.100.1") == several
    assert spi("10.45.0.3", "198.51.100.2") is None
    assert spi("10.45.0.5", "198.51.100.2") == ported
    ue.plane.remove(ue_spec(number=3).inbound_spi)
    assert spi("10.45.0.2", "192.0.2.70") == ranged
    assert spi("10.45.0.2", "192.0.2.127") == everything


def test_ipv6_inside() -> None:
    spec = replace(
        ue_spec("aes256gcm16"),
        local_selectors=(TrafficSelector.network("2001:db8:1::/64"),),
        remote_selectors=(TrafficSelector.network("::/0"),),
    )
    ue, epdg = End("ue"), End("epdg")
    ue.plane.install(spec)
    epdg.plane.install(mirrored(spec))
    up = packet("2001:db8:1::77", "2001:db8:ff::1")
    epdg.plane.receive_esp(ue.sent(up), GATEWAY_PATH)
    assert epdg.delivered == [(up, spec.outbound_spi)]


@pytest.mark.parametrize(
    ("source", "destination", "passes"),
    [
        ("10.45.0.2", "192.0.2.80", True),
        ("10.45.0.3", "192.0.2.80", False),
        ("2001:db8:1::77", "2001:db8:ff::1", True),
        ("2001:db8:1:0:ffff::", "2001:db8:ff::1", True),
        ("2001:db8:1:1::77", "2001:db8:ff::1", False),
    ],
)
def test_each_family_is_held_to_its_own_selectors(source: str, destination: str, passes: bool) -> None:
    """RFC 4301 §5.2: what a UE may not send is dropped and counted, whatever its own end lets out."""
    granted = replace(
        ue_spec(),
        local_selectors=(TrafficSelector.host("10.45.0.2"), TrafficSelector.network("2001:db8:1::/64")),
        remote_selectors=(TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0")),
    )
    ue, epdg = End("ue"), End("epdg")
    ue.plane.install(replace(granted, local_selectors=granted.remote_selectors))
    epdg.plane.install(mirrored(granted))
    up = packet(source, destination)
    epdg.plane.receive_esp(ue.sent(up), GATEWAY_PATH)
    assert epdg.delivered == ([(up, granted.outbound_spi)] if passes else [])
    assert epdg.plane.counters(granted.outbound_spi).bad_selector == (0 if passes else 1)
