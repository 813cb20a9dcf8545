"""Where the demonstration plays: addresses of loopback without any right, or network namespaces as root.

``LoopbackStage``: every party has an address of 127.0.0.0/8; a NAT is a task of ours (``protocols.io.nat``).
``NamespaceStage``: kernels' own interfaces, routes and NAT::

      ue ── access A 10.77.1.0/24 ──────────────────────── router ── 10.77.0.0/24 ── gateway ── 10.77.3.0/24 ── core
       └── access B 10.77.2.0/24 ── home (masquerade) ── 10.77.5.0/24 ──┘                                 AAA, echo

and 10.77.4.2, an address that the UE may send from, but to which the router knows no way back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Protocol

from lab.configurations import AccessPlan, NetworkPlan, RunFiles
from lab.namespaces import (
    ACCESS_A,
    ACCESS_B,
    CORE,
    DEFAULT_ROUTE,
    GATEWAY,
    GATEWAY_ROUTER,
    INNER_ADDRESSES,
    AccessTopology,
    Namespace,
    access_topology,
)
from lab.traffic import SystemPing, Traffic, UeFlows
from protocols.errors import BackendError
from protocols.io.control import ControlClient
from protocols.io.nat import UdpNat
from protocols.io.sockets import family_of
from protocols.path import Endpoint
from protocols.trace.records import JsonValue

WIFI_A, WIFI_B, WIFI_NAT, WIFI_DEAF = "wifi-a", "wifi-b", "wifi-nat", "wifi-deaf"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One move of the story; ``adopted`` is false when the gateway must refuse to follow."""

    title: str
    to: str
    behind_nat: bool = False
    keep_old: bool = False
    adopted: bool = True


class Stage(Protocol):
    """What the story needs of its place."""

    @property
    def name(self) -> str:
        """What results call it."""

    @property
    def plan(self) -> NetworkPlan:
        """Addresses and ports."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The moves that are made here."""

    def open(self) -> AbstractContextManager[None]:
        """Make the network; everything of it is gone at the end of the block."""

    def place(self, node: str, words: Sequence[str]) -> list[str]:
        """The command that runs ``words`` where ``node`` is."""

    def traffic(self, ue: ControlClient, files: RunFiles) -> Traffic:
        """What runs through the tunnel."""

    def relocate(self, origin: str, step: Step) -> None:
        """What happens to the UE's interfaces just before it is told to move."""

    def report(self) -> dict[str, JsonValue]:
        """What the stage has counted itself."""


BACK_TO_A = Step(title="Back to Wi-Fi A", to=WIFI_A)
DEAF = Step(
    title="To an address that cannot hear: its return-routability check is never answered",
    to=WIFI_DEAF,
    keep_old=True,
    adopted=False,
)
HOME_FROM_DEAF = Step(title="Back to Wi-Fi A, where the traffic has been all the time", to=WIFI_A)


class LoopbackStage:
    """Addresses of loopback, no root."""

    name = "loopback"
    steps = (
        Step(title="To Wi-Fi B, break before make", to=WIFI_B),
        Step(title="To a Wi-Fi behind an address-translating hop", to=WIFI_NAT, behind_nat=True),
        BACK_TO_A,
        DEAF,
        HOME_FROM_DEAF,
    )
    nat_inside, nat_outside = IPv4Address("127.0.5.254"), IPv4Address("127.0.6.1")
    plan = NetworkPlan(
        aaa=Endpoint.of("127.0.0.1", 13868),
        gateway=IPv4Address("127.0.1.1"),
        ike_port=15000,
        nat_traversal_port=14500,
        accesses=(
            AccessPlan(name=WIFI_A, label="Wi-Fi A", address=IPv4Address("127.0.2.1")),
            AccessPlan(name=WIFI_B, label="Wi-Fi B", address=IPv4Address("127.0.3.1")),
            AccessPlan(name=WIFI_NAT, label="Wi-Fi NAT", address=IPv4Address("127.0.5.1"), next_hop=nat_inside),
            AccessPlan(name=WIFI_DEAF, label="deaf Wi-Fi", address=IPv4Address("127.0.7.1"), hears=False),
        ),
        pools={"internet": IPv4Network("10.45.0.0/16"), "ims": IPv4Network("10.46.0.0/16")},
        core_host=IPv4Address("10.99.0.1"),
        tun=False,
    )

    def __init__(self) -> None:
        self._nat: UdpNat | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Check that every address and port is free, open the address-translating hop."""
        plan = self.plan
        check_free(plan.aaa, socket.SOCK_STREAM, "the AAA server")
        for port in plan.ports.values():
            check_free(Endpoint(plan.gateway, port), socket.SOCK_DGRAM, "the gateway")
            for access in plan.accesses:
                check_free(Endpoint(access.address, port), socket.SOCK_DGRAM, "the UE")
        nat = UdpNat(
            inside=self.nat_inside, outside=self.nat_outside, server=plan.gateway, ports=tuple(plan.ports.values())
        )
        self._nat = nat
        try:
            yield
        finally:
            nat.close()

    def place(self, node: str, words: Sequence[str]) -> list[str]:
        """Everything is in one place."""
        del node
        return list(words)

    def traffic(self, ue: ControlClient, files: RunFiles) -> Traffic:
        """ICMP and UDP echo by the UE itself."""
        del files
        return UeFlows(ue, self.plan.core_host)

    def relocate(self, origin: str, step: Step) -> None:
        """Loopback has no links: the UE closes its sockets on the old address."""

    def report(self) -> dict[str, JsonValue]:
        """The hop's counters."""
        if self._nat is None:
            return {}
        return {
            "nat_hop": {
                "mappings_made": self._nat.mappings_made,
                "mappings_expired": self._nat.mappings_expired,
                "forwarded": dict(self._nat.forwarded),
                "dropped": dict(self._nat.dropped),
            }
        }


HOME_UPLINK = IPv4Interface("10.77.5.2/24")
HOME_ROUTER = IPv4Interface("10.77.5.1/24")
DEAF_ADDRESS = IPv4Interface("10.77.4.2/32")


class NamespaceStage:
    """Network namespaces, TUN devices, nftables, the system's ping."""

    name = "network-namespaces"
    steps = (
        Step(title="To Wi-Fi B behind a home router's NAT, break before make", to=WIFI_B, behind_nat=True),
        BACK_TO_A,
        DEAF,
        HOME_FROM_DEAF,
    )
    plan = NetworkPlan(
        aaa=Endpoint(CORE.ip, 3868),
        gateway=GATEWAY.ip,
        ike_port=500,
        nat_traversal_port=4500,
        accesses=(
            AccessPlan(name=WIFI_A, label="Wi-Fi A", address=ACCESS_A.address.ip),
            AccessPlan(name=WIFI_B, label="Wi-Fi B", address=ACCESS_B.address.ip),
            AccessPlan(name=WIFI_DEAF, label="deaf Wi-Fi", address=DEAF_ADDRESS.ip),
        ),
        pools={"internet": INNER_ADDRESSES},
        core_host=CORE.ip,
        tun=True,
    )
    _places = {"ue": "ue", "epdg": "gateway", "aaa": "core", "ping": "ue"}
    _accesses = {WIFI_A: ACCESS_A, WIFI_B: ACCESS_B}

    def __init__(self) -> None:
        self._topology: AccessTopology | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """The topology drawn above."""
        if os.geteuid() != 0:
            raise BackendError("--netns needs root (network namespaces, TUN devices); without it the demo needs none")
        for program in ("nsenter", "ping"):
            if shutil.which(program) is None:
                raise BackendError(f"--netns needs the program {program}, which is not installed")
        with access_topology(accesses=(ACCESS_A,)) as topology, Namespace("home") as home:
            _add_home_router(topology, home)
            topology.gateway.add_route(DEAF_ADDRESS.network, via=GATEWAY_ROUTER.ip)
            self._topology = topology
            try:
                yield
            finally:
                self._topology = None

    def place(self, node: str, words: Sequence[str]) -> list[str]:
        """In the node's namespace; the dashboard has none, control sockets are files."""
        place = self._places.get(node)
        if place is None:
            return list(words)
        namespace: Namespace = getattr(self._opened, place)
        return ["nsenter", f"--net={namespace.path}", "--", *words]

    def traffic(self, ue: ControlClient, files: RunFiles) -> Traffic:
        """The system's ping, from the UE's namespace to the core's."""
        del ue
        return SystemPing(self.plan.core_host, Path(files.log("ping")), lambda words: self.place("ping", words))

    def relocate(self, origin: str, step: Step) -> None:
        """The old access loses its address unless it is kept, the new one gets its own."""
        topology = self._opened
        if origin == WIFI_DEAF:
            topology.ue.delete_address(ACCESS_A.interface, DEAF_ADDRESS)
        elif not step.keep_old:
            topology.leave(self._accesses[origin])
        if step.to == WIFI_DEAF:
            topology.ue.add_address(ACCESS_A.interface, DEAF_ADDRESS)
        elif origin != WIFI_DEAF:
            topology.join(self._accesses[step.to])

    def report(self) -> dict[str, JsonValue]:
        """Nothing: what is between the nodes is the kernel's."""
        return {}

    @property
    def _opened(self) -> AccessTopology:
        assert self._topology is not None, "the stage is not open"
        return self._topology


def _add_home_router(topology: AccessTopology, home: Namespace) -> None:
    """Access B: the UE behind a router that translates addresses on its way out."""
    for scope in ("all", "default"):
        home.set_sysctl(f"net/ipv4/conf/{scope}/rp_filter", 0)
    home.set_sysctl("net/ipv4/ip_forward", 1)
    topology.ue.connect(ACCESS_B.interface, home, "to-ue")
    home.add_address("to-ue", ACCESS_B.router)
    home.connect("uplink", topology.router, "to-home")
    home.add_address("uplink", HOME_UPLINK)
    topology.router.add_address("to-home", HOME_ROUTER)
    home.add_route(DEFAULT_ROUTE, via=HOME_ROUTER.ip)
    topology.gateway.add_route(HOME_UPLINK.network, via=GATEWAY_ROUTER.ip)
    home.masquerade("uplink")


def check_free(endpoint: Endpoint, kind: socket.SocketKind, purpose: str) -> None:
    """``BackendError`` in one line when an end point cannot be used."""
    with socket.socket(family_of(endpoint.address), kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(endpoint.address), endpoint.port))
        except OSError as error:
            protocol = "TCP" if kind is socket.SOCK_STREAM else "UDP"
            raise BackendError(
                f"{protocol} {endpoint}, which {purpose} needs, cannot be used: {error.strerror} "
                "(is another demo running?)"
            ) from error
