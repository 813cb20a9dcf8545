"""Debian's charon as a UE at our gateway with pre-shared keys: one stage and one gateway for many scenarios.

::

    charon (ue) ── access A / access B ── router ── epdg serve (gateway) ── core

No AAA server and no RADIUS: what is tried here begins when the UE is authenticated. ``Connection`` is what one
charon loads, ``Scene`` the gateway with what it says of its sessions; ``charon`` of a scene starts a UE in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Interface
from pathlib import Path

from lab.namespaces import (
    ACCESS_A,
    ACCESS_B,
    GATEWAY,
    GATEWAY_INTERFACE,
    GATEWAY_ROUTER_INTERFACE,
    HOST_BEHIND_GATEWAY,
    INNER_ADDRESSES,
    AccessTopology,
)
from protocols.path import Address
from protocols.trace.records import JsonValue
from tests.peers.namespaces import namespaces, ping
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until
from tests.peers.strongswan import CHILD, UE_CONNECTION, Charon, Configuration, require_strongswan
from tests.peers.swanctl import IkeStatus

APN = "internet"
UE = "ue-1@example.org"
KEY = "a secret of sufficient length"
HERE = f"{ACCESS_A.address.ip}:4500"
THERE = f"{ACCESS_B.address.ip}:4500"
IKE_SUITES = ("aes128-sha256-x25519",)
ESP_SUITES = ("aes128gcm16",)
EVENT_TIMEOUT = 10.0

Session = dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Child:
    """A child SA in swanctl's words; ``settings`` are further lines such as ``{"rekey_time": "5s"}``."""

    name: str = CHILD
    esp_proposals: str = "aes128gcm16"
    remote_selectors: str = "0.0.0.0/0"
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A connection in swanctl's words; rekeying and liveness checks are off unless ``settings`` say otherwise."""

    name: str = UE_CONNECTION
    gateway: Address | str = GATEWAY.ip
    proposals: str = "aes128-sha256-x25519"
    children: Sequence[Child] = (Child(),)
    settings: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Its section of swanctl.conf."""
        quiet = {"rekey_time": "0s", "dpd_delay": "0s", **self.settings}
        children = "".join(
            f"""
      {child.name} {{
        remote_ts = {child.remote_selectors}
        esp_proposals = {child.esp_proposals}
        {_lines({"rekey_time": "0s", **child.settings}, 8)}
      }}"""
            for child in self.children
        )
        return f"""
  {self.name} {{
    version = 2
    remote_addrs = {self.gateway}
    proposals = {self.proposals}
    vips = 0.0.0.0
    {_lines(quiet, 4)}
    local {{
      auth = psk
      id = "{UE}"
    }}
    remote {{
      auth = psk
      id = "{APN}"
    }}
    children {{{children}
    }}
  }}"""


def _lines(values: Mapping[str, str], indent: int) -> str:
    return f"\n{' ' * indent}".join(f"{key} = {value}" for key, value in values.items())


def client(*connections: Connection, settings: Mapping[str, str | int | float] | None = None) -> Configuration:
    """What a UE with these connections loads; ``settings`` are of strongswan.conf's ``charon`` section."""
    sections = "".join(connection.text() for connection in connections or (Connection(),))
    secrets = f'\n  ike-1 {{\n    id-ue = "{UE}"\n    id-gateway = "{APN}"\n    secret = "{KEY}"\n  }}'
    swanctl = f"connections {{{sections}\n}}\nsecrets {{{secrets}\n}}\n"
    return Configuration(swanctl=swanctl, settings=settings or {})


def gateway_configuration(
    ike: Mapping[str, object], addresses: Sequence[Address | str], changes: Mapping[str, object]
) -> dict[str, object]:
    """What our gateway is started with: pre-shared keys, no AAA server, a TUN device."""
    return {
        "plmn": {"mcc": "001", "mnc": "01"},
        "listen": {"addresses": [str(address) for address in addresses]},
        "diameter": {"host": "epdg.example", "realm": "example"},
        "apns": {APN: {"pool": str(INNER_ADDRESSES)}},
        "data_plane": {"kind": "tun"},
        "authentication": {"methods": ["psk"], "psk": {UE: KEY}},
        "ike": {
            "suites": list(IKE_SUITES),
            "esp_suites": list(ESP_SUITES),
            "child_lifetime": None,
            "ike_lifetime": None,
            "liveness_interval": None,
            **ike,
        },
        **changes,
    }


# --- what the gateway says of a session ----------------------------------------------------------------------


def ike(session: Session) -> dict[str, JsonValue]:
    """What it says of the IKE SA."""
    found = session["ike"]
    assert isinstance(found, dict)
    return found


def spis(session: Session) -> tuple[str, str]:
    """The SPIs of the IKE SA, as charon's ``IkeStatus`` has them."""
    return str(ike(session)["spi_i"]), str(ike(session)["spi_r"])


def children(session: Session) -> list[dict[str, JsonValue]]:
    """What it says of the child SAs."""
    listed = session["child_sas"]
    assert isinstance(listed, list)
    return [child for child in listed if isinstance(child, dict)]


def remote(sa: dict[str, JsonValue]) -> str:
    """Where an IKE SA or a child SA has the UE."""
    path = sa["path"]
    assert isinstance(path, dict)
    return str(path["remote"])


def local(sa: dict[str, JsonValue]) -> str:
    """Which end point of the gateway an IKE SA or a child SA is at."""
    path = sa["path"]
    assert isinstance(path, dict)
    return str(path["local"])


def history(session: Session) -> list[tuple[JsonValue, JsonValue]]:
    """Where the UE has been, and whether that was checked."""
    paths = session["paths"]
    assert isinstance(paths, list)
    return [(path["remote"], path["validated"]) for path in paths if isinstance(path, dict)]


def agree(status: IkeStatus, session: Session) -> bool:
    """Whether both ends have the same IKE SA and the same child SAs, crosswise."""
    ours = {(child["inbound_spi"], child["outbound_spi"]) for child in children(session)}
    theirs = {(child.outbound_spi, child.inbound_spi) for child in status.installed}
    return spis(session) == (status.spi_initiator, status.spi_responder) and ours == theirs


# --- the scene -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The stage and our gateway on it."""

    stage: AccessTopology
    epdg: NodeProcess

    def charon(
        self, *connections: Connection, settings: Mapping[str, str | int | float] | None = None
    ) -> contextlib.AbstractContextManager[Charon]:
        """A UE with these connections (one of the defaults without)."""
        return Charon(self.stage.ue, client(*connections, settings=settings))

    def sessions(self, state: str = "established") -> list[Session]:
        """The sessions in a state."""
        listed = self.epdg.call("sessions.list", state=state)["sessions"]
        assert isinstance(listed, list)
        return [session for session in listed if isinstance(session, dict)]

    def session(self) -> Session:
        """The only established session."""
        (session,) = self.sessions()
        return session

    def wait_session(self, fits: Callable[[Session], bool], what: str, timeout: float = EVENT_TIMEOUT) -> Session:
        """The only established session once it fits."""

        def found() -> Session | None:
            sessions = self.sessions()
            return sessions[0] if len(sessions) == 1 and fits(sessions[0]) else None

        return wait_until(found, what=what, timeout=timeout, log=self.epdg.log)

    def wait_moved(self, place: str) -> Session:
        """The only session once its IKE SA and all its child SAs have the UE at ``place``."""
        return self.wait_session(
            lambda seen: {remote(ike(seen)), *map(remote, children(seen))} == {place}, f"the session moving to {place}"
        )

    def wait_agreement(self, ue: Charon, count: int | None = 1) -> tuple[IkeStatus, Session]:
        """Both ends' views of the only session, once they are the same with so many child SAs (None: any number)."""

        def found() -> tuple[IkeStatus, Session] | None:
            statuses, sessions = ue.list_sas(), self.sessions()
            if len(statuses) != 1 or len(sessions) != 1 or statuses[0].state != "ESTABLISHED":
                return None
            same = agree(statuses[0], sessions[0]) and count in (None, len(statuses[0].installed))
            return (statuses[0], sessions[0]) if same else None

        what = f"both ends having the same IKE SA and child SAs ({'any number' if count is None else count})"
        return wait_until(
            found, what=what, timeout=EVENT_TIMEOUT, log=lambda: f"{ue.log()}\n{self.sessions()}\n{self.epdg.log()}"
        )

    def wait_empty(self) -> None:
        """Wait until no session is left."""

        def empty() -> bool:
            return self.epdg.call("node.status")["sessions"] == 0

        wait_until(empty, what="the sessions ending", timeout=EVENT_TIMEOUT, log=self.epdg.log)

    def join_accesses(self) -> None:
        """The UE has both its accesses again, whatever it has left."""
        there = self.stage.ue.addresses()
        for access in (ACCESS_A, ACCESS_B):
            if str(access.address) not in there:
                self.stage.join(access)

    def clear(self) -> None:
        """End every session, while charon is there to answer."""
        for session in self.sessions():
            self.epdg.call("sessions.detach", id=session["id"])
        self.wait_empty()

    def passes(self, inner: str, count: int = 3) -> bool:
        """Whether ping gets through the tunnel, every time."""
        return ping(self.stage.ue, HOST_BEHIND_GATEWAY, source=inner, count=count).received == count


@contextlib.contextmanager
def gateway_on(
    stage: AccessTopology,
    directory: Path,
    *,
    ike: Mapping[str, object] | None = None,
    addresses: Sequence[Address | str] = (GATEWAY.ip,),
    changes: Mapping[str, object] | None = None,
) -> Iterator[Scene]:
    """Our gateway on a stage; ``ike`` are settings of that section."""
    configuration = gateway_configuration(ike or {}, addresses, changes or {})
    with NodeProcess(stage.gateway, "epdg", directory, configuration) as epdg:
        yield Scene(stage=stage, epdg=epdg)


@contextlib.contextmanager
def scene(
    directory: Path,
    *,
    ike: Mapping[str, object] | None = None,
    addresses: Sequence[Address | str] = (GATEWAY.ip,),
    changes: Mapping[str, object] | None = None,
) -> Iterator[Scene]:
    """A stage of its own with our gateway on it."""
    require_strongswan()
    with namespaces() as stage, gateway_on(stage, directory, ike=ike, addresses=addresses, changes=changes) as made:
        yield made


# --- IPv6 on the stage ---------------------------------------------------------------------------------------

GATEWAY_6 = IPv6Interface("fd77::1/64")
GATEWAY_ROUTER_6 = IPv6Interface("fd77::fe/64")
ACCESS_A_6 = IPv6Interface("fd77:1::2/64")
ACCESS_A_ROUTER_6 = IPv6Interface("fd77:1::1/64")


def with_ipv6(stage: AccessTopology) -> None:
    """IPv6 between the gateway and access A; the UE's own address is ``join_ipv6``'s."""
    for namespace in (stage.ue, stage.router, stage.gateway):
        namespace.set_sysctl("net/ipv6/conf/all/disable_ipv6", 0)
        namespace.set_sysctl("net/ipv6/conf/default/disable_ipv6", 0)
    stage.router.set_sysctl("net/ipv6/conf/all/forwarding", 1)
    stage.gateway.add_address(GATEWAY_INTERFACE, GATEWAY_6)
    stage.router.add_address(GATEWAY_ROUTER_INTERFACE, GATEWAY_ROUTER_6)
    stage.router.add_address(ACCESS_A.router_interface, ACCESS_A_ROUTER_6)
    stage.gateway.add_route(ACCESS_A_6.network, via=GATEWAY_ROUTER_6.ip)


def join_ipv6(stage: AccessTopology) -> None:
    """The UE gets an IPv6 address on access A and a route."""
    stage.ue.add_address(ACCESS_A.interface, ACCESS_A_6)
    stage.ue.add_route(GATEWAY_6.network, via=ACCESS_A_ROUTER_6.ip)


def leave_ipv6(stage: AccessTopology) -> None:
    """The UE loses it again."""
    stage.ue.delete_address(ACCESS_A.interface, ACCESS_A_6)
    stage.ue.delete_route(GATEWAY_6.network, via=ACCESS_A_ROUTER_6.ip)
