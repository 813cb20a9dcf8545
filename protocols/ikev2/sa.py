"""One IKE SA (RFC 7296), the same class for both ends: receives, decides by the table, lets tasks speak.

Sans-IO: ``receive``, ``handle_timeout``, ``initiate`` and ``answer`` come in; ``poll_transmit``,
``poll_event`` and ``next_deadline`` go out. The original role belongs to the SA; who sent a request
belongs to the task.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from protocols.entropy import Entropy
from protocols.errors import AuthenticationError, LocalError, RemoteError
from protocols.ikev2.config import IkeConfig, InitiatorConfig, ResponderConfig
from protocols.ikev2.events import (
    Answer,
    ChildSaRemoved,
    Closed,
    Event,
    IkeKeysDerived,
    MessageReceived,
    MessageSent,
    NatStatus,
    OriginalRole,
    SaState,
    StateChanged,
)
from protocols.ikev2.extension import Extension, NoExtension
from protocols.ikev2.fragment import PROBE_RETRANSMISSIONS, Fragmentation
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import Header, Message, decode_header, message_of
from protocols.ikev2.opening import UnprotectedMessage, open_datagram, repeats_answered
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import INITIAL_EXCHANGES, ExchangeType, HashAlgorithmId, NotifyType
from protocols.ikev2.sealer import MessageSealer, Sealer
from protocols.ikev2.spi import NO_SPI, RandomSpis, SpiAllocator
from protocols.ikev2.suites import IkeSuite
from protocols.ikev2.table import Procedure, procedure_for
from protocols.ikev2.task import Deferred, Response, Task
from protocols.ikev2.tasks import (
    auth,
    child,
    crash_detection,
    create_child,
    followup_ke,
    ike_auth,
    informational,
    init,
    intermediate,
    lifetime,
    mobike,
    reauthentication,
    redirect,
    rekey_child,
    rekey_ike,
    resume,
    tickets,
)
from protocols.ikev2.timing import SaTimers, Timer
from protocols.ikev2.window import PEER_SIZE_MAXIMUM, Disposition, OutstandingRequest, Received, Sent, Window
from protocols.path import Datagram, Endpoint, Path

KEEPALIVE = b"\xff"  # RFC 3948 §2.3: the one datagram without a non-ESP marker
INIT_REFUSAL_INTERVAL = 1.5  # §2.21.1: "continue trying for some time": two retransmissions by default


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
        self._deferred_id: int | None = None
        self._init_error: RemoteError | None = None
        self._delayed: list[tuple[float, Task]] = []
        self._transmits: deque[Datagram] = deque()
        self._events: deque[Event] = deque()

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

    def move(self, path: Path, now: float) -> None:
        """Send from and to other addresses from now on and tell the peer (RFC 4555 §3.5)."""
        if self.state is not SaState.ESTABLISHED:
            raise LocalError(f"cannot move in state {self.state.value}")
        if not self.first_initiator:
            raise LocalError("only the first initiator moves an IKE SA (RFC 4555 §1.3, §3.5)")
        if not self.mobility.negotiated:
            raise LocalError("the peer does not support MOBIKE")
        self.mobility.gain(path.local)
        mobike.UpdateAddresses(path).start(self, now)
        self._pump(now)

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
        if self.window.outstanding is not None:
            self._transmit(self.window.outstanding.sent, path, retransmission=True)

    def later(self, task: Task, at: float) -> None:
        """Queue a request at a later moment."""
        self._delayed.append((at, task))
        self.timers.set_earlier(Timer.RETRY, at)

    def answer(self, answer: Answer, now: float) -> None:
        """Answer the question that is open (``LocalError`` when none is)."""
        deferred = self.deferred
        if deferred is None:
            raise LocalError(f"no question is open in state {self.state.value}")
        self.deferred = None
        request = None if self._deferred_id is None else self.window.in_progress(self._deferred_id)
        try:
            response = deferred.answer(self, answer, now)
        except RemoteError as error:
            response = self._refuse(error)
        if response is not None and request is not None:
            self._deferred_id = None
            self._respond(response, request, now)
        self._pump(now)

    def receive(self, datagram: Datagram, now: float) -> None:
        """Take a datagram for this SA; hostile octets are dropped and counted in ``dropped``."""
        if self.state is SaState.CLOSED:
            self.dropped["closed"] += 1
            return
        if self.mobility.suspended:
            self.dropped["suspended"] += 1
            return
        try:
            header = decode_header(datagram.payload)
        except RemoteError:
            self.dropped["malformed"] += 1
            return
        try:
            received = open_datagram(self, header, datagram, now)
        except UnprotectedMessage as found:
            self._take_hint(found.message, now)
            return
        except RemoteError as error:
            self.dropped["bad-icv" if isinstance(error, AuthenticationError) else "malformed"] += 1
            if error.notify_type is not None:
                self._take_undecodable(header, error, datagram.path, now)
            return
        if received is None:
            return
        if header.response:
            self._receive_response(received, datagram, now)
        else:
            self._receive_request(received, datagram, now)
        self._pump(now)

    def answer_again(self, datagram: Datagram) -> tuple[Datagram, ...]:
        """What the last response of an ended SA was, if this is its request again: it may have been lost (§2.1)."""
        header = decode_header(datagram.payload)
        if not repeats_answered(self, header, datagram.payload):
            return ()
        known = self.window.answer_to(header.message_id)
        return () if known is None else tuple(Datagram(datagram.path, piece) for piece in known.response.datagrams)

    def handle_timeout(self, now: float) -> None:
        """Run the timers that are due."""
        for timer in self.timers.expired(now):
            if self.state is SaState.CLOSED:
                return
            if timer is Timer.RETRANSMIT:
                self._retransmit(now)
            elif timer is Timer.SETUP:
                self.close("the set-up was not completed in time", now)
            elif timer is Timer.LIVENESS:
                self._probe(now)
            elif timer is Timer.KEEPALIVE:
                self._transmits.append(Datagram(self.path, KEEPALIVE))
                self.timers.arm_keepalive(now, behind_nat=self.nat.local)
            elif timer is Timer.CHILD_LIFETIME:
                rekey_child.child_due(self, now)
            elif timer is Timer.RETIRED:
                child.remove_retired(self, now)
            elif timer is Timer.IKE_REKEY:
                self._queue.append(rekey_ike.RekeyIke())
            elif timer is Timer.IKE_EXPIRY:
                lifetime.expire(self, "the hard lifetime of the IKE SA is over and no rekey replaced it", now)
            elif timer is Timer.SUPERSEDED:
                self.close("it was over and nobody deleted it", now)
            elif timer is Timer.AUTHENTICATION:
                reauthentication.due(self, now)
            elif timer is Timer.RETRY:
                self._retry(now)
            elif timer is Timer.RETURN_ROUTABILITY:
                mobike.check_expired(self, now)
            elif timer is Timer.CHECK_AGAIN:
                mobike.check_again(self)
            elif timer is Timer.FOLLOWUP_KE:
                self.followups.expire(self, now)
            elif timer is Timer.PATH_TEST:
                mobike.probe_next(self, now)
            elif timer is Timer.INIT_REFUSED and self._init_error is not None:
                auth.fail(self, self._init_error, now)
            elif timer is Timer.REDIRECTED:
                redirect.overdue(self, now)
            elif timer is Timer.TICKET:
                tickets.refresh_due(self)
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
        self.window.forget()
        self._arm_retransmission()

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

    # --- receiving

    def _take_undecodable(self, header: Header, error: RemoteError, path: Path, now: float) -> None:
        """An authentic message that does not parse: a request is answered, a response ends its exchange (§2.21)."""
        if header.response:
            request = self.window.request_for(header)
            if request is not None:
                self._complete(request)
                auth.fail(self, error, now)
            return
        disposition = self.window.classify(header.message_id)
        request_again = Received(message=message_of(header, ()), path=path)
        if disposition is Disposition.ANSWERED:
            self._respond_again(request_again)
        elif disposition is Disposition.NEW:
            self.window.begin(request_again)
            self._respond(self._refuse(error), request_again, now)

    def _take_hint(self, message: Message, now: float) -> None:
        """What is not protected changes nothing; at most it is a hint, unless it carries the peer's token."""
        self.dropped["unprotected"] += 1
        crash_detection.unprotected(self, message, now)
        self._pump(now)

    def _receive_request(self, received: Received, datagram: Datagram, now: float) -> None:
        message = received.message
        disposition = self.window.classify(message.message_id)
        if disposition is Disposition.OUT_OF_WINDOW:
            self.dropped["out-of-window"] += 1
            return
        again = disposition is not Disposition.NEW
        if not again and self._deferred_id is not None:
            self.dropped["busy"] += 1  # one question at a time is open; the request will come again
            return
        self.emit(
            MessageReceived(message=message, path=received.path, retransmission=again, fragments=received.fragments)
        )
        if disposition is Disposition.ANSWERED:
            self._respond_again(received)
            mobike.heard_again(self, message, received.path, now)
            return
        if disposition is Disposition.IN_PROGRESS:
            self.window.begin(received)
            return
        try:
            procedure = procedure_for(message, self.role, self.state)
            if procedure is None:
                self.dropped["not-legal-now"] += 1
                return
            self.window.begin(received)
            self._heard(message, now)
            mobike.heard_from(self, received.path, now)
            response = self._process(procedure, message, datagram, now)
        except RemoteError as error:
            self.window.begin(received)
            response = self._refuse(error)
        if response is not None:
            self._respond(response, received, now)
        else:
            self._deferred_id = message.message_id

    def _process(self, procedure: Procedure, message: Message, datagram: Datagram, now: float) -> Response | None:
        path = datagram.path
        if procedure is Procedure.INIT:
            return init.process_request(self, message, datagram, now)
        if procedure is Procedure.RESUME:
            return resume.process_request(self, message, datagram, now)
        if procedure is Procedure.INFORMATIONAL:
            rekey_ike.used_by_peer(self, message, now)
            redirect.process_request(self, message, now)
            return informational.process_request(self, message, path, now)
        if procedure is Procedure.CREATE_CHILD:
            rekey_ike.used_by_peer(self, message, now)
            mobike.rekeyed_from(self, message, path, now)
            return create_child.process_request(self, message, now)
        if procedure is Procedure.FOLLOWUP_KE:
            return followup_ke.process_request(self, message, now)
        self.path = path  # until the SA is up its path is where authentic requests come from (§2.11)
        self.mobility.validated = path
        if procedure is Procedure.INTERMEDIATE:
            return intermediate.process_request(self, message)
        if self.resumption.presented is not None:
            resume.process_auth(self, message, now)
            return None
        ike_auth.process_request(self, procedure, message, now)
        return None

    def _receive_response(self, received: Received, datagram: Datagram, now: float) -> None:
        message = received.message
        request = self.window.request_for(message)
        if request is None:
            self.dropped["unexpected-response"] += 1
            return
        if redirect.to_be_discarded(self, request.sent.message, message):
            return
        self.emit(MessageReceived(message=message, path=received.path, fragments=received.fragments))
        self._complete(request)
        initial = message.exchange in INITIAL_EXCHANGES
        if initial:
            self.init_response = datagram.payload
        self._heard(message, now)
        mobike.answered(self, received.path, now)
        mobike.heard_from(self, received.path, now)
        try:
            request.task.process_response(self, message, received.path, now)
        except RemoteError as error:
            if initial and self.state is SaState.INIT_SENT:
                self._doubt(request, error, now)
            else:
                auth.fail(self, error, now)
            return
        if initial:
            self.timers.cancel(Timer.INIT_REFUSED)
            self._init_error = None

    def _complete(self, request: OutstandingRequest) -> None:
        self.fragmentation.confirmed(request.sent)
        self.window.completed(request)
        self._arm_retransmission()

    def _doubt(self, request: OutstandingRequest, error: RemoteError, now: float) -> None:
        """Nobody signed this refusal: for a while a better response may come (§2.21.1)."""
        self.window.reinstate(request)
        self._arm_retransmission()
        if self._init_error is None:
            self._init_error = error
            policy = self.config.retransmission
            interval = min(INIT_REFUSAL_INTERVAL, policy.interval(0) + policy.interval(1))
            self.timers.set(Timer.INIT_REFUSED, now + interval)

    # --- sending

    def _refuse(self, error: RemoteError) -> Response:
        """The error response of §2.21: before the SA is up it ends the SA, and so does INVALID_SYNTAX."""
        notify = NotifyType(error.notify_type or NotifyType.INVALID_SYNTAX)
        payload = NotifyPayload(type=notify, data=error.notify_data)
        fatal = self.state not in (SaState.ESTABLISHED, SaState.DELETING) or notify == NotifyType.INVALID_SYNTAX
        if fatal:
            auth.report_refusal(self, str(error), payload)
        return Response(payloads=(payload,), close=str(error) if fatal else None)

    def _respond(self, response: Response, request: Received, now: float) -> None:
        exchange = request.message.exchange
        # §2.6: "the responder's SPI will be zero" where IKE_SA_INIT does not make an SA
        no_sa = response.close is not None and exchange in INITIAL_EXCHANGES
        message = Message(
            spi_i=self.spi_i,
            spi_r=NO_SPI if no_sa else self.spi_r,
            exchange=exchange,
            original_initiator=self.original_initiator,
            response=True,
            message_id=request.message.message_id,
            payloads=response.payloads,
        )
        size = self.fragmentation.response_size(request)
        sent = self.fragmentation.encode(self.sealer, message, request.path, size)
        if exchange in INITIAL_EXCHANGES:
            self.init_response = sent.datagrams[0]
        self.window.answered(request, sent)
        self._transmit(sent, request.path)
        if response.close is not None:
            self.close(response.close, now, by_peer=response.by_peer)
        elif exchange == ExchangeType.IKE_INTERMEDIATE:
            intermediate.answered(self, request.message, message, now)

    def _respond_again(self, request: Received) -> None:
        known = self.window.answer_to(request.message.message_id)
        if known is None:
            return
        known.repeated += 1
        if known.repeated > PROBE_RETRANSMISSIONS:
            # RFC 7383 §2.4: "receiving repeated retransmissions of the request" tells that the response is lost
            smaller = self.fragmentation.smaller(self.sealer_for(request.message), known.response, request.path)
            known.response = smaller or known.response
        self._transmit(known.response, request.path, retransmission=True)

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
                self._send_request(task, payloads, now)

    def _send_request(self, task: Task, payloads: tuple[Payload, ...], now: float) -> None:
        message = Message(
            spi_i=self.spi_i,
            spi_r=self.spi_r,
            exchange=task.exchange,
            original_initiator=self.original_initiator,
            response=False,
            message_id=self.window.next_request_id,
            payloads=payloads,
        )
        sent = self.fragmentation.encode(self.sealer, message, self.path, self.fragmentation.size)
        if task.exchange in INITIAL_EXCHANGES:
            self.init_request = sent.datagrams[0]
        self.window.send(task, sent, now)
        self._arm_retransmission()
        self._transmit(sent, self.path)

    def _transmit(self, sent: Sent, path: Path, *, retransmission: bool = False) -> None:
        self._transmits.extend(Datagram(path, octets) for octets in sent.datagrams)
        self.emit(
            MessageSent(message=sent.message, path=path, retransmission=retransmission, fragments=len(sent.datagrams))
        )

    def _arm_retransmission(self) -> None:
        due = self.window.next_retransmission()
        if due is None:
            self.timers.cancel(Timer.RETRANSMIT)
        else:
            self.timers.set(Timer.RETRANSMIT, due)

    def _retransmit(self, now: float) -> None:
        for request in self.window.due(now):
            if request.attempt >= PROBE_RETRANSMISSIONS:
                smaller = self.fragmentation.smaller(self.sealer, request.sent, self.path)
                if smaller is not None:  # RFC 7383 §2.5.2: "MUST reset its retransmission timers"
                    request.sent, request.attempt = smaller, -1
            if not self.window.retransmit(request, now):
                if self.mobility.in_doubt:
                    mobike.check_expired(self, now)  # the address may be to blame, not the peer
                    return
                again = mobike.held_until(self, now)
                if again is None:
                    self.close("no response to our request within the retransmission limit", now)
                    return
                request.due = again
                self.window.retransmissions_sent += 1
            self._transmit(request.sent, self.path, retransmission=True)
            if self.state is SaState.INIT_SENT:
                init.try_elsewhere(self, request.attempt)
        self._arm_retransmission()
        mobike.unanswered(self, now)

    def _retry(self, now: float) -> None:
        for at, task in sorted(self._delayed, key=lambda waiting: waiting[0]):
            if at <= now:
                self._delayed.remove((at, task))
                self._queue.append(task)
            else:
                self.timers.set_earlier(Timer.RETRY, at)

    def _heard(self, message: Message, now: float) -> None:
        self.heard(now)
        crash_detection.take(self, message)
        announced = message.notify(NotifyType.SET_WINDOW_SIZE)
        if announced is not None and message.exchange not in INITIAL_EXCHANGES and len(announced.data) == 4:
            # §2.3: it can only be increased
            size = min(int.from_bytes(announced.data, "big"), PEER_SIZE_MAXIMUM)
            self.window.peer_size = max(self.window.peer_size, size)

    def _probe(self, now: float) -> None:
        if self.state is SaState.ESTABLISHED:
            self.timers.arm_liveness(now)
        if self.window.outstanding is None and not self._queue:
            self._queue.append(informational.Liveness())
