"""Vectors that were given in files, for subscribers whose K the HSS does not know or need not use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aaa.hss.port import HssRefusal
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode
from protocols.eap.aka.server import Resynchronisation
from protocols.errors import AuthenticationError, ConfigurationError
from protocols.io.vectors import UsedVectors, VectorEntry, load_vectors
from protocols.threegpp.identity import Imsi

USED_SUFFIX = ".used"
_UNKNOWN = bytes(16)  # of an entry whose USIM will not answer RES: nothing is ever compared with it


class GivenVectors:
    """The vectors of a file for each subscriber, in order, each once, restart or not."""

    def __init__(self, files: Iterable[Path]) -> None:
        """``ConfigurationError``: a file is wrong, says no IMSI, or is for a subscriber who has one already."""
        self._entries: dict[Imsi, tuple[VectorEntry, ...]] = {}
        self._used: dict[Imsi, UsedVectors] = {}
        for file in files:
            contents = load_vectors(file)
            imsi = None if contents.imsi is None else Imsi(contents.imsi)
            if imsi is None or imsi in self._entries:
                expected = "the IMSI that the vectors are for" if imsi is None else "one file of vectors for each IMSI"
                raise ConfigurationError(file=str(file), key="imsi", value=contents.imsi, expected=expected)
            self._entries[imsi] = contents.vectors
            self._used[imsi] = UsedVectors(file.with_name(file.name + USED_SUFFIX))

    def __contains__(self, imsi: Imsi) -> bool:
        return imsi in self._entries

    def next(self, imsi: Imsi, resynchronisation: Resynchronisation | None) -> AkaVector:
        """The first one that was not used; that it is used is on disk before it leaves.

        ``AuthenticationError`` when AUTS is not the one of the file; ``HssRefusal`` when all are used.
        """
        entries, used = self._entries[imsi], self._used[imsi]
        if resynchronisation is not None:
            known = next((entry for entry in entries if entry.rand == resynchronisation.rand), None)
            if known is None or known.auts != resynchronisation.auts:
                raise AuthenticationError("AUTS is not the one that the file of vectors has for this RAND")
        for entry in entries:
            if entry.rand not in used:
                used.add(entry.rand)
                return entry.vector or AkaVector(
                    rand=entry.rand, autn=entry.autn, xres=_UNKNOWN, ck=_UNKNOWN, ik=_UNKNOWN
                )
        result = Result.of(ExperimentalResultCode.DIAMETER_AUTHENTICATION_DATA_UNAVAILABLE)
        raise HssRefusal(result, f"All vectors that were given for subscriber {imsi} are used.")
