"""What is known of a subscriber: authentication data (TS 33.102) and the profile (TS 29.273 §8.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Network, ip_address

from protocols.algorithms.sqn import SqnScheme
from protocols.algorithms.suite import DEFAULT_RES_LENGTH, Algorithm, AlgorithmKeys
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi, Plmn

__all__ = ["Algorithm", "ApnSubscription", "PdnType", "SqnScheme", "Subscriber"]

KEY_LENGTH = 16  # K, OP and OPc of Milenage are 128 bits (TS 35.205 §7)
AMF_LENGTH = 2  # TS 33.102 §6.3.2
DEFAULT_AMF = bytes.fromhex("8000")  # separation bit set (TS 33.102 Annex H)
DEFAULT_AMBR_BITS = 100_000_000
DEFAULT_QCI = 9  # TS 23.203 §6.1.7.2: what a default bearer of the Internet has
DEFAULT_PRIORITY_LEVEL = 8
STATIC_PREFIX_LENGTH = 64  # TS 23.402 §4.7.3: every UE has a /64
UNSIGNED_32_MAXIMUM = 0xFFFFFFFF  # what the AVPs of bit rates and times hold
HOST_LENGTH_LIMIT = 255  # RFC 1035 §2.3.4
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}\Z")  # RFC 1123 §2.1


class PdnType(str, Enum):
    """PDN-Type of an APN (TS 29.272 §7.3.62), as people and the database write it."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    IPV4V6 = "ipv4v6"
    IPV4_OR_IPV6 = "ipv4-or-ipv6"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApnSubscription:
    """One subscribed APN (APN-Configuration, TS 29.272 §7.3.35); AMBR in bits per second.

    ``qci`` and the three after it are EPS-Subscribed-QoS-Profile (§7.3.37), ``visited_dynamic_address`` is
    VPLMN-Dynamic-Address-Allowed (§7.3.38), ``pgw`` the host name or address of a PGW that is allocated already
    (MIP6-Agent-Info, §7.3.45).
    """

    apn: Apn
    pdn_type: PdnType = PdnType.IPV4V6
    ambr_uplink_bits: int = DEFAULT_AMBR_BITS
    ambr_downlink_bits: int = DEFAULT_AMBR_BITS
    static_ipv4: IPv4Address | None = None
    static_ipv6: IPv6Network | None = None
    qci: int = DEFAULT_QCI
    priority_level: int = DEFAULT_PRIORITY_LEVEL
    pre_emption_capability: bool = False
    pre_emption_vulnerability: bool = True
    is_default: bool = False
    visited_dynamic_address: bool = False
    pgw: str | None = None

    def __post_init__(self) -> None:
        _unsigned_32("a bit rate", self.ambr_uplink_bits)
        _unsigned_32("a bit rate", self.ambr_downlink_bits)
        if self.static_ipv6 is not None and self.static_ipv6.prefixlen != STATIC_PREFIX_LENGTH:
            raise ValueError(f"a static IPv6 prefix is a /{STATIC_PREFIX_LENGTH}, not {self.static_ipv6}")
        if self.pgw is not None and not is_host(self.pgw):
            raise ValueError(f"a PGW is a host name or an address, not {self.pgw!r}")
        if not 1 <= self.qci <= 254:
            raise ValueError(f"a QCI is 1 to 254, not {self.qci}")
        if not 1 <= self.priority_level <= 15:
            raise ValueError(f"a priority level is 1 to 15, not {self.priority_level}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscriber:
    """A subscriber as provisioned.

    ``op`` and ``opc`` are TOP and TOPc for TUAK; exactly one of them is present, with the XOR test algorithm none.
    ``sequence`` is SEQ_HE (TS 33.102 §C.1.1.1), the highest value that was ever reserved for use. ``imei`` is the
    equipment that the subscriber is bound to. Without ``visited_networks`` roaming, where it is allowed, is
    everywhere. The AMBR of the subscriber is the UE's, over all APNs; ``session_timeout`` is in seconds.
    """

    imsi: Imsi
    k: Secret
    op: Secret | None = None
    opc: Secret | None = None
    amf: bytes = DEFAULT_AMF
    algorithm: Algorithm = Algorithm.MILENAGE
    tuak_iterations: int = 1
    res_length: int = DEFAULT_RES_LENGTH
    sqn_scheme: SqnScheme = SqnScheme()
    sequence: int = 0
    enabled: bool = True
    non_3gpp_allowed: bool = True
    msisdn: str | None = None
    roaming_allowed: bool = True
    visited_networks: tuple[Plmn, ...] = ()
    wlan_allowed: bool = True
    ambr_uplink_bits: int | None = None
    ambr_downlink_bits: int | None = None
    session_timeout: int | None = None
    imei: str | None = None
    apns: tuple[ApnSubscription, ...] = ()

    def __post_init__(self) -> None:
        assert self.keys  # which says what does not fit
        if len(self.amf) != AMF_LENGTH:
            raise ValueError(f"AMF is {AMF_LENGTH} octets")
        if not 0 <= self.sequence <= self.sqn_scheme.seq_maximum:
            raise ValueError(f"SEQ is 0 to {self.sqn_scheme.seq_maximum}, not {self.sequence}")
        if (self.ambr_uplink_bits is None) != (self.ambr_downlink_bits is None):
            raise ValueError("an AMBR has both directions")
        _unsigned_32("a bit rate", self.ambr_uplink_bits or 0)
        _unsigned_32("a bit rate", self.ambr_downlink_bits or 0)
        if self.session_timeout is not None and not 1 <= self.session_timeout <= UNSIGNED_32_MAXIMUM:
            raise ValueError(f"a session timeout is 1 to {UNSIGNED_32_MAXIMUM} seconds, not {self.session_timeout}")
        if self.msisdn is not None and not _digits(self.msisdn, 1, 15):
            raise ValueError("an MSISDN is up to 15 digits")
        if self.imei is not None and not _digits(self.imei, 14, 16):
            raise ValueError("an IMEI is 14 to 16 digits")
        names = {subscription.apn for subscription in self.apns}
        if len(names) != len(self.apns):
            raise ValueError("an APN is subscribed once")
        if sum(subscription.is_default for subscription in self.apns) > 1:
            raise ValueError("at most one APN is the default")

    @property
    def keys(self) -> AlgorithmKeys:
        """What makes the functions of this subscriber's USIM; ``functions()`` gives them."""
        return AlgorithmKeys(
            algorithm=self.algorithm,
            k=self.k,
            op=self.op,
            opc=self.opc,
            tuak_iterations=self.tuak_iterations,
            res_length=self.res_length,
        )

    def is_same_usim(self, other: Subscriber) -> bool:
        """Whether both have the keys and functions of one USIM, which keeps its sequence numbers then."""
        mine, others = ((each.algorithm, each.k, each.op, each.opc, each.tuak_iterations) for each in (self, other))
        return mine == others


def is_host(text: str) -> bool:
    """Whether MIP6-Agent-Info can carry it: an address, or a name that is a DiameterIdentity (RFC 6733 §4.3.1)."""
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= HOST_LENGTH_LIMIT and all(_LABEL.match(label) for label in text.split("."))
    return True


def _unsigned_32(what: str, value: int) -> None:
    if not 0 <= value <= UNSIGNED_32_MAXIMUM:
        raise ValueError(f"{what} is 0 to {UNSIGNED_32_MAXIMUM}, not {value}")


def _digits(text: str, minimum: int, maximum: int) -> bool:
    return text.isascii() and text.isdigit() and minimum <= len(text) <= maximum
