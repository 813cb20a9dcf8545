"""Negotiation of algorithms (RFC 7296 §2.7, §3.3): policies, what they offer, what is chosen and checked.

Key exchange in the child's own exchange is a transform of the ESP proposal; in IKE_AUTH there is none
(§1.2). Additional key exchanges (RFC 9370) and AH are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from protocols.errors import NegotiationError
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
from protocols.ikev2.suites import EspSuite, IkeSuite

_IKE_TYPES = frozenset({TransformType.ENCR, TransformType.PRF, TransformType.INTEG, TransformType.KE})
_ESP_TYPES = frozenset({TransformType.ENCR, TransformType.INTEG, TransformType.KE, TransformType.ESN})


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
    )


def _esp_transforms(suite: EspSuite) -> tuple[Transform, ...]:
    integrity = () if suite.integrity is None else (Transform(TransformType.INTEG, suite.integrity),)
    group = () if suite.group is None else (Transform(TransformType.KE, suite.group),)
    esn = EsnId.ESN if suite.esn else EsnId.NO_ESN
    return (_encryption(suite), *integrity, *group, Transform(TransformType.ESN, esn))


def _merge(
    suites: Iterable[tuple[tuple[Transform, ...], tuple[bool, bool]]], protocol: ProtocolId, spi: bytes
) -> tuple[Proposal, ...]:
    """One proposal for each kind of suite, in the order in which kinds and transforms first occur.

    AEAD and other encryption cannot share a proposal (RFC 7296 §3.3), nor can suites with and without
    their own key exchange.
    """
    kinds: dict[tuple[bool, bool], dict[Transform, None]] = {}
    for transforms, kind in suites:
        kinds.setdefault(kind, {}).update(dict.fromkeys(transforms))
    return tuple(
        Proposal(
            number=number,
            protocol=protocol,
            spi=spi,
            transforms=tuple(sorted(transforms, key=lambda transform: transform.type)),
        )
        for number, transforms in enumerate(kinds.values(), 1)
    )


@dataclass(frozen=True)
class IkePolicy:
    """Acceptable IKE suites, the preferred one first."""

    suites: tuple[IkeSuite, ...]

    def proposals(self, spi: bytes = b"") -> tuple[Proposal, ...]:
        """What to offer; ``spi`` is ours when an IKE SA is rekeyed, empty in IKE_SA_INIT (§3.3.1)."""
        return _merge([(_ike_transforms(suite), (suite.aead, True)) for suite in self.suites], ProtocolId.IKE, spi)


@dataclass(frozen=True)
class EspPolicy:
    """Acceptable ESP suites, the preferred one first; a suite without group is one without PFS."""

    suites: tuple[EspSuite, ...]

    def proposals(self, spi: bytes, *, with_group: bool = True) -> tuple[Proposal, ...]:
        """What to offer for our SPI; without groups in IKE_AUTH."""
        suites = self.suites if with_group else tuple([suite.without_group() for suite in self.suites])
        return _merge(
            [(_esp_transforms(suite), (suite.aead, suite.group is not None)) for suite in suites],
            ProtocolId.ESP,
            spi,
        )


def select_ike(offered: tuple[Proposal, ...], policy: IkePolicy, spi: bytes = b"") -> tuple[Proposal, IkeSuite]:
    """The responder's choice by its own preference: the answer, carrying ``spi``, and the suite.

    ``NegotiationError`` with NO_PROPOSAL_CHOSEN when nothing fits.
    """
    usable = [proposal for proposal in offered if _usable(proposal, ProtocolId.IKE, _IKE_TYPES)]
    for suite in policy.suites:
        wanted = _ike_transforms(suite)
        for proposal in usable:
            chosen = _choose(proposal, wanted)
            if chosen is not None:
                return replace(proposal, spi=spi, transforms=chosen), suite
    raise _refused("no IKE proposal of the initiator's fits our policy")


def select_esp(
    offered: tuple[Proposal, ...], policy: EspPolicy, with_group: bool, spi: bytes = b""
) -> tuple[Proposal, EspSuite]:
    """The responder's choice by its own preference: the answer, carrying ``spi``, and the suite.

    ``with_group`` is false in IKE_AUTH, which has no key exchange for the child: groups offered there
    are passed over. ``NegotiationError`` with NO_PROPOSAL_CHOSEN when nothing fits.
    """
    usable = [proposal for proposal in offered if _usable(proposal, ProtocolId.ESP, _ESP_TYPES)]
    if not with_group:
        usable = [_without_group(proposal) for proposal in usable]
    for candidate in policy.suites:
        suite = candidate if with_group else candidate.without_group()
        wanted = _esp_transforms(suite)
        for proposal in usable:
            chosen = _choose(proposal, wanted)
            if chosen is not None:
                return replace(proposal, spi=spi, transforms=chosen), suite
    raise _refused("no ESP proposal of the initiator's fits our policy")


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
        )
    except ValueError as error:
        raise _refused(f"the answer makes no suite: {error}") from error


def _usable(proposal: Proposal, protocol: ProtocolId, types: frozenset[TransformType]) -> bool:
    # RFC 7296 §3.3.6: a proposal with a transform type that is not understood MUST be passed over.
    return proposal.protocol == protocol and all(transform.type in types for transform in proposal.transforms)


def _without_group(proposal: Proposal) -> Proposal:
    return replace(
        proposal,
        transforms=tuple([transform for transform in proposal.transforms if transform.type != TransformType.KE]),
    )


def _choose(proposal: Proposal, wanted: tuple[Transform, ...]) -> tuple[Transform, ...] | None:
    """One transform of each type that the proposal has, equal to those wanted; ``None`` if it cannot be.

    A transform with unknown attributes equals none that we want, so it is never selected (RFC 7296 §3.3.6).
    """
    types = dict.fromkeys([transform.type for transform in proposal.transforms])
    by_type = {transform.type: transform for transform in wanted}
    chosen: list[Transform] = []
    for kind in types:
        # Where we want nothing of this type, only "none" of it will do (§3.3: NONE for integrity and groups).
        transform = by_type.pop(kind, None) or Transform(kind, 0)
        if transform not in proposal.transforms:
            return None
        chosen.append(transform)
    # Types that we want and the proposal lacks: only "no extended sequence numbers" goes without saying.
    for transform in by_type.values():
        if transform.type != TransformType.ESN or transform.id != EsnId.NO_ESN:
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
        # RFC 7296 §2.7: an answer that is not consistent with the offer MUST end the exchange.
        if transform not in proposal.transforms:
            raise _refused(f"the answer has {transform.type.name} {transform.id}, which was not offered")
        chosen[transform.type] = transform
    for kind in {transform.type for transform in proposal.transforms}:
        if kind not in chosen:
            raise _refused(f"the answer has no transform of type {kind.name}")
    return chosen


def _required(chosen: dict[TransformType, Transform], kind: TransformType) -> Transform:
    transform = chosen.get(kind)
    if transform is None:
        raise _refused(f"the answer has no transform of type {kind.name}")
    return transform


def _integrity(chosen: dict[TransformType, Transform]) -> IntegrityId | None:
    transform = chosen.get(TransformType.INTEG)
    return None if transform is None or transform.id == IntegrityId.NONE else IntegrityId(transform.id)
