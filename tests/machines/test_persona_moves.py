"""How personas move, against what is known of the UEs they stand for; see ``test_personas``."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import ip_network

import pytest

from protocols.errors import ConfigurationError, LocalError
from protocols.ikev2.events import AddressesUpdated, AddressUpdateFailed, MessageSent, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import ConfigurationPayload, DeletePayload, NotifyPayload, Payload
from protocols.ikev2.registry import ConfigType, ExchangeType, NotifyType
from protocols.ikev2.tasks.informational import DeleteChildSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.path import Endpoint
from tests.harness.forge import forge, receive
from tests.harness.pair import ACCESS_A, ACCESS_B, GATEWAY
from tests.harness.persona import Editing, Phone, attached, first_auth, lenient_gateway, names

NATD_SOURCE, NATD_DESTINATION, COOKIE2, TEMPORARY_FAILURE = 16388, 16389, 16401, 43
ADDITIONAL_4, ADDITIONAL_6, NO_ADDITIONAL, UPDATE, NO_NATS = 16397, 16398, 16399, 16400, 16402


def moved(persona: str, **changes: object) -> tuple[Phone, list[Message]]:
    """The phone on its second access, and the requests that took it there."""
    phone = attached(persona, **changes)
    before = len(phone.received(ExchangeType.INFORMATIONAL))
    phone.roam(ACCESS_B)
    phone.run(5.0)
    return phone, phone.received(ExchangeType.INFORMATIONAL)[before:]


def test_android_moves_by_one_request() -> None:
    """{N(UPDATE_SA_ADDRESSES), NATD_SRC (faked), NATD_DST}; the gateway's COOKIE2, which comes later, is echoed."""
    phone, requests = moved("pixel-aosp")
    (update,) = requests
    sent = next(each for at, each in phone.sent if each.path.local.address == ACCESS_B.address)
    assert sent.payload[18:20] == b"\x25\x08"  # INFORMATIONAL request: nothing before it
    assert not any(int(each.type) == NO_NATS for message in requests for each in message.all(NotifyPayload))
    assert names(update.payloads) == [f"N({UPDATE})", f"N({NATD_SOURCE})", f"N({NATD_DESTINATION})"]
    natd = {int(each.type): each.data for each in update.all(NotifyPayload)}
    fake = hashlib.sha1(update.spi_i + update.spi_r + bytes([192, 0, 2, 0]) + bytes(2)).digest()
    assert natd[NATD_SOURCE] == fake
    (echo,) = phone.received(ExchangeType.INFORMATIONAL, response=True)
    assert names(echo.payloads) == [f"N({COOKIE2})"]
    assert phone.epdg.take(AddressesUpdated).new.remote.address == ACCESS_B.address
    assert phone.ue.take(AddressesUpdated).new.local.address == ACCESS_B.address


def test_android_is_busy_while_its_update_is_unanswered() -> None:
    """Every request but DELETE is answered TEMPORARY_FAILURE, COOKIE2 too; afterwards everything is as usual."""
    phone = attached("pixel-aosp")
    waiting = [True]
    phone.drop = lambda sender, datagram: waiting[0] and sender == "ue" and datagram.payload[18:20] == b"\x25\x08"
    phone.roam(ACCESS_B)
    phone.run(0.1)
    phone.epdg.endpoint.initiate(phone.epdg.live, Liveness(), phone.now)
    phone.run(0.2)
    answers = phone.received(ExchangeType.INFORMATIONAL, response=True)
    assert [names(each.payloads) for each in answers] == [[f"N({TEMPORARY_FAILURE})"]]
    phone.epdg.endpoint.initiate(phone.epdg.live, DeleteChildSa(*phone.epdg.live.children), phone.now)
    phone.run(0.1)
    assert isinstance(phone.received(ExchangeType.INFORMATIONAL, response=True)[1].payloads[0], DeletePayload)
    waiting[0] = False
    phone.run(5.0)
    assert names(phone.received(ExchangeType.INFORMATIONAL, response=True)[-1].payloads) == [f"N({COOKIE2})"]
    assert phone.epdg.take(AddressesUpdated).new.remote.address == ACCESS_B.address


NATD = tuple(NotifyPayload(type=NotifyType.of(kind), data=bytes(20)) for kind in (NATD_SOURCE, NATD_DESTINATION))
REQUESTS: dict[str, tuple[ExchangeType, tuple[Payload, ...]]] = {
    "COOKIE2": (ExchangeType.INFORMATIONAL, (NotifyPayload(type=NotifyType.COOKIE2, data=bytes(16)),)),
    "liveness": (ExchangeType.INFORMATIONAL, ()),
    "NAT detection": (ExchangeType.INFORMATIONAL, NATD),
    "addresses": (ExchangeType.INFORMATIONAL, (NotifyPayload(type=NotifyType.NO_ADDITIONAL_ADDRESSES),)),
    "configuration": (ExchangeType.INFORMATIONAL, (ConfigurationPayload(type=ConfigType.CFG_SET, attributes=()),)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_request_but_delete_is_answered_temporary_failure(name: str) -> None:
    exchange, payloads = REQUESTS[name]
    phone = attached("pixel-aosp")
    phone.drop = lambda sender, datagram: sender == "ue" and datagram.payload[18:20] == b"\x25\x08"
    phone.roam(ACCESS_B)
    phone.run(0.1)
    request = forge(phone, "epdg", 0, *payloads, exchange=exchange)
    before = len(phone.ue.events)
    receive(phone, phone.ue, replace(request, path=phone.ue.live.path))
    answers = [
        event.message for event in phone.ue.events[before:] if isinstance(event, MessageSent) and event.message.response
    ]
    assert [(each.exchange, names(each.payloads)) for each in answers] == [(exchange, [f"N({TEMPORARY_FAILURE})"])]
    phone.drop = lambda sender, datagram: False
    phone.run(5.0)
    assert phone.ue.take(AddressesUpdated).new.local.address == ACCESS_B.address


def test_a_rekey_of_the_gateways_is_answered_temporary_failure_meanwhile() -> None:
    phone = attached("pixel-aosp")
    phone.drop = lambda sender, datagram: sender == "ue" and datagram.payload[18:20] == b"\x25\x08"
    phone.roam(ACCESS_B)
    phone.run(0.1)
    for task in (RekeyChild(*phone.epdg.live.children), RekeyIke()):
        phone.epdg.endpoint.initiate(phone.epdg.live, task, phone.now)
        phone.run(0.1)
    answers = phone.received(ExchangeType.CREATE_CHILD_SA, response=True)
    assert [names(each.payloads) for each in answers] == [[f"N({TEMPORARY_FAILURE})"]] * 2


def test_to_others_a_request_during_their_update_is_one_like_any() -> None:
    phone = attached("mediatek")
    phone.drop = lambda sender, datagram: sender == "ue" and datagram.payload[18:20] == b"\x25\x08"
    phone.roam(ACCESS_B)
    phone.run(0.1)
    phone.epdg.endpoint.initiate(phone.epdg.live, Liveness(), phone.now)
    phone.run(0.2)
    assert [each.payloads for each in phone.received(ExchangeType.INFORMATIONAL, response=True)] == [()]


@pytest.mark.parametrize(("persona", "left"), [("pixel-aosp", SaState.CLOSED), ("iphone", SaState.ESTABLISHED)])
def test_unacceptable_addresses_are_fatal_to_android(persona: str, left: SaState) -> None:
    networks = (ip_network("192.0.2.0/24"),)
    phone, requests = moved(persona, epdg=lenient_gateway(acceptable_addresses=networks))
    assert phone.ue.live.state is phone.epdg.live.state is left
    assert isinstance(requests[-1].payloads[0], DeletePayload) is (left is SaState.CLOSED)


def test_android_moves_by_a_rekey_where_the_gateway_has_no_mobike() -> None:
    phone = attached("pixel-aosp", epdg=lenient_gateway(mobike=False))
    old = set(phone.ue.live.children)
    phone.roam(ACCESS_B)
    phone.run(5.0)
    at, request = phone.requests(ExchangeType.CREATE_CHILD_SA)[0]
    assert f"N({int(NotifyType.REKEY_SA)})" in names(request.payloads)
    sent = next(datagram for moment, datagram in phone.sent if moment == at)
    assert sent.path.local.address == ACCESS_B.address
    assert not phone.received(ExchangeType.INFORMATIONAL) or all(
        isinstance(each.payloads[0], DeletePayload) for each in phone.received(ExchangeType.INFORMATIONAL)
    )
    for node in (phone.ue, phone.epdg):
        assert node.has(AddressesUpdated)
        (left,) = node.live.children.values()
        assert {left.spec.path.local.address, left.spec.path.remote.address} == {ACCESS_B.address, GATEWAY.address}
    assert not old & set(phone.ue.live.children)


def test_a_rekey_that_is_refused_is_no_move() -> None:
    phone = attached("pixel-aosp", epdg=lenient_gateway(mobike=False))
    phone.epdg.live.children.clear()  # the gateway has lost them
    phone.roam(ACCESS_B)
    phone.run(1.0)
    assert "refused the rekey" in phone.ue.take(AddressUpdateFailed).why


def test_samsung_does_not_move() -> None:
    phone = attached("samsung-default")
    with pytest.raises(LocalError, match="does not support MOBIKE"):
        phone.roam(ACCESS_B)


def test_strongswan_probes_then_updates_with_cookie2_and_its_list() -> None:
    phone, (probe, update) = moved("strongswan")
    assert probe.payloads == ()
    assert not any(int(each.type) == NO_NATS for each in update.all(NotifyPayload))
    wanted = (UPDATE, NATD_SOURCE, NATD_DESTINATION, COOKIE2, NO_ADDITIONAL)
    assert names(update.payloads) == [f"N({kind})" for kind in wanted]
    cookie = next(each.data for each in update.all(NotifyPayload) if int(each.type) == COOKIE2)
    assert 8 <= len(cookie) <= 64
    assert phone.epdg.take(AddressesUpdated).new.remote.address == ACCESS_B.address
    assert phone.ue.take(AddressesUpdated).validated


def test_strongswan_probes_every_address_of_the_gateway_with_one_message_id() -> None:
    other = Endpoint.of("203.0.113.9", 500).address
    phone, _ = moved("strongswan", epdg=lenient_gateway(additional_addresses=(other,)))
    begin = next(at for at, each in phone.sent if each.path.local.address == ACCESS_B.address)
    probes = [each for at, each in phone.sent if at == begin]
    assert {each.path.remote.address for each in probes} == {GATEWAY.address, other}
    assert len({each.payload for each in probes}) == 1
    assert phone.ue.live.state is SaState.ESTABLISHED


def test_a_newer_move_of_strongswans_supersedes_the_probe_of_an_older_one() -> None:
    phone = attached("strongswan")
    phone.drop = lambda sender, datagram: sender == "ue" and datagram.path.local.address == ACCESS_B.address
    phone.roam(ACCESS_B)
    phone.run(0.3)
    phone.roam(ACCESS_A)
    phone.run(10.0)
    assert phone.ue.live.path.local.address == phone.epdg.live.path.remote.address == ACCESS_A.address
    assert phone.ue.live.mobility.scout is None
    assert phone.ue.live.mobility.update is None


@pytest.mark.parametrize("sent_back", ["another", "none"])
def test_strongswan_closes_the_sa_on_another_cookie2(sent_back: str) -> None:
    phone = attached("strongswan")
    sealer = phone.epdg.live.sealer
    assert sealer is not None

    class Forger(Editing):
        def seal(self, message: Message) -> bytes:
            other = NotifyPayload(type=NotifyType.COOKIE2, data=bytes(16))
            swapped = tuple(
                other if name == f"N({COOKIE2})" else each
                for name, each in zip(names(message.payloads), message.payloads, strict=True)
                if sent_back == "another" or name != f"N({COOKIE2})"
            )
            return super().seal(replace(message, payloads=swapped) if message.response else message)

    phone.epdg.live.sealer = Forger(sealer, lambda payload: payload)
    phone.roam(ACCESS_B)
    phone.run(5.0)
    assert phone.ue.live.state is SaState.CLOSED


def test_strongswan_lists_its_other_addresses() -> None:
    phone = attached("strongswan", ike={"additional_addresses": ["198.51.100.7", "2001:db8:7::7"]})
    said = {int(each.type): each.data for each in first_auth(phone).all(NotifyPayload)}
    assert said[ADDITIONAL_4] == bytes([198, 51, 100, 7])
    assert len(said[ADDITIONAL_6]) == 16
    assert NO_ADDITIONAL not in said


def test_strongswan_lists_eight_addresses_at_most() -> None:
    eight = [f"198.51.100.{last}" for last in range(1, 9)]
    said = first_auth(attached("strongswan", ike={"additional_addresses": eight})).all(NotifyPayload)
    assert len([each for each in said if int(each.type) == ADDITIONAL_4]) == 8
    with pytest.raises(ConfigurationError, match="additional_addresses"):
        attached("strongswan", ike={"additional_addresses": [*eight, "198.51.100.9"]})


def test_strongswan_leaves_no_silent_path() -> None:
    """ "Silent loss of a path while the address stays: it never probes its second address"."""
    phone = attached("strongswan", liveness_interval=10)
    both = (Endpoint(ACCESS_A.address, 4500), Endpoint(ACCESS_B.address, 4500))
    phone.ue.endpoint.set_addresses(phone.ue.live, both, phone.now, tell=False)
    phone.drop = lambda sender, datagram: True
    phone.run(60.0)
    assert {each.path.local.address for _, each in phone.sent} == {ACCESS_A.address}
    assert phone.ue.live.state is SaState.CLOSED
