"""Our UE's moves at Debian's strongSwan as a gateway (RFC 4555): every kind of change of its addresses and of charon's.

The gateway has two IPv4 addresses and one IPv6 address. charon's userspace ESP cannot move an SA, so after each
update it rekeys the child SA; what a move costs is measured with a steady flow of pings and printed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.namespaces import (
    ACCESS_A,
    ACCESS_B,
    GATEWAY,
    GATEWAY_INTERFACE,
    GATEWAY_ROUTER,
    GATEWAY_ROUTER_INTERFACE,
    HOST_BEHIND_GATEWAY,
    AccessTopology,
)
from protocols.errors import StackError
from tests.peers.namespaces import namespaces
from tests.peers.ping_flow import PingFlow
from tests.peers.processes import wait_until
from tests.peers.strongswan import require_strongswan
from tests.peers.ue_at_strongswan import Bench, Terms, UeAtCharon, bench, part, ue_configuration

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

SECOND_ADDRESS = "10.77.0.2"
GATEWAY6, GATEWAY_ROUTER6 = "fd77::1", "fd77::254"
ACCESS6, ACCESS_ROUTER6 = "fd77:1::2", "fd77:1::1"
NETWORK6, ACCESS_NETWORK6 = "fd77::/64", "fd77:1::/64"
TERMS = Terms(addresses=(GATEWAY.ip, SECOND_ADDRESS, GATEWAY6))
MOVE = 0.5  # the most that a move may cost, on a busy machine; seconds
FOUND = 3.0  # until another path is found when the one in use is silent
TABLE_B = "102"
LIMIT = 2  # of retransmissions
GIVEN_UP = 1.5  # seconds after which a UE that does not hold on has given up, its first interval being 0.1 s
SETTINGS = {"interfaces_use": GATEWAY_INTERFACE, "retransmit_timeout": 0.5, "retransmit_base": 1.2}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Bench]:
    """One charon with three addresses for all of it."""
    require_strongswan()
    with namespaces() as stage:
        dual_stack(stage)
        stage.gateway.set_sysctl(f"net/ipv4/conf/{GATEWAY_INTERFACE}/promote_secondaries", 1)
        stage.gateway.add_address(GATEWAY_INTERFACE, f"{SECOND_ADDRESS}/24")
        # what the UE sends from its address on access B leaves by access B
        stage.ue.run(["ip", "route", "add", "default", "via", str(ACCESS_B.router.ip), "table", TABLE_B], timeout=5)
        stage.ue.run(["ip", "rule", "add", "from", str(ACCESS_B.address.ip), "table", TABLE_B], timeout=5)
        with bench(stage, TERMS, SETTINGS) as opened:
            yield opened


def dual_stack(stage: AccessTopology) -> None:
    """IPv6 between the UE's access A and the gateway."""
    for namespace in (stage.ue, stage.router, stage.gateway):
        namespace.set_sysctl("net/ipv6/conf/all/disable_ipv6", 0)
    stage.router.set_sysctl("net/ipv6/conf/all/forwarding", 1)
    stage.gateway.add_address(GATEWAY_INTERFACE, f"{GATEWAY6}/64")
    stage.router.add_address(GATEWAY_ROUTER_INTERFACE, f"{GATEWAY_ROUTER6}/64")
    stage.router.add_address(ACCESS_A.router_interface, f"{ACCESS_ROUTER6}/64")
    stage.ue.add_address(ACCESS_A.interface, f"{ACCESS6}/64")
    stage.ue.add_route(NETWORK6, via=ACCESS_ROUTER6)
    stage.gateway.add_route(ACCESS_NETWORK6, via=GATEWAY_ROUTER6)


@pytest.fixture(scope="module")
def shared(gateway: Bench) -> Iterator[UeAtCharon]:
    """One UE with an access that has IPv6 too; it does not pretend a NAT."""
    accesses = ue_configuration()["accesses"]
    assert isinstance(accesses, dict)
    with gateway.ue(
        accesses={**accesses, "wifi-v6": {"address": ACCESS6}},
        force_encapsulation=False,
    ) as started:
        yield started


@pytest.fixture
def ue(gateway: Bench, shared: UeAtCharon) -> Iterator[UeAtCharon]:
    """That UE, not attached before and after."""
    gateway.grant(TERMS)
    yield shared
    if shared.session()["state"] == "established":
        shared.node.call("ue.detach")
    gateway.charon.wait_gone()


def flow(ue: UeAtCharon) -> PingFlow:
    """A steady flow through the tunnel."""
    return PingFlow(ue.stage.ue, HOST_BEHIND_GATEWAY, source=ue.inner_address(), interval=0.01)


def report(what: str, outages: list[float]) -> None:
    """Print what moves have cost."""
    print(f"{what}: {', '.join(f'{outage * 1000:.0f} ms' for outage in outages)} of silence")


def until_at(gateway: Bench, remote: str, local: str = str(GATEWAY.ip)) -> None:
    """Wait until charon has the SA between these addresses, its child SAs too."""
    gateway.charon.wait_established(remote=remote)
    gateway.charon.wait_moved(local)


# --- the UE's addresses change ------------------------------------------------------------------------


def test_make_before_break_and_break_before_make(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4555 §3.5: inner address and SPIs of the IKE SA stay, whichever comes first."""
    a, b = str(ACCESS_A.address.ip), str(ACCESS_B.address.ip)
    before = ue.attach()
    with flow(ue) as pings:
        pings.wait_answers(10)
        assert ue.move("wifi-b", keep_old=True)["outcome"] == "completed"
        until_at(gateway, b)
        pings.wait_answers(10)
        gateway.agree(ue)
        ue.node.call("ue.access.close", name="wifi-a")
        gentle = pings.outages(1)
        ue.stage.leave(ACCESS_B)
        assert ue.move("wifi-a")["outcome"] == "completed"
        ue.stage.join(ACCESS_B)
        until_at(gateway, a)
        pings.wait_answers(10)
    report("make before break", gentle)
    report("break before make", pings.outages(1))
    assert max(*gentle, *pings.outages(1)) < MOVE
    served = gateway.agree(ue)
    assert (served.spi_initiator, served.spi_responder) == (part(before, "ike")["spi_i"], part(before, "ike")["spi_r"])
    assert served.inner_addresses == (ue.inner_address(),)


def test_suspended_for_a_while(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4621 §5.4: charon's questions go unanswered meanwhile; the UE comes back elsewhere with the same SAs."""
    gateway.grant(Terms(addresses=TERMS.addresses, dpd_delay=1))
    before = ue.attach()
    since = gateway.since()
    ue.node.call("ue.suspend")
    gateway.charon.wait_for_log(r"retransmit 2 of request", since=since)
    assert ue.move("wifi-b")["outcome"] == "completed"
    until_at(gateway, str(ACCESS_B.address.ip))
    gateway.charon.wait_for_log(r"CHILD_SA closed", since=since)
    served = gateway.agree(ue)
    assert served.spi_responder == part(before, "ike")["spi_r"]
    ue.ping()


def test_an_access_that_falls_silent_is_left(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4555 §3.10: nobody says a word; the UE finds an access that works."""
    ue.attach()
    with flow(ue) as pings:
        pings.wait_answers(10)
        ue.stage.silence(ACCESS_A)
        try:
            ue.wait(lambda seen: seen["access"] != "wifi-a", "another access being found")
            pings.wait_answers(10)
        finally:
            ue.stage.restore(ACCESS_A)
    report("access silent", pings.outages(1))
    assert pings.outages(1)[0] < FOUND
    gateway.agree(ue)


def test_a_second_move_while_the_first_is_unanswered(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4555 §3.5: the newest addresses win; the request that waited is sent again on the new path."""
    before = ue.attach()
    ue.stage.silence(ACCESS_B)
    try:
        with ThreadPoolExecutor(1) as aside:
            first = aside.submit(ue.move, "wifi-b", keep_old=True)
            ue.wait(lambda seen: len(seen["moves"]) > len(before["moves"]), "the first move")  # type: ignore[arg-type]
            assert ue.move("wifi-v6", keep_old=True)["outcome"] == "completed"
            with pytest.raises(StackError, match="superseded by a move to wifi-v6"):
                first.result()
    finally:
        ue.stage.restore(ACCESS_B)
    until_at(gateway, ACCESS6, GATEWAY6)
    assert gateway.agree(ue).spi_responder == part(before, "ike")["spi_r"]
    ue.ping()


def test_held_while_every_access_is_silent_and_updates_with_a_cookie(gateway: Bench) -> None:
    """RFC 4555 §3.11: silence does not end the SA before ``hold_lifetime``; COOKIE2 comes back as it was sent."""
    with gateway.ue(hold_lifetime=60, update_cookie=True, retransmission={"base_interval": 0.1, "limit": LIMIT}) as ue:
        ue.attach()
        with flow(ue) as pings, contextlib.ExitStack() as stack:
            pings.wait_answers(10)
            ue.stage.silence(ACCESS_A)
            ue.stage.silence(ACCESS_B)
            stack.callback(ue.stage.restore, ACCESS_A)
            stack.callback(ue.stage.restore, ACCESS_B)
            wait_until(lambda: "Nothing is heard on wifi-a" in ue.node.log(), what="silence", timeout=10)
            until = time.monotonic() + GIVEN_UP
            wait_until(lambda: time.monotonic() > until, what="longer than all retransmissions", timeout=10)
            assert ue.session()["state"] == "established"
            stack.close()
            pings.wait_answers(10)
        report("every access silent for a while", pings.outages(1))
        gateway.agree(ue)
        since = gateway.since()
        here = ue.session()["access"]
        assert ue.move("wifi-a" if here == "wifi-b" else "wifi-b", keep_old=True)["outcome"] == "completed"
        gateway.charon.wait_for_log(r"INFORMATIONAL request \d+ \[ N\(UPD_SA_ADDR\).* N\(COOKIE2\)", since=since)
        gateway.charon.wait_for_log(r"generating INFORMATIONAL response \d+ \[ .*N\(COOKIE2\)", since=since)
        gateway.charon.wait_for_log(r"CHILD_SA closed", since=since)
        gateway.agree(ue)
        ue.ping()


def test_from_ipv4_to_ipv6_and_back(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4555 §3.4, §3.5: to the IPv6 address that charon has told of, in ADDITIONAL_IP6_ADDRESS."""
    ue.attach()
    with flow(ue) as pings:
        pings.wait_answers(10)
        assert ue.move("wifi-v6")["outcome"] == "completed"
        until_at(gateway, ACCESS6, GATEWAY6)
        pings.wait_answers(10)
        gateway.agree(ue)
        assert ue.move("wifi-b")["outcome"] == "completed"
        gateway.charon.wait_established(remote=ACCESS_B.address.ip)
        pings.wait_answers(10)
    report("to IPv6 and back", pings.outages(2))
    assert max(pings.outages(2)) < MOVE
    gateway.agree(ue)


def test_ipv6_outside(gateway: Bench) -> None:
    """Attach, traffic, rekeyings and liveness with IPv6 outside alone."""
    with gateway.ue(gateway={"address": GATEWAY6}, accesses={"wifi-v6": {"address": ACCESS6}}) as ue:
        ue.attach("wifi-v6")
        until_at(gateway, ACCESS6, GATEWAY6)
        ue.ping()
        before = ue.session()
        gateway.charon.rekey_child()
        gateway.charon.wait_for_log(r"CHILD_SA closed")
        ue.node.call("ue.rekey-ike")
        ue.wait_rekeyed(before)
        gateway.agree(ue)
        ue.ping()


def test_without_mobike_the_ue_says_so(gateway: Bench, ue: UeAtCharon) -> None:
    gateway.grant(Terms(addresses=TERMS.addresses, mobike=False))
    ue.attach()
    with pytest.raises(StackError, match="the gateway does not support MOBIKE"):
        ue.move("wifi-b")
    ue.ping()


# --- NATs ---------------------------------------------------------------------------------------------


def test_behind_a_nat_and_out_again(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4555 §3.5: each update detects NATs anew."""
    session = ue.attach()
    assert part(part(session, "ike"), "nat")["local"] is False
    with flow(ue) as pings:
        pings.wait_answers(10)
        ue.stage.translate(range(20000, 30000))
        try:
            move = ue.move("wifi-b", keep_old=True)
            assert (move["outcome"], part(move, "nat")["local"]) == ("completed", True)
            served = gateway.charon.wait_established(remote=GATEWAY_ROUTER.ip)
            assert served.remote.port in range(20000, 30000)
            pings.wait_answers(10)
        finally:
            ue.stage.router.stop_masquerading()
            ue.stage.router.forget_translations()
        move = ue.move("wifi-a", keep_old=True)
        assert (move["outcome"], part(move, "nat")["local"]) == ("completed", False)
        served = gateway.charon.wait_established(remote=ACCESS_A.address.ip)
        assert served.remote.port == 4500
        pings.wait_answers(10)
    report("behind a NAT and out again", pings.outages(2))
    gateway.agree(ue)


def test_a_nat_that_gives_another_mapping(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4555 §3.8: the UE notices that its mapping has changed and says so with an update."""
    ue.stage.translate(range(20000, 30000))
    try:
        ue.attach()
        first = gateway.charon.wait_established(remote=GATEWAY_ROUTER.ip)
        with flow(ue) as pings:
            pings.wait_answers(10)
            ue.stage.rebind(range(40000, 50000))
            pings.wait_answers(10)
        report("another NAT mapping", pings.outages(1))
        second = gateway.charon.wait_established(remote=GATEWAY_ROUTER.ip)
        assert first.remote.port in range(20000, 30000)
        assert second.remote.port in range(40000, 50000)
        assert second.spi_responder == first.spi_responder
        gateway.agree(ue)
    finally:
        ue.node.call("ue.detach")
        ue.stage.router.stop_masquerading()
        ue.stage.router.forget_translations()


# --- the gateway's addresses change ---------------------------------------------------------------------


def test_the_gateways_address_disappears_silently(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4555 §3.10: the UE's path testing finds charon's other address."""
    session = ue.attach()
    rules = (("from", str(GATEWAY.ip)), ("to", str(GATEWAY.ip)))
    with flow(ue) as pings:
        pings.wait_answers(10)
        for way, address in rules:
            ue.stage.router.run(["ip", "rule", "add", way, address, "blackhole"], timeout=5)
        try:
            gateway.charon.wait_moved(SECOND_ADDRESS)
            pings.wait_answers(10)
        finally:
            for way, address in rules:
                ue.stage.router.run(["ip", "rule", "del", way, address, "blackhole"], timeout=5)
    report("gateway address gone silently", pings.outages(1))
    assert pings.outages(1)[0] < FOUND
    served = gateway.agree(ue)
    assert served.spi_responder == part(session, "ike")["spi_r"]


def test_the_gateway_loses_its_address_and_says_so(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 4555 §3.6: charon tells what addresses it has left; the UE moves to one of them."""
    ue.attach()
    with flow(ue) as pings:
        pings.wait_answers(10)
        ue.stage.gateway.delete_address(GATEWAY_INTERFACE, GATEWAY)
        try:
            gateway.charon.wait_moved(SECOND_ADDRESS)
            pings.wait_answers(10)
        finally:
            ue.stage.gateway.add_address(GATEWAY_INTERFACE, GATEWAY)
    report("gateway address gone, announced", pings.outages(1))
    gateway.agree(ue)
