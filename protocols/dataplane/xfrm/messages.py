"""XFRM netlink: the messages and attributes of <linux/xfrm.h>, declared as pyroute2 declares its own.

Structures are dictionaries (``structures``), keys are octets, their lengths in bits are computed. ``XFRM_COMMANDS``
says which message and which flags make which request, ``xfrm_request`` builds one. Left out: compression (RFC 3173),
security contexts, offload to devices, and the information messages on the sizes of the kernel's tables.
"""

from __future__ import annotations

import struct
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, nla, nlmsg
from pyroute2.netlink.nlsocket import Marshal

from protocols.dataplane.xfrm.structures import (
    name_addresses,
    xfrm_aevent_id,
    xfrm_encap_tmpl,
    xfrm_lifetime_cur,
    xfrm_mark,
    xfrm_replay_state,
    xfrm_replay_state_esn,
    xfrm_struct,
    xfrm_user_acquire,
    xfrm_user_expire,
    xfrm_user_kmaddress,
    xfrm_user_mapping,
    xfrm_user_migrate,
    xfrm_user_polexpire,
    xfrm_user_tmpl,
    xfrm_userpolicy_id,
    xfrm_userpolicy_info,
    xfrm_usersa_flush,
    xfrm_usersa_id,
    xfrm_usersa_info,
    xfrm_userspi_info,
)

XFRM_MSG_NEWSA = 0x10
XFRM_MSG_DELSA = 0x11
XFRM_MSG_GETSA = 0x12
XFRM_MSG_NEWPOLICY = 0x13
XFRM_MSG_DELPOLICY = 0x14
XFRM_MSG_GETPOLICY = 0x15
XFRM_MSG_ALLOCSPI = 0x16
XFRM_MSG_ACQUIRE = 0x17
XFRM_MSG_EXPIRE = 0x18
XFRM_MSG_UPDPOLICY = 0x19
XFRM_MSG_UPDSA = 0x1A
XFRM_MSG_POLEXPIRE = 0x1B
XFRM_MSG_FLUSHSA = 0x1C
XFRM_MSG_FLUSHPOLICY = 0x1D
XFRM_MSG_NEWAE = 0x1E
XFRM_MSG_GETAE = 0x1F
XFRM_MSG_MIGRATE = 0x21
XFRM_MSG_MAPPING = 0x26
XFRM_VALUES = {value: name for name, value in list(globals().items()) if name.startswith("XFRM_MSG_")}

# multicast groups, for add_membership()
XFRMNLGRP_ACQUIRE = 1
XFRMNLGRP_EXPIRE = 2
XFRMNLGRP_SA = 3
XFRMNLGRP_POLICY = 4
XFRMNLGRP_AEVENTS = 5
XFRMNLGRP_MIGRATE = 7
XFRMNLGRP_MAPPING = 8

XFRM_MODE_TRANSPORT = 0
XFRM_MODE_TUNNEL = 1
XFRM_MODE_BEET = 4

XFRM_POLICY_IN = 0
XFRM_POLICY_OUT = 1
XFRM_POLICY_FWD = 2
XFRM_POLICY_ALLOW = 0
XFRM_POLICY_BLOCK = 1

XFRM_STATE_AF_UNSPEC = 32
XFRM_STATE_ESN = 128
XFRM_SA_XFLAG_DONT_ENCAP_DSCP = 1
XFRM_INF = (1 << 64) - 1  # no limit
XFRMA_REPLAY_ESN_MAX = 4096  # packets of a replay window

XFRM_AE_RVAL = 2  # what GETAE is to answer with: the replay state, and
XFRM_AE_LVAL = 4  # the lifetime


class struct_nla(nla):
    """An attribute that holds one structure."""

    struct: type[xfrm_struct]
    value: Any

    def ft_encode(self, offset: int) -> tuple[int, int]:
        return self.struct.encode_into(self.data, offset, self.getvalue()), 0

    def ft_decode(self, offset: int) -> None:
        self.value, _ = self.struct.decode_from(self.data, offset)
        name_addresses(self.value, self.family())

    def setvalue(self, value: Any) -> Any:
        self.value = value
        return self

    def family(self) -> int:
        """The address family of the message around."""
        return int(self.parent.get("family") or 0)


class struct_array_nla(struct_nla):
    """An attribute that holds structures one behind the other."""

    def ft_encode(self, offset: int) -> tuple[int, int]:
        for each in self.getvalue():
            offset = self.struct.encode_into(self.data, offset, each)
        return offset, 0

    def ft_decode(self, offset: int) -> None:
        self.value = []
        while offset + self.struct.get_size() <= self.offset + self.length:
            each, offset = self.struct.decode_from(self.data, offset)
            name_addresses(each)
            self.value.append(each)


class algorithm_nla(nla):
    """A name, the key's length in bits, one more length in bits where ``length_field`` names it, and the key."""

    length_field: str | None = None
    value: Any

    def ft_encode(self, offset: int) -> tuple[int, int]:
        value = self.getvalue()
        key = value["alg_key"]
        octets = struct.pack("64sI", value["alg_name"].encode(), len(key) * 8)
        if self.length_field is not None:
            octets += struct.pack("I", value[self.length_field])
        octets += key
        padding = -len(octets) % 4
        self.data.extend(octets + bytes(padding))
        return offset + len(octets) + padding, padding

    def ft_decode(self, offset: int) -> None:
        name, bits = struct.unpack_from("64sI", self.data, offset)
        self.value = {"alg_name": name.rstrip(b"\0").decode(errors="replace")}
        offset += 68
        if self.length_field is not None:
            (self.value[self.length_field],) = struct.unpack_from("I", self.data, offset)
            offset += 4
        self.value["alg_key"] = bytes(self.data[offset : offset + (bits + 7) // 8])

    def setvalue(self, value: Any) -> Any:
        self.value = value
        return self


class xfrm_attributes:
    """The attributes that every XFRM message may carry."""

    prefix = "XFRMA_"
    nla_map = (
        (2, "XFRMA_ALG_CRYPT", "alg_crypt"),
        (4, "XFRMA_ENCAP", "encap"),
        (5, "XFRMA_TMPL", "tmpl"),
        (6, "XFRMA_SA", "sa"),
        (7, "XFRMA_POLICY", "policy"),
        (9, "XFRMA_LTIME_VAL", "ltime_val"),
        (10, "XFRMA_REPLAY_VAL", "replay_val"),
        (11, "XFRMA_REPLAY_THRESH", "uint32"),
        (12, "XFRMA_ETIMER_THRESH", "uint32"),
        (15, "XFRMA_LASTUSED", "uint64"),
        (17, "XFRMA_MIGRATE", "migrate"),
        (18, "XFRMA_ALG_AEAD", "alg_aead"),
        (19, "XFRMA_KMADDRESS", "kmaddress"),
        (20, "XFRMA_ALG_AUTH_TRUNC", "alg_auth_trunc"),
        (21, "XFRMA_MARK", "mark"),
        (23, "XFRMA_REPLAY_ESN_VAL", "replay_esn_val"),
        (24, "XFRMA_SA_EXTRA_FLAGS", "uint32"),
        (31, "XFRMA_IF_ID", "uint32"),
    )

    class alg_crypt(algorithm_nla):
        pass

    class alg_aead(algorithm_nla):
        length_field = "alg_icv_len"

    class alg_auth_trunc(algorithm_nla):
        length_field = "alg_trunc_len"

    class encap(struct_nla):
        struct = xfrm_encap_tmpl

    class tmpl(struct_array_nla):
        struct = xfrm_user_tmpl

    class sa(struct_nla):
        struct = xfrm_usersa_info

    class policy(struct_nla):
        struct = xfrm_userpolicy_info

    class ltime_val(struct_nla):
        struct = xfrm_lifetime_cur

    class replay_val(struct_nla):
        struct = xfrm_replay_state

    class migrate(struct_array_nla):
        struct = xfrm_user_migrate

    class kmaddress(struct_nla):
        struct = xfrm_user_kmaddress

    class mark(struct_nla):
        struct = xfrm_mark

    class replay_esn_val(struct_nla):
        """With ``bmp``, the window's bitmap in words of 32 bits."""

        struct = xfrm_replay_state_esn

        def ft_encode(self, offset: int) -> tuple[int, int]:
            value = dict(self.getvalue())
            words = value.pop("bmp")
            offset = self.struct.encode_into(self.data, offset, {**value, "bmp_len": len(words)})
            self.data.extend(struct.pack(f"{len(words)}I", *words))
            return offset + 4 * len(words), 0

        def ft_decode(self, offset: int) -> None:
            self.value, offset = self.struct.decode_from(self.data, offset)
            self.value["bmp"] = list(struct.unpack_from(f"{self.value.pop('bmp_len')}I", self.data, offset))


class xfrm_message(xfrm_attributes, nlmsg):
    """A message whose body is the structure ``struct``; its members are the message's fields."""

    struct: type[xfrm_struct] = xfrm_struct

    def __init_subclass__(cls) -> None:
        cls.fields = cls.struct.fields

    def ft_encode(self, offset: int) -> tuple[int, int]:
        values = {name: dict.get(self, name) for name, _ in self.fields if dict.get(self, name) is not None}
        end = self.struct.encode_into(self.data, offset, values)
        padding = -end % 4 if self["attrs"] else 0
        self.data.extend(bytes(padding))
        return end + padding, 0

    def decode(self) -> None:
        nlmsg.decode(self)
        name_addresses(self)


class xfrm_dump(xfrm_message):
    """A request for everything: attributes alone, the kernel reads them from where a body would begin."""


class usersa_info(xfrm_message):
    struct = xfrm_usersa_info


class usersa_id(xfrm_message):
    struct = xfrm_usersa_id


class userspi_info(xfrm_message):
    struct = xfrm_userspi_info


class userpolicy_info(xfrm_message):
    struct = xfrm_userpolicy_info


class userpolicy_id(xfrm_message):
    struct = xfrm_userpolicy_id


class user_acquire(xfrm_message):
    struct = xfrm_user_acquire


class user_expire(xfrm_message):
    struct = xfrm_user_expire


class user_polexpire(xfrm_message):
    struct = xfrm_user_polexpire


class usersa_flush(xfrm_message):
    struct = xfrm_usersa_flush


class aevent_id(xfrm_message):
    struct = xfrm_aevent_id


class user_mapping(xfrm_message):
    struct = xfrm_user_mapping


class MarshalXfrm(Marshal):
    """What the kernel sends, by message type; ``event`` is the type's name."""

    msg_map = {
        XFRM_MSG_NEWSA: usersa_info,
        XFRM_MSG_UPDSA: usersa_info,
        XFRM_MSG_DELSA: usersa_id,
        XFRM_MSG_NEWPOLICY: userpolicy_info,
        XFRM_MSG_UPDPOLICY: userpolicy_info,
        XFRM_MSG_DELPOLICY: userpolicy_id,
        XFRM_MSG_ACQUIRE: user_acquire,
        XFRM_MSG_EXPIRE: user_expire,
        XFRM_MSG_POLEXPIRE: user_polexpire,
        XFRM_MSG_FLUSHSA: usersa_flush,
        XFRM_MSG_FLUSHPOLICY: xfrm_dump,
        XFRM_MSG_NEWAE: aevent_id,
        XFRM_MSG_MIGRATE: userpolicy_id,
        XFRM_MSG_MAPPING: user_mapping,
    }

    def fix_message(self, msg: Any) -> None:
        msg["event"] = XFRM_VALUES.get(msg["header"]["type"], msg.get("event"))


_CHANGE = NLM_F_REQUEST | NLM_F_ACK
_CREATE = _CHANGE | NLM_F_CREATE | NLM_F_EXCL
_DUMP = NLM_F_REQUEST | NLM_F_DUMP

# The kernel answers NLM_F_REQUEST alone with what was asked for, or with an error.
XFRM_COMMANDS: dict[tuple[str, str], tuple[int, type[xfrm_message], int]] = {
    ("sa", "alloc_spi"): (XFRM_MSG_ALLOCSPI, userspi_info, NLM_F_REQUEST),
    ("sa", "add"): (XFRM_MSG_NEWSA, usersa_info, _CREATE),
    ("sa", "update"): (XFRM_MSG_UPDSA, usersa_info, _CHANGE | NLM_F_REPLACE),
    ("sa", "delete"): (XFRM_MSG_DELSA, usersa_id, _CHANGE),
    ("sa", "get"): (XFRM_MSG_GETSA, usersa_id, NLM_F_REQUEST),
    ("sa", "dump"): (XFRM_MSG_GETSA, xfrm_dump, _DUMP),
    ("sa", "expire"): (XFRM_MSG_EXPIRE, user_expire, _CHANGE),
    ("sa", "flush"): (XFRM_MSG_FLUSHSA, usersa_flush, _CHANGE),
    ("policy", "add"): (XFRM_MSG_NEWPOLICY, userpolicy_info, _CREATE),
    ("policy", "update"): (XFRM_MSG_UPDPOLICY, userpolicy_info, _CHANGE | NLM_F_REPLACE),
    ("policy", "delete"): (XFRM_MSG_DELPOLICY, userpolicy_id, _CHANGE),
    ("policy", "get"): (XFRM_MSG_GETPOLICY, userpolicy_id, NLM_F_REQUEST),
    ("policy", "dump"): (XFRM_MSG_GETPOLICY, xfrm_dump, _DUMP),
    ("policy", "expire"): (XFRM_MSG_POLEXPIRE, user_polexpire, _CHANGE),
    ("policy", "flush"): (XFRM_MSG_FLUSHPOLICY, xfrm_dump, _CHANGE),
    ("policy", "migrate"): (XFRM_MSG_MIGRATE, userpolicy_id, _CHANGE),
    ("ae", "get"): (XFRM_MSG_GETAE, aevent_id, NLM_F_REQUEST),
    ("ae", "update"): (XFRM_MSG_NEWAE, aevent_id, _CHANGE | NLM_F_REPLACE),
}


def xfrm_request(kind: str, command: str, values: dict[str, Any]) -> Any:
    """A message of ``XFRM_COMMANDS``; ``values`` are fields and attributes (``encap`` for ``XFRMA_ENCAP``).

    ``KeyError`` for a command, field or attribute that there is not.
    """
    message_type, message_class, flags = XFRM_COMMANDS[kind, command]
    message = message_class()
    message["header"]["type"] = message_type
    message["header"]["flags"] = flags
    fields = {name for name, _ in message_class.fields}
    for key, value in values.items():
        if key in fields:
            message[key] = value
            continue
        name = message_class.name2nla(key)
        if not message.valid_nla(name):
            raise KeyError(f"{message_class.__name__} has no {key}")
        message["attrs"].append([name, value])
    return message
