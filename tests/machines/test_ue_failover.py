"""An attach that goes from gateway to gateway until one serves (TS 24.302 §7.2.1, §7.2.2.2), on virtual time."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.events import Refusal
from protocols.ikev2.payloads import IdiPayload, NotifyPayload
from protocols.ikev2.redirection import InitialRedirect, RedirectObedience
from protocols.ikev2.registry import IdType, NotifyType
from protocols.ikev2.tasks.redirect import RedirectPeer
from protocols.names import Resolution
from protocols.path import Endpoint
from protocols.threegpp.backoff import backoff_notify
from protocols.threegpp.causes import PrivateNotify
from protocols.threegpp.identity import Plmn, epdg_fqdn
from tests.harness.certificates import make_pki
from tests.harness.pair import initiator_config, responder_config
from tests.machines.test_ue_device import NAI, World, granted
from ue.commands import Connect
from ue.context import DeviceState
from ue.selection import SelectionPolicy

HOME = Plmn("001", "01")
NAME = epdg_fqdn(HOME)
FIRST, SECOND, THIRD = (IPv4Address(f"203.0.113.{last}") for last in (1, 2, 3))
TIMEOUT = "no answer from DNS within 5 s"


def config(**changes: object) -> InitiatorConfig:
    return initiator_config(identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=NAI.encode()), **changes)


def world(*addresses: IPv4Address, **changes: object) -> World:
    """A UE that finds its gateways by the home network's name."""
    return World(selection=SelectionPolicy(home=HOME), zone={NAME: addresses}, **changes)  # type: ignore[arg-type]


def tried(world: World) -> list[object]:
    return [command.gateway for command in world.commands if isinstance(command, Connect)]


def refusals(*causes: int, **changes: object) -> World:
    """Three gateways, which refuse with these causes in turn and then serve."""
    left = list(causes)

    def grant() -> object:
        if not left:
            return granted()
        return Refusal(notify=NotifyPayload(type=NotifyType.of(left.pop(0))), text="no")

    return world(FIRST, SECOND, THIRD, grant=grant, **changes)


def test_the_gateway_is_found_by_name() -> None:
    """Its certificate has to carry that name (TS 33.402 §8.2.2)."""
    found = world(SECOND)
    assert found.attach() is None
    assert found.questions == [NAME]
    (connect,) = [command for command in found.commands if isinstance(command, Connect)]
    assert (connect.gateway, connect.names) == (SECOND, (NAME,))


def test_the_next_gateway_is_asked_for_the_addresses_as_well() -> None:
    """A handover is one with whichever gateway serves (TS 24.302 §7.2.2.1)."""
    kept = (IPv4Address("10.45.0.9"),)
    found = refusals(PrivateNotify.NETWORK_FAILURE)
    assert found.ask(lambda ticket: found.device.attach("a", ticket, found.now, previous=kept)) is None
    connects = [command for command in found.commands if isinstance(command, Connect)]
    assert [connect.previous_addresses for connect in connects] == [kept, kept]


def test_a_certificate_of_another_name_will_not_do() -> None:
    policy = SelectionPolicy(home=HOME, configured=("other.example",))
    other = World(selection=policy, zone={"other.example": (FIRST,), NAME: (SECOND,)})
    assert other.attach(seconds=10.0) is None
    assert tried(other) == [FIRST, SECOND]
    assert "other.example" in other.event("gateway-rejected").text
    assert "not accepted" in other.event("gateway-rejected").text


@pytest.mark.parametrize(("patience", "seconds"), [(None, 31.5), (2.0, 2.0)])
def test_a_dead_address_is_left_for_the_next(patience: float | None, seconds: float) -> None:
    """After the retransmissions, or the patience that is configured."""
    found = world(FIRST, SECOND, patience=patience)
    found.gateway_dead = {FIRST}
    assert found.attach(seconds=40.0) is None
    assert tried(found) == [FIRST, SECOND]
    connection = found.device.connection
    assert connection is not None
    assert connection.established is not None
    assert seconds <= connection.established < seconds + 0.5
    assert connection.attach_interval == connection.established  # measured from the command on
    assert f"no response from the gateway {FIRST}:500" in found.event("gateway-rejected").text


def test_icmp_says_that_nobody_is_there() -> None:
    found = world(FIRST, SECOND)
    found.gateway_dead = {FIRST}
    ticket = found.ask_only(lambda ticket: found.device.attach("a", ticket, found.now))
    found.run(0.1)
    found.carry_out(found.device.unreachable(Endpoint(SECOND, 500), found.now))  # not the one that is asked
    assert tried(found) == [FIRST]
    found.carry_out(found.device.unreachable(Endpoint(FIRST, 500), found.now))
    found.run(1.0)
    assert found.finished[ticket] is None
    assert tried(found) == [FIRST, SECOND]
    found.carry_out(found.device.unreachable(Endpoint(SECOND, 500), found.now))  # anybody can say that
    assert found.device.state is DeviceState.ESTABLISHED


def test_when_all_were_tried_the_sentence_lists_them() -> None:
    found = world(FIRST, SECOND, patience=1.0)
    found.gateway_up = False
    failure = found.attach(seconds=10.0)
    assert failure == (
        f"no gateway is left to try: {FIRST} ({NAME}): no response from the gateway {FIRST}:500, asked 2 times on a; "
        f"{SECOND} ({NAME}): no response from the gateway {SECOND}:500, asked 2 times on a"
    )
    assert found.device.state is DeviceState.CLOSED
    assert found.open == set()
    connection = found.device.connection
    assert connection is not None
    assert (connection.cause, connection.for_good) == (None, False)


@pytest.mark.parametrize(
    "cause",
    [
        PrivateNotify.NETWORK_FAILURE,
        PrivateNotify.PDN_CONNECTION_REJECTION,
        NotifyType.INTERNAL_ADDRESS_FAILURE,
        NotifyType.NO_PROPOSAL_CHOSEN,
    ],
)
def test_a_gateway_that_cannot_is_left_for_the_next(cause: int) -> None:
    found = refusals(cause)
    assert found.attach() is None
    assert tried(found) == [FIRST, SECOND]
    assert found.questions == [NAME]


@pytest.mark.parametrize(
    ("cause", "for_good"),
    [
        (24, False),
        (PrivateNotify.CONGESTION, False),
        (PrivateNotify.MAX_CONNECTION_REACHED, False),
        (PrivateNotify.ILLEGAL_ME, True),
        (PrivateNotify.IMEI_NOT_ACCEPTED, True),
    ],
)
def test_a_refusal_that_the_others_would_repeat_ends_the_attach(cause: int, for_good: bool) -> None:
    found = refusals(cause)
    assert found.attach() is not None
    assert tried(found) == [FIRST]
    connection = found.device.connection
    assert connection is not None
    assert (connection.cause, connection.for_good) == (cause, for_good)


def test_a_network_that_refuses_is_not_asked_at_its_other_gateways() -> None:
    """TS 24.302 §7.2.2.2: no ePDG of the same PLMN; of another one, where the selection has one."""
    visited, other = epdg_fqdn(Plmn("345", "12")), epdg_fqdn(Plmn("345", "77"))
    pki = make_pki(names=(NAME, visited, other))
    found = refusals(
        PrivateNotify.NO_APN_SUBSCRIPTION, ue_config=config(pki=pki), gateway_config=responder_config(pki=pki)
    )
    found.selection = SelectionPolicy(home=HOME, country="345")
    found.zone = {visited: (FIRST, SECOND), other: (THIRD,)}
    answer = found._resolution

    def with_country(name: str) -> Resolution:
        return Resolution(name=name, replacements=(visited, other)) if "visited-country" in name else answer(name)

    found._resolution = with_country  # type: ignore[method-assign]
    assert found.attach() is None
    assert tried(found) == [FIRST, THIRD]
    texts = [told.text for told in found.told if told.name == "gateway-rejected"]
    assert "not asked again until the UE is switched off and on (NO_APN_SUBSCRIPTION)" in texts[1]


def test_the_bar_outlives_the_attach_until_somebody_asks() -> None:
    found = refusals(PrivateNotify.USER_UNKNOWN)
    assert found.attach() is not None
    connection = found.device.connection
    assert connection is not None
    assert connection.for_good
    failure = found.ask(lambda ticket: found.device.attach("a", ticket, found.now, again=True))
    assert failure is not None
    assert "not asked again" in failure
    assert tried(found) == [FIRST]
    assert found.attach() is None


def test_a_back_off_is_obeyed_instead() -> None:
    refusal = Refusal(
        notify=NotifyPayload(type=NotifyType.of(PrivateNotify.NETWORK_FAILURE)), text="no", beside=(backoff_notify(60),)
    )
    found = world(FIRST, SECOND, grant=lambda: refusal)
    assert found.attach() is not None
    assert tried(found) == [FIRST]
    assert found.device.back_off is not None


def test_detach_while_a_name_is_looked_up() -> None:
    found = world(FIRST)
    found._resolution = lambda name: Resolution(name="late.example")  # type: ignore[method-assign]
    attach = found.ask_only(lambda ticket: found.device.attach("a", ticket, found.now))
    detach = found.ask_only(lambda ticket: found.device.detach(ticket, found.now))
    assert found.finished[attach] == "the UE was told to detach"
    assert found.finished[detach] is None
    assert found.device.state is DeviceState.CLOSED
    assert found.open == set()
    assert found.device.resolved(Resolution(name=NAME, addresses=(FIRST,)), found.now) == []


# --- redirects to names (RFC 5685) -------------------------------------------------------------------


def redirecting(**changes: object) -> World:
    return World(ue_config=config(redirect=RedirectObedience.ANY), **changes)  # type: ignore[arg-type]


def test_a_redirect_to_a_name_is_looked_up_before_the_connection_is_given_up() -> None:
    """§5; the other gateway's certificate carries the name, for the redirect was authenticated."""
    found = redirecting(zone={NAME: (SECOND, THIRD)})
    found.attach()
    sa = found.gateway_sas[-1]
    found.gateway_dead = {SECOND}
    found.gateway.initiate(sa, RedirectPeer(sa, NAME), found.now)
    found.run(40.0)
    assert found.device.state is DeviceState.ESTABLISHED
    assert tried(found) == [None, SECOND, THIRD]
    connects = [command for command in found.commands if isinstance(command, Connect)]
    assert [command.names for command in connects] == [(), (NAME,), (NAME,)]


@pytest.mark.parametrize("answer", [TIMEOUT, ()])
def test_a_redirect_to_a_dead_name_is_ignored(answer: str | tuple[()]) -> None:
    found = redirecting(zone={NAME: answer})
    found.attach()
    sa = found.gateway_sas[-1]
    found.gateway.initiate(sa, RedirectPeer(sa, NAME), found.now)
    found.run(5.0)
    assert found.device.state is DeviceState.ESTABLISHED
    assert f"no gateway is left to try: {NAME}: {answer or 'no address'}" in found.event("redirect-ignored").text


def test_redirects_in_a_circle_of_names_end() -> None:
    """§7; and no unauthenticated redirect says whose certificate will do."""
    found = redirecting(
        zone={"gw.other.example": (SECOND,)},
        gateway_config=responder_config(redirect=InitialRedirect(gateway="gw.other.example")),
    )
    failure = found.attach(seconds=60.0)
    assert failure is not None
    assert "redirect" in failure
    assert 1 < len(tried(found)) <= 6
    assert all(not command.names for command in found.commands if isinstance(command, Connect))
    assert found.device.state is DeviceState.CLOSED
