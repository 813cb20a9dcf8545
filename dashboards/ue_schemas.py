"""What the API says of UEs; moments in seconds since 1970-01-01 UTC, `_ms` are milliseconds."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from dashboards.schemas import Answer, ChildCounters, ChildSaView, IkeSaView, LastError, Nat, OuterPath, PathSpan

UeState = Literal["idle", "attaching", "established", "closing", "closed"]
AccessHint = Literal["good", "weak", "captive", "down"]
FlowKind = Literal["icmp", "udp", "voice", "tcp"]


# --- what a UE is -------------------------------------------------------------------------------------


class UeAccess(Answer):
    """An access network as configured; ``open``: a connection uses it, ``hears``: false on a deaf one of the demo."""

    address: str
    interface: str | None = None
    next_hop: str | None = None
    hears: bool = True
    open: bool


class AccessStanding(Answer):
    """What connection management knows of an access; ``avoided_for`` in seconds."""

    available: bool
    hint: AccessHint
    address: str | None = None
    avoided_for: float = 0.0


class UeManagement(Answer):
    """Connection management: whether it decides by itself, where the UE is, and where it would go."""

    automatic: bool
    phase: str
    access: str | None
    best: str | None
    accesses: dict[str, AccessStanding]


class UeMove(Answer):
    """A move; ``update_seconds`` is from the UE's decision to the gateway's answer, ``why`` the trouble."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    origin: str = Field(alias="from")
    target: str = Field(alias="to")
    outcome: Literal["pending", "completed", "failed", "superseded"]
    why: str | None = None
    started: float
    update_seconds: float | None = None
    requests: int = 0
    retransmissions: int = 0
    old: OuterPath
    new: OuterPath | None = None
    nat: Nat | None = None
    kept_old: bool = False
    inner_address_unchanged: bool | None = None
    spis_unchanged: bool | None = None


class UePath(PathSpan):
    """A path that the connection has been on, and the access."""

    access: str


class UeAttachFigures(Answer):
    """What the attach took."""

    seconds: float | None = None
    requests: int = 0
    retransmissions: int = 0


class UeBackOff(Answer):
    """The network has asked to be left alone until then; null: until the UE is told otherwise."""

    cause: int | None
    until: float | None


class UeHandover(Answer):
    """The inner addresses asked for, and whether they were kept."""

    previous: list[str]
    kept: bool | None


class UeEap(Answer):
    """How the UE has authenticated itself."""

    method: str
    kind: str
    identity: str | None = None


class UeCandidate(Answer):
    """A gateway and why it is one."""

    address: str
    name: str | None = None
    why: str | None = None


class UeRejected(Answer):
    """A gateway that was not taken."""

    gateway: str
    outcome: str
    why: str | None = None


class UeSelection(Answer):
    """How the gateway was selected (TS 24.302 §7.2.1)."""

    gateway: UeCandidate | None
    rejected: list[UeRejected] = []


class UeSession(Answer):
    """One PDN connection, the present or the last one, as the UE has it."""

    id: str | None
    state: UeState
    imsi: str
    nai: str | None = None
    apn: str
    access: str | None
    open_accesses: list[str] = []
    inner_addresses: list[str] = []
    handover: UeHandover | None = None
    dns: list[str] = []
    p_cscf: list[str] = []
    created: float
    established: float | None = None
    ended: float | None = None
    gateway: str | None = None
    selection: UeSelection | None = None
    eap: UeEap | None = None
    ike: IkeSaView | None = None
    child_sas: list[ChildSaView] = []
    paths: list[UePath] = []
    attach: UeAttachFigures = UeAttachFigures()
    moves: list[UeMove] = []
    back_off: UeBackOff | None = None
    last_error: LastError | None = None


class Direction(Answer):
    """One direction of a voice call."""

    sent: int
    received: int
    lost: int
    duplicated: int = 0
    reordered: int = 0
    longest_gap_ms: float
    jitter_ms: float | None = None


class FlowChildSa(Answer):
    """What a child SA of the flow's connection has carried."""

    inbound_spi: str
    counters: ChildCounters | None = None


class UeFlow(Answer):
    """A flow and its score; which members there are depends on its kind. A listed voice call's: the last 10 s."""

    id: int
    kind: FlowKind
    source: str
    destination: str
    rate: float = Field(description="packets or records per second")
    running: bool
    in_flight: int | None = None
    sent: int | None = None
    received: int | None = None
    lost: int | None = None
    duplicates: int | None = None
    longest_gap_ms: float | None = None
    rtt_minimum_ms: float | None = None
    rtt_average_ms: float | None = None
    rtt_maximum_ms: float | None = None
    uplink: Direction | None = Field(default=None, description="of a voice call, as is downlink")
    downlink: Direction | None = None
    mos: dict[str, float | None] | None = Field(default=None, description="uplink and downlink, ITU-T G.107")
    state: str | None = Field(default=None, description="of a TCP flow, as is what follows")
    failure: str | None = None
    octets_sent: int | None = None
    octets_received: int | None = None
    throughput_kbps: float | None = None
    longest_stall_ms: float | None = None
    rtt_ms: float | None = None
    retransmissions: int | None = None
    timeouts: int | None = None
    corrupted: int | None = None
    child_sas: list[FlowChildSa] = []


class UeFlows(Answer):
    """The flows of all connections that the UE remembers."""

    flows: list[UeFlow]


class UePersona(Answer):
    """Whose habits the UE has; ``lax``: checks that it does not make."""

    name: str
    lax: list[str] = []


class UeView(Answer):
    """A UE, its accesses and its connections; ``node`` is its name under nodes."""

    node: str
    imsi: str
    state: UeState = Field(description="of the first connection")
    persona: UePersona | None = None
    accesses: dict[str, UeAccess]
    management: UeManagement | None = None
    sessions: list[UeSession]
    traffic: list[UeFlow]


class UeListed(Answer):
    """A configured UE; ``ue`` is null while it cannot be asked, ``why`` then says why."""

    node: str
    reachable: bool
    why: str | None
    ue: UeView | None


class UeList(Answer):
    """All configured UEs, in the order of the configuration."""

    ues: list[UeListed]


# --- what came of it ----------------------------------------------------------------------------------


class PdnMove(Answer):
    """A connection's move, or why there was none."""

    move: UeMove | None = None
    error: str | None = None


class UeMoved(Answer):
    """The first connection that has moved, and what became of each by APN."""

    move: UeMove
    session: UeSession
    pdns: dict[str, PdnMove]


class UeRekeyed(Answer):
    """The child SAs that are being rekeyed, by the UE's inbound SPIs."""

    inbound_spis: list[str]


class OpenAccesses(Answer):
    """The accesses that the connection still has open."""

    open_accesses: list[str]
