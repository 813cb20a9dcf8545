"""What is behind the gateway: in-process hosts that answer echo, voice and TCP, or a device of the kernel's.

A device that somebody takes away is made anew, with everything that goes with it; sessions know nothing of that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
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

REOPEN_INTERVAL = 1.0  # seconds between attempts to make a lost device anew
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
        self._admitted: dict[Address, str] = {}
        self._reopening: asyncio.Task[None] | None = None
        self._dropped: Counter[str] = Counter()

    async def open(
        self,
        open_device: DeviceOpener,
        lost: Callable[[BackendError], None],
        back: Callable[[], None],
    ) -> None:
        """Make the hosts or open the device; ``BackendError``: the system refuses.

        ``lost`` is told when the device goes away later, ``back`` when it is there again.
        """
        if self._section.kind is DataPlaneKind.IN_PROCESS:
            for address in (*self._section.hosts, *(network[1] for network in self._networks)):
                self._hosts[address.packed] = _Host(ServiceHost(address, self._entropy), self._send)
            return
        await self._open_device(open_device, lost, back)

    async def _open_device(
        self, open_device: DeviceOpener, lost: Callable[[BackendError], None], back: Callable[[], None]
    ) -> None:
        from epdg.pdn.egress import Egress  # netlink's library takes a while

        def failed(error: BackendError) -> None:
            self._close_device()
            lost(error)
            self._reopening = asyncio.get_running_loop().create_task(self._reopen(open_device, lost, back))

        addresses = [ip_interface(f"{network[1]}/{network.prefixlen}") for network in self._networks]
        self._tun = await open_device(self._section.device, addresses, self._section.mtu)
        self._egress = Egress(self._section.device, self._apns, by_ipsec=not self._tun.comes_in_by_it)
        self._egress.open()
        for address, apn in self._admitted.items():
            self._egress.admit(apn, address)
        self._tun.start(self._send, failed)

    async def _reopen(
        self, open_device: DeviceOpener, lost: Callable[[BackendError], None], back: Callable[[], None]
    ) -> None:
        while True:
            try:
                await self._open_device(open_device, lost, back)
            except BackendError:
                self._close_device()
                await asyncio.sleep(REOPEN_INTERVAL)
            else:
                back()
                return

    def close(self) -> None:
        """Close the device with all that goes with it, stop the hosts."""
        for host in self._hosts.values():
            host.driver.close()
        if self._reopening is not None:
            self._reopening.cancel()
        self._close_device()

    def _close_device(self) -> None:
        tun, self._tun = self._tun, None
        egress, self._egress = self._egress, None
        if tun is not None:
            self._dropped["refused"] += tun.counters.refused
            tun.close()
        if egress is not None:
            egress.close()

    @property
    def dropped(self) -> dict[str, JsonValue]:
        """Packets for the device that the kernel did not take, its queue being full, say, or while there was none."""
        refused = 0 if self._tun is None else self._tun.counters.refused
        return dict(+(self._dropped + Counter(refused=refused)))

    def admit(self, apn: str, address: Address) -> None:
        """Lead a static address that is in no pool here; ``BackendError``: it is somebody else's."""
        if self._egress is not None:
            self._egress.admit(apn, address)
        self._admitted[address] = apn

    def dismiss(self, address: Address) -> None:
        """Undo ``admit``."""
        self._admitted.pop(address, None)
        if self._egress is not None:
            self._egress.dismiss(address)

    def deliver(self, packet: bytes) -> bool:
        """Take a packet of a UE; ``False`` when nobody has its destination address."""
        if self._tun is not None:
            self._tun.write(packet)
            return True
        if self._section.kind is DataPlaneKind.TUN:
            self._dropped["no-device"] += 1
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
