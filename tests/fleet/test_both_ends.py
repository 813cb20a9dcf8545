"""What both ends count, and why it differs: an overloaded UE answers the check of its new address too late."""

from __future__ import annotations

import asyncio
from collections import Counter

from lab.fleet.both_ends import GatewayCounts, both_ends, differences
from lab.fleet.engine import FleetEngine
from lab.fleet.figures import FleetFigures
from lab.processes import poll_until
from protocols.ikev2.config import RETURN_ROUTABILITY_INTERVAL
from protocols.io.control import ControlClient
from tests.fleet.conftest import FleetWorld

UES = 10
STALL = RETURN_ROUTABILITY_INTERVAL + 0.3


def test_ues_that_answer_too_late_are_checked_again_and_are_not_lost(world: FleetWorld) -> None:
    """The update is out when the UEs' process is busy with other things; what it left hears nothing any more."""

    async def counted() -> GatewayCounts:
        return GatewayCounts.of(await world.status("epdg"))

    async def scenario() -> tuple[FleetFigures, GatewayCounts]:
        before = await counted()
        async with FleetEngine(world.file) as engine:
            members = [engine.member(index) for index in range(UES)]
            for member in members:
                await member.attach()
            loop = asyncio.get_running_loop()
            moves = [loop.create_task(member.move()) for member in members]
            await asyncio.sleep(0)  # each has sent its update
            until = loop.time() + STALL
            while loop.time() < until:
                pass
            await asyncio.gather(*moves)

            async def all_there() -> bool | None:
                return True if (await counted()).since(before).totals["moved"] >= UES else None

            await poll_until(all_there, what="moves that the gateway has adopted after all", interval=20)
            for member in members:
                score = await member.talked(20, 0.2)
                assert score.received > 0
            figures, gateway = engine.latest(), (await counted()).since(before)
        await world.emptied()
        return figures, gateway

    figures, gateway = world.run(scenario())
    moved = gateway.totals["moved"]  # a UE may also have looked for another path by itself meanwhile
    assert moved >= figures.succeeded("move") == UES
    late = gateway.totals["address-update-failed"]
    assert late >= UES
    assert gateway.reasons["address-update-failed"] == {"the return-routability check was not answered": late}
    assert figures.stray_ike >= UES  # the check of the access that it had left
    found = differences(figures, gateway)
    assert (
        f"The UEs count {UES} moves, the gateway {moved}: a new address was not adopted {late} times "
        f"(the return-routability check was not answered {late})."
    ) in found
    assert any(sentence.startswith(f"{figures.stray_ike} IKE messages and ") for sentence in found)


def test_a_suspended_ue_hears_nothing_although_its_access_is_open_for_others(world: FleetWorld) -> None:
    """Until it is back: then the gateway's DELETE follows it."""

    async def scenario() -> FleetFigures:
        control = ControlClient(world.plan.control("epdg"))
        async with FleetEngine(world.file) as engine:
            member = engine.member(40)
            await member.attach()
            member.suspend()
            listed = await control.call("sessions.list", imsi=member.pdn.configuration.imsi, state="established")
            assert isinstance(listed, dict)
            sessions = listed["sessions"]
            assert isinstance(sessions, list)
            (session,) = sessions
            assert isinstance(session, dict)
            await control.call("sessions.detach", id=session["id"])

            async def deaf() -> bool | None:
                return True if engine.latest().stray_ike else None

            await poll_until(deaf, what="a DELETE that nobody hears", interval=10)
            assert member.attached
            moving = asyncio.get_running_loop().create_task(member.move())

            async def gone() -> bool | None:
                return None if member.attached else True

            await poll_until(gone, what="the end of the session", interval=20)
            await asyncio.gather(moving, return_exceptions=True)
            return engine.latest()

    assert world.run(scenario()).lost == {"ended by the gateway": 1}


def test_equal_counts_need_no_words() -> None:
    figures = FleetFigures()
    for procedure in ("attach", "move", "detach"):
        figures.outcome(procedure, "success")
    gateway = GatewayCounts(totals=Counter(sessions=1, attached=1, moved=1, detached=1))
    assert differences(figures, gateway) == []
    assert both_ends(figures, gateway)["moves"] == {"ues": 1, "gateway": 1}


def test_differences_are_told_with_their_reasons_since_the_fleet_began() -> None:
    figures = FleetFigures(stray_esp=3)
    for cause, number in (("success", 8), ("no response", 2)):
        for _ in range(number):
            figures.outcome("attach", cause)
    for _ in range(5):
        figures.outcome("move", "success")
    before = GatewayCounts.of({"totals": {"sessions": 4, "attached": 4, "moved": 9}, "reasons": {"detached": {"x": 1}}})
    now = GatewayCounts.of(
        {
            "totals": {
                "sessions": 17,
                "attached": 13,
                "moved": 12,
                "detached": 9,
                "attach-ended": 4,
                "address-update-unchecked": 2,
            },
            "reasons": {
                "detached": {"x": 1, "by the gateway: no response": 9},
                "attach-ended": {"by the gateway: KE of group 2, group 14 was asked for": 4},
                "address-update-unchecked": {"a newer move came before the check was answered": 2},
            },
        }
    )
    assert differences(figures, now.since(before)) == [
        "The UEs count 8 attaches, the gateway 9: of the UEs' attaches success 8, no response 2.",
        "The UEs count 5 moves, the gateway 3: a new address was not checked at all 2 times "
        "(a newer move came before the check was answered 2).",
        "The UEs count 0 detaches, the gateway 9: the gateway's sessions ended so: by the gateway: no response 9.",
        "The gateway began 13 sessions for 9 attaches: 4 ended before "
        "(by the gateway: KE of group 2, group 14 was asked for 4).",
        "0 IKE messages and 3 ESP packets came on accesses that their UEs had left, and were not heard.",
    ]
    assert GatewayCounts.of(None) == GatewayCounts()
