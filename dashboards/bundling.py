"""What the nodes are asked for a bundle of evidence, and the archive made of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from dashboards.evidence import RETRY_INTERVAL, Witness
from dashboards.problems import Problem
from protocols.errors import StackError
from protocols.io.testimony import Told, ask, evidence_of
from protocols.trace.bundle import zipped
from protocols.trace.records import JsonValue

logger = logging.getLogger("dashboards")


def archive(
    session: Mapping[str, JsonValue], witnesses: Sequence[Witness], *, directory: str, with_keys: bool
) -> bytes:
    """The archive of one session, made in the calling thread; ``Problem``."""
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
