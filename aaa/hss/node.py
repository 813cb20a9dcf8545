"""The HSS of a process: its procedures on the database, its Diameter node on SWx, what it pushes."""

from __future__ import annotations

from aaa.config import AaaConfiguration
from aaa.faults.wrapping import Faults
from aaa.hss.given import GivenVectors
from aaa.hss.in_process import Bridge, InProcessPush
from aaa.hss.local import LocalHss
from aaa.hss.port import HssListener
from aaa.hss.procedures import HssProcedures
from aaa.hss.push import REMOVED, HssPush
from aaa.hss.server import SwxServer
from aaa.observation import DiameterObservation
from aaa.subscribers.database import SubscriberDatabase
from protocols.diameter.codec import Result
from protocols.entropy import Entropy
from protocols.io.diameter import SWX, DiameterIdentity, DiameterNode
from protocols.io.diameter.composition import make_node, open_node
from protocols.io.diameter.configuration import DiameterNodeSection, ListenSection
from protocols.io.platform import Clock
from protocols.io.streams import StreamBinder
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

INTERFACE = "SWx"


class HssNode:
    """The HSS: ``serve_swx`` gives it a Diameter node, ``serve_in_process`` the AAA server beside it."""

    def __init__(
        self,
        configuration: AaaConfiguration,
        database: SubscriberDatabase,
        bridge: Bridge,
        recorder: Recorder,
        *,
        clock: Clock,
        entropy: Entropy,
        bind: StreamBinder,
    ) -> None:
        self._configuration = configuration
        self._database = database
        self._bridge = bridge
        self._recorder = recorder
        self._clock = clock
        self._entropy = entropy
        self._bind = bind
        given = GivenVectors(configuration.hss.vectors) if configuration.hss.vectors else None
        vectors = LocalHss(database, entropy, sequence_block=configuration.hss.sequence_block, given=given)
        self.procedures = HssProcedures(database, vectors, database.registrations)
        self._push: HssPush | None = None
        self._diameter: DiameterNode | None = None
        self._listen: ListenSection | None = None
        self._section = DiameterNodeSection()
        self.listening: tuple[str, ...] = ()

    # --- whom it serves -----------------------------------------------------------------------------

    def serve_in_process(self, listener: HssListener) -> None:
        """The AAA server of this process is told by calls."""
        self._push = HssPush(
            self._database, self._database.registrations, self._bridge, InProcessPush(listener), self._recorder
        )

    def serve_swx(
        self,
        listen: ListenSection,
        section: DiameterNodeSection,
        *,
        is_traced: bool,
        faults: Faults | None = None,
    ) -> None:
        """AAA servers ask over Diameter; ``is_traced``: not where the other end of SWx is in this trace too.

        ``faults`` only where no AAA server in this process is under them.
        """
        identity = self._configuration.hss_identity
        self._listen, self._section = listen, section
        self._diameter = make_node(
            DiameterIdentity(host=identity.host, realm=identity.realm, applications=(SWX,)),
            section,
            listen=listen,
            entropy=self._entropy,
            wall=self._clock.wall,
            bind=self._bind,
        )
        if is_traced:
            observation = DiameterObservation(self._recorder, interface=INTERFACE)
            self._diameter.on_traffic(observation.traffic)
            self._diameter.on_peer(observation.peer)
        server = SwxServer(
            self._diameter,
            self.procedures,
            self._bridge,
            wall=self._clock.wall,
            timeout=self._configuration.hss.timeout,
            wrap=None if faults is None else faults.swx().wrap,
        )
        self._push = HssPush(self._database, self._database.registrations, self._bridge, server, self._recorder)

    # --- life ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Listen and connect, where it speaks SWx. ``BackendError``."""
        if self._diameter is not None:
            self.listening = await open_node(self._diameter, self._section, self._listen)

    async def watch(self) -> None:
        """Look for what others change in the database, until cancelled."""
        interval = self._configuration.hss.poll_interval
        if interval is not None and self._push is not None:
            await self._push.watch(interval)

    async def close(self) -> None:
        """End the connections."""
        if self._diameter is not None:
            await self._diameter.close()

    # --- what it is told to do ----------------------------------------------------------------------

    async def deregister(self, imsi: Imsi, reason: str | None = None, *, force: bool = False) -> Result:
        """RTR to the AAA server of the user; ``NotRegistered``, ``BackendError``. ``reason`` is for people.

        With ``force`` the registration ends also when that server does not answer, which is raised all the same.
        """
        assert self._push is not None
        return await self._push.deregister(imsi, REMOVED if reason is None else reason, force=force)

    async def profile_changed(self, imsi: Imsi) -> Result:
        """PPR to the AAA server of the user, with the profile as it is now; ``NotRegistered``, ``BackendError``."""
        assert self._push is not None
        return await self._push.profile_changed(imsi)

    # --- what it shows ------------------------------------------------------------------------------

    async def status(self) -> dict[str, JsonValue]:
        """Who it is, where it listens, how many users are registered."""
        identity = None if self._diameter is None else self._diameter.identity
        return {
            "host": None if identity is None else identity.host,
            "realm": None if identity is None else identity.realm,
            "listen": ", ".join(self.listening) or None,
            "registrations": await self._bridge.run(self._database.registrations.count),
        }

    async def registration(self, imsi: Imsi) -> JsonValue:
        """Where a user is registered, ``None`` when nowhere."""
        found = await self._bridge.run(lambda: self._database.registrations.registration(imsi))
        if found is None:
            return None
        return {"imsi": str(imsi), "server": found.server.host, "realm": found.server.realm, "pgws": dict(found.pgws)}

    def dropped(self) -> dict[str, JsonValue]:
        """Octets and messages that were dropped, by reason."""
        return {} if self._diameter is None else {str(why): n for why, n in self._diameter.dropped.items()}

    def figures(self) -> dict[str, JsonValue]:
        """How long answers to its requests took, by command; nothing without Diameter."""
        return {} if self._diameter is None else self._diameter.figures()

    def peers(self) -> list[JsonValue]:
        """The Diameter peers, each with its interface."""
        if self._diameter is None:
            return []
        return [{**peer.to_json(), "interface": INTERFACE} for peer in self._diameter.peers()]
