"""nftables rules for a NAT that lets in whom the UE has not spoken to: a map from ports outside to those behind it.

Linux' own source NAT (``masquerade``) keeps one port for a source towards everybody and lets in answers alone (RFC 4787
§4.1, §5: endpoint-independent mapping, address and port-dependent filtering). For full cone and restricted, what leaves
is remembered in a map, and what comes is translated by it. UDP over IPv4.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from sys import byteorder

from pyroute2.netlink.nfnetlink import nftsocket as nft
from pyroute2.nftables.expressions import genex

from protocols.io.nftables import (
    NETWORK_HEADER,
    NFPROTO,
    TRANSPORT_HEADER,
    DynamicMap,
    Expressions,
    of_protocol,
    of_version,
    tracked,
    value,
)
from protocols.ip import UDP

CT_DIRECTION, CT_STATUS, CT_PROTO_SRC = 1, 2, 11  # NFT_CT_* of <linux/netfilter/nf_tables.h>
DYNSET_UPDATE, NAT_DESTINATION = 1, 1  # NFT_DYNSET_OP_UPDATE, NFT_NAT_DNAT
DESTINATION_CHANGED = (1 << 5).to_bytes(4, byteorder)  # IPS_DST_NAT of <linux/netfilter/nf_conntrack_common.h>
ORIGINAL, REPLY = 0, 1  # enum ip_conntrack_dir
IPV4_SOURCE, IPV4_DESTINATION = 12, 16
UDP_SOURCE, UDP_DESTINATION = 0, 2
PORT_LENGTH, ADDRESS_LENGTH, REGISTER_LENGTH = 2, 4, 4


def map_of_ports(name: str, *, by_address: bool) -> DynamicMap:
    """Ports outside, or such ports and addresses of others, to ports behind."""
    length = REGISTER_LENGTH + ADDRESS_LENGTH if by_address else PORT_LENGTH
    return DynamicMap(name=name, key_length=length, data_length=PORT_LENGTH)


def remember_source(name: str, lifetime: float, *, by_address: bool) -> list[Expressions]:
    """What leaves translated: its source port, with ``by_address`` and whom it goes to, is that port behind the NAT.

    Two rules, for flows of either direction; in a filter's chain after the NAT. The element lasts for ``lifetime``.
    """
    key, data = nft.Regs.NFT_REG32_00, nft.Regs.NFT_REG_2
    return [
        [
            *of_version(4),
            *of_protocol(UDP),
            genex("ct", {"dreg": data, "key": CT_DIRECTION}),
            genex("cmp", {"sreg": data, "op": nft.Cmp.NFT_CMP_EQ, "data": value(bytes([direction]))}),
            genex("ct", {"dreg": data, "key": CT_PROTO_SRC, "direction": direction}),
            *_map_key(UDP_SOURCE, IPV4_DESTINATION if by_address else None),
            genex(
                "dynset",
                {
                    "set_name": name,
                    "op": DYNSET_UPDATE,
                    "sreg_key": key,
                    "sreg_data": data,
                    "timeout": round(lifetime * 1000),
                },
            ),
        ]
        for direction in (ORIGINAL, REPLY)
    ]


def destination_by(name: str, to: IPv4Address, *, by_address: bool) -> Expressions:
    """Destination NAT to an address, and to the port that the map has; what it has not goes on as it is."""
    address, port = nft.Regs.NFT_REG_1, nft.Regs.NFT_REG_2
    return [
        *of_version(4),
        *of_protocol(UDP),
        *_map_key(UDP_DESTINATION, IPV4_SOURCE if by_address else None),
        genex("lookup", {"set": name, "sreg": nft.Regs.NFT_REG32_00, "dreg": port}),
        genex("immediate", {"dreg": address, "data": value(to.packed)}),
        genex(
            "nat",
            {
                "type": NAT_DESTINATION,
                "family": NFPROTO[4],
                "reg_addr_min": address,
                "reg_proto_min": port,
                "flags": {"NF_NAT_RANGE_MAP_IPS", "NF_NAT_RANGE_PROTO_SPECIFIED"},
            },
        ),
    ]


def _map_key(port_at: int, address_at: int | None) -> Expressions:
    """A port of the UDP header, and behind it an address of the IPv4 header."""
    port, address = nft.Regs.NFT_REG32_00, nft.Regs.NFT_REG32_01
    key = [genex("payload", {"dreg": port, "base": TRANSPORT_HEADER, "offset": port_at, "len": PORT_LENGTH})]
    if address_at is not None:
        key.append(
            genex("payload", {"dreg": address, "base": NETWORK_HEADER, "offset": address_at, "len": ADDRESS_LENGTH})
        )
    return key


def destination_changed() -> Expressions:
    """``ct status & dnat != 0``: of a flow whose destination is translated."""
    return tracked(CT_STATUS, DESTINATION_CHANGED, any_bit=True)
