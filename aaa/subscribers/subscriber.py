"""What is known of a subscriber: authentication data (TS 33.102) and the profile (TS 29.273 §8.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi

KEY_LENGTH = 16  # K, OP and OPc are 128 bits (TS 35.205 §7)
AMF_LENGTH = 2  # TS 33.102 §6.3.2
DEFAULT_AMF = bytes.fromhex("8000")  # separation bit set (TS 33.102 Annex H)
DEFAULT_AMBR_BITS = 100_000_000


class PdnType(str, Enum):
    """PDN-Type of an APN (TS 29.272 §7.3.62), as people and the database write it."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    IPV4V6 = "ipv4v6"


class Algorithm(str, Enum):
    """The authentication function set a USIM was made with."""

    MILENAGE = "milenage"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApnSubscription:
    """One subscribed APN; AMBR in bits per second (TS 29.272 §7.3.35)."""

    apn: Apn
    pdn_type: PdnType = PdnType.IPV4V6
    ambr_uplink_bits: int = DEFAULT_AMBR_BITS
    ambr_downlink_bits: int = DEFAULT_AMBR_BITS
    static_ipv4: IPv4Address | None = None
    is_default: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscriber:
    """A subscriber as provisioned; exactly one of ``op`` and ``opc`` is present.

    ``sequence`` is SEQ_HE (TS 33.102 Annex C.1.1.1), the highest value that was ever reserved for use.
    """

    imsi: Imsi
    k: Secret
    op: Secret | None = None
    opc: Secret | None = None
    amf: bytes = DEFAULT_AMF
    algorithm: Algorithm = Algorithm.MILENAGE
    sequence: int = 0
    enabled: bool = True
    non_3gpp_allowed: bool = True
    msisdn: str | None = None
    apns: tuple[ApnSubscription, ...] = ()

    def __post_init__(self) -> None:
        if (self.op is None) == (self.opc is None):
            raise ValueError("a subscriber has either OP or OPc")
        for name, key in (("K", self.k), ("OP", self.op), ("OPc", self.opc)):
            if key is not None and len(key.reveal()) != KEY_LENGTH:
                raise ValueError(f"{name} is {KEY_LENGTH} octets")
        if len(self.amf) != AMF_LENGTH:
            raise ValueError(f"AMF is {AMF_LENGTH} octets")
        if self.sequence < 0:
            raise ValueError("SEQ is not negative")
        names = [subscription.apn for subscription in self.apns]
        if len(set(names)) != len(names):
            raise ValueError("an APN is subscribed once")
        if sum(subscription.is_default for subscription in self.apns) > 1:
            raise ValueError("at most one APN is the default")
