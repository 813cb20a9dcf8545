"""The NATs of the stage of namespaces, the laboratory's own and the kernel's: the same datagrams, the same verdicts."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from lab.mobility.loader import NamedSchedule, parse_schedule
from lab.mobility.namespaces import NamespaceStage
from lab.mobility.player import play
from lab.mobility.schedule import NatSection
from lab.mobility.stage_name import NatName
from lab.network.nat import NatKind
from lab.processes import poll_until
from lab.router import Router
from tests.peers.access_ends import GATEWAYS, OUTSIDE, UE, Ends, nothing, on, received, send
from tests.peers.namespaces import require_namespaces, require_nftables_nat

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

CALL = """
title: A NAT comes and goes, another one restarts
duration: 8
accesses:
  a: {up: {delay: 10ms}, down: {delay: 10ms}}
  b: {nat: {kind: restricted, lifetime: 1m}, up: {delay: 10ms}, down: {delay: 10ms}}
events:
  - {at: 0, do: attach, access: a}
  - {at: 1.5, do: nat-appears, access: a, nat: {kind: symmetric, lifetime: 20s}}
  - {at: 3.5, do: nat-gone, access: a}
  - {at: 5, do: move, to: b}
  - {at: 6.5, do: nat-rebind, access: b}
expect: {attaches: 1, moves: 1, final_access: b, outage_ms: 500, real_time_slack: 1s}
"""
LONG_KINDS = [pytest.param(kind, marks=pytest.mark.long) for kind in ("full-cone", "symmetric")]
NATS = pytest.mark.parametrize("nat", NatName, ids=lambda each: each.value, indirect=True)


@pytest.fixture
def nat(request: pytest.FixtureRequest) -> NatName:
    """One that can be had here, and the kernel's where none is asked for."""
    require_namespaces()
    wanted = getattr(request, "param", NatName.NFTABLES)
    assert isinstance(wanted, NatName)
    if wanted is NatName.NFTABLES:
        require_nftables_nat()
    return wanted


@pytest.mark.parametrize(
    ("kind", "heard"),
    [
        ("none", {"same", "other-port", "other-address"}),
        ("full-cone", {"same", "other-port", "other-address"}),
        ("restricted", {"same", "other-port"}),
        ("port-restricted", {"same"}),
        ("symmetric", {"same"}),
    ],
)
@NATS
def test_whom_a_nat_lets_in(nat: NatName, kind: str, heard: set[str]) -> None:
    """RFC 3489 §5."""

    async def story(made: Ends) -> None:
        ue, same = made.ue(), made.gateway(GATEWAYS[0])
        others = {"other-port": made.gateway(GATEWAYS[0], 4501), "other-address": made.gateway(GATEWAYS[1])}
        await send(ue, b"hello", (GATEWAYS[0], 4500))
        octets, seen = await received(same)
        assert octets == b"hello"
        assert (seen == (UE, 4500)) is (kind == "none")
        assert seen[0] == (UE if kind == "none" else OUTSIDE)
        for name, each in others.items():
            await send(each, name.encode(), seen)
        await send(same, b"same", seen)
        got = []
        while not got or got[-1] != "same":
            got.append((await received(ue))[0].decode())
        assert set(got) == heard

    on(kind, story, nat)


@NATS
def test_a_symmetric_nat_has_another_port_for_each_destination(nat: NatName) -> None:
    """Of four ports that the kernel draws by lot, two may once be the same."""

    async def story(made: Ends) -> None:
        assert len(set(await ports_seen(made))) >= 3

    on("symmetric", story, nat)


@NATS
@pytest.mark.parametrize("kind", ["restricted", "port-restricted", *LONG_KINDS])
def test_a_nat_that_restarts_gives_another_port_and_knows_the_old_one_no_more(kind: str, nat: NatName) -> None:
    async def story(made: Ends) -> None:
        ue, gateway = made.ue(), made.gateway(GATEWAYS[0])
        seen = []
        for _ in range(2):
            await send(ue, b"hello", (GATEWAYS[0], 4500))
            seen.append((await received(gateway))[1])
            await made.topology.rebind("wifi")
        assert seen[0] != seen[1]
        await send(ue, b"hello", (GATEWAYS[0], 4500))
        now = (await received(gateway))[1]
        for old in seen:
            await send(gateway, b"to the old one", old)
        await send(gateway, b"to the new one", now)
        assert (await received(ue))[0] == b"to the new one"

    on(kind, story, nat)


@NATS
def test_a_nat_comes_and_goes(nat: NatName) -> None:
    async def story(made: Ends) -> None:
        ue, gateway = made.ue(), made.gateway(GATEWAYS[0])
        sources = []
        for kind in (NatKind.NONE, NatKind.FULL_CONE, NatKind.NONE):
            await made.topology.translate("wifi", NatSection(kind=kind))
            await send(ue, b"hello", (GATEWAYS[0], 4500))
            _, seen = await received(gateway)
            sources.append(seen[0])
            await send(gateway, b"back", seen)
            assert (await received(ue))[0] == b"back"
        assert sources == [UE, OUTSIDE, UE]

    on("none", story, nat)


@NATS
def test_a_stranger_is_answered_from_the_port_that_he_has_spoken_to(nat: NatName) -> None:
    async def story(made: Ends) -> None:
        ue, gateway, stranger = made.ue(), made.gateway(GATEWAYS[0]), made.gateway(GATEWAYS[1], 999)
        await send(ue, b"hello", (GATEWAYS[0], 4500))
        _, seen = await received(gateway)
        await send(stranger, b"who are you?", seen)
        octets, source = await received(ue)
        assert (octets, source) == (b"who are you?", (GATEWAYS[1], 999))
        await send(ue, b"a UE", source)
        assert await received(stranger) == (b"a UE", seen)
        await send(stranger, b"good", seen)
        assert (await received(ue))[0] == b"good"

    on("full-cone", story, nat)


@NATS
@pytest.mark.long
def test_a_call_goes_on_while_a_nat_comes_goes_and_restarts(nat: NatName) -> None:
    named = NamedSchedule(name="nats", schedule=parse_schedule(CALL), file=Path("nats.yaml"))
    result, series = play(named, NamespaceStage(nat=nat), None, lambda name, at, words: None)
    assert [check for check in result.checks if not check.passed] == [], result.to_text()
    assert result.nat == nat.value
    for direction in (series.uplink, series.downlink):
        assert sum(each.received is None for each in direction) < 60


@NATS
@pytest.mark.parametrize("kind", ["full-cone", "port-restricted"])
def test_nobody_reaches_the_ue_past_a_nat_nor_hears_that_he_does_not(kind: str, nat: NatName) -> None:
    """Neither by its address inside nor by a port that nothing is mapped to: dropped without an ICMP error."""

    async def story(made: Ends) -> None:
        ue, gateway, stranger = made.ue(), made.gateway(GATEWAYS[0]), made.gateway(GATEWAYS[1])
        stranger.connect((OUTSIDE, 9))
        stranger.send(b"to a port that nothing is mapped to")
        await send(gateway, b"to the address inside", (UE, 4500))
        await send(ue, b"hello", (GATEWAYS[0], 4500))
        _, seen = await received(gateway)
        await send(gateway, b"to the port that it has", seen)
        assert (await received(ue))[0] == b"to the port that it has"
        assert await nothing(stranger)  # an error would be raised

    on(kind, story, nat)


async def ports_seen(made: Ends) -> list[tuple[str, int]]:
    """Where the UE's datagrams from one port come from, at two addresses and two ports of each."""
    ue, seen = made.ue(), []
    for place in ((address, port) for address in GATEWAYS for port in (4500, 4501)):
        gateway = made.gateway(*place)
        await send(ue, b"hello", place)
        seen.append((await received(gateway))[1])
    return seen


@NATS
@pytest.mark.parametrize("kind", ["restricted", "port-restricted", LONG_KINDS[0]])
def test_a_nat_that_is_not_symmetric_has_one_port_for_everybody(kind: str, nat: NatName) -> None:
    """RFC 4787 §4.1: endpoint-independent mapping."""

    async def story(made: Ends) -> None:
        assert len(set(await ports_seen(made))) == 1

    on(kind, story, nat)


@pytest.mark.parametrize("kind", ["restricted", *LONG_KINDS])
def test_the_kernel_forgets_a_mapping_after_its_lifetime(kind: str, nat: NatName) -> None:
    async def story(made: Ends) -> None:
        ue, gateway = made.ue(), made.gateway(GATEWAYS[0])
        router = router_of(made).namespace
        await send(ue, b"hello", (GATEWAYS[0], 4500))
        _, seen = await received(gateway)
        await send(gateway, b"back", seen)
        assert (await received(ue))[0] == b"back"

        async def forgotten() -> bool | None:
            return router.call(flows) == 0 or None

        await poll_until(forgotten, what="the end of a mapping", interval=5)
        await send(gateway, b"too late", seen)
        assert await nothing(ue)

    on(kind, story, nat, "1s")


def router_of(made: Ends) -> Router:
    router = made.topology.accesses["wifi"].router
    assert router is not None
    return router


def flows() -> int:
    """In connection tracking, without those whose life is over."""
    with NFCTSocket() as tracking:
        return len(list(tracking.dump()))


def open_namespaces() -> set[str]:
    """Network namespaces that processes are in or hold."""
    found = set()
    for pattern in ("[0-9]*/ns/net", "[0-9]*/fd/*"):
        for path in Path("/proc").glob(pattern):
            with contextlib.suppress(OSError):  # it has ended, or closed it
                found.add(os.readlink(path))
    return found


def test_nothing_of_a_router_is_left(nat: NatName) -> None:
    """Its namespace goes with the topology, and table, flows and interfaces with it."""
    places = []

    async def story(made: Ends) -> None:
        places.append(os.readlink(router_of(made).namespace.path))
        assert places[0] in open_namespaces()

    on("full-cone", story, nat)
    assert places[0] not in open_namespaces()
