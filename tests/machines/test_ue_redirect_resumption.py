"""The UE's device that is redirected (RFC 5685), resumes (RFC 5723), or wants no child SA (RFC 6023)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from protocols.entropy import SeededEntropy
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.payloads import IdiPayload
from protocols.ikev2.redirection import Gateway, InitialRedirect, RedirectObedience
from protocols.ikev2.registry import IdType
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.reauthentication import AuthenticationLifetime
from protocols.ikev2.tasks.redirect import RedirectPeer
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.ikev2.ticket import TicketOffice, TicketPolicy
from protocols.secret import Secret
from tests.harness.pair import initiator_config, responder_config
from tests.machines.test_ue_device import INNER, NAI, OTHER_GATEWAY, World
from ue.commands import AskUsim, Connect, StopHost
from ue.context import DeviceState


def config(**changes: object) -> InitiatorConfig:
    return initiator_config(identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=NAI.encode()), **changes)


def redirected_world(gateway: Gateway = OTHER_GATEWAY) -> World:
    """The first gateway sends everybody away in IKE_SA_INIT; behind the other address is one that serves."""
    world = World(
        ue_config=config(redirect=RedirectObedience.ANY),
        gateway_config=responder_config(redirect=InitialRedirect(gateway=gateway)),
    )
    other = IkeEndpoint(
        entropy=SeededEntropy("other"), responder=responder_config(), extension=world._gateway_extension
    )
    arrive = world._arrive

    def switch(sender: str, datagram: object) -> None:
        if sender == "ue" and datagram.path.local.address == OTHER_GATEWAY:  # type: ignore[attr-defined]
            world.gateway = other
        arrive(sender, datagram)  # type: ignore[arg-type]

    world._arrive = switch  # type: ignore[method-assign,assignment]
    return world


@pytest.mark.parametrize("gateway", [OTHER_GATEWAY, "gw.example"])
def test_attach_follows_a_redirect(gateway: Gateway) -> None:
    world = redirected_world(gateway)
    assert world.attach() is None
    assert world.device.state is DeviceState.ESTABLISHED
    connection = world.device.connection
    assert connection is not None
    assert connection.path is not None
    assert connection.path.remote.address == OTHER_GATEWAY
    assert str(gateway) in world.event("redirected").text
    assert world.addresses == (INNER,)


@pytest.mark.parametrize(
    ("gateway", "why"),
    [("elsewhere.example", "its address is not known"), (IPv6Address("2001:db8::1"), "the UE has no IPv6 access")],
)
def test_attach_that_cannot_follow_says_so(gateway: Gateway, why: str) -> None:
    world = redirected_world(gateway)
    failure = world.attach()
    assert failure is not None
    assert f"redirected to {gateway}" in failure
    assert why in world.event("redirect-ignored").text
    assert world.device.state is DeviceState.CLOSED


@pytest.mark.parametrize("serves", [True, False])
def test_established_connection_moves_to_the_other_gateway(serves: bool) -> None:
    """§5: the UE answers, deletes the SA, and attaches there without being asked; or says that it failed."""
    world = World(ue_config=config(redirect=RedirectObedience.AUTHENTICATED))
    world.attach()
    sa = world.gateway_sas[-1]
    world.gateway.initiate(sa, RedirectPeer(sa, OTHER_GATEWAY), world.now)
    if not serves:
        world.run(0.035)  # the redirect, its answer, the DELETE
        world.run(0.02)
        world.gateway_up = False
    world.run(40.0)
    connects = [command for command in world.commands if isinstance(command, Connect)]
    assert [command.gateway for command in connects] == [None, OTHER_GATEWAY]
    assert any(isinstance(command, StopHost) for command in world.commands)
    assert sa not in world.gateway.sas.values()
    if serves:
        assert world.device.state is DeviceState.ESTABLISHED
        assert len(world.installed) == 1
    else:
        assert world.device.state is DeviceState.CLOSED
        assert f"failed: the gateway {OTHER_GATEWAY}:500" in world.event("refused").text


def test_redirect_to_nowhere_leaves_an_established_connection_alone() -> None:
    world = World(ue_config=config(redirect=RedirectObedience.AUTHENTICATED))
    world.attach()
    sa = world.gateway_sas[-1]
    world.gateway.initiate(sa, RedirectPeer(sa, "elsewhere.example"), world.now)
    world.run(5.0)
    assert world.device.state is DeviceState.ESTABLISHED
    assert "elsewhere.example" in world.event("redirect-ignored").text


def test_ignored_redirect_is_told() -> None:
    world = World(
        ue_config=config(redirect=RedirectObedience.AUTHENTICATED),
        gateway_config=responder_config(redirect=InitialRedirect(gateway=OTHER_GATEWAY)),
    )
    world.ask_only(lambda ticket: world.device.attach("a", ticket, world.now))
    world.run(0.1)
    assert "not authenticated" in world.event("redirect-ignored").text
    assert world.device.state is DeviceState.ATTACHING


def resumable_world() -> World:
    tickets = TicketOffice(TicketPolicy(secret=Secret(bytes(32)), wall=lambda: 1_800_000_000.0))
    world = World(ue_config=config(resumption=True), gateway_config=responder_config(tickets=tickets))
    world.attach()
    return world


def challenges(world: World) -> int:
    return sum(isinstance(command, AskUsim) for command in world.commands)


def test_lost_connection_is_resumed_without_the_usim() -> None:
    world = resumable_world()
    assert world.sa is not None
    world.ue.close(world.sa, "no response to our request", world.now)
    world.run(0.0)
    assert world.device.state is DeviceState.CLOSED
    assert world.attach() is None
    assert challenges(world) == 1
    assert len(world.gateway.sas) == 1  # the former one was replaced
    assert world.addresses == (INNER,)
    world.ue.close(world.sa, "no response to our request", world.now)
    world.run(0.0)
    world.attach()
    assert challenges(world) == 1  # with the ticket of the resumed SA


@pytest.mark.parametrize("by", ["ue", "gateway"])
def test_ticket_goes_with_a_connection_that_was_deleted(by: str) -> None:
    """RFC 5723 §6.2: MUST delete its stored ticket when the IKE SA is deleted by the client or the gateway."""
    world = resumable_world()
    if by == "ue":
        world.detach()
    else:
        world.gateway.initiate(world.gateway_sas[-1], DeleteIkeSa("done"), world.now)
        world.run(1.0)
    world.attach()
    assert challenges(world) == 2
    connects = [command for command in world.commands if isinstance(command, Connect)]
    assert [command.session for command in connects] == [None, None]


@pytest.mark.parametrize("how", ["deleted by itself", "rekeyed", "authenticated anew"])
def test_ticket_goes_with_the_ike_sa_that_it_belongs_to(how: str) -> None:
    """§6.2: it is deleted with its IKE SA, and invalid once that was rekeyed; here the gateway gives no other."""
    world = resumable_world()
    assert world.sa is not None
    world.gateway_sas[-1].config = world.gateway._responder = responder_config()
    if how == "deleted by itself":
        world.ue.initiate(world.sa, DeleteIkeSa("its hard lifetime is over"), world.now)
    elif how == "rekeyed":
        world.ue.initiate(world.sa, RekeyIke(), world.now)
    else:
        world.gateway.initiate(world.gateway_sas[-1], AuthenticationLifetime(0), world.now)
    world.run(1.0)
    if how != "deleted by itself":
        world.ue.close(world.sa, "no response to our request", world.now)
        world.run(0.0)
    world.attach()
    assert [command.session for command in world.commands if isinstance(command, Connect)] == [None, None]


def test_rejected_ticket_is_told_and_the_attach_goes_on() -> None:
    world = resumable_world()
    assert world.sa is not None
    world.ue.close(world.sa, "no response to our request", world.now)
    world.run(0.0)
    other = TicketOffice(TicketPolicy(secret=Secret(bytes([1]) * 32), wall=lambda: 1_800_000_000.0))
    world.gateway = IkeEndpoint(
        entropy=SeededEntropy("restarted"),
        responder=responder_config(tickets=other),
        extension=world._gateway_extension,
    )
    assert world.attach() is None
    assert "set up anew" in world.event("ticket-rejected").text
    assert challenges(world) == 2


def test_childless_attach() -> None:
    world = World(ue_config=config(childless=True), gateway_config=responder_config(childless=True))
    assert world.attach() is None
    assert world.installed == {}
    assert world.addresses == (INNER,)
    assert world.detach() is None
