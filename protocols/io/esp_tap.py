"""The tap on ESP that does not pass this process: the compiled loop or the kernel carries it.

A packet socket (packet(7)) with a filter hears what crosses the network interfaces from and to the node's encapsulating
ports that is ESP (RFC 3948 §2), and beside them protocol 50, and it becomes datagram records as ``DatagramTap`` makes
them. What interfaces join (GSO, GRO) is taken apart. A packet that crosses several interfaces, a bond's and its
member's say, is recorded once.

At most ``LIMIT`` packets in each ``INTERVAL`` are recorded; then the filter lets nothing pass until the next one.

Left out: fragments of outer packets, also the first ones; IPv6 with extension headers; ESP that GRO has joined behind
an IKE message; addresses that this machine itself translates (NAT), since packets are heard outside of it; what the
kernel takes before sockets hear it (GRO of ESP by the modules esp4_offload and esp6_offload). Before Linux 6.2 packet
sockets cannot tell how UDP is joined: such packets are counted as ``receive-EINVAL``. Without CAP_NET_RAW, and with
more ports than a filter has room for (about 40), nothing is heard, and the log says so.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from protocols.errors import DecodeError
from protocols.io import packet_filter
from protocols.io.link import DRAIN_LIMIT
from protocols.io.packet_filter import Check
from protocols.io.packet_socket import (
    PACKET_HOST,
    PACKET_OUTGOING,
    RECEIVE_OCTETS,
    TRANSPORTS,
    checks_of,
    open_packet_socket,
    overflown,
    read_packet,
)
from protocols.io.raw import NO_PORT
from protocols.io.super_packet import NO_OFFLOAD, coalesced_octets
from protocols.io.tap import DatagramTap, Direction, classify_udp
from protocols.ip import IPV6_HEADER_LENGTH, PACKET_MAXIMUM, UDP, UDP_HEADER_LENGTH, flow_of, transport_of
from protocols.path import Address, Endpoint, Path
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

LIMIT = 1000  # packets in an interval
INTERVAL = 1.0
BUFFER_OCTETS = 1024 * 1024  # a burst of several hundred packets
SIGHTINGS_KEPT = 512
ESP = 50
ESP_HEADER_OCTETS = 8  # SPI and sequence number
PEEK_OCTETS = 256  # up to the length in an IP header

_log = logging.getLogger(__name__)


class _Heard(NamedTuple):
    """Payloads between two ends; ports are ``None`` straight on IP."""

    source: Address
    destination: Address
    source_port: int | None
    destination_port: int | None
    payloads: list[bytes]


def open_tap_socket() -> socket.socket:
    """A packet socket of all interfaces that hears nothing yet; ``OSError``."""
    return open_packet_socket(buffer_octets=BUFFER_OCTETS)


class EspTap:
    """Nothing is heard before the first port opens and after the last has closed; on the running loop."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        limit: int = LIMIT,
        open_socket: Callable[[], socket.socket] = open_tap_socket,
    ) -> None:
        """``limit``: packets in each interval."""
        self._recorder = recorder
        self._tap = DatagramTap(recorder)
        self._limit = limit
        self._open_socket = open_socket
        self._open: dict[Endpoint, bool] = {}
        self._program = packet_filter.NOTHING
        self._socket: socket.socket | None = None
        self._refused = False
        self._left = limit
        self._ends = 0.0  # of the interval, on the loop's clock
        self._resumption: asyncio.TimerHandle | None = None
        self._sightings: OrderedDict[tuple[Direction, bytes], str] = OrderedDict()
        self._recorded = 0
        self._pauses = 0
        self._paused_until = -math.inf
        self._left_out: Counter[str] = Counter()

    @property
    def hears(self) -> bool:
        """Whether ESP of the open ports comes into the trace by this."""
        return self._socket is not None

    @property
    def view(self) -> dict[str, JsonValue]:
        """``recorded`` packets; ``pauses``: how often the limit was reached; ``left_out`` by reason, as far as known.

        Of a pause itself nothing is known; of joined packets that found no room each counts as one.
        """
        self._look_for_overflow()
        return {"recorded": self._recorded, "pauses": self._pauses, "left_out": dict(+self._left_out)}

    def open(self, local: Endpoint, *, bare: bool) -> None:
        """Hear an encapsulating port from now on; ``bare``: and protocol 50 of its address."""
        self._open[local] = bare
        self._change()

    def close(self, local: Endpoint) -> None:
        """Hear a port no more; what it has had is recorded."""
        if local not in self._open:
            return
        self.catch_up()
        del self._open[local]
        self._change()

    def catch_up(self) -> None:
        """Record what has crossed before now, so that what is recorded next comes after it."""
        while self._read():
            pass

    def _change(self) -> None:
        """Hear what is open; without the right to, once and for all nothing."""
        if self._refused:
            return
        if not self._open:
            self._close_socket()
            return
        self._program = packet_filter.any_of(_alternatives(self._open))
        self._hear()

    def _hear(self) -> None:
        try:
            if self._socket is None:
                self._socket = self._open_socket()
                asyncio.get_running_loop().add_reader(self._socket.fileno(), self._drain)
            if self._resumption is None:
                packet_filter.attach(self._socket, self._program)
        except PermissionError:
            _log.info("ESP packets are not in the trace: to hear them beside what carries them takes CAP_NET_RAW.")
            self._give_up()
        except OSError as error:
            count = len(self._open)
            _log.warning("ESP packets are not in the trace: no filter for %d ports: %s", count, error.strerror)
            self._give_up()

    def _give_up(self) -> None:
        self._refused = True
        self._close_socket()

    def _close_socket(self) -> None:
        self._look_for_overflow()
        if self._resumption is not None:
            self._resumption.cancel()
            self._resumption = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            # in a thread: the kernel makes who closes a packet socket wait for RCU, and a UE that moves has no time
            threading.Thread(target=self._socket.close, name="closing the tap").start()
            self._socket = None

    def _look_for_overflow(self) -> None:
        if self._socket is not None:
            self._left_out["buffer-full"] += overflown(self._socket)

    def _drain(self) -> None:
        for _ in range(DRAIN_LIMIT):
            if not self._read():
                return

    def _read(self) -> bool:
        """Take one packet from the socket, joined ones together; ``False`` when there is none."""
        if self._socket is None:
            return False
        paused = self._resumption is not None
        try:
            packet = read_packet(self._socket, PEEK_OCTETS if paused else RECEIVE_OCTETS)
            network = len(NO_OFFLOAD) + packet.network
            if paused:
                self._left_out["over-limit"] += _number_of(packet.octets, network)
                return True
            if not packet.whole:
                raise DecodeError("a packet without its end")
            heard = _decode(packet.octets, network)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._left_out[f"receive-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
            self._may_take(1)
        except DecodeError:
            self._left_out["malformed"] += 1
            self._may_take(1)
        else:
            allowed = self._may_take(len(heard.payloads))
            self._left_out["over-limit"] += len(heard.payloads) - allowed
            self._record(heard, allowed, "out" if packet.way == PACKET_OUTGOING else "in", packet.interface)
        if not self._left:
            self._pause()
        return True

    def _may_take(self, wanted: int) -> int:
        """How many of so many packets the interval still has room for; whatever comes of them, they count."""
        now = asyncio.get_running_loop().time()
        if now >= self._ends:
            self._ends, self._left = now + INTERVAL, self._limit
        taken = min(wanted, self._left)
        self._left -= taken
        return taken

    def _record(self, heard: _Heard, allowed: int, direction: Direction, interface: str) -> None:
        source = Endpoint(heard.source, heard.source_port or NO_PORT)
        destination = Endpoint(heard.destination, heard.destination_port or NO_PORT)
        path = Path(source, destination) if direction == "out" else Path(destination, source)
        for payload in heard.payloads[:allowed]:
            if heard.source_port is not None and classify_udp(payload, encapsulating=True) != "esp":
                continue
            if self._crossed_another(interface, direction, payload):
                continue
            self._recorded += 1
            if heard.source_port is None:
                self._tap.ip(direction, path.local.address, path.remote.address, payload)
            else:
                self._tap.udp(direction, path, payload, encapsulating=True)

    def _crossed_another(self, interface: str, direction: Direction, payload: bytes) -> bool:
        """Whether another interface has shown it: bonds, bridges, VLANs; a replayed one comes again by the same."""
        key = direction, payload[:ESP_HEADER_OCTETS]
        first = self._sightings.setdefault(key, interface)
        if len(self._sightings) > SIGHTINGS_KEPT:
            self._sightings.popitem(last=False)
        return first != interface

    def _pause(self) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        self._pauses += 1
        if loop.time() - self._paused_until > INTERVAL:
            text = f"More than {self._limit} ESP packets in a second: the others are not in the trace."
            self._recorder.event("esp-left-out", text)
        self._paused_until = self._ends
        packet_filter.attach(self._socket, packet_filter.NOTHING)
        self._resumption = loop.call_at(self._ends, self._resume)

    def _resume(self) -> None:
        self.catch_up()  # what came before the pause and while it began
        self._resumption = None
        self._ends = 0.0  # a timer may come a little early
        self._hear()


def _alternatives(opened: dict[Endpoint, bool]) -> list[list[Check]]:
    """What ESP of the open ports looks like, each direction; of one address protocol 50 once."""
    found = []
    for way in (PACKET_HOST, PACKET_OUTGOING):
        found += [_checks(way, local.address, local.port) for local in opened]
        found += [_checks(way, address, None) for address in {local.address for local, bare in opened.items() if bare}]
    return found


def _checks(way: int, address: Address, port: int | None) -> list[Check]:
    """``port``: of UDP; ``None``: protocol 50."""
    checks = checks_of(way, address, ESP if port is None else UDP)
    if port is not None:
        _, half, word, transport = TRANSPORTS[address.version]
        checks += [
            (half, transport + (2 if way == PACKET_HOST else 0), 0xFFFF, port),
            packet_filter.Above(half, transport + 4, 0xFFFF, UDP_HEADER_LENGTH + ESP_HEADER_OCTETS),
            packet_filter.Above(word, transport + UDP_HEADER_LENGTH, 0xFFFFFFFF, 0),  # no non-ESP marker
        ]
    return checks


def _decode(octets: bytes, network: int) -> _Heard:
    """``DecodeError`` when the headers are not those of the packet."""
    packet = octets[network:]
    flow = flow_of(packet)
    _, transport = transport_of(packet)
    if transport is None:
        raise DecodeError("a fragment")
    size = 0
    if flow.protocol == UDP:
        transport += UDP_HEADER_LENGTH
        size = coalesced_octets(octets)
    step = size or PACKET_MAXIMUM
    make = IPv4Address if flow.version == 4 else IPv6Address
    return _Heard(
        source=make(flow.source),
        destination=make(flow.destination),
        source_port=flow.source_port,
        destination_port=flow.destination_port,
        payloads=[packet[begin : min(begin + step, flow.length)] for begin in range(transport, flow.length, step)],
    )


def _number_of(octets: bytes, network: int) -> int:
    """How many packets are joined to one, of which the beginning is there."""
    size = coalesced_octets(octets)
    if not size or len(octets) < network + IPV6_HEADER_LENGTH:
        return 1
    if octets[network] >> 4 == 4:
        total = int.from_bytes(octets[network + 2 : network + 4], "big") - (octets[network] & 15) * 4
    else:
        total = int.from_bytes(octets[network + 4 : network + 6], "big")
    return max(1, -(-(total - UDP_HEADER_LENGTH) // size))
