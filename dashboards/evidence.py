"""Bundles of evidence, the files that ``epdg evidence`` writes: made in a thread, of what the nodes are asked then.

The rings of the dashboard have neither datagrams nor keys, and keys stay in the nodes unless they are wanted. Few
bundles are made at a time: each takes all that the nodes have kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from dashboards.problems import Problem
from protocols.errors import StackError
from protocols.io.testimony import Told, ask, evidence_of
from protocols.trace.bundle import zipped
from protocols.trace.records import JsonValue

AT_ONCE = 2
RETRY_INTERVAL = 5  # seconds

logger = logging.getLogger("dashboards")


@dataclass(frozen=True, slots=True)
class Witness:
    """A node to be asked; ``needed``: without it there is no bundle."""

    name: str
    control: Path
    needed: bool


class Evidence:
    """Makes bundles, no more than ``AT_ONCE`` at a time."""

    def __init__(self) -> None:
        self._running = 0

    async def archive(
        self, session: Mapping[str, JsonValue], witnesses: Sequence[Witness], *, directory: str, with_keys: bool
    ) -> bytes:
        """The archive of one session (``Problem`` 503 while others are being made); it goes on when nobody waits."""
        if self._running >= AT_ONCE:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "busy",
                "Other bundles of evidence are being made; try again in a few seconds.",
                headers={"Retry-After": str(RETRY_INTERVAL)},
            )
        self._running += 1
        making = asyncio.ensure_future(
            asyncio.to_thread(_archive, session, witnesses, directory=directory, with_keys=with_keys)
        )
        making.add_done_callback(self._done)
        return await asyncio.shield(making)

    def _done(self, making: asyncio.Future[bytes]) -> None:
        self._running -= 1
        if not making.cancelled():
            making.exception()  # told to whoever waited


def _archive(
    session: Mapping[str, JsonValue], witnesses: Sequence[Witness], *, directory: str, with_keys: bool
) -> bytes:
    told, absent = asyncio.run(_asked(witnesses, with_keys=with_keys))
    if with_keys and not any(node.exports_keys for node in told):
        raise Problem(
            HTTPStatus.CONFLICT,
            "keys-not-exported",
            "No node exports keys (trace.export_keys of its configuration): there are none to give.",
        )
    files, wall = evidence_of(session, told, with_keys=with_keys, absent=absent)
    return zipped(files, directory=directory, wall=wall)


async def _asked(witnesses: Sequence[Witness], *, with_keys: bool) -> tuple[list[Told], list[str]]:
    told, absent = [], []
    for witness in witnesses:
        try:
            told.append(await ask(witness.control, witness.name, with_keys=with_keys))
        except (StackError, TimeoutError) as error:
            if witness.needed:
                raise Problem(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "node-unreachable",
                    f"{witness.name} has not given its records ({error or 'too late'}).",
                    headers={"Retry-After": str(RETRY_INTERVAL)},
                    node=witness.name,
                ) from None
            logger.info("no evidence of %s: %s", witness.name, error or "too late")
            absent.append(witness.name)
    return told, absent
