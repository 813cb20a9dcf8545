"""The gateway reads its configuration again: what changes, what needs a restart, what is refused; sessions stay."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from lab.virtual.world import VirtualWorld, run
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue

Story = Callable[[VirtualWorld], Awaitable[None]]


def tell(story: Story, *, ue: dict[str, JsonValue] | None = None) -> None:
    run(story, changes={"epdg": {"ike": {"liveness_interval": None}}, "ue": ue or {}})


def section(value: JsonValue, *names: str) -> dict[str, JsonValue]:
    """What lies under names in an answer."""
    for name in names:
        assert isinstance(value, dict)
        value = value[name]
    assert isinstance(value, dict)
    return value


def edit(world: VirtualWorld, **changes: object) -> None:
    """Set keys of the gateway's file; ``ike__redirect`` is that of the section ``ike``."""
    file = world.files.configuration("epdg")
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, value in changes.items():
        below = values
        *sections, last = name.split("__")
        for step in sections:
            below = below.setdefault(step, {})
        below[last] = value
    file.write_text(yaml.safe_dump(values), encoding="utf-8")


async def reload(world: VirtualWorld, **changes: object) -> tuple[object, object]:
    """The keys that have changed, and those that need a restart."""
    edit(world, **changes)
    answer = section(await world.epdg.call("node.reload"))
    return answer["changed"], answer["needs_restart"]


async def states(world: VirtualWorld) -> list[object]:
    listed = section(await world.epdg.call("sessions.list"))["sessions"]
    assert isinstance(listed, list)
    return [section(each)["state"] for each in listed]


async def cause_of_refusal(world: VirtualWorld) -> str:
    with pytest.raises(ControlError) as error:
        await world.ue.call("ue.attach", access="wifi-a")
    return str(error.value)


def test_nothing_has_changed() -> None:
    async def story(world: VirtualWorld) -> None:
        assert await reload(world) == ([], [])

    tell(story)


def test_sessions_stay_and_those_that_come_find_what_is_new(tmp_path: Path) -> None:
    usage = tmp_path / "usage.csv"

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")
        changed = await reload(
            world,
            apns__internet__dns=["10.45.0.99"],
            accounting={"file": str(usage)},
            trace__ring=500,
            ike__ue_liveness_period=77,
        )
        assert changed == (["ike.ue_liveness_period", "apns.internet.dns", "trace.ring", "accounting"], [])
        assert await states(world) == ["established"]
        assert section(await world.ue.call("ue.status"))["state"] == "established"
        await world.ue.call("ue.detach")
        session = section(await world.ue.call("ue.attach", access="wifi-a"))
        assert session["dns"] == ["10.45.0.99"]
        assert session["liveness_period"] == 77
        assert len(usage.read_text().splitlines()) == 2
        assert await reload(world) == ([], [])

    tell(story)


def test_ues_are_sent_elsewhere_from_now_on() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")
        redirect = {"gateway": "203.0.113.77", "stage": "init"}
        assert await reload(world, ike__redirect=redirect) == (["ike.redirect"], [])
        assert await states(world) == ["established"]
        await world.ue.call("ue.detach")
        await cause_of_refusal(world)
        assert [record for record in world.epdg.trace if record.body.get("name") == "turned-away"]
        assert await reload(world, ike__redirect=None) == (["ike.redirect"], [])
        await world.ue.call("ue.attach", access="wifi-a")

    tell(story, ue={"redirect": {"obey": "any"}, "retransmission": {"limit": 2}})


def test_what_refused_ues_are_told_is_read_again_even_in_the_same_file(tmp_path: Path) -> None:
    policy = tmp_path / "refusals.yaml"
    shipped = Path("epdg/refusals.yaml").read_text(encoding="utf-8")
    policy.write_text(shipped, encoding="utf-8")

    async def story(world: VirtualWorld) -> None:
        assert await reload(world, refusals=str(policy)) == (["refusals"], [])
        assert "NO_APN_SUBSCRIPTION" in await cause_of_refusal(world)
        text = shipped.replace("{notify: NO_APN_SUBSCRIPTION}", "{notify: NETWORK_FAILURE}")
        assert text != shipped
        policy.write_text(text, encoding="utf-8")
        assert await reload(world) == (["refusals"], [])
        assert "NETWORK_FAILURE" in await cause_of_refusal(world)

    tell(story, ue={"apn": "nowhere"})


def test_what_cannot_change_is_named_and_stays(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")
        edit(world, listen__ike_port=5000, apns__internet__pool="10.77.0.0/24")
        changed, needs_restart = await reload(world, node="other", limits__connections_per_ue=3)
        assert changed == ["limits"]
        assert needs_restart == ["node", "listen.ike_port", "apns.internet.pool"]
        status = section(await world.epdg.call("node.status"))
        assert status["node"] == "epdg"
        assert status["listen"] == ["203.0.113.1:500", "203.0.113.1:4500"]
        assert await states(world) == ["established"]

    with caplog.at_level(logging.INFO, logger="epdg.reload"):
        tell(story)
    told = [record.message for record in caplog.records if record.name == "epdg.reload"]
    assert told == [
        "the configuration was read again; changed: limits",
        "node: the change needs a restart",
        "listen.ike_port: the change needs a restart",
        "apns.internet.pool: the change needs a restart",
    ]


def test_a_configuration_that_does_not_load_is_one_line_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(world: VirtualWorld, words: str, **changes: object) -> None:
        before = world.files.configuration("epdg").read_text(encoding="utf-8")
        with pytest.raises(ControlError) as error:
            await reload(world, limits__congestion_threshold=1, **changes)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert world.epdg_node.configuration.limits.congestion_threshold is None
        world.files.configuration("epdg").write_text(before, encoding="utf-8")

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")
        await refused(world, "ike.return_routability: got 'perhaps'", ike__return_routability="perhaps")
        await refused(world, "missing.yaml", refusals=str(tmp_path / "missing.yaml"))
        await refused(world, "missing.pem", certificate__chain=str(tmp_path / "missing.pem"))
        await refused(world, "usage.csv: No such file", accounting={"file": str(tmp_path / "missing" / "usage.csv")})
        apns = {"new": {"pool": "10.77.0.0/24"}, "internet": {"pool": "10.45.0.0/24"}}
        await refused(world, "need a restart (apns)", apns=apns, default_apn="new")
        world.files.configuration("epdg").write_text("{", encoding="utf-8")
        with pytest.raises(ControlError):
            await world.epdg.call("node.reload")
        assert await states(world) == ["established"]
        await world.ue.call("ue.move", to="wifi-b")

    tell(story)
    told = [record for record in caplog.records if record.name == "epdg.reload"]
    assert len(told) == 6
    assert all(record.message.startswith("the configuration is as it was: ") for record in told)
