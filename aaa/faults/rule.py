"""A fault rule: whom and when it is for, what goes wrong, how often. One model for YAML, control and REST."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from aaa.faults.patterns import AttemptPattern, ImsiPattern, parse_result, written_result
from protocols.diameter.codec import Result
from protocols.io.configuration import ConfigurationModel, Count, Digits, Interval
from protocols.threegpp.identity import Apn
from protocols.trace.records import JsonValue

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
BACKOFF_MAXIMUM = 86_400  # OC-Validity-Duration (RFC 7683 §7.5): 24 hours
DELAY_MAXIMUM = 3600.0


class AttachStep(str, Enum):
    """What an answer to a DER does: ask who the user is, challenge it, or end the exchange."""

    IDENTITY = "identity"
    CHALLENGE = "challenge"
    FINAL = "final"


class Point(Enum):
    """Where a rule takes hold: the HSS's vector, or the answer that is ready to go."""

    VECTOR = "vector"
    ANSWER = "answer"


Command = Literal["DER", "AAR", "STR", "MAR", "SAR"]
HSS_COMMANDS = frozenset({"MAR", "SAR"})


def _imsi(value: object) -> ImsiPattern:
    if isinstance(value, ImsiPattern):
        return value
    try:
        return ImsiPattern.parse(str(value))
    except ValueError as error:
        raise PydanticCustomError("imsi_pattern", "{expected}", {"expected": str(error)}) from None


def _attempts(value: object) -> AttemptPattern:
    if isinstance(value, AttemptPattern):
        return value
    try:
        return AttemptPattern.parse(str(value))
    except ValueError as error:
        raise PydanticCustomError("attempt_pattern", "{expected}", {"expected": str(error)}) from None


def _result(value: object) -> Result:
    if isinstance(value, Result):
        return value
    try:
        return parse_result(str(value))
    except ValueError as error:
        raise PydanticCustomError("result", "{expected}", {"expected": str(error)}) from None


def _apn(value: str) -> str:
    try:
        return Apn(value).network_identifier
    except ValueError:
        raise PydanticCustomError("apn", "an APN such as internet") from None


class Match(ConfigurationModel):
    """When a rule is for an answer; what is not given matches everything the gateway asks.

    What the AAA server asks the HSS (MAR, SAR) is refused, delayed or not answered only where ``command``
    says so; vectors are spoilt whether it is DER, MAR or left out.
    ``attempts`` counts each subscriber's attempts that the rule's other conditions meet; one Diameter
    session is one attempt. ``share`` is the part of those that it hits; ``seed`` changes which.
    """

    imsi: Annotated[ImsiPattern, BeforeValidator(_imsi), PlainSerializer(str)] | None = None
    apn: Annotated[Digits, AfterValidator(_apn)] | None = None
    command: Command | None = None
    step: AttachStep | None = None
    attempts: Annotated[AttemptPattern, BeforeValidator(_attempts), PlainSerializer(str)] | None = None
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    seed: Count = 0


class Action(ConfigurationModel):
    """What goes wrong: the vector that the HSS gives, the EAP packet in the answer, or the answer itself."""

    # the vector (TS 33.102 §6.3.2)
    wrong_autn: bool = False
    old_sqn: bool = False
    clear_amf_bit: bool = False
    wrong_keys: bool = False
    # the EAP packet
    wrong_mac: bool = False
    eap_failure: bool = False
    # the answer
    result: Annotated[Result, BeforeValidator(_result), PlainSerializer(written_result)] | None = None
    backoff: Annotated[Count, Field(ge=1, le=BACKOFF_MAXIMUM)] | None = None
    delay: Annotated[Interval, Field(le=DELAY_MAXIMUM)] | None = None
    wrong_session_id: bool = False
    silence: bool = False
    duplicate: bool = False
    truncate: Annotated[Count, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Action:
        if not self.given:
            raise PydanticCustomError("no_action", "one of " + ", ".join(type(self).model_fields))
        if self.silence and self.given - {"silence"} - VECTOR_FAULTS:
            raise PydanticCustomError("silence", "silence without anything else that the answer would carry")
        if self.old_sqn + self.clear_amf_bit + self.wrong_autn > 1:
            raise PydanticCustomError("autn", "one of wrong_autn, old_sqn and clear_amf_bit")
        return self

    @property
    def given(self) -> frozenset[str]:
        """The names of what it does."""
        return frozenset(name for name in type(self).model_fields if getattr(self, name))

    @property
    def spoils_vector(self) -> bool:
        """Whether the HSS's vector is changed."""
        return bool(self.given & VECTOR_FAULTS)

    @property
    def needs_key(self) -> bool:
        """Whether the wrong AUTN needs a right MAC, which takes the subscriber's K."""
        return self.old_sqn or self.clear_amf_bit

    @property
    def spoils_answer(self) -> bool:
        """Whether the answer is changed, held back or kept."""
        return bool(self.given - VECTOR_FAULTS)

    def described(self, point: Point) -> str:
        """What it does at ``point``, in words, for the trace."""
        words = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None or value is False or (name in VECTOR_FAULTS) != (point is Point.VECTOR):
                continue
            words.append(_WORDS[name].format(written_result(value) if isinstance(value, Result) else value))
        return ", ".join(words)


VECTOR_FAULTS = frozenset({"wrong_autn", "old_sqn", "clear_amf_bit", "wrong_keys"})
_HSS_FAULTS = frozenset({"result", "delay", "silence"})
_WORDS = {
    "wrong_autn": "wrong AUTN",
    "old_sqn": "old SQN",
    "clear_amf_bit": "AMF separation bit cleared",
    "wrong_keys": "wrong CK and IK",
    "wrong_mac": "wrong AT_MAC",
    "eap_failure": "EAP-Failure in place of the EAP packet",
    "result": "result {0}",
    "backoff": "back-off of {0} s",
    "delay": "delay of {0:g} s",
    "wrong_session_id": "wrong Session-Id",
    "silence": "no answer",
    "duplicate": "the answer twice",
    "truncate": "the answer cut after {0} octets",
}


class FaultRule(ConfigurationModel):
    """A rule; ``times`` is how often it is applied before it is spent, for ever without it."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    match: Match = Match()
    action: Action
    times: Annotated[Count, Field(ge=1)] | None = None
    enabled: bool = True

    @model_validator(mode="after")
    def _possible(self) -> FaultRule:
        command, step = self.match.command, self.match.step
        if step is not None and command not in (None, "DER"):
            raise PydanticCustomError("step", "no match.step, which only answers to a DER have")
        if self.action.spoils_vector:
            if command not in (None, "DER", "MAR"):
                raise PydanticCustomError("vector", "match.command DER or MAR: vectors are asked for nowhere else")
            if step not in (None, AttachStep.CHALLENGE):
                raise PydanticCustomError("vector", "match.step challenge: a vector is for nothing else")
        if command in HSS_COMMANDS and self.action.given - VECTOR_FAULTS - _HSS_FAULTS:
            raise PydanticCustomError("hss", "result, delay or silence where match.command is MAR or SAR")
        return self

    def to_json(self) -> dict[str, JsonValue]:
        """As the control socket and REST show it, and as ``faults.add`` takes it."""
        dumped: dict[str, JsonValue] = self.model_dump(mode="json", exclude_defaults=True)
        dumped["enabled"] = self.enabled
        dumped.setdefault("match", {})
        dumped.setdefault("times", None)
        return dumped
