"""IKE and ESP over IPv6, and moves between the versions with traffic running (RFC 4555 §3.3, §3.5); root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from aaa.subscribers import SubscriberDatabase
from aaa.subscribers.laboratory import provision
from epdg.pki import make_pki
from lab.namespaces import Namespace
from protocols.io.evidence import write_evidence
from protocols.trace.records import JsonValue
from tests.nodes.test_ue_node import records_of
from tests.peers.aaa_node import HOST, REALM
from tests.peers.epdg_node import CORE_HOST, FQDN
from tests.peers.namespaces import ping, require_namespaces
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until
from tests.peers.tshark import Tshark

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

GATEWAY_4, GATEWAY_6 = "127.0.1.1", "2001:db8:1::1"
FOUR, SIX, OTHER_SIX = "127.0.2.1", "2001:db8:2::1", "2001:db8:3::1"
CORE_HOST_6 = "2001:db8:99::1"
MAXIMUM_OUTAGE = 1.0  # of a move, in seconds; the gateway checks the new address before it sends there


@dataclass(frozen=True, kw_only=True)
class World:
    namespace: Namespace
    gateway: NodeProcess
    ue: NodeProcess

    def gateway_path(self) -> str | None:
        """Where the gateway has the UE; nowhere while its child SA waits for the check of the IKE SA's new path."""
        listed = self.gateway.call("sessions.list", state="established")["sessions"]
        (session,) = listed  # type: ignore[misc]
        ike = session["ike"]["path"]["remote"]  # type: ignore[index,call-overload]
        (child,) = session["child_sas"]  # type: ignore[index,misc,call-overload]
        return str(ike) if child["path"]["remote"] == ike else None  # type: ignore[index,call-overload]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """AAA, gateway and UE on the loopback of a namespace of their own, with addresses of both versions."""
    require_namespaces()
    database = SubscriberDatabase(f"sqlite:///{tmp_path / 'aaa.db'}")
    database.migrate()
    (user,) = provision(database, [1])
    database.close()
    assert user.opc is not None
    make_pki(tmp_path / "pki", (FQDN, "internet"))
    with ExitStack() as stack:
        namespace = stack.enter_context(Namespace("six", ipv6=True))
        for address in (GATEWAY_6, SIX, OTHER_SIX):
            namespace.add_address("lo", f"{address}/128")
        aaa = {"identity": {"host": HOST, "realm": REALM}, "database": "sqlite:///aaa.db"}
        epdg = {
            "plmn": {"mcc": "001", "mnc": "01"},
            "listen": {"addresses": [GATEWAY_4, GATEWAY_6]},
            "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
            "diameter": {"host": f"epdg.{REALM}", "realm": REALM, "peers": [{"host": HOST, "address": "127.0.0.1"}]},
            "apns": {"internet": {"pool": "10.45.0.0/24", "pool6": "2001:db8:45::/48"}},
            "data_plane": {"hosts": [CORE_HOST, CORE_HOST_6]},
        }
        ue = {
            "imsi": str(user.imsi),
            "plmn": {"mcc": "001", "mnc": "01"},
            "usim": {"k": user.k.reveal().hex(), "opc": user.opc.reveal().hex()},
            "apn": "internet",
            "pdn_type": "ipv4v6",
            "gateway": {"address": GATEWAY_4, "other_address": GATEWAY_6, "ca": "pki/ca.pem"},
            "accesses": {"four": {"address": FOUR}, "six": {"address": SIX}, "other-six": {"address": OTHER_SIX}},
            "trace": {"export_keys": True},
            "data_plane": {"kind": "tun", "device": "ue0", "routes": [f"{CORE_HOST}/32", f"{CORE_HOST_6}/128"]},
        }
        stack.enter_context(NodeProcess(namespace, "aaa", tmp_path, aaa))
        gateway = stack.enter_context(NodeProcess(namespace, "epdg", tmp_path, epdg))
        wait_until(lambda: has_peer(gateway), what="the gateway's AAA server", timeout=20.0, log=gateway.log)
        node = stack.enter_context(NodeProcess(namespace, "ue", tmp_path, ue, verb="run"))
        yield World(namespace=namespace, gateway=gateway, ue=node)


def has_peer(gateway: NodeProcess) -> bool:
    peers = gateway.call("peers.list")["peers"]
    assert isinstance(peers, list)
    return any(isinstance(peer, dict) and str(peer["state"]).lower().endswith("open") for peer in peers)


def nat(ue: NodeProcess) -> JsonValue:
    """Whether the UE's IKE SA sees a NAT before the UE or the gateway."""
    session = ue.call("ue.status")["sessions"][0]  # type: ignore[index]
    return session["ike"]["nat"]  # type: ignore[index,call-overload]


def test_attach_over_ipv6_with_traffic_of_both_families_inside(world: World) -> None:
    """NAT_DETECTION hashes over addresses of 16 octets, ESP over IPv6, a TUN device with both families."""
    inner_4, inner_6 = world.ue.call("ue.attach", access="six")["inner_addresses"]  # type: ignore[misc]
    assert world.gateway_path() == f"[{SIX}]:4500"
    assert {f"{inner_4}/32", f"{inner_6}/128"} <= world.namespace.addresses()
    for host in (CORE_HOST, CORE_HOST_6):
        assert ping(world.namespace, host).received == 3
    found = world.gateway.call("sessions.list", address=SIX)["total"]
    assert found == 1
    assert nat(world.ue) == {"local": False, "remote": False}
    world.ue.call("ue.detach")
    assert not {f"{inner_4}/32", f"{inner_6}/128"} & world.namespace.addresses()


def test_moves_between_ipv4_and_ipv6_keep_the_traffic_of_both_families(world: World) -> None:
    """RFC 4555 §3.5: INFORMATIONAL {N(UPDATE_SA_ADDRESSES), ..} from an address of the other version."""
    session = world.ue.call("ue.attach", access="four")
    inner = session["inner_addresses"]
    flows = [world.ue.call("ue.traffic.start", destination=host, rate=100)["id"] for host in (CORE_HOST, CORE_HOST_6)]
    places = {"six": f"[{SIX}]:4500", "other-six": f"[{OTHER_SIX}]:4500", "four": f"{FOUR}:4500"}
    for access, place in places.items():
        answer = world.ue.call("ue.move", to=access)
        move, after = answer["move"], answer["session"]
        assert isinstance(move, dict)
        assert isinstance(after, dict)
        assert (move["outcome"], move["inner_address_unchanged"], move["spis_unchanged"]) == ("completed", True, True)
        assert after["inner_addresses"] == inner
        wait_until(lambda place=place: world.gateway_path() == place, what=f"the gateway at {place}", timeout=5.0)  # type: ignore[misc]
        for host in (CORE_HOST, CORE_HOST_6):
            assert ping(world.namespace, host, count=2).received == 2

    def score(number: object) -> tuple[int, float]:
        """Echoes that were answered, and the longest time without one in milliseconds."""
        told = world.ue.call("ue.traffic.statistics", id=number)
        received, gap = told["received"], told["longest_gap_ms"]
        assert isinstance(received, int)
        assert isinstance(gap, int | float)
        return received, gap

    for number in flows:
        wait_until(lambda number=number: score(number)[0] > 20, what="the flow to go on", timeout=5.0)  # type: ignore[misc]
        assert score(number)[1] < MAXIMUM_OUTAGE * 1000


@pytest.mark.peer
def test_tshark_decrypts_ike_and_esp_over_both_versions(world: World, tmp_path: Path) -> None:
    world.ue.call("ue.attach", access="six")
    for access in ("six", "four", "other-six"):
        if access != "six":
            world.ue.call("ue.move", to=access)
        for host in (CORE_HOST, CORE_HOST_6):
            assert ping(world.namespace, host, count=2).received == 2
    write_evidence(tmp_path / "evidence", tuple(records_of(world.ue.control)))
    tshark = Tshark(tmp_path, tmp_path / "evidence/wireshark-profile")
    capture = tmp_path / "evidence/capture.pcapng"
    assert tshark.complaints(capture) == []
    for version, outside in ((4, [GATEWAY_4, FOUR]), (6, [GATEWAY_6, SIX, OTHER_SIX])):
        source = "ip.src" if version == 4 else "ipv6.src"
        rows = tshark.fields(capture, (source,), display_filter="isakmp")
        assert {row[source][0] for row in rows if row[source]} == set(outside)
    # inside each tunnel packet there is one of the two families, whatever is outside
    seen = tshark.fields(capture, ("icmp.type", "icmpv6.type"), display_filter="esp")
    assert sum(row["icmp.type"] == ["8"] for row in seen) == sum(row["icmp.type"] == ["0"] for row in seen) == 6
    assert sum(row["icmpv6.type"] == ["128"] for row in seen) == sum(row["icmpv6.type"] == ["129"] for row in seen) == 6
    status = world.ue.call("node.status")
    if status["data_plane"]["backend"] != "python":  # type: ignore[index,call-overload]
        heard = status["trace"]["esp"]  # type: ignore[index,call-overload]
        assert (heard["pauses"], heard["left_out"]) == (0, {})  # type: ignore[index,call-overload]
        assert heard["recorded"] >= 24  # type: ignore[index,call-overload,operator]
