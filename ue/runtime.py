"""The UE in a process: USIM, SWu, PDN connections, control socket, recorder."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Awaitable, Callable

from protocols.errors import BackendError, StackError
from protocols.io.algorithms import weakness
from protocols.io.control import ControlError
from protocols.io.platform import Platform
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue.config import UeConfiguration
from ue.connection import Move
from ue.control import control_methods
from ue.device import DeviceState
from ue.pdn import Pdn
from ue.profile import (
    software_usim,
    state_directory,
    temporary_identity_store,
)
from ue.staying import stay_attached
from ue.swu import Swu

KIND = "ue"
DISTRIBUTION = "epdg-emulator"
DETACH_INTERVAL = 2.0  # for the gateway to answer DELETE when the UE stops

_log = logging.getLogger(__name__)


class UeNode:
    """One UE; ``run`` serves until ``stop`` or until the work it was given is done."""

    def __init__(self, configuration: UeConfiguration, platform: Platform | None = None) -> None:
        platform = platform or Platform()
        self.configuration = configuration
        clock = platform.clock
        self.wall_offset = clock.wall() - clock.monotonic()
        try:
            state_directory(configuration).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise BackendError(f"state directory {state_directory(configuration)}: {error.strerror}") from error
        self.recorder = Recorder(
            configuration.node,
            monotonic=clock.monotonic,
            wall=clock.wall,
            export_keys=configuration.trace.export_keys,
            ring=configuration.trace.ring,
            enabled=configuration.trace.enabled,
        )
        self._swu = Swu(configuration.accesses, platform=platform, recorder=self.recorder, dscp=configuration.ike.dscp)
        default = Pdn(
            configuration,
            swu=self._swu,
            platform=platform,
            recorder=self.recorder,
            usim=software_usim(configuration),
            temporary=temporary_identity_store(configuration),
            failed=self.stop,
        )
        self.pdns: dict[str, Pdn] = {default.name: default}
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._control = platform.control(configuration.control, control_methods(self), self.recorder)

    def pdn(self, name: str | None = None) -> Pdn:
        """A PDN connection by its APN, without one the default; ``ControlError`` when there is none."""
        found = next(iter(self.pdns.values())) if name is None else self.pdns.get(name)
        if found is None:
            raise ControlError("not-found", f"there is no PDN connection {name}; known are {', '.join(self.pdns)}")
        return found

    # --- life

    async def run(self, work: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve the control socket and do ``work``; without any until ``stop``. Detaches at the end."""
        failure: StackError | None = None
        watching: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                self._swu.open(tasks)
                try:
                    await self._control.start()
                    if self.configuration.silence_interval is not None:
                        interval = self.configuration.silence_interval
                        watching = [tasks.create_task(pdn.watch_silence(interval)) for pdn in self.pdns.values()]
                    self.recorder.event("started", f"The UE {self.configuration.imsi} is ready.")
                    self._warn_of_weak_algorithms()
                    await self._until_stopped(work or self._stopping.wait)
                except StackError as error:
                    failure = error  # raised inside the group it would leave as an ExceptionGroup
                finally:
                    await self._leave()
                    for watch in watching:
                        watch.cancel()
        finally:
            await self._close()
        if failure is not None:
            raise failure

    def _warn_of_weak_algorithms(self) -> None:
        config = self.pdn().ike_config
        warning = weakness({"algorithms.ike": config.ike_policy, "algorithms.esp": config.esp_policy})
        if warning is not None:
            _log.warning("%s", warning)
            self.recorder.event("weak-algorithms", warning)

    def stop(self) -> None:
        """End ``run``: the gateway is told and may answer; a second call does not wait for that."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def stopped(self) -> None:
        """Return when the node is told to stop."""
        await self._stopping.wait()

    async def stay_attached(self) -> None:
        """Attach, and try again after a while when that fails or the connection is lost."""
        await stay_attached(self.pdn(), self._swu.now, self.stopped)

    async def _until_stopped(self, work: Callable[[], Awaitable[object]]) -> None:
        async def done() -> None:
            await work()

        working = asyncio.ensure_future(done())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (working, stopping):
                each.cancel()
            await asyncio.wait((working, stopping))
        if not working.cancelled():
            working.result()

    async def _leave(self) -> None:
        """DELETE to the gateway, a bounded wait for its answer."""
        for pdn in self.pdns.values():
            pdn.leave()
        waits = [asyncio.ensure_future(self._idle()), asyncio.ensure_future(self._hurry.wait())]
        try:
            await asyncio.wait(waits, timeout=DETACH_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for pdn in self.pdns.values():
            pdn.close()

    async def _idle(self) -> None:
        for pdn in self.pdns.values():
            await pdn.idle.wait()

    async def _close(self) -> None:
        for pdn in self.pdns.values():
            pdn.stop_host()
        self._swu.close()
        await self._control.close()

    # --- what a person asks for

    async def attach(self, access: str | None = None, *, force: bool = False) -> None:
        """Attach on an access, named or by its address; see ``Pdn.attach``."""
        await self.pdn().attach(None if access is None else self.access_name(access), force=force)

    async def move(self, to: str, *, keep_old: bool = False) -> Move:
        """Move to an access, named or by its address; see ``Pdn.move``."""
        return await self.pdn().move(self.access_name(to), keep_old=keep_old)

    async def detach(self) -> None:
        """Detach; see ``Pdn.detach``."""
        await self.pdn().detach()

    def suspend(self) -> None:
        """Leave every access; see ``Pdn.suspend``."""
        self.pdn().suspend()

    def access_name(self, text: str) -> str:
        """An access by name or by address."""
        name = self.configuration.access_named(text)
        if name is None:
            known = ", ".join(self.configuration.accesses)
            raise ControlError("not-found", f"there is no access {text}; known are {known}")
        return name

    def wall(self, moment: float) -> float:
        """The wall clock at a moment of the monotonic one."""
        return moment + self.wall_offset

    # --- views

    def status(self) -> dict[str, JsonValue]:
        """The node's health."""
        return {
            "node": self.configuration.node,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self.recorder.started,
            "imsi": self.configuration.imsi,
            "state": self.pdn().device.state.value,
            "listen": [str(endpoint) for endpoint in self._swu.ports.local_endpoints],
            "sessions": sum(pdn.device.state is DeviceState.ESTABLISHED for pdn in self.pdns.values()),
            "accesses": {
                name: {
                    "address": str(access.address),
                    "next_hop": None if access.next_hop is None else str(access.next_hop),
                    "hears": access.hears,
                    "open": any(name in pdn.device.open_accesses for pdn in self.pdns.values()),
                }
                for name, access in self.configuration.accesses.items()
            },
            "dropped": {
                "ike": dict(sum((pdn.dropped_ike() for pdn in self.pdns.values()), self._swu.endpoint.dropped)),
                "swu": dict(self._swu.ports.dropped),
                "esp": dict(sum((pdn.esp_drops for pdn in self.pdns.values()), self._swu.dropped)),
            },
        }

    def sessions(self) -> list[dict[str, JsonValue]]:
        """The present or last connection of each PDN."""
        views = (pdn.session() for pdn in self.pdns.values())
        return [view for view in views if view is not None]
