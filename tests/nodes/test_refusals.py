"""Every refusal of the table reaches a real UE from a real gateway by its own Notify (TS 24.302 §7.4.1, §8.1.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from aaa.subscribers import Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from epdg.refusals import SHIPPED
from protocols.diameter.codec import DiameterMessage
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode, PdnType
from protocols.diameter.profile import OverloadReport
from protocols.diameter.swm import ApnConfiguration, Dea, Der, Result
from protocols.errors import ConfigurationError, LocalError
from protocols.ikev2.events import Refused
from protocols.io.control import ControlError
from protocols.threegpp.causes import PrivateNotify, notify_name, words
from tests.harness.aka_user import aka_user
from tests.machines.test_epdg_refusals import TABLE
from tests.nodes.scripted_aaa_world import GATEWAY, IMEI, USER, WIFI_B, World
from tests.peers.aaa_node import REALM
from tests.peers.epdg_node import EpdgProcess, Phone

Story = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory, whose certificates serve all tests."""
    return tmp_path_factory.mktemp("refusals")


def tell(directory: Path, story: Story, *, backup: bool = False, **changes: dict[str, object]) -> None:
    async def run() -> None:
        async with World(directory, backup=backup, **changes) as world:
            await story(world)

    asyncio.run(run())


async def refused(world: World, *, force: bool = True) -> str:
    with pytest.raises(ControlError) as caught:
        await world.ue.attach(force=force)
    return str(caught.value)


def answering(vendor: int, code: int, **more: object) -> Callable[[Der], dict[str, object]]:
    return lambda der: {"result": Result(vendor, code), **more}


def test_every_result_of_the_table_reaches_the_ue(pki: Path) -> None:
    async def story(world: World) -> None:
        for (vendor, code), notify in TABLE.items():
            world.aaa.script = answering(vendor, code)
            sentence = await refused(world)
            name = notify_name(notify)
            error = world.at_ue["last_error"]
            assert isinstance(error, dict)
            assert error["cause"] == name
            assert sentence == words(notify) or notify == 24
            at_gateway = world.last["last_error"]
            assert isinstance(at_gateway, dict)
            assert at_gateway["cause"] == name
        world.aaa.script = lambda der: None
        await world.ue.attach(force=True)  # and none of them hurts
        assert world.at_ue["back_off"] is None

    tell(pki, story)


def test_back_off_is_told_kept_and_obeyed(pki: Path, tmp_path: Path) -> None:
    """By the policy file, by the AAA server's overload report (RFC 7683), over a restart of the UE, in spite of it."""
    policy = yaml.safe_load(SHIPPED.read_text())
    policy["experimental_results"]["DIAMETER_ERROR_USER_UNKNOWN"]["back_off"] = 3600
    (tmp_path / "refusals.yaml").write_text(yaml.safe_dump(policy))
    changes: dict[str, object] = {"refusals": str(tmp_path / "refusals.yaml")}
    ue: dict[str, object] = {"state": str(tmp_path / "state")}

    async def story(world: World) -> None:
        world.aaa.script = answering(0, 5012, overload=OverloadReport(1, validity=120))
        await refused(world)
        first = world.at_ue["back_off"]
        assert isinstance(first, dict)
        assert first["cause"] == "NETWORK_FAILURE"
        world.aaa.script = answering(10415, 5001)
        await refused(world)
        assert [(await world.event("refused", "epdg"))["back_off"] for _ in range(2)] == [120, 3600]
        back_off = world.at_ue["back_off"]
        assert isinstance(back_off, dict)
        assert back_off["until"] - first["until"] > 3000
        asked = len(world.aaa.ders)
        with pytest.raises(LocalError, match="refused the UE with USER_UNKNOWN and asked it to stay away for another"):
            await world.ue.attach()
        assert len(world.aaa.ders) == asked

    tell(pki, story, gateway=changes, ue=ue)

    async def again(world: World) -> None:
        with pytest.raises(LocalError, match="USER_UNKNOWN"):
            await world.ue.attach()
        await world.ue.attach(force=True)
        assert world.at_ue["back_off"] is None

    tell(pki, again, gateway=changes, ue=ue)


def test_a_session_id_that_is_no_text_costs_no_connection(pki: Path) -> None:
    async def story(world: World) -> None:
        async def spoiled(message: DiameterMessage) -> DiameterMessage:
            answer = Dea(
                session_id="x", origin_host=world.aaa.host, origin_realm=REALM, result=Result(0, 5012)
            ).to_message(message)
            avps = [replace(avp, data=b"\xff\xfe") if avp.name == "Session-Id" else avp for avp in answer.avps]
            return replace(answer, avps=tuple(avps))

        world.aaa.node.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, spoiled)
        await refused(world)
        (peer,) = world.gateway.swm.peers()
        assert isinstance(peer, dict)
        assert peer["state"] == "Open"

    tell(pki, story)


def test_what_the_gateway_finds_goes_by_the_same_policy(pki: Path) -> None:
    """Nobody to ask, nonsense for an answer, an APN that is not served, another PDN type, no address."""

    async def story(world: World) -> None:
        async def cause() -> str:
            await refused(world)
            error = world.at_ue["last_error"]
            assert isinstance(error, dict)
            return str(error["cause"])

        world.aaa.script = lambda der: {"result": Result(0, 1001)}
        assert await cause() == "NETWORK_FAILURE"
        world.aaa.script = lambda der: None
        world.aaa.profile = {
            "apn_configuration": ApnConfiguration(
                context_identifier=1, service_selection="internet", pdn_type=PdnType.IPv6
            )
        }
        assert await cause() == "INTERNAL_ADDRESS_FAILURE"
        await world.until(lambda: len(world.aaa.strs) == 1)
        await world.aaa.node.close()
        assert await cause() == "NETWORK_FAILURE"

    tell(pki, story)


@pytest.mark.parametrize(
    ("limits", "second", "notify"),
    [
        ({"connections_per_ue": 1}, USER, PrivateNotify.MAX_CONNECTION_REACHED),
        ({"congestion_threshold": 1}, laboratory_subscriber(2), PrivateNotify.CONGESTION),
    ],
)
def test_one_connection_more_than_there_may_be(
    pki: Path, limits: dict[str, int], second: Subscriber, notify: PrivateNotify
) -> None:
    """A second tunnel of the same subscriber beside the first, or another subscriber where there is room for one."""

    async def story(world: World) -> None:
        await world.ue.attach()
        phone = Phone(EpdgProcess(world.directory, 0, address=GATEWAY), aka_user(second))
        phone.config = replace(phone.config, initial_contact=False)
        try:
            phone.attach(WIFI_B)
            found = await phone.wait(Refused)
            assert found.notify is not None
            assert int(found.notify.type) == notify
        finally:
            phone.close()

    tell(pki, story, gateway={"limits": limits})


def test_the_imei_goes_to_the_aaa_server_once_it_is_told(pki: Path) -> None:
    async def story(world: World) -> None:
        await world.ue.attach()
        first, second = world.aaa.ders
        assert first.terminal_information is None
        assert second.terminal_information is not None
        assert second.terminal_information.imei == IMEI
        assert world.session["device_identity"] == IMEI
        world.aaa.script = lambda der: {"result": Result(10415, 5554)} if der.terminal_information else None
        await world.ue.detach()
        sentence = await refused(world)
        assert sentence == words(PrivateNotify.ILLEGAL_ME)

    tell(pki, story, gateway={"ike": {"require_device_identity": True}})


def test_a_ue_without_an_imei_is_refused_where_it_has_to_have_one(pki: Path) -> None:
    async def story(world: World) -> None:
        assert await refused(world) == words(PrivateNotify.IMEI_NOT_ACCEPTED)
        await world.until(lambda: len(world.aaa.strs) == 1)

    tell(pki, story, gateway={"ike": {"require_device_identity": True}}, ue={"imei": None})


def test_the_server_that_takes_over_is_told_of_the_failure(pki: Path) -> None:
    """AAA-Failure-Indication (TS 29.273 §8.2.3.21): once, to another server than the user's last one, which is down."""

    async def story(world: World) -> None:
        await world.ue.attach()
        (first, *_), (used, other) = (
            (world.aaa.ders, (world.aaa, world.backup))
            if world.aaa.ders
            else (world.backup.ders, (world.backup, world.aaa))
        )
        assert first.aaa_failure_indication is None
        await world.ue.detach()
        await world.until(lambda: bool(used.strs))
        await used.node.close()
        await world.event("peer-down", "epdg")
        other.script = answering(10415, 5001)
        await refused(world)
        await refused(world)
        assert [der.aaa_failure_indication for der in other.ders] == [1, None]

    tell(pki, story, backup=True)


def test_an_emergency_attach(pki: Path) -> None:
    """APN sos: Emergency-Services without an APN, and addresses of the gateway's own APN."""

    async def story(world: World) -> None:
        await world.ue.attach()
        assert {der.emergency_services for der in world.aaa.ders} == {1}
        assert {der.service_selection for der in world.aaa.ders} == {None}
        assert {str(der.user_name).partition("@")[2] for der in world.aaa.ders} == {f"sos.nai.{REALM}"}
        assert world.session["emergency"] is True
        assert world.at_ue["emergency_support"] is True
        assert str(world.at_ue["inner_addresses"]).startswith("['10.47.0.")

    emergency: dict[str, object] = {"emergency": {"apn": "sos"}, "limits": {"congestion_threshold": 1}}
    tell(pki, story, gateway=emergency, ue={"apn": "sos", "eap": {"emergency": True}})


def test_a_wrong_policy_file_keeps_the_gateway_from_starting(pki: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("default: {notify: NONSENSE}\n")

    async def nothing(world: World) -> None:
        del world

    with pytest.raises(ConfigurationError, match=r"r\.yaml:1: default\.notify: got 'NONSENSE', expected an error"):
        tell(pki, nothing, gateway={"refusals": str(tmp_path / "r.yaml")})
