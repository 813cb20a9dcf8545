"""Connection management (RFC 4621 §3, §5.1, §5.4) as a pure machine: which access a UE is on, when it moves, and why.

Triggers come in: addresses gained, lost and changed, routes changed, hints of lower layers, outcomes of attaches
and moves, paths suspected, connections up and down. Decisions go out, each with a ``Tell`` of its reasons. All PDN
connections are on one access and move together.

* The access in use loses its address: ``Move`` to the next best, break before make; ``Suspend`` where there is none,
  ``Resume`` as soon as there is one.
* A better access is there for ``hold`` seconds: ``Move``, make before break; the old one is let go ``linger`` seconds
  later. Each loss of an access doubles its hold, and the doubling halves every ``half_life`` (RFC 2439's damping).
* An attach that the network refuses is repeated when the network allows it, wherever; that is for others to know
  (``ue.retry``). Only one that nobody answers says something of the access.
* An access on which an attach goes unanswered or a move fails, or that a path test has left, is avoided for ``retry``
  seconds, twice as long each time; then it is tried again beside the one in use, or once when there is no other any
  more. One that a hint calls captive is not tried.
* Other routes, or another address: the gateway is told anew, which looks for NATs as well (RFC 4555 §3.8).

Moves by hand are obeyed: an access that a person has chosen is kept until it is lost. Packet loss alone moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from protocols.trace.records import JsonValue
from ue.commands import Tell

HOLD = 2.0  # RFC 4621 leaves all of these to us
HOLD_MAXIMUM = 120.0
HALF_LIFE = 60.0
RETRY = 30.0
RETRY_MAXIMUM = 900.0
LINGER = 1.0
ATTACH_PATIENCE = 4.0  # four transmissions at 0, 0.5, 1.5 and 3.5 s; RFC 7296 §2.4 leaves it to the initiator
DOUBLINGS_MAXIMUM = 64  # more are no longer, but above a thousand no float
PATIENCE_MAXIMUM = 8.0  # half of the time after which the IKE SA itself is given up, and so long at most


class Hint(str, Enum):
    """What a lower layer says of an access; ``captive``: it answers nothing before a person has logged in."""

    GOOD = "good"
    WEAK = "weak"
    CAPTIVE = "captive"
    DOWN = "down"


class Phase(str, Enum):
    """Where the UE is in all its connections."""

    DETACHED = "detached"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    MOVING = "moving"
    SUSPENDED = "suspended"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """``prefer``: accesses, the best first; seconds as the module says.

    ``patience``: so long a move may go unanswered that has no way back, before the UE rather suspends.
    ``attach_patience``: so long an attach may, where there is another access.
    """

    prefer: tuple[str, ...]
    hold: float = HOLD
    hold_maximum: float = HOLD_MAXIMUM
    half_life: float = HALF_LIFE
    retry: float = RETRY
    retry_maximum: float = RETRY_MAXIMUM
    linger: float = LINGER
    patience: float = PATIENCE_MAXIMUM
    attach_patience: float = ATTACH_PATIENCE


@dataclass(frozen=True, kw_only=True)
class Attach:
    """Attach on an access; answer through ``attached`` or ``attach_failed``."""

    access: str


@dataclass(frozen=True, kw_only=True)
class Move:
    """Move to an access, ``keep_old``: make before break; answer through ``moved`` or ``move_failed``.

    ``again``: the access is the one in use, its address is another one.
    """

    access: str
    keep_old: bool = False
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Suspend:
    """Be nowhere."""


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Come back on an access; answer through ``moved`` or ``move_failed``."""

    access: str


@dataclass(frozen=True, kw_only=True)
class Recheck:
    """Tell the gateway of the same addresses again: a NAT may have come or gone (RFC 4555 §3.8)."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """Let go of an access that is not in use any more."""

    access: str


Decision = Attach | Move | Suspend | Resume | Recheck | Release | Tell


@dataclass(kw_only=True)
class AccessState:
    """What is known of one access. ``losses`` is the damped count of losses at ``counted``."""

    preference: int
    available: bool = False
    hint: Hint = Hint.GOOD
    stable_at: float = 0.0
    losses: float = 0.0
    counted: float = 0.0
    failures: int = 0
    avoided_until: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether packets can be sent there at all."""
        return self.available and self.hint is not Hint.DOWN

    def may_be_tried(self, now: float) -> bool:
        """Whether it is worth going there."""
        return self.usable and self.hint is not Hint.CAPTIVE and self.avoided_until <= now

    @property
    def rank(self) -> tuple[int, int]:
        """The smaller, the better."""
        return (list(Hint).index(self.hint), self.preference)


class ConnectionManagement:
    """Triggers in, decisions out."""

    def __init__(self, accesses: Iterable[str], policy: Policy) -> None:
        order = list(dict.fromkeys((*policy.prefer, *accesses)))
        self.policy = policy
        self.accesses = {name: AccessState(preference=place) for place, name in enumerate(order)}
        self.phase = Phase.DETACHED
        self.access: str | None = None  # in use, or the last that was
        self._target: str | None = None
        self._keeps = False  # the access that is being left stays open
        self._nowhere = False  # suspended, or on the way back from that: a move that fails leads there
        self._wanted = False
        self._chosen: str | None = None  # by a person
        self._asleep = False  # by a person
        self._give_up_at: float | None = None
        self._releases: dict[str, float] = {}
        self._since = 0.0
        self._looked_at = float("-inf")
        self._attach_at = float("-inf")  # not before, infinite: when a person asks for it

    @property
    def wanted(self) -> bool:
        """Whether the UE is to be attached."""
        return self._wanted

    # --- what a person wants

    def want(self, now: float) -> list[Decision]:
        """Be attached from now on, wherever it is possible."""
        self._wanted, self._attach_at = True, float("-inf")
        return self._decide("the UE is to be attached", now)

    def unwant(self) -> None:
        """Do not attach by yourself any more."""
        self._wanted = False

    def choose(self, access: str, now: float) -> None:
        """A person moves the UE there; answer through ``moved`` or ``move_failed``."""
        if self.phase in (Phase.ATTACHED, Phase.MOVING, Phase.SUSPENDED):
            self._chosen, self._asleep = access, False
            self._go(access, now)

    def put_to_sleep(self) -> None:
        """A person has suspended the UE: it comes back by hand."""
        self._asleep = True
        self._target = None  # what was under way has failed by that
        self._suspend()

    # --- triggers

    def gained(self, access: str, now: float, what: str = "an address") -> list[Decision]:
        """The access has an address, or what else it could not be used without."""
        state = self.accesses[access]
        if state.available:
            return []
        state.available, state.hint = True, Hint.GOOD
        state.failures, state.avoided_until = 0, 0.0
        self._steady(state, now)
        return self._decide(f"{access} has {what}", now)

    def lost(self, access: str, now: float, what: str = "its address") -> list[Decision]:
        """The access has no address any more, or no route to the gateway."""
        state = self.accesses[access]
        if not state.available:
            return []
        self._worsened(state, now)
        state.available = False
        if access == self._chosen:
            self._chosen = None
        self._make_do(access, now)
        return self._decide(f"{access} has lost {what}", now)

    def changed(self, access: str, now: float) -> list[Decision]:
        """The access has another address than before."""
        trigger = f"{access} has another address"
        if not self.accesses[access].available:
            return self.gained(access, now)
        in_use = access == self.access if self.phase is Phase.ATTACHED else access == self._target
        if not in_use or self.phase not in (Phase.ATTACHED, Phase.MOVING):
            return self._decide(trigger, now)
        self._go(access, now, way_back=False)
        return [Move(access=access, again=True), self._tell(trigger, f"move to {access}", "it is in use", now)]

    def route_changed(self, access: str, now: float) -> list[Decision]:
        """The way from the access is another one."""
        trigger = f"the routes of {access} have changed"
        if self.phase is Phase.MOVING and access == self._target:
            return [Recheck(), self._tell(trigger, "ask again", "the update may not have found its way", now)]
        if access != self.access or self.phase is not Phase.ATTACHED:
            return self._decide(trigger, now, quiet=True)
        return [Recheck(), self._tell(trigger, "check for a NAT", "the way to the gateway may be another one", now)]

    def hinted(self, access: str, hint: Hint, now: float) -> list[Decision]:
        """A lower layer says how an access is."""
        state = self.accesses[access]
        if hint is Hint.GOOD:
            state.failures, state.avoided_until = 0, 0.0  # it is worth another try
        if hint is Hint.GOOD and state.hint is not Hint.GOOD:
            self._steady(state, now)
        elif hint is not Hint.GOOD and state.hint is Hint.GOOD:
            self._worsened(state, now)
        state.hint = hint
        if hint is Hint.DOWN and access == self._chosen:
            self._chosen = None
        if hint is Hint.DOWN:
            self._make_do(access, now)
        return self._decide(f"{access} is said to be {hint.value}", now)

    def path_suspected(self, now: float) -> list[Decision]:
        """Nothing is heard: the path test that goes on decides where to (RFC 4555 §3.10)."""
        return [self._tell("nothing is heard on the path in use", "none yet", "other paths are being tested", now)]

    # --- outcomes

    def attached(self, access: str, now: float) -> list[Decision]:
        """The UE is attached there."""
        self._arrived(access, now)
        return self._decide(f"the UE is attached on {access}", now)

    def attach_failed(
        self, access: str, why: str, now: float, *, again_at: float = float("-inf"), unanswered: bool = True
    ) -> list[Decision]:
        """It is not. ``again_at``: no attach anywhere before. ``unanswered``: the access is to blame."""
        if unanswered:
            self._fail(access, now)
        self.phase, self._target, self._give_up_at = Phase.DETACHED, None, None
        self._attach_at = again_at
        return self._decide(f"the attach on {access} has failed: {why}", now)

    def moved(self, access: str, now: float) -> list[Decision]:
        """The UE is there; where nobody had asked for it, the other access had fallen silent."""
        if self.phase in (Phase.SUSPENDED, Phase.DETACHED):
            return []  # it was called back meanwhile, or the connection has ended
        former, asked = self.access, self._target == access
        if not asked and former is not None and former != access:
            self._fail(former, now)
            self._chosen = None
        kept = asked and self._keeps
        self._arrived(access, now)
        if kept and former is not None and former != access:
            self._releases[former] = now + self.policy.linger
        return self._decide(f"the UE has moved to {access}", now)

    def move_failed(self, access: str, why: str, now: float) -> list[Decision]:
        """The UE is where it was, if that is still there; nowhere if it was that."""
        if self._target != access:
            return []
        self._fail(access, now)
        if access == self._chosen:
            self._chosen = None
        self.phase = Phase.SUSPENDED if self._nowhere else Phase.ATTACHED
        self._target, self._give_up_at = None, None
        return self._decide(f"the move to {access} has failed: {why}", now)

    def detached(self, why: str, now: float, *, again_at: float = float("-inf")) -> list[Decision]:
        """The last connection has gone. ``again_at``: no attach anywhere before."""
        self._attach_at = again_at
        self.phase, self._target, self._give_up_at = Phase.DETACHED, None, None
        self._chosen, self._asleep, self._nowhere = None, False, False
        self._releases.clear()
        return self._decide(why, now)

    # --- time

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        times = [*self._releases.values()]
        if self._give_up_at is not None:
            times.append(self._give_up_at)
        if self.phase in (Phase.ATTACHED, Phase.SUSPENDED) or (self.phase is Phase.DETACHED and self._wanted):
            for name, state in self.accesses.items():
                if state.usable and name != self.access and state.hint is not Hint.CAPTIVE:
                    times.append(max(state.stable_at, state.avoided_until))
                elif state.usable and name == self.access and self.phase is not Phase.ATTACHED:
                    times.append(state.avoided_until)
        if self.phase is Phase.DETACHED and self._wanted and self._attach_at < float("inf"):
            times.append(self._attach_at)
        return min((at for at in times if at > self._looked_at), default=None)

    def handle_timeout(self, now: float) -> list[Decision]:
        """Something that was waited for may be over."""
        self._looked_at = now
        decisions: list[Decision] = []
        for access, at in list(self._releases.items()):
            if at <= now:
                del self._releases[access]
                if access not in (self.access, self._target):
                    decisions.append(Release(access=access))
        if self._give_up_at is not None and self._give_up_at <= now and self._target is not None:
            target, self._target = self._target, None
            self._fail(target, now)
            self._suspend()
            why = f"{target} does not answer, and there is no way back"
            return [*decisions, Suspend(), self._tell("a move takes too long", "suspend", why, now)]
        return decisions + self._decide("time has passed", now, quiet=True)

    # --- decisions

    def best(self, now: float) -> str | None:
        """The access to be on, whatever is in use."""
        tried = [name for name, state in self.accesses.items() if state.may_be_tried(now)]
        return min(tried, key=lambda name: self.accesses[name].rank, default=None)

    def attach_patience(self, access: str, now: float) -> float | None:
        """How long a gateway's first answer may take on an access: with another one to try, not for ever."""
        others = [name for name, state in self.accesses.items() if name != access and state.may_be_tried(now)]
        return self.policy.attach_patience if others else None

    def _decide(self, trigger: str, now: float, *, quiet: bool = False) -> list[Decision]:
        decision, word, why = self._decision(now)
        if decision is None and (quiet or (self.phase is Phase.DETACHED and not self._wanted)):
            return []
        if decision is None:
            return [self._tell(trigger, word, why, now)]
        return [decision, self._tell(trigger, word, why, now)]

    def _decision(self, now: float) -> tuple[Decision | None, str, str]:
        best = self.best(now)
        if self.phase is Phase.DETACHED:
            return self._attach(best, now)
        if self.phase is Phase.ATTACHING:
            return None, "none", "an attach is under way"
        if self.phase is Phase.SUSPENDED:
            if self._asleep:
                return None, "stay suspended", "a person has suspended the UE"
            if best is None:
                return None, "stay suspended", "no access is available"
            self._go(best, now, way_back=False)
            return Resume(access=best), f"resume on {best}", "it is the best available"
        if self.phase is Phase.MOVING:
            return self._while_moving(best, now)
        return self._while_attached(best, now)

    def _attach(self, best: str | None, now: float) -> tuple[Decision | None, str, str]:
        if not self._wanted or best is None:
            return None, "none", "the UE is not to be attached" if not self._wanted else "no access is available"
        if now < self._attach_at:
            left = self._attach_at - now
            until = f"for another {left:.1f} s" if left < float("inf") else "before a person asks for it"
            return None, "none", f"the UE does not attach {until}"
        self.phase, self._target = Phase.ATTACHING, best
        return Attach(access=best), f"attach on {best}", "it is the best available"

    def _while_moving(self, best: str | None, now: float) -> tuple[Decision | None, str, str]:
        target, here = self._target, self.access
        if target is not None and self.accesses[target].usable:
            if here is not None and not self.accesses[here].usable and self._give_up_at is None:
                self._give_up_at = now + self.policy.patience  # the way back has gone
            return None, "none", f"a move to {target} is under way"
        # what is moved to has gone meanwhile: the newest move supersedes it
        self.phase, self._target, self._give_up_at = Phase.ATTACHED, None, None
        return self._while_attached(best, now, forced=True)

    def _while_attached(
        self, best: str | None, now: float, *, forced: bool = False
    ) -> tuple[Decision | None, str, str]:
        here = self.access
        assert here is not None  # or the UE would not be attached
        state = self.accesses[here]
        if not state.usable:
            gone = f"{here} is gone"
            if best is None:
                self._suspend()
                return Suspend(), "suspend", f"{gone}, and no other access is available"
            self._go(best, now, way_back=False)
            return Move(access=best), f"move to {best}, break before make", gone
        if forced:
            self._go(here, now)
            return Move(access=here), f"stay on {here}", "what the UE was moving to is gone"
        if self._chosen == here:
            return None, f"stay on {here}", "a person has chosen it"
        if best is None or best == here or self.accesses[best].rank >= state.rank:
            return None, f"stay on {here}", "nothing better is available"
        better = self.accesses[best]
        worse_off = state.hint is not Hint.GOOD and better.hint is Hint.GOOD
        if not worse_off and now < better.stable_at:
            left = better.stable_at - now
            return None, f"stay on {here}", f"{best} is better, but has to stay for another {left:.1f} s"
        self._go(best, now)
        self._keeps = True
        reason = f"{here} is {state.hint.value}" if worse_off else f"{best} is preferred"
        return Move(access=best, keep_old=True), f"move to {best}, make before break", reason

    def _go(self, target: str, now: float, *, way_back: bool = True) -> None:
        self.phase, self._target, self._keeps = Phase.MOVING, target, False
        self._releases.pop(target, None)
        self._give_up_at = None if way_back else now + self.policy.patience

    def _suspend(self) -> None:
        self.phase, self._nowhere, self._give_up_at = Phase.SUSPENDED, True, None

    def _make_do(self, lost: str, now: float) -> None:
        """An access that is avoided is better than none at all."""
        if self.phase is not Phase.ATTACHED or lost != self.access or self.best(now) is not None:
            return
        left = [each for each in self.accesses.values() if each.usable and each.hint is not Hint.CAPTIVE]
        if left:
            min(left, key=lambda each: each.avoided_until).avoided_until = now

    def _arrived(self, access: str, now: float) -> None:
        state = self.accesses[access]
        if self.phase is not Phase.ATTACHING:
            state.available = True  # whoever led it there; an attach of ours may end after the access was lost
        self.phase, self.access, self._nowhere = Phase.ATTACHED, access, False
        self._attach_at = float("-inf")
        self._target = self._give_up_at = None
        self._releases.pop(access, None)
        self._since = now
        state.avoided_until = 0.0

    def _fail(self, access: str, now: float) -> None:
        state = self.accesses[access]
        if access == self.access and now - self._since >= self.policy.retry_maximum:
            state.failures = 0  # it was good for long
        state.avoided_until = now + min(
            self.policy.retry * 2.0 ** min(state.failures, DOUBLINGS_MAXIMUM), self.policy.retry_maximum
        )
        state.failures += 1

    def _worsened(self, state: AccessState, now: float) -> None:
        state.losses, state.counted = self._losses(state, now) + 1.0, now

    def _steady(self, state: AccessState, now: float) -> None:
        hold = self.policy.hold * 2.0 ** min(self._losses(state, now), DOUBLINGS_MAXIMUM)
        state.stable_at = now + min(hold, self.policy.hold_maximum)

    def _losses(self, state: AccessState, now: float) -> float:
        return state.losses * float(0.5 ** ((now - state.counted) / self.policy.half_life))

    def _tell(self, trigger: str, decision: str, why: str, now: float) -> Tell:
        available = [name for name, state in self.accesses.items() if state.usable]
        avoided = [name for name in available if not self.accesses[name].may_be_tried(now)]
        data: dict[str, JsonValue] = {
            "available": [*available],
            "avoided": [*avoided],
            "preferred": self.best(now),
            "access": self.access,
            "trigger": trigger,
            "decision": decision,
            "why": why,
        }
        text = f"Because {trigger}: {decision}; {why}."
        return Tell(name="access-decision", text=text, data=data)
