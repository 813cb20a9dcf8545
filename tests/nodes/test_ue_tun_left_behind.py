"""``ue`` with a TUN device at a gateway that misbehaves, and killed at every stage: the system is as it was (root).

Everything runs in one namespace: a UE's process, and ``BadGateway`` in a thread of the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pyroute2 import IPRoute

from aaa.subscribers.laboratory import laboratory_subscriber
from lab.namespaces import Namespace
from protocols.errors import LocalError
from protocols.ikev2.certificates import Credential
from protocols.ikev2.events import ConfigurationRequested, SaState
from protocols.ikev2.payloads import ConfigurationAttribute
from protocols.ikev2.registry import ConfigAttributeType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks.informational import DeleteChildSa, DeleteIkeSa
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.io.control import ControlClient, ControlError
from tests.harness.certificates import Pki, make_pki
from tests.harness.pair import responder_config
from tests.nodes.test_ue_tun import left_behind
from tests.peers.bad_gateway import BadGateway, Misbehaviour, granted
from tests.peers.epdg_node import FQDN
from tests.peers.namespaces import require_namespaces
from tests.peers.node_process import NodeProcess
from tests.peers.processes import PeerError, wait_until

pytestmark = pytest.mark.root

USER = laboratory_subscriber(1)
GATEWAY, ACCESSES = "127.0.1.1", {"a": "127.0.2.1", "b": "127.0.3.1"}
PORTS = {"ike_port": 15000, "nat_traversal_port": 14500}
ORIGINAL = "nameserver 192.0.2.53\n"
CREATE_CHILD_SA, INFORMATIONAL, REQUEST, RESPONSE = 36, 37, 0x00, 0x20
MTU = 1280


@dataclass
class Scene:
    """A UE that is not attached, and how its system looks then."""

    namespace: Namespace
    ue: NodeProcess
    directory: Path
    pki: Pki

    @property
    def resolver(self) -> Path:
        return self.directory / "resolv.conf"

    def seen(self) -> tuple[object, ...]:
        """All that a UE could leave: addresses, devices, routes, rules, the resolver's file, UDP ports, files."""
        ports = self.namespace.call(lambda: Path("/proc/thread-self/net/udp").read_text().count("\n"))
        files = sorted(each.name for each in self.directory.iterdir() if each.suffix not in (".log", ".sock"))
        return (*left_behind(self.namespace, self.resolver), ports, files)

    def is_as(self, before: tuple[object, ...]) -> None:
        """Nothing is left: a device that was just being made may take a moment to go."""
        with contextlib.suppress(PeerError):
            wait_until(lambda: self.seen() == before, what="a system as before", timeout=5)
        assert self.seen() == before

    def play(self, story: Callable[[BadGateway], Coroutine[Any, Any, None]]) -> None:
        """With a gateway that is honest at first."""

        async def run() -> None:
            config = responder_config(self.pki, credentials=(Credential(self.pki.chain, self.pki.key),))
            gateway = BadGateway(GATEWAY, USER, config)
            async with gateway.serving(**PORTS):
                await story(gateway)

        self.namespace.call(lambda: asyncio.run(run()))

    async def call(self, method: str, **params: str) -> dict[str, Any]:
        found = await ControlClient(self.ue.control).call(method, **params)
        assert isinstance(found, dict)
        return found

    async def closed(self) -> None:
        """The connection has come to its end."""
        async with asyncio.timeout(15):
            while True:
                if (await self.call("ue.status"))["state"] == "closed":
                    return

    async def device(self) -> None:
        """The tunnel's device is there."""
        async with asyncio.timeout(15):
            while True:
                await self.call("node.status")
                if "ue0" in self.namespace.call(lambda: [name for _, name in socket.if_nameindex()]):
                    return


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    require_namespaces()
    directory = tmp_path_factory.mktemp("tun")
    now = datetime.now(UTC)
    pki = make_pki((FQDN, "internet"), begin=now - timedelta(days=1), end=now + timedelta(days=1))
    (directory / "ca.pem").write_bytes(x509.load_der_x509_certificate(pki.authority).public_bytes(Encoding.PEM))
    (directory / "resolv.conf").write_text(ORIGINAL)
    (directory / "phone.yaml").write_text(
        f"name: phone\ndescription: x\nbased_on: samsung-carrier\nconfiguration: {{data_plane: {{mtu: {MTU}}}}}\n"
    )
    assert USER.opc is not None
    configuration = {
        "persona": "phone.yaml",
        "imsi": str(USER.imsi),
        "plmn": {"mcc": "001", "mnc": "01"},
        "usim": {"k": USER.k.reveal().hex(), "opc": USER.opc.reveal().hex()},
        "eap": {"reauthentication": False, "pseudonyms": False},
        "apn": "internet",
        "gateway": {"address": GATEWAY, **PORTS, "ca": "ca.pem"},
        "algorithms": {"ike": ["aes128-sha256-x25519"], "esp": ["aes128gcm16"]},
        "ike": {"group": "x25519"},
        "mobike": True,
        "retransmission": {"base_interval": 0.2, "limit": 2},
        "liveness_interval": 1,
        "fragmentation": False,
        "force_encapsulation": True,
        "accesses": {name: {"address": address, **PORTS} for name, address in ACCESSES.items()},
        "data_plane": {"kind": "tun", "device": "ue0", "routes": ["0.0.0.0/0"], "resolv_conf": "resolv.conf"},
        "state": "state",
    }
    with Namespace("left") as namespace:
        for address in ACCESSES.values():  # the default route would cover what 127.0.0.0/8 alone makes local
            namespace.add_address("lo", f"{address}/32")
        ue = NodeProcess(namespace, "ue", directory, configuration, verb="run")
        with ue:
            yield Scene(namespace, ue, directory, pki)
            assert "Traceback" not in ue.log()


def grants(*attributes: tuple[ConfigAttributeType, bytes]) -> Misbehaviour:
    made = tuple(ConfigurationAttribute(type=kind, value=value) for kind, value in attributes)
    reply = replace(granted(), attributes=made)
    return Misbehaviour(answer=lambda event: reply if isinstance(event, ConfigurationRequested) else None)


ADDRESS, DNS = ConfigAttributeType.INTERNAL_IP4_ADDRESS, ConfigAttributeType.INTERNAL_IP4_DNS
MINE = (ADDRESS, bytes([10, 45, 0, 2]))
REFUSED = {
    "a loopback address beside": (grants(MINE, (ADDRESS, bytes([127, 0, 0, 9]))), "127.0.0.9, which is no host"),
    "300 addresses": (
        grants(*((ADDRESS, bytes([10, 45, number >> 8, number & 255])) for number in range(300))),
        "assigned 300 addresses",
    ),
    "the broadcast address": (grants((ADDRESS, b"\xff" * 4)), "255.255.255.255"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_grant_that_makes_no_sense_leaves_nothing(scene: Scene, name: str) -> None:
    misbehaviour, expected = REFUSED[name]
    before = scene.seen()

    async def story(gateway: BadGateway) -> None:
        gateway.misbehaviour = misbehaviour
        with pytest.raises(ControlError, match=expected):
            await scene.call("ue.attach")
        await scene.closed()

    scene.play(story)
    scene.is_as(before)


def test_hundreds_of_name_servers_and_absurd_ones(scene: Scene) -> None:
    """The resolver's file has the first that can be one; and the device has the persona's MTU."""
    servers = [(DNS, bytes(4)), (DNS, bytes([127, 0, 0, 53]))]
    servers += [(DNS, bytes([10, 99, number >> 8, number & 255])) for number in range(1, 300)]
    before = scene.seen()

    async def story(gateway: BadGateway) -> None:
        gateway.misbehaviour = grants(MINE, *servers)
        await scene.call("ue.attach")
        lines = [line for line in scene.resolver.read_text().splitlines() if line.startswith("nameserver")]
        assert lines[0] == "nameserver 10.99.0.1"
        assert len(lines) <= 32
        mtu = scene.namespace.call(lambda: mtu_of("ue0"))
        assert mtu == MTU
        await scene.call("ue.detach")

    scene.play(story)
    scene.is_as(before)


def mtu_of(device: str) -> int:
    with IPRoute() as route:
        (link,) = route.get_links(ifname=device)
        return int(link.get_attr("IFLA_MTU"))


# --- after the attach -------------------------------------------------------------------------------------


def silent(gateway: BadGateway, sa: IkeSa) -> None:
    gateway.misbehaviour = Misbehaviour(wire=lambda octets: b"")


def deleting(gateway: BadGateway, sa: IkeSa) -> None:
    gateway.endpoint.initiate(sa, DeleteIkeSa("the gateway wants it so"), gateway.now())


def deleting_the_child(gateway: BadGateway, sa: IkeSa) -> None:
    gateway.endpoint.initiate(sa, DeleteChildSa(*sa.children), gateway.now())
    later(gateway, lambda live: DeleteIkeSa("and the rest"), 0.2, 1)


def later(gateway: BadGateway, task: Callable[[IkeSa], Any], interval: float, times: int) -> None:
    """The gateway begins this again and again, by whatever IKE SA is up then."""
    loop = asyncio.get_running_loop()

    def begin(left: int) -> None:
        live = [sa for sa in gateway.endpoint.sas.values() if sa.state is SaState.ESTABLISHED]
        if not left or not live:
            return
        with contextlib.suppress(LocalError, StopIteration):
            gateway.endpoint.initiate(live[-1], task(live[-1]), gateway.now())
        gateway.pump()
        loop.call_later(interval, begin, left - 1)

    loop.call_later(interval, begin, times)


def rekeying(gateway: BadGateway, sa: IkeSa) -> None:
    turn = iter(range(1000))

    def task(live: IkeSa) -> Any:
        number = next(turn)
        if number == 79:
            return DeleteIkeSa("enough")
        return RekeyIke() if number % 4 == 0 else RekeyChild(list(live.children)[-1])

    later(gateway, task, 0.01, 80)


def flooding(gateway: BadGateway, sa: IkeSa) -> None:
    """ESP of the right SPI and nobody's key, a genuine DELETE behind it."""
    spi = next(iter(sa.children.values())).spec.outbound_spi
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for number in range(2000):
            octets = spi + (number % 100).to_bytes(4, "big") + os.urandom(64)
            stranger.sendto(octets, (ACCESSES["a"], PORTS["nat_traversal_port"]))
    later(gateway, lambda live: DeleteIkeSa("after the flood"), 0.2, 1)


AFTERWARDS = {
    "silent": silent,
    "deleting": deleting,
    "deleting the child SA": deleting_the_child,
    "rekeying every 10 ms": rekeying,
    "flooding with ESP": flooding,
}


@pytest.mark.parametrize("name", AFTERWARDS)
def test_a_gateway_that_goes_wrong_afterwards_leaves_nothing(scene: Scene, name: str) -> None:
    before = scene.seen()

    async def story(gateway: BadGateway) -> None:
        gateway.misbehaviour = Misbehaviour(after=AFTERWARDS[name])
        with contextlib.suppress(ControlError):  # it may have been attached for a moment
            await scene.call("ue.attach")
        await scene.closed()

    scene.play(story)
    scene.is_as(before)


def test_attached_again_at_once_after_a_delete(scene: Scene) -> None:
    """The device of the connection that was deleted may still be being made."""
    before = scene.seen()

    async def story(gateway: BadGateway) -> None:
        for _ in range(5):
            gateway.misbehaviour = Misbehaviour(after=deleting)
            with contextlib.suppress(ControlError):
                await scene.call("ue.attach")
            gateway.misbehaviour = Misbehaviour()
            await scene.call("ue.attach")
            assert "ue0" in left_behind(scene.namespace, scene.resolver)[1]
            await scene.call("ue.detach")

    scene.play(story)
    scene.is_as(before)


# --- kill -9 ------------------------------------------------------------------------------------------------


def unanswered(exchange: int, message_id: int | None = None) -> Misbehaviour:
    """Responses of this exchange are lost."""

    def wire(octets: bytes) -> bytes:
        lost = octets[18] == exchange and octets[19] & RESPONSE
        number = int.from_bytes(octets[20:24], "big")
        return b"" if lost and message_id in (None, number) else octets

    return Misbehaviour(wire=wire)


STAGES: dict[str, tuple[Misbehaviour, str]] = {
    "IKE_SA_INIT": (unanswered(34), "attach"),
    "EAP": (unanswered(35, 2), "attach"),
    "the last IKE_AUTH": (unanswered(35, 3), "attach"),
    "the device": (Misbehaviour(), "device"),
    "attached": (Misbehaviour(), ""),
    "a move": (unanswered(INFORMATIONAL), "move"),
    "a rekey": (unanswered(CREATE_CHILD_SA), "rekey-child"),
    "detach": (unanswered(INFORMATIONAL), "detach"),
}
QUICK = ("the device", "a move")


@pytest.mark.parametrize(
    "stage", [each if each in QUICK else pytest.param(each, marks=pytest.mark.long) for each in STAGES]
)
def test_kill_9_at_every_stage(scene: Scene, stage: str) -> None:
    """Device, addresses, routes and rules go with the process; the rest at its next start; then all works."""
    misbehaviour, verb = STAGES[stage]
    before = scene.seen()
    asked: list[asyncio.Task[Any]] = []

    async def until_asked(gateway: BadGateway, verb: str) -> None:
        """The UE is in the midst of it: its request has come, and the answer was lost."""
        lost = asyncio.Event()

        def wire(octets: bytes) -> bytes:
            found = misbehaviour.wire(octets)
            if not found:
                lost.set()
            return found

        gateway.misbehaviour = replace(misbehaviour, wire=wire)
        params = {"to": "b"} if verb == "move" else {}
        begun = asyncio.create_task(scene.call(f"ue.{verb}", **params))
        asked.append(begun)
        waits = asyncio.create_task(lost.wait())
        await asyncio.wait({begun, waits}, timeout=15, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        assert lost.is_set(), begun

    async def story(gateway: BadGateway) -> None:
        if verb in ("attach", "device"):
            if verb == "attach":
                await until_asked(gateway, verb)
            else:
                asked.append(asyncio.create_task(scene.call("ue.attach")))
                await scene.device()
        else:
            await scene.call("ue.attach")
            if verb:
                await until_asked(gateway, verb)
        scene.ue.kill()
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)  # nobody answers any more
        assert left_behind(scene.namespace, scene.resolver)[:4] == before[:4]  # went with the process
        gateway.forget()
        gateway.misbehaviour = Misbehaviour()
        await asyncio.to_thread(scene.ue.start)
        await scene.call("ue.attach")
        assert "ue0" in left_behind(scene.namespace, scene.resolver)[1]
        await scene.call("ue.detach")

    scene.play(story)
    scene.is_as(before)
