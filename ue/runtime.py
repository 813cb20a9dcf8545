"""The UE in a process: USIM, SWu, PDN connections, control socket, recorder."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from protocols.dataplane.choice import carrier_of, choose
from protocols.errors import BackendError, StackError
from protocols.io.algorithms import weakness
from protocols.io.control import ControlError
from protocols.io.netlink import InterfaceWatch
from protocols.io.platform import Platform
from protocols.io.process import process_view
from protocols.io.telemetry import telemetry_of
from protocols.path import Address
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue.commands import Tell
from ue.config import UeConfiguration
from ue.connection import Move
from ue.context import DeviceState
from ue.control import control_methods
from ue.interfaces import InterfaceTriggers
from ue.pdn import Pdn
from ue.profile import (
    data_plane_needs,
    esp_transport_of,
    identified,
    state_directory,
    temporary_identity_store,
    usim,
)
from ue.staying import stay_attached
from ue.steering import Steering
from ue.swu import Swu

KIND = "ue"
DISTRIBUTION = "epdg-emulator"
DETACH_INTERVAL = 2.0  # for the gateway to answer DELETE when the UE stops

_log = logging.getLogger(__name__)


class UeNode:
    """One UE; ``run`` serves until ``stop`` or until the work it was given is done."""

    def __init__(self, configuration: UeConfiguration, platform: Platform | None = None) -> None:
        platform = platform or Platform()
        configuration = identified(configuration)
        needs = data_plane_needs(configuration)
        self.backend = choose(configuration.data_plane.backend, needs)
        carrier = carrier_of(self.backend, needs, platform)
        self._esp_transport = esp_transport_of(configuration, carrier.open_raw)
        configuration = configuration.model_copy(update={"force_encapsulation": self._esp_transport.forced})
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
        self._telemetry = telemetry_of(configuration.telemetry, self.recorder, KIND)
        self._swu = Swu(
            configuration.accesses,
            platform=platform,
            recorder=self.recorder,
            dscp=configuration.ike.dscp,
            carrier=carrier,
            bare_esp=self._esp_transport.open_raw is not None,
        )
        card, temporary = usim(configuration), temporary_identity_store(configuration)

        def pdn(part: UeConfiguration, beside: Pdn | None, has_default_route: bool) -> Pdn:
            return Pdn(
                part,
                swu=self._swu,
                platform=platform,
                recorder=self.recorder,
                usim=card,
                temporary=temporary,
                beside=beside,
                has_default_route=has_default_route,
                told=self._told,
                preferred=self._preferred_access,
            )

        default, alone = pdn(configuration, None, True), configuration.alone
        others = {name: pdn(part, default, name in alone) for name, part in configuration.pdns.items()}
        self.pdns: dict[str, Pdn] = {each.name: each for each in (default, *others.values())}
        self._by_section = others
        management = configuration.management
        self.steering = Steering(
            self,
            self._swu.accesses,
            management.policy(configuration.accesses, self.pdn().ike_config.retransmission),
            automatic=management.automatic,
            now=self._swu.now,
        )
        self._triggers = InterfaceTriggers(configuration.accesses, self.steering, self._gateways)
        self._interfaces = InterfaceWatch(self._triggers.names, self._triggers.changed, self._watch_failed)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._control = platform.control(configuration.control, control_methods(self), self.recorder)

    def pdn(self, name: str | None = None) -> Pdn:
        """A PDN connection by its APN or its name in the configuration, without one the default; ``ControlError``."""
        found = next(iter(self.pdns.values())) if name is None else self.pdns.get(name, self._by_section.get(name))
        if found is None:
            raise ControlError("not-found", f"there is no PDN connection {name}; known are {', '.join(self.pdns)}")
        return found

    # --- life

    async def run(self, work: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve the control socket and do ``work``; without any until ``stop``. Detaches at the end."""
        failure: StackError | None = None
        if self._telemetry is not None:
            self._telemetry.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._swu.open(tasks)
                try:
                    self.steering.start(tasks)
                    if self._interfaces.names:
                        await self._interfaces.open(tasks)  # first: whoever gets an answer may attach at once
                    await self._control.start()
                    for pdn in self.pdns.values():
                        pdn.tunnel.restore_name_servers()  # of a process that was killed
                    self.recorder.event("started", f"The UE {self.configuration.imsi} is ready.")
                    self._warn_of_weak_algorithms()
                    for remark in (self.backend.remark, self._esp_transport.remark):
                        if remark is not None:
                            _log.info("%s", remark)
                    await self._until_stopped(work or self._stopping.wait)
                except StackError as error:
                    failure = error  # raised inside the group it would leave as an ExceptionGroup
                finally:
                    self.steering.close()
                    self._triggers.close()
                    self._interfaces.close()
                    await self._leave()
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

    # --- accesses

    def _told(self, pdn: Pdn, tell: Tell) -> None:
        self.steering.told(pdn, tell)

    def _preferred_access(self) -> str | None:
        return self.steering.choice()

    def _gateways(self) -> list[Address]:
        return [sa.path.remote.address for pdn in self.pdns.values() if (sa := pdn.sa) is not None]

    def _watch_failed(self, error: BackendError) -> None:
        _log.error("%s", error)
        self.recorder.event("interfaces-not-watched", f"The interfaces are not watched any more: {error}.")

    async def stopped(self) -> None:
        """Return when the node is told to stop."""
        await self._stopping.wait()

    async def attach_others(self, access: str | None = None, *, force: bool = False) -> None:
        """Attach the connections that go with the first one; ``ControlError`` of the first that is refused."""
        for pdn in self._going_along():
            await pdn.attach(None if access is None else self.access_name(access), force=force)

    async def stay_attached(self) -> None:
        """Attach, and try again after a while when that fails or the connection is lost at the pace configured.

        Each PDN connection for itself, the others once the first has been tried: it says INITIAL_CONTACT.
        """
        if self.steering.automatic:
            await self.steering.stay_attached()
            return
        tried = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stay_attached(self.pdn(), self._swu.now, tried))
            await tried.wait()
            for pdn in self._going_along():
                tasks.create_task(stay_attached(pdn, self._swu.now, tried))

    def _going_along(self) -> list[Pdn]:
        sections = self.configuration.additional_pdns
        return [pdn for name, pdn in self._by_section.items() if sections[name].attach]

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
            pdn.tunnel.stop_host()
        self._swu.close()
        await self._control.close()
        if self._telemetry is not None:
            await self._telemetry.close()

    # --- what a person asks for

    async def attach(
        self,
        access: str | None = None,
        *,
        force: bool = False,
        pdn: str | None = None,
        previous: tuple[Address, ...] | None = None,
    ) -> None:
        """Attach on an access, named or by its address; see ``Pdn.attach``. Without ``pdn`` the first connection."""
        name = None if access is None else self.access_name(access)
        await self.pdn(pdn).attach(name, force=force, previous=previous)

    async def move(self, to: str, *, keep_old: bool = False, pdn: str | None = None) -> Move:
        """Move to an access, named or by its address; what became of the first connection that was meant.

        Its ``ControlError`` when it did not move; ``move_each`` tells of all.
        """
        outcome = next(iter((await self.move_each(to, keep_old=keep_old, pdn=pdn)).values()))
        if isinstance(outcome, StackError):
            raise outcome
        return outcome

    async def move_each(
        self, to: str, *, keep_old: bool = False, pdn: str | None = None
    ) -> dict[str, Move | StackError]:
        """Move the connections that are attached, or one, to an access: all updates leave in one turn of the loop."""
        name = self.access_name(to)
        chosen = self._chosen(pdn, DeviceState.ESTABLISHED)
        moves = [each.move(name, keep_old=keep_old) for each in chosen]
        if pdn is None:
            self.steering.choose(name)
        outcomes = _outcomes(chosen, await asyncio.gather(*moves, return_exceptions=True))
        if pdn is None:
            failures = [each for each in outcomes.values() if isinstance(each, StackError)]
            self.steering.chosen(name, str(failures[0]) if len(failures) == len(outcomes) else None)
        return outcomes

    @property
    def staying(self) -> list[Pdn]:
        """The connections that are to stay attached, the first one first: it says INITIAL_CONTACT."""
        return [self.pdn(), *self._going_along()]

    async def move_pdns(
        self, to: str, *, keep_old: bool = False, again: bool = False, but: Iterable[str] = ()
    ) -> dict[str, Move | None | StackError]:
        """Take the connections that are attached, but for some, to an access: as connection management decides.

        One that cannot move is attached there anew, which is no ``Move``.
        """
        left = set(but)
        chosen = [
            pdn for pdn in self.pdns.values() if pdn.device.state is DeviceState.ESTABLISHED and pdn.name not in left
        ]
        anew = {pdn.name for pdn in chosen if not pdn.device.can_move}
        moves: list[Awaitable[Move | None]] = [
            pdn.move(to, keep_old=keep_old, again=again)
            if pdn.name not in anew
            else pdn.attach_anew(to, reachable=not again and self.steering.usable(pdn.access))
            for pdn in chosen
        ]
        with self.steering.changing(anew):
            outcomes = await asyncio.gather(*moves, return_exceptions=True)
        return _outcomes(chosen, outcomes)

    async def detach(self, pdn: str | None = None) -> None:
        """Detach the connections that are attached, or one; see ``Pdn.detach``."""
        if pdn is None:
            self.steering.unwant()
        chosen = self._chosen(pdn, DeviceState.ATTACHING, DeviceState.ESTABLISHED)
        done = _outcomes(chosen, await asyncio.gather(*(each.detach() for each in chosen), return_exceptions=True))
        for outcome in done.values():
            if isinstance(outcome, StackError):
                raise outcome

    def suspend(self, pdn: str | None = None) -> None:
        """Leave every access; see ``Pdn.suspend``."""
        for each in self._chosen(pdn, DeviceState.ESTABLISHED):
            each.suspend()
        if pdn is None:
            self.steering.put_to_sleep()

    def _chosen(self, name: str | None, *states: DeviceState) -> list[Pdn]:
        """One by name, or all in one of the states; where none is, the first, which says why it cannot."""
        if name is not None:
            return [self.pdn(name)]
        return [pdn for pdn in self.pdns.values() if pdn.device.state in states] or [self.pdn()]

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
        refused = sum(pdn.tunnel.refused for pdn in self.pdns.values())
        return {
            "node": self.configuration.node,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self.recorder.started,
            "imsi": self.configuration.imsi,
            "data_plane": {**self.backend.view, **self._swu.carrier.counted},
            "state": self.pdn().device.state.value,
            "listen": [str(endpoint) for endpoint in self._swu.ports.local_endpoints],
            "sessions": sum(pdn.device.state is DeviceState.ESTABLISHED for pdn in self.pdns.values()),
            "accesses": {
                name: {
                    "address": str(self._swu.accesses.address(name) or access.address),
                    "interface": access.interface,
                    "next_hop": None if access.next_hop is None else str(access.next_hop),
                    "hears": access.hears,
                    "open": any(name in pdn.device.open_accesses for pdn in self.pdns.values()),
                }
                for name, access in self.configuration.accesses.items()
            },
            "management": self.steering.view(),
            "process": process_view(),
            "telemetry": None if self._telemetry is None else self._telemetry.view(),
            "dropped": {
                "ike": dict(sum((pdn.dropped_ike() for pdn in self.pdns.values()), self._swu.endpoint.dropped)),
                "swu": dict(self._swu.ports.dropped),
                "esp": dict(
                    sum((pdn.tunnel.drops for pdn in self.pdns.values()), self._swu.dropped + self._swu.carrier.dropped)
                ),
                "tun": {"refused": refused} if refused else {},
            },
            "trace": {**self.recorder.view(), "esp": None if self._swu.esp_tap is None else self._swu.esp_tap.view},
        }

    def sessions(self) -> list[dict[str, JsonValue]]:
        """The present or last connection of each PDN."""
        views = (pdn.session() for pdn in self.pdns.values())
        return [view for view in views if view is not None]


T = TypeVar("T")


def _outcomes(pdns: Sequence[Pdn], outcomes: Sequence[T | BaseException]) -> dict[str, T | StackError]:
    """What became of each, by APN; what is no refusal is raised."""
    found: dict[str, T | StackError] = {}
    for pdn, outcome in zip(pdns, outcomes, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, StackError):
            raise outcome
        found[pdn.name] = outcome
    return found
