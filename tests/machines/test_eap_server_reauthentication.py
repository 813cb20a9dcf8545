"""Temporary identities, fast re-authentication and notifications of the EAP server (RFC 4187 §4.1.1, §5, §6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.eap.aka.attributes import (
    AtCheckcode,
    AtCounter,
    AtEncrData,
    AtIv,
    AtNotification,
    Attribute,
)
from protocols.eap.aka.messages import AkaMessage, AkaSubtype, NotificationCode
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.protection import encode_with_mac, encrypt_attributes
from protocols.eap.aka.server import EapAkaServer, ServerOptions
from protocols.eap.packet import EapType
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.threegpp.identity import Imsi
from tests.harness.eap_by_formula import IMSI, IV, REALM, FormulaPeer
from tests.harness.eap_network import AKA, BOTH, PRIME, Network, only

METHODS = pytest.mark.parametrize("method", [AKA, PRIME], ids=["AKA", "AKA'"])


# --- temporary identities


@METHODS
def test_a_pseudonym_is_used_for_the_next_full_authentication(method: EapType) -> None:
    network = Network(options=replace(only(method), reauthentication=False))
    peer = FormulaPeer(methods=(method,))
    first = network.succeed(peer)
    assert first.pseudonym is not None
    assert peer.pseudonym == f"{first.pseudonym}@{REALM}"
    assert peer.reauthentication is None
    second = network.succeed(peer)
    assert second.identity.decode() == f"{first.pseudonym}@{REALM}"
    assert len(network.transcript) == 2
    assert second.pseudonym not in (None, first.pseudonym)
    # RFC 4187 §4.1.1.7: the one issued before stays known
    network.succeed(peer, f"{first.pseudonym}@{REALM}")


@METHODS
def test_two_fast_reauthentications_of_one_full_authentication(method: EapType) -> None:
    network = Network(options=only(method))
    peer = FormulaPeer(methods=(method,))
    first = network.succeed(peer)
    msks = {first.msk}
    for counter in (1, 2):
        before = peer.reauthentication
        outcome = network.succeed(peer)
        assert outcome.fast
        assert outcome.identity.decode() == before
        assert outcome.context is not None
        assert outcome.context.counter == counter + 1
        assert outcome.pseudonym == first.pseudonym
        assert peer.highest_counter == counter
        assert peer.reauthentication not in (None, before)
        name = "AKA" if method is AKA else "AKA'"
        assert network.requests == [
            f"EAP-Request/{name}-Reauthentication [ AT_IV, AT_ENCR_DATA, AT_CHECKCODE, AT_MAC ]"
        ]
        msks.add(outcome.msk)
    assert len(msks) == 3
    assert len(network.vectors) == 1


@METHODS
def test_fast_reauthentication_behind_an_identity_round_has_its_checkcode(method: EapType) -> None:
    network = Network(options=replace(only(method), always_request_identity=True))
    peer = FormulaPeer(methods=(method,))
    network.succeed(peer)
    assert network.succeed(peer).fast
    assert "Identity [ AT_ANY_ID_REQ ]" in network.requests[0]
    code = peer.heard[-1].get(AtCheckcode)
    assert code is not None
    assert len(code.checkcode) in (20, 32)


def test_the_realm_of_a_reauthentication_identity_is_not_looked_at() -> None:
    network = Network()
    peer = FormulaPeer()
    network.succeed(peer)
    assert peer.reauthentication is not None
    username = peer.reauthentication.partition("@")[0]
    assert network.succeed(peer, f"{username}@elsewhere.example.org").fast


@METHODS
def test_a_reauthentication_identity_works_once(method: EapType) -> None:
    network = Network(options=only(method))
    peer = FormulaPeer(methods=(method,))
    network.succeed(peer)
    used = peer.reauthentication
    assert network.succeed(peer).fast
    outcome = network.succeed(peer, used)
    # our own identity still names its subscriber: full authentication without an identity round (RFC 4187 §5.3)
    assert not outcome.fast
    assert len(network.transcript) == 2


@METHODS
def test_a_counter_that_the_peer_has_seen_leads_to_full_authentication(method: EapType) -> None:
    network = Network(options=only(method))
    peer = FormulaPeer(methods=(method,))
    network.succeed(peer)
    peer.highest_counter = 7
    outcome = network.succeed(peer)
    assert not outcome.fast
    assert [message.subtype for message in peer.heard] == [AkaSubtype.REAUTHENTICATION, AkaSubtype.CHALLENGE]
    assert outcome.context is not None
    assert outcome.context.counter == 1
    assert network.succeed(peer).fast


@METHODS
def test_fast_reauthentications_are_limited(method: EapType) -> None:
    network = Network(options=replace(only(method), reauthentications=2))
    peer = FormulaPeer(methods=(method,))
    outcomes = [network.succeed(peer) for _ in range(4)]
    assert [outcome.fast for outcome in outcomes] == [False, True, True, False]
    # RFC 4187 §5.3: without AT_NEXT_REAUTH_ID the peer forgets and comes back with its pseudonym
    assert outcomes[2].context is None
    assert outcomes[3].identity.startswith(b"2" if method is AKA else b"7")


@pytest.mark.parametrize(
    "change",
    [
        {"counter": 17},
        {"imsi": Imsi("001010000000002")},
        {"network_name": b"HRPD"},
        {"method": AKA},
    ],
)
def test_a_context_that_does_not_fit_leads_to_full_authentication(change: dict[str, int]) -> None:
    network = Network(options=only(PRIME))
    peer = FormulaPeer(methods=(PRIME,))
    network.succeed(peer)
    network.contexts = {name: replace(context, **change) for name, context in network.contexts.items()}  # type: ignore[arg-type]
    assert not network.succeed(peer).fast
    assert len(network.transcript) == 2


def test_switched_off_reauthentication_still_reads_its_identities() -> None:
    network = Network()
    peer = FormulaPeer()
    network.succeed(peer)
    network.options = replace(BOTH, reauthentication=False)
    assert not network.succeed(peer).fast
    assert len(network.transcript) == 2
    assert peer.reauthentication is None


def test_a_key_that_rolled_over_reads_and_one_that_is_gone_does_not() -> None:
    network = Network(options=replace(BOTH, reauthentication=False))
    assert network.ring is not None
    peer = FormulaPeer()
    network.succeed(peer)
    old = peer.pseudonym
    network.ring = network.ring.rolled(SeededEntropy("next"), keep=1)
    network.succeed(peer, old)
    assert len(network.transcript) == 2
    assert peer.pseudonym is not None
    assert old is not None
    assert peer.pseudonym[1] != old[1]
    network.ring = network.ring.rolled(SeededEntropy("last"), keep=1)
    network.succeed(peer, old)
    assert "AT_PERMANENT_ID_REQ" in network.requests[0]


def test_an_identity_of_the_other_methods_digit_is_not_read() -> None:
    network = Network(options=replace(only(AKA), reauthentication=False))
    peer = FormulaPeer(methods=(AKA,))
    network.succeed(peer)
    assert peer.pseudonym is not None
    network.succeed(peer, "7" + peer.pseudonym[1:])
    assert "Identity" in network.requests[0]


# --- wrong responses


class WrongReauthentication(FormulaPeer):
    """A peer whose re-authentication response is wrong in one way."""

    wrong = ""

    def answer_reauthentication(self, message: AkaMessage, packet: bytes) -> bytes:
        """The right response, altered."""
        right = super().answer_reauthentication(message, packet)
        assert self.keys is not None
        if self.wrong == "MAC":
            return right[:-1] + bytes([right[-1] ^ 1])
        if self.wrong == "nonce":  # AT_MAC without NONCE_S behind the packet
            decoded = AkaMessage.decode(right)
            return encode_with_mac(replace(decoded, attributes=decoded.attributes[:-1]), self.keys.k_aut)
        nested: list[Attribute] = [] if self.wrong == "no counter" else [AtCounter(99)]
        pair: tuple[Attribute, ...] = encrypt_attributes(nested or [AtCounter(1)], self.keys.k_encr, IV)
        if not nested:
            pair = ()
        response = self.response(message, AkaSubtype.REAUTHENTICATION, *pair)
        return encode_with_mac(response, self.keys.k_aut, self.nonce)


@METHODS
@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("MAC", AkaFailure.WRONG_MAC),
        ("nonce", AkaFailure.WRONG_MAC),
        ("counter", AkaFailure.WRONG_COUNTER),
        ("no counter", AkaFailure.MALFORMED),
    ],
)
def test_wrong_reauthentication_responses(method: EapType, wrong: str, cause: AkaFailure) -> None:
    network = Network(options=only(method))
    peer = WrongReauthentication(methods=(method,))
    network.succeed(peer)
    peer.wrong = wrong
    network.fail(peer, cause)
    notification = peer.heard[-1]
    # RFC 4187 §6.1: the round did not succeed, so the P bit is set and there is no AT_MAC
    assert [type(attribute) for attribute in notification.attributes] == [AtNotification]
    assert notification.require(AtNotification).value == NotificationCode.GENERAL_FAILURE
    # and what was used is gone
    assert not network.contexts


# --- result indications and notifications


@METHODS
@pytest.mark.parametrize("fast", [False, True])
def test_protected_success(method: EapType, fast: bool) -> None:
    network = Network(options=replace(only(method), result_indications=True))
    peer = FormulaPeer(methods=(method,), result_indications=True)
    network.succeed(peer)
    if fast:
        assert network.succeed(peer).fast
    notification = peer.heard[-1]
    assert notification.require(AtNotification).value == NotificationCode.SUCCESS
    # RFC 4187 §9.10: AT_COUNTER inside AT_ENCR_DATA on fast re-authentication
    assert (notification.get(AtEncrData) is not None) == fast


@METHODS
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("agreed", [False, True])
def test_denial_after_authentication(method: EapType, fast: bool, agreed: bool) -> None:
    network = Network(options=replace(only(method), result_indications=agreed, authorisation=True))
    peer = FormulaPeer(methods=(method,), result_indications=True)
    network.succeed(peer)
    if fast:
        assert peer.reauthentication is not None
    else:
        peer.reauthentication = None
    network.denial = NotificationCode.NOT_SUBSCRIBED
    failed = network.fail(peer, AkaFailure.DENIED)
    assert failed.why == "no subscription"
    # RFC 4187 §6.2: an error after authentication is notified, whether result indications were agreed or not
    assert peer.heard[-1].require(AtNotification).value == 1031
    assert "AT_MAC" in network.requests[-1]
    assert ("AT_ENCR_DATA" in network.requests[-1]) == fast


def test_commands_that_nobody_asked_for() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1))
    server.start(f"0{IMSI}@{REALM}".encode())
    with pytest.raises(LocalError, match="no authorisation"):
        server.authorise()
    with pytest.raises(LocalError, match="no re-authentication context"):
        server.answer_context(None)


@pytest.mark.parametrize(
    "options",
    [
        {"methods": ()},
        {"methods": (EapType.TLS,)},
        {"network_name": b""},
        {"kdfs": (2,)},
        {"kdfs": (1, 1)},
        {"reauthentications": 0},
        {"reauthentications": 65536},
    ],
)
def test_options_that_make_no_sense(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"methods|network name|key derivation|re-authentications"):
        ServerOptions(**options)  # type: ignore[arg-type]


def test_iv_is_fresh_in_every_message() -> None:
    network = Network(options=replace(BOTH, result_indications=True))
    peer = FormulaPeer(result_indications=True)
    seen = set()
    for _ in range(3):
        network.succeed(peer)
        for message in peer.heard:
            iv = message.get(AtIv)
            if iv is not None:
                assert iv.value not in seen
                seen.add(iv.value)
    assert len(seen) == 5
