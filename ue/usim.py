"""A USIM in software (TS 31.102 §7.1.2): keyed functions, and an SQN array that outlives the process."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from protocols.algorithms.sqn import IND_BITS, SqnWindow
from protocols.algorithms.suite import DEFAULT_RES_LENGTH, Algorithm, AlgorithmKeys
from protocols.algorithms.usim import UsimResult, authenticate
from protocols.errors import BackendError, ConfigurationError
from protocols.io.durable import replace_file
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi

_KEY = "seqs"


class Usim(Protocol):
    """What answers AUTHENTICATE (TS 31.102 §7.1.2): keys, a file of vectors, or a card, which takes its time."""

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult | Awaitable[UsimResult]:
        """RES, CK, IK; or AUTS; or a refusal. ``StackError`` when there is no verdict."""


class SqnStore(Protocol):
    """Where the SQN array of one USIM is kept."""

    def load(self) -> SqnWindow:
        """The array as last saved; a fresh one when none was."""

    def save(self, window: SqnWindow) -> None:
        """Keep this array; on return it is durable as far as the store is."""


class MemorySqnStore:
    """An array that lives as long as the process."""

    def __init__(self, window: SqnWindow | None = None) -> None:
        self._window = window or SqnWindow()

    def load(self) -> SqnWindow:
        """The array."""
        return self._window

    def save(self, window: SqnWindow) -> None:
        """Replace the array."""
        self._window = window


class FileSqnStore:
    """An array in a JSON file, replaced atomically; readable by its owner only."""

    def __init__(self, path: Path, ind_bits: int = IND_BITS) -> None:
        self._path = path
        self._ind_bits = ind_bits

    def load(self) -> SqnWindow:
        """The array in the file, a fresh one where there is no file.

        A file that is no array for IND of so many bits is an error: to start over would let old challenges pass.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return SqnWindow.fresh(self._ind_bits)
        except OSError as error:
            raise BackendError(f"{self._path}: {error.strerror}") from error
        except UnicodeDecodeError:
            text = ""  # nor is it an array
        try:
            seqs = json.loads(text)[_KEY]
            window = SqnWindow(tuple(int(seq) for seq in seqs))
            if window.ind_bits != self._ind_bits:
                raise ValueError("an array of another length")
            return window
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            expected = f"{1 << self._ind_bits} sequence numbers"
            raise ConfigurationError(file=str(self._path), key=_KEY, value=text[:40], expected=expected) from error

    def save(self, window: SqnWindow) -> None:
        """Replace the file; the array is on disk on return."""
        replace_file(self._path, json.dumps({_KEY: window.seqs}))


class SoftwareUsim:
    """Answers AUTHENTICATE; the new array is saved before the answer leaves."""

    def __init__(
        self,
        *,
        imsi: Imsi,
        k: Secret,
        opc: Secret | None = None,
        op: Secret | None = None,
        algorithm: Algorithm = Algorithm.MILENAGE,
        tuak_iterations: int = 1,
        res_length: int = DEFAULT_RES_LENGTH,
        store: SqnStore | None = None,
    ) -> None:
        """What makes the functions is as ``AlgorithmKeys`` has it; ``ValueError`` where that does not fit."""
        self.imsi = imsi
        keys = AlgorithmKeys(
            algorithm=algorithm, k=k, op=op, opc=opc, tuak_iterations=tuak_iterations, res_length=res_length
        )
        self._algorithm = keys.functions()
        self._store = store or MemorySqnStore()
        self._window = self._store.load()

    @property
    def sqn_ms(self) -> int:
        """The highest sequence number accepted."""
        return self._window.sqn_ms

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """RES, CK, IK; or AUTS; or a refusal (TS 33.102 §6.3.3)."""
        result, window = authenticate(self._algorithm, self._window, rand=rand, autn=autn)
        if window != self._window:
            self._store.save(window)
            self._window = window
        return result
