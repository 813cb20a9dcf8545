"""What the HSS says on its own (TS 29.273 §8.1.2.2.3, §8.1.2.3): RTR and PPR to the AAA servers of users.

``HssPush`` does it when it is told to, and finds out by itself what others change in the database: it
compares what every AAA server was told of its users with what the database says, page by page, every
``poll_interval``. So a subscriber removed or changed by a command of another process is noticed within that
time, or later where there are thousands of users: looking takes a tenth of the time at most. What cannot be
delivered is tried again by the next look.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import Protocol

from aaa.hss.in_process import Bridge
from aaa.hss.profile import user_data
from aaa.hss.registration import WITHOUT_SUBSCRIPTION, Registration, RegistrationStore, ServingServer, digest
from aaa.subscribers.subscriber import Subscriber
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ReasonCode, ResultCode
from protocols.diameter.profile import Non3gppUserData
from protocols.errors import BackendError, LocalError
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder

_log = logging.getLogger(__name__)

PAGE = 200  # registrations looked at in one turn of the database's thread
REST = 9.0  # times as long as a page has taken, so that thousands of users do not keep those who attach waiting
REST_MAXIMUM = 1.0  # seconds: what takes longer has waited for a server
_SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
_UNKNOWN = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)
REMOVED = "the subscription has ended"


class NotRegistered(LocalError):
    """No AAA server serves the user."""


class Subscribers(Protocol):
    """What is looked up of ``SubscriberDatabase``."""

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``, if provisioned."""

    def get_many(self, imsis: tuple[Imsi, ...]) -> dict[Imsi, Subscriber]:
        """Those of them that are provisioned."""


class AaaServers(Protocol):
    """How AAA servers are reached; ``BackendError`` when one does not answer."""

    async def terminate_registration(self, server: ServingServer, imsi: Imsi, reason: int, text: str) -> Result:
        """RTR."""

    async def push_profile(self, server: ServingServer, imsi: Imsi, profile: Non3gppUserData) -> Result:
        """PPR."""


class HssPush:
    """RTR and PPR for the users in ``registrations``."""

    def __init__(
        self,
        subscribers: Subscribers,
        registrations: RegistrationStore,
        bridge: Bridge,
        servers: AaaServers,
        recorder: Recorder,
    ) -> None:
        self._subscribers = subscribers
        self._registrations = registrations
        self._bridge = bridge
        self._servers = servers
        self._recorder = recorder
        self._undelivered: set[Imsi] = set()

    async def deregister(
        self,
        imsi: Imsi,
        text: str = REMOVED,
        *,
        reason: int = ReasonCode.PERMANENT_TERMINATION,
        force: bool = False,
    ) -> Result:
        """End the user's registration (RTR); ``NotRegistered``, ``BackendError`` when its server does not answer.

        With ``force`` the registration goes all the same: its server may be gone for good.
        """
        registration = await self._registered(imsi)
        try:
            return await self._terminate(imsi, registration, reason, text)
        except BackendError:
            if force:
                await self._store_if_unchanged(imsi, registration, None)
            raise

    async def profile_changed(self, imsi: Imsi) -> Result:
        """Push the profile as it is now (PPR); ``NotRegistered``, ``BackendError`` as above."""
        registration = await self._registered(imsi)
        subscriber = await self._bridge.run(lambda: self._subscribers.get(imsi))
        if subscriber is None or _has_ended(subscriber, registration):
            return await self._terminate(imsi, registration, ReasonCode.PERMANENT_TERMINATION, REMOVED)
        return await self._push(imsi, registration, user_data(subscriber, registration.pgws))

    async def look(self) -> None:
        """Tell what has changed since it was told; ``BackendError`` only of the database."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        after: Imsi | None = None
        while page := await self._bridge.run(partial(self._registrations.page, after=after, limit=PAGE)):
            after = page[-1][0]
            imsis = tuple(imsi for imsi, _ in page)
            found = await self._bridge.run(partial(self._subscribers.get_many, imsis))
            for imsi, registration in page:
                try:
                    await self._compare(imsi, registration, found.get(imsi))
                    self._undelivered.discard(imsi)
                except BackendError as error:
                    level = logging.DEBUG if imsi in self._undelivered else logging.WARNING
                    _log.log(level, "subscriber %s: %s; it is tried again", imsi, error)
                    self._undelivered.add(imsi)
            if len(page) == PAGE:
                await asyncio.sleep(min(REST * (loop.time() - began), REST_MAXIMUM))
            began = loop.time()

    async def watch(self, interval: float) -> None:
        """Look every ``interval`` seconds until cancelled."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.look()
            except BackendError as error:
                _log.warning("changes cannot be looked for: %s", error)

    async def _compare(self, imsi: Imsi, registration: Registration, subscriber: Subscriber | None) -> None:
        if subscriber is None or _has_ended(subscriber, registration):
            await self._terminate(imsi, registration, ReasonCode.PERMANENT_TERMINATION, REMOVED)
            return
        if not subscriber.non_3gpp_allowed:
            return
        profile = user_data(subscriber, registration.pgws)
        if digest(profile) != registration.profile:
            await self._push(imsi, registration, profile)

    async def _terminate(self, imsi: Imsi, registration: Registration, reason: int, text: str) -> Result:
        server = registration.server
        result = await self._servers.terminate_registration(server, imsi, reason, text)
        self._recorder.event(
            "registration-terminated",
            f"The HSS ended the registration of subscriber {imsi} at {server.host}: {text}.",
            {"imsi": str(imsi), "server": server.host, "result": str(result)},
            str(imsi),
        )
        if result in (_SUCCESS, _UNKNOWN):
            await self._store_if_unchanged(imsi, registration, None)
        return result

    async def _push(self, imsi: Imsi, registration: Registration, profile: Non3gppUserData) -> Result:
        server = registration.server
        result = await self._servers.push_profile(server, imsi, profile)
        self._recorder.event(
            "profile-pushed",
            f"The HSS told {server.host} of the changed profile of subscriber {imsi}.",
            {"imsi": str(imsi), "server": server.host, "result": str(result)},
            str(imsi),
        )
        if result == _SUCCESS:
            await self._store_if_unchanged(imsi, registration, replace(registration, profile=digest(profile)))
        elif result == _UNKNOWN:  # it has no session of the user any more, and could not say so
            await self._store_if_unchanged(imsi, registration, None)
        return result

    async def _registered(self, imsi: Imsi) -> Registration:
        registration = await self._bridge.run(lambda: self._registrations.registration(imsi))
        if registration is None:
            raise NotRegistered(f"no server serves subscriber {imsi}")
        return registration

    async def _store_if_unchanged(self, imsi: Imsi, old: Registration, new: Registration | None) -> None:
        """On the database's thread, so that nothing comes between: a server may have registered the user anew."""

        def store() -> None:
            if self._registrations.registration(imsi) == old:
                self._registrations.store_registration(imsi, new)

        await self._bridge.run(store)


def _has_ended(subscriber: Subscriber, registration: Registration) -> bool:
    """Whether the user was registered with a subscription to non-3GPP access and has none any more."""
    return not subscriber.non_3gpp_allowed and registration.profile != WITHOUT_SUBSCRIPTION
