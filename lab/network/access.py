"""An access network of a UE: its radio both ways, the NAT behind it, whether it is there, whether it is captive.

::

    UE ── uplink, downlink (Impairments) ── NAT ── gateway

Whoever carries the datagrams (on virtual time, or between sockets) asks for each what becomes of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from lab.network.impairments import PERFECT, Impairments
from lab.network.nat import Nat
from protocols.path import Address, Endpoint

UDP_HEADER_LENGTH = 8
IP_HEADER_LENGTHS = {4: 20, 6: 40}


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A datagram behind the access: from where and to whom it is there, and when each copy arrives."""

    source: Endpoint
    destination: Endpoint
    arrivals: tuple[float, ...]


class AccessNetwork:
    """One access; everything but its name may change at any time, and holds from the next datagram on.

    ``captive`` swallows everything, like a Wi-Fi that wants a login first; ``up`` is whether it is there at all.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        uplink: Impairments = PERFECT,
        downlink: Impairments = PERFECT,
        nat: Nat | None = None,
        captive: bool = False,
        up: bool = True,
    ) -> None:
        self.name = name
        self.address = address
        self.uplink = uplink
        self.downlink = downlink
        self.nat = nat
        self.captive = captive
        self.up = up
        self.forwarded: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def outbound(
        self, octets_length: int, source: Endpoint, destination: Endpoint, random: Random, now: float
    ) -> Passage | None:
        """A UDP payload of so many octets from the UE to the network; ``None``: it is lost, and counted.

        What is lost on the radio does not reach the NAT, and keeps no mapping alive.
        """
        arrivals = self._over_the_radio(self.uplink, octets_length, source, random, now, "outbound")
        if not arrivals:
            return None
        outside = source if self.nat is None else self.nat.outbound(source, destination, now)
        if outside is None:
            self.dropped["outbound-nat"] += 1
            return None
        self.forwarded["outbound"] += len(arrivals)
        return Passage(source=outside, destination=destination, arrivals=arrivals)

    def inbound(
        self, octets_length: int, source: Endpoint, destination: Endpoint, random: Random, now: float
    ) -> Passage | None:
        """A UDP payload of so many octets from the network to an end point outside the NAT; ``None``: lost."""
        inside = destination if self.nat is None else self.nat.inbound(destination, source, now)
        if inside is None:
            self.dropped["inbound-nat"] += 1
            return None
        arrivals = self._over_the_radio(self.downlink, octets_length, source, random, now, "inbound")
        if not arrivals:
            return None
        self.forwarded["inbound"] += len(arrivals)
        return Passage(source=source, destination=inside, arrivals=arrivals)

    def _over_the_radio(
        self, direction: Impairments, octets_length: int, source: Endpoint, random: Random, now: float, name: str
    ) -> tuple[float, ...]:
        if not self.up:
            self.dropped[f"{name}-down"] += 1
            return ()
        if self.captive:
            self.dropped[f"{name}-captive"] += 1
            return ()
        length = octets_length + UDP_HEADER_LENGTH + IP_HEADER_LENGTHS[source.address.version]
        arrivals = direction.plan(length, random, now)
        if not arrivals:
            too_long = direction.mtu is not None and length > direction.mtu
            self.dropped[f"{name}-too-long" if too_long else f"{name}-lost"] += 1
        return tuple(arrivals)
