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
    theirs = _names(each for one in offered if one.protocol == protocol for each in one.transforms)
    ours = _names(each for suite in allowed for each in suite.values())
    kinds = [kind for kind in _CHOICES if with_group or kind is not TransformType.KE]
    apart = [
        kind.name for kind in kinds if (kind in theirs and kind in ours) and not theirs[kind].keys() & ours[kind].keys()
    ]
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


def _names(transforms: Iterable[Transform]) -> dict[TransformType, dict[str, None]]:
    found: dict[TransformType, dict[str, None]] = {}
    for transform in transforms:
        if transform.type is TransformType.ESN or transform.id != _NONE:
            found.setdefault(transform.type, {})[_name(transform)] = None
    return found


def _name(transform: Transform) -> str:
    text = transform_text(transform)
    return f"group {int(transform.id)} ({text})" if transform.type is TransformType.KE else text


def _listed(names: Mapping[TransformType, Mapping[str, None]], kinds: Iterable[TransformType]) -> dict[str, Fact]:
    return {kind.name: list[Fact](names[kind]) for kind in kinds if kind in names}
