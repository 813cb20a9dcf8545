"""Carries out what connection management decides, for all PDN connections of a UE, and tells it what came of it.

Triggers are the control interface's and the kernel's (``protocols.io.netlink``). Without ``management.automatic`` the
state of the accesses is kept and nothing is decided.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

from protocols.errors import LocalError, StackError
from protocols.path import Address
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue import connection
from ue.accesses import Accesses
from ue.commands import Tell
from ue.context import DeviceState
from ue.management import (
    Attach,
    ConnectionManagement,
    Decision,
    Hint,
    Move,
    Phase,
    Policy,
    Recheck,
    Release,
    Resume,
    Suspend,
)
from ue.pdn import Pdn
from ue.staying import Due

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Steered(Protocol):
    """The node as connection management needs it."""

    pdns: dict[str, Pdn]
    recorder: Recorder

    @property
    def staying(self) -> list[Pdn]:
        """The connections that are to stay attached, the first one first."""

    async def move_pdns(
        self, to: str, *, keep_old: bool = False, again: bool = False, but: Iterable[str] = ()
    ) -> Mapping[str, connection.Move | None | StackError]:
        """Take the connections that are attached, but for some, to an access."""


class Steering:
    """Between ``start`` and ``close``, on the running loop."""

    def __init__(
        self, node: Steered, accesses: Accesses, policy: Policy, *, automatic: bool, now: Callable[[], float]
    ) -> None:
        self.automatic = automatic
        self.machine = ConnectionManagement(accesses.names, policy)
        self._node = node
        self._accesses = accesses
        self._now = now
        self._tasks: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due: dict[str, Due] = {}
        self._attaching = False
        self._given_up = False  # the attach under way was ended here: that says nothing of the access
        self._changing: set[str] = set()  # attached anew elsewhere: that they go and come says nothing

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin; the accesses whose addresses are configured have them."""
        self._tasks = tasks
        self._due = {pdn.name: Due(pdn) for pdn in self._node.staying}
        for name in self._accesses.names:
            if self._accesses.address(name) is not None and not self._accesses.watched(name):
                self.gained(name)

    def close(self) -> None:
        """Decide nothing more."""
        self._tasks = None
        if self._timer is not None:
            self._timer.cancel()

    async def stay_attached(self) -> None:
        """Be attached wherever it is possible, for ever."""
        self._carry_out(self.machine.want(self._now()))
        await asyncio.Event().wait()

    def choice(self) -> str | None:
        """Where to attach when nobody says it."""
        if not self.automatic:
            return None
        return self.machine.access if self.machine.phase is Phase.ATTACHED else self.machine.best(self._now())

    def usable(self, access: str) -> bool:
        """Whether packets can be sent there."""
        return self.machine.accesses[access].usable

    @contextmanager
    def changing(self, names: Iterable[str]) -> Iterator[None]:
        """While these connections are attached anew elsewhere, that they go and come decides nothing."""
        mine = set(names)
        self._changing |= mine
        try:
            yield
        finally:
            self._changing -= mine

    # --- triggers

    def gained(self, access: str, address: Address | None = None, *, what: str = "an address") -> None:
        """The access has an address, by default the one it is known to have; ``what`` it has that it had not."""
        known = self._accesses.address(access)
        if address is not None:
            self._accesses.set_address(access, address)
        if address is not None and known not in (None, address):
            self._decide(lambda now: self.machine.changed(access, now))
            self._give_up_attaches(access, f"{access} has another address")
        else:
            self._decide(lambda now: self.machine.gained(access, now, what))

    def lost(self, access: str, what: str = "its address") -> None:
        """The access has none any more, or something else that it cannot be used without."""
        self._accesses.set_address(access, None)
        self._decide(lambda now: self.machine.lost(access, now, what))
        self._give_up_attaches(access, f"{access} has lost {what}")

    def route_changed(self, access: str) -> None:
        """The way from the access is another one."""
        self._decide(lambda now: self.machine.route_changed(access, now))

    def hinted(self, access: str, hint: Hint) -> None:
        """A lower layer says how the access is."""
        self._decide(lambda now: self.machine.hinted(access, hint, now))
        elsewhere = self.machine.best(self._now()) not in (None, access)
        if hint is Hint.DOWN or (hint is Hint.CAPTIVE and elsewhere):
            self._give_up_attaches(access, f"{access} is {hint.value}")

    def told(self, pdn: Pdn, tell: Tell) -> None:
        """A PDN connection says something."""
        if not self.automatic or self._tasks is None:
            return
        now = self._now()
        due = self._due.get(pdn.name)
        if due is not None and tell.name == "attached":
            due.attached()
        if pdn.name in self._changing:
            return
        if tell.name == "path-suspected":
            self._carry_out(self.machine.path_suspected(now))
        elif tell.name == "attached" and self.machine.phase is Phase.DETACHED:
            self._carry_out(self.machine.attached(str(tell.data["access"]), now))
        elif tell.name == "moved" and not tell.data.get("asked"):
            to = str(tell.data["to"])
            if self.machine.access != to:
                self._carry_out(self.machine.moved(to, now))
                self._begin(self._follow(to, pdn.name))
        elif tell.name in ("detached", "connection-lost"):
            self._lost(pdn, tell.text.rstrip("."), now)

    # --- what a person does

    def choose(self, access: str) -> None:
        """A person moves the UE."""
        if self.automatic:
            self.machine.choose(access, self._now())
            self._arm()

    def chosen(self, access: str, failure: str | None) -> None:
        """What came of it."""
        self._decide(
            lambda now: (
                self.machine.moved(access, now) if failure is None else self.machine.move_failed(access, failure, now)
            )
        )

    def put_to_sleep(self) -> None:
        """A person has suspended the UE."""
        if self.automatic:
            self.machine.put_to_sleep()

    def unwant(self) -> None:
        """A person has detached the UE."""
        self.machine.unwant()

    def _give_up_attaches(self, access: str, why: str) -> None:
        """An attach cannot move (RFC 4555 has updates in an IKE SA that is up): it begins anew, where that is best."""
        ended = [pdn.give_up_attach(access, why) for pdn in self._node.pdns.values() if self.automatic]
        self._given_up = self._given_up or any(ended)

    # --- decisions

    def _decide(self, what: Callable[[float], list[Decision]]) -> None:
        if self.automatic:
            self._carry_out(what(self._now()))
        else:
            what(self._now())  # detached for the machine: it keeps what it is told of the accesses

    def _carry_out(self, decisions: list[Decision]) -> None:
        if self._tasks is None:
            return
        # told first: what is decided is seen before what comes of it
        for decision in sorted(decisions, key=lambda each: not isinstance(each, Tell)):
            match decision:
                case Tell():
                    _log.info("%s", decision.text)
                    self._node.recorder.event(decision.name, decision.text, decision.data)
                case Attach(access=access):
                    self._begin(self._attach(access))
                case Move():
                    self._begin(self._move(decision.access, keep_old=decision.keep_old, again=decision.again))
                case Resume(access=access):
                    self._begin(self._move(access))
                case Suspend():
                    self._each(Pdn.suspend)
                case Recheck():
                    self._each(Pdn.recheck)
                case Release(access=access):
                    self._each(lambda pdn, name=access: pdn.release(name))  # type: ignore[misc]
        self._arm()

    def _begin(self, work: Awaitable[None]) -> None:
        async def done() -> None:
            await work

        assert self._tasks is not None
        self._tasks.create_task(done())

    def _each(self, act: Callable[[Pdn], None]) -> None:
        for pdn in self._node.pdns.values():
            if pdn.device.state is not DeviceState.ESTABLISHED:
                continue
            try:
                act(pdn)
            except StackError as error:
                _log.warning("%s: %s", pdn.name, error)

    def _lost(self, pdn: Pdn, why: str, now: float) -> None:
        due = self._due.get(pdn.name)
        if due is not None:
            due.failed(now)
        others = [each for each in self._node.pdns.values() if each is not pdn]
        if all(_idle(each) for each in others):
            self._carry_out(self.machine.detached(why, now, again_at=self._next_due()))
        else:
            self._arm()

    def _next_due(self) -> float:
        """When one of those that are not attached may be, infinite: not before a person asks for it."""
        return min((due.at for due in self._due.values() if _idle(due.pdn)), default=math.inf)

    async def _attach(self, access: str) -> None:
        """Attach what may be attached now; one that nobody answers speaks for all: the access is no good."""
        self._attaching, self._given_up = True, False
        why, unanswered = "there is nothing to attach", False
        try:
            for due in self._due.values():
                if due.at > self._now() or not _idle(due.pdn):
                    continue
                before = due.pdn.device.connection
                try:
                    await due.pdn.attach(access, again=True, patience=self.machine.attach_patience(access, self._now()))
                except StackError as error:
                    _log.error("%s", error)
                    why, unanswered = str(error), _is_unanswered(due.pdn, before, error)
                    due.failed(self._now(), elsewhere=unanswered)
                    if unanswered:
                        break
        finally:
            self._attaching = False
        now = self._now()
        if self.machine.phase is not Phase.ATTACHING:
            self._arm()  # beside others that are attached
        elif any(pdn.device.state is DeviceState.ESTABLISHED for pdn in self._node.pdns.values()):
            self._carry_out(self.machine.attached(access, now))
        else:
            self._attach_failed(access, why, unanswered, now)

    def _attach_failed(self, access: str, why: str, unanswered: bool, now: float) -> None:
        again_at, blamed = self._next_due(), unanswered and not self._given_up
        self._carry_out(self.machine.attach_failed(access, why, now, again_at=again_at, unanswered=blamed))

    async def _move(self, access: str, *, keep_old: bool = False, again: bool = False) -> None:
        self._given_up = False
        outcomes = await self._node.move_pdns(access, keep_old=keep_old, again=again)
        now = self._now()
        failures = {name: each for name, each in outcomes.items() if isinstance(each, StackError)}
        unanswered = False
        for name, failure in failures.items():
            _log.warning("%s: %s", name, failure)
            pdn = self._node.pdns[name]
            if name in self._due and _idle(pdn):  # attached anew, in vain
                unanswered = _is_unanswered(pdn, None, failure)
                self._due[name].failed(now, elsewhere=unanswered)
        why = next((str(failure) for failure in failures.values()), "there is no connection")
        if len(failures) == len(outcomes):
            if outcomes and all(map(_idle, self._node.pdns.values())):
                self._attach_failed(access, why, unanswered, now)
            else:
                self._carry_out(self.machine.move_failed(access, why, now))
        elif any(outcome is None for outcome in outcomes.values()):
            self._carry_out(self.machine.attached(access, now))
        else:
            self._carry_out(self.machine.moved(access, now))

    async def _follow(self, access: str, moved: str) -> None:
        """One connection has been led elsewhere by its path test: the others go along."""
        for name, outcome in (await self._node.move_pdns(access, but=[moved])).items():
            if isinstance(outcome, StackError):
                _log.warning("%s: %s", name, outcome)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._deadline() if self.automatic else None
        if at is not None and self._tasks is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._now()), self._timeout)

    def _deadline(self) -> float | None:
        times = [] if (of_machine := self.machine.next_deadline()) is None else [of_machine]
        if self._others_may_be_due():
            times.append(self._next_due())  # one that was refused or lost, beside others that are attached
        return min((at for at in times if at < math.inf), default=None)

    def _others_may_be_due(self) -> bool:
        return self.machine.wanted and self.machine.phase is Phase.ATTACHED and not self._attaching

    def _timeout(self) -> None:
        self._timer = None
        now, access = self._now(), self.machine.access
        self._carry_out(self.machine.handle_timeout(now))
        if access is not None and self._others_may_be_due() and self._next_due() <= now:
            self._attaching = True
            self._begin(self._attach(access))

    # --- views

    def view(self) -> dict[str, JsonValue]:
        """What is known and decided."""
        now = self._now()
        return {
            "automatic": self.automatic,
            "phase": self.machine.phase.value,
            "access": self.machine.access,
            "best": self.machine.best(now),
            "accesses": {
                name: {
                    "available": state.available,
                    "hint": state.hint.value,
                    "address": None if (address := self._accesses.address(name)) is None else str(address),
                    "avoided_for": round(max(0.0, state.avoided_until - now), 3),
                }
                for name, state in self.machine.accesses.items()
            },
        }


def _idle(pdn: Pdn) -> bool:
    return pdn.device.state in (DeviceState.IDLE, DeviceState.CLOSED)


def _is_unanswered(pdn: Pdn, before: connection.Connection | None, error: StackError) -> bool:
    """Whether an attach has failed for want of an answer, or because this access cannot reach the gateway at all."""
    if isinstance(error, LocalError):
        return False  # nobody was asked: the network wants to be left alone
    attempt = pdn.device.connection
    return attempt is before or attempt is None or attempt.unanswered
