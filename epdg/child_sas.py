"""The child SAs of all sessions in the data plane: installed, moved, removed; what it tells of them; inner packets."""

from __future__ import annotations

import functools
import logging
from dataclasses import asdict

from epdg.config import EpdgConfiguration
from epdg.core import Core
from epdg.live import Live
from epdg.swu import Swu
from epdg.tally import Tally
from protocols.dataplane.carrier import Carrier
from protocols.dataplane.port import ChildSaCounters, LifetimeReached, PeerEndpointObserved
from protocols.entropy import Entropy
from protocols.errors import BackendError, LocalError
from protocols.ikev2.events import (
    AddressUpdateStarted,
    ChildSaInstalled,
    ChildSaOffered,
    ChildSaPathChanged,
    ChildSaRemoved,
    ChildSaRetired,
    Event,
)
from protocols.path import Path
from protocols.threegpp.observation import record_esp_keys
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

_log = logging.getLogger(__name__)


class ChildSas:
    """Between SWu and ``core``, the network of the inner addresses."""

    def __init__(
        self,
        configuration: EpdgConfiguration,
        *,
        swu: Swu,
        carrier: Carrier,
        entropy: Entropy,
        recorder: Recorder,
        tally: Tally,
    ) -> None:
        self._device = configuration.data_plane.device
        self._swu = swu
        self._carrier = carrier
        self._recorder = recorder
        self._tally = tally
        self._by_spi: dict[bytes, Live] = {}
        self.data_plane = carrier.plane(
            deliver=self._delivered,
            transmit=swu.ports.send_esp,
            told=self._data_plane_events,
            path_mtu=swu.ports.path_mtu,
        )
        self.core = Core(configuration.data_plane, configuration.apns, self._from_core, entropy)

    async def open(self) -> None:
        """Open what is behind the gateway; ``BackendError``: the system refuses."""
        open_device = functools.partial(self._carrier.open_device, self.data_plane)
        await self.core.open(open_device, self._device_lost, self._device_back)

    def close(self) -> None:
        """Close it."""
        self.core.close()

    def handle(self, live: Live, event: Event) -> None:
        """Do in the data plane what an event of an IKE SA says of a child SA; ``StackError``: it refuses."""
        session = live.session.identifier
        if isinstance(event, ChildSaOffered | ChildSaInstalled):
            if event.spec.inbound_spi in self._by_spi:
                return  # since it was offered
            if event.replaces is None or event.replaces not in self._by_spi:
                self.data_plane.install(event.spec)
            else:
                self.data_plane.replace(event.replaces, event.spec, send_at_once=event.send_at_once)
            self._by_spi[event.spec.inbound_spi] = live
            record_esp_keys(self._recorder, event.spec, event.spec.path, session)
        elif isinstance(event, AddressUpdateStarted):
            for spi in live.sa.children:
                if spi in self._by_spi:
                    self.data_plane.expect(spi, event.new, event.nat.encapsulation)
        elif isinstance(event, ChildSaPathChanged) and event.inbound_spi in self._by_spi:
            self.data_plane.update_path(event.inbound_spi, event.path, event.encapsulation)
            child = live.sa.children.get(event.inbound_spi)
            if child is not None:
                record_esp_keys(self._recorder, child.spec, event.path, session)
        elif isinstance(event, ChildSaRetired) and event.inbound_spi in self._by_spi:
            self.data_plane.retire(event.inbound_spi)
        elif isinstance(event, ChildSaRemoved) and event.inbound_spi in self._by_spi:
            live = self._by_spi.pop(event.inbound_spi)
            counters = self._last_counted(event.inbound_spi)
            live.session.carried.update({} if counters is None else vars(counters))
            self.data_plane.remove(event.inbound_spi)

    def counters(self, spi: bytes) -> ChildSaCounters | None:
        """What a child SA has carried; ``None`` when it is not installed."""
        try:
            return self.data_plane.counters(spi)
        except LocalError:
            return None

    def _last_counted(self, spi: bytes) -> ChildSaCounters | None:
        """What a child SA that is to be removed has carried; nothing where the kernel does not tell any more."""
        try:
            return self.counters(spi)
        except BackendError:
            return None

    def carried(self) -> dict[str, int]:
        """What all child SAs have carried since the start, those that are gone too."""
        return asdict(self.data_plane.carried)

    def evidence(self, spi: bytes) -> int:
        """How many packets of a child SA have shown that the UE lives (RFC 4555 §3.12)."""
        counters = self.counters(spi)
        return 0 if counters is None else counters.evidence

    # --- packets

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """ESP from a UE."""
        self.data_plane.receive_esp(octets, path, traffic_class)
        self._data_plane_events()

    def _delivered(self, packet: bytes, inbound_spi: bytes) -> None:
        del inbound_spi
        if not self.core.deliver(packet):
            self._tally.totals["core-no-such-host"] += 1

    def _from_core(self, packet: bytes) -> None:
        self.data_plane.send_inner(packet)
        self._data_plane_events()

    # --- what the data plane and the device tell

    def _data_plane_events(self) -> None:
        while (event := self.data_plane.poll_event()) is not None:
            live = self._by_spi.get(event.inbound_spi)
            if live is None:
                continue
            if isinstance(event, PeerEndpointObserved):
                self._observed(live, event)
                continue
            hard = event.hard if isinstance(event, LifetimeReached) else event.exhausted
            self._swu.endpoint.limit_reached(live.sa, event.inbound_spi, self._swu.now(), hard=hard)
            self._swu.pump()

    def _observed(self, live: Live, event: PeerEndpointObserved) -> None:
        """ESP comes from elsewhere: ours may follow (RFC 4555 §3.8)."""
        follows = self._swu.endpoint.esp_heard_from(live.sa, event.inbound_spi, event.path, self._swu.now())
        end = "ours follows" if follows else "not followed"
        text = f"ESP of {live.session.imsi or live.session.nai} comes from {event.path.remote}; {end}."
        data: dict[str, JsonValue] = {"remote": str(event.path.remote)}
        if not follows:
            self._tally.totals["esp-from-elsewhere"] += 1
        self._recorder.event("esp-followed" if follows else "esp-from-elsewhere", text, data, live.session.identifier)
        if follows:
            self._swu.pump()

    def _device_lost(self, error: BackendError) -> None:
        self._tally.totals["device-lost"] += 1
        self._recorder.event("device-lost", f"The device of the inner addresses went away: {error}.")
        _log.error("%s", error)

    def _device_back(self) -> None:
        self._recorder.event("device-back", f"The device {self._device} was made anew.")
        _log.warning("the device %s was made anew", self._device)
