"""A PDN connection that is to stay: attached again after failure and loss, at the pace of ``ue.retry``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from protocols.errors import StackError
from ue.pdn import Pdn
from ue.retry import Retries

_log = logging.getLogger(__name__)


async def stay_attached(pdn: Pdn, now: Callable[[], float], stopped: Callable[[], Awaitable[None]]) -> None:
    """Until ``stopped``, or somebody detaches, or there is nobody left to ask before the UE is switched off and on."""
    retries = Retries(pdn.configuration.retry.policy())
    again = False
    while True:
        try:
            await pdn.attach(again=again)
            retries.attached()
        except StackError as error:
            _log.error("%s", error)
        await pdn.idle.wait()
        connection, again = pdn.device.connection, True
        if connection is not None and connection.detach_requested:
            await stopped()  # somebody detached the UE: it stays so until it is told otherwise
            return
        attached = connection is not None and connection.established is not None
        cause = None if connection is None or attached else connection.cause
        for_good = connection is not None and connection.for_good and not attached
        following = retries.failed(cause, now(), for_good=for_good, back_off=pdn.device.back_off)
        if following.never:
            text = f"The UE does not attach again by itself: {following.why}."
            _log.info("%s", text)
            pdn.recorder.event("no-retry", text, {"why": following.why})
            await stopped()
            return
        interval = max(0.0, following.at - now())
        text = f"The UE attaches again in {interval:g} s: {following.why}."
        _log.info("%s", text)
        pdn.recorder.event("retry", text, {"seconds": round(interval, 3), "why": following.why})
        await asyncio.sleep(interval)
        await pdn.idle.wait()
