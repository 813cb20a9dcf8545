"""The UE manages its connection by itself in network namespaces: addresses and links go and come, the UE follows.

Our gateway and our UE, each in a namespace of its own with a router between; the kernel tells the UE what happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from typing import Any

import pytest

from lab.namespaces import ACCESS_A, ACCESS_B, DEFAULT_ROUTE, GATEWAY, AccessTopology
from tests.peers.namespaces import namespaces
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until
from ue.interfaces import ABSENCE_INTERVAL

pytestmark = pytest.mark.root

KEY, IDENTITY, APN = "a secret of sufficient length", "ue-1@example.org", "internet"
CORE_HOST = "10.99.0.1"
RATE = 200.0
SILENCE_MAXIMUM = 0.15  # of one second and a half of two busy cores; see the printed figures for the usual


def gateway_configuration() -> dict[str, object]:
    return {
        "plmn": {"mcc": "001", "mnc": "01"},
        "listen": {"addresses": [str(GATEWAY.ip)]},
        "diameter": {"host": "epdg.example", "realm": "example"},
        "apns": {APN: {"pool": "10.46.0.0/24"}},
        "data_plane": {"kind": "in-process", "hosts": [CORE_HOST]},
        "authentication": {"methods": ["psk"], "psk": {IDENTITY: KEY}},
    }


def ue_configuration(**changes: object) -> dict[str, object]:
    return {
        "imsi": "001010000000001",
        "plmn": {"mcc": "001", "mnc": "01"},
        "identity": IDENTITY,
        "authentication": "psk",
        "psk": KEY,
        "apn": APN,
        "gateway": {"address": str(GATEWAY.ip)},
        "accesses": {"wlan": {"interface": ACCESS_A.interface}, "wwan": {"interface": ACCESS_B.interface}},
        "management": {"automatic": True, "prefer": ["wlan", "wwan"], "hold": 0.5, "half_life": 0.5, "linger": 0.2},
        **changes,
    }


@pytest.fixture(scope="module")
def stage() -> Iterator[AccessTopology]:
    with namespaces() as topology:
        yield topology


@pytest.fixture(scope="module")
def gateway(stage: AccessTopology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(stage.gateway, "epdg", tmp_path_factory.mktemp("epdg"), gateway_configuration()) as node:
        yield node


class Phone:
    """``ue serve`` with traffic."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.wait(lambda status: status["management"]["phase"] == "attached", "attached")
        self.flow = int(str(node.call("ue.traffic.start", destination=CORE_HOST, rate=RATE)["id"]))

    def status(self) -> dict[str, Any]:
        return {**self.node.call("node.status"), **self.node.call("ue.status")}

    def wait(self, fits: Callable[[dict[str, Any]], bool], what: str, timeout: float = 10.0) -> None:
        wait_until(lambda: fits(self.status()) or None, what=what, timeout=timeout, log=self.node.log)

    def on(self, access: str) -> None:
        """Wait until the UE is there, with all that it does there done."""
        self.wait(
            lambda status: (
                (status["management"]["phase"], status["management"]["access"]) == ("attached", access)
                and status["sessions"][0]["access"] == access
            ),
            f"on {access}",
        )

    def silence(self, since: float) -> float:
        """The longest time without an answer since then, in seconds."""
        wait_until(
            lambda: self._score(since)["received"] > RATE / 10 or None, what="traffic", timeout=10, log=self.node.log
        )
        return float(self._score(since)["longest_gap_ms"]) / 1000

    def _score(self, since: float) -> dict[str, Any]:
        return self.node.call("ue.traffic.statistics", id=self.flow, since=since)


@pytest.fixture(scope="module")
def phone(stage: AccessTopology, gateway: NodeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    with NodeProcess(stage.ue, "ue", tmp_path_factory.mktemp("ue"), ue_configuration()) as node:
        yield Phone(node)


def test_the_address_in_use_is_deleted(stage: AccessTopology, phone: Phone, record_property: Any) -> None:
    """Break before make at once; make before break when it comes back, after the hold."""
    phone.on("wlan")
    since = time.time()
    stage.leave(ACCESS_A)
    phone.on("wwan")
    silences = [phone.silence(since)]
    since = time.time()
    stage.join(ACCESS_A)
    phone.on("wlan")
    silences.append(phone.silence(since))
    record_property("silences", silences)
    print(f"address deleted: {silences[0] * 1000:.0f} ms, back: {silences[1] * 1000:.0f} ms of silence")
    assert max(silences) < SILENCE_MAXIMUM
    assert phone.status()["sessions"][0]["open_accesses"]


def test_the_link_goes_down(stage: AccessTopology, phone: Phone, record_property: Any) -> None:
    """The address stays on the interface; the kernel says that the link is down."""
    phone.on("wlan")
    since = time.time()
    stage.ue.set_link(ACCESS_A.interface, up=False)
    phone.on("wwan")
    silence = phone.silence(since)
    record_property("silences", [silence])
    print(f"link down: {silence * 1000:.0f} ms of silence")
    assert silence < SILENCE_MAXIMUM
    stage.ue.set_link(ACCESS_A.interface, up=True)
    stage.ue.add_route("0.0.0.0/0", via=ACCESS_A.router.ip, source=ACCESS_A.address.ip, metric=ACCESS_A.metric)
    phone.on("wlan")


def test_the_default_route_goes(stage: AccessTopology, phone: Phone, record_property: Any) -> None:
    """The address stays: left at once for an access with a route, suspended without one, and back with the route."""
    phone.on("wlan")
    since = time.time()
    stage.unroute(ACCESS_A)
    phone.on("wwan")
    silences = [phone.silence(since)]
    since = time.time()
    stage.unroute(ACCESS_B)
    phone.wait(lambda status: status["management"]["phase"] == "suspended", "suspended")
    stage.route(ACCESS_B)
    routed = time.time()
    phone.on("wwan")
    silences.append(phone.silence(since) - (routed - since))
    stage.route(ACCESS_A)
    phone.on("wlan")
    record_property("silences", silences)
    print(f"route deleted: {silences[0] * 1000:.0f} ms, the only one: {silences[1] * 1000:.0f} ms beyond its absence")
    assert max(silences) < ABSENCE_INTERVAL + SILENCE_MAXIMUM


def test_the_address_is_replaced_on_the_same_interface(stage: AccessTopology, phone: Phone) -> None:
    """As by a renewal of DHCP's; the same address with another prefix is no loss at all."""
    address, other = ACCESS_A.address.ip, IPv4Interface("10.77.1.3/24")

    def replace(old: str, new: str) -> None:
        stage.ue.add_address(ACCESS_A.interface, new)
        stage.ue.delete_address(ACCESS_A.interface, old)

    def paths() -> list[dict[str, Any]]:
        return list(phone.status()["sessions"][0]["paths"])

    phone.on("wlan")
    before = len(paths())
    replace(f"{address}/24", f"{address}/25")
    phone.on("wlan")
    assert len(paths()) == before
    replace(f"{address}/25", str(other))
    stage.ue.add_route(DEFAULT_ROUTE, via=ACCESS_A.router.ip, metric=ACCESS_A.metric)
    wait_until(lambda: len(paths()) > before or None, what="the other address", timeout=5, log=phone.node.log)
    phone.on("wlan")
    assert paths()[-1]["local"].startswith(f"{other.ip}:")
    stage.ue.delete_address(ACCESS_A.interface, other)
    stage.join(ACCESS_A)
    phone.on("wlan")


def test_no_address_for_a_second(stage: AccessTopology, phone: Phone, record_property: Any) -> None:
    """Suspend, and resume with the first address that comes; not later than the route to the gateway allows."""
    phone.on("wlan")
    stage.leave(ACCESS_B)
    since = time.time()
    stage.leave(ACCESS_A)
    phone.wait(lambda status: status["management"]["phase"] == "suspended", "suspended")
    time_without = 1.0
    wait_until(lambda: time.time() - since >= time_without or None, what="a second", timeout=3)
    stage.join(ACCESS_B)
    joined = time.time()
    phone.on("wwan")
    beyond = phone.silence(since) - (joined - since)
    record_property("silences", [beyond])
    print(f"no address for {joined - since:.2f} s: {beyond * 1000:.0f} ms beyond that")
    assert beyond < SILENCE_MAXIMUM
    stage.join(ACCESS_A)
    phone.on("wlan")


def test_a_silently_dead_path(stage: AccessTopology, phone: Phone, record_property: Any) -> None:
    """Packets vanish in the router, the address stays: left within three seconds, and not gone back to at once."""
    phone.on("wlan")
    since = time.time()
    stage.silence(ACCESS_A)
    try:
        phone.on("wwan")
        silence = phone.silence(since)
    finally:
        stage.restore(ACCESS_A)
    record_property("silences", [silence])
    print(f"silently dead: {silence * 1000:.0f} ms of silence")
    assert silence < 3.0
    assert phone.status()["management"]["accesses"]["wlan"]["avoided_for"] > 10


def test_what_lower_layers_say(phone: Phone) -> None:
    """Weak: left for the other one, make before break; good again: back after the hold."""
    phone.node.call("ue.access.hint", name="wlan", hint="good")
    phone.on("wlan")
    phone.node.call("ue.access.hint", name="wlan", hint="weak")
    phone.on("wwan")
    phone.node.call("ue.access.hint", name="wlan", hint="good")
    phone.on("wlan")


def test_every_decision_is_in_the_log(phone: Phone) -> None:
    log = phone.node.log()
    assert "Because wlan has lost its address: move to wwan, break before make; wlan is gone." in log
    assert "Because wlan has lost its address: suspend; wlan is gone, and no other access is available." in log
    assert "move to wlan, make before break; wlan is preferred." in log
