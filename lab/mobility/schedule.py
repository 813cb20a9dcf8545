"""Schedules: the accesses of a UE, what happens to them and to it in time, and what is expected to come of it.

Values alone, as a schedule's file holds them (``loader`` reads it). Moments and durations are seconds from the
beginning, as numbers or as text such as ``20ms``, ``1m30s``, ``2d``.
"""

from __future__ import annotations

import contextlib
import re
from enum import Enum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue
from pydantic_core import PydanticCustomError

from lab.mobility.stage_name import StageName
from lab.network.impairments import Impairments
from lab.network.nat import MAPPING_LIFETIME, NatKind
from protocols.io.configuration import ConfigurationModel, Count

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
ACCESSES_MAXIMUM = 50  # of a UE, and addresses of a gateway: the stages number them in an octet
VOICE_RATE = 50.0  # packets per second of a codec that speaks every 20 ms
REAL_TIME_SLACK = 0.15  # seconds that processes of a busy machine may take beside what the network takes


def _duration(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of a whole number that no float can hold
            return float(value)
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    raise PydanticCustomError("duration", "seconds, or text such as 20ms, 1m30s, 2d")


Duration = Annotated[float, BeforeValidator(_duration), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = str
"""Of an access or of an address of the gateway; the loader checks it."""


class Family(str, Enum):
    """The IP version of an access or of an address of the gateway."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


class MessageKind(str, Enum):
    """What ``lose`` can pick out of the encrypted messages of a link."""

    ANY = "any"
    ESP = "esp"
    IKE_SA_INIT_REQUEST = "ike-sa-init-request"
    IKE_SA_INIT_RESPONSE = "ike-sa-init-response"
    IKE_AUTH_REQUEST = "ike-auth-request"
    IKE_AUTH_RESPONSE = "ike-auth-response"
    CREATE_CHILD_SA_REQUEST = "create-child-sa-request"
    CREATE_CHILD_SA_RESPONSE = "create-child-sa-response"
    UPDATE_REQUEST = "update-request"
    UPDATE_RESPONSE = "update-response"
    COOKIE2_REQUEST = "cookie2-request"
    COOKIE2_RESPONSE = "cookie2-response"
    LIVENESS_REQUEST = "liveness-request"
    LIVENESS_RESPONSE = "liveness-response"


class DirectionSection(ConfigurationModel):
    """What one direction of an access does to packets; as ``lab.network.Impairments``."""

    loss: Share = 0.0
    delay: Duration = 0.0
    jitter: Duration = 0.0
    duplication: Share = 0.0
    reordering: Share = 0.0
    mtu: Annotated[int, Field(ge=68)] | None = None

    def impairments(self) -> Impairments:
        """The same as the network's value."""
        return Impairments(**self.model_dump())

    @property
    def perfect(self) -> bool:
        """Whether nothing happens to packets."""
        return self == DirectionSection()


class NatSection(ConfigurationModel):
    """The NAT of an access; ``lifetime``: of an idle mapping."""

    kind: NatKind = NatKind.NONE
    lifetime: Annotated[Duration, Field(gt=0)] = MAPPING_LIFETIME


class AccessSection(ConfigurationModel):
    """An access of the UE as it is at the beginning; ``up`` and ``down`` are its directions, as the UE has them."""

    family: Family = Family.IPV4
    nat: NatSection = NatSection()
    up: DirectionSection = DirectionSection()
    down: DirectionSection = DirectionSection()
    captive: bool = False
    present: bool = True


class GatewaySection(ConfigurationModel):
    """The gateway's addresses by name, the first of each family being the one that the UE knows at first."""

    addresses: Annotated[dict[str, Family], Field(min_length=1, max_length=ACCESSES_MAXIMUM)] = {"main": Family.IPV4}


class TrafficSection(ConfigurationModel):
    """What runs through the tunnel from the attach on; ``rate``: packets per second each way."""

    kind: Literal["voice", "none"] = "voice"
    rate: Annotated[float, Field(ge=1, le=1000)] = VOICE_RATE


# --- expectations -------------------------------------------------------------------------------------


class MoveExpectation(ConfigurationModel):
    """What must hold of a move; ``outage_ms`` and ``packets_lost`` are maxima of either direction.

    ``refused``: the UE does not even begin it. ``requests`` is the most IKE requests that it may take; ``access``
    where the UE is afterwards.
    """

    outcome: Literal["completed", "failed", "superseded", "refused"] | None = None
    outage_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    packets_lost: Count | None = None
    requests: Count | None = None
    inner_address_unchanged: bool | None = None
    spis_unchanged: bool | None = None
    access: Name | None = None


COMPLETED = MoveExpectation(outcome="completed", inner_address_unchanged=True, spis_unchanged=True)


class Expectations(ConfigurationModel):
    """What must hold of the whole; leaks are always expected to be none.

    ``moves`` counts those that were completed; ``each_move`` holds for every completed one; ``outage_ms`` and
    ``packets_lost`` are of the whole, either direction. ``real_time_slack`` is added where time is real.
    """

    attached: bool = True
    moves: Count | None = None
    moves_maximum: Count | None = None
    each_move: MoveExpectation | None = None
    outage_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    packets_lost: Count | None = None
    final_access: Name | None = None
    final_gateway: Name | None = None
    attaches: Count | None = None
    mos: Annotated[float, Field(ge=1, le=5)] | None = None
    real_time_slack: Duration = REAL_TIME_SLACK


# --- events -------------------------------------------------------------------------------------------


class _Event(ConfigurationModel):
    at: Duration


class Attach(_Event):
    """The UE attaches, on its first access unless told."""

    do: Literal["attach"]
    access: Name | None = None


class MoveTo(_Event):
    """The UE is told to move."""

    do: Literal["move"]
    to: Name
    make: Literal["break-before-make", "make-before-break"] = "break-before-make"
    expect: MoveExpectation = COMPLETED


class AccessEvent(_Event):
    """An access is gone, is there again, its NAT restarts or vanishes; the UE is told of the first two."""

    do: Literal["address-lost", "address-gained", "nat-rebind", "nat-gone"]
    access: Name


class NatAppears(_Event):
    """From now on there is such a NAT behind an access."""

    do: Literal["nat-appears"]
    access: Name
    nat: NatSection


class Impair(_Event):
    """From now on an access does this; a direction that is not named stays as it is."""

    do: Literal["impair"]
    access: Name
    up: DirectionSection | None = None
    down: DirectionSection | None = None


class Captive(_Event):
    """An access begins or ceases to swallow everything."""

    do: Literal["captive"]
    access: Name
    captive: bool = True


class Hint(_Event):
    """A lower layer's hint to the UE's connection management (RFC 4621 §4)."""

    do: Literal["hint"]
    access: Name
    hint: Literal["good", "weak", "captive", "down"]


class GatewayEvent(_Event):
    """An address of the gateway cannot be reached any more, or again."""

    do: Literal["gateway-down", "gateway-up"]
    address: Name


class Lose(_Event):
    """The next ``count`` messages of a kind on an access, or on any, do not arrive."""

    do: Literal["lose"]
    message: MessageKind
    count: Annotated[int, Field(ge=1)] = 1
    access: Name | None = None


class AaaSlow(_Event):
    """The AAA server answers so much later."""

    do: Literal["aaa-slow"]
    delay: Duration


class Resume(_Event):
    """The UE comes back from being suspended, on this access."""

    do: Literal["resume"]
    to: Name
    expect: MoveExpectation = COMPLETED


class Command(_Event):
    """What has no parameters."""

    do: Literal[
        "rekey-ike", "rekey-child", "liveness", "suspend", "detach", "aaa-normal", "traffic-start", "traffic-stop"
    ]


Event = Annotated[
    Attach
    | MoveTo
    | AccessEvent
    | NatAppears
    | Impair
    | Captive
    | Hint
    | GatewayEvent
    | Lose
    | AaaSlow
    | Resume
    | Command,
    Field(discriminator="do"),
]

EVENTS: dict[str, type[_Event]] = {
    word: model
    for model in (
        Attach,
        MoveTo,
        AccessEvent,
        NatAppears,
        Impair,
        Captive,
        Hint,
        GatewayEvent,
        Lose,
        AaaSlow,
        Resume,
        Command,
    )
    for word in model.model_fields["do"].annotation.__args__  # type: ignore[union-attr]
}


class Schedule(ConfigurationModel):
    """A whole schedule; ``ue``, ``epdg`` and ``aaa`` are laid over the nodes' configurations."""

    title: Annotated[str, Field(min_length=1)]
    about: str = ""
    stages: tuple[StageName, ...] = tuple(StageName)
    seed: Count = 1
    duration: Annotated[Duration, Field(gt=0)]
    persona: str | None = None
    accesses: Annotated[dict[str, AccessSection], Field(min_length=1, max_length=ACCESSES_MAXIMUM)]
    gateway: GatewaySection = GatewaySection()
    traffic: TrafficSection = TrafficSection()
    ue: dict[str, JsonValue] = {}
    epdg: dict[str, JsonValue] = {}
    aaa: dict[str, JsonValue] = {}
    events: Annotated[tuple[Event, ...], Field(min_length=1)]
    expect: Expectations = Expectations()

    @property
    def first_access(self) -> str:
        """Where the UE attaches unless told otherwise."""
        return next(iter(self.accesses))

    @property
    def has_nat(self) -> bool:
        """Whether there is a NAT in it, from the beginning or later."""
        kinds = [access.nat.kind for access in self.accesses.values()]
        kinds += [event.nat.kind for event in self.events if isinstance(event, NatAppears)]
        return any(kind is not NatKind.NONE for kind in kinds)
