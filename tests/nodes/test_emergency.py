"""Emergency sessions over all nodes: with a USIM and without one, as policies of AAA server and gateway say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from aaa.config import AaaConfiguration
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.errors import ConfigurationError, StackError
from protocols.io.configuration import parse
from protocols.trace.records import JsonValue
from tests.harness.refusals import without_line
from tests.nodes.scripted_aaa_world import EPDG_HOST, World
from tests.peers import aaa_node
from tests.peers.aaa_node import AaaProcess
from ue.config import UeConfiguration

IMEI = "490154203237518"
USER = replace(laboratory_subscriber(1), enabled=False)  # barred
WITHOUT_USIM = {"apn": "sos", "eap": {"emergency": True}, "usim": None, "imei": IMEI}
Story = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    process = AaaProcess(tmp_path_factory.mktemp("aaa"), extra="emergency: {apn: sos, unauthenticated: allow}\n")
    process.provision(USER)
    with process:
        yield process


def sessions(aaa: AaaProcess) -> list[dict[str, JsonValue]]:
    """Those of the AAA server."""
    listed = aaa.call("sessions.list", state="authenticated")["sessions"]
    assert isinstance(listed, list)
    return [dict(session) for session in listed if isinstance(session, dict)]


def tell(aaa: AaaProcess, story: Story, *, ue: dict[str, object], policy: str = "allow") -> None:
    """A gateway whose AAA server is the process, and a UE."""

    async def run() -> None:
        peer = {"host": aaa_node.HOST, "address": "127.0.0.1", "port": aaa.port}
        gateway: dict[str, object] = {
            "diameter": {"host": EPDG_HOST, "realm": aaa_node.REALM, "peers": [peer]},
            "emergency": {"apn": "sos", "unauthenticated": policy},
        }
        world = World(aaa.directory, gateway=gateway, ue=ue)
        world.servers = ()
        async with world:
            await world.event("peer-up", "epdg")
            await story(world)

    asyncio.run(run())


def test_a_ue_without_a_usim_attaches(aaa: AaaProcess) -> None:
    """TS 33.402 §13.3: EAP-Success at once, AUTH by the MSK of the IMEI."""

    async def story(world: World) -> None:
        await world.ue.attach()
        attached = await world.event("attached", "ue")
        assert attached["eap"] == {"method": "none", "kind": "full", "identity": f"imei{IMEI}@sos.invalid"}
        assert str(world.at_ue["inner_addresses"]).startswith("['10.47.0.")
        session = world.session
        assert (session["emergency"], session["imsi"], session["device_identity"]) == (True, None, IMEI)
        (held,) = await asyncio.to_thread(sessions, aaa)
        assert (held["state"], held["imsi"], held["apn"], held["imei"]) == ("authenticated", None, "sos", IMEI)
        aborted = await asyncio.to_thread(aaa.call, "sessions.abort", id=held["id"], reason="a test")
        assert aborted["succeeded"]
        await world.event("detached", "ue")

    tell(aaa, story, ue=WITHOUT_USIM)
    assert not sessions(aaa)


def test_a_barred_user_attaches_in_an_emergency_only(aaa: AaaProcess) -> None:
    async def story(world: World) -> None:
        await world.ue.attach()
        authorisation = world.session["authorisation"]
        assert isinstance(authorisation, dict)
        assert (authorisation["apn"], authorisation["qos"]["qci"]) == ("sos", 5)

    async def refused(world: World) -> None:
        with pytest.raises(StackError, match="AUTHORIZATION_REJECTED"):
            await world.ue.attach()

    tell(aaa, story, ue={"apn": "sos", "eap": {"emergency": True}})
    tell(aaa, refused, ue={})


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("{}", "emergency.apn: got nothing, expected a value"),
        ("{apn: so s}", "emergency.apn: got 'so s', expected an APN such as sos"),
        ("{apn: sos, unauthenticated: maybe}", "emergency.unauthenticated: got 'maybe', expected 'allow' or 'refuse'"),
        ("{apn: sos, qci: 0}", "emergency.qci: got 0, expected at least 1"),
        ("{apn: sos, priority_level: 16}", "emergency.priority_level: got 16, expected at most 15"),
    ],
)
def test_a_wrong_policy_is_refused_in_a_line(section: str, line: str) -> None:
    text = f"identity: {{host: a.example, realm: example}}\ncontrol: a.sock\nemergency: {section}\n"
    with pytest.raises(ConfigurationError) as refusal:
        parse(text, AaaConfiguration, file="aaa.yaml")
    assert without_line(refusal.value) == f"aaa.yaml: {line}"


@pytest.mark.parametrize("change", [{"imei": None}, {"imei": IMEI + "1"}, {"eap": {"emergency": False}}], ids=str)
def test_a_ue_without_a_usim_needs_an_emergency_and_an_imei(change: dict[str, object]) -> None:
    values: dict[str, object] = {
        "imsi": str(USER.imsi),
        "plmn": {"mcc": "001", "mnc": "01"},
        "gateway": {"address": "127.0.1.1", "ca": "ca.pem"},
        "accesses": {"a": {"address": "127.0.2.1"}},
        "control": "ue.sock",
        **WITHOUT_USIM,
    }
    assert parse(yaml.safe_dump(values), UeConfiguration).without_usim == IMEI
    with pytest.raises(
        ConfigurationError, match=r"usim: got nothing, expected k and opc or op, eap.emergency with imei"
    ):
        parse(yaml.safe_dump(values | change), UeConfiguration)


@pytest.mark.parametrize("refusing", ["epdg", "aaa"])
def test_who_is_not_admitted_is_told_so(refusing: str, aaa: AaaProcess, tmp_path: Path) -> None:
    """UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED (TS 24.302 §8.1.2.2), whoever refuses."""

    async def story(world: World) -> None:
        with pytest.raises(StackError, match="UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED 11055"):
            await world.ue.attach()

    if refusing == "epdg":
        tell(aaa, story, ue=WITHOUT_USIM, policy="refuse")
        return
    with AaaProcess(tmp_path, extra="emergency: {apn: sos}\n") as strict:
        tell(strict, story, ue=WITHOUT_USIM)
