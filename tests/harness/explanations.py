"""Sessions of the real nodes on virtual time that go wrong on purpose, and what the catalogue finds in them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from dashboards.ring import Source, Trace, select
from lab.network.access import AccessNetwork
from lab.virtual.world import VirtualWorld, run
from protocols.errors import StackError
from protocols.trace.explanation.catalogue import CATALOGUE, explain
from protocols.trace.explanation.cause import Finding
from protocols.trace.explanation.story import Story
from protocols.trace.records import JsonValue, TraceRecord

Deed = Callable[[VirtualWorld], Awaitable[None]]
Changes = dict[str, dict[str, JsonValue]]
NODES = ("ue", "epdg", "aaa")
RULES = {"fault-rule", "fault-rule-survived"}  # by which the AAA server of a case goes wrong; they are told as well
AFTERWARDS = 5.0  # seconds in which the nodes come to an end


async def attach(world: VirtualWorld) -> None:
    """Attach; that it fails is the story."""
    with contextlib.suppress(StackError):
        await world.ue.call("ue.attach", access="wifi-a")


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a cause is provoked: ``changes`` of the nodes' configurations, what is done; what its sentence says.

    ``beside``: further causes that show, and ``afterwards`` how long until all is told.
    """

    cause: str
    says: tuple[str, ...]
    changes: Changes = field(default_factory=dict)
    deed: Deed = attach
    beside: tuple[str, ...] = ()
    afterwards: float = AFTERWARDS
    world: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.cause


def records(world: VirtualWorld, *nodes: str) -> list[TraceRecord]:
    """What nodes of a world have recorded, by default all."""
    controls = {"ue": world.ue, "epdg": world.epdg, "aaa": world.aaa}
    return [record for node in nodes or NODES for record in controls[node].trace]


def played(case: Case) -> VirtualWorld:
    """The world of a case when it is over."""

    async def whole(world: VirtualWorld) -> VirtualWorld:
        await case.deed(world)
        await world.advance(case.afterwards)
        return world

    return run(whole, changes=case.changes, **case.world)


def the_finding(found: tuple[Finding, ...], cause: str) -> Finding:
    """The only one of a cause."""
    (finding,) = [each for each in found if each.cause.name == cause]
    return finding


def check(case: Case) -> VirtualWorld:
    """Play a case: the cause is found once, with this sentence, and nothing else is but what is ``beside``.

    It is found among all records, and among those that the dashboard selects for a session.
    """
    world = played(case)
    told = records(world)
    found = explain(told)
    others = {each.cause.name for each in found} - RULES
    assert sorted(others) == sorted({case.cause, *case.beside})
    finding = the_finding(found, case.cause)
    for words in case.says:
        assert words in finding.sentence
    known = {(record.node, record.sequence) for record in told}
    assert finding.evidence
    assert set(finding.evidence) <= known
    assert any(case.cause in {each.cause.name for each in explain(one)} for one in selections(world))
    nothing_in_a_healthy_session(case.cause)
    return world


def selections(world: VirtualWorld) -> list[list[TraceRecord]]:
    """The records that the dashboard selects for each session, by the names that UE and gateway have for it."""
    sources = []
    for node in NODES:
        trace = Trace(node, ring=len(records(world)))
        for record in records(world, node):
            trace.append(record)
        sources.append(Source(node, node, trace))
    names = dict.fromkeys(record.session for record in records(world, "epdg", "ue") if record.session)
    gateway = world.epdg_node.sessions
    views = {**gateway.ended, **{live.session.identifier: gateway.view(live) for live in gateway.live.values()}}
    chosen = [select(sources, name, views.get(name)) for name in names]
    return [[record for _, record in each.records(whole=True)] for each in chosen]


def nothing_in_a_healthy_session(cause: str) -> None:
    """Attach, move, rekey and detach, with all nodes as they come: the cause is not found, nor any other."""
    story = healthy()
    (found,) = [each for each in CATALOGUE if each.name == cause]
    assert list(found.find(story)) == []
    assert explain(story.records) == ()


@functools.cache
def healthy() -> Story:
    """A session without anything wrong."""

    async def deed(world: VirtualWorld) -> VirtualWorld:
        await world.ue.call("ue.attach", access="wifi-a")
        await world.advance(1)
        await world.ue.call("ue.move", to="wifi-b")
        await world.advance(1)
        await world.ue.call("ue.rekey-child")
        await world.advance(1)
        await world.ue.call("ue.rekey-ike")
        await world.advance(1)
        await world.ue.call("ue.detach")
        await world.advance(AFTERWARDS)
        assert await world.leaks() == []
        return world

    story = Story(records(run(deed)))
    assert next(story.events("attached", of="ue"))
    assert next(story.events("moved", of="epdg"))
    assert next(story.events("detached", of="ue"))
    return story


# --- what is done to datagrams

NON_ESP_MARKER = bytes(4)  # RFC 3948 §2.2
IKE_SA_INIT, IKE_AUTH = 34, 35  # RFC 7296 §3.1
RESPONSE = 0x20


def ike(octets: bytes) -> bytes:
    """A datagram's IKE message, empty when it is none."""
    message = octets.removeprefix(NON_ESP_MARKER)
    return message if len(message) >= 28 and message[17] == 0x20 else b""


def is_message(octets: bytes, exchange: int, *, response: bool) -> bool:
    """Whether a datagram is a message of this exchange."""
    message = ike(octets)
    return bool(message) and message[18] == exchange and bool(message[19] & RESPONSE) is response


def with_payload(message: bytes, kind: int, body: bytes, *, critical: bool = False) -> bytes:
    """An unprotected message with one payload more in front."""
    header = bytes([message[16], 0x80 if critical else 0]) + (4 + len(body)).to_bytes(2, "big")
    length = (len(message) + 4 + len(body)).to_bytes(4, "big")
    return message[:16] + bytes([kind]) + message[17:24] + length + header + body + message[28:]


def editing(edit: Callable[[bytes], bytes], *, exchange: int = IKE_SA_INIT, response: bool = False) -> Deed:
    """Attach while somebody on the way changes each such message."""

    async def deed(world: VirtualWorld) -> None:
        def altered(octets: bytes, access: AccessNetwork) -> bytes:
            return edit(octets) if is_message(octets, exchange, response=response) else octets

        world.network.edits.append(altered)
        await attach(world)

    return deed


def losing(lost: Callable[[bytes], bool]) -> Deed:
    """Attach while datagrams get lost."""

    async def deed(world: VirtualWorld) -> None:
        world.network.losses.append(lambda octets, access: lost(octets))
        await attach(world)

    return deed
