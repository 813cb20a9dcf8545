"""Bad ESP at a running gateway, through its sockets: each packet counted by its reason, nothing else disturbed.

The counts are read where an operator reads them: ``node.status`` and the dashboard's ``/metrics``.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aaa.subscribers.laboratory import laboratory_subscriber
from dashboards.app import create_app
from dashboards.config import DashboardsConfig
from protocols.dataplane.userspace.host import EchoClient, FlowKind
from protocols.entropy import SeededEntropy
from protocols.esp.packet import sealer_of
from protocols.esp.sa import REPLAY_WINDOW, ChildSa
from protocols.ikev2.events import ChildSaInstalled, Closed, Established
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.io.configuration import parse
from protocols.ip import IPIP, IPV6, NO_NEXT_HEADER, UDP, IpPacket, UdpDatagram
from tests.harness.aka_user import aka_user
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, EpdgProcess, Phone

USER = laboratory_subscriber(1)
UE, ELSEWHERE = "127.0.31.61", "127.0.31.62"
TOKEN = "correct-horse-battery-staple"
ICV, IV, HEADER = 16, 8, 8  # octets of AES-GCM in ESP (RFC 4106)
SHORTEST = HEADER + IV + 4 + ICV
UDP_MAXIMUM = 65507

Reason = tuple[str, str]


class Forge:
    """Packets under the phone's SA: its keys, its sequence numbers."""

    def __init__(self, sa: ChildSa) -> None:
        spec = sa.spec
        self._sa = sa
        self.spi, self.spi_of_the_other_way = spec.outbound_spi, spec.inbound_spi
        self.ue = IPv4Address(str(spec.local_selectors[0].start))
        self._sealer = sealer_of(
            spec.suite,
            spec.outbound_spi,
            spec.outbound_encryption_key,
            spec.outbound_integrity_key,
            SeededEntropy("forge"),
        )

    def sealed(self, payload: bytes, next_header: int = IPIP, *, ahead: int = 1) -> bytes:
        """An authentic packet, its sequence number ``ahead`` of the last."""
        self._sa.sequence += ahead
        return self._sealer.seal(self._sa.sequence, payload, next_header)

    def datagram(self, *, source: str | None = None, port: int = 9, octets: int = 10) -> bytes:
        """An inner packet that nobody answers: UDP to the discard port of the host behind the gateway."""
        start, end = ip_address(source or str(self.ue)), ip_address(CORE_HOST)
        payload = UdpDatagram(source_port=5000, destination_port=port, payload=bytes(octets)).encode(start, end)
        return IpPacket(source=start, destination=end, protocol=UDP, payload=payload).encode()

    def packet(self) -> bytes:
        """An authentic packet that nothing is wrong with."""
        return self.sealed(self.datagram())


def changed(octets: bytes, index: int) -> bytes:
    """One bit is another one."""
    copy = bytearray(octets)
    copy[index] ^= 0x10
    return bytes(copy)


@dataclass(frozen=True, kw_only=True)
class Case:
    """``authentic`` packets come from the phone's own socket, forged ones from somewhere else on the network."""

    name: str
    counted: Reason
    make: Callable[[Forge], Sequence[bytes]]
    authentic: bool = False
    passes: int = 0  # of these packets so many are right and are not counted


def _replays(forge: Forge) -> Sequence[bytes]:
    octets = forge.packet()
    return [octets] * 5


def _left_of_the_window(forge: Forge) -> Sequence[bytes]:
    old = [forge.packet() for _ in range(4)]
    return [forge.sealed(forge.datagram(), ahead=REPLAY_WINDOW + 500), *old]


def _cut(start: int, end: int) -> Callable[[Forge], Sequence[bytes]]:
    def make(forge: Forge) -> Sequence[bytes]:
        octets = forge.packet()
        return [octets[:length] for length in range(start, end)]

    return make


CASES = (
    Case(name="sent again", counted=("esp", "replayed"), make=_replays, authentic=True, passes=1),
    Case(name="left of the window", counted=("esp", "replayed"), make=_left_of_the_window, authentic=True, passes=1),
    Case(
        name="sequence number 0",
        counted=("esp", "replayed"),
        make=lambda forge: [forge.spi + bytes(4) + forge.packet()[8:]],
    ),
    Case(
        name="a bit of the ICV, the ciphertext, the IV, the sequence number",
        counted=("esp", "bad_icv"),
        make=lambda forge: [changed(forge.packet(), index) for index in (-1, -ICV, HEADER + IV, HEADER, 7)],
    ),
    Case(
        name="the highest sequence number",
        counted=("esp", "bad_icv"),
        make=lambda forge: [forge.spi + b"\xff" * 4 + forge.packet()[8:]],
    ),
    Case(
        name="no SA has this SPI",
        counted=("esp", "unknown_spi"),
        make=lambda forge: [
            spi + forge.packet()[4:]
            for spi in (b"\0\0\0\x01", b"\0\0\0\xff", b"\xff" * 4, forge.spi_of_the_other_way, changed(forge.spi, 3))
        ],
    ),
    Case(
        name="no room for a header",
        counted=("swu", "short"),
        make=lambda forge: [b"", b"\xfe", b"\0\0\0", forge.spi, forge.packet()[:HEADER]],
    ),
    Case(name="no room for an ICV", counted=("esp", "malformed"), make=_cut(HEADER + 1, SHORTEST)),
    Case(name="cut short", counted=("esp", "bad_icv"), make=_cut(SHORTEST, SHORTEST + 20)),
    Case(
        name="longer than it was",
        counted=("esp", "bad_icv"),
        make=lambda forge: [forge.packet() + bytes(length) for length in (1, 4, 2000)],
    ),
    Case(
        name="as long as a datagram can be",
        counted=("esp", "bad_icv"),
        make=lambda forge: [forge.packet().ljust(UDP_MAXIMUM, b"\0")] * 3,
    ),
    Case(
        name="a dummy packet",
        counted=("esp", "dummy"),
        make=lambda forge: [forge.sealed(bytes(length), NO_NEXT_HEADER) for length in (0, 1000)],
        authentic=True,
    ),
    Case(
        name="no IP packet inside, or not the one announced",
        counted=("esp", "malformed"),
        make=lambda forge: [
            forge.sealed(b""),
            forge.sealed(b"\x45"),
            forge.sealed(bytes(100)),
            forge.sealed(forge.datagram()[:-1]),
            forge.sealed(forge.datagram(), IPV6),
            forge.sealed(forge.datagram(), UDP),
        ],
        authentic=True,
    ),
    Case(
        name="somebody else's inner address",
        counted=("esp", "bad_selector"),
        make=lambda forge: [forge.sealed(forge.datagram(source=f"10.45.0.{host}")) for host in (200, 201)],
        authentic=True,
    ),
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EpdgProcess]:
    aaa = AaaProcess(tmp_path_factory.mktemp("aaa"))
    aaa.provision(USER)
    with aaa, EpdgProcess(tmp_path_factory.mktemp("epdg"), aaa.port) as node:
        yield node


def counts(gateway: EpdgProcess) -> Counter[Reason]:
    """Everything that ``node.status`` says was dropped."""
    dropped = gateway.call("node.status")["dropped"]
    assert isinstance(dropped, dict)
    return Counter({(where, why): number for where, found in dropped.items() for why, number in found.items()})


async def echo(phone: Phone, ue: IPv4Address) -> None:
    """There and back through the tunnel: what was sent before is worked off, too."""
    client = EchoClient(source=ue, destination=IPv4Address(CORE_HOST), kind=FlowKind.ICMP, interval=1.0)
    client.start(0.0)
    client.handle_timeout(0.0)
    packet = client.poll_packet()
    assert packet is not None
    assert phone.plane.send_inner(packet)
    async with asyncio.timeout(3):
        assert client.receive(await phone.packets.get(), 0.1)


async def metrics(gateway: EpdgProcess, wanted: Counter[Reason]) -> None:
    """The dashboard shows the same once it has asked the gateway."""
    text = f"token: {TOKEN}\npoll_interval: 0.1\nnodes:\n  - {{ name: epdg, kind: epdg, control: {gateway.control} }}\n"
    app = create_app(parse(text, DashboardsConfig), TOKEN)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        asyncio.timeout(10),
    ):
        found: Counter[Reason] = Counter()
        while found != wanted:
            await asyncio.sleep(0)
            answer = await client.get("/metrics")
            assert answer.status_code == 200
            found = Counter(
                {
                    (sample.labels["layer"], sample.labels["reason"]): int(sample.value)
                    for family in text_string_to_metric_families(answer.text)
                    for sample in family.samples
                    if sample.name == "epdg_dropped_total" and sample.labels["node"] == "epdg"
                }
            )


def test_each_is_counted_by_its_reason_and_disturbs_nothing(gateway: EpdgProcess) -> None:
    async def story() -> None:
        phone = Phone(gateway, aka_user(USER))
        try:
            phone.attach(UE)
            await phone.wait(Established)
            child = await phone.wait(ChildSaInstalled)
            sa = phone.plane.child_sa(child.spec.inbound_spi)
            forge = Forge(sa)
            seen, carried = counts(gateway), 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
                noise.bind((ELSEWHERE, 0))
                for case in CASES:
                    packets = case.make(forge)
                    for octets in packets:
                        if case.authentic:
                            phone._ports.send_esp(octets, sa.path, True)
                        else:
                            noise.sendto(octets, (gateway.address, gateway.natt_port))
                    await echo(phone, forge.ue)
                    carried += 1 + case.passes
                    seen[case.counted] += len(packets) - case.passes
                    assert counts(gateway) == seen, case.name
                    (session,) = gateway.sessions(state="established")
                    counters = session["child_sas"][0]["counters"]
                    assert counters["inbound_packets"] == carried, case.name
                    assert session["ike"]["path"]["remote"] == f"{UE}:14500", case.name
            of_the_sa = {why: counters[why] for why in ("replayed", "bad_icv", "bad_selector", "malformed")}
            assert of_the_sa == {why: seen["esp", why] for why in of_the_sa}
            assert "esp-from-elsewhere" not in gateway.call("node.status")["totals"]
            await metrics(gateway, seen)
            phone.initiate(DeleteIkeSa("done"))
            await phone.wait(Closed)
            assert counts(gateway) == seen  # they outlive the session
        finally:
            phone.close()

    asyncio.run(story())
    assert "Traceback" not in gateway.log()
