"""Rekeys and make-before-break moves of a UE at our gateway while numbered packets run at full pace both ways.

Moves between versions of IP are among them: then the gateway's address is another one, too. UE and gateway are real
nodes with TUN devices, or whatever the backend has in their place; the flow is between the UE's inner address and the
core.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.namespaces import CORE, GATEWAY, AccessTopology, access_topology
from protocols.dataplane.port import Backend
from protocols.trace.records import JsonValue
from tests.peers.backends import require_backend
from tests.peers.node_process import NodeProcess
from tests.peers.numbered_flow import NumberedFlow, Outcome, numbered_flow
from tests.peers.processes import wait_until
from tests.peers.strongswan_scene import ACCESS_A_6, GATEWAY_6, gateway_configuration, join_ipv6, with_ipv6
from tests.peers.ue_at_strongswan import inbound_spis, part, ue_configuration

STEADY_INTERVAL = 0.7  # seconds of traffic before each event and after the last one
ATTEMPTS = 4  # at a pace, each half of the one before
CHANGE_INTERVAL = 20.0

View = dict[str, JsonValue]


@dataclass
class Pair:
    """An attached UE and its gateway."""

    stage: AccessTopology
    ue: NodeProcess
    epdg: NodeProcess
    inner: str

    @contextmanager
    def flow(self) -> Iterator[NumberedFlow]:
        """Between the UE and the core."""
        with numbered_flow((self.stage.ue, self.inner), (self.stage.core, str(CORE.ip))) as flow:
            yield flow

    def session(self) -> View:
        """The UE's."""
        sessions = self.ue.call("ue.status")["sessions"]
        assert isinstance(sessions, list)
        (session,) = sessions
        assert isinstance(session, dict)
        return session

    def at_the_gateway(self) -> View:
        """The gateway's only one."""
        sessions = self.epdg.call("sessions.list", state="established")["sessions"]
        assert isinstance(sessions, list)
        (session,) = sessions
        assert isinstance(session, dict)
        return session

    def child(self) -> str | None:
        """The UE's inbound SPI, ``None`` while there are two."""
        spis = inbound_spis(self.session())
        return spis[0] if len(spis) == 1 else None

    def ike(self) -> tuple[str, str] | None:
        """The SPIs of the IKE SA, ``None`` while the ends do not agree."""
        here, there = part(self.session(), "ike"), part(self.at_the_gateway(), "ike")
        mine, theirs = ((str(each["spi_i"]), str(each["spi_r"])) for each in (here, there))
        return mine if mine == theirs else None

    def overflows(self) -> Counter[str]:
        """Packets that full queues of the kernel have dropped: of devices on the way out, and of UDP sockets."""
        found: Counter[str] = Counter()
        for namespace in (self.stage.ue, self.stage.gateway):
            for name, dropped in namespace.call(_device_drops).items():
                found[f"{namespace.name} {name}"] = dropped
            found[f"{namespace.name} UDP"] = namespace.call(_socket_drops)
        return found

    # --- what happens

    def child_rekey_of_the_ue(self) -> None:
        """RFC 7296 §2.8."""
        self._rekey(self.child, lambda: self.ue.call("ue.rekey-child"))

    def child_rekey_of_the_gateway(self) -> None:
        """RFC 7296 §2.8."""
        identity = self.at_the_gateway()["id"]
        self._rekey(self.child, lambda: self.epdg.call("sessions.rekey-child", id=identity))

    def ike_rekey(self) -> None:
        """RFC 7296 §2.8.1: the child SAs are inherited, and carry on."""
        before = self.child()
        self._rekey(self.ike, lambda: self.ue.call("ue.rekey-ike"))
        assert self.child() == before

    def move_to_another_access(self) -> None:
        """RFC 4555 §3.5, make before break: both addresses are there, and answered once the gateway has followed."""
        self._move("wifi-b")

    def move_to_ipv6(self) -> None:
        """To another address of the gateway's as well."""
        self._move("wifi-a-6")

    def move_back(self) -> None:
        """From IPv6 to IPv4."""
        self._move("wifi-a")

    def _move(self, to: str) -> None:
        self.ue.call("ue.move", to=to, keep_old=True)
        here = str(self.session()["access"])
        assert here == to
        wait_until(self._agreed_path, what="the gateway following", timeout=CHANGE_INTERVAL)

    def _agreed_path(self) -> bool | None:
        here, there = (self._paths(view) for view in (self.session(), self.at_the_gateway()))
        mirrored = {(remote, local) for local, remote in there}
        return here == mirrored or None

    @staticmethod
    def _paths(view: View) -> set[tuple[str, str]]:
        children = view["child_sas"]
        assert isinstance(children, list)
        paths = [child["path"] for child in children if isinstance(child, dict)]
        return {(str(path["local"]), str(path["remote"])) for path in paths if isinstance(path, dict)}

    def _rekey(self, probe: Callable[[], object], ask: Callable[[], object]) -> None:
        before = wait_until(probe, what="one SA", timeout=CHANGE_INTERVAL)
        ask()
        wait_until(lambda: probe() not in (None, before) or None, what="another SA alone", timeout=CHANGE_INTERVAL)


@contextmanager
def pair(backend: Backend, directory: Path, return_routability: str = "before-update") -> Iterator[Pair]:
    """A gateway and a UE on its first access, others beside it, ESP by a backend; skips without it."""
    require_backend(backend)
    with access_topology() as stage:
        with_ipv6(stage)
        join_ipv6(stage)
        for name in ("epdg", "ue"):
            (directory / name).mkdir()
        plane = {"kind": "tun", "backend": backend.value}
        serving = gateway_configuration(
            {"return_routability": return_routability}, (GATEWAY.ip, GATEWAY_6.ip), {"data_plane": plane}
        )
        attaching = {**ue_configuration(), "data_plane": {**plane, "routes": [str(CORE.network)]}}
        part(attaching, "gateway")["other_address"] = str(GATEWAY_6.ip)
        part(attaching, "accesses")["wifi-a-6"] = {"address": str(ACCESS_A_6.ip)}
        with (
            NodeProcess(stage.gateway, "epdg", directory / "epdg", serving, own_sysfs=True) as epdg,
            NodeProcess(stage.ue, "ue", directory / "ue", attaching, verb="run", own_sysfs=True) as ue,
        ):
            addresses = ue.call("ue.attach", access="wifi-a")["inner_addresses"]
            assert isinstance(addresses, list)
            made = Pair(stage, ue, epdg, str(addresses[0]))
            for node in (ue, epdg):
                assert part(node.call("node.status"), "data_plane")["backend"] == backend.value
            yield made


def nothing_is_lost(backend: Backend, rate: float, directory: Path, return_routability: str = "before-update") -> None:
    """Let rekeys and moves happen under numbered packets: all come, each once.

    What full queues of the kernel have dropped is counted there to the packet: then the machine does not carry the
    pace, and half of it is tried. What else is lost has been lost by us.
    """
    with pair(backend, directory, return_routability) as made:
        told = ""
        for _ in range(ATTEMPTS):
            outcome, overflowed, told = _under(made, rate)
            print(f"{backend.value}: {told}")
            assert outcome.forth.duplicated == outcome.back.duplicated == 0, told
            if outcome.is_whole:
                return
            assert outcome.lost <= overflowed, told
            rate /= 2
        pytest.fail(f"this machine does not carry it: {told}")


def _under(made: Pair, rate: float) -> tuple[Outcome, int, str]:
    """What came of a flow while everything happened, how much full queues dropped, and that in words."""
    events = (
        made.child_rekey_of_the_ue,
        made.child_rekey_of_the_gateway,
        made.ike_rekey,
        made.move_to_another_access,
        made.child_rekey_of_the_gateway,
        made.move_to_ipv6,
        made.move_back,
    )
    before = made.overflows()
    began: list[str] = []
    with made.flow() as flow:
        flow.set_rate(rate)
        start = time.monotonic()
        for event in events:
            time.sleep(STEADY_INTERVAL)
            began.append(f"{event.__name__} at packet {(time.monotonic() - start) * rate:.0f}")
            event()
        time.sleep(STEADY_INTERVAL)
        outcome = flow.finish()
    overflowed = made.overflows() - before
    drops = {node.module: node.call("node.status")["dropped"] for node in (made.ue, made.epdg)}
    words = (
        f"{rate:g} packets a second each way, {outcome}; {', '.join(began)}; dropped: {drops}; "
        f"by full queues: {dict(overflowed)}"
    )
    return outcome, overflowed.total(), words


def _device_drops() -> dict[str, int]:
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return {name.strip(): int(rest.split()[11]) for name, _, rest in (line.partition(":") for line in lines)}


def _socket_drops() -> int:
    lines = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
    return sum(int(line.split()[-1]) for line in lines)
