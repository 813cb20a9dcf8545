"""The network between virtual nodes: ports, ways through accesses, hosts that die, the digest over everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from lab.network.nat import Nat, NatKind
from lab.virtual.loop import START, VirtualLoop
from lab.virtual.network import VirtualNetwork
from protocols.errors import BackendError
from protocols.path import Endpoint, Path

GATEWAY = Endpoint.of("203.0.113.1", 4500)
UE = Endpoint.of("10.1.0.2", 4500)
OUTSIDE = ip_address("198.51.100.1")


def natted() -> AccessNetwork:
    return AccessNetwork(
        "wifi",
        UE.address,
        uplink=Impairments(delay=0.03),
        downlink=Impairments(delay=0.01),
        nat=Nat(NatKind.PORT_RESTRICTED, OUTSIDE, lifetime=30.0),
    )


class Network:
    """A gateway and a UE behind an access; what each received, and when."""

    def __init__(self, *accesses: AccessNetwork, seed: int = 0) -> None:
        self.loop = VirtualLoop()
        self.network = VirtualNetwork(self.loop, accesses or (natted(),), [GATEWAY.address], seed=seed)
        self.at_gateway: list[tuple[float, bytes, Path]] = []
        self.at_ue: list[tuple[float, bytes, Path]] = []
        self.gateway = self.network.open_link(GATEWAY, self._taker(self.at_gateway))
        self.ue = self.network.open_link(UE, self._taker(self.at_ue))

    def pass_time(self, seconds: float) -> None:
        """Let time go by."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def _taker(self, taken: list[tuple[float, bytes, Path]]) -> Callable[[bytes, Path], None]:
        return lambda octets, path: taken.append((self.loop.time() - START, octets, path))


@pytest.fixture
def small() -> Iterator[Network]:
    made = Network()
    yield made
    made.loop.close()


def test_through_the_nat_and_back(small: Network) -> None:
    small.ue.send(b"up", GATEWAY)
    small.pass_time(1)
    ((moment, octets, path),) = small.at_gateway
    assert (moment, octets, path.local, path.remote.address) == (pytest.approx(0.03), b"up", GATEWAY, OUTSIDE)
    small.gateway.send(b"down", path.remote)
    small.gateway.send(b"past the NAT", UE)
    small.pass_time(1)
    ((moment, octets, path),) = small.at_ue
    assert (moment, octets, path) == (pytest.approx(1.01), b"down", Path(UE, GATEWAY))
    assert small.network.dropped == {"nobody-there": 1}


def test_a_host_that_dies_neither_hears_nor_speaks(small: Network) -> None:
    small.ue.send(b"first", GATEWAY)
    small.pass_time(1)
    outside = small.at_gateway[0][2].remote
    small.network.set_host(GATEWAY.address, up=False)
    small.ue.send(b"lost", GATEWAY)
    small.gateway.send(b"lost", outside)
    small.pass_time(1)
    small.network.set_host(GATEWAY.address, up=True)
    small.gateway.send(b"back", outside)
    small.pass_time(1)
    assert [octets for _, octets, _ in small.at_gateway] == [b"first"]
    assert [octets for _, octets, _ in small.at_ue] == [b"back"]
    with pytest.raises(BackendError, match=r"no host of the network has the address 203\.0\.113\.9"):
        small.network.set_host(ip_address("203.0.113.9"), up=False)


def test_what_is_on_its_way_to_an_access_that_was_left_is_lost(small: Network) -> None:
    small.ue.send(b"up", GATEWAY)
    small.pass_time(1)
    small.gateway.send(b"too late", small.at_gateway[0][2].remote)
    small.pass_time(0.005)
    small.network.accesses["wifi"].up = False
    small.pass_time(1)
    assert small.at_ue == []
    assert small.network.dropped == {"left-meanwhile": 1}


def test_ports_are_given_once_and_given_back(small: Network) -> None:
    with pytest.raises(BackendError, match=r"cannot use UDP 10\.1\.0\.2:4500: the port is in use"):
        small.network.open_link(UE, lambda octets, path: None)
    with pytest.raises(BackendError, match="this machine does not have the address"):
        small.network.open_link(Endpoint.of("10.9.9.9", 4500), lambda octets, path: None)
    any_port = small.network.open_link(Endpoint(UE.address, 0), lambda octets, path: None)
    assert any_port.local.port > 0
    any_port.close()
    small.ue.close()
    assert small.network.open_ports == (GATEWAY,)


def test_between_ip_versions_there_is_no_way(small: Network) -> None:
    small.ue.send(b"up", Endpoint.of("2001:db8::1", 4500))
    small.pass_time(1)
    assert small.network.dropped == {"no-way-between-ip-versions": 1}


def test_order_is_kept_where_nothing_reorders(small: Network) -> None:
    for number in range(100):
        small.ue.send(bytes([number]), GATEWAY)
    small.pass_time(1)
    assert [octets[0] for _, octets, _ in small.at_gateway] == list(range(100))


def test_the_digest_is_that_of_the_seed() -> None:
    def digest(seed: int) -> str:
        lossy = Impairments(loss=0.3, delay=0.01, jitter=0.02)
        made = Network(AccessNetwork("wifi", UE.address, uplink=lossy, downlink=lossy), seed=seed)
        for number in range(100):
            made.ue.send(bytes([number]), GATEWAY)
        made.pass_time(1)
        made.loop.close()
        return made.network.digest()

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)
