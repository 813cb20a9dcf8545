"""A PDN connection that is to stay: attached again after failure and loss, at the pace of ``ue.retry``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from protocols.errors import StackError
from ue.pdn import Pdn
from ue.retry import Retries

_log = logging.getLogger(__name__)


async def stay_attached(pdn: Pdn, now: Callable[[], float]) -> None:
    """For ever. Whoever detaches the UE, or attaches it when it would not by itself, has the word until it is lost."""
    retries = Retries(pdn.configuration.retry.policy())
    again = False
    while True:
        try:
            await pdn.attach(again=again)
        except StackError as error:
            _log.error("%s", error)
        await pdn.idle.wait()
        again = True
        while (interval := _interval(pdn, retries, now())) is None:
            await pdn.busy.wait()
            await pdn.idle.wait()
        await asyncio.sleep(interval)
        await pdn.idle.wait()


def _interval(pdn: Pdn, retries: Retries, moment: float) -> float | None:
    """Seconds until the next attach; ``None``: it is for somebody else to ask for one."""
    connection = pdn.device.connection
    attached = connection is not None and connection.established is not None
    if attached:
        retries.attached()
    if connection is not None and connection.detach_requested:
        return None
    following = retries.failed(
        None if connection is None or attached else connection.cause,
        moment,
        for_good=connection is not None and connection.for_good and not attached,
        back_off=pdn.device.back_off,
    )
    if following.never:
        text = f"The UE does not attach again by itself: {following.why}."
        _log.info("%s", text)
        pdn.recorder.event("no-retry", text, {"why": following.why})
        return None
    interval = max(0.0, following.at - moment)
    text = f"The UE attaches again in {round(interval, 1):g} s: {following.why}."
    _log.info("%s", text)
    pdn.recorder.event("retry", text, {"seconds": round(interval, 3), "why": following.why})
    return interval
