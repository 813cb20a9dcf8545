"""Headers of the tunnel in configuration files: what ``data_plane`` of either node says of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from protocols.dataplane.port import Backend
from protocols.esp.sa import REPLAY_WINDOW, REPLAY_WINDOW_MINIMUM
from protocols.esp.traffic_class import DSCP_MAXIMUM
from protocols.esp.tunnel import TunnelPolicy
from protocols.io.configuration import ConfigurationModel, Count

REPLAY_WINDOW_MAXIMUM = 4096
OUTER_MTU_MINIMUM = 576  # RFC 791: every host takes that much
MSS_MINIMUM, MSS_MAXIMUM = 216, 65495  # of a path MTU of 256, as Linux's route.min_adv_mss; of the longest packet


def _dscp(value: object) -> object:
    if value == "copy" or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= DSCP_MAXIMUM):
        return value
    raise PydanticCustomError("dscp", "copy, or a number from 0 to 63")


def _mss(value: object) -> object:
    number = isinstance(value, int) and not isinstance(value, bool) and MSS_MINIMUM <= value <= MSS_MAXIMUM
    if number or value in ("auto", None):
        return value
    raise PydanticCustomError("mss", f"null, auto, or octets from {MSS_MINIMUM} to {MSS_MAXIMUM}")


class TunnelSection(ConfigurationModel):
    """``dscp``, ``outer_mtu``, ``clamp_mss`` as in ``TunnelPolicy``; ``replay_window`` in packets (RFC 4303 §3.4.3).

    ``backend``: what carries ESP; ``auto``: the best there is, as ``protocols.dataplane.choice`` has it.
    """

    backend: Backend | Literal["auto"] = "auto"
    dscp: Annotated[int | Literal["copy"], BeforeValidator(_dscp)] = "copy"
    outer_mtu: Annotated[Count, Field(ge=OUTER_MTU_MINIMUM, le=65535)] | None = None
    clamp_mss: Annotated[int | Literal["auto"] | None, BeforeValidator(_mss)] = None
    replay_window: Annotated[Count, Field(ge=REPLAY_WINDOW_MINIMUM, le=REPLAY_WINDOW_MAXIMUM)] = REPLAY_WINDOW

    def policy(self) -> TunnelPolicy:
        """As the data plane has it."""
        return TunnelPolicy(
            dscp=None if self.dscp == "copy" else self.dscp,
            outer_mtu=self.outer_mtu,
            mss=self.clamp_mss,
        )
