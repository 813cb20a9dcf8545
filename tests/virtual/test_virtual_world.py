"""The product's nodes together on virtual time: a seed decides all that happens, and nothing waits for a clock."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from epdg.pki import make_pki
from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from lab.network.nat import Nat, NatKind
from lab.virtual.world import AAA, CORE_HOST, GATEWAY, HSS, START, VirtualWorld, access, run
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError, ConfigurationError
from protocols.io.control import ControlError
from protocols.path import Endpoint
from protocols.trace.records import JsonValue, Kind
from tests.harness.virtual_story import told

OUTSIDE = ip_address("198.51.100.1")
OTHER_GATEWAY = ip_address("203.0.113.2")
WEEKEND = 72 * 3600.0
NO_PROBES: dict[str, dict[str, JsonValue]] = {
    "ue": {"keepalive_interval": None, "liveness_interval": None},
    "epdg": {"ike": {"liveness_interval": None}},
}

Story = Callable[[VirtualWorld], Coroutine[Any, Any, None]]


def tell(story: Story, **world: object) -> VirtualWorld:
    """Tell a story, detach, and nothing may be left."""

    async def whole(made: VirtualWorld) -> VirtualWorld:
        await story(made)
        await made.ue.call("ue.detach")
        await made.advance(5)
        assert await made.leaks() == []
        return made

    return run(whole, **world)


def section(value: JsonValue, *names: str) -> dict[str, JsonValue]:
    """What lies under names in an answer."""
    for name in names:
        assert isinstance(value, dict)
        value = value[name]
    assert isinstance(value, dict)
    return value


async def attach(world: VirtualWorld, name: str = "wifi-a") -> dict[str, JsonValue]:
    return section(await world.ue.call("ue.attach", access=name))


async def talk(world: VirtualWorld) -> None:
    await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=50)


async def score(world: VirtualWorld) -> dict[str, JsonValue]:
    """Of the flow, when everything in flight has landed."""
    await world.ue.call("ue.traffic.stop")
    await world.advance(2)
    return section(await world.ue.call("ue.traffic.statistics"))


def events(world: VirtualWorld, node: str) -> list[str]:
    control = {"ue": world.ue, "epdg": world.epdg, "aaa": world.aaa}[node]
    return [str(record.body["name"]) for record in control.trace if record.kind is Kind.EVENT]


def behind_a_nat(kind: NatKind = NatKind.PORT_RESTRICTED, lifetime: float = 30.0) -> list[AccessNetwork]:
    path = Impairments(delay=0.01)
    nat = Nat(kind, OUTSIDE, lifetime)
    return [
        AccessNetwork("wifi-a", ip_address("10.1.0.2"), uplink=path, downlink=path, nat=nat),
        access("wifi-b", "10.2.0.2"),
    ]


def test_the_whole_stack_attaches_and_the_way_takes_the_time_it_takes() -> None:
    async def story(world: VirtualWorld) -> None:
        before = world.now()
        session = await attach(world)
        assert session["state"] == "established"
        assert world.now() - before == pytest.approx(0.08)  # IKE_SA_INIT and three IKE_AUTH, 20 ms each
        await world.ue.call("ue.detach")
        world.streams.delays[AAA.address] = 1.5
        before = world.now()
        await attach(world)
        # with a temporary identity: DER and DEA twice, and AAR and AAA, over the slow way
        assert world.now() - before == pytest.approx(6.08)

    world = tell(story)
    messages = [str(record.body["name"]) for record in world.aaa.trace if record.kind is Kind.MESSAGE]
    assert {"DER", "DEA", "MAR", "MAA", "SAR", "SAA", "STR", "STA"} <= set(messages)


def test_make_before_break_loses_no_packet() -> None:
    async def story(world: VirtualWorld) -> None:
        await attach(world)
        await talk(world)
        for number in range(20):
            await world.advance(0.513)
            to = ("wifi-b", "wifi-a")[number % 2]
            move = section(await world.ue.call("ue.move", to=to, keep_old=True), "move")
            assert (move["inner_address_unchanged"], move["spis_unchanged"], move["requests"]) == (True, True, 1)
        figures = await score(world)
        assert (figures["lost"], figures["received"]) == (0, figures["sent"])
        longest = figures["longest_gap_ms"]
        assert isinstance(longest, float)
        assert longest < 20 + 15

    tell(story)


def test_keepalives_hold_a_mapping_while_nothing_else_is_said() -> None:
    async def story(world: VirtualWorld) -> None:
        await attach(world)
        nat = world.accesses["wifi-a"].nat
        assert nat is not None
        before = nat.mappings(world.now())[-1]
        await world.advance(600)
        assert before in nat.mappings(world.now())
        assert "keepalive" in {record.body.get("protocol") for record in world.ue.trace}

    tell(story, accesses=behind_a_nat())


def test_without_keepalives_a_mapping_expires_and_the_gateway_follows_the_new_one() -> None:
    async def story(world: VirtualWorld) -> None:
        await attach(world)
        nat = world.accesses["wifi-a"].nat
        assert nat is not None
        await world.advance(600)
        assert nat.mappings(world.now()) == ()
        await talk(world)
        await world.advance(3)
        figures = await score(world)
        assert figures["lost"] in (0, 1)  # the answer to the first may go to the old mapping
        assert "esp-followed" in events(world, "epdg")

    tell(story, accesses=behind_a_nat(), changes=NO_PROBES)


@pytest.mark.parametrize("kind", [NatKind.FULL_CONE, NatKind.RESTRICTED, NatKind.PORT_RESTRICTED, NatKind.SYMMETRIC])
def test_a_nat_that_forgets_everything_costs_some_packets(kind: NatKind) -> None:
    async def story(world: VirtualWorld) -> None:
        await attach(world)
        await talk(world)
        await world.advance(2)
        nat = world.accesses["wifi-a"].nat
        assert nat is not None
        nat.rebind()
        await world.advance(2)
        lost = (await score(world))["lost"]
        assert isinstance(lost, int)
        assert 1 <= lost <= 3  # those on their way back: a round trip of 20 ms at 50 packets per second

    tell(story, accesses=behind_a_nat(kind))


def test_a_captive_access_swallows_an_attach_and_the_other_serves() -> None:
    async def story(world: VirtualWorld) -> None:
        world.accesses["wifi-a"].captive = True
        before = world.now()
        with pytest.raises(ControlError, match="no response"):
            await attach(world, "wifi-a")
        assert world.now() - before > 10
        assert world.accesses["wifi-a"].dropped["outbound-captive"] > 3
        await attach(world, "wifi-b")

    tell(story)


def test_the_gateways_other_address_is_found_when_one_dies() -> None:
    async def story(world: VirtualWorld) -> None:
        await attach(world)
        await talk(world)
        await world.advance(2)
        world.network.set_host(GATEWAY, up=False)
        await world.advance(3)
        heard = section(await world.ue.call("ue.traffic.statistics"))["received"]
        await world.advance(1)
        later = section(await world.ue.call("ue.traffic.statistics"))["received"]
        assert isinstance(heard, int)
        assert isinstance(later, int)
        assert later - heard == 50

    tell(story, gateways=[GATEWAY, OTHER_GATEWAY])


def test_from_ipv4_to_ipv6_and_back() -> None:
    async def story(world: VirtualWorld) -> None:
        await attach(world, "v4")
        await talk(world)
        for to in ("v6", "v4"):
            await world.advance(1)
            move = section(await world.ue.call("ue.move", to=to, keep_old=True), "move")
            assert (move["inner_address_unchanged"], move["spis_unchanged"]) == (True, True)
            assert str(world.accesses[to].address) in str(section(move, "new")["local"])
        assert (await score(world))["lost"] == 0

    tell(
        story,
        accesses=[access("v4", "10.1.0.2"), access("v6", "2001:db8:1::2")],
        gateways=[GATEWAY, ip_address("2001:db8:ffff::1")],
    )


def test_records_are_followed_to_the_end_of_a_node() -> None:
    async def main(world: VirtualWorld) -> list[str]:
        async def follow() -> list[str]:
            return [str(record.body["name"]) async for record in world.ue.subscribe(0, [Kind.EVENT])]

        following = asyncio.create_task(follow())
        await attach(world)
        await world.stop()
        return await following

    assert run(main) == ["started", "attached", "detached"]


def test_a_gateway_is_found_by_its_name_and_the_next_one_when_the_first_is_dead() -> None:
    by_name: dict[str, dict[str, JsonValue]] = {
        "ue": {"gateway": {"address": None, "selection": {"patience": 3}}},
    }

    async def story(world: VirtualWorld) -> None:
        world.names.silent = True
        with pytest.raises(ControlError):
            await attach(world)
        world.names.silent = False
        world.network.set_host(GATEWAY, up=False)
        before = world.now()
        session = await attach(world)
        assert session["gateway"] == f"{OTHER_GATEWAY}:500"
        assert 3 < world.now() - before < 4

    tell(story, gateways=[GATEWAY, OTHER_GATEWAY], changes=by_name)


@pytest.mark.parametrize(("who", "patience"), [(AAA, 10.04), (HSS, 5.04)])
def test_a_server_that_falls_silent_is_a_refusal_in_time_and_leaves_nothing(who: Endpoint, patience: float) -> None:
    async def story(world: VirtualWorld) -> None:
        world.streams.silence(who.address)
        before = world.now()
        with pytest.raises(ControlError, match="network failure"):
            await attach(world)
        assert world.now() - before == pytest.approx(patience)
        world.streams.hear(who.address)  # what was asked is answered now, and nobody waits for it
        await world.advance(120)
        assert await world.leaks() == []
        await world.ue.call("ue.attach", force=True)

    tell(story)


def test_a_weekend_in_a_suitcase_takes_seconds_and_the_session_is_still_there() -> None:
    patient: dict[str, dict[str, JsonValue]] = {
        "aaa": {"sessions": {"timeout": int(2 * WEEKEND)}},
        "epdg": {"ike": {"hold_lifetime": 2 * WEEKEND, "child_lifetime": None, "ike_lifetime": None}},
        "ue": {"silence_interval": None},
    }

    async def story(world: VirtualWorld) -> None:
        before = await attach(world)
        await world.ue.call("ue.suspend")
        began = time.monotonic()
        await world.advance(WEEKEND)
        assert time.monotonic() - began < 10.0
        answer = await world.ue.call("ue.move", to="wifi-b")
        assert section(answer, "session")["inner_addresses"] == before["inner_addresses"]
        await talk(world)
        await world.advance(1)
        lost = (await score(world))["lost"]
        assert lost in (0, 1, 2)  # the gateway checks the new address first: a round trip of 20 ms

    tell(story, changes=patient)


def test_a_gateway_that_lets_go_meanwhile_is_attached_to_anew() -> None:
    async def story(world: VirtualWorld) -> None:
        await attach(world)
        await world.ue.call("ue.suspend")
        await world.advance(WEEKEND)
        assert section(await world.epdg.call("node.status"))["sessions"] == 0
        with pytest.raises(ControlError, match="no response"):
            await world.ue.call("ue.move", to="wifi-b")
        assert (await attach(world, "wifi-b"))["state"] == "established"

    tell(story, changes={"ue": {"silence_interval": None}})


def test_keys_and_certificates_are_those_of_the_seed(tmp_path: Path) -> None:
    def made(seed: int, name: str) -> list[bytes]:
        files = make_pki(tmp_path / name, ("epdg.example", "ims"), entropy=SeededEntropy(seed), now=START)
        return [path.read_bytes() for path in (files.authority, files.authority_key, files.chain, files.key)]

    assert made(1, "one") == made(1, "again")
    assert not set(made(2, "other")) & set(made(1, "third"))
    certificate = x509.load_pem_x509_certificate((tmp_path / "one" / "gateway.pem").read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "one" / "ca.pem").read_bytes()))


def test_what_is_left_is_named() -> None:
    async def story(world: VirtualWorld) -> None:
        await attach(world)
        left = await world.leaks()
        assert {line.split(" ")[0] for line in left} == {"ue:", "epdg:", "aaa:", "hss:"}
        assert len([line for line in left if "child SA" in line]) == 2

    tell(story)


def test_a_bad_configuration_is_refused_as_ever() -> None:
    with pytest.raises(ConfigurationError, match=r"ue\.yaml:1: imsi: got '99', expected 6 to 15 digits"):
        run(lambda world: world.advance(0), changes={"ue": {"imsi": "99"}})


def test_a_gateway_without_its_aaa_server_is_no_world() -> None:
    nowhere: JsonValue = [{"host": "aaa.epc.mnc001.mcc001.3gppnetwork.org", "address": "192.0.2.99", "port": 3868}]
    with pytest.raises(BackendError, match="the gateway has no Diameter peer after 60 s"):
        run(lambda world: world.advance(0), changes={"epdg": {"diameter": {"peers": nowhere}}})


def test_another_process_with_the_same_seed_does_the_same_octet_by_octet() -> None:
    """Records, keys, datagrams; there hashes of texts are seeded otherwise, so that no order hangs on them."""
    hashes = str(int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0")) + 1)
    environment = {**os.environ, "PYTHONHASHSEED": hashes}
    command = [sys.executable, "-m", "tests.harness.virtual_story", "5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)  # noqa: S603 - our own module
    here = list(told("5"))
    there = process.communicate(timeout=60)[0].decode().splitlines()
    assert process.returncode == 0
    assert len(here) > 2000
    assert there == here


def test_another_seed_is_another_run() -> None:
    async def story(world: VirtualWorld) -> str:
        await attach(world)
        return world.fingerprint()

    assert run(story, seed=1) == run(story, seed=1) != run(story, seed=2)
