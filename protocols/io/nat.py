"""An address- and port-translating hop for UDP without root (NAPT, RFC 3022 §2.2; behaviour by RFC 4787).

::

    inside host ── (inside address, port) hop (outside address, ephemeral port) ── server, same port

A host on the inside sends everything to the hop (``protocols.io.link.NextHopLink``), which stands for one
server and its ports. Every inside end point gets an outside socket of its own, with a port that the system
chooses, for whatever ports of the server it speaks to (endpoint-independent mapping, §4.1); only the
server's ports are let back in (address- and port-dependent filtering, §5). An idle mapping expires, and
what then arrives for it is lost (§4.3: outbound datagrams keep it).

Left out: several servers, hairpinning (§6), ICMP, port preservation and parity (§4.2).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocols.errors import BackendError
from protocols.io.link import UdpLink
from protocols.path import Address, Endpoint, Path

IDLE_INTERVAL = 300.0  # RFC 4787 §4.3 REQ-5: five minutes are recommended, two at the least
MAPPINGS_MAXIMUM = 256  # each is an open socket; a further inside end point is refused


@dataclass(kw_only=True)
class Mapping:
    """An inside end point and the outside one that stands for it."""

    inside: Endpoint
    link: UdpLink
    used: float

    @property
    def outside(self) -> Endpoint:
        """What the server sees."""
        return self.link.local


class UdpNat:
    """The hop on the running loop; ``BackendError`` when an inside port cannot be opened."""

    def __init__(
        self,
        *,
        inside: Address,
        outside: Address,
        server: Address,
        ports: Sequence[int],
        idle_interval: float = IDLE_INTERVAL,
        mappings_maximum: int = MAPPINGS_MAXIMUM,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._monotonic = monotonic or self._loop.time
        self._outside = outside
        self._server = server
        self._idle_interval = idle_interval
        self._mappings_maximum = mappings_maximum
        self._mappings: dict[Endpoint, Mapping] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.forwarded: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.mappings_made = 0
        self.mappings_expired = 0
        self._inside: dict[int, UdpLink] = {}
        try:
            for port in ports:
                self._inside[port] = UdpLink(Endpoint(inside, port), self._from_inside)
        except BaseException:
            self.close()
            raise

    @property
    def mappings(self) -> tuple[tuple[Endpoint, Endpoint], ...]:
        """Inside and outside end points of what is mapped now."""
        return tuple((mapping.inside, mapping.outside) for mapping in self._mappings.values())

    def expire(self) -> None:
        """Forget the mappings that nobody inside has used for the idle interval."""
        now = self._monotonic()
        for mapping in list(self._mappings.values()):
            if now - mapping.used >= self._idle_interval:
                self._close_mapping(mapping)
                self.mappings_expired += 1
        self._arm()

    def close(self) -> None:
        """Close every socket; again is harmless."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for mapping in list(self._mappings.values()):
            self._close_mapping(mapping)
        for link in self._inside.values():
            link.close()
            self.dropped.update(link.dropped)
        self._inside.clear()

    def _from_inside(self, octets: bytes, path: Path) -> None:
        mapping = self._mappings.get(path.remote) or self._map(path.remote)
        if mapping is None:
            return
        mapping.used = self._monotonic()
        self.forwarded["outbound"] += 1
        mapping.link.send(octets, Endpoint(self._server, path.local.port))

    def _map(self, inside: Endpoint) -> Mapping | None:
        if len(self._mappings) >= self._mappings_maximum:
            self.dropped["no-room"] += 1
            return None
        try:
            link = UdpLink(Endpoint(self._outside, 0), lambda octets, path: self._from_outside(inside, octets, path))
        except BackendError:
            self.dropped["no-socket"] += 1
            return None
        mapping = Mapping(inside=inside, link=link, used=self._monotonic())
        self._mappings[inside] = mapping
        self.mappings_made += 1
        self._arm()
        return mapping

    def _from_outside(self, inside: Endpoint, octets: bytes, path: Path) -> None:
        link = self._inside.get(path.remote.port)
        if link is None or path.remote.address != self._server:
            self.dropped["filtered"] += 1
            return
        self.forwarded["inbound"] += 1
        link.send(octets, inside)

    def _close_mapping(self, mapping: Mapping) -> None:
        del self._mappings[mapping.inside]
        mapping.link.close()
        self.dropped.update(mapping.link.dropped)

    def _arm(self) -> None:
        """One timer, for the mapping that was used the longest ago."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._mappings:
            left = min(mapping.used for mapping in self._mappings.values()) + self._idle_interval - self._monotonic()
            self._timer = self._loop.call_later(max(left, 0.0), self.expire)
