"""The dashboard's side of the nodes: is each one there, what has it recorded, and what does it answer.

A link asks its node for its status at an interval, follows its trace, and comes back by itself when the
control socket went away. One that hangs is asked for nothing else until it tells its status again, so that
nobody waits for it. Keys and raw datagrams are never subscribed to: the page has no use for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from http import HTTPStatus

from pydantic import ValidationError

from dashboards.changes import SessionChanges
from dashboards.config import DashboardsConfig, NodeConfig
from dashboards.lab_schemas import LabRunEvent
from dashboards.problems import Problem
from dashboards.rates import Rates
from dashboards.redaction import redacted
from dashboards.ring import Kept, Selection, Source, Trace, select
from dashboards.schemas import NodeView, TraceKept
from dashboards.stream import EventHub
from dashboards.told import counts, table
from protocols.errors import BackendError, DecodeError
from protocols.io.control import ControlClient, ControlError, Unanswered
from protocols.trace.records import JsonValue, Kind, TraceRecord

FOLLOWED = (Kind.MESSAGE, Kind.EVENT, Kind.STATE)
TRACED = ("ue", "epdg", "aaa", "hss")  # kinds of node that a session goes through
PROCEDURE_INTERVAL = 60.0  # seconds for an attach, say, to come to something; the node goes on without a listener
RETRY_INTERVAL = 0.5  # seconds before a lost trace subscription is tried again
WITH_PEERS = ("epdg", "aaa", "hss")  # kinds of nodes that speak Diameter
SHOWN_STATES = ("attaching", "established")
ALWAYS_ANOTHER = ("process",)  # of a status: what no node is described by, or it would be another one each time
SERIES = ("attaches", "moves", "failures", "uplink_octets", "downlink_octets")

logger = logging.getLogger("dashboards")


class NodeLink:
    """One node as the dashboard sees it."""

    def __init__(
        self,
        config: NodeConfig,
        settings: DashboardsConfig,
        hub: EventHub,
        rates: Rates,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = config.name
        self.kind = config.kind
        self.control = config.control
        self.reachable = False
        self.since = wall()
        self.why: str | None = "not asked yet"
        self.status: dict[str, JsonValue] = {}
        self.peers: list[JsonValue] = []
        self.sessions: dict[str, int] = {}
        self.tally = {"messages": 0, "retransmissions": 0, "moves": 0, "refusals": 0}
        self.trace = Trace(config.name, ring=settings.trace_ring)
        self._client = ControlClient(config.control, answer_interval=settings.call_timeout)
        self._patient = ControlClient(config.control, answer_interval=PROCEDURE_INTERVAL)
        self._poll_interval = settings.poll_interval
        self._hub = hub
        self._rates = rates
        self._wall = wall
        self._hangs = False
        self._started: JsonValue = None
        self._last_sequence = 0
        self._changes = SessionChanges(config.name, hub, self.call)

    async def call(self, method: str, **params: JsonValue) -> JsonValue:
        """Ask the node; ``Problem`` 503 when it cannot be reached or hangs, ``ControlError`` as the node says."""
        return await self._ask(self._client, method, params)

    async def carry_out(self, method: str, **params: JsonValue) -> JsonValue:
        """The same of a procedure, which may take ``PROCEDURE_INTERVAL`` before it is answered."""
        return await self._ask(self._patient, method, params)

    async def _ask(self, client: ControlClient, method: str, params: dict[str, JsonValue]) -> JsonValue:
        if self._hangs:
            raise self._unreachable(f"it does not answer since {_time_of_day(self.since)}")
        try:
            return await client.call(method, **params)
        except (BackendError, DecodeError) as error:
            raise self._unreachable(str(error)) from None

    def describe(self) -> dict[str, JsonValue]:
        """The node's health, as the ``node`` event carries it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "reachable": self.reachable,
            "since": self.since,
            "why": self.why,
            "version": _text(self.status.get("version")),
            "started": _number(self.status.get("started")),
            "sessions": dict(self.sessions) if self.kind == "epdg" else None,
            "tally": dict(self.tally),
            "peers": redacted(list(self.peers)),
            "status": redacted({name: told for name, told in self.status.items() if name not in ALWAYS_ANOTHER}),
        }

    def view(self) -> NodeView:
        """The same with how much of its trace is kept here."""
        kept = TraceKept(records=len(self.trace), ring=self.trace.ring, oldest=self.trace.oldest)
        return NodeView.model_validate({**self.describe(), "trace": kept})

    async def run(self) -> None:
        """Watch the node until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._follow())
            if self.kind == "epdg":
                tasks.create_task(self._changes.run())

    async def _watch(self) -> None:
        shown: dict[str, JsonValue] | None = None
        while True:
            try:
                await self._poll()
            except Exception:  # top loop: a surprising answer must not end the watch
                logger.exception("asking %s failed", self.name)
            description = self.describe()
            if description != shown:
                self._hub.publish("node", description)
                shown = description
            await asyncio.sleep(self._poll_interval)

    async def _poll(self) -> None:
        hangs = False
        try:
            status = await self._client.call("node.status")
            if self.kind in WITH_PEERS:
                self.peers = await self._ask_peers()
        except (BackendError, DecodeError) as error:
            hangs = isinstance(error, Unanswered)
            self._set_reachable(False, str(error))
        except ControlError as error:
            self._set_reachable(False, f"answers with an error: {error}")
        else:
            self.status = status if isinstance(status, dict) else {}
            self._notice_restart(self.status.get("started"))
            self._set_reachable(True, None)
            if self.kind == "epdg":
                states = dict(counts(self.status.get("states")))
                self.sessions = {state: int(states.get(state, 0)) for state in SHOWN_STATES}
                self._rates.take(self.name, _number(self.status.get("started")), _counters(self.status))
        self._hangs = hangs

    async def _ask_peers(self) -> list[JsonValue]:
        try:
            return _list(await self._client.call("peers.list"), "peers")
        except ControlError as error:
            if error.code == "unknown-method":
                return []
            raise

    def _set_reachable(self, reachable: bool, why: str | None) -> None:
        if reachable != self.reachable:
            self.reachable = reachable
            self.since = self._wall()
            if not reachable:
                self._rates.lost(self.name)
            logger.info("node %s is %s", self.name, "reachable" if reachable else f"unreachable: {why}")
        self.why = why

    def _notice_restart(self, started: JsonValue) -> None:
        """A node that was started anew counts its records from 1 again and knows none of the old sessions."""
        if self._started is not None and started != self._started:
            self.trace.clear()
            self._last_sequence = 0
            self._hub.publish("restarted", {"name": self.name, "kind": self.kind})
        self._started = started

    async def _follow(self) -> None:
        while True:
            try:
                status = await self._client.call("node.status")
                self._notice_restart(status.get("started") if isinstance(status, dict) else None)
                records = self._client.subscribe(self._last_sequence, FOLLOWED)
                assert isinstance(records, AsyncGenerator)
                async with aclosing(records):
                    async for record in records:
                        self._take(record)
            except (BackendError, DecodeError, ControlError) as error:
                logger.debug("trace of %s: %s", self.name, error)
            except Exception:  # top loop: a surprising record must not end the trace
                logger.exception("following the trace of %s failed", self.name)
            await asyncio.sleep(RETRY_INTERVAL)

    def _take(self, record: TraceRecord) -> None:
        if record.sequence <= self._last_sequence or record.kind not in FOLLOWED:
            return
        self._last_sequence = record.sequence
        body = redacted(record.body)
        assert isinstance(body, dict)
        record = replace(record, node=self.name, body=body)  # by the name people know it by
        kept = Kept(record)
        self._hub.publish_later("record", partial(kept.text, self.name), record.session)
        if self.kind == "lab":
            self._publish_run(record)
            return
        self.trace.append(record, kept)
        self._count(record)
        if self.kind == "epdg":
            self._changes.note(record)

    def _count(self, record: TraceRecord) -> None:
        if record.kind is Kind.MESSAGE:
            self.tally["messages"] += 1
            if record.body.get("retransmission") is True:
                self.tally["retransmissions"] += 1
        elif record.kind is Kind.EVENT:
            if _is_move(record):
                self.tally["moves"] += 1
            elif record.body.get("name") == "refused":
                self.tally["refusals"] += 1

    def _publish_run(self, record: TraceRecord) -> None:
        """What a laboratory tells of a run; it has no sessions."""
        data = record.body.get("data")
        if record.kind is Kind.EVENT and isinstance(data, dict):
            with contextlib.suppress(ValidationError):  # it tells of something else
                run = LabRunEvent.model_validate({**data, "node": self.name, "text": record.body.get("text")})
                self._hub.publish("lab-run", run.model_dump(mode="json"))

    def _unreachable(self, why: str) -> Problem:
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "node-unreachable",
            f"The node {self.name} cannot be reached ({why}).",
            headers={"Retry-After": "2"},
            node=self.name,
            why=why,
        )


class Fleet:
    """All links, in the order of the configuration."""

    def __init__(self, config: DashboardsConfig, hub: EventHub) -> None:
        self.rates = Rates(SERIES)
        self.links = tuple(NodeLink(node, config, hub, self.rates) for node in config.nodes)

    @property
    def gateways(self) -> tuple[NodeLink, ...]:
        """The links to ePDGs: they own the sessions."""
        return tuple(link for link in self.links if link.kind == "epdg")

    @property
    def servers(self) -> tuple[NodeLink, ...]:
        """The links to AAA servers and HSSs: they own subscribers, fault rules and SWm sessions."""
        return tuple(link for link in self.links if link.kind in ("aaa", "hss"))

    @property
    def silent(self) -> list[str]:
        """The names of nodes that cannot be reached."""
        return [link.name for link in self.links if not link.reachable]

    @property
    def sources(self) -> list[Source]:
        """The traces of those nodes that a session goes through."""
        return [Source(link.name, link.kind, link.trace) for link in self.links if link.kind in TRACED]

    def select(self, identifier: str, session: Mapping[str, JsonValue] | None) -> Selection:
        """What they recorded of a session; ``session``: as its gateway describes it, ``None`` when it does not."""
        return select(self.sources, identifier, session)

    @property
    def laboratories(self) -> tuple[NodeLink, ...]:
        """The links to laboratories: they play schedules."""
        return tuple(link for link in self.links if link.kind == "lab")

    @property
    def ues(self) -> tuple[NodeLink, ...]:
        """The links to UEs of the emulator."""
        return tuple(link for link in self.links if link.kind == "ue")

    async def run(self) -> None:
        """Watch all nodes until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for link in self.links:
                tasks.create_task(link.run())


def _is_move(record: TraceRecord) -> bool:
    """Whether a gateway adopted another address; an update that names the present one again is none."""
    if record.body.get("name") != "moved":
        return False
    where = record.body.get("data")
    return not isinstance(where, dict) or where.get("old") is None or where.get("old") != where.get("new")


def _counters(status: dict[str, JsonValue]) -> dict[str, float]:
    """What the series of a gateway's rates are made of."""
    totals = dict(counts(status.get("totals")))
    carried = dict(counts(table(status, "figures").get("carried")))
    return {
        "attaches": totals.get("attached", 0.0),
        "moves": totals.get("moved", 0.0),
        "failures": totals.get("attach-ended", 0.0) + totals.get("address-update-failed", 0.0),
        "uplink_octets": carried.get("inbound_octets", 0.0),
        "downlink_octets": carried.get("outbound_octets", 0.0),
    }


def _time_of_day(wall: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(wall))


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _list(value: JsonValue, member: str) -> list[JsonValue]:
    if isinstance(value, dict):
        value = value.get(member)
    return value if isinstance(value, list) else []
