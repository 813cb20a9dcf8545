"""A TUN device for the fast path: several queues, a virtio_net_hdr, segmentation and checksums left to its reader.

Addresses and routes as in ``protocols.dataplane.userspace.tun``; needs CAP_NET_ADMIN. The device goes when its last
descriptor is closed, those of a ``FastLoop`` included.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Sequence

from protocols.dataplane.userspace.tun import (
    IFF_VNET_HDR,
    Interface,
    Network,
    check_name,
    configure,
    named,
    open_queue,
    opening,
)
from protocols.io.namespace import NetworkNamespace

TUNSETOFFLOAD = 0x400454D0  # <linux/if_tun.h>
TUNSETVNETHDRSZ = 0x400454D8
IFF_MULTI_QUEUE = 0x0100
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_USO4 = 0x20  # Linux 6.2; only both of them together do anything
TUN_F_USO6 = 0x40
VIRTIO_NET_HDR_LENGTH = 10
NO_OFFLOAD = bytes(VIRTIO_NET_HDR_LENGTH)
TCP_OFFLOAD = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
UDP_OFFLOAD = TUN_F_USO4 | TUN_F_USO6


class FastTun:
    """An open device; ``queues`` are its descriptors, for a ``FastLoop`` to read and write.

    ``udp_offload``: the kernel segments and takes coalesced UDP, too.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.queues: tuple[int, ...] = ()
        self.udp_offload = False

    @classmethod
    async def open(
        cls,
        name: str,
        addresses: Sequence[Interface],
        mtu: int,
        routes: Sequence[Network] = (),
        *,
        queues: int = 1,
        metric: int = 0,
        namespace: NetworkNamespace | None = None,
    ) -> FastTun:
        """Make the device, give it addresses, set it up and route networks into it; as ``TunDevice.open``.

        ``BackendError`` when the kernel refuses; nothing is left behind then.
        """
        check_name(name)
        device = cls(name)
        with opening(f"TUN device {named(name, namespace)}", device.close):
            for _ in range(queues):
                device._open_queue(namespace)
            await configure(name, addresses, mtu, routes, metric, namespace)
        return device

    def write(self, packet: bytes) -> None:
        """Give the kernel one packet; ``OSError``: it does not take it."""
        os.write(self.queues[0], NO_OFFLOAD + packet)

    def close(self) -> None:
        """Give the descriptors back, a second time does nothing."""
        for descriptor in self.queues:
            os.close(descriptor)
        self.queues = ()

    def _open_queue(self, namespace: NetworkNamespace | None) -> None:
        descriptor = open_queue(self.name, IFF_VNET_HDR | IFF_MULTI_QUEUE, namespace)
        self.queues += (descriptor,)
        fcntl.ioctl(descriptor, TUNSETVNETHDRSZ, struct.pack("i", VIRTIO_NET_HDR_LENGTH))
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, TCP_OFFLOAD)
        with contextlib.suppress(OSError):  # an older kernel: EINVAL
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, TCP_OFFLOAD | UDP_OFFLOAD)
            self.udp_offload = True
