"""Invariant: a peer's octets raise RemoteError or become a value that encodes and decodes to itself; nothing else."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapReader

from protocols.entropy import SeededEntropy
from protocols.errors import NegotiationError, RemoteError
from protocols.ikev2.certificates import CertificateVerifier
from protocols.ikev2.message import Message, decode_header, decode_message, encode_message
from protocols.ikev2.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    ConfigurationAttribute,
    ConfigurationPayload,
    DeletePayload,
    EapPayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorIdPayload,
    decode_payloads,
    encode_payloads,
)
from protocols.ikev2.proposals import (
    EspPolicy,
    IkePolicy,
    check_answer_esp,
    check_answer_ike,
    select_esp,
    select_ike,
)
from protocols.ikev2.registry import (
    AuthMethod,
    CertEncoding,
    ConfigAttributeType,
    ConfigType,
    ExchangeType,
    IdType,
    KeGroup,
    NotifyType,
    PayloadType,
    ProtocolId,
    TransformType,
)
from protocols.ikev2.sealer import Sealer
from protocols.ikev2.signatures import decode_hash_algorithms, verify_auth
from protocols.ikev2.suites import KEY_EXCHANGES, EspSuite, IkeSuite, KeyExchange
from protocols.selectors import TrafficSelector
from tests.codecs.test_ikev2_certificates import EPDG, GATEWAY, IDR, MOMENT, ROOT, SUB, key
from tests.codecs.test_ikev2_payloads import TABLE
from tests.codecs.test_ikev2_sealer import keys_of, message
from tests.harness.material import shared

often = settings(max_examples=300, deadline=None)
seldom = settings(max_examples=100, deadline=None)

# -- values -----------------------------------------------------------------------------------------------

octet = st.integers(0, 255)
word = st.integers(0, 65535)
some = st.binary(max_size=40)

transforms = st.builds(
    Transform,
    st.builds(TransformType, octet),
    word,
    st.none() | word,
    unknown_attributes=st.lists(
        st.tuples(word.filter(lambda kind: kind & 0x8000 and kind != 0x800E), st.binary(min_size=2, max_size=2))
        | st.tuples(st.integers(0, 0x7FFF), some),
        max_size=2,
    ).map(tuple),
)
proposals = st.builds(
    Proposal,
    number=octet,
    protocol=st.builds(ProtocolId, octet),
    spi=st.binary(max_size=8),
    transforms=st.lists(transforms, max_size=5).map(tuple),
)


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    family, bits = draw(st.sampled_from([(IPv4Address, 32), (IPv6Address, 128)]))
    low, high = sorted(draw(st.tuples(st.integers(0, 2**bits - 1), st.integers(0, 2**bits - 1))))
    return TrafficSelector(
        start=family(low),
        end=family(high),
        protocol=draw(octet),
        start_port=draw(word),
        end_port=draw(word),
    )


@st.composite
def unknown_selectors(draw: st.DrawFn) -> bytes:
    body = draw(some)
    kind = draw(octet.filter(lambda kind: kind not in (7, 8)))
    return bytes((kind, draw(octet))) + (4 + len(body)).to_bytes(2, "big") + body


@st.composite
def deletes(draw: st.DrawFn) -> DeletePayload:
    length = draw(st.integers(1, 8))
    spis = draw(st.lists(st.binary(min_size=length, max_size=length), max_size=4))
    return DeletePayload(draw(st.builds(ProtocolId, octet)), tuple(spis))


selector_lists = st.lists(selectors(), max_size=3).map(tuple)
unknown_lists = st.lists(unknown_selectors(), max_size=2).map(tuple)
known_types = {int(kind) for kind in PayloadType if kind < PayloadType.GSPM} | {PayloadType.SKF, PayloadType.NONE}
payloads: st.SearchStrategy[Payload] = st.one_of(
    st.builds(SaPayload, st.lists(proposals, min_size=1, max_size=3).map(tuple)),
    st.builds(KePayload, st.builds(KeGroup, word), some),
    st.builds(IdiPayload, st.builds(IdType, octet), some),
    st.builds(IdrPayload, st.builds(IdType, octet), some),
    st.builds(CertPayload, st.builds(CertEncoding, octet), some),
    st.builds(CertreqPayload, st.builds(CertEncoding, octet), some),
    st.builds(AuthPayload, st.builds(AuthMethod, octet), some),
    st.builds(NoncePayload, st.binary(min_size=16, max_size=256)),
    st.builds(NotifyPayload, st.builds(NotifyType, word), some, protocol=st.builds(ProtocolId, octet), spi=some),
    deletes(),
    st.builds(VendorIdPayload, some),
    st.builds(TsiPayload, selector_lists, unknown_lists),
    st.builds(TsrPayload, selector_lists, unknown_lists),
    st.builds(
        ConfigurationPayload,
        st.builds(ConfigType, octet),
        st.lists(
            st.builds(ConfigurationAttribute, st.builds(ConfigAttributeType, st.integers(0, 0x7FFF)), some),
            max_size=4,
        ).map(tuple),
    ),
    st.builds(EapPayload, some),
    st.builds(
        UnknownPayload,
        octet.filter(lambda kind: kind not in known_types).map(PayloadType),
        st.just(False),
        some,
    ),
)
last_payloads = st.none() | st.one_of(
    st.builds(EncryptedPayload, st.builds(PayloadType, octet), some),
    st.builds(EncryptedFragmentPayload, st.builds(PayloadType, octet), some),
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    last = draw(last_payloads)
    chain = draw(st.lists(payloads, max_size=6))
    return Message(
        spi_i=draw(st.binary(min_size=8, max_size=8)),
        spi_r=draw(st.binary(min_size=8, max_size=8)),
        exchange=ExchangeType(draw(octet)),
        original_initiator=draw(st.booleans()),
        response=draw(st.booleans()),
        message_id=draw(st.integers(0, 2**32 - 1)),
        payloads=tuple(chain if last is None else [*chain, last]),
    )


@often
@given(messages())
def test_values_survive_the_wire(value: Message) -> None:
    octets = encode_message(value)
    assert decode_message(octets) == value
    assert decode_header(octets).length == len(octets)
    assert value.summary().startswith(value.name)


# -- octets -----------------------------------------------------------------------------------------------


def fixed_point(octets: bytes) -> None:
    try:
        value = decode_message(octets)
    except RemoteError:
        return
    again = encode_message(value)
    assert decode_message(again) == value
    value.summary()


def with_length(octets: bytes) -> bytes:
    """The same with a header that agrees with the datagram, so that the payloads are reached."""
    return octets[:17] + b"\x20" + octets[18:24] + len(octets).to_bytes(4, "big") + octets[28:]


@often
@given(st.binary(max_size=80))
def test_any_octets(octets: bytes) -> None:
    fixed_point(octets)
    if len(octets) >= 28:
        fixed_point(with_length(octets))


def chain_fixed_point(first: int, octets: bytes) -> None:
    try:
        chain = decode_payloads(first, octets)
    except RemoteError as error:
        answer = error.notify_type
    else:
        kind, again = encode_payloads(chain)
        assert decode_payloads(kind, again) == chain
        return
    assert answer in (NotifyType.INVALID_SYNTAX, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)


@often
@given(octet, st.binary(max_size=80))
@example(PayloadType.SA, bytes.fromhex("0000000c 00000008 01010000"))
@example(PayloadType.D, bytes.fromhex("00000008 0100ffff"))
def test_any_chain(first: int, octets: bytes) -> None:
    chain_fixed_point(first, octets)


@often
@given(st.sampled_from(TABLE), some)
def test_any_body_of_each_type(row: tuple[Payload, PayloadType, str], tail: bytes) -> None:
    _, kind, text = row
    for body in (tail, bytes.fromhex(text) + tail, bytes.fromhex(text)[: len(tail)] + tail):
        chain_fixed_point(kind, b"\0\0" + (4 + len(body)).to_bytes(2, "big") + body)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message with some octets changed, cut out or put in."""
    octets = bytearray(encode_message(draw(messages())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(octets)))
        octets[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(octets)


@often
@given(damaged())
def test_damaged_messages(octets: bytes) -> None:
    fixed_point(octets)
    if len(octets) >= 28:
        fixed_point(with_length(octets))


MALFORMED = [
    "ikev1_id_ipv6_addr_subnet-oobr.pcap",
    "ikev2-id-short.pcap",
    "ikev2pI2-segfault.pcapng",
    "isakmp-3948-oobr-2.pcap",
    "isakmp-delete-segfault.pcap",
    "isakmp-identification-segfault.pcap",
    "isakmp-ikev1_n_print-oobr.pcap",
    "isakmp-no-none-np.pcapng",
    "isakmp-pointer-loop.pcap",
    "isakmp-rfc3948-oobr.pcap",
    "isakmp-various-oobr.pcap",
    "isakmpv1-attr-oobr.pcap",
]


@pytest.mark.parametrize("name", MALFORMED)
def test_datagrams_that_broke_others(name: str) -> None:
    """tcpdump's captures: each frame from every offset, as it is and as if its header were sound."""
    with RawPcapReader(str(shared(f"captures/malformed/{name}"))) as capture:
        frames = [frame for frame, _ in capture]
    assert frames
    for frame in frames:
        for start in range(len(frame)):
            octets = frame[start:]
            fixed_point(octets)
            if len(octets) >= 28:
                fixed_point(with_length(octets))
        for first in range(33, 55):
            chain_fixed_point(first, frame[-100:])


# -- beyond the codec -------------------------------------------------------------------------------------

SUITES = [IkeSuite.of("aes128-sha256-x25519"), IkeSuite.of("aes128gcm16-prfsha256-x25519")]


@seldom
@given(st.sampled_from(SUITES), octet, st.binary(max_size=120))
def test_a_sealer_opens_nothing_of_a_strangers(suite: IkeSuite, first: int, octets: bytes) -> None:
    sealer = Sealer(suite, keys_of(suite), False, SeededEntropy(1))
    datagram = encode_message(message())[:16] + bytes((first,)) + encode_message(message())[17:] + octets
    datagram = with_length(datagram)
    with pytest.raises(RemoteError) as caught:
        sealer.open(datagram, decode_header(datagram))
    assert caught.value.notify_type is None


@seldom
@given(st.sampled_from(SUITES), st.lists(payloads, max_size=5).map(tuple))
def test_sealed_values_survive(suite: IkeSuite, chain: tuple[Payload, ...]) -> None:
    keys = keys_of(suite)
    octets = Sealer(suite, keys, True, SeededEntropy(1)).seal(message(*chain))
    opened = Sealer(suite, keys, False, SeededEntropy(2)).open(octets, decode_header(octets))
    assert opened == message(*chain)


IKE_POLICY = IkePolicy(tuple(SUITES))
ESP_POLICY = EspPolicy((EspSuite.of("aes128-sha256-x25519"), EspSuite.of("aes128gcm16")))
likely = st.builds(
    Transform,
    st.sampled_from([TransformType(kind) for kind in range(1, 6)]),
    st.sampled_from([0, 1, 5, 12, 20, 31]),
    st.none() | st.just(128),
)
likely_proposals = st.builds(
    Proposal,
    number=st.integers(1, 2),
    protocol=st.sampled_from([ProtocolId.IKE, ProtocolId.ESP]),
    spi=st.sampled_from([b"", b"1234"]),
    transforms=st.lists(likely | transforms, max_size=6).map(tuple),
)


@often
@given(st.lists(likely_proposals, max_size=3).map(tuple), likely_proposals)
def test_negotiation(offered: tuple[Proposal, ...], answer: Proposal) -> None:
    """What is selected is from the offer and in the policy; the initiator then finds the same suite."""
    try:
        chosen, suite = select_ike(offered, IKE_POLICY, b"")
        assert suite in IKE_POLICY.suites
        assert any(set(chosen.transforms) <= set(proposal.transforms) for proposal in offered)
    except NegotiationError:
        pass
    try:
        chosen, child = select_esp(offered, ESP_POLICY, True, b"1234")
        assert child in ESP_POLICY.suites
        assert any(set(chosen.transforms) <= set(proposal.transforms) for proposal in offered)
    except NegotiationError:
        pass
    for check in (check_answer_ike, check_answer_esp):
        try:
            check(offered, answer)
        except NegotiationError:
            continue


@seldom
@given(st.sampled_from(sorted(KEY_EXCHANGES)), st.binary(max_size=100), st.booleans())
def test_public_values(group: KeGroup, octets: bytes, fit: bool) -> None:
    exchange = KeyExchange.generate(group, SeededEntropy(1))
    if fit:
        octets = octets.ljust(len(exchange.public), b"\x01")[: len(exchange.public)]
    try:
        shared_secret = exchange.shared(octets)
    except RemoteError as error:
        answer = error.notify_type
    else:
        assert any(shared_secret)
        return
    assert answer == NotifyType.INVALID_SYNTAX


VERIFIER = CertificateVerifier((ROOT,), lambda: MOMENT)


@often
@given(
    st.sampled_from([GATEWAY, SUB, ROOT]),
    st.integers(0, 400),
    st.integers(0, 3),
    st.binary(max_size=3),
    st.builds(IdrPayload, st.builds(IdType, st.integers(0, 13)), some) | st.just(IDR) | st.none(),
)
def test_certificates(der: bytes, at: int, cut: int, put: bytes, identity: IdrPayload | None) -> None:
    """Damaged anywhere, a certificate is refused; only its own octets are accepted."""
    damaged_der = der[:at] + put + der[at + cut :]
    try:
        VERIFIER.verify((damaged_der, SUB), identity, (EPDG,))
    except RemoteError as error:
        reason = str(error)
    else:
        assert damaged_der == GATEWAY
        return
    assert "\n" not in reason


@often
@given(
    st.sampled_from(["gateway", "p384", "p521", "rsa", "ed25519", "ed448"]),
    st.sampled_from(list(AuthMethod)),
    st.sampled_from([b"", bytes.fromhex("0c300a06082a8648ce3d040302"), b"\xff", b"\x00"]),
    st.binary(max_size=100),
)
def test_auth_data(name: str, method: AuthMethod, head: bytes, tail: bytes) -> None:
    with pytest.raises(RemoteError):
        verify_auth(key(name).public_key(), AuthPayload(method, head + tail), b"octets")


@seldom
@given(some)
def test_hash_algorithms(octets: bytes) -> None:
    try:
        found = decode_hash_algorithms(octets)
    except RemoteError:
        assert len(octets) % 2
        return
    assert len(found) <= len(octets) // 2


def test_every_payload_class_is_in_the_table() -> None:
    """So that no class of the ``Payload`` union goes without damaged octets."""
    built = {type(payload) for payload, _, _ in TABLE} | {EncryptedPayload, EncryptedFragmentPayload}
    assert built == set(Payload.__args__)
