"""SWu at the gateway: one IKE end point, its ports at each address of the gateway's, and what drives it."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from epdg.addresses import GatewayAddresses
from epdg.config import EpdgConfiguration
from epdg.profile import responder_config
from epdg.telling import turned_away
from protocols.dataplane.carrier import Carrier
from protocols.ikev2.config import ResponderConfig
from protocols.ikev2.endpoint import IkeEndpoint, installs_child_sa
from protocols.ikev2.events import Event
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.task import Task
from protocols.io.driver import Driver
from protocols.io.esp_tap import EspTap
from protocols.io.link import Opener
from protocols.io.platform import Platform
from protocols.io.raw import esp_transport
from protocols.io.tap import DatagramTap
from protocols.io.udp import SwuPorts
from protocols.path import Address, Datagram, Endpoint, Path
from protocols.threegpp.swu import GatewaySwu
from protocols.trace.recorder import Recorder


class Swu:
    """Made before the loop runs, used between ``open`` and ``close``."""

    def __init__(
        self,
        configuration: EpdgConfiguration,
        *,
        fqdn: str,
        addresses: GatewayAddresses,
        carrier: Carrier,
        platform: Platform,
        recorder: Recorder,
        on_esp: Callable[[bytes, Path, int], None],
        inbound_packets: Callable[[bytes], int],
    ) -> None:
        """``on_esp`` takes ESP that comes to the ports; ``inbound_packets``: as ``IkeEndpoint`` has it."""
        self._ike = configuration.ike
        self._listen = configuration.listen
        self._emergency = configuration.emergency is not None
        self._addresses = addresses
        self._carrier = carrier
        self._esp_transport = esp_transport(
            self._ike.force_encapsulation, carrier.open_raw, (self._listen.nat_traversal_port,)
        )
        self._responder_config = functools.partial(
            responder_config,
            fqdn=fqdn,
            addresses=addresses.usable,
            force_encapsulation=self._esp_transport.forced,
            clock=platform.clock,
            entropy=platform.entropy,
        )
        self._responder = self._responder_config(configuration)
        self.endpoint = IkeEndpoint(
            entropy=platform.entropy,
            responder=self._responder,
            extension=self._extension,
            inbound_packets=inbound_packets,
        )
        self._recorder = recorder
        unseen = recorder.enabled and not carrier.sees_packets
        self.esp_tap = EspTap(recorder) if unseen else None
        self.ports = SwuPorts(
            on_ike=self._received,
            on_esp=on_esp,
            tap=DatagramTap(recorder),
            esp_tap=self.esp_tap,
            open_link=platform.open_link,
        )
        self.dropped_notifies: Counter[str] = Counter()
        self._driver: Driver[tuple[IkeSa, Event], Datagram] | None = None

    def _extension(self) -> GatewaySwu:
        return GatewaySwu(
            request_device_identity=self._ike.request_device_identity or self._ike.require_device_identity,
            emergency_support=self._emergency,
            dropped=self.dropped_notifies,
        )

    # --- another configuration

    def responder(self, configuration: EpdgConfiguration) -> ResponderConfig:
        """What another configuration makes of the gateway; its secrets stay. ``ConfigurationError``."""
        ike = configuration.ike.model_copy(update={"qcd_secret": None, "resumption": None})
        made = self._responder_config(configuration.model_copy(update={"ike": ike}))
        return replace(made, crash_secrets=self._responder.crash_secrets, tickets=self._responder.tickets)

    def use(self, configuration: EpdgConfiguration, responder: ResponderConfig) -> None:
        """Have IKE SAs that begin from now on so."""
        self._ike, self._responder = configuration.ike, responder
        self.endpoint.use(responder)

    # --- life

    def open(self, on_event: Callable[[tuple[IkeSa, Event]], None]) -> None:
        """Begin, on the running loop; ``on_event`` takes what the IKE SAs tell. The ports are opened one by one."""
        self._driver = Driver(self.endpoint, on_event=on_event, transmit=self.ports.send_ike, urgent=installs_child_sa)

    def stop(self) -> None:
        """No timer runs any more, and nothing of IKE is sent."""
        if self._driver is not None:
            self._driver.close()

    def close(self) -> None:
        """Close the ports."""
        self.ports.close_all()

    def open_ports(self, address: Address) -> None:
        """Serve IKE at an address."""
        self.ports.open(Endpoint(address, self._listen.ike_port), encapsulating=False)
        local, open_raw = Endpoint(address, self._listen.nat_traversal_port), self._esp_transport.open_raw
        opener = functools.partial(self._carrier.open_link, local)
        raw: Opener | None = None if open_raw is None else functools.partial(open_raw, local)
        self.ports.open(local, encapsulating=True, opener=opener, raw=raw)

    def close_ports(self, address: Address) -> None:
        """Serve IKE at an address no more."""
        self.ports.close(Endpoint(address, self._listen.ike_port))
        self.ports.close(Endpoint(address, self._listen.nat_traversal_port))

    @property
    def remark(self) -> str | None:
        """What is to be said of how ESP travels."""
        return self._esp_transport.remark

    # --- at work

    def now(self) -> float:
        """The machines' clock."""
        return asyncio.get_running_loop().time()

    def pump(self) -> None:
        """Send what waits and take what the IKE SAs tell."""
        if self._driver is not None:
            self._driver.pump()

    def initiate(self, sa: IkeSa, task: Task) -> None:
        """Begin an exchange of an IKE SA's, now or when those before it are done; ``LocalError``."""
        self.endpoint.initiate(sa, task, self.now())
        self.pump()

    def check_path(self, sa: IkeSa) -> None:
        """Begin a return-routability check of the path in use (RFC 4555 §3.7); ``LocalError``."""
        self.endpoint.check_path(sa, self.now())
        self.pump()

    def tell_addresses(self, sa: IkeSa, prefer: Address | None = None) -> None:
        """Tell a UE which addresses the gateway has, and that it is to use one of them (RFC 4555 §3.6)."""
        port = self._listen.nat_traversal_port
        endpoints = [Endpoint(address, port) for address in self._addresses.present(prefer)]
        self.endpoint.set_addresses(sa, endpoints, self.now(), prefer=prefer is not None)

    def tell_if_others(self, sa: IkeSa) -> None:
        """Tell a UE that comes which addresses there are, if they are not those configured."""
        if self._addresses.changed:
            self.tell_addresses(sa)

    def _received(self, datagram: Datagram) -> None:
        self.endpoint.receive(datagram, self.now())
        while (turned := self.endpoint.poll_turned_away()) is not None:
            told = turned_away(turned)  # there is no session: the UE's SPI names the attempt
            self._recorder.event(told.name, told.text, told.data, turned.spi_i.hex())
        self.pump()
