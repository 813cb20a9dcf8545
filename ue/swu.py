"""What the PDN connections of UEs share on SWu: one IKE end point, the accesses' sockets, and who gets what arrives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from protocols.dataplane.carrier import Carrier, PythonCarrier
from protocols.esp.packet import SPI_LENGTH
from protocols.esp.sa import DropReason
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.endpoint import IkeEndpoint, installs_child_sa
from protocols.ikev2.events import Closed, Event, SuccessorCreated
from protocols.ikev2.extension import Extension
from protocols.ikev2.sa import IkeSa
from protocols.io.driver import Driver
from protocols.io.esp_tap import EspTap
from protocols.io.platform import Platform
from protocols.io.tap import NON_ESP_MARKER, DatagramTap
from protocols.io.udp import SwuPorts
from protocols.path import Datagram, Endpoint, Path
from protocols.trace.recorder import Recorder
from ue.accesses import Accesses
from ue.config import AccessSection

IKE_SPI_LENGTH = 8  # octets, RFC 7296 §3.1


class SaOwner(Protocol):
    """Whose IKE SAs and child SAs they are."""

    @property
    def subscriber(self) -> str:
        """The IMSI."""

    def ike_event(self, sa: IkeSa, event: Event) -> None:
        """An IKE SA of its own says something."""

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """ESP for a child SA of its own, and the DSCP and ECN that it came with."""

    def unreachable(self, sa: IkeSa | None, remote: Endpoint) -> None:
        """ICMP says that a packet of an IKE SA of its own, ``None``: of ESP, has not arrived; anybody may say so."""

    def inbound_packets(self, spi: bytes) -> int:
        """How many packets have shown that the gateway lives (RFC 4555 §3.12)."""


class Swu:
    """Made before the loop runs, used between ``open`` and ``close``."""

    def __init__(
        self,
        accesses: Mapping[str, AccessSection],
        *,
        platform: Platform,
        recorder: Recorder,
        tapped: bool = True,
        dscp: int = 0,
        carrier: Carrier | None = None,
        bare_esp: bool = False,
    ) -> None:
        """``tapped``: every datagram goes into the trace. ``dscp``: that of IKE.

        ``carrier``: of ESP, without one in Python. ``bare_esp``: ESP goes straight on IP, too.
        """
        self.clock = platform.clock
        self.carrier: Carrier = carrier or PythonCarrier(
            entropy=platform.entropy,
            now=platform.clock.monotonic,
            open_link=platform.open_link,
            open_raw=platform.open_raw_esp,
        )
        self.entropy = platform.entropy
        self.endpoint = IkeEndpoint(entropy=platform.entropy, inbound_packets=self._inbound_packets)
        unseen = tapped and recorder.enabled and not self.carrier.sees_packets
        self.esp_tap = EspTap(recorder) if unseen else None
        self.ports = SwuPorts(
            on_ike=self.receive_ike,
            on_esp=self._received_esp,
            tap=DatagramTap(recorder) if tapped else None,
            esp_tap=self.esp_tap,
        )
        self.accesses = Accesses(
            accesses, self.ports, platform.open_link, self.carrier, self._unreachable, dscp, bare_esp=bare_esp
        )
        self.dropped: Counter[str] = Counter()
        self.tasks: asyncio.TaskGroup | None = None
        self._owners: dict[IkeSa, SaOwner] = {}
        self._sas_of: Counter[str] = Counter()  # by subscriber: a fleet has thousands
        self._children: dict[bytes, SaOwner] = {}
        self._outbound: dict[bytes, bytes] = {}  # by inbound SPI
        self._senders: dict[bytes, SaOwner] = {}  # by outbound SPI
        self._driver: Driver[tuple[IkeSa, Event], Datagram] | None = None

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Begin, on the running loop; ``tasks`` own what takes time."""
        self.tasks = tasks
        self.carrier.start()
        self._driver = Driver(
            self.endpoint, on_event=self._ike_event, transmit=self.ports.send_ike, urgent=installs_child_sa
        )

    def close(self) -> None:
        """Close timers and sockets."""
        if self._driver is not None:
            self._driver.close()
        self.ports.close_all()
        self.carrier.close()

    def now(self) -> float:
        """The machines' clock."""
        return self.clock.monotonic()

    def pump(self) -> None:
        """Send what waits and take what the IKE SAs tell."""
        if self._driver is not None:
            self._driver.pump()

    def connect(self, owner: SaOwner, config: InitiatorConfig, path: Path, extension: Extension) -> IkeSa:
        """Start an IKE SA; its events and those of its successors go to ``owner``."""
        sa = self.endpoint.connect(config, path, self.now(), extension)
        self._adopt(sa, owner)
        return sa

    def is_alone(self, owner: SaOwner) -> bool:
        """Whether its subscriber has no IKE SA here (RFC 7296 §2.4: what INITIAL_CONTACT says)."""
        return owner.subscriber not in self._sas_of

    def _adopt(self, sa: IkeSa, owner: SaOwner) -> None:
        self._owners[sa] = owner
        self._sas_of[owner.subscriber] += 1

    def _release(self, sa: IkeSa) -> None:
        owner = self._owners.pop(sa, None)
        if owner is None:
            return
        self._sas_of[owner.subscriber] -= 1
        if not self._sas_of[owner.subscriber]:
            del self._sas_of[owner.subscriber]

    def adopt_child(self, inbound_spi: bytes, outbound_spi: bytes, owner: SaOwner) -> None:
        """From now on ESP with this SPI goes to ``owner``, and what ICMP says of that with the other one."""
        self._children[inbound_spi] = owner
        self._outbound[inbound_spi] = outbound_spi
        self._senders[outbound_spi] = owner

    def drop_child(self, inbound_spi: bytes) -> None:
        """Nobody waits for ESP with this SPI any more."""
        self._children.pop(inbound_spi, None)
        self._senders.pop(self._outbound.pop(inbound_spi, b""), None)

    def receive_ike(self, datagram: Datagram) -> None:
        """Take an IKE datagram from a socket."""
        self.endpoint.receive(datagram, self.now())
        self.pump()

    def _ike_event(self, found: tuple[IkeSa, Event]) -> None:
        sa, event = found
        owner = self._owners.get(sa)
        if owner is None:
            return
        if isinstance(event, SuccessorCreated):
            self._adopt(event.successor, owner)
        if isinstance(event, Closed):
            self._release(sa)  # before its owner connects anew, and asks whether it is alone
        owner.ike_event(sa, event)

    def owner_by_spi(self, octets: bytes) -> SaOwner | None:
        """Whose IKE SA a datagram from the gateway is for, by the SPI of this end, whoever began the SA."""
        sas = self.endpoint.sas
        sa = sas.get(octets[:IKE_SPI_LENGTH]) or sas.get(octets[IKE_SPI_LENGTH : 2 * IKE_SPI_LENGTH])
        return None if sa is None else self._owners.get(sa)

    def _unreachable(self, octets: bytes, remote: Endpoint) -> None:
        """It quotes what we sent: IKE, with our SPI of the SA (RFC 7296 §3.1), or ESP, with the gateway's."""
        message = octets.removeprefix(NON_ESP_MARKER)
        sas = self.endpoint.sas
        sa = sas.get(message[:IKE_SPI_LENGTH]) or sas.get(message[IKE_SPI_LENGTH : 2 * IKE_SPI_LENGTH])
        owner = self._senders.get(octets[:SPI_LENGTH]) if sa is None else self._owners.get(sa)
        if owner is not None:
            owner.unreachable(sa, remote)

    def _received_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        owner = self._children.get(octets[:SPI_LENGTH])
        if owner is None:
            self.dropped[DropReason.UNKNOWN_SPI.value] += 1
            return
        owner.receive_esp(octets, path, traffic_class)

    def _inbound_packets(self, spi: bytes) -> int:
        owner = self._children.get(spi)
        return 0 if owner is None else owner.inbound_packets(spi)
