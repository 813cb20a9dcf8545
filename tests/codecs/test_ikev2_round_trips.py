"""Values inside payloads survive the wire, and any octets decode or raise ``RemoteError``: the smaller decoders.

Payloads and messages as wholes are in ``tests/fuzz/test_ikev2_codec``; here are the data of notifies, tickets, the
numbers of fragments, sequences of configuration attributes, and what names a gateway.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError, RemoteError
from protocols.ikev2.fragment import find_encrypted, find_fragment, split
from protocols.ikev2.message import HEADER_LENGTH
from protocols.ikev2.payloads import IdiPayload, IdrPayload
from protocols.ikev2.proposals import IKE_POLICIES
from protocols.ikev2.redirection import GatewayIdentity
from protocols.ikev2.registry import HashAlgorithmId, IdType, NotifyType, PayloadType
from protocols.ikev2.signatures import decode_hash_algorithms, encode_hash_algorithms
from protocols.ikev2.suites import IkeSuite
from protocols.ikev2.tasks.mobike.mobility import usable
from protocols.ikev2.ticket import TicketContents, TicketOffice, TicketPolicy
from protocols.path import Endpoint
from protocols.secret import Secret
from protocols.threegpp.backoff import DEACTIVATED, MAXIMUM, decode_backoff, encode_backoff
from protocols.threegpp.swu import decode_device_identity, encode_device_identity
from tests.harness.pair import Pair

often = settings(max_examples=150, deadline=None)
seldom = settings(max_examples=40, deadline=None)
text = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)
gateways = st.ip_addresses() | text
identities = st.tuples(
    st.sampled_from([IdType.ID_FQDN, IdType.ID_RFC822_ADDR, IdType.ID_KEY_ID]), st.binary(max_size=80)
)
parts = st.binary(max_size=300)


# -- REDIRECT (RFC 5685 §9.2, §9.3)


@often
@given(gateways, parts)
def test_gateway_identity(gateway: IPv4Address | IPv6Address | str, nonce: bytes) -> None:
    value = GatewayIdentity(gateway, nonce)
    octets = value.encode()
    assert octets[0] == {IPv4Address: 1, IPv6Address: 2, str: 3}[type(gateway)]
    assert GatewayIdentity.decode(octets) == value


@often
@given(st.binary(max_size=40))
def test_any_octets_as_gateway_identity(octets: bytes) -> None:
    value, answer = None, None
    try:
        value = GatewayIdentity.decode(octets)
    except DecodeError as error:
        answer = error.notify_type
    if value is None:
        assert answer == NotifyType.INVALID_SYNTAX
        return
    if value.gateway is None:
        assert octets[0] not in (1, 2, 3)
    else:
        assert value.encode() == octets


# -- tickets (RFC 5723 §6, Appendix A.1)


@st.composite
def contents(draw: st.DrawFn) -> TicketContents:
    initiator, responder = draw(identities), draw(identities)
    return TicketContents(
        identifier=draw(st.binary(min_size=8, max_size=8)),
        identity=IdiPayload(id_type=initiator[0], data=initiator[1]),
        responder_identity=IdrPayload(id_type=responder[0], data=responder[1]),
        suite=IkeSuite.of(draw(st.sampled_from(IKE_POLICIES["legacy"]))),
        sk_d=Secret(draw(st.binary(min_size=16, max_size=64))),
        spi_i=draw(st.binary(min_size=8, max_size=8)),
        spi_r=draw(st.binary(min_size=8, max_size=8)),
        expires=draw(st.integers(2_000_000_000, 2**63)),
        data=draw(parts),
    )


def office() -> TicketOffice:
    return TicketOffice(TicketPolicy(secret=Secret(bytes(32)), wall=lambda: 1.8e9))


@often
@given(contents())
def test_tickets(value: TicketContents) -> None:
    assert TicketContents.decode(value.encode()) == value
    assert office().open(office().seal(value, SeededEntropy(1))) == value


@often
@given(contents(), st.data())
def test_no_other_octets_are_that_ticket(value: TicketContents, data: st.DataObject) -> None:
    ticket = bytearray(office().seal(value, SeededEntropy(1)))
    at = data.draw(st.integers(0, len(ticket) - 1))
    ticket[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteError):
        office().open(bytes(ticket))
    with pytest.raises(RemoteError):
        office().open(bytes(ticket[:at]))


@often
@given(contents(), st.data())
def test_truncated_ticket_contents(value: TicketContents, data: st.DataObject) -> None:
    octets = value.encode()
    with pytest.raises(DecodeError):
        TicketContents.decode(octets[: data.draw(st.integers(0, len(octets) - 1))])


# -- fragments (RFC 7383 §2.5)


def fragment(number: int, total: int, first: int, content: bytes) -> bytes:
    """A datagram with an SKF payload, of which only the numbers are read."""
    length = 8 + len(content)
    body = number.to_bytes(2, "big") + total.to_bytes(2, "big") + content
    return bytes(HEADER_LENGTH) + bytes((first, 0)) + length.to_bytes(2, "big") + body


@often
@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 255), parts)
def test_fragment_numbers(number: int, total: int, first: int, content: bytes) -> None:
    datagram = fragment(number, total, first, content)
    if not 1 <= number <= total:
        with pytest.raises(DecodeError):
            find_fragment(datagram, PayloadType.SKF)
        return
    place = find_fragment(datagram, PayloadType.SKF)
    assert (place.number, place.total, place.first) == (number, total, first)
    assert datagram[place.start :] == content


@often
@given(st.binary(max_size=120), st.integers(0, 255))
def test_any_octets_as_a_chain_to_the_encrypted_payload(octets: bytes, first: int) -> None:
    datagram = bytes(HEADER_LENGTH) + octets
    try:
        kind, _, start = find_encrypted(datagram, first)
    except RemoteError:
        return
    assert kind in (PayloadType.SK, PayloadType.SKF)
    assert HEADER_LENGTH + 4 <= start <= len(datagram)


@often
@given(st.binary(max_size=2000), st.integers(1, 700))
def test_split(content: bytes, room: int) -> None:
    pieces = split(content, room)
    assert b"".join(pieces) == content
    assert pieces
    assert all(len(piece) == room for piece in pieces[:-1])
    assert len(pieces[-1]) <= room


# -- other notify data


@often
@given(st.lists(st.sampled_from(list(HashAlgorithmId)), unique=True))
def test_hash_algorithms(known: list[HashAlgorithmId]) -> None:
    """RFC 7427 §4."""
    assert decode_hash_algorithms(encode_hash_algorithms(known)) == frozenset(known)


@often
@given(st.integers(14, 16).flatmap(lambda length: st.text("0123456789", min_size=length, max_size=length)))
def test_device_identity(digits: str) -> None:
    """TS 24.302 §8.2.9.2."""
    assert decode_device_identity(encode_device_identity(digits)) == digits


@often
@given(st.binary(max_size=16))
def test_any_octets_as_device_identity(octets: bytes) -> None:
    try:
        digits = decode_device_identity(octets)
    except RemoteError:
        return
    assert digits is None or (digits.isdecimal() and 14 <= len(digits) <= 16)


@often
@given(st.integers(0, MAXIMUM))
def test_backoff_timer(seconds: int) -> None:
    """TS 24.008 §10.5.7.4a: never less than was meant, and the same again."""
    told = decode_backoff(encode_backoff(seconds))
    assert told >= seconds
    assert decode_backoff(encode_backoff(told)) == told


@often
@given(st.binary(max_size=4))
def test_any_octets_as_backoff_timer(octets: bytes) -> None:
    try:
        seconds = decode_backoff(octets)
    except RemoteError:
        return
    assert seconds == DEACTIVATED or 0 <= seconds <= MAXIMUM


@seldom
@given(st.lists(st.ip_addresses(), min_size=1, max_size=6, unique=True))
def test_additional_addresses(told: list[IPv4Address | IPv6Address]) -> None:
    """RFC 4555 §3.6, §4.2.2: what an end lists is what the other end knows, but for what can be nobody's address."""
    own = [Endpoint(address, 4500) for address in told]
    assume(all(usable(address) and not address.is_loopback for address in told))
    pair = _up()
    sa, known = pair.ue.live, pair.epdg.live.mobility
    pair.ue.endpoint.set_addresses(sa, (sa.path.local, *own), pair.now)
    pair.run(1.0)
    assert known.peer_addresses == tuple(dict.fromkeys((sa.path.local.address, *told)))


@cache
def _up() -> Pair:
    return Pair(seed=1).attach()
