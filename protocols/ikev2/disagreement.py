"""Why no proposal was chosen (RFC 7296 §2.7): what was offered and what is allowed, by transform type, as facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocols.errors import Fact, NegotiationError
from protocols.ikev2.description import transform_text
from protocols.ikev2.payloads import Proposal, Transform
from protocols.ikev2.registry import NotifyType, ProtocolId, TransformType

_NONE = 0  # of integrity, key exchange and additional ones: the same as no such transform (§3.3.2)
_CHOICES = (TransformType.ENCR, TransformType.INTEG, TransformType.PRF, TransformType.KE, TransformType.ESN)


def no_proposal(
    offered: Iterable[Proposal],
    allowed: Iterable[Mapping[TransformType, Transform]],
    protocol: ProtocolId,
    *,
    with_group: bool = True,
) -> NegotiationError:
    """NO_PROPOSAL_CHOSEN, ``allowed`` being the suites of the policy by transform type.

    Its facts: ``protocol``; ``offered`` and ``allowed``, names by transform type; ``apart``, the types of which the
    two have nothing in common, none where only the combinations differ.
    """
    proposals = [one.transforms for one in offered if one.protocol == protocol]
    suites = [tuple(suite.values()) for suite in allowed]
    theirs, ours = _names(proposals), _names(suites)
    kinds = [kind for kind in _CHOICES if with_group or kind is not TransformType.KE]
    apart = [kind.name for kind in kinds if _disjoint(kind, theirs, ours)]
    if with_group and _insisted_on(proposals, ours) | _insisted_on(suites, theirs):
        apart.append(TransformType.KE.name)
    facts: dict[str, Fact] = {
        "protocol": protocol.name,
        "offered": _listed(theirs, kinds),
        "allowed": _listed(ours, kinds),
        "apart": list[Fact](apart),
    }
    text = f"no {protocol.name} proposal of the initiator's fits our policy"
    return NegotiationError(
        text, NotifyType.NO_PROPOSAL_CHOSEN, reason=f"no-{protocol.name.lower()}-proposal", facts=facts
    )


_Names = dict[TransformType, dict[str, None]]


def _disjoint(kind: TransformType, theirs: _Names, ours: _Names) -> bool:
    return kind in theirs and kind in ours and not theirs[kind].keys() & ours[kind].keys()


def _insisted_on(one: list[tuple[Transform, ...]], other: _Names) -> bool:
    """Whether all of one end demand a key exchange, and the other end has none."""
    demanding = [any(each.type is TransformType.KE and each.id != _NONE for each in choice) for choice in one]
    return bool(one) and all(demanding) and TransformType.KE not in other


def _names(choices: Iterable[tuple[Transform, ...]]) -> _Names:
    found: _Names = {}
    for transform in (each for choice in choices for each in choice):
        if transform.type is TransformType.ESN or transform.id != _NONE:
            found.setdefault(transform.type, {})[_name(transform)] = None
    return found


def _name(transform: Transform) -> str:
    text = transform_text(transform)
    return f"group {int(transform.id)} ({text})" if transform.type is TransformType.KE else text


def _listed(names: Mapping[TransformType, Mapping[str, None]], kinds: Iterable[TransformType]) -> dict[str, Fact]:
    return {kind.name: list[Fact](names[kind]) for kind in kinds if kind in names}
