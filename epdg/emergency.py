"""Emergency sessions (TS 23.402 §4.5.7.2, TS 24.302 §7.2.5, TS 23.003 §19.3.9): what asks for one, and from whom.

An IDr that says ``EMERGENCY`` or names the APN of the configuration asks for one. Then the subscription decides
nothing: the APN is the configured one and is not sent to the AAA server, which is told by Emergency-Services (TS 29.273
§7.2.3.4). A UE without a USIM presents its IMEI in an NAI; whether it comes in, and by which MSK, is the AAA server's
business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocols.threegpp.identity import Nai

EMERGENCY_INDICATION = 0x1  # Emergency-Services (TS 29.273 §7.2.3.4), bit 0
ASKED_BY = "emergency"

_IMEI = re.compile(r"imei([0-9]{14,16})\Z")
_PREFIX = "sos."


@dataclass(frozen=True, kw_only=True)
class EmergencyPolicy:
    """The APN of emergency sessions, and whether UEs that cannot authenticate may have one."""

    apn: str
    unauthenticated: bool = False

    def asked_for(self, apn: str | None, nai: str) -> bool:
        """Whether this is an emergency session: by IDr, or without one by an emergency NAI."""
        return apn in (self.apn, ASKED_BY) or (apn is None and _realm(nai).startswith(_PREFIX))


def imei_of(nai: str) -> str | None:
    """The digits of an NAI that holds an IMEI in place of an IMSI: ``imei<IMEI>@sos.nai.epc…``."""
    match = _IMEI.match(nai.partition("@")[0])
    return match[1] if match is not None and _realm(nai).startswith(_PREFIX) else None


def _realm(nai: str) -> str:
    try:
        return Nai.parse(nai).realm.lower()
    except ValueError:
        return ""
