"""Carries out what connection management decides, for all PDN connections of a UE, and tells it what came of it.

Triggers are the control interface's and the kernel's (``protocols.io.netlink``). Without ``management.automatic`` the
state of the accesses is kept and nothing is decided.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from protocols.errors import StackError
from protocols.path import Address
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue import connection
from ue.accesses import Accesses
from ue.commands import Tell
from ue.device import DeviceState
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
from ue.retry import Retries

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Steered(Protocol):
    """The node as connection management needs it."""

    pdns: dict[str, Pdn]
    recorder: Recorder

    def pdn(self) -> Pdn:
        """The first connection."""

    async def attach_pdns(self, access: str, *, again: bool = False) -> Mapping[str, StackError | None]:
        """Attach those that go along with the first."""

    async def move_pdns(
        self, to: str, *, keep_old: bool = False, again: bool = False, but: Iterable[str] = ()
    ) -> Mapping[str, connection.Move | StackError]:
        """Move the connections that are attached, but for some."""


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
        self._retries: Retries | None = None
        self._again = False  # it has been tried: nobody asks for what follows
        self._tasks: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin; the accesses whose addresses are configured have them."""
        self._tasks = tasks
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
        return self.machine.best(self._now()) if self.automatic else None

    # --- triggers

    def gained(self, access: str, address: Address | None = None) -> None:
        """The access has an address, by default the one it is known to have."""
        known = self._accesses.address(access)
        if address is not None:
            self._accesses.set_address(access, address)
        if address is not None and known not in (None, address):
            self._decide(lambda now: self.machine.changed(access, now))
        else:
            self._decide(lambda now: self.machine.gained(access, now))

    def lost(self, access: str) -> None:
        """The access has none any more."""
        self._accesses.set_address(access, None)
        self._decide(lambda now: self.machine.lost(access, now))

    def route_changed(self, access: str) -> None:
        """The way from the access is another one."""
        self._decide(lambda now: self.machine.route_changed(access, now))

    def hinted(self, access: str, hint: Hint) -> None:
        """A lower layer says how the access is."""
        self._decide(lambda now: self.machine.hinted(access, hint, now))

    def told(self, pdn: Pdn, tell: Tell) -> None:
        """A PDN connection says something."""
        if not self.automatic or self._tasks is None:
            return
        now = self._now()
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
            others = [each for each in self._node.pdns.values() if each is not pdn]
            if all(each.device.state in (DeviceState.IDLE, DeviceState.CLOSED) for each in others):
                self._carry_out(self.machine.detached(tell.text.rstrip("."), now))

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

    async def _attach(self, access: str) -> None:
        first, again = self._node.pdn(), self._again
        self._again = True
        if self._retries is None:
            self._retries = Retries(first.configuration.retry.policy())
        try:
            await first.attach(access, again=again)
        except StackError as error:
            _log.error("%s", error)
            self._forsake(first, self._retries)
            self._carry_out(self.machine.attach_failed(access, str(error), self._now()))
            return
        self._retries.attached()
        self._carry_out(self.machine.attached(access, self._now()))
        if self._tasks is not None:
            self._begin(self._attach_others(access, again=again))

    def _forsake(self, pdn: Pdn, retries: Retries) -> None:
        """A refusal may be for good (TS 24.302 §7.2.2.2); the pace of other attempts is connection management's."""
        failed = pdn.device.connection
        if failed is None or failed.ended is None or failed.established is not None:
            return  # not so much as tried
        following = retries.failed(failed.cause, self._now(), for_good=failed.for_good)
        if following.never:
            text = f"The UE does not attach again by itself: {following.why}."
            _log.info("%s", text)
            self._node.recorder.event("no-retry", text, {"why": following.why})
            self.machine.unwant()

    async def _attach_others(self, access: str, *, again: bool) -> None:
        """They are no reason to give the first up, and follow it where it has gone meanwhile."""
        for name, outcome in (await self._node.attach_pdns(access, again=again)).items():
            if outcome is not None:
                _log.error("%s: %s", name, outcome)
        here = self.machine.access
        if self.machine.phase is Phase.ATTACHED and here is not None and here != access:
            await self._follow(here, self._node.pdn().name)

    async def _move(self, access: str, *, keep_old: bool = False, again: bool = False) -> None:
        outcomes = await self._node.move_pdns(access, keep_old=keep_old, again=again)
        failures = {name: each for name, each in outcomes.items() if isinstance(each, StackError)}
        for name, failure in failures.items():
            _log.warning("%s: %s", name, failure)
        if len(failures) < len(outcomes):
            self._carry_out(self.machine.moved(access, self._now()))
        else:
            why = next((str(failure) for failure in failures.values()), "there is no connection")
            self._carry_out(self.machine.move_failed(access, why, self._now()))

    async def _follow(self, access: str, moved: str) -> None:
        """One connection has been led elsewhere by its path test: the others go along."""
        for name, outcome in (await self._node.move_pdns(access, but=[moved])).items():
            if isinstance(outcome, StackError):
                _log.warning("%s: %s", name, outcome)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.machine.next_deadline() if self.automatic else None
        if at is not None and self._tasks is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._now()), self._timeout)

    def _timeout(self) -> None:
        self._timer = None
        self._carry_out(self.machine.handle_timeout(self._now()))

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
