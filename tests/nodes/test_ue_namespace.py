"""``ue`` with its device in a network namespace that has a name: programs run there as the phone (root).

IKE and ESP are in the namespace ``tun``, where the gateway is known by a default route alone. The named ones are made
by ``ip netns add``, and entered by ``ip netns exec``, as a person does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.namespaces import Namespace
from protocols.dataplane.port import Backend
from protocols.errors import ConfigurationError
from protocols.io.configuration import load
from protocols.io.control import ControlError
from protocols.io.namespace import NetworkNamespace
from protocols.trace.records import JsonValue
from tests.nodes.test_ue_tun import DNS, P_CSCF, left_behind, nodes, sessions
from tests.peers.backends import require_backend
from tests.peers.epdg_node import CORE_HOST
from tests.peers.namespaces import ping, require_namespaces
from tests.peers.node_process import NodeProcess
from tests.peers.processes import require_program, wait_until
from ue.config import UeConfiguration
from ue.profile import require_namespaces as require_those_named

pytestmark = pytest.mark.root

GATEWAYS = ("198.18.0.1", "198.19.0.1")
TIMEOUT = 20.0
RESOLVER = Path("/etc/resolv.conf")
RESOLVERS = Path("/etc/netns")
BACKENDS = (pytest.param(Backend.PYTHON, marks=pytest.mark.long), Backend.COMPILED)


_numbers = count(1)


def ip(*words: str, check: bool = True) -> str:
    """Of iproute2, outside all namespaces."""
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check, timeout=TIMEOUT).stdout


class Named:
    """A namespace as a person makes it."""

    def __init__(self) -> None:
        self.name = f"epdg-test-{os.getpid()}-{next(_numbers)}"
        self.resolver = RESOLVERS / self.name / "resolv.conf"

    def __enter__(self) -> Named:
        ip("netns", "add", self.name)
        return self

    def __exit__(self, *error: object) -> None:
        ip("netns", "del", self.name, check=False)

    def inside(self, *words: str) -> list[str]:
        """The command that runs a program in it."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str) -> str:
        """What a program in it prints."""
        done = subprocess.run(self.inside(*words), capture_output=True, text=True, timeout=TIMEOUT, check=False)
        return done.stdout + done.stderr

    def answered(self, destination: str = CORE_HOST, count: int = 3) -> int:
        """Echo requests of a program's that came back."""
        return received(self.run(*pinging(destination, count)))

    def seen(self) -> tuple[str, ...]:
        """Devices, addresses, routes and rules in it, and its own files."""
        commands = ("link", "address", "route show table all", "-6 route show table all", "rule", "-6 rule")
        directory = self.resolver.parent
        files = [str(each) for each in (directory, *sorted(directory.glob("*"))) if each.exists()]
        return (*(ip("-n", self.name, *command.split(), check=False) for command in commands), *files)


def pinging(destination: str, count: int) -> tuple[str, ...]:
    return ("ping", "-n", "-q", "-c", str(count), "-i", "0.05", "-W", "1", destination)


def received(output: str) -> int:
    counts = re.search(r"transmitted, (\d+) received", output)
    return 0 if counts is None else int(counts[1])


@dataclass
class World:
    """The UE's own namespace, the UE (not attached), the phone's namespace."""

    outside: Namespace
    ue: NodeProcess
    phone: Named

    def start(self, **changes: Any) -> None:
        """The UE anew, with another configuration."""
        self.ue.close()
        self.ue.configuration = {**self.ue.configuration, **changes}
        self.ue.start()

    def around(self) -> tuple[object, ...]:
        """What is to stay as it is where the UE's process runs."""
        return (*left_behind(self.outside, RESOLVER), RESOLVER.stat().st_ino)


def plane(phone: Named, **changes: object) -> dict[str, object]:
    return {"kind": "tun", "backend": "python", "device": "ue0", "namespace": phone.name, **changes}


def reach(outside: Namespace, far: Namespace, number: int) -> tuple[str, str]:
    """A link to a gateway's namespace, which leads to its address; two addresses to be on it."""
    link, accesses = f"wlan{number}", (f"198.18.{number}.2", f"198.18.{number}.3")
    outside.connect(link, far, "wlan")
    for address in accesses:
        outside.add_address(link, f"{address}/24")
    far.add_address("wlan", f"198.18.{number}.1/24")
    far.add_address("lo", f"{GATEWAYS[number - 1]}/32")
    destination = "0.0.0.0/0" if number == 1 else f"{GATEWAYS[number - 1]}/32"
    outside.add_route(destination, via=f"198.18.{number}.1")
    return accesses


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Namespace, NodeProcess]]:
    """AAA server and gateway, and a UE that is to be started."""
    require_namespaces()
    require_program("ip", "ping")
    with ExitStack() as stack:
        outside, far = stack.enter_context(Namespace("tun")), stack.enter_context(Namespace("far"))
        ue = nodes(stack, tmp_path_factory.mktemp("ue"), outside, far, GATEWAYS[0], reach(outside, far, 1))
        ue.close()
        yield outside, ue
        assert "Traceback" not in ue.log()


@pytest.fixture
def world(stage: tuple[Namespace, NodeProcess]) -> Iterator[World]:
    outside, ue = stage
    configuration = ue.configuration
    with Named() as phone:
        yield World(outside, ue, phone)
        ue.close()
    ue.configuration = configuration


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda each: each.value)
def test_programs_run_as_the_phone_and_nothing_is_left(world: World, backend: Backend) -> None:
    """The default route, addresses and name servers are in the namespace; around the UE everything is as before.

    Also over a move, and after detach, SIGTERM, and kill -9 with another start.
    """
    require_backend(backend)
    phone, ue = world.phone, world.ue
    world.start(data_plane=plane(phone, backend=backend.value))
    around, before = world.around(), phone.seen()
    for end in ("detach", "kill -9", "SIGTERM"):
        ue.call("ue.attach")
        (session,) = sessions(ue)
        assert session["device"] == {"name": "ue0", "namespace": phone.name}
        assert f"inet {session['inner_addresses'][0]}/32 " in ip("-n", phone.name, "address", "show", "dev", "ue0")
        assert ip("-n", phone.name, "route", "show", "default").startswith("default dev ue0 ")
        assert world.around() == around
        assert phone.run("cat", "/etc/resolv.conf").splitlines()[1:] == [f"nameserver {server}" for server in DNS]
        assert phone.answered() == 3
        assert ping(world.outside, CORE_HOST, count=1).received == 0

        going_on = subprocess.Popen(phone.inside(*pinging(CORE_HOST, 40)), stdout=subprocess.PIPE, text=True)
        ue.call("ue.move", to="b")
        output, _ = going_on.communicate(timeout=TIMEOUT)
        assert received(output) >= 38  # the gateway's check of the new path may cost some
        assert world.around() == around

        if end == "detach":
            ue.call("ue.detach")
        elif end == "SIGTERM":
            assert ue.stop() == 0
        else:
            ue.kill()
            wait_until(lambda: phone.seen()[:6] == before[:6], what="the device's end", timeout=TIMEOUT)
            assert phone.resolver.exists()
            ue.start()
        assert phone.seen() == before
        assert world.around() == around


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda each: each.value)
def test_flows_of_the_ues_own_go_through_it_too(world: World, backend: Backend) -> None:
    require_backend(backend)
    world.start(data_plane=plane(world.phone, backend=backend.value))
    world.ue.call("ue.attach")
    for kind, figure in (("icmp", "received"), ("udp", "received"), ("tcp", "octets_received")):
        world.ue.call("ue.traffic.start", destination=CORE_HOST, kind=kind)
        wait_until(
            lambda figure=figure: int(world.ue.call("ue.traffic.statistics")[figure]) >= 5,  # type: ignore[misc]
            what=f"answers to {kind}",
            timeout=TIMEOUT,
            log=world.ue.log,
        )
        world.ue.call("ue.traffic.stop")


def test_a_files_own_name_servers_come_back_and_a_file_that_is_named_is_taken(world: World) -> None:
    phone, ue, named = world.phone, world.ue, world.ue.directory / "resolv.conf"
    phone.resolver.parent.mkdir(parents=True)
    try:
        phone.resolver.write_text("nameserver 192.0.2.53\n")
        world.start(data_plane=plane(phone))
        ue.call("ue.attach")
        assert "nameserver 192.0.2.53" not in phone.run("cat", "/etc/resolv.conf")
        ue.call("ue.detach")
        assert phone.run("cat", "/etc/resolv.conf") == "nameserver 192.0.2.53\n"
        world.start(data_plane=plane(phone, resolv_conf="resolv.conf"))
        ue.call("ue.attach")
        assert f"nameserver {DNS[0]}" in named.read_text()
        assert phone.resolver.read_text() == "nameserver 192.0.2.53\n"
        ue.call("ue.detach")
        assert not named.exists()
    finally:
        phone.resolver.unlink()
        phone.resolver.parent.rmdir()
        with suppress(OSError):  # other files are in it
            RESOLVERS.rmdir()


def test_pdn_connections_in_namespaces_of_their_own(world: World) -> None:
    """Devices of one name, each with the default route; in the same namespace the second has but its P-CSCFs."""
    phone, ue = world.phone, world.ue
    with Named() as other:
        world.start(data_plane=plane(phone), additional_pdns={"ims": {"data_plane": plane(other)}})
        ue.call("ue.attach")
        ue.call("ue.attach", pdn="ims")
        assert [each["device"]["namespace"] for each in sessions(ue)] == [phone.name, other.name]
        assert phone.answered(count=1) == other.answered(P_CSCF, count=1) == 1
        for each in (phone, other):
            assert ip("-n", each.name, "route", "show", "default").startswith("default dev ue0 ")
        ue.call("ue.move", to="b")
        assert phone.answered() >= 2
        assert other.answered(P_CSCF) >= 2
        ue.call("ue.detach")
    world.start(additional_pdns={"ims": {}})
    ue.call("ue.attach")
    ue.call("ue.attach", pdn="ims")
    assert [each["device"]["name"] for each in sessions(ue)] == ["ue0", "ue1"]
    assert P_CSCF in ip("-n", phone.name, "route", "show", "dev", "ue1")
    assert phone.answered(count=1) == phone.answered(P_CSCF, count=1) == 1
    assert f"nameserver {DNS[0]}" in phone.run("cat", "/etc/resolv.conf")
    ue.call("ue.detach", pdn="ims")
    assert f"nameserver {DNS[0]}" in phone.run("cat", "/etc/resolv.conf")


@pytest.mark.long
def test_two_ues_with_the_same_inner_address(world: World, tmp_path: Path) -> None:
    """Each at a gateway of its own with the same pool, of which the second asks for the first one's address."""
    with Named() as other, ExitStack() as stack:
        far = stack.enter_context(Namespace("far"))
        accesses = reach(world.outside, far, 2)
        (tmp_path / "second").mkdir()
        second = nodes(stack, tmp_path / "second", world.outside, far, GATEWAYS[1], accesses)
        granted: list[JsonValue] = []
        for ue, phone in ((world.ue, world.phone), (second, other)):
            ue.close()
            ue.configuration = {**ue.configuration, "data_plane": plane(phone)}
            ue.start()
            granted.append(ue.call("ue.attach", **({"handover": granted[0]} if granted else {}))["inner_addresses"])
        assert granted[0] == granted[1]
        assert world.phone.answered() == other.answered() == 3
        world.ue.call("ue.detach")
        assert world.phone.answered(count=1) == 0
        assert other.answered() == 3
        assert not world.phone.resolver.parent.exists()
        second.call("ue.detach")
        assert not other.resolver.parent.exists()


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda each: each.value)
def test_a_namespace_that_is_deleted_and_made_again(world: World, backend: Backend) -> None:
    """As a device that somebody takes away: it comes back when there is a namespace for it; detach works without."""
    require_backend(backend)
    phone, ue = world.phone, world.ue
    around = world.around()
    world.start(data_plane=plane(phone, backend=backend.value))
    ue.call("ue.attach")
    before = [session["id"] for session in sessions(ue)]
    ip("netns", "del", phone.name)
    lost = f"network namespace {phone.name} was deleted"
    wait_until(lambda: lost in ue.log(), what="the loss", timeout=TIMEOUT, log=ue.log)
    assert sessions(ue)[0]["device"] is None
    ip("netns", "add", phone.name)
    wait_until(lambda: phone.answered(count=1) == 1, what="another device", timeout=TIMEOUT, log=ue.log)
    assert [session["id"] for session in sessions(ue)] == before
    ip("netns", "del", phone.name)
    wait_until(lambda: ue.log().count(lost) == 2, what="another loss", timeout=TIMEOUT, log=ue.log)
    ue.call("ue.detach")
    assert not phone.resolver.exists()
    assert world.around() == around
    with pytest.raises(ControlError, match=f"there is no /run/netns/{phone.name}"):
        ue.call("ue.attach")
    assert ue.stop() == 0


def test_a_device_of_that_name_is_there_already_and_auto_takes_a_backend_that_can(world: World) -> None:
    world.start(data_plane=plane(world.phone, backend="auto"))
    chosen = world.ue.call("node.status")["data_plane"]
    assert isinstance(chosen, dict)
    assert chosen["backend"] in ("compiled", "python")
    assert "data_plane.namespace" in str(chosen["refused"])
    assert "not by the kernel: data_plane.namespace: " in world.ue.log()
    ip("-n", world.phone.name, "link", "add", "ue0", "type", "veth", "peer", "name", "other")
    with pytest.raises(ControlError, match=f"TUN device ue0 in network namespace {world.phone.name}: "):
        world.ue.call("ue.attach")


def test_without_the_right_to_enter_it(world: World) -> None:
    require_program("setpriv")
    configuration = {**world.ue.configuration, "data_plane": plane(world.phone)}
    without = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    before = world.phone.seen()
    refusal = f"cannot enter network namespace {world.phone.name}: Operation not permitted"
    with (
        NodeProcess(world.outside, "ue", world.ue.directory, configuration, verb="run", prefix=without) as ue,
        pytest.raises(ControlError, match=refusal),
    ):
        ue.call("ue.attach")
    assert world.phone.seen() == before


def written(world: World, **changes: object) -> Path:
    file = world.ue.directory / "refused.yaml"
    file.write_text(yaml.safe_dump({**world.ue.configuration, **changes}))
    return file


@pytest.mark.parametrize("command", ["run", "attach"])
def test_a_namespace_that_is_not_there_is_refused_at_the_start(world: World, command: str) -> None:
    missing = Named()
    file = written(world, data_plane=plane(missing))
    words = [sys.executable, "-m", "ue", command, "-c", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line == (
        f"{file}: data_plane.namespace: got '{missing.name}', expected a network namespace beside the UE's own "
        f"(there is no /run/netns/{missing.name}, which ip netns add {missing.name} makes)"
    )


def refusal(world: World, **changes: object) -> str:
    file = written(world, **changes)
    with pytest.raises(ConfigurationError) as refused:
        require_those_named(load(file, UeConfiguration), file)
    return str(refused.value).removeprefix(f"{file}: ")


def test_what_else_cannot_be_the_devices_namespace(world: World) -> None:
    """That of another PDN connection, the UE's own, a file of another kind."""
    phone, missing = world.phone, Named()
    line = refusal(world, data_plane=plane(phone), additional_pdns={"ims": {"data_plane": plane(missing)}})
    assert line.startswith(f"additional_pdns.ims.data_plane.namespace: got '{missing.name}', expected a network name")
    line = NetworkNamespace(phone.name).call(lambda: refusal(world, data_plane=plane(phone)))
    assert line.endswith(f"(the process itself runs in {phone.name})")
    no_namespace = Path("/run/netns") / missing.name
    no_namespace.touch()
    try:
        assert refusal(world, data_plane=plane(missing)).endswith(f"({no_namespace} is no network namespace)")
    finally:
        no_namespace.unlink()
