"""What running nodes tell of one session over their control sockets, and the evidence made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from protocols.errors import DecodeError
from protocols.io.control import ControlClient, ControlError
from protocols.trace.bundle import bundle
from protocols.trace.explanation.catalogue import explain
from protocols.trace.jsonl import in_order
from protocols.trace.records import JsonValue, Kind, TraceRecord
from protocols.trace.selection import records_of

ANSWER_INTERVAL = 60.0  # seconds for all that a node has kept
WITHOUT_KEYS = tuple(kind for kind in Kind if kind is not Kind.KEYS)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one node has told: ``configuration`` is ``None`` where it has no such method."""

    name: str
    kind: str
    records: tuple[TraceRecord, ...]
    configuration: JsonValue

    @property
    def exports_keys(self) -> bool:
        """Whether its records have keys: as its configuration says (``trace.export_keys``), or a record shows."""
        trace = self.configuration.get("trace") if isinstance(self.configuration, dict) else None
        configured = isinstance(trace, dict) and trace.get("export_keys") is True
        return configured or any(record.kind is Kind.KEYS for record in self.records)


async def ask(control: Path, name: str | None = None, *, with_keys: bool) -> Told:
    """All that a node has kept, its keys only where they are asked for; ``name``: what it is called, else its own.

    ``BackendError`` when it does not answer, ``DecodeError`` when what answers is no node, ``TimeoutError``.
    """
    client = ControlClient(control)
    async with asyncio.timeout(ANSWER_INTERVAL):
        status = described(control, await client.call("node.status"))
        configuration: JsonValue = None
        try:
            configuration = await client.call("node.configuration")
        except ControlError as error:
            if error.code != "unknown-method":
                raise
        records = await client.kept(None if with_keys else WITHOUT_KEYS)
    told = Told(
        name=str(status.get("node")), kind=str(status.get("kind")), records=tuple(records), configuration=configuration
    )
    return told if name is None else _called(told, name)


def described(control: Path, answer: JsonValue) -> dict[str, JsonValue]:
    """An answer that is an object; ``DecodeError``."""
    if not isinstance(answer, dict):
        raise DecodeError(f"{control}: what listens there is no node")
    return answer


def apart(told: Iterable[Told]) -> list[Told]:
    """Nodes of one name by a number: records are told apart by their node."""
    taken: dict[str, int] = {}
    nodes = []
    for node in told:
        number = taken[node.name] = taken.get(node.name, 0) + 1
        nodes.append(node if number == 1 else _called(node, f"{node.name}-{number}"))
    return nodes


def evidence_of(
    session: Mapping[str, JsonValue], nodes: Sequence[Told], *, with_keys: bool, absent: Sequence[str] = ()
) -> tuple[dict[str, bytes], float]:
    """The files of a session's bundle, and the wall clock of its last record.

    ``session``: as its gateway describes it, at least its ``id``; ``absent``: nodes that could not be asked.
    """
    kinds = {node.name: node.kind for node in nodes}
    records = records_of(in_order(record for node in nodes for record in node.records), session)
    files = bundle(
        records,
        kinds=kinds,
        session=session,
        findings=explain(records, kinds),
        configurations={node.name: node.configuration for node in nodes if node.configuration is not None},
        with_keys=with_keys,
        absent=absent,
    )
    return files, records[-1].wall if records else 0.0


def _called(node: Told, name: str) -> Told:
    return replace(node, name=name, records=tuple(replace(record, node=name) for record in node.records))
