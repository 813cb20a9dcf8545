"""The exchanges of one IKE SA (RFC 7296 §2.1-§2.4, §2.21): from a datagram to a message that is acted on, and back.

A request of the peer's is judged by its Message ID and by the table, processed, and answered at once or when its
question is; a response ends the exchange that waits for it. Requests of ours leave one by one, as the SA hands them
over, and again until they are answered. What a message does to the SA is a task's affair; when our next request
may leave, the SA's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocols.errors import AuthenticationError, LocalError, NegotiationError, RemoteError
from protocols.ikev2.events import Answer, MessageReceived, MessageSent, SaState
from protocols.ikev2.fragment import PROBE_RETRANSMISSIONS
from protocols.ikev2.message import Header, Message, decode_header, message_of
from protocols.ikev2.opening import UnprotectedMessage, open_datagram, repeats_answered
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import INITIAL_EXCHANGES, ExchangeType, NotifyType
from protocols.ikev2.spi import NO_SPI
from protocols.ikev2.table import Procedure, procedure_for
from protocols.ikev2.task import Response, Task
from protocols.ikev2.tasks import auth, crash_detection, create_child, init, intermediate, mobike, redirect
from protocols.ikev2.timing import Timer
from protocols.ikev2.window import PEER_SIZE_MAXIMUM, Disposition, OutstandingRequest, Received, Sent
from protocols.path import Datagram, Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

INIT_REFUSAL_INTERVAL = 1.5  # §2.21.1: "continue trying for some time": two retransmissions by default

# acts on a legal request: the response, ``None`` when that has to wait for the answer to a question
Process = Callable[[Procedure, Message, Datagram, float], Response | None]


class Exchanges:
    """Receives for an IKE SA, responds, and sends its requests until they are answered."""

    def __init__(self, sa: IkeSa) -> None:
        self._sa = sa
        self._deferred_id: int | None = None
        self._init_error: RemoteError | None = None

    # --- receiving

    def receive(self, datagram: Datagram, now: float, process: Process) -> None:
        """Take a datagram for this SA; hostile octets are dropped and counted in ``dropped``."""
        sa = self._sa
        if sa.state is SaState.CLOSED:
            sa.dropped["closed"] += 1
            return
        if sa.mobility.suspended:
            sa.dropped["suspended"] += 1
            return
        try:
            header = decode_header(datagram.payload)
        except RemoteError:
            sa.dropped["malformed"] += 1
            return
        try:
            received = open_datagram(sa, header, datagram, now)
        except UnprotectedMessage as found:
            self._take_hint(found.message, now)
            return
        except RemoteError as error:
            sa.dropped["bad-icv" if isinstance(error, AuthenticationError) else "malformed"] += 1
            if error.notify_type is not None:
                self._take_undecodable(header, error, datagram.path, now)
            return
        if received is None:
            return
        if header.response:
            self._receive_response(received, datagram, now)
        else:
            self._receive_request(received, datagram, now, process)
        sa.resume(now)

    def answer_again(self, datagram: Datagram) -> tuple[Datagram, ...]:
        """What the last response of an ended SA was, if this is its request again: it may have been lost (§2.1)."""
        header = decode_header(datagram.payload)
        if not repeats_answered(self._sa, header, datagram.payload):
            return ()
        known = self._sa.window.answer_to(header.message_id)
        return () if known is None else tuple(Datagram(datagram.path, piece) for piece in known.response.datagrams)

    def answer(self, answer: Answer, now: float) -> None:
        """Answer the question that is open, and by that the request that waits for it, if one does."""
        sa = self._sa
        deferred = sa.deferred
        if deferred is None:
            raise LocalError(f"no question is open in state {sa.state.value}")
        sa.deferred = None
        request = None if self._deferred_id is None else sa.window.in_progress(self._deferred_id)
        try:
            response = deferred.answer(sa, answer, now)
        except RemoteError as error:
            response = self._refuse(error)
        if response is not None and request is not None:
            self._deferred_id = None
            self._respond(response, request, now)

    def give_up(self, now: float) -> None:
        """No better response than the refusal that nobody signed came: it ends the attempt (§2.21.1)."""
        if self._init_error is not None:
            auth.fail(self._sa, self._init_error, now)

    def _take_undecodable(self, header: Header, error: RemoteError, path: Path, now: float) -> None:
        """An authentic message that does not parse: a request is answered, a response ends its exchange (§2.21)."""
        sa = self._sa
        if header.response:
            request = sa.window.request_for(header)
            if request is not None:
                self._complete(request)
                auth.fail(sa, error, now)
            return
        disposition = sa.window.classify(header.message_id)
        request_again = Received(message=message_of(header, ()), path=path)
        if disposition is Disposition.ANSWERED:
            self._respond_again(request_again)
        elif disposition is Disposition.NEW:
            sa.window.begin(request_again)
            self._respond(self._refuse(error), request_again, now)

    def _take_hint(self, message: Message, now: float) -> None:
        """What is not protected changes nothing; at most it is a hint, unless it carries the peer's token."""
        sa = self._sa
        sa.dropped["unprotected"] += 1
        crash_detection.unprotected(sa, message, now)
        sa.resume(now)

    def _receive_request(self, received: Received, datagram: Datagram, now: float, process: Process) -> None:
        sa = self._sa
        message = received.message
        disposition = sa.window.classify(message.message_id)
        if disposition is Disposition.OUT_OF_WINDOW:
            sa.dropped["out-of-window"] += 1
            return
        again = disposition is not Disposition.NEW
        if not again and self._deferred_id is not None:
            sa.dropped["busy"] += 1  # one question at a time is open; the request will come again
            return
        sa.emit(
            MessageReceived(message=message, path=received.path, retransmission=again, fragments=received.fragments)
        )
        if disposition is Disposition.ANSWERED:
            self._respond_again(received)
            mobike.heard_again(sa, message, received.path, now)
            return
        if disposition is Disposition.IN_PROGRESS:
            sa.window.begin(received)
            return
        try:
            procedure = procedure_for(message, sa.role, sa.state)
            if procedure is None:
                sa.dropped["not-legal-now"] += 1
                return
            sa.window.begin(received)
            self._heard(message, now)
            mobike.heard_from(sa, received.path, now)
            response = process(procedure, message, datagram, now)
        except RemoteError as error:
            sa.window.begin(received)
            response = self._refuse(error)
            if response.close is None and isinstance(error, NegotiationError):
                create_child.tell_refused(sa, message, error)
        if response is not None:
            self._respond(response, received, now)
        else:
            self._deferred_id = message.message_id

    def _receive_response(self, received: Received, datagram: Datagram, now: float) -> None:
        sa = self._sa
        message = received.message
        request = sa.window.request_for(message)
        if request is None:
            sa.dropped["unexpected-response"] += 1
            return
        if redirect.to_be_discarded(sa, request.sent.message, message):
            return
        sa.emit(MessageReceived(message=message, path=received.path, fragments=received.fragments))
        self._complete(request)
        initial = message.exchange in INITIAL_EXCHANGES
        if initial:
            sa.init_response = datagram.payload
        self._heard(message, now)
        mobike.answered(sa, received.path, now)
        mobike.heard_from(sa, received.path, now)
        try:
            request.task.process_response(sa, message, received.path, now)
        except RemoteError as error:
            if initial and sa.state is SaState.INIT_SENT:
                self._doubt(request, error, now)
            else:
                auth.fail(sa, error, now)
            return
        if initial:
            sa.timers.cancel(Timer.INIT_REFUSED)
            self._init_error = None

    def _complete(self, request: OutstandingRequest) -> None:
        self._sa.fragmentation.confirmed(request.sent)
        self._sa.window.completed(request)
        self._arm_retransmission()

    def _doubt(self, request: OutstandingRequest, error: RemoteError, now: float) -> None:
        """Nobody signed this refusal: for a while a better response may come (§2.21.1)."""
        sa = self._sa
        sa.window.reinstate(request)
        self._arm_retransmission()
        if self._init_error is None:
            self._init_error = error
            policy = sa.config.retransmission
            interval = min(INIT_REFUSAL_INTERVAL, policy.interval(0) + policy.interval(1))
            sa.timers.set(Timer.INIT_REFUSED, now + interval)

    def _heard(self, message: Message, now: float) -> None:
        sa = self._sa
        sa.heard(now)
        crash_detection.take(sa, message)
        announced = message.notify(NotifyType.SET_WINDOW_SIZE)
        if announced is not None and message.exchange not in INITIAL_EXCHANGES and len(announced.data) == 4:
            # §2.3: it can only be increased
            size = min(int.from_bytes(announced.data, "big"), PEER_SIZE_MAXIMUM)
            sa.window.peer_size = max(sa.window.peer_size, size)

    # --- sending

    def send(self, task: Task, payloads: tuple[Payload, ...], now: float) -> None:
        """Send a request of ours; it is sent again until its response has come."""
        sa = self._sa
        message = Message(
            spi_i=sa.spi_i,
            spi_r=sa.spi_r,
            exchange=task.exchange,
            original_initiator=sa.original_initiator,
            response=False,
            message_id=sa.window.next_request_id,
            payloads=payloads,
        )
        sent = sa.fragmentation.encode(sa.sealer, message, sa.path, sa.fragmentation.size)
        if task.exchange in INITIAL_EXCHANGES:
            sa.init_request = sent.datagrams[0]
        sa.window.send(task, sent, now)
        self._arm_retransmission()
        self._transmit(sent, sa.path)

    def repeat_on(self, path: Path) -> None:
        """Send the oldest outstanding request on this path as well, with the same Message ID (RFC 4555 §3.1, §3.10)."""
        if self._sa.window.outstanding is not None:
            self._sa.window.retransmissions_sent += 1
            self._transmit(self._sa.window.outstanding.sent, path, retransmission=True)

    def retransmit(self, now: float) -> None:
        """Send again what is due, or give up (§2.4)."""
        sa = self._sa
        for request in sa.window.due(now):
            if request.attempt >= PROBE_RETRANSMISSIONS:
                smaller = sa.fragmentation.smaller(sa.sealer, request.sent, sa.path)
                if smaller is not None:  # RFC 7383 §2.5.2: "MUST reset its retransmission timers"
                    request.sent, request.attempt = smaller, -1
            if not sa.window.retransmit(request, now):
                if sa.mobility.in_doubt:
                    mobike.check_expired(sa, now)  # the address may be to blame, not the peer
                    return
                again = mobike.held_until(sa, now)
                if again is None and self._init_error is not None:
                    self.give_up(now)
                    return
                if again is None:
                    sa.close("no response to our request within the retransmission limit", now)
                    return
                request.due = again
                sa.window.retransmissions_sent += 1
            self._transmit(request.sent, sa.path, retransmission=True)
            if sa.state is SaState.INIT_SENT:
                init.try_elsewhere(sa, request.attempt)
        self._arm_retransmission()
        mobike.unanswered(sa, now)

    def forget_requests(self) -> None:
        """Send nothing of what is outstanding again, nor wait for the responses (§2.8.2)."""
        self._sa.window.forget()
        self._arm_retransmission()

    def _refuse(self, error: RemoteError) -> Response:
        """The error response of §2.21: before the SA is up it ends the SA, and so does INVALID_SYNTAX."""
        notify = NotifyType(error.notify_type or NotifyType.INVALID_SYNTAX)
        payload = NotifyPayload(type=notify, data=error.notify_data)
        fatal = self._sa.state not in (SaState.ESTABLISHED, SaState.DELETING) or notify == NotifyType.INVALID_SYNTAX
        if fatal:
            auth.report_refusal(self._sa, str(error), payload, error.reason, error.facts)
        return Response(payloads=(payload,), close=str(error) if fatal else None)

    def _respond(self, response: Response, request: Received, now: float) -> None:
        sa = self._sa
        exchange = request.message.exchange
        # §2.6: "the responder's SPI will be zero" where IKE_SA_INIT does not make an SA
        no_sa = response.close is not None and exchange in INITIAL_EXCHANGES
        message = Message(
            spi_i=sa.spi_i,
            spi_r=NO_SPI if no_sa else sa.spi_r,
            exchange=exchange,
            original_initiator=sa.original_initiator,
            response=True,
            message_id=request.message.message_id,
            payloads=response.payloads,
        )
        size = sa.fragmentation.response_size(request)
        sent = sa.fragmentation.encode(sa.sealer, message, request.path, size)
        if exchange in INITIAL_EXCHANGES:
            sa.init_response = sent.datagrams[0]
        sa.window.answered(request, sent)
        self._transmit(sent, request.path)
        if response.close is not None:
            sa.close(response.close, now, by_peer=response.by_peer)
        elif exchange == ExchangeType.IKE_INTERMEDIATE:
            intermediate.answered(sa, request.message, message, now)

    def _respond_again(self, request: Received) -> None:
        sa = self._sa
        known = sa.window.answer_to(request.message.message_id)
        if known is None:
            return
        known.repeated += 1
        if known.repeated > PROBE_RETRANSMISSIONS:
            # RFC 7383 §2.4: "receiving repeated retransmissions of the request" tells that the response is lost
            smaller = sa.fragmentation.smaller(sa.sealer_for(request.message), known.response, request.path)
            known.response = smaller or known.response
        self._transmit(known.response, request.path, retransmission=True)

    def _transmit(self, sent: Sent, path: Path, *, retransmission: bool = False) -> None:
        for octets in sent.datagrams:
            self._sa.transmit(Datagram(path, octets))
        self._sa.emit(
            MessageSent(message=sent.message, path=path, retransmission=retransmission, fragments=len(sent.datagrams))
        )

    def _arm_retransmission(self) -> None:
        sa = self._sa
        due = sa.window.next_retransmission()
        if due is None:
            sa.timers.cancel(Timer.RETRANSMIT)
        else:
            sa.timers.set(Timer.RETRANSMIT, due)
