"""Voice and TCP through the tunnel of ``ue`` and ``epdg`` as processes, over a move, and what both ends say of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from protocols.io.control import ControlError
from protocols.media.log import Entry, around, figures, join
from protocols.media.score import score
from protocols.trace.records import JsonValue
from tests.nodes.test_ue_node import GATEWAY, USER, Ue
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, EpdgProcess
from tests.peers.processes import wait_until


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EpdgProcess, Ue]]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER)
    with node, EpdgProcess(tmp_path_factory.mktemp("epdg"), node.port, address=GATEWAY) as epdg:
        ue = Ue(tmp_path_factory.mktemp("ue"), epdg.authority)
        with ue.node("attach", state="established"):
            yield epdg, ue


def entries(value: JsonValue) -> list[Entry]:
    """A log of a control method."""
    assert isinstance(value, list)
    return [(int(number), float(moment)) for number, moment in value]  # type: ignore[misc,arg-type]


def number(value: JsonValue, *path: str) -> float:
    for key in path:
        assert isinstance(value, dict)
        value = value[key]
    assert isinstance(value, int | float)
    return value


def test_a_voice_call_goes_on_over_moves_and_both_ends_have_its_log(world: tuple[EpdgProcess, Ue]) -> None:
    """50 packets a second each way; the joined logs, the UE's statistics and the opinion agree."""
    epdg, ue = world
    started = ue.call("ue.traffic.start", kind="voice", destination=CORE_HOST)
    call, ssrc = started["id"], started["ssrc"]

    def spoken(amount: int) -> bool:
        return number(ue.call("ue.traffic.statistics", id=call), "downlink", "received") >= amount

    wait_until(lambda: spoken(25), what="voice before the move", timeout=10, log=ue.log.read_text)
    moved = time.time()
    ue.call("ue.move", to="wifi-b")
    wait_until(lambda: spoken(90), what="voice after the move", timeout=10, log=ue.log.read_text)
    assert ue.call("ue.traffic.stop", id=call)["running"] is False
    own = ue.call("ue.traffic.log", id=call)
    assert own["ssrc"] == ssrc
    far = epdg.call("epdg.host.log", ssrc=ssrc)
    assert far["running"] is False  # BYE has come
    uplink = join(entries(own["sent"]), entries(far["received"]))
    downlink = join(entries(far["sent"]), entries(own["received"]))
    for fates in (uplink, downlink):
        assert figures(fates).lost <= 2
        last, first = around(fates, moved + 0.005)
        assert last is not None
        assert first is not None
        assert 0 < first - last < 0.5
        opinion = score(fates)
        assert opinion is not None
        assert opinion.mos > 3.5
    seen = ue.call("ue.traffic.statistics", id=call)
    assert number(seen, "uplink", "received") == figures(uplink).received
    assert number(seen, "downlink", "received") == figures(downlink).received
    assert number(seen, "mos", "uplink") > 3.5
    # A part of the log, and a call that nobody knows.
    later = epdg.call("epdg.host.log", ssrc=ssrc, since=moved)
    assert 0 < len(entries(later["received"])) < len(entries(far["received"]))
    with pytest.raises(ControlError, match="no host behind the gateway has had a voice call 1"):
        epdg.call("epdg.host.log", ssrc=1)
    with pytest.raises(ControlError, match="ssrc is the number"):
        epdg.call("epdg.host.log")


def test_a_tcp_flow_goes_on_over_moves(world: tuple[EpdgProcess, Ue]) -> None:
    """Records to the echo service: the connection survives, nothing is corrupted, it ends by FIN."""
    _, ue = world
    flow = ue.call("ue.traffic.start", kind="tcp", destination=CORE_HOST, rate=100)["id"]

    def echoed(octets: int) -> bool:
        return number(ue.call("ue.traffic.statistics", id=flow), "octets_received") >= octets

    wait_until(lambda: echoed(30_000), what="echoes before the move", timeout=10, log=ue.log.read_text)
    ue.call("ue.move", to="wifi-a")
    wait_until(lambda: echoed(90_000), what="echoes after the move", timeout=10, log=ue.log.read_text)
    ue.call("ue.traffic.stop", id=flow)
    ended = wait_until(
        lambda: (seen := ue.call("ue.traffic.statistics", id=flow))["state"] == "TIME-WAIT" and seen,
        what="the end of the connection",
        timeout=10,
    )
    assert isinstance(ended, dict)
    assert (ended["corrupted"], ended["failure"]) == (0, None)
    assert 300 < number(ended, "throughput_kbps") < 1000
    assert number(ended, "longest_stall_ms") < 1000


def test_what_is_no_flow_is_refused_in_one_sentence(world: tuple[EpdgProcess, Ue]) -> None:
    _, ue = world
    with pytest.raises(ControlError, match="kind is one of icmp, udp, voice, tcp"):
        ue.call("ue.traffic.start", kind="fax", destination=CORE_HOST)
    flow = ue.call("ue.traffic.start", kind="icmp", destination=CORE_HOST)["id"]
    with pytest.raises(ControlError, match="is no voice call and has no log"):
        ue.call("ue.traffic.log", id=flow)
    ue.call("ue.traffic.stop", id=flow)


def test_tcp_to_an_address_that_nobody_has(world: tuple[EpdgProcess, Ue]) -> None:
    """No host has the address: the connection waits, and statistics say so."""
    _, ue = world
    flow = ue.call("ue.traffic.start", kind="tcp", destination="10.99.0.77")["id"]
    seen = ue.call("ue.traffic.statistics", id=flow)
    assert (seen["state"], seen["octets_received"]) == ("SYN-SENT", 0)
    assert ue.call("ue.traffic.stop", id=flow)["state"] == "CLOSED"
