"""The stage of network namespaces: kernels' interfaces and routes, TUN devices or the kernel's ESP at both ends (root).

Of every access::

    ue ── access-N 10.77.N.2 ── wire (user space: quality of the access, NAT as 10.77.100+N.2) ── 10.77.N.1 gateway

The gateway's addresses 10.77.0.N are on its loopback; core (AAA server, host) is behind it. Nothing of netfilter is
needed, so that kernels without it do as well; with ``NatName.NFTABLES`` the kernel's own NAT is behind the wire::

    ue ── access-N 10.77.N.2 ── wire ── 10.77.N.1 router-N 10.77.100+N.2 ── 10.77.100+N.1 gateway

IPv6 is the same with fd77:N::2, fd77:N::1 and fd77::N; nobody solicits
or advertises routers, and no address waits for duplicate address detection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface
from pathlib import Path
from random import Random
from typing import TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.configurations import AccessPlan, Changes, NetworkPlan, RunFiles, merged
from lab.mobility.accesses import Numbering, Places, access_machines, change_quality, nat_machine
from lab.mobility.live import LiveNodes, LiveScene, configure, node_words, run_live
from lab.mobility.matching import MessageLosses
from lab.mobility.schedule import DirectionSection, Family, MessageKind, NatSection, Schedule
from lab.mobility.stage import Scene, Voice, VoiceLogs
from lab.mobility.stage_name import BackendName, NatName, StageName
from lab.mobility.voices import number, voice_logs
from lab.mobility.wire import Wire
from lab.namespaces import DEFAULT_ROUTE, Namespace
from lab.network.access import AccessNetwork
from lab.processes import READY_INTERVAL, NodeProcess, poll_until
from lab.router import Router
from lab.run_directory import RunDirectory
from protocols.errors import BackendError, StackError
from protocols.io.control import ControlClient
from protocols.path import Address, Endpoint
from protocols.trace.records import JsonValue

NUMBERING = Numbering(
    access4="10.77.{}.2", access6="fd77:{}::2", outside="10.77.1{:02}.2", gateway4="10.77.0.{}", gateway6="fd77::{}"
)
CORE = IPv4Interface("10.77.200.2/24")
GATEWAY_CORE = IPv4Interface("10.77.200.1/24")
INNER = IPv4Network("10.46.0.0/24")
ANY = IPv4Address("0.0.0.0")  # noqa: S104 - whatever the route says
AAA_PORT = 3868
IKE_PORT, NAT_TRAVERSAL_PORT = 500, 4500
INSIDE, OUTSIDE = "inside", "outside"  # of a router
FIRST_TABLE = 100  # of routes by source address
LINK_LENGTHS = {4: 24, 6: 64}  # of the prefix of an access
IPV6_SYSCTLS = Path("/proc/sys/net/ipv6")
DEFAULT_ROUTES: dict[int, IPv4Network | IPv6Network] = {4: DEFAULT_ROUTE, 6: IPv6Network("::/0")}

T = TypeVar("T")


class NamespaceStage:
    """Real time, kernels' networks; ``backend`` is both nodes' ``data_plane.backend``, ``nat`` what translates."""

    name = StageName.NAMESPACES
    real_time = True

    def __init__(self, backend: BackendName = BackendName.AUTO, nat: NatName = NatName.LAB) -> None:
        self.nat = nat
        self._backend = backend

    def perform(self, schedule: Schedule, seed: int, work: Callable[[Scene], Awaitable[T]]) -> T:
        """Namespaces and processes of its own for each run."""
        if os.geteuid() != 0:
            raise BackendError("network namespaces need root; the loopback stage needs none")
        if shutil.which("nsenter") is None:
            raise BackendError("the program nsenter is not installed")
        return run_live(self._main(schedule, seed, work))

    async def _main(self, schedule: Schedule, seed: int, work: Callable[[Scene], Awaitable[T]]) -> T:
        places = NUMBERING.places(schedule)
        with RunDirectory("run") as name, contextlib.ExitStack() as stack:
            files = RunFiles(directory=Path(name))
            topology = stack.enter_context(topology_of(schedule, places, seed, nat=self.nat))
            self._configure(files, schedule, places)
            words = {
                name: topology.place(where, node_words(files, name))
                for name, where in (("ue", topology.ue), ("epdg", topology.epdg), ("aaa", topology.core))
            }
            nodes = LiveNodes(files, words)
            nodes.on_record(topology.losses.learn)
            async with nodes.running():
                scene = NamespaceScene(nodes, topology, files, tells_accesses=not manages(schedule))
                try:
                    await scene.open()
                    return await nodes.watched(work(scene))
                finally:
                    await scene.close()

    def _configure(self, files: RunFiles, schedule: Schedule, places: Places) -> None:
        addresses: list[JsonValue] = [str(address) for address in places.gateways.values()]
        plan = NetworkPlan(
            aaa=Endpoint(CORE.ip, AAA_PORT),
            gateway=next(iter(places.gateways.values())),
            ike_port=IKE_PORT,
            nat_traversal_port=NAT_TRAVERSAL_PORT,
            accesses=[AccessPlan(name=name, label=name, address=address) for name, address in places.accesses.items()],
            pools={"internet": INNER},
            core_host=CORE.ip,
            tun=True,
        )
        ue = places.ue_changes(schedule)
        if manages(schedule):  # it sees for itself what becomes of its addresses
            interfaces: dict[str, JsonValue] = {
                name: {"interface": _interface(number)} for number, name in enumerate(places.accesses, 1)
            }
            ue = merged({"accesses": interfaces}, ue)
        epdg = merged({"listen": {"addresses": addresses}}, schedule.epdg)
        carried: Changes = {"data_plane": {"backend": self._backend.value}}
        changes = {"ue": merged(carried, ue), "epdg": merged(carried, epdg), "aaa": schedule.aaa}
        configure(files, plan, changes)


def manages(schedule: Schedule) -> bool:
    """Whether the UE decides by itself where it is; its accesses are interfaces then, too many for the kernel's ESP."""
    management = schedule.ue.get("management")
    return isinstance(management, dict) and management.get("automatic") is True


def _interface(number: int) -> str:
    return f"access-{number}"


# --- the network --------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Access:
    """One access's part of the network."""

    number: int
    wire: Wire
    interface: str
    address: IPv4Interface | IPv6Interface
    next_hop: Address
    router: Router | None = None
    """The kernel's NAT, where it is not the wire's."""

    @property
    def default_route(self) -> IPv4Network | IPv6Network:
        """Of its IP version."""
        return DEFAULT_ROUTES[self.address.version]

    @property
    def metric(self) -> int:
        """Later accesses are of lower preference."""
        return 100 * self.number


@dataclass(kw_only=True)
class Topology:
    """The namespaces of a run, and what can happen to them (``lab.mobility.stage.Network``)."""

    ue: Namespace
    epdg: Namespace
    core: Namespace
    places: Places
    losses: MessageLosses = field(default_factory=MessageLosses)
    down: set[Address] = field(default_factory=set)
    accesses: dict[str, _Access] = field(default_factory=dict)

    def place(self, namespace: Namespace, words: Sequence[str]) -> list[str]:
        """The command that runs ``words`` inside."""
        return ["nsenter", f"--net={namespace.path}", "--", *words]

    async def present(self, access: str, present: bool) -> None:
        """The interface's address comes or goes, and its routes with it."""
        found = self.accesses[access]
        found.wire.access.up = present
        if present:
            _join(self.ue, found)
        else:
            _leave(self.ue, found)

    async def captive(self, access: str, captive: bool) -> None:
        """Swallows everything or not."""
        self.accesses[access].wire.access.captive = captive

    async def impair(self, access: str, up: DirectionSection | None, down: DirectionSection | None) -> None:
        """Another quality."""
        change_quality(self.accesses[access].wire.access, up, down)

    async def rebind(self, access: str) -> None:
        """The NAT forgets its translations and gives other ports."""
        found = self.accesses[access]
        if found.router is not None:
            await asyncio.to_thread(found.router.rebind)
        elif found.wire.access.nat is not None:
            found.wire.access.nat.rebind()

    async def translate(self, access: str, nat: NatSection) -> None:
        """Another NAT or none."""
        found = self.accesses[access]
        if found.router is not None:
            await asyncio.to_thread(found.router.translate, nat.kind, nat.lifetime)
        else:
            found.wire.access.nat = nat_machine(nat, self.places.outsides[access])

    async def gateway(self, address: str, up: bool) -> None:
        """Reachable or not, as seen from every access."""
        if up:
            self.down.discard(self.places.gateways[address])
        else:
            self.down.add(self.places.gateways[address])

    async def lose(self, message: MessageKind, count: int, access: str | None) -> None:
        """The next ones vanish."""
        self.losses.order(message, count, access)

    def lost(self) -> dict[str, int]:
        """By kind."""
        return dict(self.losses.lost)


@contextlib.contextmanager
def topology_of(
    schedule: Schedule,
    places: Places,
    seed: int,
    losses: MessageLosses | None = None,
    *,
    nat: NatName = NatName.LAB,
) -> Iterator[Topology]:
    """The network of a schedule, its wires on the running loop; ``losses`` who says which messages vanish."""
    with contextlib.ExitStack() as stack:
        ipv6 = any(address.version == 6 for address in (*places.accesses.values(), *places.gateways.values()))
        ue, gateway = (stack.enter_context(_namespace(name, ipv6=ipv6)) for name in ("ue", "gateway"))
        wires, core = (stack.enter_context(_namespace(name)) for name in ("wires", "core"))
        topology = Topology(ue=ue, epdg=gateway, core=core, places=places, losses=losses or MessageLosses())
        gateway.set_sysctl("net/ipv4/ip_forward", 1)
        gateway.connect("core", core, "gateway")
        gateway.add_address("core", GATEWAY_CORE)
        core.add_address("gateway", CORE)
        core.add_route(INNER, via=GATEWAY_CORE.ip)
        for address in places.gateways.values():
            gateway.add_address("lo", ip_interface(address))
        machines = access_machines(schedule, places.accesses, places.outsides)
        for number, (name, section) in enumerate(schedule.accesses.items(), 1):
            random = Random(f"{seed}/{name}")  # noqa: S311 - no secrets
            behind = None
            if nat is NatName.NFTABLES and section.family is Family.IPV4:
                behind = stack.enter_context(_namespace(f"router-{number}"))
                machines[name].nat = None
            access = _add_access(topology, wires, behind, number, machines[name], random)
            stack.callback(access.wire.close)
            topology.accesses[name] = access
            if access.router is not None:
                access.router.translate(section.nat.kind, section.nat.lifetime)
            if section.present:
                _join(ue, access)
        yield topology


def _namespace(name: str, *, ipv6: bool = False) -> Namespace:
    if ipv6 and not IPV6_SYSCTLS.exists():
        raise BackendError("the kernel has no IPv6, which this schedule needs")
    namespace = Namespace(name, ipv6=ipv6)
    for scope in ("all", "default"):
        # a reply may leave by another access than its request came in on (RFC 3704 filters it)
        namespace.set_sysctl(f"net/ipv4/conf/{scope}/rp_filter", 0)
    for key in ("accept_ra", "router_solicitations", "dad_transmits") if ipv6 else ():
        namespace.set_sysctl(f"net/ipv6/conf/default/{key}", 0)
    return namespace


def _add_access(
    topology: Topology,
    wires: Namespace,
    behind: Namespace | None,
    number: int,
    machine: AccessNetwork,
    random: Random,
) -> _Access:
    """``behind``: the namespace of the router that translates, if it is not the wire."""
    ue, gateway = topology.ue, topology.epdg
    interface, network = _interface(number), f"network-{number}"
    address = ip_interface(f"{machine.address}/{LINK_LENGTHS[machine.address.version]}")
    next_hop = ip_interface(f"{address.network[1]}/{address.network.prefixlen}")
    outside = topology.places.outsides[machine.name]
    end, end_interface = (gateway, network) if behind is None else (behind, INSIDE)
    ue.connect(interface, wires, f"ue-{number}")
    wires.connect(f"wire-{number}", end, end_interface)
    router = None if behind is None else _add_router(behind, gateway, network, outside, address)
    for namespace, name in ((ue, interface), (gateway, network), (end, end_interface)):
        namespace.set_segments_maximum(name, 1)  # a wire carries packets, not bundles of them
    end.add_address(end_interface, next_hop)
    reached = [address.ip]
    if behind is None and address.version == 4:
        gateway.add_route(f"{outside}/32", interface=network)
        reached.append(outside)
    # else what comes for an address that is gone waits here for ARP, and arrives seconds later with the address
    for each in reached:
        end.add_neighbour(end_interface, each, ue.link_address(interface))
    wire = Wire(wires, f"ue-{number}", f"wire-{number}", machine, topology.losses, topology.down, random)
    return _Access(number=number, wire=wire, interface=interface, address=address, next_hop=next_hop.ip, router=router)


def _add_router(
    behind: Namespace, gateway: Namespace, network: str, outside: Address, ue: IPv4Interface | IPv6Interface
) -> Router:
    """The way on from a router to the gateway, and back also where nothing is translated."""
    near = IPv4Interface(f"{outside}/{LINK_LENGTHS[4]}")
    far = IPv4Interface(f"{near.network[1]}/{near.network.prefixlen}")
    behind.connect(OUTSIDE, gateway, network)
    behind.add_address(OUTSIDE, near)
    gateway.add_address(network, far)
    behind.add_route(DEFAULT_ROUTE, via=far.ip)
    gateway.add_route(ue.network, via=near.ip)
    assert isinstance(ue.ip, IPv4Address)
    return Router(behind, OUTSIDE, ue.ip)


def _join(ue: Namespace, access: _Access) -> None:
    """The address, a default route of lower preference for later accesses, and one by source address."""
    ue.add_address(access.interface, access.address)
    ue.add_route(access.default_route, via=access.next_hop, source=access.address.ip, metric=access.metric)
    table = FIRST_TABLE + access.number
    family = socket.AF_INET if access.address.version == 4 else socket.AF_INET6

    def by_source() -> None:
        try:
            with IPRoute() as route:
                rules = [rule for rule in route.get_rules(family=family) if rule.get_attr("FRA_TABLE") == table]
                address = access.address.ip
                if not rules:
                    source = {"src": str(address), "src_len": address.max_prefixlen}
                    route.rule("add", family=family, table=table, priority=table, **source)
                way = {"dst": str(access.default_route), "gateway": str(access.next_hop)}
                route.route("replace", family=family, table=table, **way)
        except NetlinkError as error:
            raise BackendError(f"namespace {ue.name}: {error}") from error

    ue.call(by_source)


def _leave(ue: Namespace, access: _Access) -> None:
    """The address goes; IPv4 takes the routes that prefer it as source along, IPv6 leaves them without a source."""
    ue.delete_address(access.interface, access.address)
    if access.address.version == 6:
        ue.delete_route(access.default_route, via=access.next_hop, metric=access.metric)


# --- the scene ----------------------------------------------------------------------------------------


class _HostVoice:
    """A call between a host beside the UE and one in the core, both ``lab host``."""

    def __init__(self, caller: ControlClient, callee: ControlClient, flow: int, ssrc: int) -> None:
        self._caller = caller
        self._callee = callee
        self._flow = flow
        self._ssrc = ssrc

    async def stop(self) -> None:
        """Send no more."""
        await self._caller.call("host.stop", id=self._flow)

    async def logs(self) -> VoiceLogs:
        """What both have noted."""
        mine = await self._caller.call("host.log", ssrc=self._ssrc)
        theirs = await self._callee.call("host.log", ssrc=self._ssrc)
        return voice_logs(mine, theirs)


class NamespaceScene(LiveScene):
    """Processes and namespaces as the player wants them."""

    def __init__(self, nodes: LiveNodes, topology: Topology, files: RunFiles, *, tells_accesses: bool) -> None:
        super().__init__(nodes, topology.places.gateways)
        self.tells_accesses = tells_accesses
        self._topology = topology
        self.network = topology
        self._hosts = {
            name: self._host(files, name, namespace, address)
            for name, namespace, address in (("ue-host", topology.ue, ANY), ("core-host", topology.core, CORE.ip))
        }

    def _host(self, files: RunFiles, name: str, namespace: Namespace, address: IPv4Address) -> NodeProcess:
        control = files.control(name)
        words = [sys.executable, "-m", "lab", "host", "--control", str(control), "--address", str(address)]
        return NodeProcess(name, self._topology.place(namespace, words), log=files.log(name), control=control)

    async def open(self) -> None:
        """Both hosts, ready."""
        for host in self._hosts.values():
            await host.start()
        for host in self._hosts.values():
            await poll_until(_status_of(host.client), what=f"{host.name} does not get ready", interval=READY_INTERVAL)

    async def close(self) -> None:
        """End the hosts."""
        for host in self._hosts.values():
            await asyncio.shield(host.terminate())

    async def voice(self, rate: float) -> Voice:
        """Between both hosts, through both TUN devices."""
        caller, callee = self._hosts["ue-host"].client, self._hosts["core-host"].client
        answer = await caller.call("host.start", destination=str(CORE.ip), rate=rate)
        return _HostVoice(caller, callee, number(answer, "id"), number(answer, "ssrc"))

    async def leaks(self) -> list[str]:
        """Devices that the UE has left."""
        names = self._topology.ue.call(_interfaces)
        return [f"the UE's device {name}" for name in names if name != "lo" and not name.startswith("access-")]


def _status_of(client: ControlClient) -> Callable[[], Awaitable[bool | None]]:
    async def status() -> bool | None:
        with contextlib.suppress(StackError):
            await client.call("host.status")
            return True
        return None

    return status


def _interfaces() -> list[str]:
    with IPRoute() as route:
        return [str(link.get_attr("IFLA_IFNAME")) for link in route.get_links()]
