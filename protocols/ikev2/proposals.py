"""Negotiation of algorithms (RFC 7296 §2.7, §3.3): policies, what they offer, what is chosen and checked.

Key exchange in the child's own exchange is a transform of the ESP proposal; in IKE_AUTH there is none
(§1.2). Additional key exchanges (RFC 9370 §2.2.2) are offered, chosen and checked where the caller says that the
exchanges which carry them are there. Policies are lists of suites, some with a name. AH is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Final, TypeVar

from protocols.errors import LocalError, NegotiationError
from protocols.ikev2.disagreement import no_proposal
from protocols.ikev2.key_exchange import KEY_EXCHANGES, WEAK_GROUPS
from protocols.ikev2.payloads import Proposal, Transform
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
from protocols.ikev2.suites import ADDITIONAL_MAXIMUM, EspSuite, IkeSuite

EXPANDED_MAXIMUM: Final = 1000
_IKE_TYPES = frozenset({TransformType.ENCR, TransformType.PRF, TransformType.INTEG, TransformType.KE})
_ESP_TYPES = frozenset({TransformType.ENCR, TransformType.INTEG, TransformType.KE, TransformType.ESN})
_ADDITIONAL_TYPES: Final = tuple([TransformType(TransformType.ADDKE1 + n) for n in range(ADDITIONAL_MAXIMUM)])
# Types whose NONE and whose absence mean the same (RFC 7296 §3.3.2, RFC 9370 §2.2.2).
_NONE_TYPES = frozenset({TransformType.INTEG, TransformType.KE, *_ADDITIONAL_TYPES})

# --- Named policies: the preferred suite first -------------------------------------------------------------

_MODERN_IKE: Final = (
    "aes256gcm16-prfsha384-ecp384",
    "aes256gcm16-prfsha256-x25519",
    "chacha20poly1305-prfsha256-x25519",
    "aes128gcm16-prfsha256-x25519",
    "aes128gcm16-prfsha256-ecp256",
)
_DEFAULT_IKE: Final = (
    "aes128-sha256-x25519",
    "aes256-sha256-x25519",
    "aes128gcm16-prfsha256-x25519",
    "aes256gcm16-prfsha256-ecp256",
    "aes128-sha256-ecp256",
    "aes256-sha256-ecp256",
    "aes128-sha256-modp2048",
    "aes256-sha256-modp2048",
    *_MODERN_IKE,
    "aes256-sha384-ecp384",
    "aes256-sha512-ecp521",
    "aes256-sha512-modp4096",
    "aes256-sha256-modp4096",
    "aes256-sha256-modp3072",
    "aes128-sha256-modp3072",
)
# What phones in use were seen to need beyond that; HMAC-MD5, of which Qualcomm's profiles speak too, is in no policy.
_LEGACY_IKE: Final = (
    *_DEFAULT_IKE,
    *[
        f"{encryption}-{integrity}-{group}"
        for group, integrity, encryption in product(
            ("modp2048", "modp1536", "modp1024", "modp768"),
            ("sha256", "aesxcbc", "sha1"),
            ("aes128", "aes256", "aes192", "3des"),
        )
    ],
)
IKE_POLICIES: Final[Mapping[str, tuple[str, ...]]] = {
    "default": _DEFAULT_IKE,
    "modern": _MODERN_IKE,
    "legacy": _LEGACY_IKE,
}
_MODERN_ESP: Final = ("aes256gcm16-esn", "aes256gcm16", "chacha20poly1305", "aes128gcm16-esn", "aes128gcm16")
_DEFAULT_ESP: Final = (
    "aes128gcm16",
    "aes256gcm16",
    "aes128-sha256",
    "aes256-sha256",
    "chacha20poly1305",
    "aes256-sha384",
    "aes256-sha512",
)
_LEGACY_ESP: Final = (
    *_DEFAULT_ESP,
    *[
        f"{encryption}-{integrity}"
        for integrity, encryption in product(("sha256", "aesxcbc", "sha1"), ("aes128", "aes256", "aes192", "3des"))
    ],
)
ESP_POLICIES: Final[Mapping[str, tuple[str, ...]]] = {
    "default": _DEFAULT_ESP,
    "modern": _MODERN_ESP,
    "legacy": _LEGACY_ESP,
}

_Suite = TypeVar("_Suite", IkeSuite, EspSuite)
_Wanted = Mapping[TransformType, Transform]


def _parse(
    names: Sequence[str], policies: Mapping[str, tuple[str, ...]], parse: Callable[[str], _Suite]
) -> tuple[_Suite, ...]:
    """Suites of a list in which policies stand for theirs; each comes once, where it comes first."""
    suites: dict[_Suite, None] = {}
    for name in names:
        for text in policies.get(name.strip().lower(), expanded(name)):
            try:
                suites[parse(text)] = None
            except ValueError as error:
                raise ValueError(f"{error}; policies are {', '.join(policies)}") from error
    if not suites:
        raise ValueError("a policy needs at least one suite")
    return tuple(suites)


def expanded(name: str) -> tuple[str, ...]:
    """``aes{128,256}-{sha1,sha256}-modp2048`` is four suites: every choice, that of the last braces changing first."""
    parts = [part[1:-1].split(",") if part.startswith("{") else [part] for part in re.split(r"({[^{}]*})", name)]
    if prod(len(part) for part in parts) > EXPANDED_MAXIMUM:
        raise ValueError(f"{name!r} stands for more than {EXPANDED_MAXIMUM} suites")
    return tuple("".join(choice) for choice in product(*parts))


# --- Offer -------------------------------------------------------------------------------------------------


def _refused(why: str) -> NegotiationError:
    return NegotiationError(why, NotifyType.NO_PROPOSAL_CHOSEN)


def _encryption(suite: IkeSuite | EspSuite) -> Transform:
    return Transform(TransformType.ENCR, suite.encryption, suite.encryption_key_bits)


def _ike_transforms(suite: IkeSuite) -> tuple[Transform, ...]:
    """One transform of each type; an AEAD suite has none for integrity (RFC 7296 §3.3, RECOMMENDED)."""
    integrity = () if suite.integrity is None else (Transform(TransformType.INTEG, suite.integrity),)
    return (
        _encryption(suite),
        Transform(TransformType.PRF, suite.prf),
        *integrity,
        Transform(TransformType.KE, suite.group),
        *_additional_transforms(suite),
    )


def _additional_transforms(suite: IkeSuite | EspSuite) -> list[Transform]:
    return [
        Transform(kind, method)
        for kind, method in zip(_ADDITIONAL_TYPES, suite.additional, strict=False)
        if method != KeGroup.NONE
    ]


def _kind(suite: IkeSuite | EspSuite) -> tuple[bool, ...]:
    """What suites have to agree in to share a proposal."""
    return (suite.aead, suite.group is not None, *[method != KeGroup.NONE for method in suite.additional])


def _esp_transforms(suite: EspSuite) -> tuple[Transform, ...]:
    integrity = () if suite.integrity is None else (Transform(TransformType.INTEG, suite.integrity),)
    group = () if suite.group is None else (Transform(TransformType.KE, suite.group),)
    esn = EsnId.ESN if suite.esn else EsnId.NO_ESN
    return (_encryption(suite), *integrity, *group, Transform(TransformType.ESN, esn), *_additional_transforms(suite))


_Offer = tuple[tuple[Transform, ...], ...]


def _merge(suites: Iterable[tuple[tuple[Transform, ...], tuple[bool, ...]]]) -> _Offer:
    """The transforms of one proposal for each kind of suite, in the order in which both first occur.

    AEAD and other encryption cannot share a proposal (RFC 7296 §3.3), nor can suites with and without
    their own key exchange, or an additional one: a responder that does not know that transform type passes over
    its proposal and takes another (RFC 9370 §2.2.2).
    """
    kinds: dict[tuple[bool, ...], dict[Transform, None]] = {}
    for transforms, kind in suites:
        kinds.setdefault(kind, {}).update(dict.fromkeys(transforms))
    return tuple([tuple(sorted(transforms, key=lambda transform: transform.type)) for transforms in kinds.values()])


def _numbered(offer: _Offer, protocol: ProtocolId, spi: bytes) -> tuple[Proposal, ...]:
    return tuple(
        [
            Proposal(number=number, protocol=protocol, spi=spi, transforms=transforms)
            for number, transforms in enumerate(offer, 1)
        ]
    )


@dataclass(frozen=True)
class IkePolicy:
    """Acceptable IKE suites, the preferred one first."""

    suites: tuple[IkeSuite, ...]

    @cached_property
    def _offers(self) -> dict[bool, _Offer]:
        """What was offered before."""
        return {}

    @cached_property
    def wanted(self) -> tuple[tuple[IkeSuite, _Wanted], ...]:
        """The suites with their transforms by type."""
        return tuple([(suite, _by_type(_ike_transforms(suite))) for suite in self.suites])

    @classmethod
    def of(cls, names: Sequence[str]) -> IkePolicy:
        """From suites as text and names of policies, which stand for theirs; ``ValueError`` on bad text."""
        return cls(_parse(names, IKE_POLICIES, IkeSuite.of))

    @property
    def weak(self) -> tuple[IkeSuite, ...]:
        """The suites fit for old peers only."""
        return tuple([suite for suite in self.suites if suite.weak])

    def keeping(self, prf: PrfId) -> IkePolicy:
        """The suites with that PRF, all of them where there is none."""
        return IkePolicy(tuple([suite for suite in self.suites if suite.prf == prf]) or self.suites)

    def proposals(self, spi: bytes = b"", *, additional: bool = False) -> tuple[Proposal, ...]:
        """What to offer; ``spi`` is ours when an IKE SA is rekeyed, empty in IKE_SA_INIT (§3.3.1).

        ``additional``: whether suites with additional key exchanges are offered too.
        """
        offer = self._offers.get(additional)
        if offer is None:
            usable = _usable_suites(self.suites, additional)
            offer = self._offers[additional] = _merge([(_ike_transforms(suite), _kind(suite)) for suite in usable])
        return _numbered(offer, ProtocolId.IKE, spi)


@dataclass(frozen=True)
class EspPolicy:
    """Acceptable ESP suites, the preferred one first.

    A suite with a group demands a key exchange in CREATE_CHILD_SA; one without leaves it to the initiator.
    """

    suites: tuple[EspSuite, ...]

    @cached_property
    def _offers(self) -> dict[tuple[bool, bool], _Offer]:
        """What was offered before."""
        return {}

    @cached_property
    def trusted(self) -> frozenset[KeGroup | None]:
        """The groups that an initiator may insist on: those that are not weak, and any that a suite names."""
        return frozenset({suite.group for suite in self.suites} | (KEY_EXCHANGES.keys() - WEAK_GROUPS))

    @classmethod
    def of(cls, names: Sequence[str]) -> EspPolicy:
        """From suites as text and names of policies, which stand for theirs; ``ValueError`` on bad text."""
        return cls(_parse(names, ESP_POLICIES, EspSuite.of))

    @property
    def weak(self) -> tuple[EspSuite, ...]:
        """The suites fit for old peers only."""
        return tuple([suite for suite in self.suites if suite.weak])

    def proposals(self, spi: bytes, *, with_group: bool = True, additional: bool = False) -> tuple[Proposal, ...]:
        """What to offer for our SPI; without groups in IKE_AUTH, ``additional`` as in ``IkePolicy``."""
        offer = self._offers.get((with_group, additional))
        if offer is None:
            suites = self.suites if with_group else tuple([suite.without_group() for suite in self.suites])
            usable = _usable_suites(suites, additional)
            offer = _merge([(_esp_transforms(suite), _kind(suite)) for suite in usable])
            self._offers[with_group, additional] = offer
        return _numbered(offer, ProtocolId.ESP, spi)


def _usable_suites(suites: tuple[_Suite, ...], additional: bool) -> tuple[_Suite, ...]:
    """Never one without its additional key exchanges: who wants a hybrid does not want half of it."""
    usable = suites if additional else tuple([suite for suite in suites if not suite.additional])
    if not usable:
        raise LocalError("every suite of the policy has additional key exchanges, and there can be none")
    return usable


# --- Choice ------------------------------------------------------------------------------------------------


def select_ike(
    offered: tuple[Proposal, ...], policy: IkePolicy, spi: bytes = b"", *, additional: bool = False
) -> tuple[Proposal, IkeSuite]:
    """The responder's choice by its own preference: the answer, carrying ``spi``, and the suite.

    ``additional``: whether both ends do additional key exchanges (RFC 9370); without it their transform types
    are such as are not understood. ``NegotiationError`` with NO_PROPOSAL_CHOSEN when nothing fits.
    """
    types = _IKE_TYPES.union(_ADDITIONAL_TYPES) if additional else _IKE_TYPES
    usable = [(proposal, _index(proposal)) for proposal in offered if _usable(proposal, ProtocolId.IKE, types)]
    for suite, wanted in policy.wanted:
        for proposal, index in usable:
            chosen = _choose(index, wanted)
            if chosen is not None:
                return replace(proposal, spi=spi, transforms=chosen), suite
    raise no_proposal(offered, [wanted for _, wanted in policy.wanted], ProtocolId.IKE)


def select_esp(
    offered: tuple[Proposal, ...],
    policy: EspPolicy,
    with_group: bool,
    spi: bytes = b"",
    *,
    additional: bool = False,
) -> tuple[Proposal, EspSuite]:
    """The responder's choice by its own preference: the answer, carrying ``spi``, and the suite.

    ``with_group`` is false in IKE_AUTH, which has no key exchange for the child: groups offered there
    are passed over (RFC 7296 §1.2). In CREATE_CHILD_SA one transform of each offered type is to be chosen
    (§3.3), so that an initiator that offers groups without NONE insists on a key exchange, which
    §1.3.1 leaves to it: a suite of ours without group grants the first of its groups that we trust. A suite
    of ours with a group insists likewise. ``additional`` as in ``select_ike``.
    """
    types = _ESP_TYPES.union(_ADDITIONAL_TYPES) if additional or not with_group else _ESP_TYPES
    usable = [proposal for proposal in offered if _usable(proposal, ProtocolId.ESP, types)]
    if not with_group:
        usable = [_without_group(proposal) for proposal in usable]
    indexed = [(proposal, _index(proposal)) for proposal in usable]
    for candidate in policy.suites:
        wanted = candidate if with_group else candidate.without_group()
        # As the policy says, if it can be; then with a key exchange that the initiator insists on.
        choices = [(proposal, index, wanted) for proposal, index in indexed]
        choices += [
            (proposal, index, suite)
            for proposal, index in indexed
            for suite in _granted(wanted, index.get(TransformType.KE, ()), policy.trusted)
        ]
        for proposal, index, suite in choices:
            chosen = _choose(index, _by_type(_esp_transforms(suite)))
            if chosen is not None:
                return replace(proposal, spi=spi, transforms=chosen), suite
    allowed = [_by_type(_esp_transforms(suite)) for suite in policy.suites]
    raise no_proposal(offered, allowed, ProtocolId.ESP, with_group=with_group)


def _granted(
    suite: EspSuite, offered: tuple[Transform, ...], trusted: frozenset[KeGroup | None]
) -> tuple[EspSuite, ...]:
    """The suite with the group that the initiator would like best among those we trust."""
    if suite.group is not None:
        return ()
    groups = [KeGroup.of(transform.id) for transform in offered]
    return tuple([replace(suite, group=group) for group in groups if group in trusted][:1])


def check_answer_ike(offered: tuple[Proposal, ...], answer: Proposal) -> IkeSuite:
    """The suite that the responder chose from our offer (RFC 7296 §2.7), else ``NegotiationError``."""
    chosen = _checked(offered, answer)
    try:
        return IkeSuite(
            encryption=EncryptionId(_required(chosen, TransformType.ENCR).id),
            encryption_key_bits=_required(chosen, TransformType.ENCR).key_length_bits,
            integrity=_integrity(chosen),
            prf=PrfId(_required(chosen, TransformType.PRF).id),
            group=KeGroup(_required(chosen, TransformType.KE).id),
            additional=_additional(chosen),
        )
    except ValueError as error:
        raise _refused(f"the answer makes no suite: {error}") from error


def check_answer_esp(offered: tuple[Proposal, ...], answer: Proposal) -> EspSuite:
    """The suite that the responder chose from our offer (RFC 7296 §2.7), else ``NegotiationError``."""
    chosen = _checked(offered, answer)
    group = chosen.get(TransformType.KE)
    esn = chosen.get(TransformType.ESN)
    try:
        return EspSuite(
            encryption=EncryptionId(_required(chosen, TransformType.ENCR).id),
            encryption_key_bits=_required(chosen, TransformType.ENCR).key_length_bits,
            integrity=_integrity(chosen),
            group=None if group is None or group.id == KeGroup.NONE else KeGroup(group.id),
            esn=esn is not None and esn.id == EsnId.ESN,
            additional=_additional(chosen),
        )
    except ValueError as error:
        raise _refused(f"the answer makes no suite: {error}") from error


def _usable(proposal: Proposal, protocol: ProtocolId, types: frozenset[TransformType]) -> bool:
    # RFC 7296 §3.3.6: a proposal with a transform type that is not understood MUST be passed over.
    return proposal.protocol == protocol and all(transform.type in types for transform in proposal.transforms)


def _without_group(proposal: Proposal) -> Proposal:
    return replace(
        proposal,
        transforms=tuple(
            [
                transform
                for transform in proposal.transforms
                if transform.type != TransformType.KE and transform.type not in _ADDITIONAL_TYPES
            ]
        ),
    )


def _index(proposal: Proposal) -> dict[TransformType, tuple[Transform, ...]]:
    return {kind: proposal.of_type(kind) for kind in dict.fromkeys([each.type for each in proposal.transforms])}


def _by_type(transforms: tuple[Transform, ...]) -> _Wanted:
    return {transform.type: transform for transform in transforms}


def _choose(offered: Mapping[TransformType, tuple[Transform, ...]], wanted: _Wanted) -> tuple[Transform, ...] | None:
    """One transform of each type that the proposal has, equal to those wanted; ``None`` if it cannot be.

    A transform with unknown attributes equals none that we want, so it is never selected (RFC 7296 §3.3.6).
    """
    chosen: list[Transform] = []
    for kind, transforms in offered.items():
        # Where we want nothing of this type, only "none" of it will do (§3.3: NONE for integrity and groups).
        transform = wanted.get(kind) or Transform(kind, 0)
        if transform not in transforms:
            return None
        chosen.append(transform)
    # Types that we want and the proposal lacks: only "no extended sequence numbers" goes without saying.
    for kind, transform in wanted.items():
        if kind not in offered and (kind != TransformType.ESN or transform.id != EsnId.NO_ESN):
            return None
    return tuple(chosen)


def _checked(offered: tuple[Proposal, ...], answer: Proposal) -> dict[TransformType, Transform]:
    """The answer's transforms by type; it has to pick one of each type from one proposal of ours."""
    for proposal in offered:
        if proposal.number == answer.number and proposal.protocol == answer.protocol:
            break
    else:
        raise _refused(f"the answer has number {answer.number} and protocol {answer.protocol.name}")
    if len(answer.spi) != len(proposal.spi):
        raise _refused(f"the answer has an SPI of {len(answer.spi)} octets")
    chosen: dict[TransformType, Transform] = {}
    for transform in answer.transforms:
        if transform.type in chosen:
            raise _refused(f"the answer has two transforms of type {transform.type.name}")
        if _none(transform) and not proposal.of_type(transform.type):
            continue  # NONE where we offered nothing says what leaving it out would have said
        # RFC 7296 §2.7: an answer that is not consistent with the offer MUST end the exchange.
        if transform not in proposal.transforms:
            raise _refused(f"the answer has {transform.type.name} {transform.id}, which was not offered")
        chosen[transform.type] = transform
    for kind in {transform.type for transform in proposal.transforms}:
        # Some peers leave out the NONE that they choose.
        if kind not in chosen and not any(_none(transform) for transform in proposal.of_type(kind)):
            raise _refused(f"the answer has no transform of type {kind.name}")
    return chosen


def _none(transform: Transform) -> bool:
    return transform.id == 0 and transform.type in _NONE_TYPES


def _additional(chosen: dict[TransformType, Transform]) -> tuple[KeGroup, ...]:
    """The methods of ADDKE1 and on, without NONE at the end; the suite refuses one that comes twice."""
    transforms = [chosen.get(kind) for kind in _ADDITIONAL_TYPES]
    methods = [KeGroup.NONE if transform is None else KeGroup.of(transform.id) for transform in transforms]
    while methods and methods[-1] == KeGroup.NONE:
        methods.pop()
    return tuple(methods)


def _required(chosen: dict[TransformType, Transform], kind: TransformType) -> Transform:
    transform = chosen.get(kind)
    if transform is None:
        raise _refused(f"the answer has no transform of type {kind.name}")
    return transform


def _integrity(chosen: dict[TransformType, Transform]) -> IntegrityId | None:
    transform = chosen.get(TransformType.INTEG)
    return None if transform is None or transform.id == IntegrityId.NONE else IntegrityId(transform.id)
