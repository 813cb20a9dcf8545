"""Usage records: what sessions of the real nodes have used stands in a file of CSV, whatever becomes of the process."""

from __future__ import annotations

import csv
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from epdg.usage import COLUMNS
from lab.virtual.world import CORE_HOST, VirtualWorld, run
from protocols.errors import BackendError
from protocols.io.durable import LineFile
from protocols.trace.records import JsonValue


def tell(story: Callable[[VirtualWorld], Awaitable[None]], file: Path, **section: JsonValue) -> None:
    accounting: JsonValue = {"file": str(file), **section}
    run(story, changes={"epdg": {"accounting": accounting, "ike": {"liveness_interval": None}}})


def records(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        found = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    return found


def test_a_session_that_ends_leaves_a_line(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"

    async def story(world: VirtualWorld) -> None:
        assert records(file) == []
        await world.ue.call("ue.attach", access="wifi-a")
        (live,) = world.epdg_node.sessions.live.values()
        await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=10)
        await world.advance(2)
        await world.ue.call("ue.move", to="wifi-b")
        await world.ue.call("ue.rekey-child")
        await world.advance(2)
        await world.ue.call("ue.traffic.stop")
        await world.advance(1)
        status = await world.epdg.call("node.status")
        assert isinstance(status, dict)
        assert isinstance(status["figures"], dict)
        carried = status["figures"]["carried"]
        assert isinstance(carried, dict)
        assert records(file) == []
        await world.ue.call("ue.detach")
        await world.advance(1)
        (one,) = records(file)
        assert one["session"] == live.session.identifier
        assert (one["imsi"], one["apn"]) == (str(world.subscriber.imsi), "internet")
        assert one["inner_addresses"] == "10.45.0.2"
        assert one["started"] < one["ended"]
        assert one["started"].startswith("2026-01-01T00:00:")
        assert (one["ended_by"], one["moves"]) == ("ue", "1")
        assert one["why"] == "the peer deleted the IKE SA"
        assert [one[f"{way}_{what}"] for way in ("uplink", "downlink") for what in ("packets", "octets")] == [
            str(carried[f"{way}_{what}"]) for way in ("inbound", "outbound") for what in ("packets", "octets")
        ]
        assert int(one["uplink_packets"]) >= 39

    tell(story, file)
    assert file.stat().st_mode & 0o777 == 0o600


def test_who_was_refused_has_used_nothing_and_who_is_there_at_the_end_has(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"

    async def story(world: VirtualWorld) -> None:
        world.accesses["wifi-a"].captive = True
        with pytest.raises(Exception, match="."):
            await world.ue.call("ue.attach", access="wifi-a")
        world.accesses["wifi-a"].captive = False
        await world.advance(120)
        await world.ue.call("ue.attach", access="wifi-a")
        assert records(file) == []

    tell(story, file)
    (one,) = records(file)
    assert one["ended_by"] in ("ue", "gateway")


def test_the_files_are_bounded_and_nothing_is_lost_between_them(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"

    async def story(world: VirtualWorld) -> None:
        for _ in range(40):
            await world.ue.call("ue.attach", access="wifi-a")
            await world.ue.call("ue.detach")
            await world.advance(1)

    tell(story, file, rotate_octets=4096, kept_files=1)
    older = tmp_path / "usage.csv.1"
    assert sorted(tmp_path.iterdir()) == [file, older]
    assert all(each.stat().st_size <= 4096 for each in (file, older))
    found = [one["started"] for each in (older, file) for one in records(each)]
    assert found == sorted(found)
    assert 20 < len(found) <= 40


@pytest.mark.parametrize("left", ["other,columns\n1,2\n", f"{','.join(COLUMNS)}\ncut o"])
def test_what_cannot_be_gone_on_with_is_put_aside(tmp_path: Path, left: str) -> None:
    file = tmp_path / "usage.csv"
    file.write_text(left)

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")

    tell(story, file)
    assert (tmp_path / "usage.csv.1").read_text() == left
    assert len(records(file)) == 1


def test_a_file_from_before_is_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")

    tell(story, file)
    tell(story, file)
    assert len(records(file)) == 2


def test_a_disk_that_refuses_is_told_once_and_its_records_follow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "usage.csv"

    async def story(world: VirtualWorld) -> None:
        file.unlink()
        file.mkdir()  # nobody can write lines there, not even root
        for _ in range(3):
            await world.ue.call("ue.attach", access="wifi-a")
            await world.ue.call("ue.detach")
            await world.advance(1)
        file.rmdir()
        await world.ue.call("ue.attach", access="wifi-a")
        await world.ue.call("ue.detach")
        await world.advance(1)

    tell(story, file)
    assert len(records(file)) == 4
    assert [record.message for record in caplog.records if "usage records" in record.message] == [
        f"usage records are not written: {file}: Is a directory",
        "usage records are written again",
    ]


def test_a_gateway_that_cannot_write_does_not_start(tmp_path: Path) -> None:
    async def story(world: VirtualWorld) -> None:
        raise AssertionError("it has started")

    with pytest.raises(BackendError) as error:
        tell(story, tmp_path / "nowhere" / "usage.csv")
    assert "usage.csv: No such file or directory" in f"{error.value} {error.value.__cause__}"


def test_without_old_files_there_is_one(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "a", "n", octets_limit=10, kept=0)
    lines.open()
    for number in range(100):
        lines.append([str(number)])
    (only,) = tmp_path.iterdir()
    assert only.read_text() == "n\n99\n"
