"""UE, gateway, AAA server and HSS in one process on virtual time, made from a seed and nothing else.

::

    UE ── accesses (lab.network) ── gateway addresses │ gateway ── SWm ── AAA server ── SWx ── HSS ── SQLite
                                                      └── core host (answers echo)

The nodes are the product's own: configuration files, control methods, IKE, ESP, Diameter and database are
those of a live run. Keys, certificates, temporary identities, losses and delays come from the seed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, ip_address
from types import TracebackType
from typing import Protocol, TypeVar

from aaa.config import AaaConfiguration, Role
from aaa.runtime import AaaNode
from aaa.subscribers import SubscriberDatabase
from epdg.config import EpdgConfiguration
from epdg.runtime import EpdgNode
from lab.configurations import APNS, PLMN, AccessPlan, Changes, NetworkPlan, RunFiles, merged, prepare
from lab.memory import memory_directory
from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from lab.run_directory import RunDirectory
from lab.virtual.loop import VirtualLoop
from lab.virtual.names import VirtualNames
from lab.virtual.network import VirtualNetwork
from lab.virtual.nodes import VirtualClock, VirtualControl
from lab.virtual.streams import SOURCE
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError
from protocols.io.configuration import load
from protocols.io.platform import Platform
from protocols.path import Address, Endpoint
from protocols.threegpp.identity import epdg_fqdn
from protocols.trace.records import JsonValue
from ue.config import UeConfiguration
from ue.runtime import UeNode

START = datetime(2026, 1, 1, tzinfo=UTC)
GATEWAY = IPv4Address("203.0.113.1")
AAA = Endpoint.of("192.0.2.10", 3868)
HSS = Endpoint.of("192.0.2.11", 3868)
GATEWAY_CORE = IPv4Address("192.0.2.1")  # where the gateway's Diameter connections come from
CORE_HOST = IPv4Address("10.99.0.1")
IKE_PORT, NAT_TRAVERSAL_PORT = 500, 4500
WATCHDOG_INTERVAL = 3600.0  # RFC 3539's 30 s would be most of what happens over a weekend; streams here do not rot

CONNECT_INTERVAL, CONNECT_LOOK = 60.0, 0.1  # how long, and how often, the gateway's Diameter peer is waited for

_CHANGES: Mapping[str, Changes] = {
    "aaa": {
        "hss": {"listen": {"address": str(HSS.address), "port": HSS.port}, "poll_interval": None},
        "diameter": {"watchdog_interval": WATCHDOG_INTERVAL},
    },
    "epdg": {"diameter": {"watchdog_interval": WATCHDOG_INTERVAL}},
}

T = TypeVar("T")


class _Node(Protocol):
    """What the three have in common."""

    async def run(self) -> None:
        """Serve until ``stop``."""

    def stop(self) -> None:
        """End ``run``."""


def access(name: str, address: str, *, delay: float = 0.01) -> AccessNetwork:
    """An access without loss and NAT, ``delay`` seconds each way."""
    path = Impairments(delay=delay)
    return AccessNetwork(name, ip_address(address), uplink=path, downlink=path)


class VirtualWorld:
    """Three nodes and their network; an asynchronous context on a running ``VirtualLoop``.

    ``changes`` are merged into the configurations of "ue", "epdg" and "aaa". The UE is told the gateway's first
    address of each IP version. ``ue``, ``epdg`` and ``aaa`` answer ``call`` and hold their ``trace``; ``network``,
    ``streams`` and ``names`` are there to be disturbed.
    """

    def __init__(
        self,
        *,
        seed: str | int = 0,
        accesses: Sequence[AccessNetwork] | None = None,
        gateways: Sequence[Address] = (GATEWAY,),
        changes: Mapping[str, Changes] | None = None,
        export_keys: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise BackendError("a virtual world runs on a VirtualLoop")
        if accesses is None:
            accesses = (access("wifi-a", "10.1.0.2"), access("wifi-b", "10.2.0.2"))
        self.seed = seed
        self.loop = loop
        self.clock = VirtualClock(loop, START)
        self.accesses = {each.name: each for each in accesses}
        self.gateways = tuple(gateways)
        self.network = VirtualNetwork(loop, accesses, self.gateways, seed=seed)
        self.streams = loop.streams
        self.names = VirtualNames()
        self.names.addresses[epdg_fqdn(PLMN)] = self.gateways
        self.ue, self.epdg, self.aaa = (VirtualControl(name) for name in ("ue", "epdg", "aaa"))
        self._changes = changes or {}
        self._export_keys = export_keys
        self._directory = RunDirectory("virtual", memory_directory())
        self._running: list[tuple[asyncio.Task[None], Callable[[], None], str]] = []

    # --- life

    async def __aenter__(self) -> VirtualWorld:
        """Make the configurations and start the nodes; back when the gateway has its AAA server."""
        try:
            files = self.files = RunFiles(directory=self._directory.path)
            self._prepare(files)
            self._start(files)
            for control, (task, _, _) in zip((self.aaa, self.epdg, self.ue), self._running, strict=True):
                await self._ready(control, task)
            await self._connected()
        except BaseException:
            await self._abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            await self._abandon()
            return
        await self.stop()

    async def stop(self) -> None:
        """End the nodes in order; ``BackendError`` for what went wrong behind anybody's back. Again is harmless."""
        running, self._running = self._running, []
        try:
            for task, stop, _ in reversed(running):
                stop()
                await task
        finally:
            self._directory.cleanup()
        if self.loop.failures:
            raise BackendError("; ".join(self.loop.failures))

    async def _abandon(self) -> None:
        running, self._running = self._running, []
        for task, _, _ in reversed(running):
            task.cancel()
            await asyncio.wait((task,))
        self._directory.cleanup()

    # --- time

    def now(self) -> float:
        """The loop's clock."""
        return self.loop.time()

    async def advance(self, seconds: float) -> None:
        """Let so many seconds pass; ``BackendError`` when a node ends meanwhile."""
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, moment: float) -> None:
        """Let time pass up to a moment of the loop's clock."""
        waiting = asyncio.ensure_future(asyncio.sleep(max(moment - self.now(), 0.0)))
        try:
            await asyncio.wait([waiting, *(task for task, _, _ in self._running)], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._raise_ended()
        finally:
            waiting.cancel()

    # --- what is to be judged

    def fingerprint(self) -> str:
        """Of all records of all nodes, all datagrams and streams: equal in runs that are equal, octet by octet."""
        digest = hashlib.sha256(f"{self.network.digest()} {self.streams.digest()}".encode())
        for control in (self.ue, self.epdg, self.aaa):
            for record in control.trace:
                digest.update(json.dumps(record.to_json()).encode())
        return digest.hexdigest()

    async def leaks(self) -> list[str]:
        """What is left on either side of a UE that has detached; a sentence each."""
        found = [f"ue: {what} of {name}" for name, pdn in self.ue_node.pdns.items() for what in pdn.holdings()]
        outside = {Endpoint(address, port) for address in self.gateways for port in (IKE_PORT, NAT_TRAVERSAL_PORT)}
        found += [f"ue: port {port} is open" for port in self.network.open_ports if port not in outside]
        epdg = self.epdg_node
        found += [f"epdg: session {live.session.identifier}" for live in epdg.sessions.live.values()]
        found += [f"epdg: IKE SA {spi.hex()}" for spi in epdg.swu.endpoint.sas]
        found += [f"epdg: child SA {spi.hex()}" for spi in epdg.child_sas.data_plane.installed]
        found += [f"epdg: {pool.in_use} addresses of {name}" for name, pool in epdg.grants.pools.items() if pool.in_use]
        status = await self.aaa.call("node.status")
        assert isinstance(status, dict)
        hss = status["hss"]
        assert isinstance(hss, dict)
        found += [f"aaa: {count} sessions" for count in (status["sessions"],) if count]
        found += [f"hss: {count} registrations" for count in (hss["registrations"],) if count]
        return found

    # --- how it comes about

    def _gateway_of(self, version: int) -> Address:
        """Where the UE finds the gateway from an access of an IP version."""
        return next((address for address in self.gateways if address.version == version), self.gateways[0])

    def _prepare(self, files: RunFiles) -> None:
        first = next(iter(self.accesses.values())).address.version
        other = next((each for each in self.gateways if each.version != first), None)
        both: Changes = {} if other is None else {"gateway": {"other_address": str(other)}}
        plan = NetworkPlan(
            aaa=AAA,
            gateway=self._gateway_of(first),
            ike_port=IKE_PORT,
            nat_traversal_port=NAT_TRAVERSAL_PORT,
            accesses=[
                AccessPlan(name=each.name, label=each.name, address=each.address) for each in self.accesses.values()
            ],
            pools={name: IPv4Network(f"10.{45 + number}.0.0/24") for number, name in enumerate(APNS)},
            core_host=CORE_HOST,
            tun=False,
        )
        addresses: list[JsonValue] = [str(address) for address in self.gateways]
        changes = {"ue": both, **_CHANGES}
        changes["epdg"] = merged(changes["epdg"], {"listen": {"addresses": addresses}})
        for node, further in self._changes.items():
            changes[node] = merged(changes[node], further)
        self.subscriber = prepare(
            files,
            plan,
            export_keys=self._export_keys,
            dashboard=None,
            changes=changes,
            entropy=SeededEntropy(f"{self.seed}/files"),
            now=START,
        )

    def _start(self, files: RunFiles) -> None:
        aaa = load(files.configuration("aaa"), AaaConfiguration)
        aaa.check(Role.BOTH, str(files.configuration("aaa")))
        epdg = load(files.configuration("epdg"), EpdgConfiguration)
        ue = load(files.configuration("ue"), UeConfiguration)
        self.epdg_node = EpdgNode(epdg, self._platform(self.epdg), file=files.configuration("epdg"))
        self.ue_node = UeNode(ue, self._platform(self.ue))
        database = SubscriberDatabase(f"sqlite:///{files.directory / 'aaa.db'}")
        self.aaa_node = AaaNode(aaa, database, Role.BOTH, self._platform(self.aaa))
        self._run("aaa", self.aaa_node, AAA.address)
        self._run("epdg", self.epdg_node, GATEWAY_CORE)
        self._run("ue", self.ue_node, None)

    def _platform(self, control: VirtualControl) -> Platform:
        return Platform(
            clock=self.clock,
            entropy=SeededEntropy(f"{self.seed}/{control.name}"),
            open_link=self.network.open_link,
            open_raw_esp=None,
            control=control.serve,
            bind_stream=self.streams.listen,
            resolver=self.names.open,
        )

    def _run(self, name: str, node: _Node, source: Address | None) -> None:
        async def running() -> None:
            SOURCE.set(source)
            await node.run()

        self._running.append((self.loop.create_task(running(), name=name), node.stop, name))

    async def _ready(self, control: VirtualControl, task: asyncio.Task[None]) -> None:
        waiting = asyncio.ensure_future(control.ready.wait())
        await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            self._raise_ended()

    async def _connected(self) -> None:
        """The gateway's first attempt comes before the AAA server listens, or not: both are right."""
        for _ in range(int(CONNECT_INTERVAL / CONNECT_LOOK)):
            if any(record.body.get("name") == "peer-up" for record in self.epdg.trace):
                return
            await self.advance(CONNECT_LOOK)
        raise BackendError(f"the gateway has no Diameter peer after {CONNECT_INTERVAL:g} s")

    def _raise_ended(self) -> None:
        for task, _, name in self._running:
            if task.done():
                error = None if task.cancelled() else task.exception()
                raise BackendError(f"{name} ended by itself") from error


def run(story: Callable[[VirtualWorld], Awaitable[T]], **world: object) -> T:
    """Tell a story in a world of its own; ``world`` are the arguments of ``VirtualWorld``."""

    async def main() -> T:
        async with VirtualWorld(**world) as made:  # type: ignore[arg-type]  # they are VirtualWorld's to check
            return await story(made)

    return VirtualLoop().run(main())
