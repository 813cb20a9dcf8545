"""Network namespaces as a stage: links, addresses, routes, NAT and silent loss, through netlink alone.

A ``Namespace`` has no name in the file system: it is held by a file descriptor (and by the processes
inside it), so the kernel removes it with everything in it when the laboratory ends, however it ends.
``nsenter --net=PATH`` with ``Namespace.path`` is the way in for a person. ``access_topology()`` builds the
network on which moves are shown:

::

      ue ── access A 10.77.1.0/24 ──┐                                       ┌── 10.77.100.1 (on lo)
      ue ── access B 10.77.2.0/24 ──┴ router ── 10.77.0.0/24 ── gateway ────┴── core 10.77.3.0/24 ── core

Needs CAP_SYS_ADMIN and CAP_NET_ADMIN. Left out: traffic shaping (``protocols.io.impair`` does it without
the kernel) and IPv6 NAT.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket
from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
from pyroute2.nftables.expressions import genex, verdict
from pyroute2.nftables.main import NFTables

from protocols.errors import BackendError
from protocols.io.namespace import CLONE_NEWNET, enter, in_thread
from protocols.io.nftables import masquerade, value
from protocols.path import Address

T = TypeVar("T")
Output = int | IO[bytes] | None
Network = IPv4Network | IPv6Network

CLONE_NEWNS = 0x00020000  # <linux/sched.h>
MS_REC = 0x4000  # <linux/mount.h>
MS_PRIVATE = 1 << 18
NF_DROP = 0  # <linux/netfilter.h>
NF_ACCEPT = 1
IFA_F_NODAD = 0x02  # <linux/if_addr.h>: without it the address is tentative until a work queue of the kernel's has run
NAT_TABLES = ("lab-nat-a", "lab-nat-b")
SOURCE_NAT_PRIORITY = 100  # NF_IP_PRI_NAT_SRC of <linux/netfilter_ipv4.h>
TERMINATION_INTERVAL = 5.0  # a process that ignores SIGTERM that long is killed

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise BackendError(f"{what}: {os.strerror(number)}")


class Namespace:
    """One network namespace, its loopback up; a context manager that ends what was started in it."""

    def __init__(self, name: str, *, ipv6: bool = False) -> None:
        self.name = name
        self._processes: list[subprocess.Popen[bytes]] = []
        self._nat_table: str | None = None
        self._descriptor = in_thread(self._create)
        if Path("/proc/sys/net/ipv6").exists():
            for scope in ("all", "default"):
                self.set_sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 0 if ipv6 else 1)
            # Duplicate address detection would hold an address back for a second, and is an address event.
            self.set_sysctl("net/ipv6/conf/default/accept_dad", 0)
        self.set_link("lo", up=True)

    @staticmethod
    def _create() -> int:
        _check(_libc.unshare(CLONE_NEWNET), "cannot make a network namespace")
        path = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def path(self) -> str:
        """Where ``nsenter --net=`` finds this namespace while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes still running inside, then let go of the namespace; again is harmless."""
        for process in reversed(self._processes):
            terminate(process)
        self._processes.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # ------------------------------------------------------------------ inside

    def enter(self) -> None:
        """Take the calling thread, and whatever it starts from now on, inside for good."""
        enter(self._descriptor, f"namespace {self.name}")

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` returns when called inside: a socket opened there stays there."""

        def inside() -> T:
            self.enter()
            return function()

        return in_thread(inside)

    def popen(
        self,
        arguments: Sequence[str | Path],
        *,
        stdout: Output = None,
        stderr: Output = None,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        private_directories: Sequence[str] = (),
        own_sysfs: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process inside; each of ``private_directories`` is an empty tmpfs that only it sees.

        ``own_sysfs``: its ``/sys`` shows this namespace's network devices, as with ``ip netns exec``.
        """

        def start() -> subprocess.Popen[bytes]:
            if private_directories or own_sysfs:
                _check(_libc.unshare(CLONE_NEWNS), "cannot make a mount namespace")
                _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "cannot make / private")
                for hidden in private_directories:
                    mounted = _libc.mount(b"tmpfs", os.fsencode(hidden), b"tmpfs", 0, b"mode=755")
                    _check(mounted, f"cannot mount a tmpfs on {hidden}")
            if own_sysfs:
                _check(_libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "cannot mount /sys")
            return subprocess.Popen(
                [os.fspath(word) for word in arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=None if environment is None else {**os.environ, **environment},
                cwd=directory,
            )

        process = self.call(start)
        self._processes.append(process)
        return process

    def run(self, arguments: Sequence[str | Path], *, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end; its output is text, a non-zero status is the caller's to judge."""
        words = [os.fspath(word) for word in arguments]
        return self.call(
            lambda: subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
            )
        )

    def set_sysctl(self, key: str, value: int) -> None:
        """Write ``/proc/sys/KEY`` as this namespace sees it."""

        def write() -> None:
            Path("/proc/sys", key).write_text(f"{value}\n")

        try:
            self.call(write)
        except OSError as error:
            raise BackendError(f"namespace {self.name}: {key}: {error.strerror}") from error

    # ------------------------------------------------------------------ links, addresses, routes

    def connect(self, interface: str, other: Namespace, other_interface: str) -> None:
        """A veth pair, ``interface`` here and ``other_interface`` there, both up."""
        peer = {"ifname": other_interface, "net_ns_fd": other._descriptor}
        self._netlink(lambda route: route.link("add", ifname=interface, kind="veth", peer=peer))
        self.set_link(interface, up=True)
        other.set_link(other_interface, up=True)

    def set_link(self, interface: str, *, up: bool) -> None:
        """Administrative state; the other end of a veth loses its carrier when this one goes down."""
        state = "up" if up else "down"
        self._netlink(lambda route: route.link("set", index=_index(route, interface), state=state))

    def set_segments_maximum(self, interface: str, segments: int) -> None:
        """How many segments the kernel may leave to ``interface`` in one packet (GSO); 1: it cuts all itself."""
        self._netlink(lambda route: route.link("set", index=_index(route, interface), gso_max_segs=segments))

    def add_address(self, interface: str, address: str | IPv4Interface | IPv6Interface) -> None:
        """Give ``interface`` an address with its prefix length, e.g. ``10.77.1.2/24``."""
        self._address("add", interface, ip_interface(address))

    def delete_address(self, interface: str, address: str | IPv4Interface | IPv6Interface) -> None:
        """Take the address away; routes that prefer it as source go with it."""
        self._address("del", interface, ip_interface(address))

    def _address(self, command: str, interface: str, address: IPv4Interface | IPv6Interface) -> None:
        self._netlink(
            lambda route: route.addr(
                command,
                index=_index(route, interface),
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
                family=_family(address.version),
                flags=IFA_F_NODAD if address.version == 6 else 0,
            )
        )

    def link_address(self, interface: str) -> str:
        """The interface's link-layer address."""
        return str(self._netlink(lambda route: route.get_links(_index(route, interface))[0].get_attr("IFLA_ADDRESS")))

    def add_neighbour(self, interface: str, address: Address, link_address: str) -> None:
        """A permanent entry of the neighbour table: nobody has to be asked, and nothing waits for an answer."""
        self._netlink(
            lambda route: route.neigh(
                "replace",
                dst=str(address),
                lladdr=link_address,
                ifindex=_index(route, interface),
                family=_family(address.version),
                state="permanent",
            )
        )

    def addresses(self) -> frozenset[str]:
        """Every address of this namespace with its prefix length."""

        def read(route: IPRoute) -> frozenset[str]:
            return frozenset(f"{row.get_attr('IFA_ADDRESS')}/{row['prefixlen']}" for row in route.get_addr())

        return self._netlink(read)

    def add_route(
        self,
        destination: str | Network,
        *,
        via: Address | str | None = None,
        interface: str | None = None,
        source: Address | str | None = None,
        metric: int = 0,
    ) -> None:
        """A route through a next hop or an interface; ``source`` is the preferred source address."""
        self._route("add", destination, via, interface, source, metric)

    def delete_route(
        self,
        destination: str | Network,
        *,
        via: Address | str | None = None,
        interface: str | None = None,
        source: Address | str | None = None,
        metric: int = 0,
    ) -> None:
        """Remove the route that ``add_route`` with the same words made."""
        self._route("del", destination, via, interface, source, metric)

    def _route(
        self,
        command: str,
        destination: str | Network,
        via: Address | str | None,
        interface: str | None,
        source: Address | str | None,
        metric: int,
    ) -> None:
        network = ip_network(destination)
        words: dict[str, str | int] = {"dst": str(network), "family": _family(network.version)}
        if via is not None:
            words["gateway"] = str(via)
        if source is not None:
            words["prefsrc"] = str(source)
        if metric:
            words["priority"] = metric

        def change(route: IPRoute) -> None:
            output = {} if interface is None else {"oif": _index(route, interface)}
            route.route(command, **words, **output)

        self._netlink(change)

    def _netlink(self, use: Callable[[IPRoute], T]) -> T:
        def inside() -> T:
            try:
                with IPRoute() as route:
                    return use(route)
            except NetlinkError as error:
                raise BackendError(f"namespace {self.name}: {error}") from error

        return self.call(inside)

    # ------------------------------------------------------------------ NAT and silence

    def masquerade(self, interface: str, ports: range | None = None, *, random: bool = False) -> None:
        """Source NAT (IPv4) of what leaves by ``interface``; UDP source ports from ``ports`` when given.

        ``random``: another port for each destination, as symmetric NATs have it, where the kernel else keeps one.

        In the place of the one before, which goes only then: without any the kernel would not apply the translations
        there are for a moment, and an answer to what has left untranslated in it would keep the NAT from that flow.
        """
        before = self._nat_table
        table = next(name for name in NAT_TABLES if name != before)
        by_interface = _match(Meta.NFT_META_OIFNAME, _interface_name(interface))
        is_udp = _match(Meta.NFT_META_L4PROTO, bytes([socket.IPPROTO_UDP]))

        def change(nft: NFTables) -> None:
            nft.table("add", name=table)
            nft.chain(
                "add",
                table=table,
                name="outgoing",
                type="nat",
                hook="postrouting",
                priority=SOURCE_NAT_PRIORITY,
                policy=NF_ACCEPT,
            )
            if ports is not None:
                rule = (by_interface, is_udp, masquerade(ports, random=random))
                nft.rule("add", table=table, chain="outgoing", expressions=rule)
            nft.rule("add", table=table, chain="outgoing", expressions=(by_interface, masquerade()))
            if before is not None:
                nft.table("del", name=before)

        self._nftables(change)
        self._nat_table = table

    def stop_masquerading(self) -> None:
        """Remove the NAT; ``forget_translations`` too, for flows that it has translated; again is harmless."""
        if self._nat_table is not None:
            self._nftables(lambda nft: nft.table("del", name=self._nat_table))
            self._nat_table = None

    def forget_translations(self) -> None:
        """Empty connection tracking, as a NAT does that restarts."""

        def flush() -> None:
            with NFCTSocket() as tracking:
                tracking.flush()

        self.call(flush)

    def block(self, interface: str, *, incoming: bool = True, outgoing: bool = True) -> None:
        """Silently drop what is forwarded from (incoming) or to ``interface``; its link and addresses stay."""
        table = f"lab-block-{interface}"

        def change(nft: NFTables) -> None:
            nft.table("add", name=table)
            nft.chain("add", table=table, name="through", type="filter", hook="forward", policy=NF_ACCEPT)
            for key, wanted in ((Meta.NFT_META_IIFNAME, incoming), (Meta.NFT_META_OIFNAME, outgoing)):
                if wanted:
                    rule = (_match(key, _interface_name(interface)), verdict(NF_DROP))
                    nft.rule("add", table=table, chain="through", expressions=rule)

        self._nftables(change)

    def unblock(self, interface: str) -> None:
        """Let packets of ``interface`` through again after ``block``."""
        self._nftables(lambda nft: nft.table("del", name=f"lab-block-{interface}"))

    def _nftables(self, use: Callable[[NFTables], object]) -> None:
        def inside() -> None:
            try:
                with NFTables() as nft:
                    use(nft)
            except NetlinkError as error:
                raise BackendError(f"namespace {self.name}: nftables: {error}") from error

        self.call(inside)


def terminate(process: subprocess.Popen[bytes]) -> int:
    """End a process that we started: SIGTERM, after ``TERMINATION_INTERVAL`` SIGKILL; its status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(TERMINATION_INTERVAL)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _index(route: IPRoute, interface: str) -> int:
    found = list(route.link_lookup(ifname=interface))
    if not found:
        raise BackendError(f"no interface {interface}")
    return int(found[0])


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


def _interface_name(interface: str) -> bytes:
    return interface.encode("ascii").ljust(16, b"\0")  # IFNAMSIZ of <linux/if.h>


def _match(key: Meta, wanted: bytes) -> list[object]:
    """The nftables expressions ``meta KEY == VALUE``."""
    register = Regs.NFT_REG_1
    load = genex("meta", {"key": key, "dreg": register})
    return [load, genex("cmp", {"sreg": register, "op": Cmp.NFT_CMP_EQ, "data": value(wanted)})]


# ---------------------------------------------------------------------- the access topology


@dataclass(frozen=True, kw_only=True)
class Access:
    """One access network of the UE: its interface and address, the router's, and the route's preference."""

    interface: str
    address: IPv4Interface
    router_interface: str
    router: IPv4Interface
    metric: int


ACCESS_A = Access(
    interface="access-a",
    address=IPv4Interface("10.77.1.2/24"),
    router_interface="to-access-a",
    router=IPv4Interface("10.77.1.1/24"),
    metric=100,
)
ACCESS_B = Access(
    interface="access-b",
    address=IPv4Interface("10.77.2.2/24"),
    router_interface="to-access-b",
    router=IPv4Interface("10.77.2.1/24"),
    metric=200,
)
DEFAULT_ROUTE = IPv4Network("0.0.0.0/0")
GATEWAY = IPv4Interface("10.77.0.1/24")
GATEWAY_INTERFACE = "swu"
GATEWAY_ROUTER = IPv4Interface("10.77.0.254/24")
GATEWAY_ROUTER_INTERFACE = "to-gateway"
GATEWAY_CORE = IPv4Interface("10.77.3.1/24")
HOST_BEHIND_GATEWAY = IPv4Address("10.77.100.1")
CORE = IPv4Interface("10.77.3.2/24")
CORE_INTERFACE = "core"
INNER_ADDRESSES = IPv4Network("10.46.0.0/24")


@dataclass(frozen=True, kw_only=True)
class AccessTopology:
    """The four namespaces of ``access_topology()`` and what can happen to the UE's accesses."""

    ue: Namespace
    router: Namespace
    gateway: Namespace
    core: Namespace

    def leave(self, access: Access) -> None:
        """The UE loses its address on ``access``, and with it the default route over it."""
        self.ue.delete_address(access.interface, access.address)

    def join(self, access: Access) -> None:
        """The UE gets its address on ``access`` and a default route of that access's metric."""
        self.ue.add_address(access.interface, access.address)
        self.route(access)

    def route(self, access: Access) -> None:
        """The UE gets its default route over ``access``."""
        self.ue.add_route(DEFAULT_ROUTE, via=access.router.ip, source=access.address.ip, metric=access.metric)

    def unroute(self, access: Access) -> None:
        """The UE loses it, and keeps its address."""
        self.ue.delete_route(DEFAULT_ROUTE, via=access.router.ip, source=access.address.ip, metric=access.metric)

    def silence(self, access: Access) -> None:
        """Packets over ``access`` vanish in the router; the UE is told nothing."""
        self.router.block(access.router_interface)

    def restore(self, access: Access) -> None:
        """Undo ``silence``."""
        self.router.unblock(access.router_interface)

    def translate(self, ports: range | None = None) -> None:
        """The router becomes a NAT between all accesses and the gateway."""
        self.router.masquerade(GATEWAY_ROUTER_INTERFACE, ports)

    def rebind(self, ports: range) -> None:
        """The NAT forgets its translations and gives UDP new source ports, out of ``ports``."""
        self.router.masquerade(GATEWAY_ROUTER_INTERFACE, ports)
        self.router.forget_translations()


@contextlib.contextmanager
def access_topology(
    *, accesses: Sequence[Access] = (ACCESS_A, ACCESS_B), inner: IPv4Network = INNER_ADDRESSES
) -> Iterator[AccessTopology]:
    """Build the network drawn in this module's docstring; everything is gone at the end of the block.

    The UE is on every one of ``accesses``; ``core`` routes ``inner`` (the addresses the gateway gives to
    UEs) to the gateway.
    """
    with contextlib.ExitStack() as stack:
        ue, router, gateway, core = (
            stack.enter_context(Namespace(name)) for name in ("ue", "router", "gateway", "core")
        )
        for namespace in (ue, router, gateway, core):
            # A reply may leave by another access than its request came in on (RFC 3704 filters it).
            namespace.set_sysctl("net/ipv4/conf/all/rp_filter", 0)
            namespace.set_sysctl("net/ipv4/conf/default/rp_filter", 0)
        for namespace in (router, gateway):
            namespace.set_sysctl("net/ipv4/ip_forward", 1)
        topology = AccessTopology(ue=ue, router=router, gateway=gateway, core=core)

        gateway.connect(GATEWAY_INTERFACE, router, GATEWAY_ROUTER_INTERFACE)
        gateway.add_address(GATEWAY_INTERFACE, GATEWAY)
        router.add_address(GATEWAY_ROUTER_INTERFACE, GATEWAY_ROUTER)
        gateway.add_address("lo", IPv4Interface(HOST_BEHIND_GATEWAY))
        for access in accesses:
            ue.connect(access.interface, router, access.router_interface)
            router.add_address(access.router_interface, access.router)
            topology.join(access)
            gateway.add_route(access.address.network, via=GATEWAY_ROUTER.ip)

        gateway.connect(CORE_INTERFACE, core, CORE_INTERFACE)
        gateway.add_address(CORE_INTERFACE, GATEWAY_CORE)
        core.add_address(CORE_INTERFACE, CORE)
        core.add_route(inner, via=GATEWAY_CORE.ip)
        core.add_route(f"{HOST_BEHIND_GATEWAY}/32", via=GATEWAY_CORE.ip)
        yield topology
