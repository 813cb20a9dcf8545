"""What the API says of the nodes' records: ladders and messages."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from dashboards.schemas import Answer


class LadderEntry(Answer):
    """A message (an arrow), an event (a band) or a change of state."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    id: str
    kind: Literal["message", "event", "state"]
    wall: float
    node: str
    name: str
    text: str = Field(description="RFC notation for messages, one sentence for events")
    detail: Any = None
    seen_by: list[str]
    records: list[str] = Field(
        description="node:sequence of all that tell of it; messages/{node}:{sequence}", examples=[["ue:17", "epdg:21"]]
    )
    source: str | None = Field(default=None, alias="from")
    target: str | None = Field(default=None, alias="to")
    interface: str | None = None
    protocol: str | None = None
    peer: str | None = None
    retransmission: bool = False
    arrived: bool | None = Field(
        default=None, description="false: the receiver never recorded it; null: nobody can tell"
    )
    transit: float | None = Field(default=None, description="seconds from sending to arrival")


class TraceName(Answer):
    """What a node calls the session in its trace."""

    node: str
    session: str


class Ladder(Answer):
    """A session's message ladder."""

    session: str
    columns: list[str]
    entries: list[LadderEntry]
    names: list[TraceName]
    left_out: int = Field(description="older entries that were left out")
    silent: list[str] = Field(description="nodes that cannot be reached: their part may be missing")


class MessageView(Answer):
    """One trace record of a protocol message, as one node saw it."""

    id: str
    node: str
    sequence: int
    wall: float
    session: str | None
    body: dict[str, Any]


class MessagePage(Answer):
    """One page of messages, oldest first."""

    messages: list[MessageView]
    next: str | None
    total: int
