"""What is behind the gateway: in-process hosts that answer echo, voice and TCP, or a TUN device."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TYPE_CHECKING

from epdg.config import ApnSection, DataPlaneKind, DataPlaneSection
from protocols.dataplane.carrier import InnerDevice
from protocols.dataplane.userspace.services import ServiceHost
from protocols.entropy import Entropy
from protocols.errors import BackendError
from protocols.io.driver import Driver
from protocols.media.voice import VoiceEndpoint
from protocols.path import Address
from protocols.trace.records import JsonValue

if TYPE_CHECKING:
    from epdg.pdn.egress import Egress

DeviceOpener = Callable[[str, list[IPv4Interface | IPv6Interface], int], Awaitable[InnerDevice]]


class Core:
    """The network of the inner addresses; ``send`` takes what it sends to UEs."""

    def __init__(
        self,
        section: DataPlaneSection,
        apns: Mapping[str, ApnSection],
        send: Callable[[bytes], None],
        entropy: Entropy,
    ) -> None:
        self._section = section
        self._apns = dict(apns)
        self._networks = [network for apn in apns.values() for network in apn.networks]
        self._send = send
        self._entropy = entropy
        self._hosts: dict[bytes, _Host] = {}
        self._tun: InnerDevice | None = None
        self._egress: Egress | None = None

    async def open(self, open_device: DeviceOpener, failed: Callable[[BackendError], None]) -> None:
        """Make the hosts or open the device; ``failed`` is told when that breaks later."""
        if self._section.kind is DataPlaneKind.IN_PROCESS:
            for address in (*self._section.hosts, *(network[1] for network in self._networks)):
                self._hosts[address.packed] = _Host(ServiceHost(address, self._entropy), self._send)
            return
        from epdg.pdn.egress import Egress  # netlink's library takes a while

        addresses = [ip_interface(f"{network[1]}/{network.prefixlen}") for network in self._networks]
        self._tun = await open_device(self._section.device, addresses, self._section.mtu)
        self._egress = Egress(self._section.device, self._apns)
        self._egress.open()
        self._tun.start(self._send, failed)

    def close(self) -> None:
        """Close the device with all that goes with it, stop the hosts."""
        for host in self._hosts.values():
            host.driver.close()
        if self._tun is not None:
            self._tun.close()
        if self._egress is not None:
            self._egress.close()

    @property
    def dropped(self) -> dict[str, JsonValue]:
        """Packets for the TUN device that the kernel did not take, its queue being full, say."""
        refused = 0 if self._tun is None else self._tun.counters.refused
        return {"refused": refused} if refused else {}

    def admit(self, apn: str, address: Address) -> None:
        """Lead a static address that is in no pool here; ``BackendError``: it is somebody else's."""
        if self._egress is not None:
            self._egress.admit(apn, address)

    def dismiss(self, address: Address) -> None:
        """Undo ``admit``."""
        if self._egress is not None:
            self._egress.dismiss(address)

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
