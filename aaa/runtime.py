"""A process of this package: AAA server, HSS or both, with one recorder, one control socket, one event loop.

Everything that blocks (SQLAlchemy) runs on one thread behind ``Bridge``.
"""

from __future__ import annotations

import asyncio
import logging
import signal

from aaa.config import AaaConfiguration, Role
from aaa.control import AaaControl, node_name
from aaa.faults.hss import Algorithms
from aaa.faults.wrapping import Faults
from aaa.hss.in_process import Bridge
from aaa.hss.node import HssNode
from aaa.node import AaaServer
from aaa.subscribers.database import SubscriberDatabase
from protocols.algorithms.vector import AkaAlgorithm
from protocols.errors import BackendError
from protocols.io.diameter.configuration import PeerSection
from protocols.io.platform import Platform
from protocols.io.process import expect_many
from protocols.io.telemetry import telemetry_of
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder

_log = logging.getLogger(__name__)


class AaaNode:
    """One process in its role; ``run`` serves until ``stop``. The configuration has been checked for the role."""

    def __init__(
        self,
        configuration: AaaConfiguration,
        database: SubscriberDatabase | None,
        role: Role = Role.BOTH,
        platform: Platform | None = None,
    ) -> None:
        platform = platform or Platform()
        self._configuration = configuration
        self._database = database
        self._role = role
        clock, entropy = platform.clock, platform.entropy
        self.recorder = Recorder(
            node_name(role),
            monotonic=clock.monotonic,
            wall=clock.wall,
            export_keys=configuration.trace.export_keys,
            ring=configuration.trace.ring,
            enabled=configuration.trace.enabled,
        )
        self._telemetry = telemetry_of(configuration.telemetry, self.recorder, node_name(role))
        self._bridge = Bridge()
        self._aaa: AaaServer | None = None
        self._hss: HssNode | None = None
        faults = Faults(configuration.faults, self.recorder, algorithms=self._algorithms(), sleep=asyncio.sleep)
        uses_swx = configuration.uses_swx(role)
        if role is not Role.HSS:
            self._aaa = AaaServer(
                configuration,
                self.recorder,
                clock=clock,
                entropy=entropy,
                bind=platform.bind_stream,
                speaks_swx=uses_swx,
                faults=faults,
            )
            if database is not None:
                self._aaa.use_contexts(database.contexts, self._bridge)
        if role is not Role.AAA:
            assert database is not None
            self._hss = HssNode(
                configuration,
                database,
                self._bridge,
                self.recorder,
                clock=clock,
                entropy=entropy,
                bind=platform.bind_stream,
            )
            listen, section = configuration.hss_listen(role), configuration.diameter
            if role is Role.HSS:
                self._hss.serve_swx(listen, section, is_traced=True, faults=faults)
            elif uses_swx:  # the other end of SWx is in the same trace, and diameter.peers are the AAA server's
                self._hss.serve_swx(listen, section.model_copy(update={"peers": ()}), is_traced=False)
            else:
                assert self._aaa is not None
                self._hss.serve_in_process(self._aaa.sessions)
                self._aaa.use_in_process(self._hss.procedures, self._bridge)
        control = AaaControl(
            configuration,
            role,
            self.recorder,
            aaa=self._aaa,
            hss=self._hss,
            database=database,
            bridge=self._bridge,
            faults=faults,
            telemetry=self._telemetry,
        )
        self._control = platform.control(configuration.control, control.methods(), self.recorder)
        self._stopping = asyncio.Event()

    def _algorithms(self) -> Algorithms | None:
        """How fault rules get at a subscriber's functions; ``None`` where the keys are elsewhere."""
        database = None if self._role is Role.AAA else self._database
        if database is None:
            return None

        async def algorithm(imsi: Imsi) -> AkaAlgorithm | None:
            subscriber = await self._bridge.run(lambda: database.get(imsi))
            return None if subscriber is None else subscriber.keys.functions()

        return algorithm

    async def run(self) -> None:
        """Migrate, listen, serve until ``stop``, then disconnect from every peer; ``BackendError``."""
        failure: BackendError | None = None
        if self._telemetry is not None:
            self._telemetry.start()
        try:
            revision = None if self._database is None else await self._bridge.run(self._database.migrate)
            async with asyncio.TaskGroup() as tasks:
                watch: asyncio.Task[None] | None = None
                try:
                    await self._open(tasks, revision)
                    if self._hss is not None:
                        watch = tasks.create_task(self._hss.watch())
                    await self._stopping.wait()
                except BackendError as error:
                    failure = error  # raised inside the group it would leave as an ExceptionGroup
                if watch is not None:
                    watch.cancel()
                # peers first: what the HSS still answers goes out before DPR ends the connections
                await self._close_diameter()
        finally:
            await self._control.close()
            await self._close_diameter()
            if self._telemetry is not None:
                await self._telemetry.close()
            self._bridge.close()
            if self._database is not None:
                self._database.close()
        if failure is not None:
            raise failure

    async def _open(self, tasks: asyncio.TaskGroup, revision: str | None) -> None:
        """Listen; the control socket comes last, so that a node that answers there is ready."""
        listening: tuple[str, ...] = ()
        if self._hss is not None:
            await self._hss.open()
            listening += self._hss.listening
        if self._aaa is not None:
            if self._configuration.uses_swx(self._role):
                self._aaa.use_swx(*self._way_to_the_hss())
            await self._aaa.open(tasks)
            listening = self._aaa.listening + listening
        await self._control.start()
        who = {Role.AAA: "The AAA server listens", Role.HSS: "The HSS listens", Role.BOTH: "The AAA server listens"}
        where = ", ".join(listening)
        with_database = "" if revision is None else f", database revision {revision}"
        text = f"{who[self._role]} on {where}{with_database}."
        _log.info("%s", text)
        self.recorder.event("started", text, {"listen": where, "role": self._role.value})

    def _way_to_the_hss(self) -> tuple[tuple[PeerSection, ...], str]:
        """The peers of SWx and the HSS's realm; an HSS in this process is reached where it listens."""
        section = self._configuration.hss
        realm = section.realm or self._configuration.identity.realm
        if self._hss is None:
            return section.peers, realm
        address, _, port = self._hss.listening[0].rpartition(":")
        peer = PeerSection.model_validate(
            {"host": self._configuration.hss_identity.host, "address": address.strip("[]"), "port": int(port)}
        )
        return (peer, *section.peers), section.realm or self._configuration.hss_identity.realm

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    async def _close_diameter(self) -> None:
        if self._aaa is not None:
            await self._aaa.close()
        if self._hss is not None:
            await self._hss.close()


async def serve(configuration: AaaConfiguration, database: SubscriberDatabase | None, role: Role) -> None:
    """Run a node until SIGTERM or SIGINT."""
    expect_many()
    node = AaaNode(configuration, database, role)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    await node.run()
