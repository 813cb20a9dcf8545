"""The MSS of SYNs that pass a device, by nftables, between two hosts' TCP: ``near ── d0 router e0 ── far``."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from lab.namespaces import Namespace
from protocols.dataplane.xfrm.segments import MARK, MssClamp, remove_leftovers, why_not
from protocols.esp.mss import mss_for
from protocols.io.nftables import NfTables

pytestmark = pytest.mark.root

PORT = 7000
LIMIT = 10.0
NEAR = {4: "192.0.2.2", 6: "2001:db8:a::2"}
FAR = {4: "198.51.100.2", 6: "2001:db8:b::2"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
FOREIGN = "somebody-elses"


@dataclass(frozen=True)
class Hosts:
    near: Namespace
    router: Namespace
    far: Namespace

    def agreed(self, version: int) -> tuple[int, int]:
        """The MSS that the far host has from the near one's SYN, and the near one from the answer to it."""
        listening = self.far.call(lambda: socket.create_server((FAR[version], PORT), family=FAMILIES[version]))

        def connected() -> socket.socket:
            return socket.create_connection((FAR[version], PORT), timeout=LIMIT)

        with listening, self.near.call(connected) as here:
            there, _ = listening.accept()
            with there:
                mss = [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for each in (there, here)]
        return mss[0], mss[1]

    def tables(self) -> dict[str, str]:
        return self.router.call(NfTables().comments)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        near, router, far = (stack.enter_context(Namespace(name, ipv6=True)) for name in ("near", "router", "far"))
        near.connect("eth0", router, "d0")
        far.connect("eth0", router, "e0")
        for host, inside, addresses in ((near, "d0", NEAR), (far, "e0", FAR)):
            host.set_sysctl("net/ipv4/tcp_timestamps", 0)  # the kernel takes their 12 octets off the MSS that it shows
            for address in addresses.values():
                gateway, length = address[:-1] + "1", 64 if ":" in address else 24
                host.add_address("eth0", f"{address}/{length}")
                router.add_address(inside, f"{gateway}/{length}")
                host.add_route("::/0" if ":" in address else "0.0.0.0/0", via=gateway)
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            router.set_sysctl(key, 1)
        yield Hosts(near, router, far)


@pytest.mark.parametrize("version", [4, 6])
def test_both_ways(hosts: Hosts, version: int) -> None:
    usual = mss_for(1500, version)
    assert hosts.agreed(version) == (usual, usual)
    clamp = MssClamp("d0", 1200)
    hosts.router.call(lambda: clamp.fit(1400))
    assert hosts.agreed(version) == (1200, 1200)
    assert hosts.router.call(lambda: clamp.clamped) == 2
    hosts.router.call(clamp.close)
    assert hosts.agreed(version) == (usual, usual)
    assert (clamp.clamped, hosts.tables()) == (2, {})


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_no_more_is_left_alone(hosts: Hosts, version: int) -> None:
    usual = mss_for(1500, version)
    clamp = MssClamp("d0", usual)
    hosts.router.call(lambda: clamp.fit(1400))
    assert hosts.agreed(version) == (usual, usual)
    assert hosts.router.call(lambda: clamp.clamped) == 0


@pytest.mark.parametrize("version", [4, 6])
def test_auto_follows_the_devices_mtu_and_goes_on_counting(hosts: Hosts, version: int) -> None:
    clamp = MssClamp("d0", "auto")
    for number, mtu in enumerate((1400, 1300), 1):
        hosts.router.call(lambda mtu=mtu: clamp.fit(mtu))  # type: ignore[misc]
        assert hosts.agreed(version) == (mss_for(mtu, version), mss_for(mtu, version))
        assert hosts.router.call(lambda: clamp.clamped) == 2 * number


def test_other_devices_are_left_alone(hosts: Hosts) -> None:
    clamp = MssClamp("another", 1200)
    hosts.router.call(lambda: clamp.fit(1400))
    assert hosts.agreed(4) == (1460, 1460)
    assert hosts.router.call(lambda: clamp.clamped) == 0


def test_leftovers_are_known_by_their_comment(hosts: Hosts) -> None:
    hosts.router.call(lambda: NfTables().replace(FOREIGN, "esp-mss-d0"))
    hosts.router.call(lambda: MssClamp("d0", 1200).fit(1400))
    assert hosts.tables() == {FOREIGN: "esp-mss-d0", "esp-mss-d0": MARK}
    assert hosts.router.call(remove_leftovers) == ("esp-mss-d0",)
    assert hosts.tables() == {FOREIGN: "esp-mss-d0"}
    assert hosts.router.call(remove_leftovers) == ()


def test_trying_leaves_nothing_behind(hosts: Hosts) -> None:
    assert hosts.router.call(why_not) is None
    assert hosts.tables() == {}
