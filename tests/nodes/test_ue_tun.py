"""``ue`` with a TUN device: the kernel's own traffic through the tunnel, and nothing left behind (root)."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from aaa.subscribers import SubscriberDatabase
from aaa.subscribers.laboratory import provision
from epdg.pki import make_pki
from lab.namespaces import Namespace, terminate
from protocols.errors import BackendError
from protocols.io.control import ControlError, call_sync
from protocols.trace.records import JsonValue
from tests.peers.aaa_node import HOST, REALM
from tests.peers.epdg_node import CORE_HOST, FQDN
from tests.peers.namespaces import ping, require_namespaces
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until

pytestmark = pytest.mark.root

GATEWAY = "127.0.1.1"
DISTANT, ROUTER, DISTANT_ACCESSES = "198.18.0.1", "198.18.1.1", ("198.18.1.2", "198.18.1.3")
PORTS = {"ike_port": 500, "nat_traversal_port": 4500}
TIMEOUT = 20.0
P_CSCF = "10.99.0.7"
ORIGINAL = "nameserver 192.0.2.53\n"
DNS = ["10.45.0.1"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Namespace, NodeProcess]]:
    """AAA, gateway and UE (not attached yet) on the loopback of a namespace of their own."""
    require_namespaces()
    with ExitStack() as stack:
        namespace = stack.enter_context(Namespace("tun"))
        yield namespace, nodes(stack, tmp_path, namespace, namespace, GATEWAY, ("127.0.2.1", "127.0.3.1"))


@pytest.fixture
def distant(tmp_path: Path) -> Iterator[tuple[Namespace, NodeProcess]]:
    """The gateway in another namespace than the UE, which knows it by a default route only."""
    require_namespaces()
    with ExitStack() as stack:
        namespace, far = stack.enter_context(Namespace("tun")), stack.enter_context(Namespace("far"))
        namespace.connect("wlan0", far, "wlan1")
        for address in DISTANT_ACCESSES:
            namespace.add_address("wlan0", f"{address}/24")
        far.add_address("wlan1", f"{ROUTER}/24")
        far.add_address("lo", f"{DISTANT}/32")
        namespace.set_link("wlan0", up=True)
        far.set_link("wlan1", up=True)
        namespace.add_route("0.0.0.0/0", via=ROUTER)
        yield namespace, nodes(stack, tmp_path, namespace, far, DISTANT, DISTANT_ACCESSES)


def nodes(
    stack: ExitStack, tmp_path: Path, namespace: Namespace, far: Namespace, gateway: str, accesses: tuple[str, str]
) -> NodeProcess:
    """The processes; the UE is returned."""
    database = SubscriberDatabase(f"sqlite:///{tmp_path / 'aaa.db'}")
    database.migrate()
    (user,) = provision(database, [1])
    database.close()
    assert user.opc is not None
    make_pki(tmp_path / "pki", (FQDN, "internet"))
    aaa = {"identity": {"host": HOST, "realm": REALM}, "database": "sqlite:///aaa.db"}
    epdg = {
        "plmn": {"mcc": "001", "mnc": "01"},
        "listen": {"addresses": [gateway]},
        "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
        "diameter": {
            "host": f"epdg.{REALM}",
            "realm": REALM,
            "peers": [{"host": HOST, "address": "127.0.0.1"}],
        },
        "apns": {
            "internet": {"pool": "10.45.0.0/24", "dns": DNS},
            "ims": {"pool": "10.46.0.0/24", "p_cscf": [P_CSCF]},
        },
        "data_plane": {"hosts": [CORE_HOST, P_CSCF]},
    }
    ue = {
        "imsi": str(user.imsi),
        "plmn": {"mcc": "001", "mnc": "01"},
        "usim": {"k": user.k.reveal().hex(), "opc": user.opc.reveal().hex()},
        "apn": "internet",
        "gateway": {"address": gateway, "ca": "pki/ca.pem"},
        "accesses": {"a": {"address": accesses[0]}, "b": {"address": accesses[1]}},
        "data_plane": {"kind": "tun", "device": "ue0", "routes": [f"{CORE_HOST}/32"]},
        "additional_pdns": {"ims": {}},
    }
    stack.enter_context(NodeProcess(far, "aaa", tmp_path, aaa))
    node = stack.enter_context(NodeProcess(far, "epdg", tmp_path, epdg))
    wait_until(lambda: _has_peer(node), what="the gateway's AAA server", timeout=TIMEOUT, log=node.log)
    return stack.enter_context(NodeProcess(namespace, "ue", tmp_path, ue, verb="run"))


def _has_peer(gateway: NodeProcess) -> bool:
    peers = gateway.call("peers.list")["peers"]
    assert isinstance(peers, list)
    return any(isinstance(peer, dict) and str(peer["state"]).lower().endswith("open") for peer in peers)


def test_the_kernel_pings_through_the_tunnel_before_and_after_a_move(world: tuple[Namespace, NodeProcess]) -> None:
    namespace, ue = world
    (inner,) = ue.call("ue.attach")["inner_addresses"]  # type: ignore[misc]
    assert f"{inner}/32" in namespace.addresses()
    assert ping(namespace, CORE_HOST).received == 3
    ue.call("ue.move", to="b")
    assert ping(namespace, CORE_HOST).received == 3
    ue.call("ue.detach")
    assert f"{inner}/32" not in namespace.addresses()
    assert ping(namespace, CORE_HOST, count=1).received == 0


def test_each_pdn_connection_has_a_device_and_kill_9_leaves_none(world: tuple[Namespace, NodeProcess]) -> None:
    """The first one has the routes that are configured, the other one those to its P-CSCFs."""
    namespace, ue = world
    ue.call("ue.attach")
    ue.call("ue.attach", pdn="ims")
    inner = [f"{address}/32" for session in sessions(ue) for address in session["inner_addresses"]]
    assert set(inner) <= set(namespace.addresses())
    ue.call("ue.move", to="b")
    assert ping(namespace, CORE_HOST, count=1).received == 1
    assert ping(namespace, P_CSCF, count=1).received == 1
    ue.call("ue.detach", pdn="ims")
    assert inner[1] not in namespace.addresses()
    assert ping(namespace, CORE_HOST, count=1).received == 1
    assert ping(namespace, P_CSCF, count=1).received == 0

    ue.call("ue.attach", pdn="ims")
    ue.stop(signal.SIGKILL)
    assert not [address for address in namespace.addresses() if address.startswith("10.")]
    ue.start()
    ue.call("ue.attach")
    assert ping(namespace, CORE_HOST, count=1).received == 1


def test_a_device_that_is_taken_away_comes_back_and_the_session_goes_on(world: tuple[Namespace, NodeProcess]) -> None:
    namespace, ue = world
    ue.call("ue.attach")
    before = [session["id"] for session in sessions(ue)]
    assert ping(namespace, CORE_HOST, count=1).received == 1

    def delete() -> int:
        with IPRoute() as route:
            index = socket.if_nametoindex("ue0")
            route.link("del", index=index)
            return index

    index = namespace.call(delete)
    wait_until(
        lambda: namespace.call(lambda: dict(socket.if_nameindex()).get(index) != "ue0" and has("ue0")),
        what="another device",
        timeout=TIMEOUT,
        log=ue.log,
    )
    wait_until(lambda: ping(namespace, CORE_HOST, count=1).received == 1, what="the route", timeout=TIMEOUT, log=ue.log)
    assert [session["id"] for session in sessions(ue)] == before
    ue.call("ue.detach")
    assert not namespace.call(lambda: has("ue0"))


def has(device: str) -> bool:
    return device in [name for _, name in socket.if_nameindex()]


def sessions(ue: NodeProcess) -> list[dict[str, Any]]:
    found = ue.call("ue.status")["sessions"]
    assert isinstance(found, list)
    return found  # type: ignore[return-value]


def test_a_call_of_the_kernels_own_sockets_goes_on_over_a_move(
    world: tuple[Namespace, NodeProcess], tmp_path: Path
) -> None:
    """``lab host`` beside the UE calls a host behind the gateway; by reports it knows both directions."""
    namespace, ue = world
    ue.call("ue.attach")
    control = tmp_path / "host.sock"
    with (tmp_path / "host.log").open("wb") as output:
        process = namespace.popen(
            [sys.executable, "-m", "lab", "host", "--control", control, "--address", "127.0.9.1"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def status() -> JsonValue:
        with contextlib.suppress(BackendError):
            return call_sync(control, "host.status")
        return None

    def placed() -> dict[str, dict[str, int]]:
        return status()["placed"][0]  # type: ignore[call-overload,index,return-value]

    def heard(amount: int) -> bool:
        return placed()["uplink"]["received"] >= amount

    try:
        wait_until(status, what="lab host", timeout=TIMEOUT)
        call_sync(control, "host.start", destination=CORE_HOST)
        wait_until(lambda: heard(25), what="voice before the move", timeout=TIMEOUT)
        ue.call("ue.move", to="b")
        wait_until(lambda: heard(150), what="voice after the move", timeout=TIMEOUT)
        call_sync(control, "host.stop")
        seen = placed()
        assert max(seen[direction]["lost"] for direction in ("uplink", "downlink")) <= 25
    finally:
        terminate(process)


def test_sigterm_takes_device_and_address_away(world: tuple[Namespace, NodeProcess]) -> None:
    namespace, ue = world
    (inner,) = ue.call("ue.attach")["inner_addresses"]  # type: ignore[misc]
    assert f"{inner}/32" in namespace.addresses()
    assert ue.stop() == 0
    assert f"{inner}/32" not in namespace.addresses()


def test_a_device_that_exists_already_ends_the_attach_in_one_sentence(world: tuple[Namespace, NodeProcess]) -> None:
    namespace, ue = world
    with Namespace("neighbour") as neighbour:
        namespace.connect("ue0", neighbour, "other")
        with pytest.raises(ControlError, match="TUN device ue0: "):
            ue.call("ue.attach")
    assert ue.call("ue.status")["state"] in ("closing", "closed")


def left_behind(namespace: Namespace, resolver: Path) -> tuple[frozenset[str], list[str], int, list[str], str]:
    """Everything that a UE could leave in a system: addresses, devices, routes of all tables, rules, files."""

    def read() -> tuple[list[str], int, list[str]]:
        with IPRoute() as route:
            links = [str(link.get_attr("IFLA_IFNAME")) for link in route.get_links()]
            routes = [*route.get_routes(family=socket.AF_INET), *route.get_routes(family=socket.AF_INET6)]
            rules = [
                str(rule["attrs"]) for family in (socket.AF_INET, socket.AF_INET6) for rule in route.get_rules(family)
            ]
        return links, len(routes), rules

    links, routes, rules = namespace.call(read)
    return namespace.addresses(), links, routes, rules, resolver.read_text()


def test_nothing_is_left_behind(distant: tuple[Namespace, NodeProcess], tmp_path: Path) -> None:
    """Device, addresses, routes, rules and the resolver's file are as before; the file after kill -9 at the next start.

    All IPv4 traffic is led into the tunnel, and the tunnel's own packets still find their way, also after a move.
    """
    namespace, ue = distant
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(ORIGINAL)
    ue.close()
    plane = {"kind": "tun", "device": "ue0", "routes": ["0.0.0.0/0"], "resolv_conf": "resolv.conf"}
    ue.configuration = {**ue.configuration, "data_plane": plane}
    ue.start()
    before = left_behind(namespace, resolver)
    for end in ("detach", "kill -9", "SIGTERM"):
        ue.call("ue.attach")
        assert resolver.read_text().splitlines()[1:] == [f"nameserver {server}" for server in DNS]
        assert ping(namespace, CORE_HOST).received == 3
        ue.call("ue.move", to="b")
        assert ping(namespace, CORE_HOST).received >= 2  # the gateway's check of the new path may cost the first
        during = left_behind(namespace, resolver)
        assert "ue0" in during[1]
        assert during[2] > before[2] + 30
        if end == "detach":
            ue.call("ue.detach")
        elif end == "SIGTERM":
            assert ue.stop() == 0
        else:
            ue.kill()
            assert left_behind(namespace, resolver)[:4] == before[:4]  # with the descriptor of the device
            assert resolver.read_text() != ORIGINAL
            ue.start()
        assert left_behind(namespace, resolver) == before
        kept = [each.name for each in tmp_path.iterdir() if "resolv-conf" in each.name or each.name.startswith(".")]
        assert not kept
