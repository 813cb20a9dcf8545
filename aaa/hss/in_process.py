"""The HSS of this process behind the port (``aaa.hss.port``): no Diameter in between, only where configured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from aaa.hss.port import HssListener, SubscriberProfile, VectorRequest
from aaa.hss.procedures import HssProcedures
from aaa.hss.registration import ServingServer
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode, ServerAssignmentType
from protocols.diameter.profile import Non3gppUserData
from protocols.threegpp.identity import Imsi

T = TypeVar("T")


class Bridge:
    """The one thread on which blocking calls run, in order."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aaa-database")

    async def run(self, call: Callable[[], T]) -> T:
        """What ``call`` returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Finish what is running, let go what is queued."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class InProcessHss:
    """Answers of ``HssProcedures`` for the AAA server of this process, ``server``, which judges devices itself.

    It takes over users of other servers: several such processes may share a database, and one may get another
    name. Who is asked for by whom is settled where the HSS is one for all of them, on SWx.
    """

    def __init__(self, procedures: HssProcedures, bridge: Bridge, *, server: ServingServer) -> None:
        self._procedures = procedures
        self._bridge = bridge
        self._server = server

    async def authentication_vector(self, request: VectorRequest) -> AkaVector:
        """A fresh vector."""
        taking_over = replace(request, replaces_failed_server=True)
        (vector,) = await self._bridge.run(lambda: self._procedures.authenticate(taking_over, server=self._server))
        return vector

    async def register(self, imsi: Imsi, *, imei: str | None = None) -> SubscriberProfile:
        """This server serves the user; the profile."""
        return await self._bridge.run(lambda: self._procedures.register(imsi, server=self._server))

    async def user_data(self, imsi: Imsi, *, imei: str | None = None) -> SubscriberProfile:
        """The profile of a user who is registered here."""
        return await self._bridge.run(lambda: self._procedures.user_data(imsi, server=self._server))

    async def deregister(self, imsi: Imsi, why: ServerAssignmentType) -> None:
        """This server has no session of the user any more."""
        await self._bridge.run(lambda: self._procedures.deregister(imsi, server=self._server))

    async def update_pgw(self, imsi: Imsi, apn: str, pgw: str | None) -> None:
        """The PDN gateway that serves ``apn``."""
        await self._bridge.run(lambda: self._procedures.update_pgw(imsi, apn, pgw, server=self._server))


class InProcessPush:
    """What the HSS of this process says on its own to the AAA server of this process."""

    def __init__(self, listener: HssListener) -> None:
        self._listener = listener

    async def terminate_registration(self, server: ServingServer, imsi: Imsi, reason: int, text: str) -> Result:
        """The HSS ended the registration."""
        return known(self._listener.deregistered(imsi, reason, text))

    async def push_profile(self, server: ServingServer, imsi: Imsi, profile: Non3gppUserData) -> Result:
        """Another profile holds from now on."""
        return known(self._listener.profile_changed(imsi, SubscriberProfile(imsi=imsi, user_data=profile)))


def known(is_known: bool) -> Result:
    """TS 29.273 §8.1.2.2.3, §8.1.2.3: success, or the user is unknown here."""
    return Result.of(ResultCode.DIAMETER_SUCCESS if is_known else ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)
