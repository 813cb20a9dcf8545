"""One session on virtual time, as its evidence is made of it: attach, ping, rekeys, a rough move; what was secret."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from lab.virtual.world import CORE_HOST, VirtualWorld, access, run
from protocols.diameter.codec import redact
from protocols.trace.bundle import bundle, zipped
from protocols.trace.explanation.catalogue import explain
from protocols.trace.records import STREAMS, JsonValue, Kind, TraceRecord
from protocols.trace.selection import records_of

SEED = "evidence"
ROUGH = Impairments(loss=0.4, delay=0.01)
SHORTEST_SECRET = 12  # octets: shorter ones stand somewhere by chance


@dataclass(frozen=True, kw_only=True)
class Told:
    """What nodes tell of a run: all their records, the gateway's session, their configurations; K and OPc."""

    records: tuple[TraceRecord, ...]
    session: dict[str, JsonValue]
    configurations: dict[str, JsonValue]
    card: tuple[bytes, ...]

    def files(self, *, with_keys: bool) -> dict[str, bytes]:
        """The session's bundle, zipped and unzipped again."""
        own = records_of(self.records, self.session)
        made = bundle(
            own,
            session=self.session,
            findings=explain(own),
            configurations=self.configurations,
            with_keys=with_keys,
        )
        with zipfile.ZipFile(io.BytesIO(zipped(made, wall=own[-1].wall))) as archive:
            assert archive.testzip() is None
            return {name.removeprefix("evidence/"): archive.read(name) for name in archive.namelist()}

    def secrets(self) -> set[bytes]:
        """K, OPc, all keys of key records, and what redaction blanks in Diameter (MSK, CK, IK, XRES)."""
        found = set(self.card)
        for record in self.records:
            if record.kind is Kind.KEYS:
                keys = (value for key, value in record.body.items() if key.startswith("sk_") or key.endswith("_key"))
                found |= {bytes.fromhex(value) for value in keys if isinstance(value, str)}
            elif record.kind is Kind.DATAGRAM and record.body["transport"] in STREAMS:
                found |= set(_blanked(bytes.fromhex(str(record.body["payload"]))))
        return {secret for secret in found if len(secret) >= SHORTEST_SECRET}


def _blanked(octets: bytes) -> Iterable[bytes]:
    pairs = zip(octets, redact(octets), strict=True)
    for differs, run_of in itertools.groupby(pairs, lambda pair: pair[0] != pair[1]):
        if differs:
            yield bytes(before for before, _ in run_of)


@cache
def told(*, export_keys: bool) -> Told:
    """The run; the same keys with and without their export, since a seed decides them all."""

    async def story(world: VirtualWorld) -> Told:
        ue, epdg = world.ue, world.epdg
        await ue.call("ue.attach", access="wifi-a")
        await ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=5)
        await world.advance(1)
        await ue.call("ue.rekey-ike")
        await world.advance(1)
        await ue.call("ue.rekey-child")
        await world.advance(1)
        await ue.call("ue.move", to="rough")
        await world.advance(2)
        await ue.call("ue.traffic.stop")
        await ue.call("ue.move", to="wifi-a")
        await world.advance(1)
        listed = await epdg.call("sessions.list")
        assert isinstance(listed, dict)
        assert isinstance(listed["sessions"], list)
        (session,) = listed["sessions"]
        assert isinstance(session, dict)
        await ue.call("ue.detach")
        await world.advance(1)
        closed = await epdg.call("sessions.get", id=session["id"])
        assert isinstance(closed, dict)
        nodes = (ue, epdg, world.aaa)
        assert world.subscriber.opc is not None
        return Told(
            records=tuple(record for node in nodes for record in node.trace),
            session=closed,
            configurations={node.name: await node.call("node.configuration") for node in nodes},
            card=(world.subscriber.k.reveal(), world.subscriber.opc.reveal()),
        )

    rough = AccessNetwork("rough", ip_address("10.2.0.2"), uplink=ROUGH, downlink=ROUGH)
    return run(story, seed=SEED, accesses=[access("wifi-a", "10.1.0.2"), rough], export_keys=export_keys)
