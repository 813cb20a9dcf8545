"""Moves that failed or were out of the ordinary, and ESP that was dropped, in one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from lab.network.nat import Nat, NatKind
from lab.virtual.world import CORE_HOST, GATEWAY, VirtualWorld, access
from protocols.entropy import SeededEntropy
from protocols.errors import StackError
from protocols.esp.packet import sealer_of
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.sealer import Sealer
from protocols.ip import ICMP, ICMPV6, IPIP, IPV6, UDP, IcmpEcho, IpPacket
from protocols.trace.order import detail_of
from protocols.trace.records import JsonValue
from tests.harness.explanations import Deed, attach
from tests.harness.session_story import Case, explained

OUTSIDE = ip_address("198.51.100.1")
OTHER_GATEWAY = ip_address("203.0.113.2")
NO_PROBES: dict[str, dict[str, JsonValue]] = {
    "ue": {"keepalive_interval": None, "liveness_interval": None, "silence_interval": None},
    "epdg": {"ike": {"liveness_interval": None, "follow_esp": False}},
}
CORE_HOST6 = ip_address("2001:db8:99::1")
FLAGS = 19  # offset in the IKE header
DOUBLING = Impairments(delay=0.01, duplication=1.0)


def behind_a_nat(**nat: float) -> dict[str, list[AccessNetwork]]:
    path = Impairments(delay=0.01)
    box = Nat(NatKind.PORT_RESTRICTED, OUTSIDE, **nat)
    return {
        "accesses": [
            AccessNetwork("wifi-a", ip_address("10.1.0.2"), uplink=path, downlink=path, nat=box),
            access("wifi-b", "10.2.0.2"),
        ]
    }


async def move(world: VirtualWorld, to: str = "wifi-b", **params: JsonValue) -> None:
    try:
        await world.ue.call("ue.move", to=to, **params)
    except StackError:
        return


async def moved(world: VirtualWorld) -> None:
    await attach(world)
    await world.advance(5)
    await move(world)
    await world.advance(20)


async def talk(world: VirtualWorld) -> None:
    await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=50)


def of_the_ue(octets: bytes) -> bool:
    """Whether it is a response of the UE's, which began the IKE SA (RFC 7296 §3.1: flags R and I), on port 4500."""
    return octets[:4] == bytes(4) and octets[4 + FLAGS] & 0x28 == 0x28


async def deaf(world: VirtualWorld) -> None:
    """What the UE answers from its new access is lost."""
    await attach(world)
    await world.advance(5)
    world.network.losses.append(lambda octets, on: on.name == "wifi-b" and of_the_ue(octets))
    await world.ue.call("ue.move", to="wifi-b", keep_old=True)
    await world.advance(5)


async def back_at_once(world: VirtualWorld) -> None:
    """Before the check of the first move is answered the second begins."""
    await attach(world)
    await world.advance(5)
    world.network.losses.append(lambda octets, on: on.name == "wifi-b" and of_the_ue(octets))
    await world.ue.call("ue.move", to="wifi-b", keep_old=True)
    await world.advance(0.5)
    await world.ue.call("ue.move", to="wifi-a")
    await world.advance(5)


async def wrong_cookie(world: VirtualWorld) -> None:
    """The UE's answer to the check is lost, and the one that comes has another COOKIE2."""
    await attach(world)
    await world.advance(5)
    (live,) = world.epdg_node.sessions.live.values()
    world.network.losses.append(lambda octets, on: on.name == "wifi-b" and of_the_ue(octets))
    await world.ue.call("ue.move", to="wifi-b")
    (asked,) = [
        record for record in world.epdg.trace if "request" in str(record.body.get("name")) and is_check(record.body)
    ]
    message_id = detail_of(asked)["message_id"]
    assert isinstance(message_id, int)
    answer = Message(
        spi_i=live.sa.spi_i,
        spi_r=live.sa.spi_r,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=True,
        message_id=message_id,
        payloads=(NotifyPayload(type=NotifyType.COOKIE2, data=bytes(16)),),
    )
    suite, keys = live.sa.established_keys()
    octets = Sealer(suite, keys, True, SeededEntropy("forged")).seal(answer)
    world.network.losses.clear()
    world.network.send(live.sa.path.remote, bytes(4) + octets, live.sa.path.local)
    await world.advance(1)


def is_check(body: dict[str, JsonValue]) -> bool:
    return "COOKIE2" in str(body.get("summary"))


async def nobody_answers(world: VirtualWorld) -> None:
    await attach(world)
    await world.advance(5)
    world.accesses["wifi-b"].captive = True
    await move(world, keep_old=True)


async def dead_path(world: VirtualWorld) -> None:
    await attach(world)
    await talk(world)
    await world.advance(3)
    world.accesses["wifi-a"].captive = True
    await world.advance(10)


async def rebound(world: VirtualWorld) -> None:
    await attach(world)
    await talk(world)
    await world.advance(2)
    nat = world.accesses["wifi-a"].nat
    assert nat is not None
    nat.rebind()
    await world.advance(2)


def withdrawn(**params: JsonValue) -> Deed:
    async def told(world: VirtualWorld) -> None:
        await attach(world)
        await talk(world)
        await world.advance(2)
        await world.epdg.call("addresses.withdraw", address=str(GATEWAY), **params)
        await world.advance(10)

    return told


def forged(
    spoil: Callable[[bytes], bytes] = bytes, source: str | None = None, next_header: int | None = None, length: int = 10
) -> Deed:
    """Ten echo requests under the UE's keys; ``source``: an inner address that is not its own."""

    async def told(world: VirtualWorld) -> None:
        await attach(world)
        connection = world.ue_node.pdn().device.connection
        assert connection is not None
        (spec,) = connection.children.values()
        sealer = sealer_of(
            spec.suite,
            spec.outbound_spi,
            spec.outbound_encryption_key,
            spec.outbound_integrity_key,
            SeededEntropy("forged"),
        )
        start = ip_address(source or str(spec.local_selectors[0].start))
        host, protocol, inside = (CORE_HOST, ICMP, IPIP) if start.version == 4 else (CORE_HOST6, ICMPV6, IPV6)
        echo = IcmpEcho(request=True, identifier=1, sequence=1, data=bytes(length)).encode(start, host)
        packet = IpPacket(source=start, destination=host, protocol=protocol, payload=echo).encode()
        for number in range(10):
            octets = spoil(sealer.seal(100 + number, packet, next_header or inside))
            world.network.send(spec.path.local, octets, spec.path.remote)
        await world.advance(1)
        await world.ue.call("ue.detach")

    return told


def another_icv(octets: bytes) -> bytes:
    return octets[:-1] + bytes([octets[-1] ^ 1])


async def doubled(world: VirtualWorld) -> None:
    await attach(world)
    world.accesses["wifi-a"].uplink = DOUBLING
    await talk(world)
    await world.advance(1)
    await world.ue.call("ue.detach")


CASES = {
    "back at once": Case(
        told=back_at_once,
        finding=(
            (
                "check-cut-short",
                "Whether the UE can be reached at 10.2.0.2 was never known: a newer move came before "
                "the check was answered.",
            ),
        ),
    ),
    "wrong COOKIE2": Case(
        told=wrong_cookie,
        finding=(
            (
                "check-cut-short",
                "Whether the UE can be reached at 10.2.0.2 was never known: the session ended before "
                "the check was answered.",
            ),
            ("wrong-cookie2", "COOKIE2 came back with other octets than the gateway had sent: it closed the IKE SA."),
        ),
    ),
    "forged ICV": Case(
        told=forged(another_icv),
        finding=(
            (
                "esp-wrong-icv",
                "The gateway dropped 10 ESP packets of the UE, beside 0 that it took: their ICV is wrong.",
            ),
        ),
    ),
    "forged address": Case(
        told=forged(source="10.45.0.77"),
        finding=(
            (
                "esp-outside-selectors",
                "The gateway dropped 10 ESP packets of the UE, beside 0 that it took: their inner "
                "addresses are not those of the UE's traffic selectors.",
            ),
        ),
    ),
    "malformed": Case(
        told=forged(next_header=UDP),
        finding=(
            (
                "esp-malformed",
                "The gateway dropped 10 ESP packets of the UE, beside 0 that it took: they make no sense inside.",
            ),
        ),
    ),
    "deaf": Case(
        told=deaf,
        finding=(
            (
                "check-unanswered",
                "UPDATE_SA_ADDRESSES answered, return-routability check unanswered for 3.5 s: "
                "address 10.2.0.2 not adopted, ESP still goes to 10.1.0.2.",
            ),
        ),
    ),
    "unacceptable": Case(
        told=moved,
        changes={"epdg": {"ike": {"acceptable_addresses": ["10.1.0.0/24"]}}},
        finding=(("unacceptable-addresses", "The gateway does not accept UEs at 10.2.0.2: the UE stays on wifi-a."),),
    ),
    "no MOBIKE": Case(
        told=moved,
        changes={"epdg": {"ike": {"mobike": False}}},
        finding=(
            (
                "mobike-not-negotiated",
                "MOBIKE was not negotiated: the UE cannot take its session from wifi-a to wifi-b, and has to stay.",
            ),
        ),
    ),
    "update unanswered": Case(
        told=nobody_answers,
        finding=(
            (
                "update-unanswered",
                "UPDATE_SA_ADDRESSES from 10.2.0.2 went unanswered for 1.8 s, though it was repeated "
                "27 times: the UE is not on wifi-b.",
            ),
        ),
    ),
    "dead path": Case(
        told=dead_path,
        finding=(
            (
                "dead-path-left",
                "Nothing was heard on wifi-a for 1.2 s: the UE looked for another path and is on wifi-b.",
            ),
        ),
    ),
    "withdrawn": Case(
        told=withdrawn(),
        world={"gateways": [GATEWAY, OTHER_GATEWAY]},
        finding=(
            (
                "gateway-address-changed",
                "The UE uses the gateway's address 203.0.113.2 in place of 203.0.113.1: the gateway has withdrawn it.",
            ),
        ),
    ),
    "withdrawn silently": Case(
        told=withdrawn(silently=True),
        world={"gateways": [GATEWAY, OTHER_GATEWAY]},
        finding=(
            (
                "gateway-address-changed",
                "The UE uses the gateway's address 203.0.113.2 in place of 203.0.113.1: nothing was "
                "heard from it any more.",
            ),
        ),
    ),
    "rebound": Case(
        told=rebound,
        world=behind_a_nat(),
        finding=(
            ("nat-rebound", "A NAT on the way has given the UE another mapping: ESP goes to 198.51.100.1:20002 now."),
        ),
    ),
    "rebound, not followed": Case(
        told=rebound,
        world=behind_a_nat(),
        changes=NO_PROBES,
        finding=(
            (
                "nat-rebinding-not-followed",
                "The UE's ESP comes from 198.51.100.1:20002, and the gateway sends to the old "
                "address all the same: what goes to the UE is lost until it moves.",
            ),
        ),
    ),
    "handover": Case(
        changes={"ue": {"request": {"previous_addresses": ["10.99.1.1"]}}},
        finding=(
            (
                "address-not-kept",
                "The UE came with 10.99.1.1 and was given 10.45.0.2: connections through the old address are lost.",
            ),
        ),
    ),
    "too big": Case(
        told=forged(length=1300),
        changes={
            "epdg": {
                "apns": {"internet": {"pool6": "2001:db8:45::/56"}},
                "data_plane": {"outer_mtu": 1300, "hosts": [str(CORE_HOST6)]},
            },
            "ue": {"pdn_type": "ipv6"},
        },
        finding=(
            (
                "packets-too-big",
                "The gateway dropped 10 packets to the UE: too big for the tunnel, and not to be fragmented.",
            ),
        ),
    ),
    "doubled": Case(
        told=doubled,
        finding=(
            (
                "esp-replayed",
                "The gateway dropped 51 ESP packets of the UE, beside 51 that it took: they had come "
                "before, or are older than the replay window.",
            ),
        ),
    ),
}


PROVOKED = {name for case in CASES.values() for name, _ in case.finding}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_move_is_explained(case: Case) -> None:
    assert explained(case) == case.finding
