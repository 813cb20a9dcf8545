"""The evidence of one session, asked of the running nodes over their control sockets and written as one archive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from protocols.errors import BackendError
from protocols.io.control import ControlClient
from protocols.io.testimony import ANSWER_INTERVAL, apart, ask, described, evidence_of
from protocols.trace.bundle import zipped


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
    view = described(gateway, await ControlClient(gateway).call("sessions.get", id=session))
    nodes = apart([await ask(path, with_keys=True) for path in (gateway, *others)])
    return evidence_of(view, nodes, with_keys=True)  # of nodes that export them: others have no key records
