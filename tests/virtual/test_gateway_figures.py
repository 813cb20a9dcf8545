"""What the gateway counts of attaches, moves, the AAA server's answers and packets: for an overview, for Prometheus."""

from __future__ import annotations

import pytest

from lab.virtual.world import AAA, CORE_HOST, VirtualWorld, run
from protocols.histogram import BOUNDS
from protocols.trace.records import JsonValue

NO_PROBES: dict[str, dict[str, JsonValue]] = {"epdg": {"ike": {"liveness_interval": None}}}


def section(value: JsonValue, *names: str) -> dict[str, JsonValue]:
    """What lies under names in an answer."""
    for name in names:
        assert isinstance(value, dict)
        value = value[name]
    assert isinstance(value, dict)
    return value


async def figures(world: VirtualWorld) -> dict[str, JsonValue]:
    return section(await world.epdg.call("node.status"), "figures")


def judged(histogram: dict[str, JsonValue]) -> tuple[object, object]:
    """Count and sum; the buckets are cumulative and no more than the count."""
    buckets, count = histogram["buckets"], histogram["count"]
    assert isinstance(buckets, list)
    assert isinstance(count, int)
    bounds, counts = zip(*buckets, strict=True)
    assert bounds == BOUNDS
    assert list(counts) == sorted(counts)
    assert counts[-1] <= count
    return count, histogram["sum"]


def test_attaches_and_answers_of_the_aaa_server_take_what_the_way_takes() -> None:
    async def story(world: VirtualWorld) -> None:
        assert judged(section(await figures(world), "attach")) == (0, 0)
        world.streams.delays[AAA.address] = 0.75
        await world.ue.call("ue.attach", access="wifi-a")
        found = await figures(world)
        count, total = judged(section(found, "attach"))
        # seen from the gateway: three rounds of IKE_AUTH at 20 ms, and the AAA server's time
        answers, asked = judged(section(found, "diameter", "round_trips", "DER"))
        assert isinstance(asked, float)
        assert (count, total) == (1, pytest.approx(0.06 + asked, abs=0.005))
        assert isinstance(answers, int)
        assert asked == pytest.approx(1.5 * answers)
        assert section(found, "diameter")["unanswered"] == {}
        await world.ue.call("ue.detach")
        await world.advance(3)
        assert judged(section(await figures(world), "diameter", "round_trips", "STR")) == (1, pytest.approx(1.5))

    run(story, changes=NO_PROBES)


def test_requests_that_the_aaa_server_does_not_answer_are_counted_apart() -> None:
    async def story(world: VirtualWorld) -> None:
        world.streams.delays[AAA.address] = 1000.0
        with pytest.raises(Exception, match="NETWORK_FAILURE|AAA|refused"):
            await world.ue.call("ue.attach", access="wifi-a")
        found = section(await figures(world), "diameter")
        assert found["unanswered"] == {"DER": 1}
        assert "DER" not in section(found, "round_trips")

    run(story, changes=NO_PROBES)


def test_a_move_takes_from_the_update_to_the_checked_path() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")
        await world.ue.call("ue.move", to="wifi-b")
        await world.advance(1)
        found = await figures(world)
        assert judged(section(found, "move")) == (1, pytest.approx(0.02))  # COOKIE2 there and back
        status = section(await world.epdg.call("node.status"))
        assert section(status, "totals")["moved"] == 1

    run(story, changes=NO_PROBES)


def test_what_was_carried_never_goes_back() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")
        await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=10)
        await world.advance(2)
        await world.ue.call("ue.traffic.stop")
        await world.advance(1)
        assert section(await figures(world), "carried")["inbound_packets"] != 0
        await world.advance(2)
        before = section(await figures(world), "carried")
        assert before["inbound_packets"] == before["outbound_packets"]
        assert isinstance(before["inbound_packets"], int)
        assert before["inbound_packets"] >= 19
        await world.ue.call("ue.rekey-child")
        await world.advance(60)
        assert section(await figures(world), "carried") == before
        await world.ue.call("ue.detach")
        await world.advance(5)
        assert section(await figures(world), "carried") == before
        await world.ue.call("ue.attach", access="wifi-b")
        assert section(await figures(world), "carried") == before

    run(story, changes=NO_PROBES)
