"""Capture files block by block (pcapng, draft-ietf-opsawg-pcapng §4): one section, its interfaces and packets.

Left out: statistics and decryption secrets blocks. Times are in microseconds, the default resolution.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from protocols.path import Address

LINKTYPE_RAW = 101  # raw IPv4 or IPv6, told apart by the version nibble
LINKTYPE_UPPER_PDU = 252  # a message without what carried it, its dissector named by tags before it
APPLICATION = "epdg-emulator"
COMMENT_OCTETS = 8192  # a longer comment is cut; an option's length has sixteen bits (§3.5)

_BLOCK_SECTION, _BLOCK_INTERFACE, _BLOCK_NAMES, _BLOCK_PACKET = 0x0A0D0D0A, 1, 4, 6
_OPTION_COMMENT = 1
_OPTION_SECTION_APPLICATION = 4
_OPTION_INTERFACE_NAME = 2
_OPTION_PACKET_FLAGS = 2
_NAME_OF = {4: 1, 6: 2}  # record types of §4.5 by IP version


class Section:
    """``start()`` once, then ``packet()`` for each packet; an interface is described before its first one."""

    def __init__(self, application: str = APPLICATION) -> None:
        self._application = application
        self._interfaces: dict[tuple[str, int], int] = {}

    def start(self, names: Mapping[Address, str] | None = None) -> bytes:
        """The Section Header Block (§4.1), and a Name Resolution Block (§4.5) where there are ``names``."""
        body = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
        header = _block(_BLOCK_SECTION, body, _option(_OPTION_SECTION_APPLICATION, self._application.encode()))
        return header + _names(names) if names else header

    def packet(
        self,
        interface: str,
        octets: bytes,
        *,
        wall: float,
        outgoing: bool | None = None,
        comment: str = "",
        link: int = LINKTYPE_RAW,
    ) -> bytes:
        """An Enhanced Packet Block (§4.3), after its Interface Description Block (§4.2) when that is new.

        ``outgoing`` as the interface sees it, where it is one; ``wall``: seconds since 1970.
        """
        blocks = b""
        number = self._interfaces.get((interface, link))
        if number is None:
            number = self._interfaces[interface, link] = len(self._interfaces)
            name = _option(_OPTION_INTERFACE_NAME, interface.encode())
            blocks = _block(_BLOCK_INTERFACE, struct.pack("<HHI", link, 0, 0), name)
        microseconds = round(wall * 1e6)
        body = struct.pack("<IIIII", number, microseconds >> 32, microseconds & 0xFFFFFFFF, len(octets), len(octets))
        options = b""
        if outgoing is not None:
            options += _option(_OPTION_PACKET_FLAGS, struct.pack("<I", 2 if outgoing else 1))
        if comment:
            text = comment.encode("utf-8", "replace")[:COMMENT_OCTETS].decode("utf-8", "ignore")
            options += _option(_OPTION_COMMENT, text.encode())
        return blocks + _block(_BLOCK_PACKET, body + octets + b"\0" * (-len(octets) % 4), options)


def _names(names: Mapping[Address, str]) -> bytes:
    records = b""
    for address, name in names.items():
        value = address.packed + name.encode() + b"\0"
        records += struct.pack("<HH", _NAME_OF[address.version], len(value)) + value + b"\0" * (-len(value) % 4)
    return _block(_BLOCK_NAMES, records + struct.pack("<HH", 0, 0))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def _block(kind: int, body: bytes, options: bytes = b"") -> bytes:
    if options:
        options += struct.pack("<HH", 0, 0)
    length = 12 + len(body) + len(options)
    return struct.pack("<II", kind, length) + body + options + struct.pack("<I", length)
