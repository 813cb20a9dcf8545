"""The device of the kernel's data plane: what leads inner packets to policies, and has the inner addresses.

Policies are asked once a packet has a route. So networks of the other end are routed into a device of ours, which is

* an XFRM interface where its number is given (``if_id``): SAs and policies of that number are asked by it alone, and
  what they decapsulate comes in by it;
* else a ``dummy``, which no packet of an SA's passes: the SA of its policy takes it before. What no policy takes ends
  there and is counted as refused; it does not leave in the clear. Decapsulated packets come in by the device that the
  ESP packets came by; the kernel exempts them from reverse-path filters.

Both outlive this process. They are marked by their alias (``ip link show`` has it), and by nothing else are those of a
former run known. IPv6 gives them no link-local address: nobody else is on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from protocols.dataplane.userspace.tun import Interface, Network, TunCounters, check_name, configure, opening
from protocols.dataplane.xfrm.segments import MssClamp
from protocols.errors import BackendError, LocalError
from protocols.io.netlink_requests import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NetlinkRefusal, NetlinkRequests, Request
from protocols.io.sysctl import write_sysctl

MARK = "ePDG emulator: inner packets on their way to XFRM"  # IFLA_IFALIAS
XFRM_INTERFACE, DUMMY = "xfrm", "dummy"
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18  # <linux/rtnetlink.h>
RTMGRP_LINK = 1
RECEIVE_LENGTH = 1 << 16
_HEADER = struct.Struct("=IHHIIBxHi")  # nlmsghdr, and ifinfomsg as far as its index
_NETLINK_ROUTE = 0
_NOT_THERE = (errno.ENODEV, errno.ENOENT)
_UNKNOWN_KIND = errno.EOPNOTSUPP


class KernelDevice:
    """An open device; ``comes_in_by_it``: whether decapsulated packets do, else they have come out of IPsec."""

    def __init__(
        self,
        name: str,
        index: int,
        mtu: int,
        if_id: int,
        inject: Callable[[bytes], bool],
        clamp: MssClamp | None = None,
    ) -> None:
        self.name = name
        self.if_id = if_id
        self.comes_in_by_it = bool(if_id)
        self._index = index
        self._most = self._mtu = mtu
        self._inject = inject
        self._clamp = clamp
        self._counters = TunCounters()
        self._watch: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._written = self._refused = 0

    @classmethod
    async def open(
        cls,
        name: str,
        addresses: Sequence[Interface],
        mtu: int,
        routes: Sequence[Network] = (),
        *,
        metric: int = 0,
        if_id: int = 0,
        inject: Callable[[bytes], bool],
        clamp: MssClamp | None = None,
    ) -> KernelDevice:
        """Make the device, give it addresses, set it up and route networks into it; as ``TunDevice.open``.

        ``inject`` gives a packet to the kernel's IP, for ``write``; ``clamp`` is kept fit for the MTU. ``BackendError``
        when the kernel refuses; nothing is left behind then.
        """
        check_name(name)
        device = cls(name, _make(name, if_id), mtu, if_id, inject, clamp)
        with opening(f"device {name}", device.close):
            with contextlib.suppress(BackendError):  # no IPv6, or a /proc/sys that is not ours to write
                write_sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", "1")
            if clamp is not None:
                clamp.fit(mtu)
            await configure(name, addresses, mtu, routes, metric)
        return device

    def start(self, receive: Callable[[bytes], object], failed: Callable[[BackendError], object]) -> None:
        """Watch the device: ``failed`` is called once when somebody deleted it; ``receive`` never is."""
        del receive
        if self._closed or self._loop is not None:
            raise LocalError(f"device {self.name} is closed or started already")
        self._watch = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_ROUTE
        )
        self._watch.bind((0, RTMGRP_LINK))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._watch.fileno(), self._look, failed)

    @property
    def closed(self) -> bool:
        """Whether it was given back."""
        return self._closed

    @property
    def counters(self) -> TunCounters:
        """``read``: packets that the kernel has routed into it, ``refused``: those of them that no SA took."""
        link = None if self._closed else _link(self._index)
        if link is not None:
            self._counters = self._counted(link.get_attr("IFLA_STATS64") or {})
        return self._counters

    def _counted(self, stats: dict[str, int]) -> TunCounters:
        sent, received = stats.get("tx_packets", 0), stats.get("rx_packets", 0)
        if not self.if_id:
            return TunCounters(read=sent, written=self._written, refused=sent + self._refused)
        # an XFRM interface counts most of them twice, as errors and as dropped
        lost = sum(max(stats.get(f"{way}_errors", 0), stats.get(f"{way}_dropped", 0)) for way in ("tx", "rx"))
        return TunCounters(read=sent, written=received + self._written, refused=lost + self._refused)

    def limit(self, mtu: int) -> None:
        """Have this MTU, or the one that it was opened with if that is less; one that is gone is left alone."""
        mtu = min(mtu, self._most)
        if self._closed or mtu == self._mtu:
            return
        link = ifinfmsg()
        link["index"] = self._index
        link["attrs"] = [["IFLA_MTU", mtu]]
        try:
            _change(link, RTM_NEWLINK, f"device {self.name}: an MTU of {mtu}")
        except NetlinkRefusal as error:
            if error.number not in _NOT_THERE:
                raise
        else:
            self._mtu = mtu
            if self._clamp is not None:
                self._clamp.fit(mtu)

    def write(self, packet: bytes) -> bool:
        """Give an IP packet to the kernel; ``False`` when it does not take it (counted).

        Without XFRM interfaces it wants even IPv6 for addresses of its own to come by their SA, and drops it.
        """
        if self._closed:
            raise LocalError(f"device {self.name} is closed")
        taken = self._inject(packet)
        self._written += taken
        self._refused += not taken
        return taken

    def close(self) -> None:
        """Delete the device with its addresses and routes, a second time does nothing."""
        if self._closed:
            return
        self._counters = self.counters
        self._closed = True
        self._stop()
        try:
            if self._clamp is not None:
                self._clamp.close()
        finally:
            _delete(self._index)

    def _stop(self) -> None:
        if self._loop is not None and self._watch is not None:
            self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
        self._loop = self._watch = None

    def _look(self, failed: Callable[[BackendError], object]) -> None:
        """Whether the device is gone; lost messages are no matter, since the kernel is asked then."""
        assert self._watch is not None
        gone = False
        try:
            octets = self._watch.recv(RECEIVE_LENGTH)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                return
            gone = _link(self._index) is None
        else:
            gone = len(octets) >= _HEADER.size and _is_end_of(octets, self._index)
        if gone:
            self._stop()
            failed(BackendError(f"device {self.name}: it is gone"))


def _is_end_of(octets: bytes, index: int) -> bool:
    """Whether a datagram says that a device was deleted; the kernel sends such messages one by one."""
    _, kind, _, _, _, family, _, subject = _HEADER.unpack_from(octets)
    return bool(kind == RTM_DELLINK and family == socket.AF_UNSPEC and subject == index)


def has_xfrm_interfaces() -> bool:
    """Whether the kernel makes XFRM interfaces (Linux 4.19, CONFIG_XFRM_INTERFACE); ``BackendError``: no right to."""
    try:
        index = _make(f"xfrm-{os.getpid()}", 0x655FFFFF, kind=XFRM_INTERFACE)
    except NetlinkRefusal as error:
        if error.number == _UNKNOWN_KIND:
            return False
        raise
    _delete(index)
    return True


def why_no_device() -> str | None:
    """What the kernel lacks for a device of either kind, ``None`` when it has one; it is tried."""
    try:
        if not has_xfrm_interfaces():
            _delete(_make(f"dummy-{os.getpid()}", 0))
    except BackendError as error:
        return str(error)
    return None


def remove_leftovers() -> tuple[str, ...]:
    """Delete the devices that a former run has left; their names."""
    found = []
    for link in _links():
        kind = (link.get_attr("IFLA_LINKINFO") or ifinfmsg()).get_attr("IFLA_INFO_KIND")
        if link.get_attr("IFLA_IFALIAS") == MARK and kind in (XFRM_INTERFACE, DUMMY):
            _delete(link["index"])
            found.append(str(link.get_attr("IFLA_IFNAME")))
    return tuple(found)


def _make(name: str, if_id: int, *, kind: str | None = None) -> int:
    """Make a device and mark it; its index. ``NetlinkRefusal``: nothing is left behind."""
    kind = kind or (XFRM_INTERFACE if if_id else DUMMY)
    info: list[list[Any]] = [["IFLA_INFO_KIND", kind]]
    if if_id:
        info.append(["IFLA_INFO_DATA", {"attrs": [["IFLA_XFRM_IF_ID", if_id]]}])
    link = ifinfmsg()
    link["attrs"] = [["IFLA_IFNAME", name], ["IFLA_LINKINFO", {"attrs": info}]]
    try:
        _change(link, RTM_NEWLINK, f"device {name}", NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkRefusal as error:
        if error.number == _UNKNOWN_KIND and kind == DUMMY:
            what = "neither XFRM interfaces nor dummy devices (modules xfrm_interface, dummy)"
            raise BackendError(f"device {name}: the kernel has {what}") from error
        raise
    index = socket.if_nametoindex(name)
    try:
        link = ifinfmsg()
        link["index"] = index
        link["attrs"] = [["IFLA_IFALIAS", MARK]]
        _change(link, RTM_NEWLINK, f"device {name}")
    except BackendError:
        _delete(index)
        raise
    return index


def _delete(index: int) -> None:
    link = ifinfmsg()
    link["index"] = index
    try:
        _change(link, RTM_DELLINK, "device")
    except NetlinkRefusal as error:
        if error.number not in _NOT_THERE:
            raise


def _link(index: int) -> Any:
    return next((link for link in _links() if link["index"] == index), None)


def _links() -> list[Any]:
    with NetlinkRequests(_NETLINK_ROUTE, "network devices") as netlink:
        return netlink.dump(Request(message=ifinfmsg(), kind=RTM_GETLINK), ifinfmsg)


def _change(message: Any, kind: int, what: str, flags: int = 0) -> None:
    with NetlinkRequests(_NETLINK_ROUTE, what) as netlink:
        netlink.change([Request(message=message, kind=kind, flags=NLM_F_ACK | flags)])
