"""What the kernel's XFRM has dropped in this network namespace, whosever SAs it was (/proc/net/xfrm_stat).

See <kernel>/Documentation/networking/xfrm_proc.rst. Left out is what the kernel counts for each SA as well: replayed
packets (XfrmInStateSeqError) and wrong ICVs (XfrmInStateProtoError).
"""

from __future__ import annotations

from collections import Counter
from typing import TextIO

from protocols.esp.sa import DropReason

PATH = "/proc/thread-self/net/xfrm_stat"
REASONS = {
    "XfrmInNoStates": DropReason.UNKNOWN_SPI,
    "XfrmInStateMismatch": DropReason.BAD_SELECTOR,
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
    "XfrmOutNoStates": DropReason.NO_SA,
    "XfrmOutPolBlock": DropReason.NO_SA,
}
PER_SA = frozenset(("XfrmInStateSeqError", "XfrmInStateProtoError"))
OTHER = "kernel_error"


class Statistics:
    """Drops since it was made, of the namespace of the thread that made it; none where the kernel does not count."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._last: Counter[str] = Counter()
        try:
            self._file = open(PATH, encoding="ascii")  # noqa: SIM115 - read again and again until ``close``
        except OSError:  # CONFIG_XFRM_STATISTICS is off
            return
        self._before = self._read()

    def dropped(self) -> Counter[str]:
        """By words of ``DropReason``, and ``kernel_error``."""
        if self._file is None:
            return self._last
        found: Counter[str] = Counter()
        for name, count in (self._read() - self._before).items():
            if name not in PER_SA:
                reason = REASONS.get(name)
                found[OTHER if reason is None else reason.value] += count
        self._last = found
        return found

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
