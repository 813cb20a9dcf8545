"""The loopback stage: three processes, real sockets on addresses of loopback, no root; relays stand for accesses."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random
from typing import TypeVar

from lab.configurations import AccessPlan, NetworkPlan, RunFiles, merged
from lab.mobility.accesses import Numbering, Places, access_machines, change_quality, nat_machine
from lab.mobility.live import LiveNodes, LiveScene, configure, node_words, run_live
from lab.mobility.matching import MessageLosses
from lab.mobility.relay import Relay
from lab.mobility.schedule import DirectionSection, Family, MessageKind, NatSection, Schedule
from lab.mobility.stage import Scene, Voice
from lab.mobility.stage_name import NatName, StageName
from lab.mobility.voices import NodeVoice
from lab.run_directory import RunDirectory
from protocols.path import Address, Endpoint
from protocols.trace.records import JsonValue

CORE_HOST = IPv4Address("10.99.0.1")
POOL = IPv4Network("10.45.0.0/24")
NETWORKS = 128  # of 127/8, so that runs beside one another do not meet
FIRST_NETWORK = 64
AAA_PORT = 13868
FIRST_PORT = 15000  # in place of 500 and 4500; IPv6 has one address, so that ports tell runs and accesses apart
PORTS_OF_RUN = 20

T = TypeVar("T")


class LoopbackStage:
    """Real time, real sockets."""

    name = StageName.LOOPBACK
    nat = NatName.LAB
    real_time = True

    def __init__(self) -> None:
        own = os.getpid() % NETWORKS
        network = f"127.{FIRST_NETWORK + own}"
        self._aaa = Endpoint.of(f"{network}.0.1", AAA_PORT)
        self._first_port = FIRST_PORT + own * PORTS_OF_RUN
        self._numbering = Numbering(
            access4=network + ".2.{}",
            access6="::1",
            outside=network + ".6.{}",
            gateway4=network + ".1.{}",
            gateway6="::1",
        )

    def perform(self, schedule: Schedule, seed: int, work: Callable[[Scene], Awaitable[T]]) -> T:
        """Processes and sockets of its own for each run."""
        return run_live(self._main(schedule, seed, work))

    async def _main(self, schedule: Schedule, seed: int, work: Callable[[Scene], Awaitable[T]]) -> T:
        places = self._numbering.places(schedule)
        with RunDirectory("run") as name:
            directory = Path(name)
            files = RunFiles(directory=directory)
            network = RelayNetwork(schedule, places, seed)
            try:
                ports = self._ports(schedule)
                self._configure(files, schedule, places, ports)
                relays = [
                    [str(places.accesses[name]), port, network.relays[name].endpoint.port]
                    for name, pair in ports.items()
                    for port in pair
                ]
                relay_file = directory / "relays.json"
                relay_file.write_text(json.dumps(relays), encoding="utf-8")
                words: dict[str, Sequence[str]] = {name: node_words(files, name) for name in ("epdg", "aaa")}
                module = "lab.mobility.ue_process"
                words["ue"] = [sys.executable, "-m", module, str(files.configuration("ue")), str(relay_file)]
                nodes = LiveNodes(files, words)
                nodes.on_record(network.losses.learn)
                async with nodes.running():
                    return await nodes.watched(work(LoopbackScene(nodes, network, places.gateways)))
            finally:
                network.close()

    def _ports(self, schedule: Schedule) -> dict[str, tuple[int, int]]:
        """Both ports of each access: the gateway's own, but where accesses share the one address of IPv6."""
        ports = {}
        for number, (name, access) in enumerate(schedule.accesses.items(), 1):
            first = self._first_port + (2 * number if access.family is Family.IPV6 else 0)
            ports[name] = (first, first + 1)
        return ports

    def _configure(
        self, files: RunFiles, schedule: Schedule, places: Places, ports: dict[str, tuple[int, int]]
    ) -> None:
        addresses: list[JsonValue] = [str(address) for address in places.gateways.values()]
        accesses: dict[str, JsonValue] = {
            name: {"ike_port": pair[0], "nat_traversal_port": pair[1]} for name, pair in ports.items()
        }
        plan = NetworkPlan(
            aaa=self._aaa,
            gateway=next(iter(places.gateways.values())),
            ike_port=self._first_port,
            nat_traversal_port=self._first_port + 1,
            accesses=[AccessPlan(name=name, label=name, address=address) for name, address in places.accesses.items()],
            pools={"internet": POOL, "ims": IPv4Network("10.46.0.0/24")},
            core_host=CORE_HOST,
            tun=False,
        )
        ue = merged({"accesses": accesses}, places.ue_changes(schedule))
        epdg = merged({"listen": {"addresses": addresses}}, schedule.epdg)
        configure(files, plan, {"ue": ue, "epdg": epdg, "aaa": schedule.aaa})


class RelayNetwork:
    """The relays of all accesses."""

    def __init__(self, schedule: Schedule, places: Places, seed: int) -> None:
        self._places = places
        self._down: set[Address] = set()
        self.losses = MessageLosses()
        self.relays: dict[str, Relay] = {}
        for name, access in access_machines(schedule, places.accesses, places.outsides).items():
            random = Random(f"{seed}/{name}")  # noqa: S311 - no secrets
            self.relays[name] = Relay(access, self.losses, self._down, random)

    def close(self) -> None:
        """Close all sockets."""
        for relay in self.relays.values():
            relay.close()

    async def present(self, access: str, present: bool) -> None:
        """There or not."""
        self.relays[access].access.up = present

    async def captive(self, access: str, captive: bool) -> None:
        """Swallows everything or not."""
        self.relays[access].access.captive = captive

    async def impair(self, access: str, up: DirectionSection | None, down: DirectionSection | None) -> None:
        """Another quality."""
        change_quality(self.relays[access].access, up, down)

    async def rebind(self, access: str) -> None:
        """The NAT restarts, its sockets with it."""
        relay = self.relays[access]
        if relay.access.nat is not None:
            relay.access.nat.rebind()
            relay.forget_outside()

    async def translate(self, access: str, nat: NatSection) -> None:
        """Another NAT or none."""
        relay = self.relays[access]
        relay.access.nat = nat_machine(nat, self._places.outsides[access])
        relay.forget_outside()

    async def gateway(self, address: str, up: bool) -> None:
        """Reachable or not."""
        if up:
            self._down.discard(self._places.gateways[address])
        else:
            self._down.add(self._places.gateways[address])

    async def lose(self, message: MessageKind, count: int, access: str | None) -> None:
        """The next ones vanish."""
        self.losses.order(message, count, access)

    def lost(self) -> dict[str, int]:
        """By kind."""
        return dict(self.losses.lost)


class LoopbackScene(LiveScene):
    """Processes and relays as the player wants them."""

    tells_accesses = True

    def __init__(self, nodes: LiveNodes, network: RelayNetwork, gateways: dict[str, Address]) -> None:
        super().__init__(nodes, gateways)
        self.network = network

    async def voice(self, rate: float) -> Voice:
        """Between the UE and the host behind the gateway."""
        return await NodeVoice.start(self.ue, self.epdg, str(CORE_HOST), rate)

    async def leaks(self) -> list[str]:
        """Ports that the UE still holds on an access."""
        held = {name: relay.held for name, relay in self.network.relays.items() if relay.held}
        return [f"the UE's ports on {name}: {', '.join(map(str, ports))}" for name, ports in held.items()]
