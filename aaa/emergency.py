"""Emergency sessions (TS 23.402 §4.5.7.2, TS 29.273 §7.1.2.1, TS 33.402 §13): what the AAA server grants, and to whom.

The gateway says Emergency-Services in place of an APN. Then the subscription decides nothing: the APN and its profile
are those of the configuration. A user that has a USIM is authenticated as ever; one without is let in or refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from aaa.authorization import Refusal, RefusalCause
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import PdnType, ResultCode
from protocols.diameter.profile import Ambr, ApnConfiguration, Arp, QosProfile
from protocols.diameter.swm import EMERGENCY_INDICATION, Der
from protocols.threegpp.identity import Nai

CONTEXT_IDENTIFIER = 1  # of the only APN-Configuration in the answer


@dataclass(frozen=True, kw_only=True, slots=True)
class EmergencyPolicy:
    """The APN of emergencies with its profile (TS 23.401 §4.3.12); whether those without authentication come in."""

    apn: str
    unauthenticated: bool = False
    pdn_type: PdnType = PdnType.IPv4v6
    ambr_uplink_bits: int
    ambr_downlink_bits: int
    qci: int
    priority_level: int

    def granted(self) -> ApnConfiguration:
        """APN-Configuration of the answer."""
        return ApnConfiguration(
            context_identifier=CONTEXT_IDENTIFIER,
            service_selection=self.apn,
            pdn_type=self.pdn_type,
            ambr=Ambr(self.ambr_uplink_bits, self.ambr_downlink_bits),
            qos=QosProfile(self.qci, Arp(self.priority_level)),
        )


def is_emergency(der: Der) -> bool:
    """Whether the gateway asks for an emergency session; the mask's other bits are nobody's (TS 29.273 §7.2.3.4)."""
    return bool((der.emergency_services or 0) & EMERGENCY_INDICATION)


def imei_of(identity: str) -> str | None:
    """The IMEI that a UE without an IMSI names itself by (TS 23.003 §19.3.6)."""
    try:
        return Nai.parse(identity).imei
    except ValueError:
        return None


def not_admitted(imei: str) -> Refusal:
    """No session without authentication: policy, or no emergency at all."""
    return Refusal(
        cause=RefusalCause.UNAUTHENTICATED,
        result=Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED),
        text=f"The UE with IMEI {imei} cannot be authenticated, and is not admitted without.",
    )
