"""The UE's control methods: what the command line, the dashboard and the laboratory ask of a node.

Times in parameters and answers are wall clock, seconds since 1970-01-01 UTC. ``ue.attach``, ``ue.move`` and
``ue.detach`` answer when the outcome is known; a refusal is an error whose message is one plain sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocols.errors import StackError
from protocols.io.configuration import shown
from protocols.io.control import Handler, Params
from protocols.io.parameters import (
    address,
    addresses,
    flag,
    moment,
    number,
    required_text,
    text,
    unfit,
    whole_number,
)
from protocols.trace.records import JsonValue
from ue.connection import Move
from ue.management import Hint
from ue.observation import move_view
from ue.traffic import DEFAULT_RATE, KINDS, Flow

if TYPE_CHECKING:
    from ue.pdn import Pdn
    from ue.runtime import UeNode


def control_methods(node: UeNode) -> Mapping[str, Handler]:
    """The methods of a node by name."""
    methods = _Methods(node)
    return {
        "node.status": methods.node_status,
        "node.configuration": methods.configuration,
        "ue.status": methods.status,
        "ue.attach": methods.attach,
        "ue.move": methods.move,
        "ue.suspend": methods.suspend,
        "ue.detach": methods.detach,
        "ue.rekey-ike": methods.rekey_ike,
        "ue.rekey-child": methods.rekey_child,
        "ue.traffic.start": methods.traffic_start,
        "ue.traffic.stop": methods.traffic_stop,
        "ue.traffic.statistics": methods.traffic_statistics,
        "ue.traffic.log": methods.traffic_log,
        "ue.access.close": methods.access_close,
        "ue.access.lost": methods.access_lost,
        "ue.access.gained": methods.access_gained,
        "ue.access.hint": methods.access_hint,
        "ue.liveness": methods.liveness,
    }


class _Methods:
    """Parameters in, JSON out."""

    def __init__(self, node: UeNode) -> None:
        self._node = node

    async def node_status(self, params: Params) -> JsonValue:
        del params
        return self._node.status()

    async def configuration(self, params: Params) -> JsonValue:
        del params
        return shown(self._node.configuration)

    async def status(self, params: Params) -> JsonValue:
        del params
        return {
            "state": self._node.pdn().device.state.value,
            "persona": self._persona(),
            "data_plane": self._node.backend.view,
            "sessions": [*self._node.sessions()],
            "traffic": [
                self._flow_with(pdn, flow, flow.recent())
                for pdn in self._node.pdns.values()
                for flow in pdn.flows.all()
            ],
        }

    def _persona(self) -> JsonValue:
        header = self._node.configuration.persona
        return None if header is None else {"name": header.name, "lax": list(header.lax)}

    async def attach(self, params: Params) -> JsonValue:
        force, pdn, previous = flag(params, "force"), self._pdn(params), addresses(params, "handover")
        await self._node.attach(text(params, "access"), force=force, pdn=pdn.name, previous=previous)
        return pdn.session()

    async def move(self, params: Params) -> JsonValue:
        to = required_text(params, "to", "to is the name or address of an access")
        outcomes = await self._node.move_each(to, keep_old=flag(params, "keep_old"), pdn=text(params, "pdn"))
        moved = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Move)}
        if not moved:
            raise next(outcome for outcome in outcomes.values() if isinstance(outcome, StackError))
        first, wall = next(iter(moved)), self._node.wall
        return {
            "move": move_view(moved[first], wall),
            "session": self._node.pdn(first).session(),
            "pdns": {
                name: {"error": str(outcome)} if isinstance(outcome, StackError) else move_view(outcome, wall)
                for name, outcome in outcomes.items()
            },
        }

    async def suspend(self, params: Params) -> JsonValue:
        self._node.suspend(text(params, "pdn"))
        return self._pdn(params).session()

    async def detach(self, params: Params) -> JsonValue:
        await self._node.detach(text(params, "pdn"))
        return self._pdn(params).session()

    async def rekey_ike(self, params: Params) -> JsonValue:
        pdn = self._pdn(params)
        pdn.rekey_ike()
        return pdn.session()

    async def rekey_child(self, params: Params) -> JsonValue:
        spis: list[JsonValue] = [*self._pdn(params).rekey_child(text(params, "inbound_spi"))]
        return {"inbound_spis": spis}

    async def access_close(self, params: Params) -> JsonValue:
        pdn = self._pdn(params)
        pdn.close_access(self._access(params))
        return {"open_accesses": list(pdn.device.open_accesses)}

    async def access_lost(self, params: Params) -> JsonValue:
        self._node.steering.lost(self._access(params))
        return self._node.steering.view()

    async def access_gained(self, params: Params) -> JsonValue:
        name = self._access(params)
        gained = None if params.get("address") is None else address(params, "address")
        if gained is not None and (gained.is_unspecified or gained.is_multicast):
            raise unfit(f"{gained} is no address that an access can have")
        self._node.steering.gained(name, gained)
        return self._node.steering.view()

    async def access_hint(self, params: Params) -> JsonValue:
        name, hint = self._access(params), text(params, "hint")
        if hint not in {each.value for each in Hint}:
            raise unfit(f"hint is {', '.join(each.value for each in Hint)}")
        self._node.steering.hinted(name, Hint(hint))
        return self._node.steering.view()

    async def liveness(self, params: Params) -> JsonValue:
        pdn = self._pdn(params)
        pdn.check_liveness()
        return pdn.session()

    def _access(self, params: Params) -> str:
        return self._node.access_name(required_text(params, "name", "name is the name or address of an access"))

    async def traffic_start(self, params: Params) -> JsonValue:
        kind = params.get("kind", "icmp")
        if not isinstance(kind, str) or kind not in KINDS:
            raise unfit(f"kind is one of {', '.join(KINDS)}")
        rate = number(params, "rate", "rate is a number of packets per second")
        pdn, destination = self._pdn(params), address(params, "destination")
        return self._flow(pdn, pdn.start_traffic(KINDS[kind], destination, DEFAULT_RATE if rate is None else rate))

    async def traffic_stop(self, params: Params) -> JsonValue:
        pdn, flow = self._found_flow(params)
        flow.stop()
        return self._flow(pdn, flow)

    async def traffic_statistics(self, params: Params) -> JsonValue:
        pdn, flow = self._found_flow(params)
        return self._flow(pdn, flow, self._moment(params, "since"), self._moment(params, "until"))

    async def traffic_log(self, params: Params) -> JsonValue:
        _, flow = self._found_flow(params)
        log = flow.log(self._moment(params, "since"), self._moment(params, "until"), self._node.wall)
        return {"id": flow.number, **log}

    def _pdn(self, params: Params) -> Pdn:
        return self._node.pdn(text(params, "pdn"))

    def _found_flow(self, params: Params) -> tuple[Pdn, Flow]:
        """A flow by its number, which is its own among all connections; without one the latest of the connection."""
        wanted = whole_number(params, "id")
        for pdn in self._node.pdns.values():
            if wanted is not None and wanted in {flow.number for flow in pdn.flows.all()}:
                return pdn, pdn.flows.find(wanted)
        pdn = self._pdn(params)
        return pdn, pdn.flows.find(wanted)

    def _moment(self, params: Params, name: str) -> float | None:
        return moment(params, name, self._node.wall_offset)

    def _flow(
        self, pdn: Pdn, flow: Flow, since: float | None = None, until: float | None = None
    ) -> dict[str, JsonValue]:
        return self._flow_with(pdn, flow, flow.view(since, until))

    def _flow_with(self, pdn: Pdn, flow: Flow, score: dict[str, JsonValue]) -> dict[str, JsonValue]:
        client = flow.client
        return {
            "id": flow.number,
            "kind": client.kind.value,
            "source": str(client.source),
            "destination": str(client.destination),
            "rate": round(1 / client.interval, 6),
            "running": client.running,
            **score,
            "child_sas": pdn.child_counters(),
        }
