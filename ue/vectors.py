"""A USIM that is a file of vectors: it answers what the file says, and knows no keys (``protocols.io.vectors``)."""

from __future__ import annotations

import hmac
from pathlib import Path

from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess, UsimSynchronisationFailure
from protocols.errors import ConfigurationError
from protocols.io.vectors import UsedVectors, VectorEntry, VectorOutcome, load_vectors


class VectorsUsim:
    """Answers AUTHENTICATE from a file; that a vector is used is on disk before the answer leaves."""

    def __init__(self, file: Path, *, imsi: str, used: UsedVectors | None) -> None:
        """``used``: which vectors were used before; without it they may be repeated. ``ConfigurationError``."""
        contents = load_vectors(file)
        if contents.imsi not in (None, imsi):
            raise ConfigurationError(
                file=str(file), key="imsi", value=contents.imsi, expected=f"vectors of the UE's IMSI, {imsi}"
            )
        self._entries = {entry.rand: entry for entry in contents.vectors}
        self._file = file
        self._used = used

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """What the file says to RAND and AUTN; a refusal that says why where it says nothing."""
        entry = self._entries.get(rand)
        if entry is None:
            return UsimReject(f"{self._file.name} has no vector for RAND {rand.hex()}")
        if not hmac.compare_digest(entry.autn, autn):
            return UsimReject(f"AUTN is not the one that {self._file.name} has for RAND {rand.hex()}")
        if entry.outcome is VectorOutcome.MAC_FAILURE:
            return UsimReject(f"{self._file.name} has a MAC failure for RAND {rand.hex()}")
        if self._used is not None:
            if rand in self._used:
                return self._repeated(entry)
            self._used.add(rand)
        vector = entry.vector
        if vector is None:
            assert entry.auts is not None  # an entry of sync-failure has one
            return UsimSynchronisationFailure(entry.auts)
        return UsimSuccess(res=vector.xres, ck=vector.ck, ik=vector.ik)

    def _repeated(self, entry: VectorEntry) -> UsimResult:
        """A USIM has moved on: it would say AUTS, where the file has one."""
        if entry.auts is not None:
            return UsimSynchronisationFailure(entry.auts)
        return UsimReject(f"the vector of RAND {entry.rand.hex()} was used before, and {self._file.name} has no AUTS")
