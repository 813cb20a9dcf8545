"""Sequence numbers and lifetimes of child SAs through the nodes: both rekey in time, and end what cannot be rekeyed."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from lab.virtual.world import CORE_HOST, VirtualWorld, run
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.esp.sa import MAXIMUM_SEQUENCE
from protocols.trace.records import JsonValue, Kind

LIFETIMES = {"soft": 36000.0, "jitter": 0.0}
PLAIN: dict[str, dict[str, JsonValue]] = {
    "ue": {"algorithms": {"esp": ["aes128gcm16"]}},  # 32-bit sequence numbers
    "epdg": {"ike": {"esp_suites": ["aes128gcm16"]}},
}
SEVEN_EIGHTHS = MAXIMUM_SEQUENCE - (MAXIMUM_SEQUENCE >> 3)


def planes(world: VirtualWorld) -> dict[str, UserspaceDataPlane]:
    """The data planes of the nodes."""
    return {"ue": world.ue_node.pdn().tunnel._data_plane, "epdg": world.epdg_node.child_sas.data_plane}


async def section(call: Coroutine[Any, Any, JsonValue]) -> dict[str, JsonValue]:
    answer = await call
    assert isinstance(answer, dict)
    return answer


async def talk(world: VirtualWorld, seconds: float) -> dict[str, JsonValue]:
    """Echo requests for a while; their score once all have landed."""
    await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=50)
    await world.advance(seconds)
    await world.ue.call("ue.traffic.stop")
    await world.advance(2)
    return await section(world.ue.call("ue.traffic.statistics"))


def ended(world: VirtualWorld, why: str) -> bool:
    """Whether the trace of a node tells an end for this reason."""
    return any(
        why in str(record.body.get("text"))
        for control in (world.ue, world.epdg)
        for record in control.trace
        if record.kind is Kind.EVENT
    )


@pytest.mark.parametrize("node", ["ue", "epdg"])
def test_sequence_numbers_that_run_out_are_rekeyed_in_time(node: str) -> None:
    """RFC 4303 §3.3.3: the node whose numbers run out asks for a new SA; no packet is lost over it."""

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach")
        plane = planes(world)[node]
        (old,) = plane.installed
        plane.child_sa(old).sequence = SEVEN_EIGHTHS - 20
        score = await talk(world, 2.0)
        assert score["lost"] == 0
        await world.advance(60)  # the old one receives for a while
        (new,) = plane.installed
        assert new != old
        assert 0 < plane.child_sa(new).sequence < 100
        for each in planes(world).values():
            assert len(each.installed) == 1
            assert each.drops == {}

    run(story, changes=PLAIN)


@pytest.mark.parametrize("node", ["ue", "epdg"])
def test_an_sa_without_sequence_numbers_sends_nothing_more(node: str) -> None:
    """RFC 4303 §3.3.3: they MUST NOT cycle; without a rekey in time the connection ends."""

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach")
        plane = planes(world)[node]
        (spi,) = plane.installed
        plane.child_sa(spi).sequence = MAXIMUM_SEQUENCE - 3
        await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=50)
        await world.advance(2.0)
        assert ended(world, "has carried all that it may")
        assert (await section(world.ue.call("ue.status")))["state"] == "closed"
        assert all(each.installed == () for each in planes(world).values())

    run(story, changes=PLAIN)


@pytest.mark.parametrize(("node", "limit"), [("ue", {"soft_octets": 40 * 84}), ("epdg", {"soft_packets": 40})])
def test_what_an_sa_has_carried_leads_to_a_rekey(node: str, limit: dict[str, JsonValue]) -> None:
    """RFC 7296 §2.8, RFC 4301 §4.4.2.1: lifetimes in packets and octets, of either node."""
    lifetime: dict[str, JsonValue] = {**LIFETIMES, **limit}
    none: dict[str, JsonValue] = {**LIFETIMES}
    changes: dict[str, dict[str, JsonValue]] = {
        "ue": {"child_lifetime": lifetime if node == "ue" else none},
        "epdg": {"ike": {"child_lifetime": lifetime if node == "epdg" else none}},
    }

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach")
        seen: set[bytes] = set()
        for _ in range(4):
            score = await talk(world, 0.5)
            assert score["lost"] == 0
            seen.update(planes(world)[node].installed)
        assert len(seen) >= 3  # a hundred packets each way
        assert all(each.drops == {} for each in planes(world).values())

    run(story, changes=changes)


@pytest.mark.parametrize("dscp", ["copy", 46])
def test_esp_of_both_nodes_has_the_dscp_configured(dscp: str | int) -> None:
    """RFC 4301 §5.1.2: copied, or the same for all; IKE has ``ike.dscp`` where the sockets are the system's."""
    changes: dict[str, dict[str, JsonValue]] = {
        "ue": {"data_plane": {"kind": "in-process", "dscp": dscp}},
        "epdg": {"data_plane": {"kind": "in-process", "hosts": [str(CORE_HOST)], "dscp": dscp}},
    }

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach")
        await talk(world, 0.2)
        esp = [each for each in world.network.log if each.fate == "sent" and each.octets[:4] != bytes(4)]
        expected = 0 if dscp == "copy" else 46 << 2  # the hosts in the processes mark nothing
        assert {each.traffic_class for each in esp if each.source.port == 4500 and len(each.octets) > 60} == {expected}
        ike = [each for each in world.network.log if each.octets[:4] == bytes(4)]
        assert {each.traffic_class for each in ike} == {0}

    run(story, changes=changes)


def test_the_replay_window_of_either_node_is_as_configured() -> None:
    widths: dict[str, JsonValue] = {"ue": 4096, "epdg": 32}
    changes: dict[str, dict[str, JsonValue]] = {
        name: {"data_plane": {"replay_window": widths[name]}} for name in widths
    }

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach")
        for name, plane in planes(world).items():
            (spi,) = plane.installed
            assert plane.child_sa(spi).spec.replay_window == widths[name]
        await world.ue.call("ue.rekey-child")
        await world.advance(60)
        for name, plane in planes(world).items():
            (spi,) = plane.installed
            assert plane.child_sa(spi).spec.replay_window == widths[name]

    run(story, changes=changes)
