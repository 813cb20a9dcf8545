"""What the API says of AAA servers, as types: SWm sessions and fault rules."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dashboards.schemas import Answer

AaaSessionState = Literal[
    "identifying",
    "waiting-for-profile",
    "waiting-for-vector",
    "waiting-for-context",
    "waiting-for-storage",
    "challenged",
    "authenticated",
    "refused",
]


class Wanted(BaseModel):
    """Base of what a client sends: members that nobody knows are an error."""

    model_config = ConfigDict(extra="forbid")


# --- sessions ---------------------------------------------------------------------------------------


class AaaError(Answer):
    """Why a session was refused."""

    cause: str
    result: str
    text: str


class AaaSessionView(Answer):
    """An SWm session; ``id`` is its Session-Id."""

    id: str
    state: AaaSessionState | None
    imsi: str | None
    user_name: str
    apn: str | None
    imei: str | None = None
    gateway: str
    created: float
    authenticated: float | None
    last_error: AaaError | None = None


class AaaSessionPage(Answer):
    """One page; ``next`` is the cursor of the next one, null on the last."""

    sessions: list[AaaSessionView]
    next: str | None
    total: int


class Why(Wanted):
    """A reason for people, in the trace."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "the SIM was stolen"}]})

    reason: str | None = Field(default=None, min_length=1, max_length=200)


class ProcedureView(Answer):
    """How it went: the gateway's result, null when it gave none, and one sentence."""

    id: str
    gateway: str
    succeeded: bool
    result: str | None
    text: str


# --- fault rules ------------------------------------------------------------------------------------


class FaultMatch(Wanted):
    """For whom and when; what is absent matches everything."""

    imsi: str | None = Field(default=None, description="an IMSI, a prefix such as 00101*, or a range first-last")
    apn: str | None = None
    command: Literal["DER", "AAR", "STR", "MAR", "SAR"] | None = None
    step: Literal["identity", "challenge", "final"] | None = Field(
        default=None, description="what the answer to a DER does"
    )
    attempts: str | None = Field(default=None, description="a subscriber's attempts: 1, 2-4, 3- or every 3")
    share: float | None = Field(default=None, ge=0, le=1, description="the part of those that it hits")
    seed: int | None = Field(default=None, ge=0, description="another share of them")


class FaultAction(Wanted):
    """What goes wrong; at least one."""

    result: str | None = Field(default=None, description="a name, a number or vendor:number")
    backoff: int | None = Field(default=None, description="seconds, as OC-Validity-Duration (RFC 7683)")
    delay: float | None = Field(default=None, description="seconds")
    truncate: int | None = Field(default=None, description="octets that are left of the answer")
    silence: bool = False
    duplicate: bool = False
    wrong_session_id: bool = False
    eap_failure: bool = False
    wrong_mac: bool = False
    wrong_autn: bool = False
    old_sqn: bool = False
    clear_amf_bit: bool = False
    wrong_keys: bool = False


class FaultRuleWanted(Wanted):
    """A rule to add behind the others."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "twice-unknown",
                    "match": {"imsi": "001010000000001", "attempts": "1-2"},
                    "action": {"result": "DIAMETER_ERROR_USER_UNKNOWN"},
                },
                {
                    "name": "every-third-is-told-to-wait",
                    "match": {"imsi": "00101*", "apn": "internet", "attempts": "every 3"},
                    "action": {"result": "DIAMETER_UNABLE_TO_COMPLY", "backoff": 60},
                },
                {"name": "resynchronise", "action": {"old_sqn": True}, "times": 1},
                {"name": "lossy", "match": {"command": "DER", "share": 0.1}, "action": {"silence": True}},
            ]
        },
    )

    name: str = Field(min_length=1, max_length=64)
    match: FaultMatch = FaultMatch()
    action: FaultAction
    times: int | None = Field(default=None, ge=1, description="how often it is applied, for ever without it")
    enabled: bool = True


class FaultRuleView(Answer):
    """A rule and what it did: answers that it was for, and answers that it spoilt."""

    name: str
    match: FaultMatch
    action: FaultAction
    times: int | None
    enabled: bool
    origin: Literal["configuration", "control"]
    remaining: int | None
    matched: int
    applied: int


class FaultRules(Answer):
    """The rules in the order in which they are asked."""

    faults: list[FaultRuleView]


class FaultsCleared(Answer):
    """How many rules were removed."""

    removed: int
