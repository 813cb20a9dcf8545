"""One socket's worth of IKE SAs: SPI demultiplexing, COOKIE, half-open limits (RFC 7296 §2.1, §2.4, §2.6).

Sans-IO like ``IkeSa`` and the same for both ends. Events come with the SA they belong to. What belongs to
no SA is answered without protection where the standards ask for it, and not too often (§1.5, §2.21.4;
RFC 6290). Left out: INVALID_SPI for ESP (§1.5), several answers to one IKE_SA_INIT request (§2.4).
"""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping

from protocols.entropy import Entropy
from protocols.errors import Fact, RemoteError
from protocols.ikev2.admission import CookieDemand, HalfOpenSas, TurnedAway, TurnedAwayRequests
from protocols.ikev2.config import COOKIE_RATE, COOKIE_THRESHOLD, UNPROTECTED_RATE, InitiatorConfig, ResponderConfig
from protocols.ikev2.cookie import Cookies, read_request
from protocols.ikev2.events import (
    Answer,
    ChildSaInstalled,
    ChildSaRemoved,
    Event,
    OriginalRole,
    SaState,
    SpiRenewed,
    SuccessorCreated,
)
from protocols.ikev2.extension import Extension, NoExtension
from protocols.ikev2.message import (
    HEADER_LENGTH,
    INITIATOR_FLAG,
    RESPONSE_FLAG,
    Header,
    Message,
    decode_header,
    decode_message,
    encode_message,
)
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.rate import TokenBucket
from protocols.ikev2.registry import INITIAL_EXCHANGES, ExchangeType, NotifyType, PayloadType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.spi import NO_SPI, RandomSpis
from protocols.ikev2.task import Task
from protocols.ikev2.tasks import crash_detection, redirect, rekey_child, resume
from protocols.ikev2.timing import Timer
from protocols.ikev2.window import Disposition
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret

DEPARTED_KEPT = 256  # ended SAs whose last response may have to be sent again
DEPARTED_LIFETIME = 60.0  # and for how long: then their keys are forgotten (§2.12)


def installs_child_sa(found: tuple[IkeSa, Event]) -> bool:
    """Whether an event is to be carried out before the datagrams of its moment leave (RFC 7296 §2.8).

    The peer may send by a child SA as soon as it has the answer.
    """
    return isinstance(found[1], ChildSaInstalled)


class IkeEndpoint:
    """All IKE SAs behind one address (or, at a UE, one device).

    ``inbound_packets`` asks the data plane how many authentic packets a child SA has received between the
    addresses in use (RFC 4555 §3.12), so that a peer that is heard there is not probed (§2.4).
    ``crash_secrets`` are the responder's where there is one. ``worker`` is the first octet of all SPIs, for
    workers that share an address.
    """

    def __init__(
        self,
        *,
        entropy: Entropy,
        responder: ResponderConfig | None = None,
        extension: Callable[[], Extension] = NoExtension,
        inbound_packets: Callable[[bytes], int] | None = None,
        crash_secrets: tuple[Secret, ...] = (),
        worker: int | None = None,
    ) -> None:
        self._entropy = entropy
        self._responder = responder
        self._extension = extension
        self.sas: dict[bytes, IkeSa] = {}
        self.dropped: Counter[str] = Counter()
        self._half_open = HalfOpenSas()
        self._transmits: deque[Datagram] = deque()
        self._events: deque[tuple[IkeSa, Event]] = deque()
        # One entry of the heap is an SA's own, that in ``_armed``; what is left of earlier ones is passed over.
        self._deadlines: list[tuple[float, bytes]] = []
        self._armed: dict[bytes, float] = {}
        self._departed: dict[bytes, IkeSa] = {}
        self._child_spis: set[bytes] = set()
        self._spis = RandomSpis(entropy, self._child_spis, self.sas, worker)
        self._inbound_packets = inbound_packets
        self._inbound_seen: dict[bytes, dict[bytes, int]] = {}
        self._crash_secrets = crash_secrets or (responder.crash_secrets if responder else ())
        self._cookies = Cookies(entropy)
        self._demand = CookieDemand(
            responder.cookie_threshold if responder else COOKIE_THRESHOLD,
            responder.cookie_rate if responder else COOKIE_RATE,
        )
        rate = responder.unprotected_rate if responder else UNPROTECTED_RATE
        self._unprotected = TokenBucket(rate, max(1.0, rate))
        self._turned_away = TurnedAwayRequests()

    # --- outputs

    def poll_transmit(self) -> Datagram | None:
        """The next datagram to send."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> tuple[IkeSa, Event] | None:
        """The next event and the SA it came from."""
        return self._events.popleft() if self._events else None

    def poll_turned_away(self) -> TurnedAway | None:
        """The next IKE_SA_INIT request that made no SA; of a flood not all are told."""
        return self._turned_away.poll()

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        of_sa = self._next_of_sas()
        departed = next((sa.closed_at + DEPARTED_LIFETIME for sa in self._departed.values()), None)
        return min((at for at in (of_sa, departed) if at is not None), default=None)

    def _next_of_sas(self) -> float | None:
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

    def connect(self, config: InitiatorConfig, path: Path, now: float, extension: Extension | None = None) -> IkeSa:
        """Start an IKE SA as its original initiator; ``extension``: its own, by default one like all others'."""
        sa = IkeSa(
            config,
            role=OriginalRole.INITIATOR,
            spi=self._spis.ike_spi(),
            path=path,
            entropy=self._entropy,
            now=now,
            spis=self._spis,
            extension=self._extension() if extension is None else extension,
        )
        self.sas[sa.local_spi] = sa
        sa.initiate(resume.opening(config, path, now), now)
        self._drain(sa)
        return sa

    def use(self, responder: ResponderConfig) -> None:
        """IKE SAs of initiators that come from now on are so; COOKIE and what is unprotected stay as they were."""
        self._responder = responder

    def initiate(self, sa: IkeSa, task: Task, now: float) -> None:
        """Start a task on an SA."""
        sa.initiate(task, now)
        self._drain(sa)

    def move(self, sa: IkeSa, path: Path, now: float, *, old_gone: bool = False) -> None:
        """Move an SA to other addresses (RFC 4555 §3.5)."""
        sa.move(path, now, old_gone=old_gone)
        self._drain(sa)

    def set_addresses(
        self, sa: IkeSa, addresses: Iterable[Endpoint] | None, now: float, *, tell: bool = True, prefer: bool = False
    ) -> None:
        """Change what an SA knows of this end's addresses (RFC 4555 §3.6)."""
        sa.set_addresses(addresses, now, tell=tell, prefer=prefer)
        self._drain(sa)

    def suspend(self, sa: IkeSa, now: float) -> None:
        """Send nothing until the next move: there is no address (RFC 4621 §5.4)."""
        sa.suspend(now)
        self._drain(sa)

    def suspect(self, sa: IkeSa, now: float) -> None:
        """A hint that the path of an SA is bad (RFC 4555 §3.5)."""
        sa.suspect(now)
        self._drain(sa)

    def check_path(self, sa: IkeSa, now: float) -> None:
        """A return-routability check of an SA's path on demand (RFC 4555 §3.7)."""
        sa.check_path(now)
        self._drain(sa)

    def esp_heard_from(self, sa: IkeSa, inbound_spi: bytes, path: Path, now: float) -> bool:
        """Authentic ESP of an SA came on another path; whether ours follows it (RFC 4555 §3.8)."""
        followed = sa.esp_heard_from(inbound_spi, path, now)
        self._drain(sa)
        return followed

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

    def set_liveness_interval(self, sa: IkeSa, interval: float | None, now: float) -> None:
        """Probe the peer after this much silence from now on (§2.4); ``None``: never."""
        sa.timers.set_liveness_interval(interval)
        sa.heard(now)
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
            self._reject(datagram, error, now)
            return
        spi = header.spi_r if header.original_initiator else header.spi_i
        sa = self.sas.get(spi) or self._departed.get(spi)
        if sa is None and header.exchange in INITIAL_EXCHANGES and header.original_initiator:
            self._receive_initial(header, datagram, now)
            return
        if sa is None:
            self._receive_unknown(header, datagram, now)
            return
        if sa.original_initiator == header.original_initiator or not self._belongs(sa, header):
            self.dropped["wrong-spi"] += 1
            return
        if sa.state is SaState.CLOSED:
            self._answer_again(sa, datagram)
            return
        sa.receive(datagram, now)
        former = resume.superseded(sa, self.sas)
        if former is not None:
            self.close(former, "the peer has resumed it in a new SA", now)
        self._drain(sa)

    def handle_timeout(self, now: float) -> None:
        """Run what is due."""
        self._forget_departed(now)
        while (at := self._next_of_sas()) is not None and at <= now:
            _, spi = heapq.heappop(self._deadlines)
            del self._armed[spi]
            sa = self.sas[spi]
            self._ask_data_plane(sa, now)
            sa.handle_timeout(now)
            self._drain(sa)

    @property
    def half_open(self) -> int:
        """Responder SAs whose set-up is not finished."""
        return len(self._half_open)

    # --- IKE_SA_INIT requests

    def _receive_initial(self, header: Header, datagram: Datagram, now: float) -> None:
        config = self._responder
        if config is None or header.response or header.spi_r != NO_SPI or header.spi_i == NO_SPI:
            self.dropped["unknown-spi"] += 1
            return
        if header.exchange == ExchangeType.IKE_SESSION_RESUME and config.tickets is None:
            self.dropped["resumption-off"] += 1
            return
        if header.spi_i in self.sas:
            self.dropped["reflected"] += 1  # our own request: its SPIi is one that we gave
            return
        known = self._half_open.find(header.spi_i, datagram.path.remote)
        if known is not None:
            if datagram.payload == known.init_request:
                known.receive(datagram, now)  # a retransmission: the same answer (§2.1)
                self._drain(known)
            else:
                self.dropped["initial-mismatch"] += 1
            return
        if header.message_id != 0:
            self.dropped["malformed"] += 1
            return
        if not self._admitted(config, header, datagram, now):
            return
        try:
            message = decode_message(datagram.payload)
        except RemoteError as error:
            self._reject_initial(header, datagram, error, now)
            return
        elsewhere = redirect.initial_answer(config, message, datagram.path, len(self.sas))
        if elsewhere is not None:
            self.dropped["redirected"] += 1
            assert config.redirect is not None
            to = str(config.redirect.gateway)
            self._turn_away(header.spi_i, datagram.path, now, "redirected", f"redirected to {to}", {"gateway": to})
            self._refuse_initial(header, elsewhere, datagram.path)
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
        self._half_open.add(sa, datagram.path.remote)
        sa.receive(datagram, now)
        self._drain(sa)

    def _admitted(self, config: ResponderConfig, header: Header, datagram: Datagram, now: float) -> bool:
        """Whether a request may make an SA; if it has to return a cookie first it is asked to, statelessly (§2.6).

        The half of a source's share may be taken by whoever forges its address, the rest only with a cookie.
        """
        if self.half_open >= config.half_open_limit:
            self._crowded(header, datagram.path, now, "half-open-limit", config.half_open_limit)
            return False
        source = datagram.path.remote.address
        of_source = self._half_open.from_source(source)
        crowded = of_source and 2 * of_source >= config.half_open_limit_per_source
        if self._demand.wanted(self.half_open, now) or crowded:
            try:
                nonce, returned = read_request(datagram.payload)
            except RemoteError:
                self.dropped["malformed"] += 1
                return False
            spi_i = header.spi_i
            if returned is None or not self._cookies.verify(returned, spi_i, nonce, source, now):
                why = "cookie-demanded" if returned is None else "cookie-wrong"
                self.dropped[why] += 1
                text = "a COOKIE is demanded" if returned is None else "the COOKIE is wrong"
                facts: dict[str, Fact] = {"half_open": self.half_open, "of_source": of_source}
                self._turn_away(spi_i, datagram.path, now, why, text, facts)
                cookie = self._cookies.make(spi_i, nonce, source, now)
                self._refuse_initial(header, NotifyPayload(NotifyType.COOKIE, cookie), datagram.path)
                return False
        if of_source >= config.half_open_limit_per_source:
            limit = config.half_open_limit_per_source
            self._crowded(header, datagram.path, now, "half-open-limit-per-source", limit)
            return False
        return True

    def _crowded(self, header: Header, path: Path, now: float, why: str, limit: int) -> None:
        self.dropped[why] += 1
        where = " of its address" if why.endswith("source") else ""
        text = f"there are {limit} half-open IKE SAs{where}, and no more are allowed"
        self._turn_away(header.spi_i, path, now, why, text, {"limit": limit})

    def _turn_away(
        self, spi_i: bytes, path: Path, now: float, reason: str, text: str, facts: Mapping[str, Fact] | None = None
    ) -> None:
        told = TurnedAway(spi_i=spi_i, path=path, reason=reason, text=text, facts=facts or {})
        self._turned_away.add(told, now)

    # --- the rest

    def _reject(self, datagram: Datagram, error: RemoteError, now: float) -> None:
        self.dropped["malformed"] += 1
        octets = datagram.payload
        if error.notify_type != NotifyType.INVALID_MAJOR_VERSION or len(octets) < HEADER_LENGTH:
            return
        flags = octets[19]
        if flags & RESPONSE_FLAG:
            return  # never answered
        if octets[8:16] == NO_SPI:
            facts: dict[str, Fact] = {"version": octets[17] >> 4}
            self._turn_away(octets[:8], datagram.path, now, "major-version", str(error), facts)
        # §1.5, §2.5: the answer to a higher major version names ours, with SPIs, exchange and Message ID as they came
        message = Message(
            spi_i=octets[:8],
            spi_r=octets[8:16],
            exchange=ExchangeType.of(octets[18]),
            original_initiator=not flags & INITIATOR_FLAG,
            response=True,
            message_id=int.from_bytes(octets[20:24], "big"),
            payloads=(NotifyPayload(NotifyType.INVALID_MAJOR_VERSION),),
        )
        self._answer_unprotected(message, datagram.path, now)

    def _reject_initial(self, header: Header, datagram: Datagram, error: RemoteError, now: float) -> None:
        """A request that does not parse makes no SA; its sender is told why (§2.5, §2.21.1)."""
        self.dropped["malformed"] += 1
        critical = error.notify_type == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
        facts: dict[str, Fact] = {"payload_type": error.notify_data[0]} if critical and error.notify_data else {}
        why = "critical-payload" if critical else "malformed"
        self._turn_away(header.spi_i, datagram.path, now, why, str(error), facts)
        if error.notify_type is not None and self._unprotected.take(now):
            notify = NotifyPayload(NotifyType.of(error.notify_type), error.notify_data)
            self._refuse_initial(header, notify, datagram.path)

    def _receive_unknown(self, header: Header, datagram: Datagram, now: float) -> None:
        """A protected request of an SA that we do not have is answered so; nothing else is (§1.5, §2.21.4)."""
        self.dropped["unknown-spi"] += 1
        protected = header.next_payload in (PayloadType.SK, PayloadType.SKF)
        if header.response or not protected or NO_SPI in (header.spi_i, header.spi_r):
            return
        if header.spi_i in self.sas or header.spi_r in self.sas:
            return  # RFC 6290 §9.2: never a valid token for an SA that exists, whatever the flags say
        ours = header.spi_r if header.original_initiator else header.spi_i
        secrets = self._crash_secrets if self._spis.owns(ours) else ()
        message = Message(
            spi_i=header.spi_i,
            spi_r=header.spi_r,
            exchange=header.exchange,
            original_initiator=not header.original_initiator,
            response=True,
            message_id=header.message_id,
            payloads=(
                NotifyPayload(NotifyType.INVALID_IKE_SPI),
                *crash_detection.present(secrets, header.spi_i, header.spi_r),
            ),
        )
        self._answer_unprotected(message, datagram.path, now)

    def _answer_again(self, sa: IkeSa, datagram: Datagram) -> None:
        """The response that ended an SA may have been lost: its request is answered again (§2.1)."""
        again: tuple[Datagram, ...] = ()
        with contextlib.suppress(RemoteError):
            again = sa.answer_again(datagram)
        self._transmits.extend(again)
        if not again:
            self.dropped["closed"] += 1

    def _answer_unprotected(self, message: Message, path: Path, now: float) -> None:
        # §2.21.4: "A node needs to limit the rate at which it will send messages in response to unprotected messages"
        if self._unprotected.take(now):
            self._transmits.append(Datagram(path, encode_message(message)))
        else:
            self.dropped["unprotected-rate"] += 1

    def _refuse_initial(self, header: Header, notify: NotifyPayload, path: Path) -> None:
        """A first request that makes no SA: SPIr stays zero (§2.6)."""
        message = Message(
            spi_i=header.spi_i,
            spi_r=NO_SPI,
            exchange=header.exchange,
            original_initiator=False,
            response=True,
            message_id=0,
            payloads=(notify,),
        )
        self._transmits.append(Datagram(path, encode_message(message)))

    def _belongs(self, sa: IkeSa, header: Header) -> bool:
        if sa.original_initiator and sa.state is SaState.INIT_SENT:
            return header.spi_i == sa.spi_i
        if header.exchange in INITIAL_EXCHANGES and not header.response:
            return header.spi_i == sa.spi_i
        return header.spi_i == sa.spi_i and header.spi_r == sa.spi_r

    def _ask_data_plane(self, sa: IkeSa, now: float) -> None:
        """Before a probe: packets of the peer's since the last look show that it lives (§2.4), and the path too."""
        times = [sa.timers.get(timer) for timer in (Timer.LIVENESS, Timer.PATH_TEST)]
        if self._inbound_packets is None or not any(due is not None and due <= now for due in times):
            return
        seen = self._inbound_seen.get(sa.local_spi, {})
        counts = {spi: self._inbound_packets(spi) for spi in sa.children}
        self._inbound_seen[sa.local_spi] = counts
        if any(count > seen.get(spi, 0) for spi, count in counts.items()):
            sa.heard(now)

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
            elif isinstance(event, SpiRenewed):
                self._armed.pop(event.old, None)
                self.sas.pop(event.old, None)
                self.sas[sa.local_spi] = sa
        self._follow_half_open(sa)
        if sa.state is not SaState.CLOSED:
            self._arm(sa)
        elif self.sas.pop(sa.local_spi, None) is not None:
            self._depart(sa)

    def _depart(self, sa: IkeSa) -> None:
        self.dropped.update(sa.dropped)
        self._armed.pop(sa.local_spi, None)
        self._inbound_seen.pop(sa.local_spi, None)
        for made in sa.successors:
            made.predecessor = None
        # the first request of the peer's that is protected
        first = 0 if sa.original_initiator or not sa.init_request else 1
        if sa.window.classify(first) in (Disposition.ANSWERED, Disposition.OUT_OF_WINDOW):
            self._departed[sa.local_spi] = sa
            if len(self._departed) > DEPARTED_KEPT:
                del self._departed[next(iter(self._departed))]

    def _forget_departed(self, now: float) -> None:
        """§2.12: when an SA is closed, "each endpoint MUST forget" its keys, once nobody asks for its last response."""
        for spi in [spi for spi, sa in self._departed.items() if sa.closed_at + DEPARTED_LIFETIME <= now]:
            del self._departed[spi]

    def _follow_half_open(self, sa: IkeSa) -> None:
        entry = self._half_open.of(sa.local_spi)
        if entry is None:
            return
        if not entry.came_back and sa.state in (SaState.AUTHENTICATING, SaState.ESTABLISHED):
            entry.came_back = True
            self._demand.learn(came_back=True)
        if sa.state in (SaState.INITIAL, SaState.INTERMEDIATE, SaState.HALF_OPEN, SaState.AUTHENTICATING):
            return
        if not entry.came_back and sa.keys is not None:
            self._demand.learn(came_back=False)
        self._half_open.remove(entry)

    def _arm(self, sa: IkeSa) -> None:
        deadline = sa.next_deadline()
        if deadline is not None and deadline < self._armed.get(sa.local_spi, float("inf")):
            self._armed[sa.local_spi] = deadline
            heapq.heappush(self._deadlines, (deadline, sa.local_spi))
