"""The kernel's data plane under a kernel that has ESP: contract, traffic, moves, events, leftovers."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from select import select

import pytest

from lab.namespaces import Namespace
from protocols.dataplane.port import (
    ChildSaCounters,
    DataPlane,
    LifetimeReached,
    PeerEndpointObserved,
    SequenceNumbersRunningOut,
)
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.xfrm.backend import XfrmDataPlane
from protocols.dataplane.xfrm.connection import XfrmConnection
from protocols.dataplane.xfrm.messages import (
    XFRM_AE_LVAL,
    XFRM_AE_RVAL,
    XFRM_INF,
    XFRM_POLICY_OUT,
    XFRMNLGRP_ACQUIRE,
    XFRMNLGRP_MIGRATE,
)
from protocols.dataplane.xfrm.moves import AHEAD, LINGER_MAXIMUM_INTERVAL
from protocols.dataplane.xfrm.probe import Finding, probe
from protocols.dataplane.xfrm.socket import XfrmSocket
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError
from protocols.esp.sa import ChildSaSpec, EspMode, UsageLimits
from protocols.ikev2.suites import EspSuite
from protocols.ip import IpPacket, UdpDatagram, checksum
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import GATEWAY_OUTER, SUITES, UE_OUTER, mirrored, ue_spec
from tests.dataplane.test_contract import TestDataPlaneContract as DataPlaneContract
from tests.peers.namespaces import ping
from tests.peers.xfrm_scene import (
    ANSWER_INTERVAL,
    ELSEWHERE,
    ETH_P_IP,
    INNER,
    INNER_LENGTH,
    PATHS,
    PAYLOAD,
    PORT,
    UDP,
    Scene,
    dual_stack,
    repeated,
    scene,
)

pytestmark = [pytest.mark.peer, pytest.mark.guest("uml", "debian")]

PACKETS = 5
LINGERED = 2 * LINGER_MAXIMUM_INTERVAL
ALONE = (os.cpu_count() or 1) == 1  # nobody else's packets are in the kernel while it does what it was asked
IP_HEADERS = {4: 20, 6: 40}
UDP_LENGTH = 8 + len(PAYLOAD)
ROUTER_ALERT = b"\x94\x04\x00\x00"  # RFC 2113
USERSPACE_PORT = 4501


def userspace_socket(namespace: Namespace, ours: Endpoint) -> socket.socket:
    """A UDP socket from which ESP goes to the gateway and to which it comes."""

    def made() -> socket.socket:
        each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        each.bind((str(ours.address), ours.port))
        each.connect((str(GATEWAY_OUTER.address), GATEWAY_OUTER.port))
        each.settimeout(ANSWER_INTERVAL)
        return each

    return namespace.call(made)


def settled(plane: XfrmDataPlane) -> None:
    """Some time later: the SAs of paths that were left are gone."""
    for now in (0.0, LINGERED):
        plane.expire(now)
    assert not plane.lingering


def assert_taken_in(counted: int, came: int, sent: int, beside: int) -> None:
    """What was sent came and was counted, save at most what another processor sent ``beside`` moves.

    MIGRATE copies an SA's counters, sets up the copy's ciphers and puts it in the SA's place: what is taken in between
    by the old one is counted there alone, or dropped with it. It was sent while the call lasted.
    """
    assert sent - beside <= counted <= came <= sent


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    with Namespace("plane") as namespace:
        made = namespace.call(XfrmDataPlane)
        yield made
        made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Scene]:
    with scene() as made:
        yield made


@pytest.fixture
def stage(shared: Scene) -> Iterator[Scene]:
    yield shared
    for plane in (shared.ue_plane, shared.gateway_plane):
        for spi in plane.installed:
            plane.remove(spi)
        assert plane.poll_event() is None
    shared.seen()
    for end in shared.inner:
        shared.arrived(*end)


class TestKernelContract(DataPlaneContract):
    """The contract of every data plane."""


def test_the_probe_finds_everything() -> None:
    assert probe([EspSuite.of(name) for name in SUITES]) == Finding()


class TestTraffic:
    @pytest.mark.parametrize("suite", SUITES)
    def test_every_suite(self, stage: Scene, suite: str) -> None:
        """Packets of both directions arrive as ESP in UDP and are counted to the octet."""
        spec = stage.install(ue_spec(suite))
        assert stage.send("ue", PACKETS) == stage.send("gateway", PACKETS) == PACKETS
        seen = stage.seen()
        assert len(seen) == 2 * PACKETS
        assert all(each.encapsulated for each in seen)
        counters = ChildSaCounters(
            inbound_packets=PACKETS,
            outbound_packets=PACKETS,
            inbound_octets=PACKETS * INNER_LENGTH,
            outbound_octets=PACKETS * INNER_LENGTH,
        )
        assert stage.ue_plane.counters(spec.inbound_spi) == counters
        assert stage.gateway_plane.counters(spec.outbound_spi) == counters

    def test_ping(self, stage: Scene) -> None:
        stage.install(ue_spec("aes256gcm16"))
        result = ping(stage.ue, "192.0.2.80", source="10.45.0.2", count=10)
        assert result.received == 10, result.output
        assert len(stage.seen()) == 20

    @pytest.mark.parametrize("encapsulation", [True, False])
    @pytest.mark.parametrize("outer", [4, 6])
    def test_both_versions_inside_and_outside(self, stage: Scene, outer: int, encapsulation: bool) -> None:
        stage.install(replace(dual_stack(ue_spec()), path=PATHS[outer], encapsulation=encapsulation))
        for inner in (4, 6):
            assert stage.send("ue", version=inner) == stage.send("gateway", version=inner) == 1
        assert {each.encapsulated for each in stage.seen()} == {encapsulation}

    @pytest.mark.parametrize(
        ("suite", "window"),
        [
            ("aes128-sha256", 32),
            ("aes128-sha256", 100),
            ("aes128gcm16-esn", 32),
            ("aes128gcm16-esn", 100),
            ("aes128gcm16-esn", 4096),
        ],
    )
    def test_replayed_and_forged_packets_are_counted(self, stage: Scene, suite: str, window: int) -> None:
        spec = stage.install(ue_spec(suite, replay_window=window))
        assert stage.send("ue", PACKETS) == PACKETS
        packet = stage.seen()[0].octets
        stage.inject(packet)
        stage.inject(packet[:-1] + bytes([packet[-1] ^ 1]))  # a replay too, the ICV comes later
        enough = 1 << (window - 1).bit_length()  # the kernel's windows are powers of two
        assert stage.send("ue", enough) == enough
        stage.inject(packet)  # too old
        fresh, at = stage.seen()[-2].octets, 20 + 8 + 4
        stage.inject(fresh[:at] + bytes([fresh[at] ^ 0x10]) + fresh[at + 1 :])  # a sequence number far ahead
        assert stage.arrived("gateway") == 0
        counters = stage.gateway_plane.counters(spec.outbound_spi)
        assert counters.inbound_packets == PACKETS + enough
        # RFC 4303 Appendix A2: with extended sequence numbers what is too old looks like what is far ahead.
        assert (counters.replayed, counters.bad_icv) == ((2, 2) if spec.suite.esn else (3, 1))

    def test_selectors_hold_in_both_directions(self, stage: Scene) -> None:
        """What they do not select goes out in the clear or nowhere, and does not come in."""
        spec = ue_spec("aes128gcm16")
        narrow = TrafficSelector(
            start=spec.remote_selectors[0].start,
            end=spec.remote_selectors[0].end,
            protocol=17,
            start_port=9,
            end_port=9,
        )
        stage.ue_plane.install(spec)
        stage.gateway_plane.install(replace(mirrored(spec), local_selectors=(narrow,)))
        assert stage.send("ue") == 0
        assert len(stage.seen()) == 1
        assert stage.send("gateway") == 0
        assert stage.seen() == []


class TestRekey:
    def test_the_new_sa_sends_and_both_receive(self, stage: Scene) -> None:
        old = stage.install(ue_spec())
        new = ue_spec(number=2)
        stage.gateway_plane.replace(old.outbound_spi, mirrored(new))
        assert stage.send("ue") == 1  # by the old one, which the gateway still takes
        stage.ue_plane.replace(old.inbound_spi, new)
        assert stage.send("ue", PACKETS) == stage.send("gateway", PACKETS) == PACKETS
        assert stage.ue_plane.counters(old.inbound_spi).outbound_packets == 1
        assert stage.ue_plane.counters(new.inbound_spi).outbound_packets == PACKETS
        stage.ue_plane.remove(old.inbound_spi)
        stage.gateway_plane.remove(old.outbound_spi)
        assert stage.send("ue") == stage.send("gateway") == 1

    def test_a_successor_waits_for_its_first_packet(self, stage: Scene) -> None:
        """RFC 7296 §2.8: the responder sends by the old SA until it has heard by the new one."""
        old, new = stage.install(ue_spec()), ue_spec(number=2)
        stage.gateway_plane.replace(old.outbound_spi, mirrored(new), send_at_once=False)
        assert stage.send("gateway") == 1
        assert stage.seen()[-1].spi == int.from_bytes(old.inbound_spi, "big")
        stage.ue_plane.replace(old.inbound_spi, new)
        assert stage.send("ue") == 1
        assert stage.gateway_plane.poll_event() is None
        stage.seen()
        assert stage.send("gateway") == 1
        assert stage.seen()[-1].spi == int.from_bytes(new.inbound_spi, "big")

    def test_a_successor_takes_over_when_the_old_one_goes(self, stage: Scene) -> None:
        old, new = stage.install(ue_spec()), ue_spec(number=2)
        stage.gateway_plane.replace(old.outbound_spi, mirrored(new), send_at_once=False)
        stage.ue_plane.replace(old.inbound_spi, new)
        stage.gateway_plane.remove(old.outbound_spi)
        assert stage.send("gateway") == 1
        assert stage.seen()[-1].spi == int.from_bytes(new.inbound_spi, "big")

    def test_what_nothing_sends_by_is_blocked(self, stage: Scene) -> None:
        spec = stage.install(ue_spec())
        stage.ue_plane.retire(spec.inbound_spi)
        with pytest.raises(OSError):
            stage.send("ue")
        assert stage.seen() == []
        assert stage.send("gateway") == 1


class TestMoves:
    @pytest.mark.parametrize("suite", ["aes128gcm16", "aes128-sha256-esn"])
    def test_to_another_address_and_back_under_traffic(self, stage: Scene, suite: str) -> None:
        """Sequence numbers, counters and windows go on; what left arrived, and no number came twice."""
        spec = stage.install(ue_spec(suite))
        moves = (ELSEWHERE, PATHS[4]) * 2
        beside: Counter[str] = Counter()
        for sender in ("ue", "gateway"):
            with stage.flood(sender) as flood:
                for path in moves:
                    with flood.beside() as passed:
                        stage.move(path, True)
                    beside[sender] += passed()
                    flood.wait()
            assert flood.counted["refused"] == 0 or not ALONE
        seen = stage.seen()
        assert repeated(seen) == set()
        assert {each.source for each in seen} == {"198.51.100.7", "203.0.113.9", "192.0.2.1"}
        for spi in (spec.inbound_spi, spec.outbound_spi):
            sequence = [each.sequence for each in seen if each.spi == int.from_bytes(spi, "big")]
            assert sequence == sorted(sequence)
            assert sequence[-1] - len(sequence) <= 2 * len(moves) * AHEAD
        ue = stage.ue_plane.counters(spec.inbound_spi)
        gateway = stage.gateway_plane.counters(spec.outbound_spi)
        assert (gateway.replayed, gateway.bad_icv, ue.replayed, ue.bad_icv) == (0, 0, 0, 0)
        # Whatever left came in: the gateway stays where it is, and MIGRATE leaves no gap.
        assert_taken_in(
            gateway.inbound_packets, stage.arrived("gateway"), ue.outbound_packets, 0 if ALONE else beside["ue"]
        )
        assert gateway.outbound_packets >= ue.inbound_packets == stage.arrived("ue") > 0

    @pytest.mark.parametrize("suite", ["aes128gcm16", "aes128-sha256-esn"])
    def test_a_gateway_follows_its_peer_without_a_gap(self, stage: Scene, suite: str) -> None:
        """The SA to the new address stands beside the one to the old; the old one is limited and ends in time."""
        spec = stage.install(ue_spec(suite))
        gateway = stage.gateway_plane

        def destinations() -> list[str]:
            with XfrmSocket() as xfrm:
                return sorted(
                    each["id"]["daddr"]
                    for each in xfrm.sa("dump")
                    if each["id"]["spi"] == int.from_bytes(spec.inbound_spi, "big")
                )

        with stage.flood("gateway") as flood:
            for path in (ELSEWHERE, PATHS[4], ELSEWHERE):
                flood.wait()
                gateway.update_path(spec.outbound_spi, path.reversed(), True)
                assert stage.gateway.call(destinations) == ["198.51.100.7", "203.0.113.9"]
            flood.wait()
        assert flood.counted["refused"] == 0
        assert repeated(stage.seen()) == set()
        settled(gateway)
        assert stage.gateway.call(destinations) == ["203.0.113.9"]
        assert gateway.counters(spec.outbound_spi).outbound_packets == flood.counted["sent"]

    @pytest.mark.parametrize("older", [False, True])
    @pytest.mark.parametrize("encapsulation", [False, True])
    @pytest.mark.parametrize("suite", ["aes128gcm16", "aes128-sha256-esn"])
    def test_make_before_break_loses_nothing(self, stage: Scene, suite: str, encapsulation: bool, older: bool) -> None:
        """The UE first, the gateway follows later (RFC 4555 §3.5, §3.7), there and back while the old SAs linger."""
        if older:  # SAs of the same selectors and addresses, which stay
            stage.install(replace(ue_spec(suite, number=2), encapsulation=encapsulation))
        spec = stage.install(replace(ue_spec(suite, replay_window=4096), encapsulation=encapsulation))
        sent: Counter[str] = Counter()
        came: Counter[str] = Counter()
        beside: Counter[str] = Counter()
        for path in (ELSEWHERE, PATHS[4], ELSEWHERE, PATHS[4]):
            for sender, receiver in (("gateway", "ue"), ("ue", "gateway")):
                with stage.flood(sender) as flood:
                    flood.wait()
                    plane, spi, ours = {
                        "gateway": (stage.ue_plane, spec.inbound_spi, path),
                        "ue": (stage.gateway_plane, spec.outbound_spi, path.reversed()),
                    }[sender]
                    with flood.beside() as passed:
                        plane.update_path(spi, ours, encapsulation)
                    beside[sender] += passed()
                    flood.wait()
                sent += flood.counted
                sent[sender] += flood.counted["sent"]
                came[receiver] += stage.arrived(receiver)  # at once: the socket has no room for all of them
        assert sent["refused"] == 0
        assert repeated(stage.seen()) == set()
        uncounted = 0 if ALONE or not encapsulation else beside["ue"]  # without UDP the SA is left as it is
        for _ in range(2):  # with those that linger, and without
            ue, gateway = stage.ue_plane.counters(spec.inbound_spi), stage.gateway_plane.counters(spec.outbound_spi)
            assert (ue.outbound_packets, gateway.outbound_packets) == (sent["ue"], sent["gateway"])
            assert_taken_in(gateway.inbound_packets, came["gateway"], sent["ue"], uncounted)
            assert_taken_in(ue.inbound_packets, came["ue"], sent["gateway"], 0)
            assert (ue.replayed, ue.bad_icv, gateway.replayed, gateway.bad_icv) == (0, 0, 0, 0)
            settled(stage.ue_plane)
            settled(stage.gateway_plane)

    @pytest.mark.parametrize("encapsulation", [False, True])
    @pytest.mark.parametrize("suite", ["aes128gcm16", "aes128-sha256-esn"])
    def test_make_before_break_between_versions_of_ip(self, stage: Scene, suite: str, encapsulation: bool) -> None:
        """The UE first, the gateway later, which expects it meanwhile; the old addresses are heard."""
        spec = stage.install(replace(ue_spec(suite, replay_window=4096), encapsulation=encapsulation))
        sent: Counter[str] = Counter()
        for path in (PATHS[6], PATHS[4]) * 2:
            stage.gateway_plane.expect(spec.outbound_spi, path.reversed(), encapsulation)
            for sender in ("gateway", "ue"):
                with stage.flood(sender) as flood:
                    flood.wait()
                    plane, spi, ours = {
                        "gateway": (stage.ue_plane, spec.inbound_spi, path),
                        "ue": (stage.gateway_plane, spec.outbound_spi, path.reversed()),
                    }[sender]
                    plane.update_path(spi, ours, encapsulation)
                    flood.wait()
                sent += flood.counted
                sent[sender] += flood.counted["sent"]
        assert sent["refused"] == 0
        assert repeated(stage.seen()) == set()
        ue, gateway = stage.ue_plane.counters(spec.inbound_spi), stage.gateway_plane.counters(spec.outbound_spi)
        assert (ue.outbound_packets, gateway.inbound_packets) == (sent["ue"], sent["ue"])
        assert (gateway.outbound_packets, ue.inbound_packets) == (sent["gateway"], sent["gateway"])
        assert (ue.replayed, ue.bad_icv, gateway.replayed, gateway.bad_icv) == (0, 0, 0, 0)

    @pytest.mark.parametrize("refreshed", [False, True])
    def test_packets_on_an_expected_path_prove_nothing_until_it_is_the_path(
        self, stage: Scene, refreshed: bool
    ) -> None:
        """They are taken, and count as strayed (RFC 4555 §3.12); after some time the path is expected no more."""
        spec = stage.install(ue_spec("aes128gcm16", replay_window=4096))
        gateway, at = stage.gateway_plane, mirrored(spec).inbound_spi
        assert stage.send("ue", PACKETS) == PACKETS
        gateway.expect(at, PATHS[4].reversed(), True)  # it is there
        assert not gateway.lingering
        gateway.expect(at, PATHS[6].reversed(), True)
        stage.ue_plane.update_path(spec.inbound_spi, PATHS[6], True)
        assert stage.send("ue", PACKETS) == PACKETS
        replayed = stage.seen()[-1].octets
        stage.inject(replayed)
        counters = gateway.counters(at)
        assert (counters.inbound_packets, counters.strayed_packets, counters.replayed) == (2 * PACKETS, PACKETS, 1)
        if refreshed:
            gateway.expire(0.0)
            gateway.expect(at, PATHS[6].reversed(), True)
            gateway.expire(LINGER_MAXIMUM_INTERVAL)
            assert gateway.lingering
            gateway.update_path(at, PATHS[6].reversed(), True)
            stage.inject(replayed)
            assert stage.send("ue", PACKETS) == stage.send("gateway", PACKETS) == PACKETS
            counters = gateway.counters(at)
            assert (counters.inbound_packets, counters.strayed_packets, counters.replayed) == (3 * PACKETS, 0, 2)
            gateway.expect(at, PATHS[4].reversed(), True)  # the old one again
            assert gateway.counters(at).evidence == counters.evidence
            return
        settled(gateway)
        assert stage.send("ue", PACKETS) == 0
        assert gateway.counters(at).evidence == PACKETS
        assert gateway.counters(at).strayed_packets == PACKETS

    def test_where_another_program_has_the_spi_nothing_is_expected(self, stage: Scene) -> None:
        spec = stage.install(ue_spec("aes128gcm16"))
        foreign = replace(spec, path=PATHS[6], local_selectors=(TrafficSelector.host("10.45.0.99"),))
        other = stage.ue.call(lambda: XfrmDataPlane(reqids=range(0x1000, 0x1010)))
        with closing(other):
            other.install(foreign)
            stage.ue_plane.expect(spec.inbound_spi, PATHS[6], True)
            assert not stage.ue_plane.lingering
            assert stage.send("gateway") == stage.send("ue") == 1

    @pytest.mark.parametrize("suite", ["aes128gcm16", "aes128-sha256-esn"])
    def test_what_came_to_the_old_address_is_known_at_the_new_one_and_back(self, stage: Scene, suite: str) -> None:
        """Replay windows go along, those of SAs that linger included."""
        spec = stage.install(ue_spec(suite, replay_window=4096))
        taken: list[bytes] = []
        for path in (ELSEWHERE, PATHS[4], ELSEWHERE):
            assert stage.send("gateway", PACKETS) == PACKETS
            taken += [each.octets for each in stage.seen()]
            stage.ue_plane.update_path(spec.inbound_spi, path, True)
            stage.gateway_plane.update_path(spec.outbound_spi, path.reversed(), True)
        there = ELSEWHERE.local.address.packed
        link_address = bytes.fromhex(stage.ue.link_address("ue0").replace(":", ""))
        for packet in taken:
            before = packet[:10] + bytes(2) + packet[12:16] + there
            again = before[:10] + checksum(before).to_bytes(2, "big") + before[12:] + packet[20:]
            stage.wire.sendto(again, ("gw0", ETH_P_IP, 0, 0, link_address))
        assert stage.arrived("ue") == 0
        assert stage.ue_plane.counters(spec.inbound_spi).replayed == len(taken) == 3 * PACKETS

    def test_what_came_late_to_the_old_address_is_known_when_the_path_comes_back(self, stage: Scene) -> None:
        spec = stage.install(ue_spec("aes128gcm16"))
        link_address = bytes.fromhex(stage.ue.link_address("ue0").replace(":", ""))
        stage.ue_plane.update_path(spec.inbound_spi, ELSEWHERE, True)
        assert stage.send("gateway", PACKETS) == PACKETS
        late = stage.seen()
        stage.ue_plane.update_path(spec.inbound_spi, PATHS[4], True)
        for each in late:
            stage.wire.sendto(each.octets, ("gw0", ETH_P_IP, 0, 0, link_address))
        assert stage.arrived("ue") == 0
        assert stage.ue_plane.counters(spec.inbound_spi).replayed == PACKETS

    def test_ping_loses_nothing_when_it_pauses_for_a_move(self, stage: Scene) -> None:
        stage.install(ue_spec("aes256gcm16"))
        for path in (ELSEWHERE, PATHS[4], ELSEWHERE):
            result = ping(stage.ue, "192.0.2.80", source="10.45.0.2", count=5)
            assert result.received == 5
            stage.move(path, True)

    @pytest.mark.parametrize("suite", ["aes128gcm16", "chacha20poly1305-esn"])
    def test_encapsulation_off_and_on(self, stage: Scene, suite: str) -> None:
        spec = stage.install(ue_spec(suite))
        for encapsulation in (False, True, False):
            assert stage.send("ue", PACKETS) == stage.send("gateway", PACKETS) == PACKETS
            stage.move(PATHS[4], encapsulation)
        assert stage.send("ue", PACKETS) == stage.send("gateway", PACKETS) == PACKETS
        seen = stage.seen()
        assert repeated(seen) == set()
        assert [each.encapsulated for each in seen[:: 2 * PACKETS]] == [True, False, True, False]
        stage.inject(seen[0].octets)
        stage.inject(seen[2 * PACKETS].octets)
        counters = stage.gateway_plane.counters(spec.outbound_spi)
        assert counters.inbound_packets == counters.outbound_packets == 4 * PACKETS
        # The last one, ESP; ESP in UDP is not taken by an SA without. Moves pass over more than this window.
        assert counters.replayed + counters.bad_icv == 1

    def test_from_ipv4_to_ipv6(self, stage: Scene) -> None:
        stage.install(ue_spec("aes128gcm16"))
        assert stage.send("ue") == 1
        for path, encapsulation in ((PATHS[6], False), (PATHS[6], True), (PATHS[4], True)):
            stage.move(path, encapsulation)
            assert stage.send("ue", PACKETS) == stage.send("gateway", PACKETS) == PACKETS
        assert repeated(stage.seen()) == set()

    def test_the_kernel_asks_nobody_for_an_sa_meanwhile(self, stage: Scene) -> None:
        """An answer of another IKE daemon's to XFRM_MSG_ACQUIRE would stand in the way of ours."""
        stage.install(ue_spec("aes128gcm16"))
        asked = stage.ue.call(lambda: XfrmConnection([XFRMNLGRP_ACQUIRE]))
        with closing(asked), stage.flood("ue") as flood:
            for encapsulation in (False, True) * 2:
                stage.move(PATHS[4], encapsulation)
                flood.wait()
            assert list(asked.events()) == []
        assert 0 < stage.arrived("gateway") <= flood.counted["sent"]
        assert stage.send("ue") == stage.send("gateway") == 1

    def test_a_refused_move_leaves_an_sa_that_can_be_removed(self, stage: Scene) -> None:
        """Another program has the SPI at the new address: its SA stays, ours sends no more."""
        spec = stage.install(ue_spec("aes128gcm16"))
        foreign = replace(spec, inbound_spi=b"\x12\x34\x56\x78", path=PATHS[6], encapsulation=False)
        assert stage.send("ue", PACKETS) == PACKETS
        other = stage.ue.call(lambda: XfrmDataPlane(reqids=range(0x1000, 0x1010)))
        other.install(replace(foreign, local_selectors=(TrafficSelector.host("10.45.0.99"),)))
        with pytest.raises(BackendError, match="File exists"):
            stage.ue_plane.update_path(spec.inbound_spi, PATHS[6], True)
        with pytest.raises(OSError):
            stage.send("ue")
        assert stage.ue_plane.counters(spec.inbound_spi).outbound_packets == PACKETS
        stage.ue_plane.remove(spec.inbound_spi)
        assert other.counters(foreign.inbound_spi) == ChildSaCounters()
        other.close()

    def test_an_older_sa_moves_too(self, stage: Scene) -> None:
        old, new = stage.install(ue_spec()), ue_spec(number=2)
        stage.gateway_plane.replace(old.outbound_spi, mirrored(new))
        stage.gateway_plane.update_path(old.outbound_spi, ELSEWHERE.reversed(), True)
        stage.gateway_plane.update_path(new.outbound_spi, ELSEWHERE.reversed(), True)
        stage.ue_plane.update_path(old.inbound_spi, ELSEWHERE, True)
        assert stage.send("ue") == 1
        stage.ue_plane.replace(old.inbound_spi, replace(new, path=ELSEWHERE))
        assert stage.send("ue") == stage.send("gateway") == 1
        assert stage.gateway_plane.counters(old.outbound_spi).inbound_packets == 1
        assert stage.gateway_plane.counters(new.outbound_spi).inbound_packets == 1

    def test_a_nat_rebinding_is_seen_and_followed_without_loss(self, stage: Scene) -> None:
        spec = stage.install(ue_spec("aes128gcm16"))
        assert stage.send("ue") == 1
        other = Endpoint(UE_OUTER.address, ELSEWHERE.local.port)
        stage.ue_plane.update_path(spec.inbound_spi, Path(other, GATEWAY_OUTER), True)
        assert stage.send("ue", 3) == 3
        expected = PeerEndpointObserved(inbound_spi=spec.outbound_spi, path=Path(GATEWAY_OUTER, other))
        assert stage.gateway_plane.poll_event() == expected
        assert stage.gateway_plane.poll_event() is None  # once
        counters = stage.gateway_plane.counters(spec.outbound_spi)
        assert (counters.inbound_packets, counters.strayed_packets, counters.evidence) == (4, 3, 1)
        with stage.flood("gateway") as flood:
            stage.gateway_plane.update_path(spec.outbound_spi, expected.path, True)
            flood.wait()
        assert repeated(stage.seen()) == set()
        assert stage.arrived("ue") > 0
        assert stage.send("ue") == stage.send("gateway") == 1
        assert stage.gateway_plane.poll_event() is None


def beet_spec(version: int, suite: str = "aes128gcm16", number: int = 1) -> ChildSaSpec:
    """A child SA in BEET mode between the inner hosts."""
    mine, theirs = (TrafficSelector.host(each) for each in INNER[version])
    spec = ue_spec(suite, number=number)
    return replace(spec, mode=EspMode.BEET, local_selectors=(mine,), remote_selectors=(theirs,))


class TestBeet:
    @pytest.mark.parametrize("encapsulation", [True, False])
    @pytest.mark.parametrize("outer", [4, 6])
    @pytest.mark.parametrize("inner", [4, 6])
    def test_packets_go_without_their_header(self, stage: Scene, inner: int, outer: int, encapsulation: bool) -> None:
        lengths, header = [], IP_HEADERS[inner]
        for mode in (EspMode.TUNNEL, EspMode.BEET):
            made = replace(beet_spec(inner), mode=mode, path=PATHS[outer], encapsulation=encapsulation)
            spec = stage.install(made)
            assert stage.send("ue", PACKETS, inner) == stage.send("gateway", PACKETS, inner) == PACKETS
            lengths.append({len(each.octets) for each in stage.seen()})
            octets = PACKETS * (header + UDP_LENGTH)
            saved = 2 * PACKETS * header if mode is EspMode.BEET else 0
            counters = ChildSaCounters(
                inbound_packets=PACKETS,
                outbound_packets=PACKETS,
                inbound_octets=octets,
                outbound_octets=octets,
                overhead_saved_octets=saved,
            )
            assert stage.ue_plane.counters(spec.inbound_spi) == counters
            assert stage.gateway_plane.counters(spec.outbound_spi) == counters
            stage.ue_plane.remove(spec.inbound_spi)
            stage.gateway_plane.remove(spec.outbound_spi)
        (tunnel,), (beet,) = lengths
        assert tunnel - beet == header

    @pytest.mark.parametrize("inner", [4, 6])
    def test_moves_under_traffic(self, stage: Scene, inner: int) -> None:
        """By MIGRATE and anew, to other addresses, families and encapsulations; no sequence number comes twice."""
        spec = stage.install(beet_spec(inner))
        for path, encapsulation in (
            (ELSEWHERE, True),
            (PATHS[4], True),
            (PATHS[4], False),
            (PATHS[6], True),
            (PATHS[4], True),
        ):
            assert stage.send("ue", PACKETS, inner) == stage.send("gateway", PACKETS, inner) == PACKETS
            stage.move(path, encapsulation)
        assert stage.send("ue", PACKETS, inner) == stage.send("gateway", PACKETS, inner) == PACKETS
        assert repeated(stage.seen()) == set()
        ue, gateway = stage.ue_plane.counters(spec.inbound_spi), stage.gateway_plane.counters(spec.outbound_spi)
        assert ue.inbound_packets == ue.outbound_packets == gateway.inbound_packets == 6 * PACKETS
        assert ue.inbound_octets == gateway.outbound_octets == 6 * PACKETS * (IP_HEADERS[inner] + UDP_LENGTH)
        if inner == 4:
            with stage.flood("ue") as flood:
                for path in (ELSEWHERE, PATHS[4]) * 2:
                    stage.move(path, True)
                    flood.wait()
            assert repeated(stage.seen()) == set()
            assert stage.arrived("gateway") > 0

    @pytest.mark.parametrize("suite", ["aes128gcm16", "aes128-sha256-esn"])
    @pytest.mark.parametrize("inner", [4, 6])
    def test_userspace_at_the_other_end(self, stage: Scene, inner: int, suite: str) -> None:
        """IPv4 options included, which go in BEET's pseudo header."""
        ours = Endpoint(UE_OUTER.address, USERSPACE_PORT)
        spec = replace(beet_spec(inner, suite), path=Path(ours, GATEWAY_OUTER))
        stage.gateway_plane.install(mirrored(spec))
        delivered: list[bytes] = []
        mine, theirs = INNER[inner]
        here, there = ip_address(mine), ip_address(theirs)
        payload = UdpDatagram(source_port=PORT, destination_port=PORT, payload=PAYLOAD).encode(here, there)
        with userspace_socket(stage.ue, ours) as outer:
            plane = UserspaceDataPlane(
                entropy=SeededEntropy(suite),
                deliver=lambda packet, inbound_spi: delivered.append(packet),
                transmit=lambda octets, path, encapsulation, traffic_class: outer.send(octets),
            )
            plane.install(spec)
            for _ in range(PACKETS):
                assert plane.send_inner(
                    IpPacket(source=here, destination=there, protocol=UDP, payload=payload).encode()
                )
            assert stage.arrived("gateway", inner) == PACKETS
            talker = stage.inner["gateway", inner]
            for number in range(PACKETS):
                options = inner == 4 and number == PACKETS - 1
                if options:
                    talker.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, ROUTER_ALERT)
                talker.sendto(PAYLOAD, (mine, PORT))
                if options:
                    talker.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
                plane.receive_esp(outer.recv(2048), spec.path)
        assert len(delivered) == PACKETS
        assert {UdpDatagram.decode(IpPacket.decode(each)).payload for each in delivered} == {PAYLOAD}
        assert (ROUTER_ALERT in delivered[-1]) is (inner == 4)
        assert plane.drops == {}
        theirs_counted, ours_counted = stage.gateway_plane.counters(spec.outbound_spi), plane.counters(spec.inbound_spi)
        assert theirs_counted.inbound_packets == PACKETS
        # The kernel does not say which packets have options: here four octets of the pseudo header saved nothing.
        pseudo = 4 if inner == 4 else 0
        assert theirs_counted.outbound_octets == ours_counted.inbound_octets + pseudo
        assert theirs_counted.overhead_saved_octets == ours_counted.overhead_saved_octets + pseudo


class TestLimits:
    @pytest.mark.parametrize(
        "limits",
        [
            UsageLimits(soft_packets=3, hard_packets=6),
            UsageLimits(soft_octets=3 * INNER_LENGTH, hard_octets=6 * INNER_LENGTH),
        ],
        ids=["packets", "octets"],
    )
    def test_soft_then_hard(self, stage: Scene, limits: UsageLimits) -> None:
        spec = ue_spec("aes128gcm16")
        stage.ue_plane.install(replace(spec, limits=limits))
        stage.gateway_plane.install(mirrored(spec))
        assert stage.send("ue", 3) == 3
        assert stage.ue_plane.poll_event() is None
        assert stage.send("ue", 3) == 3
        assert stage.ue_plane.poll_event() == LifetimeReached(inbound_spi=spec.inbound_spi, hard=False)
        assert stage.ue_plane.poll_event() is None
        with pytest.raises(OSError):
            stage.send("ue")
        assert select([stage.ue_plane], [], [], ANSWER_INTERVAL)[0], "a timer of the kernel's tells of a hard limit"
        assert stage.ue_plane.poll_event() == LifetimeReached(inbound_spi=spec.inbound_spi, hard=True)
        assert stage.send("gateway") == 0  # nothing in the other direction either
        assert stage.ue_plane.poll_event() is None
        assert stage.ue_plane.counters(spec.inbound_spi).outbound_packets == 6

    @pytest.mark.parametrize(
        ("packets", "suite"), [(6, "aes128gcm16"), (2 * AHEAD + PACKETS, "aes128gcm16"), (3 * AHEAD, "aes128gcm16-esn")]
    )
    def test_a_hard_limit_is_one_over_moves(self, stage: Scene, packets: int, suite: str) -> None:
        """Near to it and far from it: so many packets leave, whatever paths they take."""
        spec = ue_spec(suite)
        stage.gateway_plane.install(replace(mirrored(spec), limits=UsageLimits(hard_packets=packets)))
        stage.ue_plane.install(spec)
        stage.spec = spec
        sent = 0
        for path in (ELSEWHERE, PATHS[4]):
            assert stage.send("gateway", 3) == 3
            stage.move(path, True)
            sent += 3
        settled(stage.gateway_plane)
        assert stage.send("gateway", packets - sent) == packets - sent
        with pytest.raises(OSError):
            stage.send("gateway")
        assert stage.gateway_plane.counters(spec.outbound_spi).outbound_packets == packets

    def test_limits_count_on_after_a_move(self, stage: Scene) -> None:
        spec = ue_spec()
        stage.ue_plane.install(replace(spec, limits=UsageLimits(soft_packets=6)))
        stage.gateway_plane.install(mirrored(spec))
        stage.spec = spec
        assert stage.send("ue", 4) == 4
        stage.move(ELSEWHERE, True)
        assert stage.send("ue", 3) == 3
        assert stage.ue_plane.poll_event() == LifetimeReached(inbound_spi=spec.inbound_spi, hard=False)

    def test_sequence_numbers_run_out(self, stage: Scene) -> None:
        spec = stage.install(ue_spec("aes128gcm16"))
        maximum = (1 << 32) - 1

        def spend(packets: int) -> None:
            """As if so many had been sent."""
            identity = {"daddr": "192.0.2.1", "spi": int.from_bytes(spec.outbound_spi, "big"), "family": 2, "proto": 50}
            with XfrmSocket() as xfrm:
                xfrm.ae(
                    "update",
                    sa_id=identity,
                    ltime_val={"packets": packets},
                    replay_val={"oseq": packets, "seq": 0, "bitmap": 0},
                )

        stage.ue.call(lambda: spend(maximum - (maximum >> 3)))
        assert stage.send("ue") == 1
        expected = SequenceNumbersRunningOut(inbound_spi=spec.inbound_spi, exhausted=False)
        assert stage.ue_plane.poll_event() == expected
        stage.ue.call(lambda: spend(maximum - 1))
        assert stage.send("ue") == 1
        with pytest.raises(OSError):
            stage.send("ue")
        assert stage.ue_plane.poll_event() == replace(expected, exhausted=True)
        assert stage.seen()[-1].sequence == maximum
        assert stage.send("gateway") == 1


class TestUserspaceAgainstTheKernel:
    @pytest.mark.parametrize("suite", SUITES)
    def test_every_suite(self, stage: Scene, suite: str) -> None:
        """Our own ESP at the UE, the kernel's at the gateway, in UDP, both versions inside."""
        ours = Endpoint(UE_OUTER.address, USERSPACE_PORT)
        spec = replace(dual_stack(ue_spec(suite)), path=Path(ours, GATEWAY_OUTER))
        stage.gateway_plane.install(mirrored(spec))
        delivered: list[bytes] = []
        with userspace_socket(stage.ue, ours) as outer:
            plane = UserspaceDataPlane(
                entropy=SeededEntropy(suite),
                deliver=lambda packet, inbound_spi: delivered.append(packet),
                transmit=lambda octets, path, encapsulation, traffic_class: outer.send(octets),
            )
            plane.install(spec)
            for version, (mine, theirs) in INNER.items():
                here, there = ip_address(mine), ip_address(theirs)
                datagram = UdpDatagram(source_port=PORT, destination_port=PORT, payload=PAYLOAD)
                packet = IpPacket(
                    source=here, destination=there, protocol=UDP, payload=datagram.encode(here, there)
                ).encode()
                for _ in range(PACKETS):
                    assert plane.send_inner(packet)
                assert stage.arrived("gateway", version) == PACKETS
                for _ in range(PACKETS):
                    stage.inner["gateway", version].sendto(PAYLOAD, (mine, PORT))
                    plane.receive_esp(outer.recv(2048), spec.path)
                assert UdpDatagram.decode(IpPacket.decode(delivered[-1])).payload == PAYLOAD
        ours_counted, kernels = plane.counters(spec.inbound_spi), stage.gateway_plane.counters(spec.outbound_spi)
        assert len(delivered) == ours_counted.inbound_packets == kernels.outbound_packets == 2 * PACKETS
        assert ours_counted.outbound_packets == kernels.inbound_packets == 2 * PACKETS
        assert ours_counted.inbound_octets == kernels.outbound_octets
        assert ours_counted.outbound_octets == kernels.inbound_octets
        assert plane.drops == {}


class TestWhatTheKernelTells:
    def test_replay_state_and_lifetime(self, stage: Scene) -> None:
        """XFRM_MSG_GETAE, of both directions of an SA that has carried packets."""
        spec = stage.install(ue_spec())
        assert stage.send("ue", PACKETS) == PACKETS

        def read() -> list[tuple[int, int]]:
            found = []
            with XfrmSocket() as xfrm:
                for address, spi in (("192.0.2.1", spec.outbound_spi), ("198.51.100.7", spec.inbound_spi)):
                    identity = {"daddr": address, "spi": int.from_bytes(spi, "big"), "family": 2, "proto": 50}
                    (told,) = xfrm.ae("get", sa_id=identity, flags=XFRM_AE_RVAL | XFRM_AE_LVAL)
                    assert told["event"] == "XFRM_MSG_NEWAE"
                    assert told["sa_id"]["daddr"] == address
                    replay = told.get_attr("XFRMA_REPLAY_VAL") or told.get_attr("XFRMA_REPLAY_ESN_VAL")
                    found.append((replay["oseq"], told.get_attr("XFRMA_LTIME_VAL")["packets"]))
            return found

        assert stage.ue.call(read) == [(PACKETS, PACKETS), (0, 0)]

    def test_a_migration_names_the_addresses_of_the_key_manager(self, stage: Scene) -> None:
        """XFRM_MSG_MIGRATE with KMADDRESS, as others hear it, where the peer's address changes."""
        stage.install(ue_spec())
        listening = stage.gateway.call(lambda: XfrmConnection([XFRMNLGRP_MIGRATE]))
        with closing(listening):
            stage.move(ELSEWHERE, True)
            (told,) = listening.events()
        assert told["event"] == "XFRM_MSG_MIGRATE"
        addresses = told.get_attr("XFRMA_KMADDRESS")
        assert (addresses["local"], addresses["remote"]) == ("192.0.2.1", str(ELSEWHERE.local.address))
        (migrated,) = told.get_attr("XFRMA_MIGRATE")
        assert (migrated["old_saddr"], migrated["new_saddr"]) == ("198.51.100.7", str(ELSEWHERE.local.address))

    def test_the_number_of_an_interface_goes_with_its_sa(self, stage: Scene) -> None:
        """XFRMA_IF_ID in SAs and policies, and kept by every kind of move."""
        spec = ue_spec("aes128gcm16")
        stage.ue_plane.install(spec, if_id=7)

        def numbers() -> list[int | None]:
            with XfrmSocket() as xfrm:
                return [each.get_attr("XFRMA_IF_ID") for each in (*xfrm.sa("dump"), *xfrm.policy("dump"))]

        for path, encapsulation in ((ELSEWHERE, True), (ELSEWHERE, False), (PATHS[6], True), (PATHS[4], True)):
            assert stage.ue.call(numbers) == [7] * 5
            stage.ue_plane.update_path(spec.inbound_spi, path, encapsulation)
            settled(stage.ue_plane)
        stage.ue_plane.replace(spec.inbound_spi, ue_spec("aes128gcm16", number=2))
        assert stage.ue.call(numbers) == [7] * 7
        stage.ue_plane.remove(spec.inbound_spi)
        assert stage.ue.call(numbers) == [7] * 5

    def test_an_sa_that_somebody_flushed(self, stage: Scene) -> None:
        """Nothing is sent, at once; nobody is asked for another one; the node hears of it."""
        spec = stage.install(ue_spec())
        assert stage.send("ue") == 1

        def flush() -> None:
            with XfrmSocket() as xfrm:
                xfrm.sa("flush")

        def states() -> int:
            with XfrmSocket() as xfrm:
                return len(xfrm.sa("dump"))

        stage.ue.call(flush)
        stage.seen()
        assert stage.send("ue") == 0
        assert stage.seen() == []
        assert stage.ue.call(states) == 0
        stage.ue_plane.counters(spec.inbound_spi)
        assert stage.ue_plane.poll_event() == LifetimeReached(inbound_spi=spec.inbound_spi, hard=True)

    def test_an_expiry_that_somebody_asks_for(self, stage: Scene) -> None:
        """XFRM_MSG_EXPIRE of a program's: as if the kernel's own."""
        spec = stage.install(ue_spec())
        identity = {"daddr": "192.0.2.1", "spi": int.from_bytes(spec.outbound_spi, "big"), "proto": 50}

        def expire(hard: int) -> None:
            with XfrmSocket() as xfrm:
                xfrm.sa("expire", state={"id": identity, "family": socket.AF_INET}, hard=hard)

        for hard in (0, 1):
            stage.ue.call(lambda hard=hard: expire(hard))  # type: ignore[misc]
            assert stage.ue_plane.poll_event() == LifetimeReached(inbound_spi=spec.inbound_spi, hard=bool(hard))


class TestLeftovers:
    def test_a_crash_leaves_what_the_next_run_removes(self) -> None:
        with Namespace("crash") as namespace:

            def crash() -> None:
                child = os.fork()
                if child == 0:
                    plane = XfrmDataPlane()
                    plane.install(ue_spec())
                    plane.install(dual_stack(ue_spec("aes128gcm16", number=2)))  # with policies of the first
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0

            def body() -> None:
                with XfrmSocket() as xfrm:
                    limits = dict.fromkeys(
                        ("soft_byte_limit", "hard_byte_limit", "soft_packet_limit", "hard_packet_limit"), XFRM_INF
                    )
                    foreign_sa = {
                        "id": {"daddr": "192.0.2.9", "spi": 0x1234, "proto": 50},
                        "saddr": "192.0.2.8",
                        "family": socket.AF_INET,
                        "mode": 1,
                        "reqid": 1,
                        "lft": limits,
                        "alg_crypt": {"alg_name": "cbc(aes)", "alg_key": bytes(16)},
                        "alg_auth_trunc": {"alg_name": "hmac(sha256)", "alg_key": bytes(32), "alg_trunc_len": 128},
                    }
                    xfrm.sa("add", **foreign_sa)
                    selector = {"family": socket.AF_INET, "daddr": "10.99.0.0", "prefixlen_d": 16}
                    xfrm.policy("add", sel=selector, lft=limits, dir=XFRM_POLICY_OUT, priority=1)
                    crash()
                    assert len(xfrm.sa("dump")) == 1 + 4
                    plane = XfrmDataPlane()
                    assert plane.leftovers == 4 + 3 + 3
                    assert [each["reqid"] for each in xfrm.sa("dump")] == [1]
                    assert [each["sel"]["daddr"] for each in xfrm.policy("dump")] == ["10.99.0.0"]
                    plane.install(ue_spec())
                    plane.close()
                    assert len(xfrm.sa("dump")) == len(xfrm.policy("dump")) == 1

            namespace.call(body)
