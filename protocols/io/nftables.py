"""nftables through netlink: tables, interval sets, base chains and rules, replaced as a whole in one transaction.

What is here is what a gateway's rules are made of, in pyroute2's message classes: matches on interface, IPsec,
addresses in a set, connection tracking and TCP's MSS option; verdicts; masquerading; counters, which can be read.
Maps are those that rules fill (``lab.nat_rules``). Left out: other maps, named objects, flow tables.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from sys import byteorder
from typing import Any

from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nft
from pyroute2.nftables.expressions import genex, masq
from pyroute2.nftables.expressions import verdict as pyroute2_verdict

from protocols.io.netlink_requests import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NetlinkRefusal,
    NetlinkRequests,
    Request,
)
from protocols.ip import TCP
from protocols.path import Address

SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES of <linux/netfilter/nfnetlink.h>
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NFPROTO_INET = 1  # <linux/netfilter.h>
NFPROTO = {4: 2, 6: 10}
NETLINK_NETFILTER = 12
COMMENT_MAXIMUM = 253  # NFT_USERDATA_MAXLEN without type, length and the final zero
INTERFACE_NAME_LENGTH = 16  # IFNAMSIZ of <linux/if.h>
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2  # NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER
TCP_OPTION = 1  # NFT_EXTHDR_OP_TCPOPT
ESTABLISHED_OR_RELATED = (2 | 4).to_bytes(4, byteorder)  # NF_CT_STATE_BIT of <linux/netfilter/nf_conntrack_common.h>
CT_STATE = 0  # NFT_CT_STATE

_LENGTHS = {4: 4, 6: 16}
_KEY_TYPES = {4: 7, 6: 8}  # TYPE_IPADDR and TYPE_IP6ADDR of nft(8)
_OFFSETS = {(4, "source"): 12, (4, "destination"): 16, (6, "source"): 8, (6, "destination"): 24}
_MSS_OPTION = {"type": 2, "offset": 2, "len": 2, "op": TCP_OPTION}  # RFC 9293 §3.2

Expressions = list[Any]
AddressRange = tuple[Address, Address]


class Hook(IntEnum):
    """Where a base chain is asked (<linux/netfilter.h>)."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    POSTROUTING = 4


class Verdict(IntEnum):
    """What becomes of a packet; ``ACCEPT`` ends the chain."""

    DROP = 0
    ACCEPT = 1


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A base chain that lets pass what no rule of it takes."""

    name: str
    hook: Hook
    priority: int
    rules: Sequence[Expressions]
    kind: str = "filter"


@dataclass(frozen=True, kw_only=True)
class AddressSet:
    """A named set of addresses of one IP version; ``ranges`` do not overlap."""

    name: str
    version: int
    ranges: Sequence[AddressRange]


@dataclass(frozen=True, kw_only=True)
class DynamicMap:
    """A map that rules put elements into, each for some time; lengths in octets, as registers hold keys and data."""

    name: str
    key_length: int
    data_length: int


Held = AddressSet | DynamicMap


# --- what rules are made of


def value(octets: bytes) -> dict[str, list[tuple[str, bytes]]]:
    """Octets as an expression's attribute."""
    return {"attrs": [("NFTA_DATA_VALUE", octets)]}


def _meta(key: nft.Meta, wanted: bytes, operator: nft.Cmp) -> Expressions:
    register = nft.Regs.NFT_REG_1
    load = genex("meta", {"key": key, "dreg": register})
    return [load, genex("cmp", {"sreg": register, "op": operator, "data": value(wanted)})]


def _name(interface: str) -> bytes:
    return interface.encode().ljust(INTERFACE_NAME_LENGTH, b"\0")


def comes_from(interface: str, *, wanted: bool = True) -> Expressions:
    """``iifname == interface``, or ``!=``."""
    return _meta(nft.Meta.NFT_META_IIFNAME, _name(interface), _equal(wanted))


def goes_to(interface: str, *, wanted: bool = True) -> Expressions:
    """``oifname == interface``, or ``!=``."""
    return _meta(nft.Meta.NFT_META_OIFNAME, _name(interface), _equal(wanted))


def out_of_ipsec(*, wanted: bool = True) -> Expressions:
    """``meta ipsec exists``, or ``missing``: what was decapsulated, by whosever SA."""
    return _meta(nft.Meta.NFT_META_SECPATH, bytes([wanted]), nft.Cmp.NFT_CMP_EQ)


def of_version(version: int) -> Expressions:
    """``meta nfproto ipv4`` or ``ipv6``."""
    return _meta(nft.Meta.NFT_META_NFPROTO, bytes([NFPROTO[version]]), nft.Cmp.NFT_CMP_EQ)


def in_set(name: str, version: int, which: str, *, wanted: bool = True) -> Expressions:
    """The ``source`` or ``destination`` address of a packet of this version is in a set, or is not."""
    register = nft.Regs.NFT_REG_1
    offset, length = _OFFSETS[version, which], _LENGTHS[version]
    load = genex("payload", {"dreg": register, "base": NETWORK_HEADER, "offset": offset, "len": length})
    flags: dict[str, Any] = {} if wanted else {"flags": {"NFT_LOOKUP_F_INV"}}
    return [*of_version(version), load, genex("lookup", {"set": name, "sreg": register, **flags})]


def tracked(key: int, mask: bytes, *, any_bit: bool) -> Expressions:
    """A word of connection tracking (``ct KEY``): any bit of the mask, four octets, is set in it, or none."""
    register = nft.Regs.NFT_REG_1
    place = {"sreg": register, "dreg": register, "len": 4}
    operator = nft.Cmp.NFT_CMP_NEQ if any_bit else nft.Cmp.NFT_CMP_EQ
    return [
        genex("ct", {"dreg": register, "key": key}),
        genex("bitwise", {**place, "mask": value(mask), "xor": value(bytes(4))}),
        genex("cmp", {"sreg": register, "op": operator, "data": value(bytes(4))}),
    ]


def is_new() -> Expressions:
    """``ct state`` is neither established nor related."""
    return tracked(CT_STATE, ESTABLISHED_OR_RELATED, any_bit=False)


def syn_with_mss_above(maximum: int) -> Expressions:
    """``tcp flags & syn != 0 tcp option maxseg size > maximum``; one without the option is none."""
    register = nft.Regs.NFT_REG_1
    place = {"sreg": register, "dreg": register, "len": 1}
    return [
        *_meta(nft.Meta.NFT_META_L4PROTO, bytes([TCP]), nft.Cmp.NFT_CMP_EQ),
        genex("payload", {"dreg": register, "base": TRANSPORT_HEADER, "offset": 13, "len": 1}),
        genex("bitwise", {**place, "mask": value(b"\2"), "xor": value(b"\0")}),
        genex("cmp", {"sreg": register, "op": nft.Cmp.NFT_CMP_NEQ, "data": value(b"\0")}),
        genex("exthdr", {"dreg": register, **_MSS_OPTION}),
        genex("cmp", {"sreg": register, "op": nft.Cmp.NFT_CMP_GT, "data": value(maximum.to_bytes(2, "big"))}),
    ]


def set_mss(mss: int) -> Expressions:
    """``tcp option maxseg size set``; checksums follow, and the kernel never raises it."""
    register = nft.Regs.NFT_REG_1
    load = genex("immediate", {"dreg": register, "data": value(mss.to_bytes(2, "big"))})
    return [load, genex("exthdr", {"sreg": register, **_MSS_OPTION})]


def counter() -> Expressions:
    """Count packets and octets that come so far."""
    return [genex("counter", {"bytes": 0, "packets": 0})]


def verdict(code: Verdict) -> Expressions:
    """End the chain."""
    return list(pyroute2_verdict(int(code)))


def of_protocol(protocol: int) -> Expressions:
    """``meta l4proto``."""
    return _meta(nft.Meta.NFT_META_L4PROTO, bytes([protocol]), nft.Cmp.NFT_CMP_EQ)


def masquerade(ports: range | None = None, *, random: bool = False) -> Expressions:
    """Source NAT to the address of the interface that the packet leaves by; ``masquerade to :FIRST-LAST``.

    ``random``: ``fully-random``, another port for each flow; else one source keeps its port towards everybody.
    """
    if ports is None:
        return list(masq())
    first, last = nft.Regs.NFT_REG_1, nft.Regs.NFT_REG_2
    flags = {"NF_NAT_RANGE_PROTO_SPECIFIED"} | ({"NF_NAT_RANGE_PROTO_RANDOM_FULLY"} if random else set())
    return [
        genex("immediate", {"dreg": first, "data": value(ports[0].to_bytes(2, "big"))}),
        genex("immediate", {"dreg": last, "data": value(ports[-1].to_bytes(2, "big"))}),
        genex("masq", {"flags": flags, "reg_proto_min": first, "reg_proto_max": last}),
    ]


def _equal(wanted: bool) -> nft.Cmp:
    return nft.Cmp.NFT_CMP_EQ if wanted else nft.Cmp.NFT_CMP_NEQ


# --- tables


class NfTables:
    """The tables of family ``inet`` in the process's network namespace."""

    def comment(self, table: str) -> str | None:
        """The comment of a table that is there; ``None`` without one of that name."""
        return self.comments().get(table)

    def comments(self) -> dict[str, str]:
        """The comments of all tables, by name."""
        found: dict[str, str] = {}
        for each in self._listed(nft.nft_table_msg, nft.NFT_MSG_GETTABLE):
            comment = each.get_attr("NFTA_TABLE_USERDATA")
            words = "" if comment is None else str(comment["value"] if isinstance(comment, dict) else comment)
            found[each.get_attr("NFTA_TABLE_NAME")] = words
        return found

    def counted(self, table: str) -> int:
        """Packets that the counters of a table's rules have seen."""
        return sum(
            expression.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_COUNTER_PACKETS")
            for rule in self._listed(nft.nft_rule_msg, nft.NFT_MSG_GETRULE)
            if rule.get_attr("NFTA_RULE_TABLE") == table
            for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ()
            if expression.get_attr("NFTA_EXPR_NAME") == "counter"
        )

    def _listed(self, message_class: Any, kind: int) -> list[Any]:
        request = Request(message=_message(message_class), kind=SUBSYSTEM | kind)
        with self._open() as netlink:
            try:
                found = netlink.dump(request, message_class)
            except NetlinkRefusal as error:
                if error.number == errno.ENOENT:
                    return []
                raise
        return [each for each in found if each["nfgen_family"] == NFPROTO_INET]

    def replace(self, table: str, comment: str, sets: Iterable[Held] = (), chains: Iterable[Chain] = ()) -> None:
        """Put a table in the place of the one there may be of that name, in one step."""
        self._commit(self._making(table, comment, sets, chains))

    def try_out(self, table: str, sets: Iterable[Held], chains: Iterable[Chain]) -> None:
        """Whether ``replace`` would be done; nothing is changed, since the last of its requests is impossible."""
        absent = [("NFTA_TABLE_NAME", f"{table}-absent")]
        impossible = _request(nft.nft_table_msg, nft.NFT_MSG_DELTABLE, absent)
        requests = [*self._making(table, "", sets, chains), impossible]
        try:
            self._commit(requests)
        except NetlinkRefusal as error:
            if error.number != errno.ENOENT or error.position != len(requests):
                raise

    def _making(self, table: str, comment: str, sets: Iterable[Held], chains: Iterable[Chain]) -> list[Request]:
        requests = [*self._removal(table), _new_table(table, comment)]
        for number, each in enumerate(sets, 1):
            if isinstance(each, DynamicMap):
                requests.append(_new_map(table, each, number))
                continue
            requests.append(_new_set(table, each, number))
            requests.append(_elements(table, each.name, each.ranges, nft.NFT_MSG_NEWSETELEM))
        for chain in chains:
            requests.append(_new_chain(table, chain))
            requests += [_new_rule(table, chain.name, rule) for rule in chain.rules]
        return requests

    def remove(self, table: str) -> None:
        """Take a table away; one that is not there is no mistake."""
        self._commit(self._removal(table))

    def add(self, table: str, set_name: str, address: AddressRange) -> None:
        """Put addresses into a set."""
        self._commit([_elements(table, set_name, [address], nft.NFT_MSG_NEWSETELEM)])

    def discard(self, table: str, set_name: str, address: AddressRange) -> None:
        """Take addresses out of a set."""
        self._commit([_elements(table, set_name, [address], nft.NFT_MSG_DELSETELEM)])

    def _removal(self, table: str) -> list[Request]:
        """Made first, a table can be removed whether it was there or not."""
        name = [("NFTA_TABLE_NAME", table)]
        return [
            _request(nft.nft_table_msg, nft.NFT_MSG_NEWTABLE, name, NLM_F_CREATE),
            _request(nft.nft_table_msg, nft.NFT_MSG_DELTABLE, name),
        ]

    def _commit(self, requests: Sequence[Request]) -> None:
        begin, end = (
            Request(message=_message(nfgen_msg, family=socket.AF_UNSPEC, subsystem=10), kind=kind, flags=0)
            for kind in (BATCH_BEGIN, BATCH_END)
        )
        with self._open() as netlink:
            netlink.change([begin, *requests, end])

    def _open(self) -> NetlinkRequests:
        return NetlinkRequests(NETLINK_NETFILTER, "nftables")


def _message(kind: Any, *, family: int = NFPROTO_INET, subsystem: int = 0) -> Any:
    message = kind()
    message["nfgen_family"] = family
    message["res_id"] = subsystem
    return message


def _request(message_class: Any, kind: int, attributes: Sequence[tuple[str, Any]], flags: int = 0) -> Request:
    message = _message(message_class)
    message["attrs"] = [list(each) for each in attributes]
    return Request(message=message, kind=SUBSYSTEM | kind, flags=NLM_F_ACK | flags)


def _new_table(table: str, comment: str) -> Request:
    attributes = [("NFTA_TABLE_NAME", table), ("NFTA_TABLE_USERDATA", {"value": comment[:COMMENT_MAXIMUM]})]
    return _request(nft.nft_table_msg, nft.NFT_MSG_NEWTABLE, attributes, NLM_F_CREATE)


def _new_set(table: str, each: AddressSet, number: int) -> Request:
    attributes: list[tuple[str, Any]] = [
        ("NFTA_SET_TABLE", table),
        ("NFTA_SET_NAME", each.name),
        ("NFTA_SET_FLAGS", {"NFT_SET_INTERVAL"}),
        ("NFTA_SET_KEY_TYPE", _KEY_TYPES[each.version]),
        ("NFTA_SET_KEY_LEN", _LENGTHS[each.version]),
        ("NFTA_SET_ID", number),
    ]
    return _request(nft.nft_set_msg, nft.NFT_MSG_NEWSET, attributes, NLM_F_CREATE)


def _new_map(table: str, each: DynamicMap, number: int) -> Request:
    attributes: list[tuple[str, Any]] = [
        ("NFTA_SET_TABLE", table),
        ("NFTA_SET_NAME", each.name),
        ("NFTA_SET_FLAGS", {"NFT_SET_MAP", "NFT_SET_TIMEOUT", "NFT_SET_EVAL"}),
        ("NFTA_SET_KEY_TYPE", 0),  # names for nft(8), which has none for these
        ("NFTA_SET_KEY_LEN", each.key_length),
        ("NFTA_SET_DATA_TYPE", 0),
        ("NFTA_SET_DATA_LEN", each.data_length),
        ("NFTA_SET_ID", number),
    ]
    return _request(nft.nft_set_msg, nft.NFT_MSG_NEWSET, attributes, NLM_F_CREATE)


def _elements(table: str, set_name: str, ranges: Iterable[AddressRange], kind: int) -> Request:
    """A range is where it begins and, unless it goes to the last address, where it is over."""
    elements: list[dict[str, Any]] = []
    for first, last in ranges:
        elements.append({"attrs": [("NFTA_SET_ELEM_KEY", value(first.packed))]})
        if int(last) + 1 < 1 << last.max_prefixlen:
            after = ip_address((int(last) + 1).to_bytes(len(last.packed), "big"))
            end = [("NFTA_SET_ELEM_KEY", value(after.packed)), ("NFTA_SET_ELEM_FLAGS", {1})]
            elements.append({"attrs": end})
    attributes: list[tuple[str, Any]] = [
        ("NFTA_SET_ELEM_LIST_TABLE", table),
        ("NFTA_SET_ELEM_LIST_SET", set_name),
        ("NFTA_SET_ELEM_LIST_ELEMENTS", elements),
    ]
    return _request(nft.nft_set_elem_list_msg, kind, attributes, NLM_F_CREATE)


def _new_chain(table: str, chain: Chain) -> Request:
    hook = {"attrs": [["NFTA_HOOK_HOOKNUM", int(chain.hook)], ["NFTA_HOOK_PRIORITY", chain.priority]]}
    attributes: list[tuple[str, Any]] = [
        ("NFTA_CHAIN_TABLE", table),
        ("NFTA_CHAIN_NAME", chain.name),
        ("NFTA_CHAIN_HOOK", hook),
        ("NFTA_CHAIN_POLICY", int(Verdict.ACCEPT)),
        ("NFTA_CHAIN_TYPE", chain.kind),
    ]
    return _request(nft.nft_chain_msg, nft.NFT_MSG_NEWCHAIN, attributes, NLM_F_CREATE)


def _new_rule(table: str, chain: str, expressions: Expressions) -> Request:
    attributes: list[tuple[str, Any]] = [
        ("NFTA_RULE_TABLE", table),
        ("NFTA_RULE_CHAIN", chain),
        ("NFTA_RULE_EXPRESSIONS", expressions),
    ]
    return _request(nft.nft_rule_msg, nft.NFT_MSG_NEWRULE, attributes, NLM_F_CREATE | NLM_F_APPEND)
