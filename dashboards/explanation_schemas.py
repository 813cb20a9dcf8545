"""What the API says of failures: findings of sessions, the catalogue of causes, attaches that failed."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from dashboards.schemas import Answer
from dashboards.trace_schemas import TraceName

Cause = Annotated[str, Field(description="a slug that scripts may rely on", examples=["network-not-authenticated"])]


class EvidenceView(Answer):
    """A record that shows it; of a message ``messages/{node}:{sequence}`` has all of it."""

    node: str
    sequence: int


class FindingView(Answer):
    """A cause that was found; ``remark``: out of the ordinary, and the session went on all the same."""

    cause: Cause
    title: str
    remark: bool
    sentence: str
    clause: str = Field(description="the standard's text that says so, or this project's page")
    advice: str = Field(description="what to try")
    wall: float
    evidence: list[EvidenceView]


class Explanation(Answer):
    """Why a session failed."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "session": "18f7e6d5c4b3a291",
                    "sentence": "AUTN rejected by the UE: K or OPc in its USIM differ from the subscriber's in the"
                    " HSS.",
                    "findings": [
                        {
                            "cause": "autn-rejected",
                            "title": "AUTN rejected",
                            "remark": False,
                            "sentence": "AUTN rejected by the UE: K or OPc in its USIM differ from the subscriber's in"
                            " the HSS.",
                            "clause": "RFC 4187 §6.3.1",
                            "advice": "Compare K and OPc of both.",
                            "wall": 1800000000.0,
                            "evidence": [{"node": "epdg", "sequence": 4711}],
                        }
                    ],
                    "silent": [],
                }
            ]
        },
    )

    session: str
    sentence: str | None = Field(description="of the last finding that is no remark; null when nothing failed")
    findings: list[FindingView] = Field(description="oldest first")
    silent: list[str] = Field(description="nodes that cannot be reached: their part may be missing")


class CauseView(Answer):
    """An entry of the catalogue."""

    cause: Cause
    title: str
    remark: bool = Field(description="out of the ordinary, and the session goes on all the same")
    clause: str
    advice: str


class CauseList(Answer):
    """The catalogue."""

    causes: list[CauseView]


class Attempt(Answer):
    """An attach that failed; ``id`` is what ``/sessions/{id}/explanation``, ``ladder`` and ``evidence`` know it by."""

    id: str
    wall: float
    outcome: str | None = Field(
        description="what the gateway counts it as, as `/overview` has it; null of what no gateway told",
        examples=["AUTHENTICATION_FAILED"],
    )
    cause: Cause | None = Field(description="of the catalogue; null where it knows none")
    title: str | None = Field(description="of the cause, in a few words")
    sentence: str | None = Field(description="why, where the catalogue knows; else text says what a node told last")
    text: str
    names: list[TraceName] = Field(description="what the nodes call it")


class CauseCount(Answer):
    """How many attaches failed by one cause."""

    cause: Cause
    title: str
    count: int


class AttemptList(Answer):
    """Attaches that failed, the last one first."""

    attempts: list[Attempt]
    total: int = Field(description="how many of those looked through are what is asked for")
    looked_through: int = Field(description="how many of this outcome were looked through, the last ones")
    causes: list[CauseCount] = Field(description="of those looked through, whichever cause is asked for; most first")
