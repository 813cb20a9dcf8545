"""The evidence of one session, asked of the running nodes over their control sockets and written as one archive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from protocols.errors import BackendError, DecodeError
from protocols.io.control import ControlClient, ControlError
from protocols.trace.bundle import bundle, zipped
from protocols.trace.explanation.catalogue import explain
from protocols.trace.jsonl import in_order
from protocols.trace.records import JsonValue, TraceRecord
from protocols.trace.selection import records_of

ANSWER_INTERVAL = 60.0  # seconds for all that a node has kept


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one node has told: ``configuration`` is ``None`` where it has no such method."""

    name: str
    kind: str
    records: tuple[TraceRecord, ...]
    configuration: JsonValue


def write_evidence(session: str, gateway: Path, others: Sequence[Path], output: Path) -> tuple[str, ...]:
    """Ask the gateway and the other nodes, write the archive for its owner alone; the names of the files in it.

    ``ControlError`` when the gateway knows no such session, ``BackendError`` for nodes that do not answer and a file
    that cannot be written.
    """
    try:
        files, wall = asyncio.run(_collect(session, gateway, others))
    except TimeoutError:
        raise BackendError(f"the nodes have not given their records within {ANSWER_INTERVAL:g} s") from None
    octets = zipped(files, directory=f"evidence-{session}", wall=wall)
    try:
        with open(output, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            os.fchmod(file.fileno(), 0o600)  # it may have been there before
            file.write(octets)
    except OSError as problem:
        raise BackendError(f"{output} cannot be written: {problem.strerror or problem}") from None
    return tuple(files)


async def _collect(session: str, gateway: Path, others: Sequence[Path]) -> tuple[dict[str, bytes], float]:
    async with asyncio.timeout(ANSWER_INTERVAL):
        described = _object(gateway, await ControlClient(gateway).call("sessions.get", id=session))
        told = [await _ask(path) for path in (gateway, *others)]
    nodes = _apart(told)
    kinds = {node.name: node.kind for node in nodes}
    records = records_of(in_order(record for node in nodes for record in node.records), described)
    files = bundle(
        records,
        kinds=kinds,
        session=described,
        findings=explain(records, kinds),
        configurations={node.name: node.configuration for node in nodes if node.configuration is not None},
        with_keys=True,  # of nodes that export them: others have no key records
    )
    return files, records[-1].wall if records else 0.0


async def _ask(path: Path) -> Told:
    client = ControlClient(path)
    status = _object(path, await client.call("node.status"))
    configuration: JsonValue = None
    try:
        configuration = await client.call("node.configuration")
    except ControlError as error:
        if error.code != "unknown-method":
            raise
    records = tuple(await client.kept())
    return Told(
        name=str(status.get("node")), kind=str(status.get("kind")), records=records, configuration=configuration
    )


def _object(path: Path, answer: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(answer, dict):
        raise DecodeError(f"{path}: what listens there is no node")
    return answer


def _apart(told: Sequence[Told]) -> list[Told]:
    """Nodes of one name by a number: records are told apart by their node."""
    taken: dict[str, int] = {}
    nodes = []
    for node in told:
        number = taken[node.name] = taken.get(node.name, 0) + 1
        name = node.name if number == 1 else f"{node.name}-{number}"
        nodes.append(replace(node, name=name, records=tuple(replace(record, node=name) for record in node.records)))
    return nodes
