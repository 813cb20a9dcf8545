"""A TUN device: the kernel's IP stack as one end of the userspace data plane.

Made through ``/dev/net/tun`` and configured by netlink (pyroute2); needs CAP_NET_ADMIN. The device is not
persistent: the kernel takes it away with its addresses and routes when it is closed, however that comes.

What we write in a reader's turn (``protocols.io.turn``) is put together first, segments of TCP into super-packets
(``coalescing``). A thread of the kernel's takes it in (NAPI, <kernel>/Documentation/networking/napi.rst), or where
``/sys`` is not ours to write, our own write. The queue in between is bounded: what does not fit is refused and counted.
What we read are single packets: the kernel segments and sums faster than Python. Multiple queues are those of
``protocols.dataplane.fast.tun``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from protocols.dataplane.userspace.coalescing import Coalescer
from protocols.errors import BackendError, LocalError
from protocols.io.namespace import NetworkNamespace
from protocols.io.super_packet import NO_OFFLOAD
from protocols.io.turn import Turn, turn_of

TUN_PATH = "/dev/net/tun"
SYSFS = Path("/sys/class/net")
TUNSETIFF = 0x400454CA  # <linux/if_tun.h>
IFF_TUN = 0x0001
TUNSETSNDBUF = 0x400454D4
IFF_NAPI = 0x0010
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFA_F_NODAD = 0x02  # <linux/if_addr.h>: nobody else is on the link to have the address
RTN_LOCAL = 2  # <linux/rtnetlink.h>
ADDRESS_INTERVAL = 0.002
ADDRESS_ATTEMPTS = 500  # a second altogether
NAME_MAXIMUM = 15  # IFNAMSIZ without its final zero
PACKET_MAXIMUM = 65535
QUEUE_OCTETS = 1024 * 1024  # what the kernel holds of us before it refuses more, its own bookkeeping included
DRAIN_MAXIMUM = 128  # packets per wake-up, so that sockets get their turn

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TunCounters:
    """Packets from the kernel, to the kernel, and those the kernel refused (queue full, device down, not IP)."""

    read: int = 0
    written: int = 0
    refused: int = 0


class TunDevice:
    """An open device; ``start`` hands every packet that the kernel routes into it to a function."""

    comes_in_by_it = True

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.counters = TunCounters()
        self._descriptor = descriptor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: Turn | None = None
        self._coalescer = Coalescer(self._put)
        self._waits = False
        self._closed = False

    @classmethod
    async def open(
        cls,
        name: str,
        addresses: Sequence[Interface],
        mtu: int,
        routes: Sequence[Network] = (),
        *,
        metric: int = 0,
        namespace: NetworkNamespace | None = None,
    ) -> TunDevice:
        """Make the device, give it addresses, set it up and route networks into it, in a namespace or in our own.

        A route of another device to the very same network is refused with a ``metric`` of 0; with a greater one
        that route stays the preferred one.

        ``BackendError`` when the kernel refuses; nothing is left behind then.
        """
        check_name(name)
        device = cls(name, open_queue(name, IFF_NAPI | IFF_VNET_HDR, namespace))
        with opening(f"TUN device {named(name, namespace)}", device.close):
            fcntl.ioctl(device._descriptor, TUNSETSNDBUF, struct.pack("=i", QUEUE_OCTETS))
            if namespace is None:  # or /sys would be another one's
                _take_in_by_thread(name)
            await configure(name, addresses, mtu, routes, metric, namespace)
        return device

    def start(
        self,
        receive: Callable[[bytes], object],
        failed: Callable[[BackendError], object] = _logger.warning,
    ) -> None:
        """Hand packets to ``receive`` from now on, in the running event loop.

        ``failed`` is called once when nothing can come any more: somebody deleted the device.
        """
        if self._closed or self._loop is not None:
            raise LocalError(f"TUN device {self.name} is closed or started already")
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)
        self._loop.add_reader(self._descriptor, self._drain, self._turn, receive, failed)

    def write(self, packet: bytes) -> bool:
        """Give an IP packet to the kernel; ``False`` when it does not take it (counted).

        In a reader's turn it may wait for the turn's end, and is then counted as refused, if it is, later.
        """
        if self._closed:
            raise LocalError(f"TUN device {self.name} is closed")
        if self._turn is None or not self._turn.open:
            return self._put((NO_OFFLOAD, packet), 1)
        if not self._waits:
            self._waits = True
            self._turn.at_end(self._flush)
        return self._coalescer.take(packet)

    def _flush(self) -> None:
        self._waits = False
        self._coalescer.flush()

    def _put(self, parts: Sequence[bytes | bytearray], packets: int) -> bool:
        try:
            os.writev(self._descriptor, parts)
        except OSError:
            self.counters.refused += packets
            return False
        self.counters.written += packets
        return True

    def close(self) -> None:
        """Give the device back, a second time does nothing."""
        if self._closed:
            return
        self._coalescer.flush()
        self._closed = True
        self._stop()
        os.close(self._descriptor)

    def _stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None

    def _drain(self, turn: Turn, receive: Callable[[bytes], object], failed: Callable[[BackendError], object]) -> None:
        turn.begin()
        try:
            for _ in range(DRAIN_MAXIMUM):
                if self._closed:
                    return
                try:
                    octets = os.read(self._descriptor, len(NO_OFFLOAD) + PACKET_MAXIMUM)
                except BlockingIOError:
                    return
                except OSError as error:
                    # The descriptor of a deleted device stays readable for ever.
                    self._stop()
                    failed(BackendError(f"TUN device {self.name}: {error.strerror}"))
                    return
                self.counters.read += 1
                receive(octets[len(NO_OFFLOAD) :])
        finally:
            turn.end()


def check_name(name: str) -> None:
    """``LocalError`` when a network device cannot be called so."""
    if not 0 < len(name.encode()) <= NAME_MAXIMUM:
        raise LocalError(f"{name!r} is no name for a network device")


def named(name: str, namespace: NetworkNamespace | None) -> str:
    """A device as errors and events call it."""
    return name if namespace is None else f"{name} in {namespace}"


def open_queue(name: str, flags: int, namespace: NetworkNamespace | None = None) -> int:
    """A descriptor of a TUN device, which is made where it is not there, without packet information.

    ``flags``: IFF_VNET_HDR, say. ``BackendError``.
    """
    if namespace is not None:
        return namespace.call(lambda: _open_queue(named(name, namespace), name, flags))
    return _open_queue(name, name, flags)


def _open_queue(title: str, name: str, flags: int) -> int:
    try:
        descriptor = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BackendError(f"{TUN_PATH}: {error.strerror}") from error
    with opening(f"TUN device {title}", lambda: os.close(descriptor)):
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | flags))
    return descriptor


@contextlib.contextmanager
def opening(what: str, close: Callable[[], None]) -> Iterator[None]:
    """Close what does not open; ``BackendError`` with ``what`` it is where the kernel refuses."""
    try:
        yield
    except OSError as error:
        close()
        raise BackendError(f"{what}: {error.strerror}") from error
    except NetlinkError as error:
        close()
        raise BackendError(f"{what}: {error.args[-1]}") from error
    except BaseException:
        close()
        raise


def _take_in_by_thread(name: str) -> None:
    """A thread of the kernel's for what we write; none without sysfs of this namespace, or before Linux 5.12."""
    directory = SYSFS / name
    with contextlib.suppress(OSError):
        if int((directory / "ifindex").read_text()) == socket.if_nametoindex(name):
            (directory / "threaded").write_text("1")


async def configure(
    name: str,
    addresses: Sequence[Interface],
    mtu: int,
    routes: Sequence[Network],
    metric: int,
    namespace: NetworkNamespace | None = None,
) -> None:
    """Set a device up with its addresses and routes; ``NetlinkError`` or ``BackendError`` when the kernel refuses."""
    if namespace is not None:
        await namespace.run(lambda: configure(name, addresses, mtu, routes, metric))
        return
    async with AsyncIPRoute() as netlink:
        indices = await netlink.link_lookup(ifname=name)
        if not indices:
            raise BackendError(f"device {name} is not in this network namespace")
        index = indices[0]
        await netlink.link("set", index=index, mtu=mtu, state="up")
        for address in addresses:
            await netlink.addr(
                "add",
                index=index,
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
                flags=IFA_F_NODAD if address.version == 6 else 0,
            )
        for route in routes:
            await netlink.route("add", dst=str(route), oif=index, **({"priority": metric} if metric else {}))
        for address in addresses:
            await _until_local(netlink, name, address)


async def _until_local(netlink: AsyncIPRoute, name: str, address: Interface) -> None:
    """Wait until packets to an address are ours: Linux routes an IPv6 address from a work queue, later."""
    for _ in range(ADDRESS_ATTEMPTS):
        try:
            found = await netlink.route("get", dst=str(address.ip))
        except NetlinkError:
            found = []  # no route at all so far
        if any(route.get("type") == RTN_LOCAL for route in found):
            return
        await asyncio.sleep(ADDRESS_INTERVAL)
    raise BackendError(f"device {name}: the kernel does not take {address.ip} into use")
