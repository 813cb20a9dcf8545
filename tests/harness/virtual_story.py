"""A story on virtual time with everything in it that chance decides; prints all that happened, for comparison.

``python -m tests.harness.virtual_story SEED`` prints every record of every node, every datagram, and the digest
of everything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import ip_address

from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from lab.network.nat import Nat, NatKind
from lab.virtual.world import AAA, CORE_HOST, VirtualWorld, run
from protocols.errors import StackError

ROUGH = Impairments(loss=0.05, delay=0.02, jitter=0.01, duplication=0.02, reordering=0.02)


def accesses() -> list[AccessNetwork]:
    """Two rough accesses behind NATs, and one without."""
    return [
        AccessNetwork(
            "home",
            ip_address("10.1.0.2"),
            uplink=ROUGH,
            downlink=ROUGH,
            nat=Nat(NatKind.PORT_RESTRICTED, ip_address("198.51.100.1"), lifetime=30.0),
        ),
        AccessNetwork(
            "cafe",
            ip_address("10.2.0.2"),
            uplink=ROUGH,
            downlink=ROUGH,
            nat=Nat(NatKind.SYMMETRIC, ip_address("198.51.100.2"), lifetime=60.0),
        ),
        AccessNetwork("open", ip_address("192.0.2.130"), uplink=ROUGH, downlink=ROUGH),
    ]


async def story(world: VirtualWorld) -> VirtualWorld:
    """Attach, talk, move, rekey, lose a NAT, wait, come again with a temporary identity, detach."""
    world.streams.delays[AAA.address] = 0.05
    ue = world.ue
    for _ in range(2):
        await ue.call("ue.attach", access="home")
        await ue.call("ue.traffic.start", kind="udp", destination=str(CORE_HOST), rate=5)
        for name, keep_old in (("cafe", True), ("open", False), ("home", True)):
            await world.advance(3)
            try:
                await ue.call("ue.move", to=name, keep_old=keep_old)
            except StackError:
                break  # what the seed decided; both runs must have it
        await world.advance(3)
        await ue.call("ue.rekey-child")
        await world.advance(3)
        await ue.call("ue.rekey-ike")
        await world.advance(3)
        nat = world.accesses["home"].nat
        assert nat is not None
        nat.rebind()
        await world.advance(40)
        await ue.call("ue.detach")
        await world.advance(10)
    return world


def told(seed: str) -> Iterator[str]:
    """All that happened, line by line; the digest of it last."""
    world = run(story, seed=seed, accesses=accesses(), export_keys=True)
    for control in (world.ue, world.epdg, world.aaa):
        for record in control.trace:
            yield json.dumps(record.to_json())
    for datagram in world.network.log:
        yield f"{datagram.moment!r} {datagram.fate} {datagram.source} {datagram.destination} {datagram.octets.hex()}"
    yield world.fingerprint()


if __name__ == "__main__":
    for line in told(sys.argv[1]):
        print(line)
