"""What a node stands on: clocks, random source, links, streams, names, control; the laboratory gives others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from protocols.entropy import Entropy
from protocols.io.clock import SystemClock
from protocols.io.control import ControlServer, Handler
from protocols.io.dns import DnsResolver, ResolverOpener
from protocols.io.entropy import SystemEntropy
from protocols.io.link import Link, Receiver, UdpLink
from protocols.io.raw import RawOpener, raw_esp_opener
from protocols.io.streams import StreamBinder, listening_socket
from protocols.path import Endpoint
from protocols.trace.recorder import Recorder


class Clock(Protocol):
    """Seconds that never go back and are the event loop's, and the time of day."""

    def monotonic(self) -> float:
        """The same clock as asyncio's ``loop.time``."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""

    def moment(self) -> datetime:
        """Now, in UTC: what certificates are checked against."""


class Control(Protocol):
    """Takes a node's control methods to whoever asks."""

    async def start(self) -> None:
        """Serve from now on; ``BackendError`` in one line."""

    async def close(self) -> None:
        """Serve no more."""


LinkOpener = Callable[[Endpoint, Receiver], Link]
ControlOpener = Callable[[Path, Mapping[str, Handler], Recorder], Control]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """By default the operating system's; ``open_link`` raises ``BackendError`` where there is no such end point.

    ``open_raw_esp``: ESP straight on IP; ``None`` without the right to it, or where links are no sockets.
    """

    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)
    open_link: LinkOpener = UdpLink
    open_raw_esp: RawOpener | None = field(default_factory=raw_esp_opener)
    control: ControlOpener = ControlServer
    bind_stream: StreamBinder = listening_socket
    resolver: ResolverOpener = DnsResolver
