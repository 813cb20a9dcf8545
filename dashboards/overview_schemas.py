"""What ``GET /overview`` says, as types."""

from __future__ import annotations

from pydantic import Field

from dashboards.action_schemas import PeerView
from dashboards.schemas import Answer, NodeView


class GatewaySessions(Answer):
    """Of one gateway."""

    gateway: str = Field(examples=["epdg"])
    established: int = Field(examples=[3])
    half_open: int = Field(examples=[1], description="IKE SAs that nobody has proved yet")


class SessionCounts(Answer):
    """Of all gateways that answer."""

    established: int
    half_open: int
    by_gateway: list[GatewaySessions]


class Series(Answer):
    """Of each of the last intervals, oldest first, all gateways together."""

    attaches: list[float]
    moves: list[float] = Field(description="paths that a gateway has adopted")
    failures: list[float] = Field(description="attaches that came to nothing, and moves that were not adopted")
    uplink_octets: list[float] = Field(description="inner IP from UEs")
    downlink_octets: list[float] = Field(description="inner IP to UEs")


class Outcome(Answer):
    """How often attaches ended so: `success`, the Notify of the refusal, or `ended` without one."""

    reason: str = Field(examples=["AUTHENTICATION_FAILED"])
    count: int = Field(examples=[6])


class Percentiles(Answer):
    """Seconds, interpolated in the nodes' buckets, since the nodes' start; null while there were none."""

    count: int = Field(examples=[100])
    p50: float | None = Field(examples=[0.041])
    p95: float | None = Field(examples=[0.096])
    p99: float | None = Field(examples=[0.23])


class Drop(Answer):
    """Packets or messages that went no further."""

    node: str = Field(examples=["epdg"])
    layer: str = Field(examples=["esp"], description="ike, swu, esp, tun or diameter")
    reason: str = Field(examples=["replayed"])
    count: int


class Overview(Answer):
    """All nodes at a glance."""

    wall: float = Field(description="where the last interval ends, seconds since 1970-01-01 UTC")
    interval: float = Field(description="seconds of an interval of the series")
    sessions: SessionCounts
    series: Series
    outcomes: list[Outcome] = Field(description="of attaches since the gateways' start, the most frequent first")
    outage: Percentiles = Field(
        description="of moves: from the first UPDATE_SA_ADDRESSES to the adopted path (RFC 4555 §3.5), at gateways"
    )
    attach: Percentiles = Field(description="from IKE_SA_INIT to the child SA, at gateways")
    aaa: Percentiles = Field(description="from a gateway's Diameter request to its answer")
    drops: list[Drop] = Field(description="since the nodes' start, the most frequent first")
    peers: list[PeerView]
    nodes: list[NodeView]
