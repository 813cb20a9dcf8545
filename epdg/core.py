"""What is behind the gateway: in-process hosts that answer echo, voice and TCP, or a TUN device."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from epdg.config import DataPlaneKind, DataPlaneSection
from epdg.pdn.pool import AddressPool
from protocols.dataplane.userspace.services import ServiceHost
from protocols.entropy import Entropy
from protocols.errors import BackendError
from protocols.io.driver import Driver
from protocols.media.voice import VoiceEndpoint

if TYPE_CHECKING:
    from protocols.dataplane.userspace.tun import TunDevice


class Core:
    """The network of the inner addresses; ``send`` takes what it sends to UEs."""

    def __init__(
        self,
        section: DataPlaneSection,
        pools: tuple[AddressPool, ...],
        send: Callable[[bytes], None],
        entropy: Entropy,
    ) -> None:
        self._section = section
        self._pools = pools
        self._send = send
        self._entropy = entropy
        self._hosts: dict[bytes, _Host] = {}
        self._tun: TunDevice | None = None

    async def open(self, failed: Callable[[BackendError], None]) -> None:
        """Make the hosts or open the device; ``failed`` is told when that breaks later."""
        if self._section.kind is DataPlaneKind.IN_PROCESS:
            for address in (*self._section.hosts, *(pool.gateway for pool in self._pools)):
                self._hosts[address.packed] = _Host(ServiceHost(address, self._entropy), self._send)
            return
        from protocols.dataplane.userspace.tun import TunDevice  # netlink's library takes a while

        addresses = [ip_interface(f"{pool.gateway}/{pool.network.prefixlen}") for pool in self._pools]
        self._tun = await TunDevice.open(self._section.device, addresses, self._section.mtu)
        self._tun.start(self._send, failed)

    def close(self) -> None:
        """Close the device, stop the hosts."""
        for host in self._hosts.values():
            host.driver.close()
        if self._tun is not None:
            self._tun.close()

    def deliver(self, packet: bytes) -> bool:
        """Take a packet of a UE; ``False`` when nobody has its destination address."""
        if self._tun is not None:
            self._tun.write(packet)
            return True
        host = self._hosts.get(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
        if host is None:
            return False
        host.machine.receive(packet, host.driver.now())
        host.driver.pump()
        return True

    def call(self, ssrc: int) -> VoiceEndpoint | None:
        """The hosts' end of the voice call of a caller with this SSRC."""
        found = (host.machine.voice.call(ssrc) for host in self._hosts.values())
        return next((call for call in found if call is not None), None)


class _Host:
    """An in-process host and what drives it."""

    def __init__(self, machine: ServiceHost, send: Callable[[bytes], None]) -> None:
        self.machine = machine
        self.driver: Driver[None, bytes] = Driver(machine, on_event=lambda event: None, transmit=send)
