"""One IKE SA (RFC 7296), the same class for both ends: receives, decides by the table, lets tasks speak.

Sans-IO: ``receive``, ``handle_timeout``, ``initiate`` and ``answer`` come in; ``poll_transmit``,
``poll_event`` and ``next_deadline`` go out. The original role belongs to the SA; who sent a request
belongs to the task.
"""

from __future__ import annotations

from collections import Counter, deque

from protocols.entropy import Entropy
from protocols.errors import AuthenticationError, DecodeError, LocalError, RemoteError
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
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import Header, Message, decode_header, decode_message, encode_message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import INITIAL_EXCHANGES, ExchangeType, HashAlgorithmId, NotifyType
from protocols.ikev2.sealer import MessageSealer, Sealer
from protocols.ikev2.spi import RandomSpis, SpiAllocator
from protocols.ikev2.suites import IkeSuite
from protocols.ikev2.table import Procedure, procedure_for
from protocols.ikev2.task import Deferred, Response, Task
from protocols.ikev2.tasks import auth, child, eap, informational, init, redirect, rekey_child, resume, tickets
from protocols.ikev2.tasks.mobike import Mobility, UpdateAddresses
from protocols.ikev2.timing import SaTimers, Timer
from protocols.ikev2.window import Disposition, Window
from protocols.path import Datagram, Path

NO_SPI = bytes(8)
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
        self.nonce_i = b""
        self.nonce_r = b""
        self.init_request = b""
        self.init_response = b""
        self.peer_hashes: frozenset[HashAlgorithmId] = frozenset()
        self.children: dict[bytes, child.ChildSa] = {}
        self.mobility = Mobility(path)
        self.redirect_supported = False
        self.resumption = tickets.Resumption()
        self.childless = False
        self.window = Window(config.retransmission)
        self.timers = SaTimers(config)
        self.dropped: Counter[str] = Counter()
        self.deferred: Deferred | None = None
        self.authenticator: eap.Authenticator | None = None
        self.created = now
        self._queue: deque[Task] = deque()
        self._task: Task | None = None
        self._answered: Message | None = None
        self._request_path = path
        self._request_exchange = ExchangeType.IKE_SA_INIT
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
        """Queue a request of ours; it leaves as soon as the window allows (size 1)."""
        if self.state is SaState.CLOSED:
            raise LocalError("the IKE SA is closed")
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
        UpdateAddresses(path).start(self, now)

    def enqueue(self, task: Task) -> None:
        """Queue a request from inside a task: it leaves after what is being built now."""
        self._queue.append(task)

    def answer(self, answer: Answer, now: float) -> None:
        """Answer the question that is open (``LocalError`` when none is)."""
        deferred = self.deferred
        if deferred is None:
            raise LocalError(f"no question is open in state {self.state.value}")
        self.deferred = None
        try:
            response = deferred.answer(self, answer, now)
        except RemoteError as error:
            response = self._refuse(error)
        if response is not None:
            self._respond(response, now)
        self._pump(now)

    def receive(self, datagram: Datagram, now: float) -> None:
        """Take a datagram for this SA; hostile octets are dropped and counted in ``dropped``."""
        if self.state is SaState.CLOSED:
            self.dropped["closed"] += 1
            return
        try:
            header = decode_header(datagram.payload)
            message = self._open(header, datagram, now)
        except RemoteError as error:
            self.dropped["bad-icv" if isinstance(error, AuthenticationError) else "malformed"] += 1
            return
        if message is None:
            return
        if message.response:
            self._receive_response(message, datagram, now)
        else:
            self._receive_request(message, datagram, now)
        self._pump(now)

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
                rekey_child.rekey_due(self, now)
            elif timer is Timer.RETURN_ROUTABILITY:
                self.mobility.check_expired(self, now)
            elif timer is Timer.CHECK_AGAIN:
                self.mobility.check_again(self)
            elif timer is Timer.REDIRECTED:
                redirect.overdue(self, now)
            elif timer is Timer.TICKET:
                tickets.refresh_due(self)
        self._pump(now)

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
        if self.window.restart_retransmission():
            self.timers.set(Timer.RETRANSMIT, now)

    def close(self, why: str, now: float, *, by_peer: bool = False) -> None:
        """End the SA and all its child SAs without another word."""
        del now
        if self.state is SaState.CLOSED:
            return
        if by_peer:
            tickets.revoke(self)
        for spi in list(self.children):
            del self.children[spi]
            self.emit(ChildSaRemoved(inbound_spi=spi, why=why))
        self.timers.clear()
        self._queue.clear()
        self.deferred = None
        self.enter(SaState.CLOSED, why)
        self.emit(Closed(why=why, by_peer=by_peer, resumed=self.resumption.superseded))

    # --- receiving

    def _open(self, header: Header, datagram: Datagram, now: float) -> Message | None:
        octets = datagram.payload
        if header.exchange in INITIAL_EXCHANGES:
            if not header.response and self.state is not SaState.INITIAL and octets != self.init_request:
                raise DecodeError("an unprotected request is taken as a retransmission only")
            return decode_message(octets)
        if self.sealer is None:
            raise DecodeError("protected message before keys")
        try:
            return self.sealer.open(octets, header)
        except DecodeError as error:
            if error.notify_type is not None and not header.response:
                self._refuse_undecodable(header, error, datagram.path, now)
            raise

    def _refuse_undecodable(self, header: Header, error: RemoteError, path: Path, now: float) -> None:
        """An authentic request that does not parse is answered, and fatal (§2.21.3) but for §2.5's case."""
        disposition = self.window.classify(header.message_id)
        if disposition is Disposition.ANSWERED:
            self._respond_again(path)
        elif disposition is Disposition.NEW:
            self.window.begin()
            self._request_exchange = header.exchange
            self._request_path = path
            self._respond(self._refuse(error), now)

    def _receive_request(self, message: Message, datagram: Datagram, now: float) -> None:
        disposition = self.window.classify(message.message_id)
        if disposition is Disposition.OUT_OF_WINDOW:
            self.dropped["out-of-window"] += 1
            return
        again = disposition is not Disposition.NEW
        self.emit(MessageReceived(message=message, path=datagram.path, retransmission=again))
        if disposition is Disposition.ANSWERED:
            self._respond_again(datagram.path)
            return
        self._request_path = datagram.path
        if disposition is Disposition.IN_PROGRESS:
            return
        try:
            procedure = procedure_for(message, self.role, self.state)
            if procedure is None:
                self.dropped["not-legal-now"] += 1
                return
            self.window.begin()
            self._request_exchange = message.exchange
            self._heard(now)
            response = self._process(procedure, message, datagram, now)
        except RemoteError as error:
            if not self.window.in_progress:
                self.window.begin()
                self._request_exchange = message.exchange
            response = self._refuse(error)
        if response is not None:
            self._respond(response, now)

    def _process(self, procedure: Procedure, message: Message, datagram: Datagram, now: float) -> Response | None:
        path = datagram.path
        if procedure is Procedure.INIT:
            return init.process_request(self, message, datagram, now)
        if procedure is Procedure.RESUME:
            return resume.process_request(self, message, datagram, now)
        if procedure is Procedure.INFORMATIONAL:
            redirect.process_request(self, message, now)
            return informational.process_request(self, message, path, now)
        if procedure is Procedure.CREATE_CHILD:
            return rekey_child.process_request(self, message, path, now)
        self.path = path  # until the SA is up its path is where authentic requests come from (§2.11)
        self.mobility.validated = path
        if self.resumption.presented is not None:
            resume.process_auth(self, message, now)
            return None
        eap.process_request(self, procedure, message, now)
        return None

    def _receive_response(self, message: Message, datagram: Datagram, now: float) -> None:
        task = self._task
        if task is None or task.exchange != message.exchange:
            self.dropped["unexpected-response"] += 1
            return
        if redirect.to_be_discarded(self, self._sent, message):
            return
        if not self.window.accept_response(message.message_id):
            self.dropped["unexpected-response"] += 1
            return
        self.emit(MessageReceived(message=message, path=datagram.path))
        self.timers.cancel(Timer.RETRANSMIT)
        self._task = None
        if message.exchange in INITIAL_EXCHANGES:
            self.init_response = datagram.payload
        self._heard(now)
        try:
            task.process_response(self, message, datagram.path, now)
        except RemoteError as error:
            auth.fail(self, error, now)

    # --- sending

    def _refuse(self, error: RemoteError) -> Response:
        """The error response of §2.21: before the SA is up it ends the SA, and so does INVALID_SYNTAX."""
        notify = NotifyType(error.notify_type or NotifyType.INVALID_SYNTAX)
        payload = NotifyPayload(type=notify, data=error.notify_data)
        fatal = self.state not in (SaState.ESTABLISHED, SaState.DELETING) or notify == NotifyType.INVALID_SYNTAX
        if fatal:
            auth.report_refusal(self, str(error), payload)
        return Response(payloads=(payload,), close=str(error) if fatal else None)

    def _respond(self, response: Response, now: float) -> None:
        message_id = self.window.begin()
        # §2.6: "the responder's SPI will be zero" where IKE_SA_INIT does not make an SA
        no_sa = response.close is not None and self._request_exchange in INITIAL_EXCHANGES
        message = Message(
            spi_i=self.spi_i,
            spi_r=NO_SPI if no_sa else self.spi_r,
            exchange=self._request_exchange,
            original_initiator=self.original_initiator,
            response=True,
            message_id=message_id,
            payloads=response.payloads,
        )
        octets = self._encode(message)
        if message.exchange in INITIAL_EXCHANGES:
            self.init_response = octets
        self.window.answered(octets)
        self._answered = message
        self._transmits.append(Datagram(self._request_path, octets))
        self.emit(MessageSent(message=message, path=self._request_path))
        if response.close is not None:
            self.close(response.close, now, by_peer=response.by_peer)

    def _respond_again(self, path: Path) -> None:
        self._transmits.append(Datagram(path, self.window.cached_response()))
        if self._answered is not None:
            self.emit(MessageSent(message=self._answered, path=path, retransmission=True))

    def _pump(self, now: float) -> None:
        while self._queue and self.window.outstanding is None and self.state is not SaState.CLOSED:
            task = self._queue.popleft()
            payloads = task.build_request(self, now)
            if payloads is None:
                continue
            self._task = task
            self._send_request(task.exchange, payloads, now)

    def _send_request(self, exchange: ExchangeType, payloads: tuple[Payload, ...], now: float) -> None:
        message = Message(
            spi_i=self.spi_i,
            spi_r=self.spi_r,
            exchange=exchange,
            original_initiator=self.original_initiator,
            response=False,
            message_id=self.window.next_request_id,
            payloads=payloads,
        )
        octets = self._encode(message)
        if exchange in INITIAL_EXCHANGES:
            self.init_request = octets
        interval = self.window.send(octets)
        self.timers.set(Timer.RETRANSMIT, now + interval)
        self._transmits.append(Datagram(self.path, octets))
        self.emit(MessageSent(message=message, path=self.path))
        self._sent = message

    def _encode(self, message: Message) -> bytes:
        if message.exchange in INITIAL_EXCHANGES:
            return encode_message(message)
        if self.sealer is None:
            raise LocalError("no keys to protect a message with")
        return self.sealer.seal(message)

    def _retransmit(self, now: float) -> None:
        again = self.window.retransmit()
        if again is None and self.mobility.in_doubt:
            self.mobility.check_expired(self, now)  # the address may be to blame, not the peer
            return
        if again is None:
            self.close("no response to our request within the retransmission limit", now)
            return
        octets, interval = again
        self.timers.set(Timer.RETRANSMIT, now + interval)
        self._transmits.append(Datagram(self.path, octets))
        self.emit(MessageSent(message=self._sent, path=self.path, retransmission=True))

    def _heard(self, now: float) -> None:
        if self.state is SaState.ESTABLISHED:
            self.timers.arm_liveness(now)

    def _probe(self, now: float) -> None:
        self._heard(now)
        if self.window.outstanding is None and not self._queue:
            self._queue.append(informational.Liveness())
