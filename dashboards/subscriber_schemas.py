"""What the API says of subscribers, as types. Keys go in; they come out only where they are asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from dashboards.aaa_schemas import Wanted
from dashboards.schemas import Answer

IMSI_PATTERN = r"^[0-9]{6,15}$"
IMPORT_LIMIT = 1000
_EXAMPLE: dict[str, Any] = {
    "imsi": "001010000000001",
    "k": "465b5ce8b199b49faa5f0a2ee238a6bc",
    "opc": "cd63cb71954a9f4e48a5994e37a02baf",
    "msisdn": "491710000001",
    "apns": [{"apn": "internet", "type": "ipv4v6", "ul": 50_000_000, "dl": 100_000_000, "default": True}],
}


class ApnFields(Wanted):
    """A subscribed APN; bit rates in bits per second."""

    apn: str = Field(min_length=1, max_length=100)
    type: Literal["ipv4", "ipv6", "ipv4v6", "ipv4-or-ipv6"] = "ipv4v6"
    ul: int | None = Field(default=None, ge=0, description="APN-AMBR uplink")
    dl: int | None = Field(default=None, ge=0, description="APN-AMBR downlink")
    ipv4: str | None = Field(default=None, description="static address")
    ipv6: str | None = Field(default=None, description="static /64 prefix")
    qci: int | None = None
    priority: int | None = Field(default=None, description="ARP, 1 to 15")
    pre_emption_capability: bool | None = None
    pre_emption_vulnerability: bool | None = None
    visited_dynamic_address: bool | None = None
    pgw: str | None = Field(default=None, description="host name or address of the PGW that is allocated")
    default: bool = False


class SubscriberFields(Wanted):
    """Fields of a subscriber; what is absent is as it was, or the default."""

    msisdn: str | None = None
    enabled: bool | None = None
    non_3gpp_allowed: bool | None = None
    roaming_allowed: bool | None = None
    visited_networks: list[str] | None = Field(default=None, description="networks such as 001-01; none: any")
    wlan_allowed: bool | None = None
    ambr_ul: int | None = Field(default=None, description="UE-AMBR uplink")
    ambr_dl: int | None = Field(default=None, description="UE-AMBR downlink")
    session_timeout: int | None = Field(default=None, description="seconds")
    imei: str | None = Field(default=None, description="the equipment that the subscription is bound to")
    algorithm: Literal["milenage", "tuak", "xor"] | None = None
    k: str | None = Field(default=None, description="hexadecimal")
    op: str | None = Field(default=None, description="hexadecimal; TOP for TUAK")
    opc: str | None = Field(default=None, description="hexadecimal, in place of op; TOPc for TUAK")
    tuak_iterations: int | None = None
    res_length: int | None = Field(default=None, description="octets")
    amf: str | None = Field(default=None, description="hexadecimal")
    sqn_scheme: str | None = None
    ind_bits: int | None = None
    sqn: str | None = Field(default=None, description="hexadecimal; it only goes forward")
    apns: list[ApnFields] | None = None


class SubscriberWanted(SubscriberFields):
    """A subscriber to provision."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    imsi: str = Field(pattern=IMSI_PATTERN)
    k: str = Field(description="hexadecimal")


class SubscriberChanges(SubscriberFields):
    """What to change; null takes a field away where that means something (msisdn, imei, …)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"enabled": False}, {"apns": [{"apn": "ims"}]}]}
    )


class SubscriberImported(SubscriberFields):
    """One of many; what it leaves out is in ``defaults``."""

    imsi: str = Field(pattern=IMSI_PATTERN)


class ImportWanted(Wanted):
    """Subscribers to provision, all or none."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"subscribers": [_EXAMPLE], "over": True}]}
    )

    subscribers: list[SubscriberImported] = Field(min_length=1, max_length=IMPORT_LIMIT)
    defaults: SubscriberFields | None = Field(default=None, description="fields that a subscriber leaves out")
    over: bool = Field(default=False, description="over subscribers that are there already")


class SubscriberView(Answer):
    """A subscriber; ``k``, ``op`` and ``opc`` say only whether they are there, unless they were asked for."""

    imsi: str
    msisdn: str | None
    enabled: bool
    non_3gpp_allowed: bool
    roaming_allowed: bool
    visited_networks: list[str]
    wlan_allowed: bool
    ambr_ul: int | None
    ambr_dl: int | None
    session_timeout: int | None
    imei: str | None
    algorithm: str
    k: str | None
    op: str | None
    opc: str | None
    tuak_iterations: int
    res_length: int
    amf: str
    sqn_scheme: str
    ind_bits: int
    sqn: str
    apns: list[ApnFields]


class SubscriberPage(Answer):
    """One page by ascending IMSI; ``next`` is the cursor of the next one, null on the last."""

    subscribers: list[SubscriberView]
    next: str | None
    total: int


class SubscriberChanged(Answer):
    """The subscriber as it is now; ``told``: what the user's AAA server answered, null where none serves it."""

    subscriber: SubscriberView
    told: str | None


class SubscriberRemoved(Answer):
    """Who was removed; ``told`` as for a change."""

    imsi: str
    told: str | None


class Imported(Answer):
    """How many were new, were put over older ones, and how many AAA servers were told."""

    added: int
    replaced: int
    told: int


class ExportPart(Answer):
    """A part of a file, as a node tells it."""

    text: str
    next: str | None


class RegistrationView(Answer):
    """The AAA server that serves a user; ``pgws`` are PDN gateways by APN."""

    imsi: str
    server: str
    realm: str | None
    pgws: dict[str, str]


class HssTold(Answer):
    """What the AAA server answered to RTR or PPR."""

    imsi: str
    result: str
    success: bool
