"""Bundles of evidence, the files that ``epdg evidence`` writes: made in a thread, of what the nodes are asked then.

The rings of the dashboard have neither datagrams nor keys, and keys stay in the nodes unless they are wanted. Few
bundles are made at a time: each takes all that the nodes have kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from dashboards.problems import Problem
from protocols.trace.records import JsonValue

AT_ONCE = 2
RETRY_INTERVAL = 5  # seconds


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
    from dashboards.bundling import archive  # here: codecs and drawings are a fifth of the dashboard's start

    return archive(session, witnesses, directory=directory, with_keys=with_keys)
