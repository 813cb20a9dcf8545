"""Where a user is registered (TS 29.273 §8.1.2.2.2): the AAA server that serves it, its PDN gateways by APN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from protocols.threegpp.identity import Imsi


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """``server`` is the Origin-Host of the AAA server that serves the user; ``pgws`` are hosts by APN."""

    server: str
    pgws: Mapping[str, str] = field(default_factory=dict)

    def with_pgw(self, apn: str, pgw: str | None) -> Registration:
        """The same with another PDN gateway for ``apn``, or none."""
        others = {name: held for name, held in self.pgws.items() if name != apn}
        return replace(self, pgws=others if pgw is None else {**others, apn: pgw})


class RegistrationStore(Protocol):
    """Where registrations are kept; calls block, failures are ``BackendError``."""

    def registration(self, imsi: Imsi) -> Registration | None:
        """The registration of ``imsi``, if there is one."""

    def store_registration(self, imsi: Imsi, registration: Registration | None) -> None:
        """Keep ``registration``, durably before this returns; ``None`` forgets."""


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
