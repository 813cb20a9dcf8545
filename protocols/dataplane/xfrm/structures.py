"""The C structures of XFRM netlink (<linux/xfrm.h>) as dictionaries: what messages and attributes are made of.

Structures inside structures are dictionaries, too; an address is text, of the family that its structure or the one
around it names; SPIs and ports are numbers.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any

_ADDRESSES = frozenset(
    ("daddr", "saddr", "old_daddr", "old_saddr", "new_daddr", "new_saddr", "local", "remote", "encap_oa")
)


def _address_octets(value: Any) -> bytes:
    """``xfrm_address_t``: text or octets, zeros where there is none."""
    if not value:
        return bytes(16)
    if isinstance(value, bytes):
        return value.ljust(16, b"\0")
    return inet_pton(AF_INET6 if ":" in value else AF_INET, value).ljust(16, b"\0")


def name_addresses(record: Any, inherited: int = 0) -> None:
    """Turn the addresses of a decoded structure, and of those inside it, into text."""
    nested = [value for value in dict.values(record) if isinstance(value, dict)]
    family = (
        dict.get(record, "family") or inherited or next((f for f in (each.get("family") for each in nested) if f), 0)
    )
    for value in nested:
        name_addresses(value, family)
    for key, value in list(dict.items(record)):
        if key in _ADDRESSES and isinstance(value, bytes):
            own = dict.get(record, key.split("_")[0] + "_family") or family
            record[key] = inet_ntop(AF_INET6, value) if own == AF_INET6 else inet_ntop(AF_INET, value[:4])


class xfrm_struct:
    """A C structure as the type of a field, in the way of ``encode_into()`` and ``decode_from()``."""

    fields: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def get_size(cls) -> int:
        """Octets, padding included."""
        return sum(struct.calcsize(fmt) if isinstance(fmt, str) else fmt.get_size() for _, fmt in cls.fields)

    @classmethod
    def encode_into(cls, data: bytearray, offset: int, value: Any) -> int:
        """Append ``value``, a dictionary; what it does not name is zero."""
        value = value or {}
        unknown = set(value) - {name for name, _ in cls.fields}
        if unknown:
            raise KeyError(f"{cls.__name__} has no {', '.join(sorted(unknown))}")
        for name, fmt in cls.fields:
            if not isinstance(fmt, str):
                offset = fmt.encode_into(data, offset, value.get(name))
                continue
            size = struct.calcsize(fmt)
            data.extend(bytes(size))
            if fmt == "16s":
                struct.pack_into(fmt, data, offset, _address_octets(value.get(name)))
            elif fmt[-1] != "x":
                struct.pack_into(fmt, data, offset, value.get(name, 0))
            offset += size
        return offset

    @classmethod
    def decode_from(cls, data: Any, offset: int) -> tuple[dict[str, Any], int]:
        """The dictionary, its addresses still as octets, and the offset behind it."""
        value: dict[str, Any] = {}
        for name, fmt in cls.fields:
            if not isinstance(fmt, str):
                value[name], offset = fmt.decode_from(data, offset)
                continue
            if fmt[-1] != "x":
                (value[name],) = struct.unpack_from(fmt, data, offset)
            offset += struct.calcsize(fmt)
        return value, offset


class xfrm_id(xfrm_struct):
    fields = (("daddr", "16s"), ("spi", ">I"), ("proto", "B"), ("__pad", "3x"))


class xfrm_selector(xfrm_struct):
    fields = (
        ("daddr", "16s"),
        ("saddr", "16s"),
        ("dport", ">H"),
        ("dport_mask", ">H"),
        ("sport", ">H"),
        ("sport_mask", ">H"),
        ("family", "H"),
        ("prefixlen_d", "B"),
        ("prefixlen_s", "B"),
        ("proto", "B"),
        ("__pad", "3x"),
        ("ifindex", "i"),
        ("user", "I"),
    )


class xfrm_lifetime_cfg(xfrm_struct):
    fields = (
        ("soft_byte_limit", "Q"),
        ("hard_byte_limit", "Q"),
        ("soft_packet_limit", "Q"),
        ("hard_packet_limit", "Q"),
        ("soft_add_expires_seconds", "Q"),
        ("hard_add_expires_seconds", "Q"),
        ("soft_use_expires_seconds", "Q"),
        ("hard_use_expires_seconds", "Q"),
    )


class xfrm_lifetime_cur(xfrm_struct):
    fields = (("bytes", "Q"), ("packets", "Q"), ("add_time", "Q"), ("use_time", "Q"))


class xfrm_stats(xfrm_struct):
    fields = (("replay_window", "I"), ("replay", "I"), ("integrity_failed", "I"))


class xfrm_usersa_info(xfrm_struct):
    fields = (
        ("sel", xfrm_selector),
        ("id", xfrm_id),
        ("saddr", "16s"),
        ("lft", xfrm_lifetime_cfg),
        ("curlft", xfrm_lifetime_cur),
        ("stats", xfrm_stats),
        ("seq", "I"),
        ("reqid", "I"),
        ("family", "H"),
        ("mode", "B"),
        ("replay_window", "B"),
        ("flags", "B"),
        ("__pad", "7x"),
    )


class xfrm_usersa_id(xfrm_struct):
    fields = (("daddr", "16s"), ("spi", ">I"), ("family", "H"), ("proto", "B"), ("__pad", "1x"))


class xfrm_aevent_id(xfrm_struct):
    fields = (("sa_id", xfrm_usersa_id), ("saddr", "16s"), ("flags", "I"), ("reqid", "I"))


class xfrm_userspi_info(xfrm_struct):
    fields = (("info", xfrm_usersa_info), ("min", "I"), ("max", "I"))


class xfrm_userpolicy_info(xfrm_struct):
    fields = (
        ("sel", xfrm_selector),
        ("lft", xfrm_lifetime_cfg),
        ("curlft", xfrm_lifetime_cur),
        ("priority", "I"),
        ("index", "I"),
        ("dir", "B"),
        ("action", "B"),
        ("flags", "B"),
        ("share", "B"),
        ("__pad", "4x"),
    )


class xfrm_userpolicy_id(xfrm_struct):
    fields = (("sel", xfrm_selector), ("index", "I"), ("dir", "B"), ("__pad", "3x"))


class xfrm_user_acquire(xfrm_struct):
    fields = (
        ("id", xfrm_id),
        ("saddr", "16s"),
        ("sel", xfrm_selector),
        ("policy", xfrm_userpolicy_info),
        ("aalgos", "I"),
        ("ealgos", "I"),
        ("calgos", "I"),
        ("seq", "I"),
    )


class xfrm_user_expire(xfrm_struct):
    fields = (("state", xfrm_usersa_info), ("hard", "B"), ("__pad", "7x"))


class xfrm_user_polexpire(xfrm_struct):
    fields = (("pol", xfrm_userpolicy_info), ("hard", "B"), ("__pad", "7x"))


class xfrm_usersa_flush(xfrm_struct):
    fields = (("proto", "B"),)


class xfrm_user_mapping(xfrm_struct):
    fields = (
        ("id", xfrm_usersa_id),
        ("reqid", "I"),
        ("old_saddr", "16s"),
        ("new_saddr", "16s"),
        ("old_sport", ">H"),
        ("new_sport", ">H"),
    )


class xfrm_user_tmpl(xfrm_struct):
    fields = (
        ("id", xfrm_id),
        ("family", "H"),
        ("__pad", "2x"),
        ("saddr", "16s"),
        ("reqid", "I"),
        ("mode", "B"),
        ("share", "B"),
        ("optional", "B"),
        ("__pad", "1x"),
        ("aalgos", "I"),
        ("ealgos", "I"),
        ("calgos", "I"),
    )


class xfrm_encap_tmpl(xfrm_struct):
    fields = (
        ("encap_type", "H"),
        ("encap_sport", ">H"),
        ("encap_dport", ">H"),
        ("__pad", "2x"),
        ("encap_oa", "16s"),
    )


class xfrm_user_migrate(xfrm_struct):
    fields = (
        ("old_daddr", "16s"),
        ("old_saddr", "16s"),
        ("new_daddr", "16s"),
        ("new_saddr", "16s"),
        ("proto", "B"),
        ("mode", "B"),
        ("reserved", "H"),
        ("reqid", "I"),
        ("old_family", "H"),
        ("new_family", "H"),
    )


class xfrm_user_kmaddress(xfrm_struct):
    fields = (("local", "16s"), ("remote", "16s"), ("reserved", "I"), ("family", "H"), ("__pad", "2x"))


class xfrm_replay_state(xfrm_struct):
    fields = (("oseq", "I"), ("seq", "I"), ("bitmap", "I"))


class xfrm_replay_state_esn(xfrm_struct):
    fields = (
        ("bmp_len", "I"),
        ("oseq", "I"),
        ("seq", "I"),
        ("oseq_hi", "I"),
        ("seq_hi", "I"),
        ("replay_window", "I"),
    )


class xfrm_mark(xfrm_struct):
    fields = (("v", "I"), ("m", "I"))
