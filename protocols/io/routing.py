"""Routes and routing rules through rtnetlink, marked as ours by their protocol number so that they are found again."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyroute2.netlink.rtnl import fibmsg as fib
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from protocols.errors import BackendError
from protocols.io.netlink_requests import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NetlinkRefusal, NetlinkRequests, Request
from protocols.path import Address

NETLINK_ROUTE = 0
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26  # <linux/rtnetlink.h>
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RT_TABLE_MAIN = 254
RT_TABLE_COMPAT = 252  # in the header, where the number stands in an attribute
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTN_UNICAST = 1
PROTOCOL = 145  # who made a route or rule: free for whoever takes it (<linux/rtnetlink.h> ends at 192)
FIRST_TABLE = 14500
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV)

Network = IPv4Network | IPv6Network


def interface_index(name: str) -> int:
    """The kernel's number of an interface; ``BackendError`` when there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise BackendError(f"there is no interface {name}") from error


def add_route(network: Network, interface: str, *, via: Address | None = None, table: int = RT_TABLE_MAIN) -> None:
    """A route of ours; ``BackendError`` when there is one to that network already."""
    message = _route(network, interface, via, table)
    _change(message, RTM_NEWROUTE, f"route to {network} by {interface}", NLM_F_CREATE | NLM_F_EXCL)


def delete_route(network: Network, interface: str) -> None:
    """Take one of the main table away again; one that has gone with its interface is no mistake."""
    _remove(_route(network, interface, None, RT_TABLE_MAIN), RTM_DELROUTE, f"route to {network} by {interface}")


def lead(network: Network, table: int) -> None:
    """What comes from a network goes by ``table`` where the main table has only a default route for it."""
    _change(_rule(network, RT_TABLE_MAIN, table, suppressed=True), RTM_NEWRULE, f"rule of {network}", NLM_F_CREATE)
    _change(_rule(network, table, table + 1), RTM_NEWRULE, f"rule of {network}", NLM_F_CREATE)


def lead_no_more(network: Network, table: int) -> None:
    """Undo ``lead``."""
    for rule in (_rule(network, RT_TABLE_MAIN, table, suppressed=True), _rule(network, table, table + 1)):
        _remove(rule, RTM_DELRULE, f"rule of {network}")


def free_tables(count: int) -> tuple[int, ...]:
    """Numbers of tables that no rule leads to, nor to the one after."""
    used = {int(rule.get_attr("FRA_TABLE") or 0) for version in _FAMILIES for rule in _rules(version)}
    used |= {int(rule.get_attr("FRA_PRIORITY") or 0) for version in _FAMILIES for rule in _rules(version)}
    found: list[int] = []
    table = FIRST_TABLE
    while len(found) < count:
        if not used & {table, table + 1}:
            found.append(table)
        table += 2
    return tuple(found)


def clear_tables(tables: Iterable[int]) -> None:
    """Take away rules and routes of ours in these tables, whatever run has made them."""
    wanted = frozenset(tables)
    for version in _FAMILIES:
        for rule in _rules(version):
            priority = int(rule.get_attr("FRA_PRIORITY") or 0)
            if rule.get_attr("FRA_PROTOCOL") == PROTOCOL and wanted & {priority, priority - 1}:
                _remove(_again(rule, fib.fibmsg), RTM_DELRULE, "rule")
        for route in _routes(version):
            if route["proto"] == PROTOCOL and route.get_attr("RTA_TABLE") in wanted:
                _remove(_again(route, rtmsg), RTM_DELROUTE, "route")


def _rules(version: int) -> list[Any]:
    message = fib.fibmsg()
    message["family"] = _FAMILIES[version]
    with NetlinkRequests(NETLINK_ROUTE, "routing rules") as netlink:
        found = netlink.dump(Request(message=message, kind=RTM_GETRULE), fib.fibmsg)
    return [rule for rule in found if rule["family"] == _FAMILIES[version]]


def _routes(version: int) -> list[Any]:
    message = rtmsg()
    message["family"] = _FAMILIES[version]
    with NetlinkRequests(NETLINK_ROUTE, "routes") as netlink:
        found = netlink.dump(Request(message=message, kind=RTM_GETROUTE), rtmsg)
    return [route for route in found if route["family"] == _FAMILIES[version]]


def _again(found: Any, message_class: Any) -> Any:
    """What was listed, as a request to delete it."""
    message = message_class()
    for name, _ in message_class.fields:
        message[name] = found[name]
    kept = ("RTA_DST", "RTA_OIF", "RTA_GATEWAY", "RTA_TABLE", "RTA_PRIORITY")
    rules = ("FRA_SRC", "FRA_TABLE", "FRA_PRIORITY", "FRA_PROTOCOL", "FRA_SUPPRESS_PREFIXLEN")
    suppressed = found.get_attr("FRA_SUPPRESS_PREFIXLEN") != 0xFFFFFFFF
    message["attrs"] = [
        [name, found.get_attr(name)]
        for name in (*kept, *(each for each in rules if suppressed or each != "FRA_SUPPRESS_PREFIXLEN"))
        if found.get_attr(name) is not None
    ]
    return message


def _route(network: Network, interface: str, via: Address | None, table: int) -> Any:
    message = rtmsg()
    message["family"] = _FAMILIES[network.version]
    message["dst_len"] = network.prefixlen
    message["table"] = table if table < 256 else RT_TABLE_COMPAT
    message["proto"] = PROTOCOL
    message["scope"] = RT_SCOPE_UNIVERSE if via is not None or network.version == 6 else RT_SCOPE_LINK
    message["type"] = RTN_UNICAST
    attributes: list[list[Any]] = [["RTA_TABLE", table], ["RTA_OIF", interface_index(interface)]]
    if network.prefixlen:
        attributes.append(["RTA_DST", str(network.network_address)])
    if via is not None:
        attributes.append(["RTA_GATEWAY", str(via)])
    message["attrs"] = attributes
    return message


def _rule(network: Network, table: int, priority: int, *, suppressed: bool = False) -> Any:
    message = fib.fibmsg()
    message["family"] = _FAMILIES[network.version]
    message["src_len"] = network.prefixlen
    message["table"] = table if table < 256 else RT_TABLE_COMPAT
    message["action"] = fib.FR_ACT_TO_TBL
    attributes: list[list[Any]] = [
        ["FRA_SRC", str(network.network_address)],
        ["FRA_TABLE", table],
        ["FRA_PRIORITY", priority],
        ["FRA_PROTOCOL", PROTOCOL],
    ]
    if suppressed:
        attributes.append(["FRA_SUPPRESS_PREFIXLEN", 0])
    message["attrs"] = attributes
    return message


def _remove(message: Any, kind: int, what: str) -> None:
    try:
        _change(message, kind, what)
    except NetlinkRefusal as error:
        if error.number not in _GONE:
            raise


def _change(message: Any, kind: int, what: str, flags: int = 0) -> None:
    with NetlinkRequests(NETLINK_ROUTE, what) as netlink:
        netlink.change([Request(message=message, kind=kind, flags=NLM_F_ACK | flags)])
