"""Moves that happen to a UE by itself, ours or charon's, at our gateway or charon's: the same stage, the same events.

::

    UE ── access A / access B ── router ── gateway ── host behind it

A ``Mover`` is a UE that watches its addresses and decides alone; a ``Scenario`` is what happens to its network
while ping runs through the tunnel. ``measure`` says how long the traffic was silent and what was lost.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lab.namespaces import (
    ACCESS_A,
    ACCESS_B,
    CORE,
    GATEWAY,
    HOST_BEHIND_GATEWAY,
    INNER_ADDRESSES,
    Access,
    AccessTopology,
    access_topology,
)
from protocols.trace.records import JsonValue
from tests.peers.certificates import CertificateAuthority
from tests.peers.hostapd import Hostapd, Subscriber, aka_users, password_user
from tests.peers.node_process import NodeProcess
from tests.peers.ping_flow import PingFlow
from tests.peers.processes import PeerError, wait_until
from tests.peers.strongswan import Charon, gateway_connections, ue_connection
from tests.peers.strongswan_scene import (
    GATEWAY_6,
    KEY,
    UE,
    Child,
    Connection,
    client,
    gateway_on,
    join_ipv6,
    with_ipv6,
)

FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
APN = "internet"
IMSI = "001010000000001"
UES = ("ours", "strongSwan")
GATEWAYS = ("ours", "strongSwan")
PAIRS = tuple((ue, gateway) for gateway in GATEWAYS for ue in UES)
K = bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc")  # TS 35.208 §4.3.1, test set 1
OPC = bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf")
PASSWORD = "a password"
SETTLED = 100  # answers of undisturbed traffic between one event and the next
INTERVAL = 0.004  # seconds between two echo requests
GAP = 1.0  # seconds without any address
PATIENCE = 35.0  # seconds for the traffic to come back; charon gives a silent gateway up after 28
CHARON_DPD = 2.0  # seconds of silence until charon probes; by default it never does
CHARON_RETRANSMISSION: Mapping[str, float] = {  # after 1, 1.6, ... seconds, 26 in all; its defaults are 4 and 165
    "retransmit_timeout": 1.0,
    "retransmit_base": 1.6,
    "retransmit_tries": 5,
}


class Mover(Protocol):
    """A UE that is attached and moves by itself."""

    name: str

    def attach(self) -> str:
        """Attach; the inner address."""

    def rekey_ike(self) -> None:
        """Begin to rekey the IKE SA."""

    def rekey_child(self) -> None:
        """Begin to rekey the child SA."""

    def check_liveness(self) -> bool:
        """Ask the gateway whether it lives; ``False`` where nobody can tell this UE to."""

    @property
    def pid(self) -> int:
        """Its process."""


class OurUe:
    """``ue run`` that manages its connection by itself, TUN device and all."""

    name = "ours"

    def __init__(self, node: NodeProcess, access: str = "wifi-a") -> None:
        self.node = node
        self.access = access

    def attach(self) -> str:
        """Attach on its first access, once the UE knows from the kernel that it has an address there."""
        wait_until(self._has_address, what=f"an address on {self.access}", timeout=10, log=self.node.log)
        addresses = self.node.call("ue.attach", access=self.access)["inner_addresses"]
        assert isinstance(addresses, list)
        return str(addresses[0])

    def rekey_ike(self) -> None:
        """Over the control socket."""
        self.node.call("ue.rekey-ike")

    def rekey_child(self) -> None:
        """Over the control socket."""
        self.node.call("ue.rekey-child")

    def check_liveness(self) -> bool:
        """Over the control socket."""
        self.node.call("ue.liveness")
        return True

    @property
    def pid(self) -> int:
        """The node's."""
        return self.node.pid

    def _has_address(self) -> bool:
        management = self.node.call("node.status")["management"]
        assert isinstance(management, dict)
        accesses = management["accesses"]
        assert isinstance(accesses, dict)
        access = accesses[self.access]
        return isinstance(access, dict) and access["available"] is True


class CharonUe:
    """Debian's charon with kernel-libipsec, as it comes."""

    name = "strongSwan"

    def __init__(self, charon: Charon) -> None:
        self.charon = charon

    def attach(self) -> str:
        """Attach where its routes lead to."""
        return self.charon.initiate().inner_addresses[0]

    def rekey_ike(self) -> None:
        """By swanctl."""
        self.charon.rekey_ike()

    def rekey_child(self) -> None:
        """By swanctl."""
        self.charon.rekey_child()

    def check_liveness(self) -> bool:
        """It does so by itself, after ``CHARON_DPD`` without any traffic."""
        return False

    @property
    def pid(self) -> int:
        """The daemon's."""
        return self.charon.pid


# --- what happens ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """``events`` in order, each followed by undisturbed traffic.

    An event may return how many seconds there was no usable address in it, which no UE can bridge. ``ipv6``: the
    gateway and access A have IPv6 as well.
    """

    name: str
    title: str
    events: Sequence[Callable[[AccessTopology], float | None]]
    prepare: Callable[[AccessTopology], None] = lambda stage: None
    ipv6: bool = False


def _leave(access: Access) -> Callable[[AccessTopology], None]:
    return lambda stage: stage.leave(access)


def _swap_after_a_gap(leave: Access, join: Access) -> Callable[[AccessTopology], float]:
    def happen(stage: AccessTopology) -> float:
        stage.leave(leave)
        left = time.monotonic()
        time.sleep(GAP)  # the scenario itself: this long the UE has no address
        stage.join(join)
        return time.monotonic() - left

    return happen


def _down_and_up(leave: Access, join: Access) -> Callable[[AccessTopology], None]:
    def happen(stage: AccessTopology) -> None:
        stage.join(join)
        stage.leave(leave)

    return happen


def _only_access_a_with_both(stage: AccessTopology) -> None:
    stage.leave(ACCESS_B)
    join_ipv6(stage)


SCENARIOS = (
    Scenario(
        name="address-lost",
        title="the address in use is deleted, another is there",
        events=(_leave(ACCESS_A),),
    ),
    Scenario(
        name="there-and-back",
        title="access B comes and A goes in the same moment, then the other way round",
        prepare=_leave(ACCESS_B),
        events=(_down_and_up(ACCESS_A, ACCESS_B), _down_and_up(ACCESS_B, ACCESS_A)),
    ),
    Scenario(
        name="gap",
        title=f"{GAP:g} s without any address, then another access",
        prepare=_leave(ACCESS_B),
        events=(_swap_after_a_gap(ACCESS_A, ACCESS_B),),
    ),
    Scenario(
        name="link-down",
        title="the interface in use goes down, another is there",
        events=(lambda stage: stage.ue.set_link(ACCESS_A.interface, up=False),),
    ),
    Scenario(
        name="silent-path",
        title="the path in use falls silent, its address stays; another is there",
        events=(lambda stage: stage.silence(ACCESS_A),),
    ),
    Scenario(
        name="nat-rebinding",
        title="the NAT on the way restarts and gives another port",
        prepare=lambda stage: stage.translate(range(20000, 20100)),
        events=(lambda stage: stage.rebind(range(30000, 30100)),),
    ),
    Scenario(
        name="v4-to-v6",
        title="the IPv4 address in use is deleted, the same access has IPv6",
        prepare=_only_access_a_with_both,
        events=(_leave(ACCESS_A),),
        ipv6=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``silences`` in seconds, beyond the time without an address; ``None``: it never came back.

    Of schedules alone: ``beyond`` is the longest silence beyond the path's own round trips as well, ``taken`` are
    packets that the accesses have lost by their quality, ``elsewhere`` those of ESP on other accesses than the first.
    """

    silences: tuple[float | None, ...]
    sent: int
    lost: int
    beyond: float | None = None
    taken: int | None = None
    elsewhere: int | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """In milliseconds."""
        silences: list[JsonValue] = [None if each is None else round(each * 1000, 1) for each in self.silences]
        figures: dict[str, JsonValue] = {"silence_ms": silences, "sent": self.sent, "lost": self.lost}
        if self.beyond is not None:
            figures["beyond_ms"] = round(self.beyond * 1000, 1)
        if self.taken is not None:
            figures |= {"taken": self.taken, "elsewhere": self.elsewhere}
        return figures

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Measured:
        """As ``to_json`` wrote it."""
        beyond = figures.get("beyond_ms")
        return cls(
            silences=tuple(None if each is None else each / 1000 for each in figures["silence_ms"]),
            sent=figures["sent"],
            lost=figures["lost"],
            beyond=None if beyond is None else beyond / 1000,
            taken=figures.get("taken"),
            elsewhere=figures.get("elsewhere"),
        )


def measure(stage: AccessTopology, mover: Mover, scenario: Scenario, patience: float = PATIENCE) -> Measured:
    """Attach, let traffic run, let the events happen, on a stage that nobody has used."""
    scenario.prepare(stage)
    silences: list[float | None] = []
    inner = mover.attach()
    with PingFlow(stage.ue, HOST_BEHIND_GATEWAY, source=inner, interval=INTERVAL) as flow:
        flow.wait_answers(SETTLED)
        for event in scenario.events:
            began = time.time()
            without_address = event(stage) or 0.0
            silences.append(_silence(flow, began, without_address, patience))
            if silences[-1] is None:
                break
            flow.wait_answers(SETTLED)
    answered = len({number for number, _ in flow.answers})
    return Measured(silences=tuple(silences), sent=answered + flow.lost, lost=flow.lost)


def _silence(flow: PingFlow, began: float, floor: float, patience: float) -> float | None:
    """The longest time without an answer around an event, from the last one before it, less the unavoidable."""
    before = len([moment for _, moment in flow.answers if moment <= began])

    def back() -> bool:
        return len([moment for _, moment in flow.answers if moment > began + floor]) >= SETTLED // 2

    try:
        wait_until(back, what="the traffic coming back", timeout=patience)
    except PeerError:
        return None
    moments = [moment for _, moment in flow.answers][max(0, before - 1) :]
    longest = max(later - earlier for earlier, later in zip(moments, moments[1:], strict=False))
    return max(0.0, longest - floor - flow.interval)


# --- who serves whom ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def our_gateway(stage: AccessTopology, directory: Path, *, ipv6: bool = False) -> Iterator[None]:
    """``epdg serve``; UEs prove themselves by a pre-shared key."""
    with gateway_on(stage, directory, addresses=(GATEWAY.ip, *([GATEWAY_6.ip] if ipv6 else []))):
        yield


@contextlib.contextmanager
def charon_gateway(stage: AccessTopology, authority: CertificateAuthority) -> Iterator[None]:
    """charon, EAP by RADIUS from hostapd: EAP-AKA for our UE, EAP-MSCHAPv2 for charon's."""
    users = (*aka_users(), password_user(UE, PASSWORD))
    subscribers = {IMSI: Subscriber(k=K, opc=OPC)}
    with Hostapd(stage.core, users=users, subscribers=subscribers) as radius:
        configuration = gateway_connections(
            address=GATEWAY.ip,
            identities=[FQDN, APN],
            credentials=authority.issue(names=[FQDN, APN]),
            authorities=[authority.credentials.certificate_pem],
            radius=radius.radius_server(CORE.ip),
            pool=INNER_ADDRESSES,
            local_selectors=[f"{HOST_BEHIND_GATEWAY}/32"],
            esp_proposals="aes128gcm16",
        )
        with Charon(stage.gateway, configuration):
            yield


@contextlib.contextmanager
def our_ue(
    stage: AccessTopology, directory: Path, authority: CertificateAuthority | None, *, ipv6: bool = False
) -> Iterator[OurUe]:
    """Our UE; with an authority it proves itself by EAP-AKA and verifies the gateway by it, else by the key."""
    over_ipv6 = {"wifi-a-6": {"interface": ACCESS_A.interface, "address": "::"}} if ipv6 else {}
    if authority is None:
        proof: dict[str, object] = {"identity": UE, "authentication": "psk", "psk": KEY}
        gateway: dict[str, object] = {"address": str(GATEWAY.ip)}
    else:
        (directory / "ca.pem").write_bytes(authority.credentials.certificate_pem)
        proof = {"usim": {"k": K.hex(), "opc": OPC.hex()}}
        gateway = {"address": str(GATEWAY.ip), "ca": "ca.pem"}
    configuration = {
        "imsi": IMSI,
        "plmn": {"mcc": "001", "mnc": "01"},
        **proof,
        "apn": APN,
        "gateway": gateway,
        "accesses": {
            "wifi-a": {"interface": ACCESS_A.interface},
            "wifi-b": {"interface": ACCESS_B.interface},
            **over_ipv6,
        },
        "management": {"automatic": True},
        "data_plane": {"kind": "tun", "routes": [f"{HOST_BEHIND_GATEWAY}/32"]},
    }
    with NodeProcess(stage.ue, "ue", directory, configuration, verb="run") as node:
        yield OurUe(node)


@contextlib.contextmanager
def charon_ue(stage: AccessTopology, authority: CertificateAuthority | None) -> Iterator[CharonUe]:
    """charon; by EAP-MSCHAPv2 with an authority, else by the key. It probes silence, by default it does not."""
    children = f"{HOST_BEHIND_GATEWAY}/32"
    if authority is None:
        connection = Connection(
            children=(Child(remote_selectors=children),), settings={"dpd_delay": f"{CHARON_DPD:g}s"}
        )
        configuration = client(connection, settings=CHARON_RETRANSMISSION)
    else:
        configuration = ue_connection(
            gateway=GATEWAY.ip,
            gateway_identity=FQDN,
            identity=UE,
            password=PASSWORD,
            authorities=[authority.credentials.certificate_pem],
            remote_selectors=[children],
            dpd_delay=CHARON_DPD,
            settings=CHARON_RETRANSMISSION,
        )
    with Charon(stage.ue, configuration) as charon:
        yield CharonUe(charon)


@contextlib.contextmanager
def mover(
    kind: str, stage: AccessTopology, authority: CertificateAuthority | None, *, ipv6: bool = False
) -> Iterator[Mover]:
    """A UE by its name, ``ours`` or ``strongSwan``, for a gateway with or without certificates."""
    with tempfile.TemporaryDirectory(prefix="mover-") as directory, contextlib.ExitStack() as stack:
        if kind == OurUe.name:
            yield stack.enter_context(our_ue(stage, Path(directory), authority, ipv6=ipv6))
        else:
            yield stack.enter_context(charon_ue(stage, authority))


@contextlib.contextmanager
def place(gateway: str, *, ipv6: bool = False) -> Iterator[tuple[AccessTopology, CertificateAuthority | None]]:
    """The stage with a gateway on it, and the authority that UEs verify it by."""
    with tempfile.TemporaryDirectory(prefix="moves-") as directory, access_topology() as stage:
        if ipv6:
            with_ipv6(stage)
        if gateway == "ours":
            with our_gateway(stage, Path(directory), ipv6=ipv6):
                yield stage, None
        else:
            authority = CertificateAuthority()
            with charon_gateway(stage, authority):
                yield stage, authority


def play(scenario: Scenario, ue: str, gateway: str, patience: float = PATIENCE) -> Measured:
    """A scenario with a pair, on a stage of its own."""
    with (
        place(gateway, ipv6=scenario.ipv6) as (stage, authority),
        mover(ue, stage, authority, ipv6=scenario.ipv6) as moving,
    ):
        return measure(stage, moving, scenario, patience)
