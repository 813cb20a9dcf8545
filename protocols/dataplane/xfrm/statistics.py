"""What the kernel's XFRM has dropped in this network namespace, whosever SAs it was (/proc/net/xfrm_stat).

See <kernel>/Documentation/networking/xfrm_proc.rst. Two counts are told less what SAs have counted themselves:
XfrmInStateSeqError (replayed packets, and number 0, which no SA counts) and XfrmInStateProtoError (wrong ICVs;
impossible padding and dummy packets, which the kernel does not tell apart and no SA counts).

A policy that is blocked counts what it drops as ``no_sa``, whatever has become of its SA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TextIO

from protocols.esp.sa import DropReason

PATH = "/proc/thread-self/net/xfrm_stat"
REASONS = {
    "XfrmInNoStates": DropReason.UNKNOWN_SPI,
    "XfrmInTmplMismatch": DropReason.BAD_SELECTOR,
    "XfrmInNoPols": DropReason.BAD_SELECTOR,
    "XfrmInPolBlock": DropReason.BAD_SELECTOR,
    "XfrmInHdrError": DropReason.MALFORMED,
    "XfrmInBufferError": DropReason.MALFORMED,
    "XfrmInStateModeError": DropReason.MALFORMED,
    "XfrmInStateExpired": DropReason.LIFETIME_EXPIRED,
    "XfrmInStateInvalid": DropReason.LIFETIME_EXPIRED,
    "XfrmOutStateExpired": DropReason.LIFETIME_EXPIRED,
    "XfrmOutStateInvalid": DropReason.LIFETIME_EXPIRED,
    "XfrmOutStateSeqError": DropReason.SEQUENCE_EXHAUSTED,
    "XfrmOutStateModeError": DropReason.TOO_BIG,  # the only error that a tunnel's outer header meets
    "XfrmOutNoStates": DropReason.NO_SA,
    "XfrmOutPolBlock": DropReason.NO_SA,
}
ENCAPSULATION = "encapsulation"  # XfrmInStateMismatch: ESP in UDP to an SA without, or the other way round
MALFORMED_OR_DUMMY = "malformed_or_dummy"
OTHER = "kernel_error"
WORDS = {**{name: reason.value for name, reason in REASONS.items()}, "XfrmInStateMismatch": ENCAPSULATION}
OF_SAS = {  # what SAs count of it, and what the rest is
    "XfrmInStateSeqError": (DropReason.REPLAYED, DropReason.REPLAYED.value),
    "XfrmInStateProtoError": (DropReason.BAD_ICV, MALFORMED_OR_DUMMY),
}


class Statistics:
    """Drops since it was made, of the namespace of the thread that made it; none where the kernel does not count.

    ``by_sas``: what SAs have counted since then, those that are gone included.
    """

    def __init__(self, by_sas: Callable[[], Mapping[DropReason, int]]) -> None:
        self._by_sas = by_sas
        self._file: TextIO | None = None
        self._last: Counter[str] = Counter()
        self._rest: Counter[str] = Counter()
        self._compared: dict[str, int] = {}
        try:
            self._file = open(PATH, encoding="ascii")  # noqa: SIM115 - read again and again until ``close``
        except OSError:  # CONFIG_XFRM_STATISTICS is off
            return
        self._before = self._read()

    def dropped(self) -> Counter[str]:
        """By words of ``DropReason``, and ``encapsulation``, ``malformed_or_dummy``, ``kernel_error``."""
        if self._file is None:
            return self._last
        found: Counter[str] = Counter()
        counted = self._read() - self._before
        for name, count in counted.items():
            if name not in OF_SAS:
                found[WORDS.get(name, OTHER)] += count
        of_sas = {name: counted[name] for name in OF_SAS if counted[name]}
        if of_sas != self._compared:  # SAs are asked one by one
            self._compared = of_sas
            by_sas = self._by_sas()
            for name, (reason, word) in OF_SAS.items():
                # SAs are asked later, and may have counted more by then.
                self._rest[word] = max(self._rest[word], counted[name] - by_sas.get(reason, 0))
        self._last = found + self._rest
        return self._last

    def close(self) -> None:
        """Count no more."""
        if self._file is not None:
            self.dropped()
            self._file.close()
            self._file = None

    def _read(self) -> Counter[str]:
        assert self._file is not None
        self._file.seek(0)
        rows = (line.split() for line in self._file)
        return Counter({row[0]: int(row[1]) for row in rows if len(row) == 2})
