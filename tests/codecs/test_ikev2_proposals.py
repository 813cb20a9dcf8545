"""Negotiation of algorithms (RFC 7296 §2.7, §3.3): what is offered, chosen, and taken for an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.errors import NegotiationError
from protocols.ikev2.payloads import Proposal, SaPayload, Transform, decode_payloads, encode_payloads
from protocols.ikev2.proposals import (
    EspPolicy,
    IkePolicy,
    check_answer_esp,
    check_answer_ike,
    select_esp,
    select_ike,
)
from protocols.ikev2.registry import (
    EncryptionId,
    EsnId,
    IntegrityId,
    KeGroup,
    NotifyType,
    PrfId,
    ProtocolId,
    TransformType,
)
from protocols.ikev2.suites import EspSuite, IkeSuite

SPI = bytes.fromhex("c0ffee01")
ANSWER_SPI = bytes.fromhex("0badcafe")


def ike(*names: str) -> IkePolicy:
    return IkePolicy(tuple(IkeSuite.of(name) for name in names))


def esp(*names: str) -> EspPolicy:
    return EspPolicy(tuple(EspSuite.of(name) for name in names))


def ids(proposal: Proposal) -> list[tuple[int, int, int | None]]:
    return [(transform.type, transform.id, transform.key_length_bits) for transform in proposal.transforms]


def test_suites_of_a_kind_share_a_proposal() -> None:
    """RFC 7296 §3.3: AEAD and other encryption MUST be in different proposals."""
    policy = ike(
        "aes128gcm16-prfsha256-x25519", "aes256-sha256-x25519", "aes256gcm16-prfsha256-ecp256", "aes128-sha256-x25519"
    )
    aead, other = policy.proposals()
    assert (aead.number, other.number) == (1, 2)
    assert aead.spi == other.spi == b""
    assert ids(aead) == [
        (TransformType.ENCR, EncryptionId.ENCR_AES_GCM_16, 128),
        (TransformType.ENCR, EncryptionId.ENCR_AES_GCM_16, 256),
        (TransformType.PRF, PrfId.PRF_HMAC_SHA2_256, None),
        (TransformType.KE, KeGroup.CURVE25519, None),
        (TransformType.KE, KeGroup.ECP_256, None),
    ]
    assert ids(other) == [
        (TransformType.ENCR, EncryptionId.ENCR_AES_CBC, 256),
        (TransformType.ENCR, EncryptionId.ENCR_AES_CBC, 128),
        (TransformType.PRF, PrfId.PRF_HMAC_SHA2_256, None),
        (TransformType.INTEG, IntegrityId.AUTH_HMAC_SHA2_256_128, None),
        (TransformType.KE, KeGroup.CURVE25519, None),
    ]


def test_esp_proposals() -> None:
    with_pfs, without = esp("aes128-sha256-x25519-esn", "aes128-sha256").proposals(SPI)
    assert ids(with_pfs) == [
        (TransformType.ENCR, EncryptionId.ENCR_AES_CBC, 128),
        (TransformType.INTEG, IntegrityId.AUTH_HMAC_SHA2_256_128, None),
        (TransformType.KE, KeGroup.CURVE25519, None),
        (TransformType.ESN, EsnId.ESN, None),
    ]
    assert ids(without)[2:] == [(TransformType.ESN, EsnId.NO_ESN, None)]
    assert with_pfs.spi == without.spi == SPI
    (in_ike_auth,) = esp("aes128-sha256-x25519-esn", "aes128-sha256").proposals(SPI, with_group=False)
    assert [kind for kind, _, _ in ids(in_ike_auth)] == [1, 3, 5, 5]


IKE_SUITES = ["aes128-sha256-x25519", "aes256-sha1-prfsha384-modp2048", "aes256gcm16-prfsha512-ecp384"]


@pytest.mark.parametrize("name", IKE_SUITES)
def test_both_ends_agree_on_an_ike_suite(name: str) -> None:
    offered = ike(*IKE_SUITES).proposals(b"initiato")
    # Through the codec, as between two nodes.
    _, octets = encode_payloads((SaPayload(offered),))
    (payload,) = decode_payloads(33, octets)
    assert isinstance(payload, SaPayload)
    answer, suite = select_ike(payload.proposals, ike(name), b"responde")
    assert suite == IkeSuite.of(name)
    assert answer.spi == b"responde"
    assert check_answer_ike(offered, answer) == suite


@pytest.mark.parametrize("name", ["aes128-sha256-x25519", "aes128-sha256", "aes256gcm16-esn", "aes256gcm16"])
def test_both_ends_agree_on_an_esp_suite(name: str) -> None:
    offered = esp("aes256gcm16-esn", "aes256gcm16", "aes128-sha256-x25519", "aes128-sha256").proposals(SPI)
    answer, suite = select_esp(offered, esp(name), True, ANSWER_SPI)
    assert suite == EspSuite.of(name)
    assert answer.spi == ANSWER_SPI
    assert check_answer_esp(offered, answer) == suite


def test_the_responders_preference_decides_and_the_number_is_kept() -> None:
    offered = ike("aes128gcm16-prfsha256-x25519", "aes128-sha256-x25519").proposals()
    answer, suite = select_ike(offered, ike("aes128-sha256-x25519", "aes128gcm16-prfsha256-x25519"))
    assert (answer.number, suite.name) == (2, "aes128-sha256-x25519")


def test_no_proposal_chosen() -> None:
    with pytest.raises(NegotiationError) as caught:
        select_ike(ike("aes128-sha256-x25519").proposals(), ike("aes256-sha256-x25519"))
    assert caught.value.notify_type == NotifyType.NO_PROPOSAL_CHOSEN
    with pytest.raises(NegotiationError) as caught:
        select_esp(esp("aes128-sha256").proposals(SPI), esp("aes128-sha1"), False)
    assert caught.value.notify_type == NotifyType.NO_PROPOSAL_CHOSEN
    with pytest.raises(NegotiationError):
        select_ike((), ike("aes128-sha256-x25519"))


def test_groups_in_ike_auth_are_passed_over() -> None:
    """RFC 7296 §1.2: IKE_AUTH has no key exchange for the child SA."""
    offered = esp("aes128-sha256-ecp384").proposals(SPI)
    answer, suite = select_esp(offered, esp("aes128-sha256-x25519"), False)
    assert suite == EspSuite.of("aes128-sha256")
    assert not answer.of_type(TransformType.KE)


def test_a_group_is_neither_dropped_nor_invented() -> None:
    with pytest.raises(NegotiationError):
        select_esp(esp("aes128-sha256-x25519").proposals(SPI), esp("aes128-sha256"), True)
    with pytest.raises(NegotiationError):
        select_esp(esp("aes128-sha256").proposals(SPI), esp("aes128-sha256-x25519"), True)


def with_transforms(proposal: Proposal, *transforms: Transform) -> Proposal:
    return replace(proposal, transforms=proposal.transforms + transforms)


def test_offered_none_is_answered() -> None:
    """RFC 7296 §3.3: NONE for integrity beside AEAD, and for a group; the answer has one of each type."""
    (proposal,) = esp("aes128gcm16").proposals(SPI)
    none = Transform(TransformType.INTEG, IntegrityId.NONE)
    no_group = Transform(TransformType.KE, KeGroup.NONE)
    offered = (with_transforms(proposal, none, no_group, Transform(TransformType.KE, KeGroup.ECP_256)),)
    answer, suite = select_esp(offered, esp("aes128gcm16"), True, ANSWER_SPI)
    assert suite == EspSuite.of("aes128gcm16")
    assert set(answer.transforms) == {*proposal.transforms, none, no_group}
    assert check_answer_esp(offered, answer) == suite


def test_missing_esn_means_none() -> None:
    (proposal,) = esp("aes128-sha256").proposals(SPI)
    bare = replace(proposal, transforms=proposal.transforms[:-1])
    answer, suite = select_esp((bare,), esp("aes128-sha256"), False)
    assert not suite.esn
    assert answer.transforms == bare.transforms
    with pytest.raises(NegotiationError):
        select_esp((bare,), esp("aes128-sha256-esn"), False)


@pytest.mark.parametrize(
    "extra",
    [
        Transform(TransformType.ADDKE1, KeGroup.ML_KEM_768),
        Transform(TransformType(200), 1),
        Transform(TransformType.ESN, EsnId.NO_ESN),
    ],
)
def test_a_proposal_with_a_type_that_is_not_understood_is_passed_over(extra: Transform) -> None:
    """RFC 7296 §3.3.6."""
    (proposal,) = ike("aes128-sha256-x25519").proposals()
    bad = with_transforms(proposal, extra)
    with pytest.raises(NegotiationError):
        select_ike((bad,), ike("aes128-sha256-x25519"))
    answer, _ = select_ike((bad, replace(proposal, number=2)), ike("aes128-sha256-x25519"))
    assert answer.number == 2


def test_a_transform_with_an_unknown_attribute_is_not_selected() -> None:
    """RFC 7296 §3.3.6: nor is one whose key length differs or is missing."""
    (proposal,) = ike("aes128-sha256-x25519").proposals()
    for encryption in (
        Transform(TransformType.ENCR, EncryptionId.ENCR_AES_CBC, 128, unknown_attributes=((0x8011, b"\0\1"),)),
        Transform(TransformType.ENCR, EncryptionId.ENCR_AES_CBC, 192),
        Transform(TransformType.ENCR, EncryptionId.ENCR_AES_CBC),
    ):
        offered = replace(proposal, transforms=(encryption, *proposal.transforms[1:]))
        with pytest.raises(NegotiationError):
            select_ike((offered,), ike("aes128-sha256-x25519"))


def test_a_proposal_of_another_protocol_is_passed_over() -> None:
    (proposal,) = esp("aes128-sha256").proposals(SPI)
    with pytest.raises(NegotiationError):
        select_esp((replace(proposal, protocol=ProtocolId.AH),), esp("aes128-sha256"), False)


OFFERED_IKE = ike("aes128-sha256-x25519", "aes256-sha256-ecp256").proposals()
GOOD_IKE = select_ike(OFFERED_IKE, ike("aes256-sha256-ecp256"))[0]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (replace(GOOD_IKE, number=2), "a number that was not offered"),
        (replace(GOOD_IKE, protocol=ProtocolId.ESP), "another protocol"),
        (replace(GOOD_IKE, spi=b"12345678"), "an SPI where none was offered"),
        (OFFERED_IKE[0], "two transforms of a type"),
        (replace(GOOD_IKE, transforms=GOOD_IKE.transforms[:-1]), "a type left out"),
        (replace(GOOD_IKE, transforms=()), "no transforms"),
        (
            replace(GOOD_IKE, transforms=(*GOOD_IKE.transforms[:-1], Transform(TransformType.KE, KeGroup.MODP_2048))),
            "a group that was not offered",
        ),
        (
            replace(
                GOOD_IKE,
                transforms=(
                    Transform(TransformType.ENCR, EncryptionId.ENCR_AES_CBC, 192),
                    *GOOD_IKE.transforms[1:],
                ),
            ),
            "a key length that was not offered",
        ),
        (with_transforms(GOOD_IKE, Transform(TransformType.ESN, EsnId.NO_ESN)), "a type that was not offered"),
    ],
)
def test_answers_that_are_not_from_our_offer(answer: Proposal, why: str) -> None:
    """RFC 7296 §2.7, §3.3.6: the initiator MUST check the answer and end the exchange if it is inconsistent."""
    assert check_answer_ike(OFFERED_IKE, GOOD_IKE) == IkeSuite.of("aes256-sha256-ecp256")
    with pytest.raises(NegotiationError) as caught:
        check_answer_ike(OFFERED_IKE, answer)
    assert caught.value.notify_type == NotifyType.NO_PROPOSAL_CHOSEN


def test_an_esp_answer_with_a_type_left_out() -> None:
    (proposal,) = esp("aes128-sha256").proposals(SPI)
    for transform in proposal.transforms:
        rest = tuple([other for other in proposal.transforms if other is not transform])
        with pytest.raises(NegotiationError, match=transform.type.name):
            check_answer_esp((proposal,), replace(proposal, transforms=rest))


def test_an_esp_answer_without_encryption() -> None:
    (proposal,) = esp("aes128-sha256").proposals(SPI)
    bare = replace(proposal, transforms=proposal.transforms[1:])
    with pytest.raises(NegotiationError):
        check_answer_esp((bare,), bare)
