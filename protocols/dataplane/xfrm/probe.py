"""Whether the kernel can carry our ESP, asked of the kernel itself: what is missing, in plain words.

Every question is put with an SA or a policy of ``PROBE_REQID`` between documentation addresses (RFC 5737, RFC 3849),
which is gone when the answer is there.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from protocols.dataplane.xfrm.algorithms import key_attributes
from protocols.dataplane.xfrm.connection import XfrmConnection, XfrmRefused
from protocols.dataplane.xfrm.messages import XFRM_INF, XFRM_MODE_TUNNEL
from protocols.dataplane.xfrm.state import ESP
from protocols.errors import BackendError
from protocols.ikev2.suites import EspSuite
from protocols.io.link import take_out_esp
from protocols.secret import Secret

PROBE_REQID = 0x655FFFFF
PROBE_SPI = 0x65500101
NULL_SUITE = EspSuite.of("null-sha1")  # asks for the least of all
ENDS = {4: ("192.0.2.1", "198.51.100.1"), 6: ("2001:db8::1", "2001:db8::2")}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_LIMITS = dict.fromkeys(("soft_byte_limit", "hard_byte_limit", "soft_packet_limit", "hard_packet_limit"), XFRM_INF)
_NO_RIGHT = "the right CAP_NET_ADMIN in this network namespace"
_NO_MIGRATE = "moving SAs in the kernel (CONFIG_XFRM_MIGRATE): a move drops packets in both directions"
_NO_XFRM = "XFRM in the kernel (CONFIG_XFRM_USER, module xfrm_user)"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """``missing``: without it nothing goes. ``lacking``: what child SAs want. ``costly``: what goes with losses."""

    missing: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    costly: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the kernel carries ESP at all."""
        return not self.missing


def probe(suites: Iterable[EspSuite] = ()) -> Finding:
    """Ask the kernel, in the network namespace of the calling thread; ``suites`` are those it should have."""
    try:
        kernel = XfrmConnection()
    except XfrmRefused as error:
        return Finding(missing=(_NO_RIGHT if error.number in (errno.EPERM, errno.EACCES) else _NO_XFRM,))
    with contextlib.closing(kernel):
        first = _refusal(kernel, NULL_SUITE, 4)
        if first in (errno.EPERM, errno.EACCES):
            return Finding(missing=(_NO_RIGHT,))
        if first is not None:
            return Finding(missing=("ESP for IPv4 in the kernel (CONFIG_INET_ESP, module esp4)",))
        return Finding(
            missing=_missing(),
            lacking=tuple(_lacking(kernel, suites)),
            costly=() if _migrates(kernel) else (_NO_MIGRATE,),
        )


def _missing() -> tuple[str, ...]:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as made:
        try:
            take_out_esp(made)
        except BackendError as error:
            return (str(error),)
    return ()


def _lacking(kernel: XfrmConnection, suites: Iterable[EspSuite]) -> Iterable[str]:
    if _refusal(kernel, NULL_SUITE, 6) is not None:
        yield "ESP for IPv6 in the kernel (CONFIG_INET6_ESP, module esp6)"
    for suite in suites:
        if _refusal(kernel, suite, 4) is not None:
            yield f"the algorithms of {suite} in the kernel"


def _refusal(kernel: XfrmConnection, suite: EspSuite, version: int) -> int | None:
    """Why the kernel does not take an SA, as errno; ``None``: it does."""
    keys = Secret(_key(suite.encryption_key_length)), Secret(_key(suite.integrity_key_length))
    destination, source = ENDS[version]
    values: dict[str, Any] = {
        "id": {"daddr": destination, "spi": PROBE_SPI, "proto": ESP},
        "saddr": source,
        "family": FAMILIES[version],
        "mode": XFRM_MODE_TUNNEL,
        "reqid": PROBE_REQID,
        "lft": _LIMITS,
        **key_attributes(suite, *keys),
    }
    try:
        kernel.request("sa", "add", **values)
    except XfrmRefused as error:
        return error.number
    kernel.request("sa", "delete", daddr=destination, spi=PROBE_SPI, family=FAMILIES[version], proto=ESP)
    return None


def _key(length: int) -> bytes:
    """Octets that all differ: 3DES refuses a key whose parts are the same."""
    return bytes(range(1, length + 1))


def _migrates(kernel: XfrmConnection) -> bool:
    """Whether XFRM_MSG_MIGRATE is known: it is asked for a policy that there is not."""
    destination, source = ENDS[4]
    move = {
        "old_daddr": destination,
        "old_saddr": source,
        "new_daddr": destination,
        "new_saddr": "203.0.113.1",
        "proto": ESP,
        "mode": XFRM_MODE_TUNNEL,
        "reqid": PROBE_REQID,
        "old_family": socket.AF_INET,
        "new_family": socket.AF_INET,
    }
    selector = {
        "family": socket.AF_INET,
        "saddr": source,
        "prefixlen_s": 32,
        "daddr": destination,
        "prefixlen_d": 32,
        "proto": 254,
    }
    try:
        kernel.request("policy", "migrate", sel=selector, dir=0, migrate=[move])
    except XfrmRefused as error:
        return error.number not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)
    return True
