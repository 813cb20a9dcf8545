"""Our UE at Debian's strongSwan as a gateway: what happens between attach and detach, started by either end.

Fragments, cookies, rekeyings, further child SAs, liveness, authenticating anew, deletion and refusals, all at one
charon with small fragments and a low cookie threshold. Rekeyings that cross: ``test_ue_strongswan_collisions``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.namespaces import ACCESS_A, CORE, GATEWAY_CORE, HOST_BEHIND_GATEWAY
from protocols.errors import StackError
from tests.peers.namespaces import namespaces, ping
from tests.peers.ping_flow import PingFlow
from tests.peers.strongswan import CHILD, require_strongswan
from tests.peers.ue_at_strongswan import (
    CONNECTION,
    SECOND_CHILD,
    Bench,
    Terms,
    UeAtCharon,
    bench,
    children,
    inbound_spis,
    part,
)

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

FRAGMENT_SIZE = 256
IP_AND_UDP = 28
HALF_OPEN_TIMEOUT = 3
MAXIMUM_REKEY_LOSS = 0.1  # of a steady flow, in seconds' worth of packets
SETTINGS = {
    "fragment_size": FRAGMENT_SIZE,
    "cookie_threshold": 1,
    "half_open_timeout": HALF_OPEN_TIMEOUT,
    "retransmit_timeout": 0.5,
    "retransmit_base": 1.2,
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Bench]:
    """One charon for all of it."""
    require_strongswan()
    with namespaces() as stage, bench(stage, settings=SETTINGS) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(gateway: Bench) -> Iterator[UeAtCharon]:
    """One UE for what needs no configuration of its own."""
    with gateway.ue(data_plane={"kind": "tun", "routes": [str(CORE.network), f"{HOST_BEHIND_GATEWAY}/32"]}) as started:
        yield started


@pytest.fixture
def ue(gateway: Bench, shared: UeAtCharon) -> Iterator[UeAtCharon]:
    """That UE, not attached before and after."""
    gateway.grant(Terms())
    yield shared
    if shared.session()["state"] == "established":
        shared.node.call("ue.detach")
    gateway.charon.wait_gone()


# --- IKE_SA_INIT, IKE_AUTH ----------------------------------------------------------------------------


def test_fragments_both_ways(gateway: Bench) -> None:
    """RFC 7383: neither end sends an IKE datagram larger than it was told, both put them together."""
    gateway.grant(Terms())
    offered = [f"aes{bits}{mode}" for bits in (128, 192, 256) for mode in ("gcm16", "gcm12", "gcm8", "ccm16", "ccm8")]
    since = gateway.since()
    with gateway.ue(fragment_size=FRAGMENT_SIZE, algorithms={"esp": [*offered, "aes128-sha256"]}) as ue:
        ue.attach()
        ue.ping()
        gateway.charon.wait_for_log(r"received fragment #\d+ of \d+, reassembled fragmented IKE message", since=since)
        gateway.charon.wait_for_log(r"splitting IKE message \(\d+ bytes\) into [2-9] fragments", since=since)
        log = gateway.charon.log()[since:]
        protected = log[log.index("parsed IKE_AUTH request 1") :]
        sizes = [int(size) for size in re.findall(r"packet: from .* \((\d+) bytes\)", protected)]
        assert max(sizes) + IP_AND_UDP <= FRAGMENT_SIZE


def test_a_cookie_is_returned(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 7296 §2.6: a half-open SA of a UE that hears nothing makes charon ask the next one for a cookie."""
    since = gateway.since()
    deaf = {"wifi-a": {"address": str(ACCESS_A.address.ip), "hears": False}}
    impatient = {"base_interval": 0.1, "limit": 1}
    with (
        gateway.ue(wait_gone=False, accesses=deaf, retransmission=impatient) as half_open,
        pytest.raises(StackError, match=r"no response from the gateway 10.77.0.1:500, asked 2 times on wifi-a"),
    ):
        half_open.attach()
    ue.attach()
    gateway.charon.wait_for_log(r"generating IKE_SA_INIT response 0 \[ N\(COOKIE\) \]", since=since)
    gateway.charon.wait_for_log(r"parsed IKE_SA_INIT request 0 \[ N\(COOKIE\) SA KE No ", since=since)
    ue.ping()


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms(proposals="aes192-sha384-ecp384"), "no IKE or ESP algorithms in common"),
        (Terms(esp_proposals="aes192ccm12"), "no IKE or ESP algorithms in common"),
        (Terms(remote_selectors="2001:db8::/64"), "none of the traffic selectors offered (TS_UNACCEPTABLE)"),
        (Terms(pool=None), "no inner address for the UE (INTERNAL_ADDRESS_FAILURE)"),
        (Terms(key="another secret altogether"), "AUTHENTICATION_FAILED"),
    ],
    ids=["NO_PROPOSAL_CHOSEN-ike", "NO_PROPOSAL_CHOSEN-esp", "TS_UNACCEPTABLE", "INTERNAL_ADDRESS_FAILURE", "AUTH"],
)
def test_refusals_in_plain_words(gateway: Bench, ue: UeAtCharon, terms: Terms, words: str) -> None:
    gateway.grant(terms)
    with pytest.raises(StackError) as refused:
        ue.attach()
    assert words in str(refused.value)
    assert part(ue.session(), "last_error")["text"] == str(refused.value)
    gateway.charon.wait_gone()
    gateway.grant(Terms())
    ue.attach()  # a refusal leaves nothing behind


# --- CREATE_CHILD_SA ----------------------------------------------------------------------------------


def test_rekeyings_by_each_end_under_traffic(gateway: Bench, ue: UeAtCharon) -> None:
    first = ue.attach()
    with PingFlow(ue.stage.ue, HOST_BEHIND_GATEWAY, source=ue.inner_address(), interval=0.004) as flow:
        flow.wait_answers(20)
        ue.node.call("ue.rekey-child")
        second = ue.wait_single_child(other_than=inbound_spis(first))
        gateway.agree(ue)
        gateway.charon.rekey_child()
        ue.wait_single_child(other_than=inbound_spis(second))
        gateway.agree(ue)
        ue.node.call("ue.rekey-ike")
        third = ue.wait_rekeyed(second)
        gateway.agree(ue)
        gateway.charon.rekey_ike(CONNECTION)
        fourth = ue.wait_rekeyed(third)
        gateway.agree(ue)
        # and each end under the SA that the other has made: directions and Message IDs have turned round
        ue.node.call("ue.rekey-child")
        fifth = ue.wait_single_child(other_than=inbound_spis(fourth))
        ue.node.call("ue.rekey-ike")
        ue.wait_rekeyed(fifth)
        gateway.charon.rekey_child()
        ue.wait_single_child(other_than=inbound_spis(fifth))
        gateway.agree(ue)
        flow.wait_answers(20)
    print(f"lost: {flow.lost} of a packet every {flow.interval * 1000:.0f} ms in seven rekeyings")
    assert flow.lost * flow.interval < MAXIMUM_REKEY_LOSS, flow.output


@pytest.mark.parametrize("kind", ["child", "ike"])
def test_a_rekey_that_only_one_end_sees_cross(gateway: Bench, ue: UeAtCharon, kind: str) -> None:
    """RFC 7296 §2.8.2: charon's request is lost, and comes again when the UE's rekey is over."""
    before = ue.attach()
    since = gateway.since()
    ue.stage.silence(ACCESS_A)
    ue.node.call(f"ue.rekey-{kind}")
    if kind == "child":
        gateway.charon.rekey_child()
    else:
        gateway.charon.rekey_ike(CONNECTION)
    gateway.charon.wait_for_log(r"generating CREATE_CHILD_SA request 0", since=since)
    gateway.charon.wait_for_log(r"retransmit 1 of request", since=since)
    ue.stage.restore(ACCESS_A)
    if kind == "child":
        ue.wait_single_child(other_than=inbound_spis(before))
    else:
        ue.wait_rekeyed(before)
    gateway.agree(ue)
    ue.ping()


def test_a_further_child_sa_and_its_end(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 7296 §1.3.1: charon makes a second child SA; traffic takes it, and its deletion leaves the first."""
    gateway.grant(Terms(selectors=(f"{HOST_BEHIND_GATEWAY}/32",), second_selectors=(str(CORE.network),)))
    session = ue.attach()
    inner = ue.inner_address()
    assert ping(ue.stage.ue, CORE.ip, source=inner, count=1, wait=0.2).received == 0
    gateway.charon.swanctl("--initiate", "--child", SECOND_CHILD, "--ike", CONNECTION, "--timeout", "10")
    served = gateway.agree(ue)
    assert sorted(child.name for child in served.installed) == [CHILD, SECOND_CHILD]
    for destination in (CORE.ip, GATEWAY_CORE.ip, HOST_BEHIND_GATEWAY):
        assert ping(ue.stage.ue, destination, source=inner, count=2).received == 2
    counted = {child.name: child.packets_in for child in gateway.status().installed}
    assert counted == {CHILD: 2, SECOND_CHILD: 4}
    ue.node.call("ue.rekey-child")  # both
    ue.wait(lambda seen: len(children(seen)) == 2 and not set(inbound_spis(seen)) & set(inbound_spis(session)), "both")
    gateway.agree(ue)
    gateway.charon.swanctl("--terminate", "--child", SECOND_CHILD)
    ue.wait_single_child()
    gateway.agree(ue)
    ue.ping()


# --- INFORMATIONAL ------------------------------------------------------------------------------------


def test_the_last_child_sa_deleted_by_charon(gateway: Bench, ue: UeAtCharon) -> None:
    """RFC 7296 §1.4.1: the IKE SA may go on without child SAs."""
    ue.attach()
    gateway.charon.swanctl("--terminate", "--child", CHILD)
    left = ue.wait(lambda seen: not children(seen), "the child SA going")
    assert left["state"] == "established"
    (served,) = gateway.charon.list_sas()
    assert (served.state, served.children) == ("ESTABLISHED", ())


def test_liveness_by_each_end(gateway: Bench, ue: UeAtCharon) -> None:
    gateway.grant(Terms(dpd_delay=1))
    since = gateway.since()
    ue.attach()
    gateway.charon.wait_for_log(r"sending DPD request", since=since)
    gateway.charon.wait_for_log(r"parsed INFORMATIONAL response 0 \[", since=since)
    ue.node.call("ue.detach")
    gateway.charon.wait_gone()
    gateway.grant(Terms())
    with gateway.ue(liveness_interval=0.3) as other:
        since = gateway.since()
        other.attach()
        for number in (2, 3):
            gateway.charon.wait_for_log(rf"generating INFORMATIONAL response {number} \[ \]", since=since)
        gateway.agree(other)


def test_authenticating_anew_make_before_break(gateway: Bench) -> None:
    """RFC 4478: charon's AUTH_LIFETIME makes the UE authenticate anew in time; traffic and inner address stay."""
    gateway.grant(Terms(reauthentication_interval=4, over_time=2))
    since = gateway.since()
    with gateway.ue() as ue:
        before = ue.attach()
        inner = ue.inner_address()
        gateway.charon.wait_for_log(r"generating IKE_AUTH response 1 \[ .*N\(AUTH_LFT\)", since=since)
        with PingFlow(ue.stage.ue, HOST_BEHIND_GATEWAY, source=inner, interval=0.01) as flow:
            after = ue.wait_rekeyed(before)
            flow.wait_answers(20)
        gateway.agree(ue)
        assert ue.inner_address() == inner
        assert part(after, "ike")["spi_i"] != part(before, "ike")["spi_i"]
        print(f"lost while authenticating anew: {flow.lost}")
        assert flow.lost * flow.interval < MAXIMUM_REKEY_LOSS, flow.output


def test_detached_by_each_end_and_by_both_at_once(gateway: Bench, ue: UeAtCharon) -> None:
    ue.attach()
    gateway.charon.terminate(CONNECTION)
    assert children(ue.wait_ended()) == []
    ue.attach()
    assert ue.node.call("ue.detach")["state"] == "closed"
    gateway.charon.wait_gone()
    ue.attach()
    since = gateway.since()
    ue.stage.silence(ACCESS_A)
    gateway.charon.swanctl("--terminate", "--ike", CONNECTION, "--timeout", "-1")
    gateway.charon.wait_for_log(r"generating INFORMATIONAL request \d+ \[ D \]", since=since)
    with ThreadPoolExecutor(1) as aside:
        detaching = aside.submit(ue.node.call, "ue.detach")
        gateway.charon.wait_for_log(r"retransmit 1 of request", since=since)
        ue.stage.restore(ACCESS_A)
        assert detaching.result()["state"] == "closed"
    gateway.charon.wait_gone()
