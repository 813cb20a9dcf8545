"""How packets leave the gateway behind its TUN device (SGi, TS 29.061 §9): forwarding, anti-spoofing, masquerading.

One device carries all APNs; an nftables table of our own (``inet epdg-DEVICE``) tells them apart by their addresses:

* guard: only addresses that UEs were given come out of the device, and none of them comes in from elsewhere.
* between: UEs of one another (``ue_to_ue``), the outgoing interface, nothing at all (``none``), and no new connection
  to a masqueraded UE from outside.
* outgoing: masquerading, of IPv4 and IPv6.

Where the kernel carries ESP without an XFRM interface, ``by_ipsec``, UEs' packets pass no device: the guard keeps their
addresses from what does not come out of IPsec, and the kernel's policies bind each UE's SA to its addresses. Other
tunnels of the machine's are not touched.

Its comment is what a run that was killed leaves to the next: kernel parameters as they were before, and routing tables.
A kernel without nftables forwards all the same where every APN is routed; a warning says what is not kept apart then.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network

from epdg.config import ApnSection, EgressMode
from epdg.pdn.pool import PREFIX_LENGTH
from protocols.errors import BackendError
from protocols.io import routing
from protocols.io.netlink_requests import NetlinkRefusal
from protocols.io.nftables import (
    AddressRange,
    AddressSet,
    Chain,
    Expressions,
    Hook,
    NfTables,
    Verdict,
    comes_from,
    counter,
    goes_to,
    in_set,
    is_new,
    masquerade,
    out_of_ipsec,
    verdict,
)
from protocols.io.sysctl import FORWARDING, read_sysctl, write_sysctl
from protocols.path import Address

RAW_PRIORITY = -300  # NF_IP_PRI_RAW of <linux/netfilter_ipv4.h>: before connection tracking has work with it
FILTER_PRIORITY = 0
SOURCE_NAT_PRIORITY = 100
DEFAULT_ROUTES: dict[int, IPv4Network | IPv6Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
WITHOUT_NFTABLES = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)  # the family inet, nf_tables or netfilter are not there
_TABLES = "tables"

Network = IPv4Network | IPv6Network

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Journal:
    """What the gateway has changed besides its table: parameters with their former values, routing tables."""

    parameters: dict[str, str] = field(default_factory=dict)
    tables: tuple[int, ...] = ()

    @classmethod
    def read(cls, comment: str) -> Journal:
        """From a table's comment; what nobody of ours can have written is passed over."""
        parameters: dict[str, str] = {}
        tables: tuple[int, ...] = ()
        for word in comment.split():
            key, _, value = word.partition("=")
            if key == _TABLES:
                tables = tuple(int(each) for each in value.split(",") if each.isdecimal())
            elif key in FORWARDING.values() and value.isdecimal():
                parameters[key] = value
        return cls(parameters=parameters, tables=tables)

    def written(self) -> str:
        """As a table's comment."""
        words = [f"{key}={value}" for key, value in self.parameters.items()]
        if self.tables:
            words.append(f"{_TABLES}={','.join(map(str, self.tables))}")
        return " ".join(words)


class Egress:
    """Between ``open``, when the device is there, and ``close``, when it may have gone."""

    def __init__(self, device: str, apns: dict[str, ApnSection], *, by_ipsec: bool = False) -> None:
        self._device = device
        self._by_ipsec = by_ipsec
        self._apns = apns
        self._numbers = {name: number for number, name in enumerate(apns)}
        self._table = f"epdg-{device}"
        self._nftables = NfTables()
        self._filtering = True
        self._journal: Journal | None = None
        self._routed = {name: apn for name, apn in apns.items() if apn.egress_next_hop}
        self._admitted: dict[Address, str] = {}

    def open(self) -> None:
        """Put everything in place of what a run that was killed may have left; ``BackendError``: nothing is left."""
        self._filtering = self._has_nftables()
        left = self._nftables.comment(self._table) if self._filtering else None
        former = Journal() if left is None else Journal.read(left)
        if left is not None:
            _log.warning(
                "the packet filter of a run that did not end is replaced (nftables table inet %s)", self._table
            )
            routing.clear_tables(former.tables)
        needed = {FORWARDING[version] for version in self._forwarded_versions()}
        parameters = {key: former.parameters.get(key) or read_sysctl(key) for key in sorted(needed)}
        tables = routing.free_tables(len(self._routed)) if self._routed else ()
        self._journal = Journal(parameters=parameters, tables=tables)
        try:
            if self._filtering:
                self._nftables.replace(self._table, self._journal.written(), self._sets(), self._chains())
            for key, value in former.parameters.items():
                if key not in needed and value != read_sysctl(key):
                    write_sysctl(key, value)
            for key in needed:
                if read_sysctl(key) == "0":
                    write_sysctl(key, "1")
            for table, apn in zip(tables, self._routed.values(), strict=True):
                self._lead(apn, table)
        except BackendError:
            self.close()
            raise

    def try_out(self) -> None:
        """Whether the kernel would take the table; ``BackendError`` says why not, and nothing is changed."""
        self._nftables.try_out(self._table, self._sets(), self._chains())

    def close(self) -> None:
        """Take everything away again; what cannot be is named in the log, and the rest goes on."""
        if self._journal is None:
            return
        journal, self._journal = self._journal, None
        self._admitted.clear()  # their routes go with the device
        _attempt(partial(routing.clear_tables, journal.tables))
        for key, value in journal.parameters.items():
            _attempt(partial(_restore, key, value))
        if self._filtering:
            _attempt(partial(self._nftables.remove, self._table))

    def admit(self, apn: str, address: Address) -> None:
        """Lead a static address outside the pools to the device; ``BackendError``: it cannot be."""
        if self._journal is None or address in self._admitted:
            return
        routing.add_route(_unit(address), self._device)
        self._admitted[address] = apn
        try:
            if self._filtering:
                self._nftables.add(self._table, self._set(apn, address.version), _range(_unit(address)))
            if apn in self._routed and self._next_hop(apn, address.version) is not None:
                routing.lead(_unit(address), self._table_of(apn))
        except BackendError:
            self.dismiss(address)
            raise

    def dismiss(self, address: Address) -> None:
        """Undo ``admit``; an address that was not admitted is ignored."""
        apn = self._admitted.pop(address, None)
        if self._journal is None or apn is None:
            return
        network, name = _unit(address), self._set(apn, address.version)
        _attempt(partial(routing.delete_route, network, self._device))
        if self._filtering:
            _attempt(partial(self._nftables.discard, self._table, name, _range(network)))
        if apn in self._routed:
            _attempt(partial(routing.lead_no_more, network, self._table_of(apn)))

    def _has_nftables(self) -> bool:
        """``BackendError``: the kernel has none and an APN needs it, or we may not use it."""
        try:
            self.try_out()
        except NetlinkRefusal as error:
            special = [name for name, apn in self._apns.items() if apn.has_egress_of_its_own]
            if error.number not in WITHOUT_NFTABLES:
                raise
            if special:
                raise BackendError(f"the kernel has no nftables, which the egress of APN {special[0]} needs") from error
            _log.warning("the kernel has no nftables: UEs are not kept from one another, nor from others' addresses")
            return False
        return True

    # --- routing

    def _forwarded_versions(self) -> set[int]:
        forwarding = [apn for apn in self._apns.values() if apn.egress is not EgressMode.NONE or apn.ue_to_ue]
        return {network.version for apn in forwarding for network in apn.networks}

    def _lead(self, apn: ApnSection, table: int) -> None:
        for hop in apn.egress_next_hop:
            routing.add_route(DEFAULT_ROUTES[hop.version], apn.egress_interface or "", via=hop, table=table)
            for network in apn.networks:
                if network.version == hop.version:
                    routing.lead(network, table)

    def _table_of(self, apn: str) -> int:
        tables = () if self._journal is None else self._journal.tables
        return tables[list(self._routed).index(apn)]

    def _next_hop(self, apn: str, version: int) -> Address | None:
        return next((hop for hop in self._apns[apn].egress_next_hop if hop.version == version), None)

    # --- the table

    def _set(self, apn: str, version: int) -> str:
        return f"apn{self._numbers[apn]}-ipv{version}"

    def _each(self) -> list[tuple[ApnSection, str, int]]:
        """Every APN with the set of its addresses of each version that it has."""
        return [
            (apn, self._set(name, version), version)
            for name, apn in self._apns.items()
            for version in sorted({network.version for network in apn.networks})
        ]

    def _sets(self) -> list[AddressSet]:
        return [
            AddressSet(
                name=name,
                version=version,
                ranges=[_range(network) for network in apn.networks if network.version == version],
            )
            for apn, name, version in self._each()
        ]

    def _chains(self) -> tuple[Chain, ...]:
        return (
            Chain(name="guard", hook=Hook.PREROUTING, priority=RAW_PRIORITY, rules=self._guard()),
            Chain(name="between", hook=Hook.FORWARD, priority=FILTER_PRIORITY, rules=self._between()),
            Chain(
                name="outgoing",
                hook=Hook.POSTROUTING,
                priority=SOURCE_NAT_PRIORITY,
                rules=self._outgoing(),
                kind="nat",
            ),
        )

    def _guard(self) -> list[Expressions]:
        if self._by_ipsec:
            inside, elsewhere = out_of_ipsec(), out_of_ipsec(wanted=False)
        else:
            inside, elsewhere = comes_from(self._device), comes_from(self._device, wanted=False)
        local = comes_from("lo", wanted=False)
        accepted = [
            [*inside, *in_set(name, version, "source"), *verdict(Verdict.ACCEPT)] for _, name, version in self._each()
        ]
        spoofed = [
            [*elsewhere, *local, *in_set(name, version, "source"), *_drop()] for _, name, version in self._each()
        ]
        unknown = [] if self._by_ipsec else [[*inside, *_drop()]]  # it may be another tunnel's
        return [*accepted, *unknown, *spoofed]

    def _between(self) -> list[Expressions]:
        # By IPsec there is no device: addresses alone say it, which the guard has seen to.
        up, down = ([], []) if self._by_ipsec else (comes_from(self._device), goes_to(self._device))
        rules: list[Expressions] = []
        for apn, name, version in self._each():
            if apn.ue_to_ue:
                both = [*in_set(name, version, "source"), *in_set(name, version, "destination")]
                rules.append([*up, *down, *both, *verdict(Verdict.ACCEPT)])
        rules += [[*between, *_drop()] for between in self._from_ue_to_ue(up, down)]
        for apn, name, version in self._each():
            source, destination = in_set(name, version, "source"), in_set(name, version, "destination")
            if apn.egress is EgressMode.NONE:
                rules += [[*up, *source, *_drop()], [*down, *destination, *_drop()]]
            if apn.egress_interface is not None:
                rules.append([*up, *source, *goes_to(apn.egress_interface, wanted=False), *_drop()])
                rules.append([*down, *destination, *comes_from(apn.egress_interface, wanted=False), *_drop()])
            if apn.egress is EgressMode.MASQUERADED:
                rules.append([*down, *destination, *is_new(), *_drop()])
        return rules

    def _from_ue_to_ue(self, up: Expressions, down: Expressions) -> list[Expressions]:
        if not self._by_ipsec:
            return [[*up, *down]]
        return [
            [*in_set(name, version, "source"), *in_set(other, version, "destination")]
            for _, name, version in self._each()
            for _, other, other_version in self._each()
            if version == other_version
        ]

    def _elsewhere(self, version: int) -> Expressions:
        """Not to UEs."""
        if not self._by_ipsec:
            return goes_to(self._device, wanted=False)
        sets = [name for _, name, other_version in self._each() if other_version == version]
        return [each for name in sets for each in in_set(name, version, "destination", wanted=False)]

    def _outgoing(self) -> list[Expressions]:
        return [
            [*self._elsewhere(version), *in_set(name, version, "source"), *masquerade()]
            for apn, name, version in self._each()
            if apn.egress is EgressMode.MASQUERADED
        ]


def _attempt(undo: Callable[[], None]) -> None:
    try:
        undo()
    except BackendError as error:
        _log.warning("%s", error)


def _drop() -> Expressions:
    return [*counter(), *verdict(Verdict.DROP)]


def _unit(address: Address) -> Network:
    """An IPv4 address, or the /64 of an IPv6 one (TS 23.402 §4.7.3)."""
    if address.version == 4:
        return IPv4Network(address)
    return IPv6Network((address, PREFIX_LENGTH), strict=False)


def _range(network: Network) -> AddressRange:
    return network[0], network[-1]


def _restore(key: str, value: str) -> None:
    """A parameter as it was, unless somebody else has changed it meanwhile."""
    if value == "0" and read_sysctl(key) == "1":
        write_sysctl(key, value)
