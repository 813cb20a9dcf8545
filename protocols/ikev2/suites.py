"""Suites of algorithms for IKE and ESP, read from and written as text; the tables they are made of.

The algorithms themselves: ``encryption``, ``integrity``, ``prf``, ``key_exchange``, each with a table whose rows
are what is implemented. Additional key exchanges (RFC 9370) are named as strongSwan does: ``ke1_mlkem768``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from protocols.ikev2.encryption import ENCRYPTION, ENCRYPTION_NAMES, EncryptionAlgorithm, encryption_key_length
from protocols.ikev2.integrity import INTEGRITY, INTEGRITY_NAMES, IntegrityAlgorithm, integrity_key_length
from protocols.ikev2.key_exchange import (
    GROUP_NAMES,
    KEY_EXCHANGES,
    WEAK_GROUPS,
    EcpMethod,
    KeyExchange,
    MlKemMethod,
    ModpMethod,
    ModpPrivate,
)
from protocols.ikev2.prf import PRF_NAMES, PRFS, Prf
from protocols.ikev2.registry import EncryptionId, IntegrityId, KeGroup, PrfId

__all__ = [
    "ADDITIONAL_MAXIMUM",
    "ENCRYPTION",
    "ENCRYPTION_NAMES",
    "GROUP_NAMES",
    "INTEGRITY",
    "INTEGRITY_NAMES",
    "KEY_EXCHANGES",
    "PRFS",
    "PRF_NAMES",
    "EcpMethod",
    "EncryptionAlgorithm",
    "EspSuite",
    "IkeSuite",
    "IntegrityAlgorithm",
    "KeyExchange",
    "MlKemMethod",
    "ModpMethod",
    "ModpPrivate",
    "Prf",
]

ADDITIONAL_MAXIMUM: Final = 7  # RFC 9370 §2.2.2: transform types ADDKE1 to ADDKE7


def _encryption_name(encryption: EncryptionId, bits: int | None) -> str:
    return ENCRYPTION[encryption].name.format(bits=bits)


def _check_encryption(encryption: EncryptionId, bits: int | None, integrity: IntegrityId | None) -> None:
    row = ENCRYPTION.get(encryption)
    if row is None or bits not in (row.key_bits or (None,)):
        raise ValueError(f"{encryption.name} with a key of {bits} bits is not implemented")
    if row.icv_length and integrity is not None:
        raise ValueError(f"{encryption.name} has its own integrity, {integrity.name} cannot go with it")
    if not row.icv_length and integrity is None:
        raise ValueError(f"{encryption.name} needs an integrity algorithm")
    if integrity is not None and integrity not in INTEGRITY:
        raise ValueError(f"{integrity.name} is not implemented")


def _check_additional(group: KeGroup | None, additional: tuple[KeGroup, ...]) -> None:
    chosen = [method for method in additional if method != KeGroup.NONE]
    if additional and (group is None or additional[-1] == KeGroup.NONE or len(additional) > ADDITIONAL_MAXIMUM):
        raise ValueError("additional key exchanges follow a first one, seven at most, and the last is not NONE")
    for method in chosen:
        if method not in KEY_EXCHANGES:
            raise ValueError(f"{method.name} is not implemented")
    # RFC 9370 §2.2.2: no key exchange method is to be chosen twice
    if len({group, *chosen}) != 1 + len(chosen):
        raise ValueError("a key exchange method comes twice")


def _additional_names(additional: tuple[KeGroup, ...]) -> list[str]:
    return [
        f"ke{number}_{KEY_EXCHANGES[method].name}"
        for number, method in enumerate(additional, 1)
        if method != KeGroup.NONE
    ]


def _weak_names(
    encryption: EncryptionId, integrity: IntegrityId | None, prf: PrfId | None, group: KeGroup | None
) -> list[str]:
    weak = [_encryption_name(encryption, None)] if ENCRYPTION[encryption].weak else []
    if integrity is not None and INTEGRITY[integrity].weak:
        weak.append(INTEGRITY[integrity].name)
    if prf is not None and PRFS[prf].weak:
        weak.append(PRFS[prf].name)
    if group in WEAK_GROUPS:
        weak.append(KEY_EXCHANGES[group].name)
    return weak


@dataclass(frozen=True, kw_only=True)
class IkeSuite:
    """The algorithms of an IKE SA; ``integrity`` is ``None`` with AEAD.

    ``additional`` are the methods of ADDKE1 and on (RFC 9370), ``KeGroup.NONE`` where one is left out between
    others. ``ValueError`` when an algorithm is not implemented or they do not go together.
    """

    encryption: EncryptionId
    encryption_key_bits: int | None
    integrity: IntegrityId | None
    prf: PrfId
    group: KeGroup
    additional: tuple[KeGroup, ...] = ()

    def __post_init__(self) -> None:
        _check_encryption(self.encryption, self.encryption_key_bits, self.integrity)
        if self.encryption == EncryptionId.ENCR_NULL:
            raise ValueError("an IKE SA without encryption is not allowed (RFC 7296 §5)")
        if self.prf not in PRFS:
            raise ValueError(f"{self.prf.name} is not implemented")
        if self.group not in KEY_EXCHANGES:
            raise ValueError(f"{self.group.name} is not implemented")
        _check_additional(self.group, self.additional)

    @classmethod
    def of(cls, text: str) -> IkeSuite:
        """Parse e.g. ``aes128-sha256-x25519``, ``aes256gcm16-prfsha384-ecp384-ke1_mlkem768``; ``ValueError`` if bad."""
        found = _Tokens(text)
        if found.esn is not None:
            raise ValueError(f"{text!r}: an IKE suite has no ESN")
        if found.group is None:
            raise ValueError(f"{text!r} names no key exchange group (of {', '.join(GROUP_NAMES)})")
        prf = found.prf
        if prf is None:
            if found.integrity is None:
                raise ValueError(f"{text!r} names no PRF (of {', '.join(PRF_NAMES)})")
            prf = INTEGRITY[found.integrity].prf
        return cls(
            encryption=found.encryption,
            encryption_key_bits=found.bits,
            integrity=found.integrity,
            prf=prf,
            group=found.group,
            additional=found.additional_methods(),
        )

    @cached_property
    def name(self) -> str:
        """The text that ``of`` takes."""
        parts = [_encryption_name(self.encryption, self.encryption_key_bits)]
        if self.integrity is not None:
            parts.append(INTEGRITY[self.integrity].name)
        if self.integrity is None or INTEGRITY[self.integrity].prf != self.prf:
            parts.append(PRFS[self.prf].name)
        parts.append(KEY_EXCHANGES[self.group].name)
        return "-".join(parts + _additional_names(self.additional))

    @property
    def aead(self) -> bool:
        """Whether encryption protects integrity too (RFC 5282)."""
        return self.integrity is None

    @property
    def weak(self) -> tuple[str, ...]:
        """The names of its algorithms that are fit for old peers only; empty for a good suite."""
        return tuple(_weak_names(self.encryption, self.integrity, self.prf, self.group))

    @property
    def encryption_key_length(self) -> int:
        """Octets of SK_e, with the salt (RFC 5282 §7.1)."""
        return encryption_key_length(self.encryption, self.encryption_key_bits)

    @property
    def integrity_key_length(self) -> int:
        """Octets of SK_a; 0 with AEAD."""
        return integrity_key_length(self.integrity)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class EspSuite:
    """The algorithms of a child SA; ``group`` is ``None`` without its own key exchange.

    ``additional`` as in ``IkeSuite``; they too belong to CREATE_CHILD_SA alone.
    """

    encryption: EncryptionId
    encryption_key_bits: int | None
    integrity: IntegrityId | None
    group: KeGroup | None = None
    esn: bool = False
    additional: tuple[KeGroup, ...] = ()

    def __post_init__(self) -> None:
        _check_encryption(self.encryption, self.encryption_key_bits, self.integrity)
        if self.group is not None and self.group not in KEY_EXCHANGES:
            raise ValueError(f"{self.group.name} is not implemented")
        _check_additional(self.group, self.additional)

    @classmethod
    def of(cls, text: str) -> EspSuite:
        """Parse e.g. ``aes128-sha256``, ``aes128gcm16-x25519-esn``; ``ValueError`` on bad text."""
        found = _Tokens(text)
        if found.prf is not None:
            raise ValueError(f"{text!r}: an ESP suite has no PRF")
        return cls(
            encryption=found.encryption,
            encryption_key_bits=found.bits,
            integrity=found.integrity,
            group=found.group,
            esn=bool(found.esn),
            additional=found.additional_methods(),
        )

    @cached_property
    def name(self) -> str:
        """The text that ``of`` takes."""
        parts = [_encryption_name(self.encryption, self.encryption_key_bits)]
        if self.integrity is not None:
            parts.append(INTEGRITY[self.integrity].name)
        if self.group is not None:
            parts.append(KEY_EXCHANGES[self.group].name)
        parts += _additional_names(self.additional)
        if self.esn:
            parts.append("esn")
        return "-".join(parts)

    @property
    def aead(self) -> bool:
        """Whether encryption protects integrity too (RFC 4106)."""
        return self.integrity is None

    @property
    def weak(self) -> tuple[str, ...]:
        """The names of its algorithms that are fit for old peers only; empty for a good suite."""
        return tuple(_weak_names(self.encryption, self.integrity, None, self.group))

    @property
    def encryption_key_length(self) -> int:
        """Octets of KEYMAT for encryption in one direction, with the salt (RFC 4106 §8.1)."""
        return encryption_key_length(self.encryption, self.encryption_key_bits)

    @property
    def integrity_key_length(self) -> int:
        """Octets of KEYMAT for integrity in one direction; 0 with AEAD."""
        return integrity_key_length(self.integrity)

    def without_group(self) -> EspSuite:
        """The same suite as IKE_AUTH negotiates it, without a key exchange of its own (RFC 7296 §1.2)."""
        return self if self.group is None else replace(self, group=None, additional=())

    def __str__(self) -> str:
        return self.name


class _Tokens:
    """A suite's text taken apart at its dashes, each kind at most once."""

    def __init__(self, text: str) -> None:
        head, *rest = text.strip().lower().split("-")
        if head not in ENCRYPTION_NAMES:
            raise ValueError(f"{text!r} starts with no encryption (of {', '.join(ENCRYPTION_NAMES)})")
        self.encryption, self.bits = ENCRYPTION_NAMES[head]
        self.integrity: IntegrityId | None = None
        self.prf: PrfId | None = None
        self.group: KeGroup | None = None
        self.esn: bool | None = None
        self._additional: dict[int, KeGroup] = {}
        for token in rest:
            if token in INTEGRITY_NAMES and self.integrity is None:
                self.integrity = INTEGRITY_NAMES[token]
            elif token in PRF_NAMES and self.prf is None:
                self.prf = PRF_NAMES[token]
            elif token in GROUP_NAMES and self.group is None:
                self.group = GROUP_NAMES[token]
            elif token in ("esn", "noesn") and self.esn is None:
                self.esn = token == "esn"
            elif not self._take_additional(token):
                raise ValueError(f"{text!r}: {token!r} is unknown or there twice")

    def _take_additional(self, token: str) -> bool:
        prefix, _, name = token.partition("_")
        if name not in GROUP_NAMES or len(prefix) != 3 or not prefix.startswith("ke") or prefix[2] not in "1234567":
            return False
        number = int(prefix[2])
        if number in self._additional:
            return False
        self._additional[number] = GROUP_NAMES[name]
        return True

    def additional_methods(self) -> tuple[KeGroup, ...]:
        """The methods of ADDKE1 and on, ``NONE`` in between."""
        last = max(self._additional, default=0)
        return tuple([self._additional.get(number, KeGroup.NONE) for number in range(1, last + 1)])
