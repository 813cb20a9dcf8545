"""What the API takes and says of actions on sessions, of a gateway's addresses, and of Diameter peers."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from dashboards.aaa_schemas import Wanted
from dashboards.schemas import Answer, OuterPath

INTERVAL_MAXIMUM = 50.0  # seconds; the gateway's own limit
LIFETIME_MAXIMUM = float((1 << 32) - 1)  # AUTH_LIFETIME has 32 bits (RFC 4478 §3)
ADDRESSES_MAXIMUM = 8  # P-CSCFs a UE is told of at once

DetachCause = Literal["operator", "reactivate"]


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise PydanticCustomError("address", "an IPv4 or IPv6 address") from None


IpText = Annotated[str, Field(min_length=2, max_length=45, examples=["192.0.2.7"]), AfterValidator(_address)]


# --- actions on a session -----------------------------------------------------------------------------


class Question(Wanted):
    """How long to wait for the UE's answer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"interval": 10}]})

    interval: float | None = Field(
        default=None, gt=0, le=INTERVAL_MAXIMUM, allow_inf_nan=False, description="seconds; 10 without it"
    )


class ChildRekey(Wanted):
    """Which child SA."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"inbound_spi": "c0a10001"}]})

    inbound_spi: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{8}$", description="the gateway's inbound SPI; all child SAs without it"
    )


class Redirection(Wanted):
    """Where the UE is sent (RFC 5685 §5)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"gateway": "epdg2.example.net"}, {"gateway": "192.0.2.9"}]}
    )

    gateway: str = Field(min_length=1, max_length=255, description="an address or a domain name")


class Restoration(Wanted):
    """Other P-CSCFs (TS 23.380 §5.6.5)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"addresses": ["10.45.0.5"]}]})

    addresses: list[IpText] = Field(min_length=1, max_length=ADDRESSES_MAXIMUM)


class Reauthentication(Wanted):
    """How long the UE has (RFC 4478 §2)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"lifetime": 60}]})

    lifetime: float | None = Field(
        default=None, ge=0, le=LIFETIME_MAXIMUM, allow_inf_nan=False, description="seconds; at once without it"
    )


class Begun(Answer):
    """The gateway has begun; the ladder shows how it goes on."""

    id: str


class ChildRekeyBegun(Begun):
    """Rekeying has begun of the child SAs with these inbound SPIs."""

    inbound_spis: list[str]


class Redirected(Begun):
    """The UE is told to go to this gateway."""

    gateway: str


class Answered(Answer):
    """Whether the UE answered, after how long (or how long was waited), and the path on which it was asked."""

    id: str
    answered: bool
    seconds: float
    path: OuterPath


# --- addresses of a gateway ---------------------------------------------------------------------------


class AddressWanted(Wanted):
    """An address of the gateway's machine."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"address": "192.0.2.7"}]})

    address: IpText


class Preference(Wanted):
    """Who is asked to use an address."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"id": "18f7e6d5c4b3a291"}]})

    id: str | None = Field(default=None, min_length=1, max_length=256, description="one session; all without it")


class GatewayAddress(Answer):
    """``present``: not withdrawn; ``configured``: not added since the start."""

    address: str
    present: bool
    configured: bool


class GatewayAddressList(Answer):
    """The addresses at which a gateway serves UEs."""

    addresses: list[GatewayAddress]


# --- Diameter peers -----------------------------------------------------------------------------------


class PeerView(Answer):
    """A Diameter peer as ``node`` sees it: its state machine (RFC 6733 §5.6), watchdog (RFC 3539), and counts."""

    node: str
    host: str | None = None
    realm: str | None = None
    interface: str | None = Field(default=None, examples=["SWm"])
    state: str
    watchdog: str | None = None
    local: str | None = None
    remote: str | None = None
    accepted: bool = Field(default=False, description="the peer has connected to us")
    applications: list[int] = []
    pending_requests: int = 0
    sent: dict[str, int] = {}
    received: dict[str, int] = {}
    dropped: dict[str, int] = {}
    last_error: str | None = None
    transport: str | None = None
    tls: str | None = None
    in_service: bool | None = None
    failovers: int = 0


class PeerList(Answer):
    """The peers of all nodes that speak Diameter."""

    peers: list[PeerView]
    unreachable: list[str] = Field(description="nodes that cannot be asked at present")
