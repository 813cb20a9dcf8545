"""An access's router with the kernel's own NAT: nftables and connection tracking in a namespace of its own.

port-restricted
    ``masquerade`` to a range of ports, as Linux does it.
symmetric
    The same ``fully-random``: a port for each flow.
restricted, full cone
    As port-restricted; what leaves is remembered, and others of that address, or all others, are let in by ``dnat``.

Behind a NAT nothing else comes in, and nobody is told so, as with home routers. Lifetimes are whole seconds of
``nf_conntrack_udp_timeout`` and ``nf_conntrack_udp_timeout_stream``, which packets of either direction prolong. Ports
that are given after ``rebind`` have not been given in the three lives before.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from math import ceil

from lab.namespaces import Namespace
from lab.nat_rules import destination_by, destination_changed, map_of_ports, remember_source
from lab.network.nat import MAPPING_LIFETIME, NatKind
from protocols.errors import BackendError
from protocols.io.nftables import (
    Chain,
    Hook,
    NfTables,
    Verdict,
    comes_from,
    goes_to,
    is_new,
    masquerade,
    of_protocol,
    verdict,
)
from protocols.ip import UDP

TABLE = "lab-nat"
PORTS_MAP = "ports"
DESTINATION_NAT, FILTER, SOURCE_NAT, AFTER_NAT = -100, 0, 100, 300  # NF_IP_PRI_* of <linux/netfilter_ipv4.h>
FIRST_PORT, RANGE, RANGES = 20_000, 10_000, 4
LIFETIMES = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
LETTING_IN = (NatKind.FULL_CONE, NatKind.RESTRICTED)
NOT_THERE = "the kernel has no NAT by nftables here ({}); --nat lab needs none"


class Router:
    """Forwards in a namespace whose interface ``outside`` is the network's side; ``ue`` is who is behind it."""

    def __init__(self, namespace: Namespace, outside: str, ue: IPv4Address) -> None:
        self.namespace = namespace
        self._outside = outside
        self._ue = ue
        self._kind = NatKind.NONE
        self._lifetime = MAPPING_LIFETIME
        self._turn = 0
        namespace.set_sysctl("net/ipv4/ip_forward", 1)

    def translate(self, kind: NatKind, lifetime: float) -> None:
        """Another NAT, or none, that knows nothing yet; ``BackendError`` where the kernel has none."""
        self._kind, self._lifetime = kind, lifetime
        self._renew()

    def rebind(self) -> None:
        """Forget every mapping; those that come have other ports."""
        if self._kind is not NatKind.NONE:
            self._renew()

    def _renew(self) -> None:
        first = FIRST_PORT + self._turn % RANGES * RANGE
        self._turn += 1
        try:
            self.namespace.call(lambda: self._install(range(first, first + RANGE)))
            for key in LIFETIMES:
                self.namespace.set_sysctl(f"net/netfilter/{key}", ceil(self._lifetime))
            self.namespace.forget_translations()  # last: until then flows are as they were
        except BackendError as error:
            raise BackendError(NOT_THERE.format(error)) from error

    def _install(self, ports: range) -> None:
        by_address = self._kind is NatKind.RESTRICTED
        maps = [map_of_ports(PORTS_MAP, by_address=by_address)] if self._kind in LETTING_IN else []
        from_outside, drop = comes_from(self._outside), verdict(Verdict.DROP)
        unasked = [[*from_outside, *is_new(), *drop]]
        chains = [
            Chain(name="arriving", hook=Hook.INPUT, priority=FILTER, rules=[[*from_outside, *of_protocol(UDP), *drop]])
        ]
        if self._kind is not NatKind.NONE:
            leaving = goes_to(self._outside)
            to_ports = masquerade(ports, random=self._kind is NatKind.SYMMETRIC)
            rules = [[*leaving, *of_protocol(UDP), *to_ports], [*leaving, *masquerade()]]
            chains += [
                Chain(name="leaving", hook=Hook.POSTROUTING, priority=SOURCE_NAT, rules=rules, kind="nat"),
                Chain(name="through", hook=Hook.FORWARD, priority=FILTER, rules=unasked),
            ]
        if maps:
            remember = remember_source(PORTS_MAP, self._lifetime, by_address=by_address)
            let_in = [*from_outside, *destination_by(PORTS_MAP, self._ue, by_address=by_address)]
            unasked.insert(0, [*from_outside, *destination_changed(), *verdict(Verdict.ACCEPT)])
            chains += [
                Chain(
                    name="remembering",
                    hook=Hook.POSTROUTING,
                    priority=AFTER_NAT,
                    rules=[[*goes_to(self._outside), *each] for each in remember],
                ),
                Chain(name="letting-in", hook=Hook.PREROUTING, priority=DESTINATION_NAT, rules=[let_in], kind="nat"),
            ]
        NfTables().replace(TABLE, "the NAT of an access", maps, chains)


def why_no_nat() -> str | None:
    """Why this kernel has no NAT by nftables, ``None`` where it has; tried out in a namespace (root)."""
    with Namespace("probe") as probe:
        try:
            Router(probe, "outside", IPv4Address("192.0.2.1")).translate(NatKind.FULL_CONE, MAPPING_LIFETIME)
        except BackendError as error:
            return str(error)
    return None
