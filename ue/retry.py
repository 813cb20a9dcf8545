"""What the UE does after an attach that failed, as a pure machine (TS 24.302 §7.2.2.2, §8.1.2.2, §8.2.9.1).

A cause may bar a gateway, a network or every ePDG until the UE is switched off and on; then the next gateway is tried,
if there is one. Any other failure is repeated after a while, and a back-off timer of the network's is obeyed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from protocols.ikev2.registry import NotifyType
from protocols.threegpp.causes import AUTHENTICATION_FAILED, PrivateNotify, notify_name
from ue.backoff import BackOff

INTERVALS = (5.0, 10.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 1800.0, 3600.0)  # Android's


class Bar(str, Enum):
    """Who is not asked again until the UE is switched off and on."""

    NONE = "none"
    GATEWAY = "gateway"
    PLMN = "plmn"
    EVERYWHERE = "everywhere"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a cause leads to.

    ``bars``: who is not asked again. ``elsewhere``: the next gateway is tried at once. ``tries``: so many failures
    in a row with causes of this rule, and the UE gives up as if everybody were barred.
    """

    causes: tuple[tuple[int, int], ...]
    bars: Bar = Bar.NONE
    elsewhere: bool = False
    tries: int | None = None

    def covers(self, cause: int) -> bool:
        """Whether the cause lies in one of the ranges."""
        return any(first <= cause <= last for first, last in self.causes)


def _rule(*causes: int, bars: Bar = Bar.NONE, elsewhere: bool = False) -> Rule:
    return Rule(causes=tuple((cause, cause) for cause in map(int, causes)), bars=bars, elsewhere=elsewhere)


TEMPORARY = Rule(causes=())
"""A cause without a rule: again after a while."""

RULES = (
    # The subscription, or the network, does not allow it: no ePDG of the same PLMN (TS 24.302 §7.2.2.2)
    _rule(
        PrivateNotify.NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED,
        PrivateNotify.USER_UNKNOWN,
        PrivateNotify.NO_APN_SUBSCRIPTION,
        PrivateNotify.AUTHORIZATION_REJECTED,
        PrivateNotify.RAT_TYPE_NOT_ALLOWED,
        PrivateNotify.PLMN_NOT_ALLOWED,
        PrivateNotify.UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED,
        bars=Bar.PLMN,
        elsewhere=True,
    ),
    # The equipment is at fault, which is so with every network
    _rule(PrivateNotify.ILLEGAL_ME, PrivateNotify.IMEI_NOT_ACCEPTED, bars=Bar.EVERYWHERE),
    # This APN not by this ePDG
    _rule(PrivateNotify.PDN_CONNECTION_REJECTION, bars=Bar.GATEWAY, elsewhere=True),
    # The gateway, or what stands behind it, cannot at present
    _rule(
        PrivateNotify.NETWORK_FAILURE,
        NotifyType.NO_PROPOSAL_CHOSEN,
        NotifyType.INTERNAL_ADDRESS_FAILURE,
        NotifyType.TS_UNACCEPTABLE,
        NotifyType.TEMPORARY_FAILURE,
        elsewhere=True,
    ),
    # TS 24.302 §7.2.2.2 sets no time: until a PDN connection is released, the timer is over, the fault is gone
    _rule(PrivateNotify.MAX_CONNECTION_REACHED, PrivateNotify.CONGESTION, AUTHENTICATION_FAILED),
)
"""The standard's, as far as it says; the rest is ours."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and for how long: ``intervals`` in seconds, the last one for ever.

    After ``give_up_after`` failures in a row there is no attempt for ``then`` seconds, without ``then`` until the UE
    is switched off and on. ``rules`` are asked before the standard's.
    """

    intervals: tuple[float, ...] = INTERVALS
    give_up_after: int | None = None
    then: float | None = None
    rules: tuple[Rule, ...] = ()

    def rule(self, cause: int | None) -> Rule:
        """What a cause leads to; ``None``, no answer or a fault of our own, is temporary."""
        if cause is None:
            return TEMPORARY
        return next((rule for rule in (*self.rules, *RULES) if rule.covers(cause)), TEMPORARY)


@dataclass(frozen=True, kw_only=True)
class NextAttempt:
    """When the UE attaches again, the machine's seconds; infinite: not before it is switched off and on."""

    at: float
    why: str

    @property
    def never(self) -> bool:
        """Whether there is none."""
        return self.at == math.inf


class Retries:
    """The failures in a row, and what follows from them."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._by_rule: dict[Rule, int] = {}

    def attached(self) -> None:
        """A success: everything begins anew."""
        self._failures = 0
        self._by_rule.clear()

    def failed(
        self, cause: int | None, now: float, *, for_good: bool = False, back_off: BackOff | None = None
    ) -> NextAttempt:
        """An attach has failed, or the connection was lost.

        ``for_good``: every gateway that there is has been barred. ``back_off``: the network's wish, which may be from
        an earlier refusal.
        """
        policy = self._policy
        row = self._failures
        self._failures += 1
        rule = policy.rule(cause)
        count = self._by_rule[rule] = self._by_rule.get(rule, 0) + 1
        name = "no answer" if cause is None else notify_name(cause)
        if for_good:
            return NextAttempt(at=math.inf, why=f"after {name} nobody is asked until the UE is switched off and on")
        if rule.tries is not None and count >= rule.tries:
            why = f"{name} has come {_times(count)} in a row: not again until the UE is switched off and on"
            return NextAttempt(at=math.inf, why=why)
        at, why = now + policy.intervals[min(row, len(policy.intervals) - 1)], f"failure {row + 1} in a row"
        if policy.give_up_after is not None and self._failures >= policy.give_up_after:
            self._failures = 0
            at = math.inf if policy.then is None else now + policy.then
            end = "until the UE is switched off and on" if policy.then is None else f"for {policy.then:g} s"
            why = f"{_times(policy.give_up_after)} in a row is enough {end}"
        if back_off is not None and back_off.until > at:
            at, why = back_off.until, f"the network's back-off after {back_off.cause}"
        return NextAttempt(at=at, why=why)


def ranges(causes: Iterable[str | int]) -> tuple[tuple[int, int], ...]:
    """``24``, ``USER_UNKNOWN`` or ``9000-9050`` as ranges; ``ValueError`` for anything else."""
    found: list[tuple[int, int]] = []
    for each in causes:
        text = str(each).strip()
        first, dash, last = text.partition("-")
        if text in PrivateNotify.__members__:
            found.append((int(PrivateNotify[text]),) * 2)
        elif text in NotifyType.__members__:
            found.append((int(NotifyType[text]),) * 2)
        elif first.isdecimal() and (last if dash else first).isdecimal():
            found.append((int(first), int(last if dash else first)))
        else:
            raise ValueError(f"{text} is no cause")
    return tuple(found)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
