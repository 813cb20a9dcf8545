"""``data_plane`` of ``epdg serve``: DSCP, ECN, path MTU, MSS, replay window, as a phone sees them on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, defragment
from scapy.packet import Packet, Raw

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.esp.sa import ChildSa
from protocols.ikev2.events import ChildSaInstalled, Closed, Established
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.trace.records import JsonValue
from tests.harness.aka_user import aka_user
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, EpdgProcess, Phone

USER = laboratory_subscriber(1)
GATEWAY, HERE = "127.0.51.1", "127.0.51.21"
OUTER_MTU = 900
OUTER_OVERHEAD = 28
CE, ECT_0 = 3, 2


@pytest.fixture(scope="module")
def epdg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EpdgProcess]:
    def change(values: dict[str, object]) -> None:
        plane = values["data_plane"]
        assert isinstance(plane, dict)
        plane.update(dscp=34, outer_mtu=OUTER_MTU, clamp_mss="auto", replay_window=64)

    aaa = AaaProcess(tmp_path_factory.mktemp("aaa"))
    aaa.provision(USER)
    directory: Path = tmp_path_factory.mktemp("epdg")
    with aaa, EpdgProcess(directory, aaa.port, address=GATEWAY, changes=change) as node:
        yield node


class Call:
    """A phone that is attached, and its child SA."""

    def __init__(self, phone: Phone, sa: ChildSa, gateway: EpdgProcess) -> None:
        self.phone = phone
        self.sa = sa
        self._gateway = gateway
        self.address = str(sa.spec.local_selectors[0].start)

    def send(self, packet: Packet | bytes, traffic_class: int = 0) -> bytes:
        """Into the tunnel, in a datagram of that traffic class; the ESP packet."""
        octets = self.sa.seal(bytes(packet), 4)
        self.again(octets, traffic_class)
        return octets

    def again(self, octets: bytes, traffic_class: int = 0) -> None:
        """An ESP packet as it is."""
        self.phone._ports.send_esp(octets, self.sa.path, True, traffic_class)

    def ping(self, length: int = 84, **header: int) -> Packet:
        """An echo request of so many octets."""
        return IP(src=self.address, dst=CORE_HOST, **header) / ICMP(id=7, seq=1) / Raw(bytes(length - 28))

    async def answer(self) -> bytes:
        async with asyncio.timeout(3):
            return await self.phone.packets.get()

    def counters(self) -> dict[str, JsonValue]:
        """As the gateway shows them."""
        (session,) = self._gateway.sessions(state="established")
        (child,) = session["child_sas"]  # type: ignore[misc, union-attr]
        assert isinstance(child, dict)
        counters = child["counters"]
        assert isinstance(counters, dict)
        return counters

    def dropped(self) -> dict[str, JsonValue]:
        """ESP and inner packets that the gateway has dropped, by reason."""
        dropped = self._gateway.call("node.status")["dropped"]
        assert isinstance(dropped, dict)
        esp = dropped["esp"]
        assert isinstance(esp, dict)
        return esp


def with_call(gateway: EpdgProcess, story: Callable[[Call], Awaitable[None]]) -> None:
    async def run() -> None:
        phone = Phone(gateway, aka_user(USER))
        try:
            phone.attach(HERE)
            await phone.wait(Established)
            child = await phone.wait(ChildSaInstalled)
            await story(Call(phone, phone.plane.child_sa(child.spec.inbound_spi), gateway))
            phone.initiate(DeleteIkeSa("done"))
            await phone.wait(Closed)
        finally:
            phone.close()

    asyncio.run(run())


def test_the_gateways_esp_has_the_dscp_that_is_configured(epdg: EpdgProcess) -> None:
    async def story(call: Call) -> None:
        call.send(call.ping())
        await call.answer()
        assert call.phone.traffic_classes == [34 << 2]

    with_call(epdg, story)


def test_congestion_on_the_way_is_seen_at_the_gateway(epdg: EpdgProcess) -> None:
    """RFC 6040 §4.2; it is answered all the same, and not at all where the transport knows no ECN."""

    async def story(call: Call) -> None:
        before = call.dropped().get("congestion", 0)
        call.send(call.ping(tos=ECT_0), CE)
        await call.answer()
        call.send(call.ping(), CE)
        call.send(call.ping(tos=46 << 2), 46 << 2)
        await call.answer()
        assert call.phone.packets.empty()
        counters = call.counters()
        assert (counters["congestion_marked"], counters["congestion"], counters["ecn_unused"]) == (1, 1, 1)
        assert call.dropped()["congestion"] == before + 1

    with_call(epdg, story)


def test_long_answers_come_in_pieces_that_fit(epdg: EpdgProcess) -> None:
    async def story(call: Call) -> None:
        call.send(call.ping(2000))
        pieces = [IP(await call.answer()) for _ in range(3)]
        lengths = [len(call.sa.seal(bytes(piece), 4)) + OUTER_OVERHEAD for piece in pieces]
        assert max(lengths) <= OUTER_MTU
        (whole,) = defragment(pieces)
        assert (whole.src, len(whole), whole[ICMP].type) == (CORE_HOST, 2000, 0)
        assert call.counters()["fragmented"] == 1

    with_call(epdg, story)


def test_syns_say_what_fits(epdg: EpdgProcess) -> None:
    """Of the phone's SYN the counter tells; the host's answer shows it."""

    async def story(call: Call) -> None:
        syn = IP(src=call.address, dst=CORE_HOST) / TCP(sport=40000, dport=7, flags="S", options=[("MSS", 1460)])
        call.send(syn)
        answer = IP(await call.answer())
        assert answer[TCP].flags == "SA"
        mss = dict(answer[TCP].options)["MSS"]
        assert len(call.sa.seal(bytes(mss + 40), 4)) + OUTER_OVERHEAD <= OUTER_MTU
        clamped = call.counters()["mss_clamped"]
        assert isinstance(clamped, int)
        assert clamped >= 1
        call.send(IP(src=call.address, dst=CORE_HOST) / TCP(sport=40000, dport=7, flags="R", seq=answer[TCP].ack))

    with_call(epdg, story)


def test_the_replay_window_is_as_wide_as_configured(epdg: EpdgProcess) -> None:
    """RFC 4303 §3.4.3, 64 packets: what is 63 behind is taken, what is 64 behind is not, and nothing is twice."""

    async def story(call: Call) -> None:
        kept = [call.sa.seal(bytes(call.ping()), 4) for _ in range(65)]
        call.again(kept[64])
        call.again(kept[1])
        await call.answer()
        await call.answer()
        call.again(kept[0])
        call.again(kept[1])
        call.again(kept[64])
        call.again(kept[2])
        await call.answer()
        assert call.phone.packets.empty()
        counters = call.counters()
        assert (counters["inbound_packets"], counters["replayed"]) == (3, 3)

    with_call(epdg, story)
