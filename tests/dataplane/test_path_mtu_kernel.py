"""Path MTU with the kernel at both sides: what a router tells our sockets, and what we tell a TUN device's kernel."""

from __future__ import annotations

import asyncio
import os
import socket
from ipaddress import ip_interface, ip_network

import pytest
from pyroute2 import IPRoute

from lab.namespaces import Namespace
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.userspace.tun import TUN_PATH, TunDevice
from protocols.entropy import SeededEntropy
from protocols.esp.tunnel import TunnelPolicy
from protocols.io.link import UdpLink
from protocols.path import Endpoint
from tests.dataplane.pairs import ue_spec
from tests.dataplane.test_tun import in_namespace
from tests.dataplane.test_tunnel_headers import HOST, HOST6, UE, UE6, dual_stack
from tests.peers.processes import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not os.path.exists(TUN_PATH), reason=f"there is no {TUN_PATH}"),
]

MTU_OPTIONS = {  # level, IP_MTU_DISCOVER, its value "do", IP_MTU (ip(7), ipv6(7))
    4: (socket.IPPROTO_IP, 10, 2, 14),
    6: (socket.IPPROTO_IPV6, 23, 2, 24),
}


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_of_a_tun_device_learns_what_fits(version: int) -> None:
    """RFC 1191, RFC 8201: its socket hears of it by our ICMP error, and what it sends then goes through."""
    host, source = (HOST, UE) if version == 4 else (HOST6, UE6)
    level, discover, do, mtu_option = MTU_OPTIONS[version]

    async def body() -> None:
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[bytes] = asyncio.Queue()
        sent: asyncio.Queue[bytes] = asyncio.Queue()
        device = await TunDevice.open(
            "ue-test0",
            [ip_interface(f"{UE}/32"), ip_interface(f"{UE6}/128")],
            1400,
            [ip_network("192.0.2.0/24"), ip_network("2001:db8:99::/64")],
        )
        plane = UserspaceDataPlane(
            entropy=SeededEntropy("ue"),
            deliver=lambda packet, spi: told.put_nowait(packet),
            transmit=lambda octets, path, encapsulation, mark: sent.put_nowait(octets),
            policy=TunnelPolicy(outer_mtu=1390),
        )
        plane.install(dual_stack(ue_spec("aes128gcm16")))
        device.start(plane.send_inner)
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.setsockopt(level, discover, do)
            client.bind((source, 0))
            client.connect((host, 7))
            assert client.getsockopt(level, mtu_option) == 1400
            await loop.sock_sendall(client, bytes(1400 - (28 if version == 4 else 48)))
            assert device.write(await told.get())
            mtu = client.getsockopt(level, mtu_option)
            assert 1280 <= mtu < 1390
            assert os.strerror(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) == "Message too long"
            with pytest.raises(OSError, match="too long"):
                client.send(bytes(mtu - (27 if version == 4 else 47)))
            await loop.sock_sendall(client, bytes(mtu - (28 if version == 4 else 48)))
            assert 1390 - 4 < len(await sent.get()) + 28 <= 1390
        device.close()

    in_namespace(body)


@pytest.mark.parametrize("version", [4, 6])
def test_what_a_router_says_is_the_path_mtu(version: int) -> None:
    """RFC 1191 §4, RFC 8201: the outer datagram has DF, a router refuses it, and the link knows."""
    here, router_here, router_there, there = {
        4: ("10.1.0.2", "10.1.0.1", "10.2.0.1", "10.2.0.2"),
        6: ("2001:db8:1::2", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::2"),
    }[version]
    length = 24 if version == 4 else 64
    with Namespace("ue", ipv6=True) as ue, Namespace("router", ipv6=True) as router, Namespace("far", ipv6=True) as far:
        router.set_sysctl("net/ipv4/ip_forward" if version == 4 else "net/ipv6/conf/all/forwarding", 1)
        ue.connect("up", router, "down")
        router.connect("up", far, "down")
        for namespace, interface, address in (
            (ue, "up", here),
            (router, "down", router_here),
            (router, "up", router_there),
            (far, "down", there),
        ):
            if version == 6:
                namespace.set_sysctl(f"net/ipv6/conf/{interface}/accept_dad", 0)
            namespace.add_address(interface, f"{address}/{length}")
        ue.add_route("0.0.0.0/0" if version == 4 else "::/0", via=router_here)
        far.add_route("0.0.0.0/0" if version == 4 else "::/0", via=router_there)
        router.call(lambda: _set_mtu("up", 1340))
        wait_until(lambda: ue.call(lambda: _is_usable(here)), timeout=5, what="the address")
        assert ue.call(lambda: asyncio.run(_learnt(here, there))) == [1500, 1340]


def _is_usable(address: str) -> bool:
    """Linux takes an IPv6 address into use from a work queue, a little later."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _set_mtu(interface: str, mtu: int) -> None:
    with IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname=interface)[0], mtu=mtu)


async def _learnt(here: str, there: str) -> list[int | None]:
    """The path MTU before a long datagram is sent, and once that has changed it."""
    remote = Endpoint.of(there, 4500)
    link = UdpLink(Endpoint.of(here, 4500), lambda octets, path: None)
    found = [link.path_mtu(remote)]
    try:
        async with asyncio.timeout(8):
            while link.path_mtu(remote) == found[0]:
                link.send(bytes(1400), remote)
                await asyncio.sleep(0.05)
        found.append(link.path_mtu(remote))
    finally:
        link.close()
    return found
