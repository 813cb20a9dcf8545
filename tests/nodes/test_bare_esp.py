"""ESP straight on IP between our own ends (RFC 7296 §2.23): without a NAT, by MOBIKE to one and away again; root."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path as FilePath

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from aaa.subscribers import SubscriberDatabase
from aaa.subscribers.laboratory import provision
from epdg.pki import make_pki
from lab.namespaces import (
    ACCESS_A,
    ACCESS_B,
    GATEWAY,
    GATEWAY_INTERFACE,
    GATEWAY_ROUTER_INTERFACE,
    AccessTopology,
    Namespace,
)
from protocols.dataplane.userspace.tun import RTN_LOCAL
from protocols.errors import BackendError
from protocols.io.evidence import write_evidence
from protocols.io.raw import RawEspLink, esp_transport
from protocols.path import Endpoint, Path
from protocols.trace.records import JsonValue
from tests.nodes.test_outer_ipv6 import has_peer, nat
from tests.nodes.test_ue_node import records_of
from tests.peers.aaa_node import HOST, REALM
from tests.peers.epdg_node import CORE_HOST, FQDN
from tests.peers.namespaces import namespaces, ping, require_namespaces
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until
from tests.peers.tshark import Tshark

GATEWAY6, ROUTER6 = "fd77::1", "fd77::254"
ACCESS6, ACCESS_ROUTER6 = "fd77:1::2", "fd77:1::1"
ETH_P_ALL = 0x0003
ECHO_REQUEST, ECHO_REPLY = "8", "0"  # RFC 792
NO_NAT = {"local": False, "remote": False}
WITHOUT_RAW = ("setpriv", "--bounding-set", "-net_raw")


@dataclass(frozen=True, kw_only=True)
class World:
    stage: AccessTopology
    directory: FilePath
    gateway: NodeProcess
    ue: NodeProcess

    def encapsulation(self) -> set[JsonValue]:
        """Of the child SA, at both ends."""
        served = self.gateway.call("sessions.list", state="established")["sessions"][0]  # type: ignore[index]
        session = self.ue.call("ue.status")["sessions"][0]  # type: ignore[index]
        return {end["child_sas"][0]["encapsulation"] for end in (served, session)}  # type: ignore[index,call-overload]

    def until(self, encapsulation: bool) -> None:
        """Wait until both ends have it so: the gateway checks a new address first."""
        wait_until(lambda: self.encapsulation() == {encapsulation}, what=f"encapsulation {encapsulation}", timeout=5.0)

    def seen_by_tshark(self, frames: list[bytes]) -> list[tuple[str, str]]:
        """What carried each echo packet on the wire (``ip``, ``ipv6`` or ``udpencap``), and which way it went."""
        capture = self.directory / "wire.pcap"
        capture.write_bytes(_pcap(frames))
        # behind a NAT only the gateway knows the addresses that the SA has on its side
        write_evidence(self.directory / "gateway", tuple(records_of(self.gateway.control)))
        tshark = Tshark(self.directory, self.directory / "gateway/wireshark-profile")
        names = ("frame.protocols", "icmp.type", "esp.icv_good")
        found = []
        for row in tshark.fields(capture, names, display_filter="esp"):
            assert row["esp.icv_good"] == ["1"], row
            layers = row["frame.protocols"][0].split(":")
            found.append((layers[layers.index("esp") - 1], row["icmp.type"][0]))
        return found


@contextmanager
def opened(
    directory: FilePath,
    *,
    gateway_prefix: tuple[str, ...] = (),
    gateway: dict[str, object] | None = None,
    ue: dict[str, object] | None = None,
) -> Iterator[World]:
    """AAA, gateway and UE between namespaces; ``gateway`` and ``ue`` are further keys of their configurations."""
    database = SubscriberDatabase(f"sqlite:///{directory / 'aaa.db'}")
    database.migrate()
    (user,) = provision(database, [1])
    database.close()
    assert user.opc is not None
    make_pki(directory / "pki", (FQDN, "internet"))
    aaa = {"identity": {"host": HOST, "realm": REALM}, "database": "sqlite:///aaa.db"}
    gateway_keys = {
        "plmn": {"mcc": "001", "mnc": "01"},
        "listen": {"addresses": [str(GATEWAY.ip), GATEWAY6]},
        "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
        "diameter": {"host": f"epdg.{REALM}", "realm": REALM, "peers": [{"host": HOST, "address": "127.0.0.1"}]},
        "apns": {"internet": {"pool": "10.45.0.0/24"}},
        "data_plane": {"hosts": [CORE_HOST]},
        **(gateway or {}),
    }
    ue_keys = {
        "imsi": str(user.imsi),
        "plmn": {"mcc": "001", "mnc": "01"},
        "usim": {"k": user.k.reveal().hex(), "opc": user.opc.reveal().hex()},
        "apn": "internet",
        "gateway": {"address": str(GATEWAY.ip), "other_address": GATEWAY6, "ca": "pki/ca.pem"},
        "accesses": {
            "a": {"address": str(ACCESS_A.address.ip)},
            "b": {"address": str(ACCESS_B.address.ip)},
            "six": {"address": ACCESS6},
        },
        "data_plane": {"kind": "tun", "device": "ue0", "routes": [f"{CORE_HOST}/32"]},
        **(ue or {}),
    }
    with ExitStack() as stack:
        stage = stack.enter_context(namespaces())
        _dual_stack(stage)
        stack.enter_context(NodeProcess(stage.gateway, "aaa", directory, aaa))
        node = stack.enter_context(NodeProcess(stage.gateway, "epdg", directory, gateway_keys, prefix=gateway_prefix))
        wait_until(lambda: has_peer(node), what="the gateway's AAA server", timeout=20.0, log=node.log)
        user_node = stack.enter_context(NodeProcess(stage.ue, "ue", directory, ue_keys, verb="run"))
        yield World(stage=stage, directory=directory, gateway=node, ue=user_node)


def _dual_stack(stage: AccessTopology) -> None:
    """IPv6 between the UE and the gateway, and by access B what is sent from there."""
    for namespace in (stage.ue, stage.router, stage.gateway):
        namespace.set_sysctl("net/ipv6/conf/all/disable_ipv6", 0)
    stage.router.set_sysctl("net/ipv6/conf/all/forwarding", 1)
    stage.gateway.add_address(GATEWAY_INTERFACE, f"{GATEWAY6}/64")
    stage.router.add_address(GATEWAY_ROUTER_INTERFACE, f"{ROUTER6}/64")
    stage.router.add_address(ACCESS_A.router_interface, f"{ACCESS_ROUTER6}/64")
    stage.ue.add_address(ACCESS_A.interface, f"{ACCESS6}/64")
    stage.ue.add_route("fd77::/64", via=ACCESS_ROUTER6)
    stage.gateway.add_route("fd77:1::/64", via=ROUTER6)
    stage.ue.run(["ip", "route", "add", "default", "via", str(ACCESS_B.router.ip), "table", "102"], timeout=5)
    stage.ue.run(["ip", "rule", "add", "from", str(ACCESS_B.address.ip), "table", "102"], timeout=5)


@contextmanager
def wire(namespace: Namespace, interface: str) -> Iterator[list[bytes]]:
    """The frames that cross an interface meanwhile; the list is filled at the end."""

    def listening() -> socket.socket:
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listener.bind((interface, 0))
        listener.setblocking(False)
        return listener

    frames: list[bytes] = []
    with namespace.call(listening) as listener:
        yield frames
        try:
            while True:
                frames.append(listener.recv(65535))
        except BlockingIOError:
            return


def _pcap(frames: list[bytes]) -> bytes:
    """A capture of Ethernet frames, as libpcap writes it, one each microsecond."""
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return header + b"".join(
        struct.pack("<IIII", 1, number, len(frame), len(frame)) + frame for number, frame in enumerate(frames)
    )


@pytest.fixture
def world(tmp_path: FilePath) -> Iterator[World]:
    with opened(tmp_path) as world:
        yield world


@pytest.mark.root
@pytest.mark.peer
@pytest.mark.timeout(120)
def test_bare_without_a_nat_in_udp_behind_one_and_bare_again(world: World) -> None:
    """RFC 4555 §3.5: each update carries NAT detection, and the child SAs follow what it finds."""
    world.ue.call("ue.attach", access="a")
    assert nat(world.ue) == NO_NAT
    with wire(world.stage.gateway, GATEWAY_INTERFACE) as frames:
        assert world.encapsulation() == {False}
        assert ping(world.stage.ue, CORE_HOST, count=3).received == 3

        world.stage.translate()
        world.ue.call("ue.move", to="b")
        world.until(True)
        assert nat(world.ue) == {"local": True, "remote": False}
        assert ping(world.stage.ue, CORE_HOST, count=4).received == 4

        world.stage.router.stop_masquerading()
        world.stage.router.forget_translations()
        world.ue.call("ue.move", to="six")
        world.until(False)
        assert nat(world.ue) == NO_NAT
        assert ping(world.stage.ue, CORE_HOST, count=5).received == 5

        world.ue.call("ue.move", to="a")
        world.until(False)
        assert ping(world.stage.ue, CORE_HOST, count=6).received == 6
    seen = world.seen_by_tshark(frames)
    for way in (ECHO_REQUEST, ECHO_REPLY):
        assert [seen.count((carrier, way)) for carrier in ("ip", "udpencap", "ipv6")] == [9, 4, 5]
    write_evidence(world.directory / "evidence", tuple(records_of(world.ue.control)))
    tshark = Tshark(world.directory, world.directory / "evidence/wireshark-profile")
    # the trace shows what the wire showed, as far as it was its own
    capture = world.directory / "evidence/capture.pcapng"
    assert tshark.complaints(capture) == []
    for filtered, echoes in (("ip.proto == 50", 18), ("ipv6.nxt == 50", 10), ("udp && esp", 8)):
        rows = tshark.fields(capture, ("icmp.type",), display_filter=f"{filtered} && icmp")
        assert len(rows) == echoes, filtered


@pytest.mark.root
@pytest.mark.timeout(120)
def test_without_the_right_to_raw_sockets_the_gateway_says_so_and_has_esp_in_udp(tmp_path: FilePath) -> None:
    """§2.23: it announces a NAT, so that a peer that could do without one goes along."""
    with opened(tmp_path, gateway_prefix=WITHOUT_RAW) as world:
        world.ue.call("ue.attach", access="a")
        assert nat(world.ue) == {"local": False, "remote": True}
        assert world.encapsulation() == {True}
        assert ping(world.stage.ue, CORE_HOST).received == 3
        assert world.gateway.log().count("ESP goes in UDP only: raw sockets need root or CAP_NET_RAW.") == 1
        if world.gateway.call("node.status")["data_plane"]["backend"] != "python":  # type: ignore[index,call-overload]
            assert world.gateway.log().count("ESP packets are not in the trace: ") == 1
            assert not any(record.body.get("protocol") == "esp" for record in records_of(world.gateway.control))


@pytest.mark.root
def test_raw_links_carry_esp_and_say_in_one_line_what_is_wrong() -> None:
    """Of IPv4 the kernel hands in the header too, of IPv6 it does not (raw(7), RFC 3542 §3)."""

    async def exchange(here: str, there: str, stranger: str) -> None:
        inbox: asyncio.Queue[tuple[bytes, Path]] = asyncio.Queue()
        a = RawEspLink(Endpoint.of(here, 4500), lambda octets, path: None)
        b = RawEspLink(Endpoint.of(there, 4500), lambda octets, path: inbox.put_nowait((octets, path)))
        try:
            a.mark(46)
            a.bind_to("lo")
            a.send(b"\0\0\1\0" + bytes(2000), b.local)
            async with asyncio.timeout(5):
                octets, path = await inbox.get()
            assert octets == b"\0\0\1\0" + bytes(2000)
            assert path == Path(Endpoint.of(there, 0), Endpoint.of(here, 0))
            a.send(b"nobody", Endpoint.of(stranger, 0))
            a.send(bytes(70_000), b.local)
            assert sum(a.dropped.values()) >= 1
            with pytest.raises(BackendError, match=f"^cannot use interface nowhere for ESP on {there}: "):
                b.bind_to("nowhere")
        finally:
            a.close()
            b.close()
            b.close()

    async def story() -> None:
        await exchange("127.0.0.1", "127.0.0.2", "192.0.2.1")
        await exchange("fd77::1", "fd77::2", "2001:db8::1")
        for absent in ("192.0.2.77", "2001:db8::77"):
            with pytest.raises(BackendError, match=f"^cannot use ESP on {absent}: "):
                RawEspLink(Endpoint.of(absent, 0), lambda octets, path: None)

    require_namespaces()
    with Namespace("raw", ipv6=True) as namespace:
        for address in ("fd77::1", "fd77::2"):
            namespace.add_address("lo", f"{address}/128")
            wait_until(lambda to=address: namespace.call(lambda: is_local(to)), what=address, timeout=5)  # type: ignore[misc]
        namespace.call(lambda: asyncio.run(story()))


def is_local(address: str) -> bool:
    """Whether packets to it come to us: Linux routes an IPv6 address from a work queue, a little later."""
    with IPRoute() as route, suppress(NetlinkError):  # no route at all so far
        return all(found["type"] == RTN_LOCAL for found in route.route("get", dst=address))
    return False


def test_who_decides_whether_there_is_bare_esp() -> None:
    """The configuration, the right, and the port that stands for 4500."""
    right = RawEspLink
    assert not esp_transport("auto", right, (4500, 4500)).forced
    assert esp_transport("auto", right, (4500,)).open_raw is right
    for other in (esp_transport("auto", right, (4500, 14500)), esp_transport("auto", None, (4500,))):
        assert other.forced
        assert other.open_raw is None
        assert other.remark is not None
    assert not esp_transport(False, right, (14500,)).forced
    assert esp_transport(False, right, (14500,)).open_raw is right
    honest = esp_transport(False, None, (4500,))
    assert (honest.forced, honest.open_raw) == (False, None)
    assert honest.remark is not None
    forced = esp_transport(True, right, (4500,))
    assert (forced.forced, forced.open_raw, forced.remark) == (True, None, None)
