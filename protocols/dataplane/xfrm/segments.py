"""The MSS of TCP's SYNs that pass an XFRM interface, lowered by nftables (RFC 9293 §3.7.1).

One table of the family ``inet`` for each device, with counters. It outlives this process, and is known by its comment
alone. Without an XFRM interface no device tells SYNs on their way to IPsec from others, and there is no such table.
``auto`` goes by the device's MTU (RFC 6691 §2): that is no more than all SAs carry within ``outer_mtu``, but a path's
MTU that the kernel has learned does not lower it.
"""

from __future__ import annotations

import errno
import os
from typing import Literal

from protocols.errors import BackendError
from protocols.esp.mss import mss_for
from protocols.io.netlink_requests import NetlinkRefusal
from protocols.io.nftables import (
    Chain,
    Expressions,
    Hook,
    NfTables,
    comes_from,
    counter,
    goes_to,
    of_version,
    set_mss,
    syn_with_mss_above,
)

MARK = "ePDG emulator: MSS of SYNs that pass a tunnel"  # the table's comment
MANGLE_PRIORITY = -150  # NF_IP_PRI_MANGLE of <linux/netfilter_ipv4.h>
WITHOUT = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ENOENT)  # nftables, the family inet, an expression

Mss = int | Literal["auto"]


class MssClamp:
    """SYNs of a device, both ways, between the first ``fit`` and ``close``."""

    def __init__(self, device: str, mss: Mss) -> None:
        self._device = device
        self._mss = mss
        self._table = f"esp-mss-{device}"
        self._nftables = NfTables()
        self._there = False
        self._former = 0

    def fit(self, mtu: int) -> None:
        """Lower them from now on to what the device carries with this MTU; ``BackendError``: the kernel refuses."""
        if self._there and self._mss != "auto":
            return
        former = self._former + (self._counted() if self._there else 0)
        self._nftables.replace(self._table, MARK, chains=_chains(self._device, self._mss, mtu))
        self._former, self._there = former, True

    @property
    def clamped(self) -> int:
        """SYNs whose MSS was lowered, of either direction."""
        return self._former + (self._counted() if self._there else 0)

    def close(self) -> None:
        """Leave SYNs alone; again is harmless."""
        if self._there:
            self._former, self._there = self.clamped, False
            self._nftables.remove(self._table)

    def _counted(self) -> int:
        return self._nftables.counted(self._table)


def why_not() -> str | None:
    """Why the kernel cannot lower the MSS, ``None`` when it can; nothing is changed."""
    name = f"esp-mss-{os.getpid()}"
    try:
        NfTables().try_out(name, (), _chains(name, "auto", 1400))
    except NetlinkRefusal as error:
        if error.number in WITHOUT:
            return "the kernel has no nftables (nf_tables with the family inet)"
        return str(error)
    except BackendError as error:
        return str(error)
    return None


def remove_leftovers() -> tuple[str, ...]:
    """Remove the tables that a former run has left; their names."""
    nftables = NfTables()
    try:
        found = tuple(table for table, comment in nftables.comments().items() if comment == MARK)
    except NetlinkRefusal as error:
        if error.number in (*WITHOUT, errno.EINVAL):  # netfilter knows no such messages
            return ()
        raise
    for table in found:
        nftables.remove(table)
    return found


def _chains(device: str, mss: Mss, mtu: int) -> tuple[Chain, ...]:
    def rules(direction: Expressions) -> list[Expressions]:
        return [
            [*direction, *of_version(version), *syn_with_mss_above(most), *counter(), *set_mss(most)]
            for version in (4, 6)
            if (most := mss_for(mtu, version) if mss == "auto" else mss) > 0
        ]

    return (
        Chain(name="in", hook=Hook.PREROUTING, priority=MANGLE_PRIORITY, rules=rules(comes_from(device))),
        Chain(name="out", hook=Hook.POSTROUTING, priority=MANGLE_PRIORITY, rules=rules(goes_to(device))),
    )
