"""Who is measured by ``benchmarks.data_plane``: a tunnel between two namespaces, one implementation at both ends.

::

    ue ── veth ── gateway ── veth ── core

Pre-shared keys, AES-128-GCM, ESP in UDP, a TUN device at both ends. ``CONTESTANTS`` is the list; the kernel is in it
where it has ESP.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from lab.namespaces import (
    ACCESS_A,
    CORE,
    CORE_INTERFACE,
    GATEWAY,
    GATEWAY_CORE,
    GATEWAY_INTERFACE,
    INNER_ADDRESSES,
    Namespace,
)
from protocols.dataplane.port import Backend
from protocols.dataplane.xfrm.probe import probe
from tests.peers.node_process import NodeProcess
from tests.peers.strongswan import Charon
from tests.peers.strongswan_scene import Child, Connection, client, gateway_configuration
from tests.peers.ue_at_strongswan import Terms, configuration, ue_configuration

UE = IPv4Interface("10.77.0.2/24")
GATEWAY_DEVICE = "bench-gateway"
MTU = 1400  # of both TUN devices: charon's own, and the default of our nodes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The three namespaces."""

    ue: Namespace
    gateway: Namespace
    core: Namespace


@dataclass(frozen=True, kw_only=True)
class Tunnel:
    """An established tunnel: the UE's inner address, and the process at the gateway that carries its packets.

    ``kernel_threads``: how the names of the kernel's threads begin that work for that process alone.
    """

    stage: Stage
    inner: str
    gateway_pid: int
    kernel_threads: str | None = None


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A data plane by name; ``open`` sets a tunnel up and takes it down."""

    name: str
    open: Callable[[], AbstractContextManager[Tunnel]]


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """The namespaces with their links, addresses and routes."""
    with contextlib.ExitStack() as stack:
        ue, gateway, core = (stack.enter_context(Namespace(name)) for name in ("ue", "gateway", "core"))
        for namespace in (ue, gateway, core):
            namespace.set_sysctl("net/ipv4/conf/all/rp_filter", 0)
            namespace.set_sysctl("net/ipv4/conf/default/rp_filter", 0)
        gateway.set_sysctl("net/ipv4/ip_forward", 1)
        ue.connect(ACCESS_A.interface, gateway, GATEWAY_INTERFACE)
        ue.add_address(ACCESS_A.interface, UE)
        gateway.add_address(GATEWAY_INTERFACE, GATEWAY)
        ue.add_route("0.0.0.0/0", via=GATEWAY.ip, source=UE.ip)
        gateway.connect(CORE_INTERFACE, core, CORE_INTERFACE)
        gateway.add_address(CORE_INTERFACE, GATEWAY_CORE)
        core.add_address(CORE_INTERFACE, CORE)
        core.add_route(INNER_ADDRESSES, via=GATEWAY_CORE.ip)
        yield Stage(ue=ue, gateway=gateway, core=core)


@contextlib.contextmanager
def strongswan() -> Iterator[Tunnel]:
    """Two charons with kernel-libipsec."""
    terms = Terms(selectors=(str(CORE.network),))
    child = Child(remote_selectors=str(CORE.network))
    with (
        stage() as made,
        Charon(made.gateway, configuration(terms, client())) as gateway,
        Charon(made.ue, client(Connection(children=(child,)))) as ue,
    ):
        (inner,) = ue.initiate().inner_addresses
        yield Tunnel(stage=made, inner=inner, gateway_pid=gateway.pid)


def ours(data_plane: Mapping[str, object], **changes: object) -> Callable[[], AbstractContextManager[Tunnel]]:
    """``epdg serve`` and ``ue run`` with a data plane; ``changes`` are further keys of both configurations."""

    @contextlib.contextmanager
    def open_tunnel() -> Iterator[Tunnel]:
        plane = {"mtu": MTU, **data_plane}
        common = {"trace": {}, **changes}
        attaching = {
            **ue_configuration(),
            "accesses": {"wifi-a": {"address": str(UE.ip)}},
            "data_plane": {**plane, "routes": [str(CORE.network)]},
            "force_encapsulation": True,
            **common,
        }
        with tempfile.TemporaryDirectory(prefix="bench-") as directory, stage() as made:
            places = {name: Path(directory) / name for name in ("epdg", "ue")}
            for place in places.values():
                place.mkdir()
            serving = gateway_configuration(
                {"force_encapsulation": True},
                (GATEWAY.ip,),
                {"data_plane": {**plane, "device": GATEWAY_DEVICE}, **common},
            )
            with (
                NodeProcess(made.gateway, "epdg", places["epdg"], serving, own_sysfs=True) as epdg,
                NodeProcess(made.ue, "ue", places["ue"], attaching, verb="run", own_sysfs=True) as ue,
            ):
                addresses = ue.call("ue.attach", access="wifi-a")["inner_addresses"]
                assert isinstance(addresses, list)
                yield Tunnel(
                    stage=made,
                    inner=str(addresses[0]),
                    gateway_pid=epdg.pid,
                    kernel_threads=f"napi/{GATEWAY_DEVICE}",
                )

    return open_tunnel


def _carried_by(backend: Backend) -> dict[str, object]:
    return {"kind": "tun", "backend": backend.value}


STRONGSWAN = Contestant(name="strongSwan (kernel-libipsec)", open=strongswan)
COMPILED = Contestant(name="compiled", open=ours(_carried_by(Backend.COMPILED)))
KERNEL = Contestant(name="kernel", open=ours(_carried_by(Backend.KERNEL)))
PYTHON = Contestant(name="plain Python", open=ours(_carried_by(Backend.PYTHON), trace={"enabled": False}))
TRACED = Contestant(name="plain Python, with the trace", open=ours(_carried_by(Backend.PYTHON)))
CONTESTANTS = (STRONGSWAN, COMPILED, *((KERNEL,) if probe().usable else ()), PYTHON, TRACED)
