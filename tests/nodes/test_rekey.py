"""``ue`` and ``epdg`` as processes: IKE and child rekeys asked of either, reauthentication, limits; traffic goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from epdg.command_line import app
from protocols.io.control import ControlError, call_sync
from protocols.trace.records import JsonValue, Kind
from tests.nodes.test_ue_node import ADDRESSES, IKE_PORT, NATT_PORT, USER, Ue, section, session
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, EpdgProcess
from tests.peers.processes import wait_until, without_process

GATEWAY = "127.0.43.1"


@dataclass
class World:
    """A gateway and a UE that is attached to it, with a flow of echo requests."""

    epdg: EpdgProcess
    ue: Ue

    def gateway_session(self) -> dict[str, JsonValue]:
        (one,) = self.epdg.sessions(state="established")
        return one

    def ike(self) -> tuple[JsonValue, JsonValue]:
        """The SPIs of the UE's IKE SA, once the gateway has the same and nothing else."""

        def agreed() -> tuple[JsonValue, JsonValue] | None:
            here = section(session(self.ue), "ike")
            held = self.epdg.sessions(state="established")
            there = section(held[0], "ike") if len(held) == 1 else {}
            same = (here["spi_i"], here["spi_r"]) == (there.get("spi_i"), there.get("spi_r"))
            return (here["spi_i"], here["spi_r"]) if same and here["state"] == "established" else None

        return wait_until(agreed, timeout=10, what="the same IKE SA at both ends")

    def child(self) -> JsonValue:
        """The inbound SPI of the UE's only child SA, once there is one only."""

        def only() -> JsonValue:
            children = session(self.ue)["child_sas"]
            assert isinstance(children, list)
            (*others, one) = children
            assert isinstance(one, dict)
            return None if others else one["inbound_spi"]

        return wait_until(only, timeout=10, what="one child SA")

    def changed(self, probe: Callable[[], object], old: object) -> object:
        return wait_until(lambda: found if (found := probe()) != old else None, timeout=15, what="a change")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of the gateway's."""
        return without_process(app, *words, "-c", self.epdg.configuration)


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    lifetime: dict[str, int] = getattr(request, "param", {"soft": 600, "hard": 900})
    (tmp_path / "aaa").mkdir()
    (tmp_path / "epdg").mkdir()
    aaa = AaaProcess(tmp_path / "aaa")
    aaa.provision(USER)

    def change(values: dict[str, object]) -> None:
        ports: dict[str, object] = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
        gateway = values["gateway"]
        assert isinstance(gateway, dict)
        gateway["address"] = GATEWAY
        values["child_lifetime"] = lifetime
        values["ike_lifetime"] = 7200
        values["accesses"] = {name: {"address": address, **ports} for name, address in ADDRESSES.items()}

    with aaa, EpdgProcess(tmp_path / "epdg", aaa.port, address=GATEWAY) as epdg:
        (tmp_path / "ue").mkdir()
        ue = Ue(tmp_path / "ue", epdg.authority, change=change)
        with ue.node("run"):
            yield World(epdg, ue)


def test_a_session_survives_rekeys_and_reauthentication(world: World) -> None:
    """RFC 7296 §2.8, RFC 4478: asked of either node, with a move after each, and every echo answered."""
    ue, epdg = world.ue, world.epdg
    ue.call("ue.attach")
    identity, at_the_gateway = session(ue)["id"], world.gateway_session()["id"]
    inner = session(ue)["inner_addresses"]
    _lifetimes_are_shown(session(ue))
    flow = ue.call("ue.traffic.start", destination=CORE_HOST, rate=50)["id"]
    ike, child = world.ike(), world.child()

    assert ue.ask("rekey-ike").returncode == 0
    ike = world.changed(world.ike, ike)
    assert world.command("rekey-ike", str(at_the_gateway)).returncode == 0
    ike = world.changed(world.ike, ike)
    assert world.child() == child
    assert "begun" in ue.ask("rekey-child").stdout
    child = world.changed(world.child, child)
    assert world.command("rekey-child", str(at_the_gateway)).returncode == 0
    child = world.changed(world.child, child)
    ue.call("ue.move", to="wifi-b", keep_old=True)
    wait_until(lambda: len(world.gateway_session()["paths"]) == 2 or None, timeout=10, what="the move")  # type: ignore[arg-type]
    assert (session(ue)["id"], world.gateway_session()["id"]) == (identity, at_the_gateway)

    assert world.command("reauthenticate", str(at_the_gateway)).returncode == 0
    world.changed(lambda: world.ike(), ike)
    assert (session(ue)["id"], session(ue)["inner_addresses"]) == (identity, inner)
    anew = world.gateway_session()
    assert anew["id"] != at_the_gateway
    assert anew["inner_addresses"] == inner
    world.child()

    _stop_and_count(ue, flow)
    names = {str(record.body.get("name")) for record in ue.records() if record.kind is Kind.EVENT}
    assert {"ike-rekeyed", "reauthenticated"} <= names
    assert _ike_keys(ue) == 4  # the first, two rekeys, one authenticated anew
    status = call_sync(epdg.directory / "epdg.sock", "node.status")
    assert isinstance(status, dict)
    assert status["addresses_in_use"] == {**section(status, "addresses_in_use"), "internet": 1}
    ue.call("ue.detach")
    wait_until(lambda: not epdg.sessions(state="established"), timeout=5, what="the end of the session")
    status = call_sync(epdg.directory / "epdg.sock", "node.status")
    assert isinstance(status, dict)
    assert section(status, "addresses_in_use")["internet"] == 0


def _lifetimes_are_shown(shown: dict[str, JsonValue]) -> None:
    """Child SAs of 600 to 900 s, less the jitter of a rekey, and an IKE SA that is rekeyed after at most 7200 s."""
    attached, children = shown["established"], shown["child_sas"]
    assert isinstance(attached, float)
    assert isinstance(children, list)
    child, ike = section({"child": children[0]}, "child"), section(shown, "ike")
    rekeyed, ended = (section(child, "lifetime")[key] for key in ("rekey_at", "expires_at"))
    assert isinstance(rekeyed, float)
    assert isinstance(ended, float)
    assert 500 < rekeyed - attached < 602
    assert abs(ended - attached - 900) < 2
    soft = section(ike, "lifetime")["rekey_at"]
    assert isinstance(soft, float)
    assert 6000 < soft - attached < 7202


@pytest.mark.parametrize("world", [{"soft_packets": 60, "hard_packets": 100_000}], indirect=True)
def test_the_data_plane_asks_for_a_rekey(world: World) -> None:
    """RFC 7296 §2.8: after so many packets, again and again, without losing one."""
    world.ue.call("ue.attach")
    flow = world.ue.call("ue.traffic.start", destination=CORE_HOST, rate=100)["id"]
    child = world.child()
    for _ in range(3):
        child = world.changed(world.child, child)
    _stop_and_count(world.ue, flow)


@pytest.mark.parametrize("world", [{"hard_packets": 30}], indirect=True)
def test_the_hard_limit_of_the_data_plane_ends_the_connection(world: World) -> None:
    """RFC 7296 §2.8: the SA MUST NOT be used any more."""
    world.ue.call("ue.attach")
    world.ue.call("ue.traffic.start", destination=CORE_HOST, rate=100)
    wait_until(lambda: world.ue.call("ue.status")["state"] == "closed", timeout=10, what="the end")
    names = [str(r.body.get("text")) for r in world.ue.records() if r.kind is Kind.EVENT]
    assert any("has carried all that it may" in text for text in names)


def _stop_and_count(ue: Ue, flow: JsonValue) -> None:
    """Every echo request was answered."""
    ue.call("ue.traffic.stop", id=flow)
    assert _sent(ue, flow) > 0
    wait_until(lambda: _score(ue, flow)["received"] == _sent(ue, flow), timeout=5, what="every answer")


def _score(ue: Ue, flow: JsonValue) -> dict[str, JsonValue]:
    return ue.call("ue.traffic.statistics", id=flow)


def _sent(ue: Ue, flow: JsonValue) -> int:
    sent = _score(ue, flow)["sent"]
    assert isinstance(sent, int)
    return sent


def _ike_keys(ue: Ue) -> int:
    """Rows of Wireshark's IKEv2 decryption table, one per IKE SA."""
    return len({str(r.body["spi_i"]) for r in ue.records() if r.kind is Kind.KEYS and "spi_i" in r.body})


def test_rekey_commands_are_refused_where_there_is_nothing_to_rekey(world: World) -> None:
    done = world.ue.ask("rekey-ike")
    assert (done.returncode, done.stderr) == (1, "the UE is not attached\n")
    assert world.command("rekey-ike", "nobody").stderr == "no session nobody\n"
    world.ue.call("ue.attach")
    with pytest.raises(ControlError, match="no child SA 00"):
        world.ue.call("ue.rekey-child", inbound_spi="00")
    for lifetime in (-1, True, "soon", 1e300):
        with pytest.raises(ControlError, match="lifetime is a number of seconds from 0 to 4294967295"):
            call_sync(
                world.epdg.control, "sessions.reauthenticate", id=world.gateway_session()["id"], lifetime=lifetime
            )
