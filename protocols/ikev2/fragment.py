"""IKE fragmentation (RFC 7383): negotiation, sizes, the SKF payload's numbers, reassembly.

::

    HDR, SKF(Frag#=1, Total=m) {..}  ...  HDR, SKF(Frag#=m, Total=m) {..}

The sealer encrypts and decrypts single fragments; ``IkeSa`` decides when to fragment. The search for the
path MTU (§2.5.2) is coarse: the configured size, then 1280, then 576 octets. Left out: unprotected
payloads beside SKF (§2.5.3: no exchange has any; those received are passed over) and ICMP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from protocols.buffer import Reader
from protocols.errors import DecodeError, LocalError
from protocols.ikev2.config import IkeConfig
from protocols.ikev2.keymat import int_auth_content
from protocols.ikev2.message import HEADER_LENGTH, Header, Message, encode_message, message_of
from protocols.ikev2.payloads import GENERIC_HEADER_LENGTH, NotifyPayload, decode_payloads
from protocols.ikev2.registry import INITIAL_EXCHANGES, ExchangeType, NotifyType, PayloadType
from protocols.ikev2.window import Disposition, Received, Sent, Window
from protocols.path import Datagram, Path

if TYPE_CHECKING:
    from protocols.ikev2.sealer import MessageSealer

FRAGMENT_HEADER_LENGTH: Final = 4  # Fragment Number and Total Fragments
PROBE_SIZES: Final = (1280, 576)  # §2.5.1: what IPv6 and IPv4 carry anywhere, as good as
PROBE_RETRANSMISSIONS: Final = 2  # §2.5.2: "a few retries within several seconds for each probe"
UDP_HEADER_LENGTH: Final = 8
NON_ESP_MARKER_LENGTH: Final = 4


@dataclass(frozen=True, kw_only=True)
class FragmentPlace:
    """What can be read of a fragment before it is authenticated; the IV begins at ``start``."""

    number: int
    total: int
    first: int
    start: int


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A decrypted fragment; ``first`` is the type of the first inner payload in fragment 1.

    ``clear``: of fragment 1, what is in front of the fragment's numbers.
    """

    number: int
    total: int
    first: int
    content: bytes
    clear: bytes = b""


def find_encrypted(octets: bytes, first_type: int) -> tuple[int, int, int]:
    """SK or SKF, the type of the first payload inside, where its body begins; it has to be last (§3.14)."""
    reader = Reader(octets, HEADER_LENGTH)
    kind = first_type
    while kind:
        following = reader.u8()
        reader.skip(1)
        length = reader.u16() - GENERIC_HEADER_LENGTH
        start = reader.offset
        reader.skip(length)
        if kind in (PayloadType.SK, PayloadType.SKF):
            reader.finish("the encrypted payload")
            return kind, following, start
        kind = following
    raise DecodeError("there is no encrypted payload")


def find_fragment(octets: bytes, first_type: int) -> FragmentPlace:
    """The numbers of a fragment (§2.5, §2.6): none is zero, and the number is not above the total."""
    kind, first, start = find_encrypted(octets, first_type)
    if kind != PayloadType.SKF:
        raise DecodeError("there is no fragment")
    reader = Reader(octets, start)
    number, total = reader.u16(), reader.u16()
    if not 1 <= number <= total:
        raise DecodeError(f"fragment {number} of {total}")
    return FragmentPlace(number=number, total=total, first=first, start=start + FRAGMENT_HEADER_LENGTH)


def split(content: bytes, room: int) -> list[bytes]:
    """Chunks of at most ``room`` octets, regardless of the boundaries of payloads (§2.5)."""
    if room < 1:
        raise LocalError("the fragment size leaves no room for any content")
    return [content[at : at + room] for at in range(0, len(content), room)] or [b""]


def message_limit(path: Path, datagram_size: int) -> int:
    """Octets of an IKE message in an IP datagram of this size, on port 4500 (§2.5.1, RFC 3948)."""
    return datagram_size - _around(path)


def _around(path: Path) -> int:
    ip_header = 20 if path.remote.address.version == 4 else 40
    return ip_header + UDP_HEADER_LENGTH + NON_ESP_MARKER_LENGTH


class Fragmentation:
    """Whether an IKE SA fragments (§2.3), in which size, and what it is putting together."""

    def __init__(self, config: IkeConfig) -> None:
        self._config = config
        self._reassembler = Reassembler(config)
        self.negotiated = False
        self.size = config.fragment_size

    # --- negotiation (§2.3)

    def announce(self) -> tuple[NotifyPayload, ...]:
        """N(IKEV2_FRAGMENTATION_SUPPORTED), where the configuration wants it."""
        notify = NotifyPayload(type=NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
        return (notify,) if self._config.fragmentation else ()

    def agree(self, message: Message) -> None:
        """The peer's IKE_SA_INIT says whether it does too."""
        announced = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
        self.negotiated = self._config.fragmentation and announced

    def inherit(self, old: Fragmentation) -> None:
        """An SA made by rekeying does as the one that it replaces, in the size that gets through."""
        self.negotiated, self.size = old.negotiated, old.size

    # --- sending (§2.5)

    def path_changed(self) -> None:
        """What was found out of the old path's MTU says nothing of the new one."""
        self.size = self._config.fragment_size

    def confirmed(self, sent: Sent) -> None:
        """It was answered: the next exchange starts with the size that got through (§2.5.2)."""
        if len(sent.datagrams) > 1:
            self.size = sent.size

    def response_size(self, received: Received) -> int:
        """What reached us in fragments of some size may go back in it (§2.5.1)."""
        if received.largest is None:
            return self.size
        return min(self.size, max(received.largest + _around(received.path), PROBE_SIZES[-1]))

    def encode(self, sealer: MessageSealer | None, message: Message, path: Path, size: int) -> Sent:
        """The datagrams of a message: fragments where it is too long and the peer takes them."""
        if message.exchange in INITIAL_EXCHANGES:
            return Sent(message=message, datagrams=(encode_message(message),), size=size)
        if sealer is None:
            raise LocalError("no keys to protect a message with")
        octets = sealer.seal(message)
        if not self.negotiated or len(octets) <= message_limit(path, size):
            return Sent(message=message, datagrams=(octets,), size=size)
        return Sent(message=message, datagrams=sealer.seal_fragments(message, message_limit(path, size)), size=size)

    def smaller(self, sealer: MessageSealer | None, sent: Sent, path: Path) -> Sent | None:
        """The same message in more, smaller fragments (§2.5.2), ``None`` when there is nothing left to try."""
        largest = max(map(len, sent.datagrams))
        for size in PROBE_SIZES:
            if self.negotiated and size < sent.size and largest > message_limit(path, size):
                again = self.encode(sealer, sent.message, path, size)
                # §2.5.2: "MUST ensure that the value in the Total Fragments field is really increased"
                return again if len(again.datagrams) > len(sent.datagrams) else None
        return None

    # --- receiving (§2.6)

    def objection(self, header: Header, place: FragmentPlace, window: Window, now: float) -> str | None:
        """Why a fragment is dropped before it costs a decryption, ``None`` when it is not."""
        if not self.negotiated:
            return "fragment-not-negotiated"
        if header.response:
            if window.request_for(header) is None:
                return "unexpected-response"
        elif window.known_request(header.message_id) is not None:
            # §2.6.1: of a request that comes again "only" the first fragment counts
            return None if place.number == 1 else "fragment-again"
        elif window.classify(header.message_id) is Disposition.OUT_OF_WINDOW:
            return "out-of-window"
        return self._reassembler.objection(header, place, now)

    def add(self, header: Header, fragment: Fragment, datagram: Datagram, now: float) -> Received | None:
        """Keep an authentic fragment; the message when it is the last one that was missing."""
        whole = self._reassembler.add(header, fragment, len(datagram.payload), now)
        if whole is None:
            return None
        message = merge(header, whole)
        return Received(message=message, path=datagram.path, fragments=whole.total, largest=whole.largest)

    def whole(self, header: Header) -> None:
        """The message has come in one piece: fragments of it are not waited for."""
        self._reassembler.forget(header)


# --- reassembly (§2.6)


class Reassembly:
    """The fragments of one message so far."""

    def __init__(self, total: int, now: float) -> None:
        self.total = total
        self.started = now
        self.largest = 0
        self.octets = 0
        self.fragments: dict[int, Fragment] = {}


class Reassembler:
    """The reassembly queues of an IKE SA, by direction and Message ID; bounded in fragments and octets."""

    def __init__(self, config: IkeConfig) -> None:
        self._fragments_maximum = config.fragments_maximum
        self._octets_maximum = config.reassembled_maximum
        policy = config.retransmission
        # §2.6: as long as an initiator waits before it gives up
        self._lifetime = sum(policy.interval(attempt) for attempt in range(policy.limit + 1))
        self._queues: dict[tuple[bool, int], Reassembly] = {}

    def objection(self, header: Header, place: FragmentPlace, now: float) -> str | None:
        """``None`` when the fragment is worth decrypting, else why it is dropped (§2.6)."""
        self._expire(now)
        if place.total > self._fragments_maximum:
            return "fragment-excess"
        queue = self._queues.get((header.response, header.message_id))
        if queue is not None and place.total < queue.total:
            return "fragment-total"
        if queue is not None and place.total == queue.total and place.number in queue.fragments:
            return "fragment-duplicate"
        return None

    def add(self, header: Header, fragment: Fragment, length: int, now: float) -> Reassembly | None:
        """Keep an authentic fragment that came in ``length`` octets; the whole queue once it is complete.

        A greater total starts anew (§2.5.2: the sender has gone on to smaller fragments).
        """
        key = (header.response, header.message_id)
        queue = self._queues.get(key)
        if queue is None or fragment.total > queue.total:
            queue = self._queues[key] = Reassembly(fragment.total, now)
        if queue.octets + len(fragment.content) + len(fragment.clear) > self._octets_maximum:
            del self._queues[key]
            raise DecodeError("a fragmented message grows too long")
        queue.fragments[fragment.number] = fragment
        queue.octets += len(fragment.content) + len(fragment.clear)
        queue.largest = max(queue.largest, length)
        if len(queue.fragments) < queue.total:
            return None
        del self._queues[key]
        return queue

    def forget(self, header: Header) -> None:
        """The message has come in one piece."""
        self._queues.pop((header.response, header.message_id), None)

    def _expire(self, now: float) -> None:
        for key in [key for key, queue in self._queues.items() if now - queue.started > self._lifetime]:
            del self._queues[key]


def merge(header: Header, queue: Reassembly) -> Message:
    """The message whose Encrypted payload was split (§2.6)."""
    content = b"".join(queue.fragments[number].content for number in range(1, queue.total + 1))
    message = message_of(header, decode_payloads(queue.fragments[1].first, content))
    if header.exchange == ExchangeType.IKE_INTERMEDIATE:
        # RFC 9242 §3.3.2: "as if it were received unfragmented", with what fragment 1 has in front
        return replace(message, authenticated=int_auth_content(queue.fragments[1].clear, content))
    return message
