"""A PDN connection that is to stay: attached again after failure and loss, at the pace of ``ue.retry``."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from protocols.errors import StackError
from ue.pdn import Pdn
from ue.retry import Retries

_log = logging.getLogger(__name__)


class Pace:
    """When a PDN connection is attached again; whatever decides where to."""

    def __init__(self, pdn: Pdn) -> None:
        self.pdn = pdn
        self._retries = Retries(pdn.configuration.retry.policy())

    def next(self, now: float, *, elsewhere: bool = False) -> float | None:
        """After a failure or a loss: the moment; ``None``: it is for somebody else to ask for an attach.

        ``elsewhere``: an attach without an answer is tried at once where the UE has not tried, as far as the network
        has not asked to be left alone.
        """
        pdn = self.pdn
        connection = pdn.device.connection
        attached = connection is not None and connection.established is not None
        if attached:
            self._retries.attached()
        if connection is not None and connection.detach_requested:
            return None
        following = self._retries.failed(
            None if connection is None or attached else connection.cause,
            now,
            for_good=connection is not None and connection.for_good and not attached,
            back_off=pdn.device.back_off,
        )
        if following.never:
            text = f"The UE does not attach again by itself: {following.why}."
            _log.info("%s", text)
            pdn.recorder.event("no-retry", text, {"why": following.why})
            return None
        back_off = pdn.device.back_off
        if elsewhere and (back_off is None or back_off.until <= now):
            return now
        interval = max(0.0, following.at - now)
        text = f"The UE attaches again in {round(interval, 1):g} s: {following.why}."
        _log.info("%s", text)
        pdn.recorder.event("retry", text, {"seconds": round(interval, 3), "why": following.why})
        return now + interval


async def stay_attached(pdn: Pdn, now: Callable[[], float], tried: asyncio.Event) -> None:
    """For ever. Whoever detaches the UE, or attaches it when it would not by itself, has the word until it is lost.

    ``tried`` is set when the first attempt is over.
    """
    pace = Pace(pdn)
    again = False
    while True:
        try:
            await pdn.attach(again=again)
        except StackError as error:
            _log.error("%s", error)
        tried.set()
        await pdn.idle.wait()
        again = True
        while (at := pace.next(now())) is None:
            await pdn.busy.wait()
            await pdn.idle.wait()
        await asyncio.sleep(max(0.0, at - now()))
        await pdn.idle.wait()


class Due:
    """A PDN connection under connection management: ``at`` is when it may be attached, infinite: not by itself."""

    def __init__(self, pdn: Pdn) -> None:
        self.pdn = pdn
        self.at = -math.inf
        self._pace = Pace(pdn)

    def attached(self) -> None:
        """Whoever has asked for it: from now on it stays."""
        self.at = -math.inf

    def failed(self, now: float, *, elsewhere: bool = False) -> None:
        """An attach has failed, or the connection is lost; ``elsewhere``: see ``Pace.next``."""
        at = self._pace.next(now, elsewhere=elsewhere)
        self.at = math.inf if at is None else at
