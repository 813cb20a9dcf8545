"""What a challenge of EAP-AKA' must be before the USIM is asked: AT_KDF, network name, AMF (RFC 9048 §3.1 to §3.3)."""

from __future__ import annotations

from protocols.algorithms.vector import AMF_SEPARATION, SQN_LENGTH
from protocols.eap.aka.attributes import AtKdfInput
from protocols.eap.aka.messages import AkaMessage
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.peer.refusal import Refusal
from protocols.errors import DecodeError

SUPPORTED_KDFS = frozenset({1})  # RFC 9048 §3.3: CK' and IK'


class KdfNegotiation:
    """The lists of AT_KDF in one exchange."""

    def __init__(self) -> None:
        self._expected: tuple[int, ...] | None = None

    def judge(self, offered: tuple[int, ...]) -> int | None:
        """The function to ask for instead of the first one; ``None`` when that is taken (RFC 9048 §3.2)."""
        if self._expected is not None:
            # "it MUST check that the requested change, and only the requested change, occurred"
            if offered != self._expected:
                why = f"AT_KDF changed to {_listed(offered)}, {_listed(self._expected)} was expected"
                raise Refusal(AkaFailure.KEY_DERIVATION_FUNCTION, why)
            return None
        if not offered:
            raise Refusal(AkaFailure.KEY_DERIVATION_FUNCTION, "AT_KDF is missing", as_autn=True)
        if len(set(offered)) != len(offered):
            why = f"AT_KDF repeats a value: {_listed(offered)}"
            raise Refusal(AkaFailure.KEY_DERIVATION_FUNCTION, why, as_autn=True)
        chosen = next((value for value in offered if value in SUPPORTED_KDFS), None)
        if chosen is None:
            why = f"no key derivation function among {_listed(offered)} is known"
            raise Refusal(AkaFailure.KEY_DERIVATION_FUNCTION, why, as_autn=True)
        if chosen == offered[0]:
            self._expected = offered
            return None
        self._expected = (chosen, *offered)
        return chosen


def network_name(challenge: AkaMessage) -> str:
    """The name of the access network (RFC 9048 §3.1): ``Refusal`` where it is empty."""
    value = challenge.require(AtKdfInput).value
    if not value:
        raise Refusal(AkaFailure.NETWORK_NAME, "the network name is empty", as_autn=True)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DecodeError("the network name is not UTF-8") from None


def network_names_match(one: str, other: str) -> bool:
    """Compare field by field, as many as both have (RFC 9048 §3.1)."""
    fields = [name.split(":") if name else [] for name in (one, other)]
    return all(left == right for left, right in zip(*fields, strict=False))


def check_separation_bit(autn: bytes) -> None:
    """The AMF separation bit must be 1 in EAP-AKA' (RFC 9048 §3.3, TS 33.402 §6.2)."""
    if not autn[SQN_LENGTH] & AMF_SEPARATION[0]:
        why = "the AMF separation bit in AUTN is 0, which EAP-AKA' forbids"
        raise Refusal(AkaFailure.SEPARATION_BIT, why, as_autn=True)


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values)) or "nothing"
