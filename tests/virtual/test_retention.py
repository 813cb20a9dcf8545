"""What nodes say of their trace: how much is kept of at most how much, and since when."""

from __future__ import annotations

from lab.virtual.nodes import VirtualControl
from lab.virtual.world import VirtualWorld, run
from protocols.trace.records import JsonValue

RING = 120  # fewer records than an attach, a move and ten echo requests make


def test_every_node_shows_its_ring() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach", access="wifi-a")
        for control in (world.ue, world.epdg, world.aaa):
            trace = await shown(control)
            kept = control.trace
            assert (trace["enabled"], trace["ring"], trace["records"]) == (True, RING, len(kept))
            assert trace["oldest"] == kept[0].wall
        for _ in range(4):
            await world.ue.call("ue.move", to="wifi-b")
            await world.advance(1)
            await world.ue.call("ue.move", to="wifi-a")
            await world.advance(1)
            await world.ue.call("ue.detach")
            await world.ue.call("ue.attach", access="wifi-a")
        for control in (world.ue, world.epdg, world.aaa):
            trace = await shown(control)
            oldest = trace["oldest"]
            assert trace["records"] == RING
            assert isinstance(oldest, float)
            assert oldest > control.trace[0].wall  # the test has more: the beginning is gone from the node

    async def shown(control: VirtualControl) -> dict[str, JsonValue]:
        status = await control.call("node.status")
        assert isinstance(status, dict)
        trace = status["trace"]
        assert isinstance(trace, dict)
        return trace

    small: dict[str, JsonValue] = {"trace": {"ring": RING}}
    run(story, changes={"ue": small, "epdg": small, "aaa": small})
