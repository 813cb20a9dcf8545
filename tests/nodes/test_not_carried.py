"""A child SA that the data plane refuses: the UE hears so in the answer, and what was up goes on.

The node's random source gives it an SPI that its data plane has already, as another program's SA in the kernel has.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from protocols.dataplane.userspace.host import FlowKind
from protocols.io.control import ControlClient, ControlError
from protocols.io.entropy import SystemEntropy
from protocols.io.platform import Platform
from protocols.trace.recorder import Recorder
from protocols.trace.records import Kind, TraceRecord
from tests.dataplane.pairs import ue_spec
from tests.nodes.scripted_aaa_world import PROFILE, World
from ue.commands import InstallChildSa

CORE = "10.45.0.1"
APNS = {"internet": {"pool": "10.45.0.0/24"}, "ims": {"pool": "10.46.0.0/24"}}
TAKEN = replace(ue_spec(), inbound_spi=b"\xc0\xff\xee\x00")
REFUSAL = "SA c0ffee00 is installed already"


class Repeating:
    """Random octets, but four of them, an SPI, are what it is told until that one has been refused."""

    def __init__(self) -> None:
        self._random = SystemEntropy()
        self.spi: bytes | None = None

    def heard(self, record: TraceRecord) -> None:
        if record.kind is Kind.EVENT and record.body["name"] == "esp-not-carried":
            self.spi = None

    def octets(self, length: int) -> bytes:
        return self._random.octets(length) if self.spi is None or length != len(self.spi) else self.spi


def told_of(recorder: Recorder) -> list[str]:
    """How the attaches went, in order."""
    names = [record.body["name"] for record in recorder.since(0, recorder.sequence, frozenset({Kind.EVENT}))]
    return [str(name) for name in names if name in ("attached", "esp-not-carried", "refused")]


async def pings(world: World) -> int:
    flow = world.ue.pdn("internet").start_traffic(FlowKind.ICMP, ip_address(CORE), 50.0, 2)
    await flow.finished(2.0)
    return flow.statistics(None, None).received


def test_the_session_ends_and_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        entropy = Repeating()
        core = {"kind": "in-process", "hosts": [CORE]}
        world = World(
            tmp_path,
            gateway={"apns": APNS, "data_plane": core},
            ue={"additional_pdns": {"voice": {"apn": "ims"}}},
            platform=Platform(entropy=entropy),
        )
        async with world:
            await world.ue.attach()
            world.gateway.child_sas.data_plane.install(TAKEN)
            world.aaa.profile = {"apn_configuration": replace(PROFILE, service_selection="ims")}
            entropy.spi = TAKEN.inbound_spi
            world.gateway.recorder.subscribe(entropy.heard)
            with pytest.raises(ControlError, match="^no proposal chosen: .*, or the gateway cannot carry ESP"):
                await ControlClient(world.ue.configuration.control).call("ue.attach", pdn="voice")
            assert await world.event("esp-not-carried", "epdg") == {"why": REFUSAL}
            assert told_of(world.ue.recorder) == ["attached", "refused"]
            assert (await world.event("attach-ended", "epdg"))["why"] == "the peer deleted the IKE SA"
            assert told_of(world.gateway.recorder) == ["attached", "esp-not-carried"]
            (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
            assert told == f"ESP of {world.last['imsi']} cannot be carried: {REFUSAL}."
            assert (world.last["apn"], world.last["state"], world.last["child_sas"]) == ("ims", "closed", [])
            why = {"cause": "esp-not-carried", "text": f"ESP cannot be carried: {REFUSAL}"}
            assert world.last["last_error"] == why
            status = await ControlClient(world.gateway.configuration.control).call("node.status")
            assert isinstance(status, dict)
            assert isinstance(status["totals"], dict)
            assert (status["sessions"], status["totals"]["esp-not-carried"]) == (1, 1)
            assert await pings(world) == 2
            assert TAKEN.inbound_spi in world.gateway.child_sas.data_plane.installed
            await world.ue.attach_others()
            assert {live.session.apn for live in world.gateway.sessions.live.values()} == {"internet", "ims"}

    asyncio.run(body())


def test_a_connection_of_the_ue_ends_and_another_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        entropy = Repeating()
        world = World(
            tmp_path,
            gateway={"apns": APNS, "data_plane": {"kind": "in-process", "hosts": [CORE]}},
            ue={"additional_pdns": {"voice": {"apn": "ims"}}},
            ue_platform=Platform(entropy=entropy),
        )
        async with world:
            await world.ue.attach()
            voice = world.ue.pdn("voice")
            voice.tunnel.install(InstallChildSa(spec=TAKEN, replaces=None))
            world.aaa.profile = {"apn_configuration": replace(PROFILE, service_selection="ims")}
            world.ue.recorder.subscribe(entropy.heard)
            entropy.spi = TAKEN.inbound_spi
            with pytest.raises(ControlError, match=f"^ESP cannot be carried: {REFUSAL}$"):
                await ControlClient(world.ue.configuration.control).call("ue.attach", pdn="voice")
            assert await world.event("esp-not-carried", "ue") == {"why": REFUSAL}
            assert (await world.event("refused", "ue"))["cause"] == "esp-not-carried"
            await world.event("detached", "epdg")
            assert told_of(world.ue.recorder) == ["attached", "esp-not-carried", "refused"]
            told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
            assert told == [f"ESP cannot be carried: {REFUSAL}"]
            assert [live.session.apn for live in world.gateway.sessions.live.values()] == ["internet"]
            assert world.at_ue["state"] == "established"
            assert await pings(world) == 2

    asyncio.run(body())


def test_a_rekey_that_is_not_carried_leaves_the_child_sa(tmp_path: Path) -> None:
    async def body() -> None:
        entropy = Repeating()
        core = {"kind": "in-process", "hosts": [CORE]}
        world = World(tmp_path, gateway={"apns": APNS, "data_plane": core}, platform=Platform(entropy=entropy))
        async with world:
            await world.ue.attach()
            (live,) = world.gateway.sessions.live.values()
            before = list(live.sa.children)
            ((spi, _),) = world.ue.pdn("internet").device.connection.children.items()
            world.gateway.child_sas.data_plane.install(TAKEN)
            world.gateway.recorder.subscribe(entropy.heard)
            entropy.spi = TAKEN.inbound_spi
            await ControlClient(world.ue.configuration.control).call("ue.rekey-child", inbound_spi=spi.hex())
            assert await world.event("esp-not-carried", "epdg") == {"why": REFUSAL}
            for node in ("epdg", "ue"):
                told = await world.event("rekey-refused", node)
                assert (told["cause"], told["by_peer"]) == ("NO_PROPOSAL_CHOSEN", node == "ue")
                assert told["what"] == f"the rekey of child SA {spi.hex()}"
            assert list(live.sa.children) == before
            assert (live.session.state.value, world.at_ue["state"]) == ("established", "established")
            assert await pings(world) == 2

    asyncio.run(body())
