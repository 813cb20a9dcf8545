"""What the API takes for UEs: the bodies of requests, which are the parameters of the UE's control methods."""

from __future__ import annotations

from pydantic import ConfigDict, Field, IPvAnyAddress

from dashboards.aaa_schemas import Wanted
from dashboards.ue_schemas import AccessHint, FlowKind

RATE_MAXIMUM = 2000.0  # packets per second; the UE's own limit

Apn = Field(default=None, min_length=1, max_length=100, description="an APN; without it as the action says")
AccessText = Field(min_length=1, max_length=100, description="name or address of an access", examples=["wifi-b"])


class OfConnection(Wanted):
    """Which PDN connection; without one the first, of a detach all that are attached."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}, {"pdn": "internet"}]})

    pdn: str | None = Apn


class AttachWanted(Wanted):
    """Where and how; without anything on the first access, the first connection."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"access": "wifi-a"}, {"pdn": "ims", "handover": ["10.46.0.2"], "force": True}]
        },
    )

    access: str | None = Field(default=None, min_length=1, max_length=100, description="name or address of an access")
    force: bool = Field(default=False, description="in spite of a back-off (TS 24.302 §8.2.9.1)")
    pdn: str | None = Apn
    handover: list[IPvAnyAddress] | None = Field(
        default=None, min_length=1, max_length=2, description="inner addresses to keep, one of each IP version"
    )


class MoveWanted(Wanted):
    """Where to; all attached connections move unless one is named."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"to": "wifi-b"}, {"to": "127.0.2.1", "keep_old": True}]}
    )

    to: str = AccessText
    keep_old: bool = Field(default=False, description="make before break: the old access stays open")
    pdn: str | None = Apn


class RekeyChildWanted(Wanted):
    """Which child SA, all without one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}, {"inbound_spi": "c0a10001"}]})

    inbound_spi: str | None = Field(default=None, pattern=r"^[0-9a-f]{8}$", description="the UE's, in hex")
    pdn: str | None = Apn


class AccessGained(Wanted):
    """The address that the access has now, the configured one without it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}, {"address": "192.0.2.17"}]})

    address: IPvAnyAddress | None = None


class HintWanted(Wanted):
    """What a lower layer says of the access (RFC 4621 §4)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"hint": "weak"}]})

    hint: AccessHint


class FlowWanted(Wanted):
    """A flow to a host behind the gateway."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"destination": "10.99.0.1", "kind": "voice", "rate": 50}]}
    )

    destination: IPvAnyAddress
    kind: FlowKind = "icmp"
    rate: float = Field(default=50.0, gt=0, le=RATE_MAXIMUM, description="packets per second; records of a TCP flow")
    pdn: str | None = Apn
