"""The gateway in a process: what it is composed of, how it starts, serves and stops.

::

    UE -- swu -- sessions -- swm -- AAA server          control -- dashboards, laboratory, command line
           \\        |
            \\     grants (inner addresses)
             child_sas -- core -- network of the inner addresses
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from epdg.addresses import GatewayAddresses
from epdg.child_sas import ChildSas
from epdg.commands import Command
from epdg.config import EpdgConfiguration
from epdg.control import control_methods
from epdg.live import Live, SubscriberSessions
from epdg.pdn.grants import Grants
from epdg.profile import data_plane_needs
from epdg.reload import Reloading
from epdg.sessions import Sessions
from epdg.swm import SwmClient
from epdg.swu import Swu
from epdg.tally import Tally
from epdg.usage import UsageRecords
from protocols.dataplane.choice import carrier_of, choose
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.io.algorithms import weakness
from protocols.io.platform import Platform
from protocols.io.telemetry import telemetry_of
from protocols.path import Path as NetworkPath
from protocols.threegpp.identity import Plmn, epdg_fqdn
from protocols.trace.recorder import Recorder

SETTLE_INTERVAL = 2.0  # for the AAA server to answer when the gateway stops

_log = logging.getLogger(__name__)


class EpdgNode:
    """One gateway; ``run`` serves until ``stop``."""

    def __init__(
        self, configuration: EpdgConfiguration, platform: Platform | None = None, *, file: Path | None = None
    ) -> None:
        """``file``: where the configuration came from, and is read again from."""
        platform = platform or Platform()
        clock, entropy = platform.clock, platform.entropy
        self.configuration = configuration
        self.started = clock.wall()
        self.wall_offset = self.started - clock.monotonic()
        self.recorder = Recorder(
            configuration.node,
            monotonic=clock.monotonic,
            wall=clock.wall,
            export_keys=configuration.trace.export_keys,
            ring=configuration.trace.ring,
            enabled=configuration.trace.enabled,
        )
        self.telemetry = telemetry_of(configuration.telemetry, self.recorder, "epdg")
        plmn = Plmn(configuration.plmn.mcc, configuration.plmn.mnc)
        self.fqdn = epdg_fqdn(plmn)
        self.tally = Tally()
        needs = data_plane_needs(configuration)
        self.backend = choose(configuration.data_plane.backend, needs)
        self.carrier = carrier_of(self.backend, needs, platform)
        self.addresses = GatewayAddresses(configuration.listen.addresses)
        self.swu = Swu(
            configuration,
            fqdn=self.fqdn,
            addresses=self.addresses,
            carrier=self.carrier,
            platform=platform,
            recorder=self.recorder,
            on_esp=self._received_esp,
            inbound_packets=lambda spi: self.child_sas.evidence(spi),
        )
        self.child_sas = ChildSas(
            configuration,
            swu=self.swu,
            carrier=self.carrier,
            entropy=entropy,
            recorder=self.recorder,
            tally=self.tally,
        )
        self.usage = UsageRecords(configuration.accounting)
        subscribers = SubscriberSessions()
        self.grants = Grants(configuration, self.child_sas.core, subscribers)
        self.swm = SwmClient(
            configuration.diameter,
            visited_network=plmn.domain,
            recorder=self.recorder,
            clock=clock,
            entropy=entropy,
            carry_out=self._carry_out,
        )
        self.sessions = Sessions(
            configuration,
            fqdn=self.fqdn,
            swu=self.swu,
            child_sas=self.child_sas,
            grants=self.grants,
            swm=self.swm,
            subscribers=subscribers,
            clock=clock,
            recorder=self.recorder,
            tally=self.tally,
            usage=self.usage,
        )
        self.reloading = Reloading(self, file)
        self._stopping = asyncio.Event()
        self._control = platform.control(configuration.control, control_methods(self), self.recorder)

    def _received_esp(self, octets: bytes, path: NetworkPath, traffic_class: int = 0) -> None:
        self.child_sas.receive_esp(octets, path, traffic_class)

    def _carry_out(self, live: Live, commands: list[Command]) -> None:
        self.sessions.carry_out(live, commands)

    async def run(self) -> None:
        """Open everything, serve until ``stop``, then let go of UEs, AAA server and sockets."""
        self.usage.open()
        if self.telemetry is not None:
            self.telemetry.start()
        self.swu.open(self.sessions.handle)
        try:
            self.carrier.start()
            for address in self.configuration.listen.addresses:
                self.swu.open_ports(address)
            await self.child_sas.open()
            await self.swm.open()
            await self._control.start()
            self._say_what_it_is()
            await self._stopping.wait()
            await self.sessions.let_go("the gateway stops")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_INTERVAL):
                    await self.swm.settle()
        finally:
            await self._close()

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    async def _close(self) -> None:
        self.swu.stop()
        self.usage.write()
        await self.swm.close()
        await self._control.close()
        self.swu.close()
        self.child_sas.close()
        self.carrier.close()
        if self.telemetry is not None:
            await self.telemetry.close()

    def _say_what_it_is(self) -> None:
        ike = self.configuration.ike
        warning = weakness({"ike.suites": IkePolicy.of(ike.suites), "ike.esp_suites": EspPolicy.of(ike.esp_suites)})
        if warning is not None:
            _log.warning("%s", warning)
            self.recorder.event("weak-algorithms", warning)
        for remark in (self.backend.remark, self.swu.remark):
            if remark is not None:
                _log.info("%s", remark)
        listening = ", ".join(str(endpoint) for endpoint in self.swu.ports.local_endpoints)
        text = f"The gateway {self.fqdn} listens on {listening}."
        _log.info("%s", text)
        self.recorder.event("started", text, {"listen": listening})
