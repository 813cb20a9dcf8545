"""Gateway and UE as processes whose ESP the kernel carries, by XFRM interfaces, in namespaces under Debian's kernel."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from aaa.subscribers import SubscriberDatabase
from aaa.subscribers.laboratory import provision
from epdg.pki import make_pki
from lab.namespaces import ACCESS_A, ACCESS_B, CORE, CORE_INTERFACE, GATEWAY, AccessTopology, Namespace
from protocols.dataplane.xfrm.socket import XfrmSocket
from protocols.io.nftables import NfTables
from tests.interop.test_xfrm_carrier import device_names
from tests.nodes.test_outer_ipv6 import has_peer
from tests.peers.aaa_node import HOST, REALM
from tests.peers.epdg_node import FQDN
from tests.peers.namespaces import namespaces, ping
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until

pytestmark = [pytest.mark.peer, pytest.mark.guest("debian", limit=1800), pytest.mark.timeout(800)]

LIMIT = 60.0
START_LIMIT = 300.0  # of a process of an emulated machine's, whose files nobody has read yet
POOL = ip_network("10.46.0.0/24")
PLMN = {"mcc": "001", "mnc": "01"}
TABLE = "epdg-epdg0"


@dataclass(frozen=True, kw_only=True)
class World:
    """A topology and the nodes in it."""

    stage: AccessTopology
    gateway: NodeProcess
    ue: NodeProcess
    device_kind: str


@pytest.fixture(scope="module")
def device_kind() -> str:
    """What the kernel makes of the nodes' devices; another module that has these tests may say otherwise."""
    return "xfrm"


@pytest.fixture
def world(tmp_path: Path, device_kind: str) -> Iterator[World]:
    database = SubscriberDatabase(f"sqlite:///{tmp_path / 'aaa.db'}")
    database.migrate()
    (user,) = provision(database, [1])
    database.close()
    assert user.opc is not None
    make_pki(tmp_path / "pki", (FQDN, "internet"))
    aaa = {"identity": {"host": HOST, "realm": REALM}, "database": "sqlite:///aaa.db"}
    epdg = {
        "plmn": PLMN,
        "listen": {"addresses": [str(GATEWAY.ip)]},
        "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
        "diameter": {
            "host": f"epdg.{REALM}",
            "realm": REALM,
            "peers": [{"host": HOST, "address": "127.0.0.1"}],
        },
        "apns": {"internet": {"pool": str(POOL), "egress": "masqueraded", "egress_interface": CORE_INTERFACE}},
        "data_plane": {"kind": "tun", "backend": "kernel"},
    }
    ue = {
        "imsi": str(user.imsi),
        "plmn": PLMN,
        "usim": {"k": user.k.reveal().hex(), "opc": user.opc.reveal().hex()},
        "apn": "internet",
        "gateway": {"address": str(GATEWAY.ip), "ca": "pki/ca.pem"},
        "accesses": {"a": {"address": str(ACCESS_A.address.ip)}, "b": {"address": str(ACCESS_B.address.ip)}},
        "data_plane": {"kind": "tun", "backend": "kernel", "device": "ue0", "routes": [f"{CORE.ip}/32", str(POOL)]},
    }
    with namespaces() as stage, ExitStack() as nodes:
        server = NodeProcess(stage.gateway, "aaa", tmp_path, aaa, start_timeout=START_LIMIT)
        gateway = NodeProcess(stage.gateway, "epdg", tmp_path, epdg, start_timeout=START_LIMIT)
        device = NodeProcess(stage.ue, "ue", tmp_path, ue, verb="run", start_timeout=START_LIMIT)
        with ThreadPoolExecutor() as starting:  # each takes its time, and there are two processors
            for each in [starting.submit(nodes.enter_context, node) for node in (server, gateway, device)]:
                each.result()
        wait_until(lambda: has_peer(gateway), what="the gateway's AAA server", timeout=LIMIT, log=gateway.log)
        yield World(stage=stage, gateway=gateway, ue=device, device_kind=device_kind)


def kinds(namespace: Namespace) -> dict[str, str]:
    """The devices of ours by name, as what the kernel made them."""

    def read() -> dict[str, str]:
        with IPRoute() as route:
            links = {str(link.get_attr("IFLA_IFNAME")): link.get_attr("IFLA_LINKINFO") for link in route.get_links()}
        return {name: str(info.get_attr("IFLA_INFO_KIND")) for name, info in links.items() if info is not None}

    return {name: kind for name, kind in namespace.call(read).items() if name in ("epdg0", "ue0")}


def in_the_kernel(namespace: Namespace) -> tuple[int, int]:
    """How many SAs and policies there are."""

    def read() -> tuple[int, int]:
        with XfrmSocket() as xfrm:
            return len(xfrm.sa("dump")), len(xfrm.policy("dump"))

    return namespace.call(read)


def sa_numbers(namespace: Namespace) -> set[int]:
    """The SPIs in the kernel."""

    def read() -> set[int]:
        with XfrmSocket() as xfrm:
            return {each["id"]["spi"] for each in xfrm.sa("dump")}

    return namespace.call(read)


def reaches_the_core(world: World) -> None:
    result = ping(world.stage.ue, CORE.ip, count=3, wait=5.0)
    assert result.received == 3, result.output


def reach_each_other(world: World, inner: object) -> None:
    """The UE its gateway's network, and the gateway the UE."""
    reaches_the_core(world)
    result = ping(world.stage.gateway, str(inner), count=3, wait=5.0)
    assert result.received == 3, result.output


def session(world: World) -> dict[str, Any]:
    (found,) = world.gateway.call("sessions.list")["sessions"]  # type: ignore[misc]
    assert isinstance(found, dict)
    return found


def test_attach_ping_move_rekey_detach(world: World) -> None:
    """The tunnel's life by the kernel alone, and nothing of it left."""
    stage, both = world.stage, (world.stage.ue, world.stage.gateway)
    for node in (world.gateway, world.ue):
        assert node.call("node.status")["data_plane"]["backend"] == "kernel"  # type: ignore[call-overload,index]
    before = [device_names(namespace) for namespace in both]
    (inner,) = world.ue.call("ue.attach")["inner_addresses"]  # type: ignore[misc]
    assert f"{inner}/32" in stage.ue.addresses()
    assert kinds(stage.ue) == {"ue0": world.device_kind}
    assert kinds(stage.gateway) == {"epdg0": world.device_kind}
    assert [in_the_kernel(namespace) for namespace in both] == [(2, 3), (2, 3)]
    reach_each_other(world, inner)

    world.ue.call("ue.move", to="b")
    stage.leave(ACCESS_A)
    reach_each_other(world, inner)

    for node, method in ((world.ue, "ue.rekey-child"), (world.gateway, "sessions.rekey-child")):
        former = sa_numbers(stage.ue)
        node.call(method, **({} if node is world.ue else {"id": session(world)["id"]}))

        def rekeyed(former: set[int] = former) -> bool:
            return all(len(sa_numbers(each)) == 2 and not sa_numbers(each) & former for each in both)

        wait_until(rekeyed, what="new SAs alone", timeout=LIMIT, log=node.log)
        reach_each_other(world, inner)
    world.ue.call("ue.rekey-ike")
    reach_each_other(world, inner)

    world.ue.call("ue.detach")
    wait_until(lambda: in_the_kernel(stage.gateway) == (0, 0), what="no SA", timeout=LIMIT, log=world.gateway.log)
    assert in_the_kernel(stage.ue) == (0, 0)
    assert device_names(stage.ue) == before[0]
    assert f"{inner}/32" not in stage.ue.addresses()
    assert device_names(stage.gateway) == before[1]
    assert world.gateway.stop() == 0
    assert "epdg0" not in device_names(stage.gateway)
    assert stage.gateway.call(lambda: NfTables().comment(TABLE)) is None


def test_kill_9_and_again(world: World) -> None:
    """Of both nodes: device, SAs, policies and packet filter of the former run are gone when the next one serves."""
    stage, both = world.stage, (world.stage.ue, world.stage.gateway)
    world.ue.call("ue.attach")
    reaches_the_core(world)
    world.ue.kill()
    world.gateway.kill()
    assert [in_the_kernel(namespace) for namespace in both] == [(2, 3), (2, 3)]
    assert "ue0" in device_names(stage.ue)
    world.gateway.start()
    assert "of a run that did not end is replaced" in world.gateway.log()
    world.ue.start()
    assert [in_the_kernel(namespace) for namespace in both] == [(0, 0), (0, 0)]
    assert "ue0" not in device_names(stage.ue)
    wait_until(lambda: has_peer(world.gateway), what="the AAA server", timeout=LIMIT, log=world.gateway.log)
    world.ue.call("ue.attach")
    reaches_the_core(world)
    assert world.ue.stop() == 0
    assert in_the_kernel(stage.ue) == (0, 0)
    assert "ue0" not in device_names(stage.ue)
