"""What a world on virtual time says of why something failed: a story is told, and its records are explained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from lab.configurations import Changes
from lab.virtual.nodes import VirtualControl
from lab.virtual.world import VirtualWorld, run
from protocols.entropy import SeededEntropy
from protocols.io.platform import Platform
from protocols.secret import Secret
from protocols.trace.explanation.catalogue import explain
from protocols.trace.explanation.cause import Finding
from protocols.trace.records import JsonValue, Kind
from tests.harness.explanations import NODES, Deed, attach, records, selections
from ue.runtime import UeNode

ANOTHER = "001010000000002"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A story with its configuration; ``finding``: the causes that are found and their sentences, oldest first."""

    finding: tuple[tuple[str, str], ...]
    told: Deed = attach
    changes: Mapping[str, Changes] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)


def findings(world: VirtualWorld) -> tuple[Finding, ...]:
    """Of all records; found in what the dashboard selects too, and each node's alone make sense as well."""
    nodes = [[record for record in records(world, node) if record.session is not None] for node in NODES]
    for own in nodes:
        for found in (explain(own), explain(record for record in own if record.kind is Kind.EVENT)):
            assert "None" not in " ".join(finding.sentence for finding in found)
    found = explain(record for own in nodes for record in own)
    selected = {finding.cause.name for session in selections(world) for finding in explain(session)}
    assert {finding.cause.name for finding in found} <= selected
    return found


def explained(case: Case) -> tuple[tuple[str, str], ...]:
    """Names and sentences of what is found while the story is told; the world's own end is no part of it."""

    async def story(world: VirtualWorld) -> tuple[Finding, ...]:
        await case.told(world)
        return findings(world)

    found = run(story, changes=case.changes, **case.world)
    for finding in found:
        assert finding.evidence
        assert finding.cause.clause
        assert finding.cause.advice.endswith(".")
        assert finding.sentence.endswith(".")
        assert "None" not in finding.sentence
    return tuple((finding.cause.name, finding.sentence) for finding in found)


async def of_gateway(world: VirtualWorld, method: str, **params: JsonValue) -> None:
    """A control method of the gateway for its only session."""
    (live,) = world.epdg_node.sessions.live.values()
    await world.epdg.call(method, id=live.session.identifier, **params)


@asynccontextmanager
async def another_ue(world: VirtualWorld, access: str = "wifi-b") -> AsyncIterator[VirtualControl]:
    """A UE of another subscriber on an access that the first one is not on; attached."""
    subscriber = await world.aaa.call("subscribers.get", imsi=ANOTHER, secrets=True)
    assert isinstance(subscriber, dict)
    first = world.ue_node.configuration
    assert first.usim is not None
    keys = {name: Secret(bytes.fromhex(str(subscriber[name]))) for name in ("k", "opc")}
    state = first.control.with_name("ue-2-state")
    configuration = first.model_copy(
        update={
            "node": "ue-2",
            "imsi": ANOTHER,
            "usim": first.usim.model_copy(update=keys),
            "eap": first.eap.model_copy(update={"state": None}),
            "accesses": {access: first.accesses[access]},
            "state": state,
        }
    )
    control = VirtualControl("ue-2")
    platform = Platform(
        clock=world.clock,
        entropy=SeededEntropy(f"{world.seed}/ue-2"),
        open_link=world.network.open_link,
        open_raw_esp=None,
        control=control.serve,
        bind_stream=world.streams.listen,
        resolver=world.names.open,
    )
    node = UeNode(configuration, platform)
    running = asyncio.create_task(node.run())
    await control.ready.wait()
    await control.call("ue.attach")
    try:
        yield control
    finally:
        node.stop()
        await running
