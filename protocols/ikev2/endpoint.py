"""One socket's worth of IKE SAs: SPI demultiplexing, COOKIE, half-open limit (RFC 7296 §2.1, §2.4, §2.6).

Sans-IO like ``IkeSa`` and the same for both ends. Events come with the SA they belong to.
"""

from __future__ import annotations

import contextlib
import heapq
import hmac
from collections import Counter, deque
from collections.abc import Callable

from protocols.entropy import Entropy
from protocols.errors import RemoteError
from protocols.ikev2.config import InitiatorConfig, ResponderConfig
from protocols.ikev2.events import (
    Answer,
    ChildSaInstalled,
    ChildSaRemoved,
    Event,
    OriginalRole,
    SaState,
    SuccessorCreated,
)
from protocols.ikev2.extension import Extension, NoExtension
from protocols.ikev2.message import Header, Message, decode_header, decode_message, encode_message
from protocols.ikev2.payloads import NoncePayload, NotifyPayload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.sa import NO_SPI, IkeSa
from protocols.ikev2.spi import RandomSpis
from protocols.ikev2.task import Task
from protocols.ikev2.tasks import rekey_child
from protocols.ikev2.tasks.init import Init
from protocols.ikev2.window import Disposition
from protocols.path import Datagram, Endpoint, Path

COOKIE_SECRET_LIFETIME = 60.0  # §2.6 leaves it to us
COOKIE_SECRET_LENGTH = 32
DEPARTED_KEPT = 256  # ended SAs whose last response may have to be sent again


class IkeEndpoint:
    """All IKE SAs behind one address (or, at a UE, one device)."""

    def __init__(
        self,
        *,
        entropy: Entropy,
        responder: ResponderConfig | None = None,
        extension: Callable[[], Extension] = NoExtension,
    ) -> None:
        self._entropy = entropy
        self._responder = responder
        self._extension = extension
        self.sas: dict[bytes, IkeSa] = {}
        self.dropped: Counter[str] = Counter()
        self._initial: dict[tuple[bytes, Endpoint], IkeSa] = {}
        self._initial_keys: dict[bytes, tuple[bytes, Endpoint]] = {}
        self._transmits: deque[Datagram] = deque()
        self._events: deque[tuple[IkeSa, Event]] = deque()
        # One entry of the heap is an SA's own, that in ``_armed``; what is left of earlier ones is passed over.
        self._deadlines: list[tuple[float, bytes]] = []
        self._armed: dict[bytes, float] = {}
        self._departed: dict[bytes, IkeSa] = {}
        self._child_spis: set[bytes] = set()
        self._spis = RandomSpis(entropy, self._child_spis, self.sas)
        self._secrets: deque[tuple[int, bytes]] = deque(maxlen=2)
        self._secret_made = float("-inf")

    # --- outputs

    def poll_transmit(self) -> Datagram | None:
        """The next datagram to send."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> tuple[IkeSa, Event] | None:
        """The next event and the SA it came from."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        while self._deadlines:
            at, spi = self._deadlines[0]
            sa = self.sas.get(spi)
            own = sa is not None and self._armed.get(spi) == at
            if sa is not None and own and sa.next_deadline() == at:
                return at
            heapq.heappop(self._deadlines)
            if sa is not None and own:
                del self._armed[spi]
                self._arm(sa)
        return None

    # --- inputs

    def connect(self, config: InitiatorConfig, path: Path, now: float) -> IkeSa:
        """Start an IKE SA as its original initiator."""
        sa = IkeSa(
            config,
            role=OriginalRole.INITIATOR,
            spi=self._spis.ike_spi(),
            path=path,
            entropy=self._entropy,
            now=now,
            spis=self._spis,
            extension=self._extension(),
        )
        self.sas[sa.local_spi] = sa
        sa.initiate(Init(), now)
        self._drain(sa)
        return sa

    def initiate(self, sa: IkeSa, task: Task, now: float) -> None:
        """Start a task on an SA."""
        sa.initiate(task, now)
        self._drain(sa)

    def move(self, sa: IkeSa, path: Path, now: float) -> None:
        """Move an SA to other addresses (RFC 4555 §3.5)."""
        sa.move(path, now)
        self._drain(sa)

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> None:
        """Answer the open question of an SA; ignored when the SA has gone meanwhile."""
        if sa.state is SaState.CLOSED:
            return
        sa.answer(answer, now)
        self._drain(sa)

    def limit_reached(self, sa: IkeSa, inbound_spi: bytes, now: float, *, hard: bool) -> None:
        """The data plane says that a child SA has carried as much as it should, or as it may (RFC 7296 §2.8)."""
        rekey_child.limit_reached(sa, inbound_spi, now, hard=hard)
        self._drain(sa)

    def close(self, sa: IkeSa, why: str, now: float) -> None:
        """Forget an SA without a word to the peer."""
        sa.close(why, now)
        self._drain(sa)

    def receive(self, datagram: Datagram, now: float) -> None:
        """Take an IKE datagram from the socket; what makes no sense is dropped and counted."""
        try:
            header = decode_header(datagram.payload)
        except RemoteError as error:
            self._reject(datagram, error)
            return
        spi = header.spi_r if header.original_initiator else header.spi_i
        sa = self.sas.get(spi) or self._departed.get(spi)
        if sa is None and header.exchange == ExchangeType.IKE_SA_INIT and header.original_initiator:
            self._receive_initial(header, datagram, now)
            return
        if sa is None:
            self.dropped["unknown-spi"] += 1
            return
        if sa.original_initiator == header.original_initiator or not self._belongs(sa, header):
            self.dropped["wrong-spi"] += 1
            return
        if sa.state is SaState.CLOSED:
            self._answer_again(sa, datagram)
            return
        sa.receive(datagram, now)
        self._drain(sa)

    def handle_timeout(self, now: float) -> None:
        """Run what is due."""
        while (at := self.next_deadline()) is not None and at <= now:
            _, spi = heapq.heappop(self._deadlines)
            del self._armed[spi]
            sa = self.sas[spi]
            sa.handle_timeout(now)
            self._drain(sa)

    @property
    def half_open(self) -> int:
        """Responder SAs whose set-up is not finished."""
        return len(self._initial)

    # --- IKE_SA_INIT requests

    def _receive_initial(self, header: Header, datagram: Datagram, now: float) -> None:
        config = self._responder
        if config is None or header.response or header.spi_r != NO_SPI or header.spi_i == NO_SPI:
            self.dropped["unknown-spi"] += 1
            return
        key = (header.spi_i, datagram.path.remote)
        known = self._initial.get(key)
        if known is not None:
            if datagram.payload == known.init_request:
                known.receive(datagram, now)  # a retransmission: the same answer (§2.1)
                self._drain(known)
            else:
                self.dropped["initial-mismatch"] += 1
            return
        try:
            message = decode_message(datagram.payload)
        except RemoteError as error:
            if error.notify_type == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD:
                # §2.5: "the message MUST be rejected", and the answer names the type
                notify = NotifyPayload(type=NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, data=error.notify_data)
                self._answer_statelessly(header.spi_i, header.message_id, header.exchange, notify, datagram.path)
            self._reject(datagram, error)
            return
        if header.message_id != 0:
            self.dropped["malformed"] += 1
            return
        if self.half_open >= config.half_open_limit:
            self.dropped["half-open-limit"] += 1
            return
        if self.half_open >= config.cookie_threshold and not self._cookie_ok(message, datagram, now):
            return
        sa = IkeSa(
            config,
            role=OriginalRole.RESPONDER,
            spi=self._spis.ike_spi(),
            peer_spi=header.spi_i,
            path=datagram.path,
            entropy=self._entropy,
            now=now,
            spis=self._spis,
            extension=self._extension(),
        )
        self.sas[sa.local_spi] = sa
        self._initial[key] = sa
        self._initial_keys[sa.local_spi] = key
        sa.receive(datagram, now)
        self._drain(sa)

    def _cookie_ok(self, message: Message, datagram: Datagram, now: float) -> bool:
        """Whether the request returns a cookie of ours; if not it is asked for one, statelessly (§2.6)."""
        nonce = message.first(NoncePayload)
        if nonce is None:
            self.dropped["malformed"] += 1
            return False
        if now - self._secret_made >= COOKIE_SECRET_LIFETIME:
            version = (self._secrets[-1][0] + 1) % 256 if self._secrets else 0
            self._secrets.append((version, self._entropy.octets(COOKIE_SECRET_LENGTH)))
            self._secret_made = now
        source = datagram.path.remote
        material = nonce.data + source.address.packed + message.spi_i
        returned = message.notify(NotifyType.COOKIE)
        if returned is not None:
            for version, secret in self._secrets:
                if hmac.compare_digest(returned.data, _cookie(version, secret, material)):
                    return True
        self.dropped["cookie-demanded"] += 1
        version, secret = self._secrets[-1]
        cookie = NotifyPayload(type=NotifyType.COOKIE, data=_cookie(version, secret, material))
        self._answer_statelessly(message.spi_i, 0, ExchangeType.IKE_SA_INIT, cookie, datagram.path)
        return False

    # --- the rest

    def _reject(self, datagram: Datagram, error: RemoteError) -> None:
        self.dropped["malformed"] += 1
        if error.notify_type != NotifyType.INVALID_MAJOR_VERSION or len(datagram.payload) < 28:
            return
        if datagram.payload[19] & 0x20:
            return  # a response: never answered
        # §2.5: the answer to a higher major version names ours
        message_id = int.from_bytes(datagram.payload[20:24], "big")
        notify = NotifyPayload(type=NotifyType.INVALID_MAJOR_VERSION)
        exchange = ExchangeType(datagram.payload[18])
        self._answer_statelessly(datagram.payload[:8], message_id, exchange, notify, datagram.path)

    def _answer_again(self, sa: IkeSa, datagram: Datagram) -> None:
        """The response that ended an SA may have been lost: its request is answered again (§2.1)."""
        again: tuple[Datagram, ...] = ()
        with contextlib.suppress(RemoteError):
            again = sa.answer_again(datagram)
        self._transmits.extend(again)
        if not again:
            self.dropped["closed"] += 1

    def _answer_statelessly(
        self, spi_i: bytes, message_id: int, exchange: ExchangeType, notify: NotifyPayload, path: Path
    ) -> None:
        message = Message(
            spi_i=spi_i,
            spi_r=NO_SPI,
            exchange=exchange,
            original_initiator=False,
            response=True,
            message_id=message_id,
            payloads=(notify,),
        )
        self._transmits.append(Datagram(path, encode_message(message)))

    def _belongs(self, sa: IkeSa, header: Header) -> bool:
        if sa.original_initiator and sa.state is SaState.INIT_SENT:
            return header.spi_i == sa.spi_i
        if header.exchange == ExchangeType.IKE_SA_INIT and not header.response:
            return header.spi_i == sa.spi_i
        return header.spi_i == sa.spi_i and header.spi_r == sa.spi_r

    def _drain(self, sa: IkeSa) -> None:
        for one in sa.family():
            self._drain_one(one)

    def _drain_one(self, sa: IkeSa) -> None:
        while (datagram := sa.poll_transmit()) is not None:
            self._transmits.append(datagram)
        while (event := sa.poll_event()) is not None:
            self._events.append((sa, event))
            if isinstance(event, ChildSaInstalled):
                self._child_spis.add(event.spec.inbound_spi)
            elif isinstance(event, ChildSaRemoved):
                self._child_spis.discard(event.inbound_spi)
            elif isinstance(event, SuccessorCreated):
                self.sas[event.successor.local_spi] = event.successor
        if sa.state not in (SaState.INITIAL, SaState.HALF_OPEN, SaState.AUTHENTICATING):
            self._forget_initial(sa)
        if sa.state is not SaState.CLOSED:
            self._arm(sa)
        elif self.sas.pop(sa.local_spi, None) is not None:
            self._depart(sa)

    def _depart(self, sa: IkeSa) -> None:
        self.dropped.update(sa.dropped)
        self._armed.pop(sa.local_spi, None)
        for made in sa.successors:
            made.predecessor = None
        # the first request of the peer's that is protected
        first = 0 if sa.original_initiator or not sa.init_request else 1
        if sa.window.classify(first) in (Disposition.ANSWERED, Disposition.OUT_OF_WINDOW):
            self._departed[sa.local_spi] = sa
            if len(self._departed) > DEPARTED_KEPT:
                del self._departed[next(iter(self._departed))]

    def _forget_initial(self, sa: IkeSa) -> None:
        key = self._initial_keys.pop(sa.local_spi, None)
        if key is not None:
            del self._initial[key]

    def _arm(self, sa: IkeSa) -> None:
        deadline = sa.next_deadline()
        if deadline is not None and deadline < self._armed.get(sa.local_spi, float("inf")):
            self._armed[sa.local_spi] = deadline
            heapq.heappush(self._deadlines, (deadline, sa.local_spi))


def _cookie(version: int, secret: bytes, material: bytes) -> bytes:
    """Version octet and a MAC over Ni, the source address and SPIi (§2.6)."""
    return bytes([version]) + hmac.digest(secret, material, "sha256")
