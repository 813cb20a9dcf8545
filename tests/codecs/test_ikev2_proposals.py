"""Negotiation of algorithms (RFC 7296 §2.7, §3.3): what is offered, chosen, and taken for an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.errors import LocalError, NegotiationError
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


def test_an_initiator_that_insists_on_a_key_exchange_gets_it() -> None:
    """RFC 7296 §1.3.1, §3.3: KEi is the initiator's choice, one transform of each offered type is chosen."""
    offered = esp("aes128-sha256-modp1024", "aes128-sha256-ecp384", "aes128-sha256-x25519").proposals(SPI)
    answer, suite = select_esp(offered, esp("aes256gcm16", "aes128-sha256"), True, ANSWER_SPI)
    assert suite == EspSuite.of("aes128-sha256-ecp384")  # the first that we trust
    assert check_answer_esp(offered, answer) == suite
    with pytest.raises(NegotiationError):
        select_esp(esp("aes128-sha256-modp1024").proposals(SPI), esp("aes128-sha256"), True)
    weak = esp("aes128-sha256", "aes256-sha256-modp1024")  # named by our policy, hence trusted
    _, suite = select_esp(esp("aes128-sha256-modp1024").proposals(SPI), weak, True)
    assert suite == EspSuite.of("aes128-sha256-modp1024")


def test_a_key_exchange_that_our_policy_demands_is_not_dropped() -> None:
    with pytest.raises(NegotiationError):
        select_esp(esp("aes128-sha256").proposals(SPI), esp("aes128-sha256-x25519"), True)
    with pytest.raises(NegotiationError):
        select_esp(esp("aes128-sha256-ecp384").proposals(SPI), esp("aes128-sha256-x25519"), True)


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


def test_none_in_an_answer_and_its_absence_mean_the_same() -> None:
    """RFC 7296 §3.3.2: peers differ in whether they write the NONE that they choose."""
    (plain,) = esp("aes128gcm16").proposals(SPI)
    none = (Transform(TransformType.INTEG, IntegrityId.NONE), Transform(TransformType.KE, KeGroup.NONE))
    suite = EspSuite.of("aes128gcm16")
    assert check_answer_esp((plain,), with_transforms(plain, *none)) == suite
    assert check_answer_esp((with_transforms(plain, *none),), plain) == suite
    with pytest.raises(NegotiationError):
        check_answer_esp((plain,), with_transforms(plain, Transform(TransformType.KE, KeGroup.ECP_256)))
    (ike_offer,) = ike("aes128-sha256-x25519").proposals()
    without_integrity = replace(ike_offer, transforms=(*ike_offer.transforms[:2], ike_offer.transforms[3]))
    with pytest.raises(NegotiationError):
        # RFC 7296 §5: NONE is no integrity for an IKE SA
        check_answer_ike((with_transforms(ike_offer, none[0]),), without_integrity)


HYBRID = "aes128-sha256-x25519-ke1_mlkem768"
TWICE = "aes128-sha256-ecp256-ke1_mlkem1024-ke3_ecp384"


def test_additional_key_exchanges_have_proposals_of_their_own() -> None:
    """RFC 9370 §2.2.2: who does not know the transform types passes over their proposal and takes the other."""
    policy = ike(HYBRID, "aes128-sha256-x25519", TWICE)
    hybrid, plain, twice = policy.proposals(additional=True)
    assert (TransformType.ADDKE1, KeGroup.ML_KEM_768, None) in ids(hybrid)
    assert ids(twice)[-2:] == [
        (TransformType.ADDKE1, KeGroup.ML_KEM_1024, None),
        (TransformType.ADDKE3, KeGroup.ECP_384, None),
    ]
    assert (plain,) == tuple(replace(proposal, number=2) for proposal in policy.proposals())
    answer, suite = select_ike((hybrid, plain, twice), ike(HYBRID, "aes128-sha256-x25519"))
    assert (answer.number, suite.name) == (2, "aes128-sha256-x25519")
    with pytest.raises(LocalError):
        ike(HYBRID).proposals()


@pytest.mark.parametrize("name", [HYBRID, TWICE, "aes128-sha256-x25519"])
def test_both_ends_agree_on_additional_key_exchanges(name: str) -> None:
    offered = ike(HYBRID, TWICE, "aes128-sha256-x25519").proposals(b"initiato", additional=True)
    _, octets = encode_payloads((SaPayload(offered),))
    (payload,) = decode_payloads(33, octets)
    assert isinstance(payload, SaPayload)
    answer, suite = select_ike(payload.proposals, ike(name), b"responde", additional=True)
    assert suite == IkeSuite.of(name)
    assert check_answer_ike(offered, answer) == suite


def test_additional_key_exchanges_of_a_child_sa() -> None:
    offered = esp("aes128gcm16-x25519-ke1_mlkem768-esn").proposals(SPI, additional=True)
    answer, suite = select_esp(offered, esp("aes128gcm16-x25519-ke1_mlkem768-esn"), True, ANSWER_SPI, additional=True)
    assert suite.additional == (KeGroup.ML_KEM_768,)
    assert check_answer_esp(offered, answer) == suite
    with pytest.raises(NegotiationError):
        select_esp(offered, esp("aes128gcm16-x25519-ke1_mlkem768-esn"), True)
    # IKE_AUTH has neither the first key exchange nor additional ones
    _, suite = select_esp(offered, esp("aes128gcm16-x25519-esn"), False)
    assert suite == EspSuite.of("aes128gcm16-esn")


def test_an_additional_key_exchange_may_be_optional() -> None:
    """RFC 9370 §2.2.2: NONE among the methods of its type."""
    (hybrid,) = ike(HYBRID).proposals(additional=True)
    optional = (with_transforms(hybrid, Transform(TransformType.ADDKE1, KeGroup.NONE)),)
    answer, suite = select_ike(optional, ike("aes128-sha256-x25519"), additional=True)
    assert suite.additional == ()
    assert Transform(TransformType.ADDKE1, KeGroup.NONE) in answer.transforms
    assert check_answer_ike(optional, answer) == suite
    with pytest.raises(NegotiationError):
        select_ike((hybrid,), ike("aes128-sha256-x25519"), additional=True)


def test_a_key_exchange_method_is_not_taken_twice() -> None:
    """RFC 9370 §2.2.2: two key exchanges by one method are an error of the responder's."""
    (offer,) = ike("aes128-sha256-mlkem768-ke1_x25519").proposals(additional=True)
    offered = (with_transforms(offer, Transform(TransformType.ADDKE1, KeGroup.ML_KEM_768)),)
    twice = tuple([transform for transform in offered[0].transforms if transform.id != KeGroup.CURVE25519])
    with pytest.raises(NegotiationError, match="twice"):
        check_answer_ike(offered, replace(offer, transforms=twice))
    assert check_answer_ike(offered, offer).additional == (KeGroup.CURVE25519,)


def test_policies_by_name() -> None:
    default, modern, legacy = (IkePolicy.of([name]) for name in ("default", "modern", " Legacy "))
    assert set(modern.suites) < set(default.suites) < set(legacy.suites)
    assert legacy.suites[: len(default.suites)] == default.suites
    assert not default.weak
    assert not EspPolicy.of(["default"]).weak
    assert {name for suite in legacy.weak for name in suite.weak} == {
        "3des",
        "sha1",
        "prfsha1",
        "modp768",
        "modp1024",
        "modp1536",
    }
    assert EspSuite.of("aes128-sha1") in EspPolicy.of(["legacy"]).weak


def test_policies_among_suites() -> None:
    mixed = IkePolicy.of(["aes256-sha1-modp1024", "modern", "aes128gcm16-prfsha256-x25519"])
    assert mixed.suites == (IkeSuite.of("aes256-sha1-modp1024"), *IkePolicy.of(["modern"]).suites)
    assert EspPolicy.of(["null-sha256", "aes128gcm16"]).suites == esp("null-sha256", "aes128gcm16").suites


def test_braces_stand_for_several_suites_whose_offer_keeps_the_order() -> None:
    policy = IkePolicy.of(["aes{256,128}-{sha1,md5}-modp1024", "aes128-md5-modp1024"])
    written = ("aes256-sha1-modp1024", "aes256-md5-modp1024", "aes128-sha1-modp1024", "aes128-md5-modp1024")
    assert policy.suites == tuple(map(IkeSuite.of, written))
    (proposal,) = policy.proposals()
    assert [each.key_length_bits for each in proposal.of_type(TransformType.ENCR)] == [256, 128]
    assert [each.id for each in proposal.of_type(TransformType.INTEG)] == [2, 1]
    assert EspPolicy.of(["aes{128}gcm16"]).suites == esp("aes128gcm16").suites


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["aes{128,}-sha256-x25519"], "starts with no encryption"),
        (["aes{128-sha256-x25519"], "starts with no encryption"),
        (["{0,1,2,3,4,5,6,7,8,9}" * 4], "more than 1000 suites"),
        ([], "at least one suite"),
        (["lagacy"], "policies are default, modern, legacy"),
        (["aes128-rot13-x25519"], "rot13"),
    ],
)
def test_bad_policies(names: list[str], why: str) -> None:
    for policy in (IkePolicy, EspPolicy):
        with pytest.raises(ValueError, match=why):
            policy.of(names)


def test_a_phone_of_today_finds_a_suite_in_the_legacy_policy() -> None:
    """Android offers everything it has in one proposal; its first group is 2, which decides nothing here."""
    android = ike(
        *[
            f"{encryption}-{integrity}-{group}"
            for encryption in ("aes128", "aes192", "aes256")
            for integrity in ("aesxcbc", "sha1", "sha256", "sha384", "sha512")
            for group in ("modp1024", "modp1536", "modp2048")
        ]
    )
    _, suite = select_ike(android.proposals(), IkePolicy.of(["default"]))
    assert suite.name == "aes128-sha256-modp2048"
    old = ike("aes128-sha1-modp1024").proposals()
    with pytest.raises(NegotiationError):
        select_ike(old, IkePolicy.of(["default"]))
    assert select_ike(old, IkePolicy.of(["legacy"]))[1].name == "aes128-sha1-modp1024"


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
