"""A host on real UDP sockets: answers voice calls and echo, places calls, and keeps every call's log.

It stands behind the gateway and beside the UE where their ends of the tunnel are TUN devices or the kernel's own,
so that a move is measured in the same packets as in one process. Moments on the control socket are wall clock.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path as FilePath

from protocols.errors import LocalError
from protocols.io.clock import SystemClock
from protocols.io.control import ControlError, ControlServer, Params
from protocols.io.driver import Driver
from protocols.io.entropy import SystemEntropy
from protocols.io.link import UdpLink
from protocols.media.answerer import Answerer
from protocols.media.log import Entry, Figures
from protocols.media.voice import VOICE_PORT, VoiceEndpoint
from protocols.path import Address, Endpoint, Path
from protocols.trace.records import JsonValue

DEFAULT_RATE = 50.0  # packets per second
RATE_MAXIMUM = 2000.0
CALLS_KEPT = 16  # placed by this host
ANY_ADDRESS: dict[int, Address] = {4: IPv4Address("0.0.0.0"), 6: IPv6Address("::")}  # noqa: S104 - whatever the route says


@dataclass(frozen=True, kw_only=True)
class HostOptions:
    """What a host does; an echo port of ``None`` is no echo."""

    control: FilePath
    addresses: tuple[Address, ...] = (ANY_ADDRESS[4],)
    voice_port: int = VOICE_PORT
    echo_port: int | None = None


class _PlacedCall:
    """A call that this host has placed, with a socket of its own."""

    def __init__(self, number: int, endpoint: VoiceEndpoint, source: Address, destination: Endpoint) -> None:
        self.number = number
        self.endpoint = endpoint
        self.destination = destination
        self.link = UdpLink(Endpoint(source, 0), self._received)
        self._driver: Driver[None, bytes] = Driver(endpoint, on_event=lambda event: None, transmit=self._transmit)

    def start(self) -> None:
        """Call."""
        self.endpoint.start(self._driver.now())
        self._driver.pump()

    def stop(self) -> None:
        """Hang up; the other end's last reports still come."""
        self.endpoint.stop(self._driver.now())
        self._driver.pump()

    def close(self) -> None:
        """Close the socket."""
        self._driver.close()
        self.link.close()

    def _transmit(self, payload: bytes) -> None:
        self.link.send(payload, self.destination)

    def _received(self, octets: bytes, path: Path) -> None:
        if path.remote == self.destination:
            self.endpoint.receive(octets, self._driver.now())
            self._driver.pump()


class _AnsweringSocket:
    """One address's voice port."""

    def __init__(self, local: Endpoint, entropy: SystemEntropy) -> None:
        self.answerer = Answerer(entropy)
        self.link = UdpLink(local, self._received)
        self._driver: Driver[None, tuple[bytes, Endpoint]] = Driver(
            self.answerer, on_event=lambda event: None, transmit=lambda sending: self.link.send(*sending)
        )

    def close(self) -> None:
        """Close the socket."""
        self._driver.close()
        self.link.close()

    def _received(self, octets: bytes, path: Path) -> None:
        self.answerer.receive(octets, path.remote, self._driver.now())
        self._driver.pump()


class HostNode:
    """The process: sockets, calls, control socket; ``run`` serves until ``stop``."""

    def __init__(self, options: HostOptions) -> None:
        self._options = options
        clock = SystemClock()
        self._wall_offset = clock.wall() - clock.monotonic()
        self._now = clock.monotonic
        self._entropy = SystemEntropy()
        self._answering: list[_AnsweringSocket] = []
        self._echoes: list[UdpLink] = []
        self._echoed = 0
        self._placed: dict[int, _PlacedCall] = {}
        self._started = 0
        self._stopping = asyncio.Event()
        self._control = ControlServer(
            options.control,
            {
                "host.start": self._start,
                "host.stop": self._stop_call,
                "host.log": self._log,
                "host.status": self._status,
            },
        )

    async def run(self) -> None:
        """Open the sockets and serve; ``BackendError`` when one cannot be had."""
        options = self._options
        try:
            for address in options.addresses:
                self._answering.append(_AnsweringSocket(Endpoint(address, options.voice_port), self._entropy))
                if options.echo_port is not None:
                    self._open_echo(Endpoint(address, options.echo_port))
            await self._control.start()
            await self._stopping.wait()
        finally:
            for call in self._placed.values():
                call.stop()
                call.close()
            for answering in self._answering:
                answering.close()
            for echo in self._echoes:
                echo.close()
            await self._control.close()

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    def _open_echo(self, local: Endpoint) -> None:
        def answer(octets: bytes, path: Path) -> None:
            if path.remote.port != local.port:  # two echo servers would never stop
                self._echoed += 1
                link.send(octets, path.remote)

        link = UdpLink(local, answer)
        self._echoes.append(link)

    # --- control

    async def _start(self, params: Params) -> JsonValue:
        destination = _address(params.get("destination"), "destination")
        source = params.get("source")
        rate, port = params.get("rate", DEFAULT_RATE), params.get("port", VOICE_PORT)
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate <= RATE_MAXIMUM:
            raise ControlError("bad-params", f"rate is packets per second, above 0 and at most {RATE_MAXIMUM:g}")
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise ControlError("bad-params", "port is a number from 1 to 65535")
        local = ANY_ADDRESS[destination.version] if source is None else _address(source, "source")
        if local.version != destination.version:
            raise ControlError("bad-params", f"no call goes from {local} to {destination}")
        endpoint = VoiceEndpoint(ssrc=int.from_bytes(self._entropy.octets(4), "big"), interval=1 / rate)
        self._started += 1
        call = _PlacedCall(self._started, endpoint, local, Endpoint(destination, port))
        self._placed[call.number] = call
        while len(self._placed) > CALLS_KEPT:
            oldest = self._placed.pop(next(iter(self._placed)))
            oldest.stop()
            oldest.close()
        call.start()
        return self._view(endpoint, call)

    async def _stop_call(self, params: Params) -> JsonValue:
        number = params.get("id", self._started)
        call = self._placed.get(number) if isinstance(number, int) else None
        if call is None:
            raise ControlError("not-found", f"this host has placed no call {number}")
        call.stop()
        return self._view(call.endpoint, call)

    async def _log(self, params: Params) -> JsonValue:
        ssrc = params.get("ssrc")
        since, until = self._moment(params, "since"), self._moment(params, "until")
        endpoint = self._find(ssrc)
        return {
            "ssrc": ssrc,
            "running": endpoint.running,
            "sent": self._entries(endpoint.sent_log(since, until)),
            "received": self._entries(endpoint.received_log(since, until)),
        }

    async def _status(self, params: Params) -> JsonValue:
        since, until = self._moment(params, "since"), self._moment(params, "until")
        placed = [self._view(call.endpoint, call, since, until) for call in self._placed.values()]
        answered = [
            self._view(endpoint, None, since, until) for each in self._answering for endpoint in each.answerer.calls()
        ]
        sockets: Sequence[UdpLink] = (
            *self._echoes,
            *(each.link for each in self._answering),
            *(call.link for call in self._placed.values()),
        )
        return {
            "listen": [str(link.local) for link in sockets],
            "placed": [*placed],
            "answered": [*answered],
            "echoed": self._echoed,
            "refused": sum(each.answerer.refused for each in self._answering),
            "malformed": sum(each.answerer.malformed for each in self._answering),
            "dropped": {reason: number for link in sockets for reason, number in link.dropped.items()},
        }

    def _find(self, ssrc: JsonValue) -> VoiceEndpoint:
        """A call by the caller's SSRC, at whichever end this host is."""
        if not isinstance(ssrc, int) or isinstance(ssrc, bool):
            raise ControlError("bad-params", "ssrc is the number of a voice call, as host.start gives it")
        for call in self._placed.values():
            if call.endpoint.ssrc == ssrc:
                return call.endpoint
        for each in self._answering:
            if (endpoint := each.answerer.call(ssrc)) is not None:
                return endpoint
        raise ControlError("not-found", f"this host has had no voice call {ssrc}")

    def _view(
        self,
        endpoint: VoiceEndpoint,
        call: _PlacedCall | None,
        since: float | None = None,
        until: float | None = None,
    ) -> dict[str, JsonValue]:
        """A call; the uplink is the caller's stream."""
        seen = endpoint.statistics(self._now(), since, until)
        directions = (("uplink", "downlink"), ("downlink", "uplink"))[call is None]
        view: dict[str, JsonValue] = {
            "ssrc": endpoint.ssrc if call is not None else endpoint.remote_ssrc,
            "running": endpoint.running,
            "rate": round(1 / endpoint.interval, 6),
            directions[0]: _figures(seen.outbound),
            directions[1]: _figures(seen.inbound),
            "in_flight": seen.in_flight,
            "mos": {
                name: None if opinion is None else round(opinion.mos, 3)
                for name, opinion in zip(directions, (seen.outbound_opinion, seen.inbound_opinion), strict=True)
            },
        }
        if call is not None:
            view |= {"id": call.number, "destination": str(call.destination)}
        return view

    def _entries(self, log: Iterable[Entry]) -> JsonValue:
        return [[sequence, moment + self._wall_offset] for sequence, moment in log]

    def _moment(self, params: Params, name: str) -> float | None:
        value = params.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ControlError("bad-params", f"{name} is seconds since 1970-01-01 UTC")
        return value - self._wall_offset


def run_host(options: HostOptions) -> None:
    """Serve until SIGTERM or Ctrl-C."""

    async def run() -> None:
        node = HostNode(options)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.stop)
        await node.run()

    asyncio.run(run())


def parse_address(text: str) -> Address:
    """An IP address; ``LocalError``."""
    try:
        return ip_address(text)
    except ValueError:
        raise LocalError(f"{text!r} is no IP address") from None


def _address(value: JsonValue, name: str) -> Address:
    try:
        return parse_address(value if isinstance(value, str) else "")
    except LocalError:
        raise ControlError("bad-params", f"{name} is an IP address") from None


def _figures(figures: Figures) -> JsonValue:
    return dict(asdict(figures))
