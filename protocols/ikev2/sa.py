"""One IKE SA (RFC 7296), the same class for both ends: receives, decides by the table, lets tasks speak.

Sans-IO: ``receive``, ``handle_timeout``, ``initiate`` and ``answer`` come in; ``poll_transmit``,
``poll_event`` and ``next_deadline`` go out. The original role belongs to the SA; who sent a request
belongs to the task. Here is what the SA is and which requests wait; its messages go through
``Exchanges``, and which task a request or a timer is for stands in ``dispatch``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from protocols.entropy import Entropy
from protocols.errors import LocalError
from protocols.ikev2 import dispatch
from protocols.ikev2.config import IkeConfig, InitiatorConfig, ResponderConfig
from protocols.ikev2.events import (
    Answer,
    ChildSaRemoved,
    Closed,
    Event,
    IkeKeysDerived,
    NatStatus,
    OriginalRole,
    SaState,
    SpiRenewed,
    StateChanged,
)
from protocols.ikev2.exchanges import Exchanges
from protocols.ikev2.extension import Extension, NoExtension
from protocols.ikev2.fragment import Fragmentation
from protocols.ikev2.habits import Habits
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import Header, Message
from protocols.ikev2.registry import HashAlgorithmId
from protocols.ikev2.sealer import MessageSealer, Sealer
from protocols.ikev2.spi import NO_SPI, RandomSpis, SpiAllocator
from protocols.ikev2.suites import IkeSuite
from protocols.ikev2.table import Procedure
from protocols.ikev2.task import Deferred, Response, Task
from protocols.ikev2.tasks import (
    child,
    crash_detection,
    followup_ke,
    ike_auth,
    informational,
    intermediate,
    mobike,
    rekey_ike,
    rekey_move,
    tickets,
)
from protocols.ikev2.timing import SaTimers, Timer
from protocols.ikev2.window import Window
from protocols.path import Datagram, Endpoint, Path

NO_HABITS = Habits()
KEEPALIVE = b"\xff"  # RFC 3948 §2.3: the one datagram without a non-ESP marker


class IkeSa:
    """The machine of one IKE SA."""

    def __init__(
        self,
        config: IkeConfig,
        *,
        role: OriginalRole,
        spi: bytes,
        path: Path,
        entropy: Entropy,
        now: float,
        peer_spi: bytes = NO_SPI,
        spis: SpiAllocator | None = None,
        extension: Extension | None = None,
    ) -> None:
        self.config = config
        self.role = role
        self.state = SaState.INITIAL
        self.local_spi = spi
        self.spi_i = spi if role is OriginalRole.INITIATOR else peer_spi
        self.spi_r = peer_spi if role is OriginalRole.INITIATOR else spi
        self.path = path
        self.nat = NatStatus()
        self.entropy = entropy
        self.spis = spis or RandomSpis(entropy)
        self.extension: Extension = extension or NoExtension()
        self.suite: IkeSuite | None = None
        self.keys: IkeKeys | None = None
        self.sealer: MessageSealer | None = None
        self.fragmentation = Fragmentation(config)
        self.intermediate = intermediate.Exchanges()
        self.followups = followup_ke.Followups()
        self.nonce_i = b""
        self.nonce_r = b""
        self.init_request = b""
        self.init_response = b""
        self.peer_hashes: frozenset[HashAlgorithmId] = frozenset()
        self.children: dict[bytes, child.ChildSa] = {}
        self.retired: dict[bytes, float] = {}
        self.mobility = mobike.Mobility(path)
        self.crash = crash_detection.CrashDetection()
        self.redirect_supported = False
        self.resumption = tickets.Resumption()
        self.childless = False
        self.beet_understood = False
        self.window = Window(config.retransmission)
        self.timers = SaTimers(config)
        self.dropped: Counter[str] = Counter()
        self.authenticated_until = float("inf")
        self.granted: tuple[child.Selectors, child.Selectors] | None = None
        self.rekeying = rekey_ike.Rekeying()
        self.successors: list[IkeSa] = []
        self.predecessor: IkeSa | None = None
        self.heir: IkeSa | None = None
        self.deferred: Deferred | None = None
        self.authenticator: ike_auth.Authenticator | None = None
        self.created = self.closed_at = now
        self._queue: deque[Task] = deque()
        self._delayed: list[tuple[float, Task]] = []
        self._transmits: deque[Datagram] = deque()
        self._events: deque[Event] = deque()
        self._exchanges = Exchanges(self)

    # --- outputs

    def poll_transmit(self) -> Datagram | None:
        """The next datagram to send, ``None`` when there is none."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Event | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self.timers.next_deadline()

    # --- inputs

    def initiate(self, task: Task, now: float, *, urgent: bool = False) -> None:
        """Queue a request of ours; it leaves as soon as the window allows."""
        if self.state is SaState.CLOSED:
            raise LocalError("the IKE SA is closed")
        if self.heir is not None:
            self.heir.initiate(task, now, urgent=urgent)
            return
        if urgent:
            self._queue.appendleft(task)
        else:
            self._queue.append(task)
        self._pump(now)

    def move(self, path: Path, now: float, *, old_gone: bool = False) -> None:
        """Send from and to other addresses from now on and tell the peer (RFC 4555 §3.5).

        ``old_gone``: the address in use until now is no more, so that ESP has nothing to wait for.
        """
        if self.state is not SaState.ESTABLISHED:
            raise LocalError(f"cannot move in state {self.state.value}")
        if not self.first_initiator:
            raise LocalError("only the first initiator moves an IKE SA (RFC 4555 §1.3, §3.5)")
        if not self.mobility.negotiated and not self.habits.moves_by_rekey:
            raise LocalError("the peer does not support MOBIKE")
        self.mobility.gain(path.local)
        if not self.mobility.negotiated:
            rekey_move.start(self, path, now)
        elif self.habits.probes_before_update:
            mobike.ProbeThenUpdate(path).start(self, now)
        else:
            mobike.UpdateAddresses(path, old_gone=old_gone).start(self, now)
        self._pump(now)
        mobike.spread(self)

    def set_addresses(
        self, addresses: Iterable[Endpoint] | None, now: float, *, tell: bool = True, prefer: bool = False
    ) -> None:
        """This end has these addresses from now on, in order of preference (RFC 4555 §3.6)."""
        mobike.set_addresses(self, addresses, now, tell=tell, prefer=prefer)
        self._pump(now)

    def suspend(self, now: float) -> None:
        """This end has no address: nothing is sent until the next ``move`` (RFC 4621 §5.4)."""
        del now
        if not self.first_initiator:
            raise LocalError("only the first initiator suspends an IKE SA")
        mobike.suspend(self)

    def suspect(self, now: float) -> None:
        """A hint that the path is bad: ask the peer (RFC 4555 §3.5)."""
        mobike.suspect(self, now)
        self._pump(now)

    def check_path(self, now: float) -> None:
        """A return-routability check of the path in use, on demand (RFC 4555 §3.7); ``LocalError``: not now."""
        mobike.demand_check(self)
        self._pump(now)

    def esp_heard_from(self, inbound_spi: bytes, path: Path, now: float) -> bool:
        """Authentic, replay-fresh ESP came on another path; whether ours follows it (RFC 4555 §3.8)."""
        return mobike.esp_heard_from(self, inbound_spi, path, now)

    def enqueue(self, task: Task, *, urgent: bool = False) -> None:
        """Queue a request from inside a task: it leaves after what is being built now."""
        if urgent:
            self._queue.appendleft(task)
        else:
            self._queue.append(task)

    def repeat_on(self, path: Path) -> None:
        """Send the oldest outstanding request on this path as well, with the same Message ID (RFC 4555 §3.1, §3.10)."""
        self._exchanges.repeat_on(path)

    def later(self, task: Task, at: float) -> None:
        """Queue a request at a later moment."""
        self._delayed.append((at, task))
        self.timers.set_earlier(Timer.RETRY, at)

    def answer(self, answer: Answer, now: float) -> None:
        """Answer the question that is open (``LocalError`` when none is)."""
        self._exchanges.answer(answer, now)
        self._pump(now)

    def receive(self, datagram: Datagram, now: float) -> None:
        """Take a datagram for this SA; hostile octets are dropped and counted in ``dropped``."""
        self._exchanges.receive(datagram, now, self._process)

    def answer_again(self, datagram: Datagram) -> tuple[Datagram, ...]:
        """What the last response of an ended SA was, if this is its request again: it may have been lost (§2.1)."""
        return self._exchanges.answer_again(datagram)

    def handle_timeout(self, now: float) -> None:
        """Run the timers that are due."""
        for timer in self.timers.expired(now):
            if self.state is SaState.CLOSED:
                return
            if timer is Timer.RETRANSMIT:
                self._exchanges.retransmit(now)
            elif timer is Timer.SETUP:
                self.close("the set-up was not completed in time", now)
            elif timer is Timer.LIVENESS:
                self._probe(now)
            elif timer is Timer.KEEPALIVE:
                self.transmit(Datagram(self.path, KEEPALIVE))
                self.timers.arm_keepalive(now, behind_nat=self.nat.local)
            elif timer is Timer.RETRY:
                self._retry(now)
            elif timer is Timer.INIT_REFUSED:
                self._exchanges.give_up(now)
            else:
                dispatch.run_timer(self, timer, now)
        self._pump(now)

    def heard(self, now: float) -> None:
        """Something fresh and protected came, on this SA or one of its child SAs: the peer lives (§2.4)."""
        self.mobility.heard_at = now
        if self.state is SaState.ESTABLISHED:
            self.timers.arm_liveness(now)

    # --- for tasks

    @property
    def original_initiator(self) -> bool:
        """Whether this end started the SA: order of SPIs, direction of keys, flags."""
        return self.role is OriginalRole.INITIATOR

    @property
    def first_initiator(self) -> bool:
        """Whether this end started the first of the SAs that rekeying has made of one another (RFC 4555 §1.3)."""
        return isinstance(self.config, InitiatorConfig)

    @property
    def initiator_config(self) -> InitiatorConfig:
        """The configuration of the end that started the SA."""
        if not isinstance(self.config, InitiatorConfig):
            raise LocalError("this end did not start the IKE SA")
        return self.config

    @property
    def responder_config(self) -> ResponderConfig:
        """The configuration of the end that waited for the SA."""
        if not isinstance(self.config, ResponderConfig):
            raise LocalError("this end started the IKE SA")
        return self.config

    @property
    def habits(self) -> Habits:
        """The ways of this end; a responder has none of its own."""
        return self.config.habits if isinstance(self.config, InitiatorConfig) else NO_HABITS

    def renew_spi(self) -> None:
        """Start IKE_SA_INIT anew under another SPI of ours, as nothing came of the last one."""
        old, self.local_spi = self.local_spi, self.spis.ike_spi()
        self.spi_i = self.local_spi
        self.emit(SpiRenewed(old=old))

    def transmit(self, datagram: Datagram) -> None:
        """Send a datagram."""
        self._transmits.append(datagram)

    def emit(self, event: Event) -> None:
        """Tell the outside."""
        self._events.append(event)

    def enter(self, state: SaState, why: str) -> None:
        """Change the state."""
        old, self.state = self.state, state
        self.emit(StateChanged(old=old, new=state, why=why))

    def adopt_keys(self, suite: IkeSuite, keys: IkeKeys) -> None:
        """Everything from here on is protected by these keys."""
        self.suite, self.keys = suite, keys
        self.sealer = Sealer(suite, keys, self.original_initiator, self.entropy)
        self.emit(IkeKeysDerived(spi_i=self.spi_i, spi_r=self.spi_r, suite=suite, keys=keys))

    def sealer_for(self, message: Header | Message) -> MessageSealer | None:
        """What opens a message: a request that comes again may be older than our keys (RFC 9242 §3.3.1)."""
        return self.intermediate.sealer_of(message) or self.sealer

    def established_keys(self) -> tuple[IkeSuite, IkeKeys]:
        """Suite and keys, which exist from IKE_SA_INIT on."""
        if self.suite is None or self.keys is None:
            raise LocalError("no keys before IKE_SA_INIT is done")
        return self.suite, self.keys

    def change_path(self, path: Path, now: float) -> None:
        """Send from and to other addresses; an outstanding request follows at once, after what is being built."""
        if path == self.path:
            return
        self.path = path
        self.fragmentation.path_changed()
        if self.window.restart_retransmission(now):
            self.timers.set(Timer.RETRANSMIT, now)

    @property
    def requests_under_way(self) -> tuple[Task, ...]:
        """Whose requests wait for their responses."""
        return self.window.tasks

    def forget_requests(self) -> None:
        """Send nothing of what is outstanding again, nor wait for the responses (§2.8.2)."""
        self._exchanges.forget_requests()

    def family(self) -> list[IkeSa]:
        """This SA and those that a rekey put before, after and beside it, on which its doings can bear.

        The older first: what replaces an SA is told before what is said under the new one.
        """
        before = [] if self.predecessor is None else [self.predecessor, *self.predecessor.successors]
        return list(dict.fromkeys([*before, self, *self.successors]))

    def inherit(self, old: IkeSa, now: float) -> None:
        """Take over child SAs, addresses and everything that waits from the SA that this one replaces (§2.8)."""
        self.children, old.children = old.children, {}
        self.retired, old.retired = old.retired, {}
        mobike.succeed(old, self)
        self.extension, self.granted, self.peer_hashes = old.extension, old.granted, old.peer_hashes
        self.authenticated_until = old.authenticated_until
        self.redirect_supported, self.childless = old.redirect_supported, old.childless
        self.beet_understood = old.beet_understood
        self._queue.extend(old._queue)
        tickets.succeed(old, self)
        self._delayed += old._delayed
        old._queue.clear()
        old._delayed.clear()
        self.timers.inherit(old.timers)
        self.fragmentation.inherit(old.fragmentation)
        self.heard(now)

    def resume(self, now: float) -> None:
        """Send what waits."""
        self._pump(now)

    def close(self, why: str, now: float, *, by_peer: bool = False) -> None:
        """End the SA and all its child SAs without another word."""
        if self.state is SaState.CLOSED:
            return
        if self.heir is None:
            for made in self.successors:
                made.close(why, now, by_peer=by_peer)
        if by_peer:
            tickets.revoke(self)
        for spi in (*self.children, *self.retired):
            self.emit(ChildSaRemoved(inbound_spi=spi, why=why, with_ike_sa=True))
        self.children.clear()
        self.retired.clear()
        self.timers.clear()
        self._queue.clear()
        self._delayed.clear()
        self.deferred = None
        self.closed_at = now
        self.enter(SaState.CLOSED, why)
        self.emit(Closed(why=why, by_peer=by_peer, resumed=self.resumption.superseded))

    # --- what the peer asks, and what waits

    def _process(self, procedure: Procedure, message: Message, datagram: Datagram, now: float) -> Response | None:
        return dispatch.process_request(self, procedure, message, datagram, now)

    @property
    def _sends(self) -> bool:
        return self.state is not SaState.CLOSED and not self.mobility.suspended

    def _pump(self, now: float) -> None:
        if self.window.exhausted and self.state is SaState.ESTABLISHED:
            self._queue.clear()
            self._queue.append(informational.DeleteIkeSa("its Message IDs are used up"))  # §2.2
        while self._queue and self.window.may_send(self._queue[0]) and self._sends:
            task = self._queue.popleft()
            payloads = task.build_request(self, now)
            if payloads is not None:
                self._exchanges.send(task, payloads, now)

    def _retry(self, now: float) -> None:
        for at, task in sorted(self._delayed, key=lambda waiting: waiting[0]):
            if at <= now:
                self._delayed.remove((at, task))
                self._queue.append(task)
            else:
                self.timers.set_earlier(Timer.RETRY, at)

    def _probe(self, now: float) -> None:
        if self.state is SaState.ESTABLISHED:
            self.timers.arm_liveness(now)
        if self.window.outstanding is None and not self._queue:
            self._queue.append(informational.Liveness())
