"""Where a user is registered (TS 29.273 §8.1.2.2.2): the AAA server that serves it, its PDN gateways by APN."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from protocols.diameter.profile import Non3gppUserData
from protocols.threegpp.identity import Imsi

DIGESTS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class ServingServer:
    """An AAA server by its Origin-Host and Origin-Realm."""

    host: str
    realm: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """``server`` serves the user; ``profile`` is the digest of what it was told, ``pgws`` are hosts by APN."""

    server: ServingServer
    profile: str = ""
    pgws: Mapping[str, str] = field(default_factory=dict)

    def with_pgw(self, apn: str, pgw: str | None) -> Registration:
        """The same with another PDN gateway for ``apn``, or none."""
        others = {name: held for name, held in self.pgws.items() if name != apn}
        return replace(self, pgws=others if pgw is None else {**others, apn: pgw})


@lru_cache(maxsize=DIGESTS_KEPT)
def digest(profile: Non3gppUserData) -> str:
    """What tells two profiles apart: SHA-256 of the AVP. Most subscribers have the profile of many others."""
    return hashlib.sha256(profile.to_avp().encode()).hexdigest()


WITHOUT_SUBSCRIPTION = "none"
"""In place of the digest: registered for an emergency, without a subscription to non-3GPP access that could end."""


class RegistrationStore(Protocol):
    """Where registrations are kept; calls block, failures are ``BackendError``."""

    def registration(self, imsi: Imsi) -> Registration | None:
        """The registration of ``imsi``, if there is one."""

    def store_registration(self, imsi: Imsi, registration: Registration | None) -> None:
        """Keep ``registration``, durably before this returns; ``None`` forgets."""

    def page(self, *, after: Imsi | None = None, limit: int = 500) -> tuple[tuple[Imsi, Registration], ...]:
        """Up to ``limit`` registrations by ascending IMSI, beginning behind ``after``."""

    def count(self) -> int:
        """How many users are registered."""


class MemoryRegistrations:
    """Registrations that end with the process."""

    def __init__(self) -> None:
        self._kept: dict[Imsi, Registration] = {}

    def registration(self, imsi: Imsi) -> Registration | None:
        """The registration of ``imsi``, if there is one."""
        return self._kept.get(imsi)

    def store_registration(self, imsi: Imsi, registration: Registration | None) -> None:
        """Keep ``registration``; ``None`` forgets."""
        if registration is None:
            self._kept.pop(imsi, None)
        else:
            self._kept[imsi] = registration

    def page(self, *, after: Imsi | None = None, limit: int = 500) -> tuple[tuple[Imsi, Registration], ...]:
        """Up to ``limit`` registrations by ascending IMSI, beginning behind ``after``."""
        start = "" if after is None else str(after)
        behind = sorted((str(imsi), imsi) for imsi in self._kept if str(imsi) > start)
        return tuple((imsi, self._kept[imsi]) for _, imsi in behind[:limit])

    def count(self) -> int:
        """How many users are registered."""
        return len(self._kept)
