"""How the gateway treats its sessions, whoever they are."""

from __future__ import annotations

from dataclasses import dataclass

from epdg.emergency import EmergencyPolicy
from epdg.refusals import RefusalPolicy


@dataclass(frozen=True, kw_only=True)
class ServicePolicy:
    """What is refused how, and what is demanded.

    ``reactivation``: UEs that the AAA server has detached are to come back (TS 24.302 §7.4.3).
    """

    refusals: RefusalPolicy
    emergency: EmergencyPolicy | None = None
    require_device_identity: bool = False
    reactivation: bool = False
