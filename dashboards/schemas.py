"""What the API says, as types: an allow-list, so that nothing a node tells leaves unless it is named here.

Times are seconds since 1970-01-01 UTC, SPIs and other octets lower-case hexadecimal, outer end points
``address:port``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dashboards.config import NodeKind
from dashboards.tokens import Role

SessionState = Literal["attaching", "established", "closing", "closed"]
Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False, examples=[1800000000.0])]
SessionOrder = Literal["created", "-created", "imsi", "apn", "state"]


class Answer(BaseModel):
    """Base: members a node adds and this version does not know are left out."""

    model_config = ConfigDict(extra="ignore")


class OuterPath(Answer):
    """Where the gateway and the UE are, as the gateway sees it."""

    local: str
    remote: str


class PathSpan(OuterPath):
    """A path the session has been on: from when, until when (null: still), why, whether it was checked."""

    since: float
    until: float | None = None
    why: str = ""
    validated: bool = Field(default=False, description="return routability was shown (RFC 4555 §3.7)")


class Nat(Answer):
    """NAT detection (RFC 7296 §2.23): which end is behind one."""

    local: bool = False
    remote: bool = False


class Lifetime(Answer):
    """When an SA is to be rekeyed, and when it ends (RFC 7296 §2.8); null: never by itself."""

    rekey_at: float | None = None
    expires_at: float | None = None


class IkeSaView(Answer):
    """The IKE SA."""

    spi_i: str
    spi_r: str
    suite: str | None = None
    state: str | None = None
    nat: Nat = Nat()
    mobike: bool = False
    path: OuterPath | None = None
    established: float | bool | None = None
    rekeys: int | None = None
    requests_sent: int | None = None
    retransmissions_sent: int | None = None
    lifetime: Lifetime | None = None


class ChildCounters(Answer):
    """What one child SA carried and refused; octets are inner IP octets."""

    inbound_packets: int = 0
    inbound_octets: int = 0
    outbound_packets: int = 0
    outbound_octets: int = 0
    replayed: int = 0
    bad_icv: int = 0
    bad_selector: int = 0
    malformed: int = 0
    strayed_packets: int = 0
    overhead_saved_octets: int = 0
    too_big: int = 0
    fragment: int = 0
    congestion: int = 0
    fragmented: int = 0
    mss_clamped: int = 0
    congestion_marked: int = 0


class ChildSaView(Answer):
    """A pair of ESP SAs."""

    inbound_spi: str
    outbound_spi: str
    suite: str | None = None
    local_selectors: list[str] = []
    remote_selectors: list[str] = []
    path: OuterPath | None = None
    encapsulation: bool | str = False
    mode: str = "tunnel"
    counters: ChildCounters | None = Field(default=None, description="null when the data plane has none")
    lifetime: Lifetime | None = None


class BitRates(Answer):
    """APN-AMBR (TS 29.272 §7.3.41), bits per second."""

    uplink_bits: int
    downlink_bits: int


class Qos(Answer):
    """EPS-Subscribed-QoS-Profile (TS 29.272 §7.3.37)."""

    qci: int | None = None
    priority_level: int | None = None
    pre_emption_capability: bool | None = None
    pre_emption_vulnerability: bool | None = None


class AuthorisationView(Answer):
    """What the AAA server granted for the APN (TS 29.273 §7.2.3.1)."""

    server: str | None = None
    apn: str | None = None
    context_identifier: int | None = None
    pdn_type: str | None = None
    ambr: BitRates | None = None
    qos: Qos | None = None
    static_addresses: list[str] = []
    session_timeout: int | None = Field(default=None, description="seconds from the grant")
    renewed: float | None = Field(default=None, description="when it was last granted anew")


class LastError(Answer):
    """Why the last thing that failed did."""

    cause: str
    text: str = ""


class SessionView(Answer):
    """A session: one UE's connection to one APN."""

    id: str
    state: SessionState
    imsi: str | None = None
    nai: str | None = None
    apn: str | None = None
    inner_addresses: list[str] = []
    created: float
    established: float | None = None
    gateway: str = Field(default="", description="by its name under nodes")
    ike: IkeSaView | None = None
    child_sas: list[ChildSaView] = []
    paths: list[PathSpan] = []
    diameter_session_id: str | None = None
    authorisation: AuthorisationView | None = Field(default=None, description="null when nobody granted anything")
    device_identity: str | None = Field(default=None, description="IMEI or IMEISV")
    emergency: bool = False
    last_error: LastError | None = None


class SessionDetail(SessionView):
    """A session with what the trace explains of it."""

    failure: str | None = Field(default=None, description="why it failed, one sentence; null when nothing did")


class SessionPage(Answer):
    """One page of sessions; ``next`` is the cursor of the next one, null on the last."""

    sessions: list[SessionView]
    next: str | None
    total: int
    unreachable: list[str] = Field(description="gateways that could not be asked")


class TraceKept(Answer):
    """What this dashboard keeps of a node's trace: so many records of at most ``ring``, the oldest of when."""

    records: int
    ring: int
    oldest: float | None


class NodeView(Answer):
    """A node's health; ``since`` is when it became reachable or unreachable, ``why`` the trouble."""

    name: str
    kind: NodeKind
    reachable: bool
    since: float
    why: str | None
    version: str | None
    started: float | None
    sessions: dict[str, int] | None = Field(description="sessions by state; gateways only")
    tally: dict[str, int] = Field(description="what its trace told since this dashboard follows it")
    peers: list[Any] = Field(description="Diameter peers, as the node describes them")
    status: dict[str, Any] = Field(description="the node's own status")
    trace: TraceKept | None = Field(default=None, description="not in events")


class NodeList(Answer):
    """All configured nodes."""

    nodes: list[NodeView]


class SignIn(BaseModel):
    """A token."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"token": "what the command printed"}]})

    token: str = Field(min_length=1, max_length=512)


class Standing(Answer):
    """Who is asking, and what the server allows; without a token ``name`` and ``role`` are null."""

    signed_in: bool
    open_to_read: bool
    name: str | None = Field(default=None, description="of the token", examples=["bench"])
    role: Role | None = None


class AuditEntry(Answer):
    """An action, done or refused."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "sequence": 4711,
                    "wall": 1800000000.0,
                    "who": "bench",
                    "role": "operator",
                    "remote": "127.0.0.1",
                    "method": "DELETE",
                    "path": "/api/v1/sessions/18f7e6d5c4b3a291",
                    "node": "epdg",
                    "about": {"identifier": "18f7e6d5c4b3a291"},
                    "status": 202,
                }
            ]
        },
    )

    sequence: int = Field(description="counts up; never starts anew while the files are there")
    wall: float
    who: str = Field(description="the token's name; without one loopback, or nobody from elsewhere")
    role: Role | None
    remote: str = Field(description="address of the client")
    method: str
    path: str = Field(description="without its query, where secrets would be")
    node: str | None = Field(description="the node that was asked")
    about: dict[str, str] = Field(description="the session, subscriber or rule that the path names")
    status: int = Field(description="of the answer")


class AuditPage(Answer):
    """One page, the last action first; ``next`` is the cursor of older ones, null on the last page."""

    entries: list[AuditEntry]
    next: str | None


class Health(Answer):
    """How the server does."""

    status: Literal["alive", "ready"]


class Detached(Answer):
    """The gateway has begun to detach the session."""

    id: str
    gateway: str
