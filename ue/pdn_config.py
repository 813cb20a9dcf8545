"""Configuration of PDN connections: what is asked for, where inner packets go, ``additional_pdns``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from protocols.dataplane.port import Backend
from protocols.io.configuration import ConfigurationModel, Count, FilePath, IpAddress, IpNetwork, unfit
from protocols.io.tunnel import TunnelSection
from protocols.threegpp.identity import Apn


def _apn(value: str) -> str:
    try:
        return Apn(value).text
    except ValueError as error:
        raise PydanticCustomError("apn", "an APN such as internet ({why})", {"why": str(error)})


ApnText = Annotated[str, AfterValidator(_apn)]


class DataPlaneKind(str, Enum):
    """Where inner packets come from and go to."""

    IN_PROCESS = "in-process"
    TUN = "tun"


class DataPlaneSection(TunnelSection):
    """``in-process``: a host inside the UE. ``tun``: a TUN device (root); ``routes`` lead into it.

    ``namespace``: the network namespace that the device is in, by the name that ``ip netns add`` gave it.
    ``resolv_conf``: a file for the name servers that the gateway grants; what is there comes back afterwards.
    """

    kind: DataPlaneKind = DataPlaneKind.IN_PROCESS
    device: str = Field(default="ue0", pattern=r"^[A-Za-z0-9_.-]{1,15}$")
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")] | None = None
    mtu: Annotated[Count, Field(ge=576, le=9000)] = 1400
    routes: tuple[IpNetwork, ...] = ()
    resolv_conf: FilePath | None = None

    @model_validator(mode="after")
    def _for_the_kernel(self) -> DataPlaneSection:
        if self.kind is DataPlaneKind.IN_PROCESS and self.backend not in ("auto", Backend.PYTHON):
            raise unfit("auto or python where kind is in-process", "backend")
        for key in ("namespace", "resolv_conf"):
            if getattr(self, key) is not None and self.kind is not DataPlaneKind.TUN:
                raise PydanticCustomError("data_plane", "kind: tun where there is a {key}", {"key": key})
        return self


class PdnType(str, Enum):
    """Which inner addresses are asked for."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    IPV4V6 = "ipv4v6"

    @property
    def versions(self) -> tuple[int, ...]:
        """4, 6 or both."""
        return {PdnType.IPV4: (4,), PdnType.IPV6: (6,), PdnType.IPV4V6: (4, 6)}[self]


class PCscfAttributes(str, Enum):
    """Numbers of the P-CSCF attributes: RFC 7651's 20 and 21, or the private pairs that came before them."""

    RFC7651 = "rfc7651"
    PRIVATE_16384 = "private-16384"
    PRIVATE_16389 = "private-16389"


class RequestSection(ConfigurationModel):
    """What is asked for beside addresses and DNS servers (TS 24.302 §7.2.2.1).

    ``inner_addresses: false``: no address is asked for, as no UE should do (RFC 7296 §2.19).
    ``pdu_session``: the PDU session identity that N1_MODE_CAPABILITY announces.
    ``previous_addresses``: the addresses the UE has on another access, which it wants to keep (handover).
    """

    inner_addresses: bool = True
    p_cscf: tuple[PCscfAttributes, ...] = (PCscfAttributes.RFC7651,)
    p_cscf_reselection: bool = True
    application_version: bool = False
    supported_attributes: bool = False
    liveness_period: bool = True
    previous_addresses: tuple[IpAddress, ...] = ()
    pdu_session: Annotated[Count, Field(ge=1, le=15)] | None = None


class AdditionalPdnSection(ConfigurationModel):
    """Another PDN connection, an IKE SA of its own (TS 24.302 §7.2.2.1); what is absent is as at the first one.

    ``apn`` is the name that it stands under without one. ``attach``: with the first one, when the UE attaches by
    itself. ``data_plane``: without one, of the first one's kind, with a device of its own beside the first one's and no
    routes of its own.
    """

    apn: ApnText | None = None
    pdn_type: PdnType | None = None
    request: RequestSection | None = None
    data_plane: DataPlaneSection | None = None
    attach: bool = True


def check_previous_addresses(
    addresses: Sequence[IpAddress], pdn_type: PdnType, request: tuple[str, ...] = ("request",)
) -> None:
    """Addresses to keep by handover: one of each IP version at most; ``PydanticCustomError`` names the section."""
    versions = [address.version for address in addresses]
    if len(set(versions)) != len(versions) or not set(versions) <= set(pdn_type.versions):
        raise unfit("at most one address of each IP version of pdn_type", *request, "previous_addresses")
