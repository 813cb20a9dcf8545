"""The UE's control methods: what the command line, the dashboard and the laboratory ask of a node.

Times in parameters and answers are wall clock, seconds since 1970-01-01 UTC. ``ue.attach``, ``ue.move`` and
``ue.detach`` answer when the outcome is known; a refusal is an error whose message is one plain sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from protocols.dataplane.userspace.host import FlowKind
from protocols.io.control import ControlError, Handler, Params
from protocols.trace.records import JsonValue
from ue.observation import move_view, statistics_view
from ue.traffic import DEFAULT_RATE, Flow

if TYPE_CHECKING:
    from ue.pdn import Pdn
    from ue.runtime import UeNode


def control_methods(node: UeNode) -> Mapping[str, Handler]:
    """The methods of a node by name."""
    methods = _Methods(node)
    return {
        "node.status": methods.node_status,
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
        "ue.access.close": methods.access_close,
    }


class _Methods:
    """Parameters in, JSON out."""

    def __init__(self, node: UeNode) -> None:
        self._node = node

    async def node_status(self, params: Params) -> JsonValue:
        del params
        return self._node.status()

    async def status(self, params: Params) -> JsonValue:
        del params
        return {
            "state": self._node.pdn().device.state.value,
            "persona": self._persona(),
            "sessions": [*self._node.sessions()],
            "traffic": [self._flow(pdn, flow) for pdn in self._node.pdns.values() for flow in pdn.flows.all()],
        }

    def _persona(self) -> JsonValue:
        header = self._node.configuration.persona
        return None if header is None else {"name": header.name, "lax": list(header.lax)}

    async def attach(self, params: Params) -> JsonValue:
        force = params.get("force", False)
        if not isinstance(force, bool):
            raise ControlError("bad-params", "force is true or false")
        await self._node.attach(_text(params, "access"), force=force)
        return self._node.pdn().session()

    async def move(self, params: Params) -> JsonValue:
        to, keep_old = _text(params, "to"), params.get("keep_old")
        if to is None:
            raise ControlError("bad-params", "to is the name or address of an access")
        if not isinstance(keep_old, bool | None):
            raise ControlError("bad-params", "keep_old is true or false")
        move = await self._node.move(to, keep_old=keep_old or False)
        return {"move": move_view(move, self._node.wall), "session": self._node.pdn().session()}

    async def suspend(self, params: Params) -> JsonValue:
        del params
        self._node.suspend()
        return self._node.pdn().session()

    async def detach(self, params: Params) -> JsonValue:
        del params
        await self._node.detach()
        return self._node.pdn().session()

    async def rekey_ike(self, params: Params) -> JsonValue:
        del params
        self._node.pdn().rekey_ike()
        return self._node.pdn().session()

    async def rekey_child(self, params: Params) -> JsonValue:
        spis: list[JsonValue] = [*self._node.pdn().rekey_child(_text(params, "inbound_spi"))]
        return {"inbound_spis": spis}

    async def access_close(self, params: Params) -> JsonValue:
        name = _text(params, "name")
        if name is None:
            raise ControlError("bad-params", "name is the name or address of an access")
        pdn = self._node.pdn()
        pdn.close_access(self._node.access_name(name))
        return {"open_accesses": list(pdn.device.open_accesses)}

    async def traffic_start(self, params: Params) -> JsonValue:
        kind, destination, rate = params.get("kind", "icmp"), params.get("destination"), params.get("rate")
        if kind not in ("icmp", "udp"):
            raise ControlError("bad-params", "kind is icmp or udp")
        if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool)):
            raise ControlError("bad-params", "rate is a number of packets per second")
        try:
            address = ip_address(destination if isinstance(destination, str) else "")
        except ValueError:
            raise ControlError("bad-params", "destination is an IP address") from None
        pace = DEFAULT_RATE if rate is None else float(rate)
        pdn = self._node.pdn()
        return self._flow(pdn, pdn.start_traffic(FlowKind(kind), address, pace))

    async def traffic_stop(self, params: Params) -> JsonValue:
        pdn = self._node.pdn()
        flow = pdn.flows.find(_whole_number(params, "id"))
        flow.stop()
        return self._flow(pdn, flow)

    async def traffic_statistics(self, params: Params) -> JsonValue:
        pdn = self._node.pdn()
        flow = pdn.flows.find(_whole_number(params, "id"))
        return self._flow(pdn, flow, self._moment(params, "since"), self._moment(params, "until"))

    def _moment(self, params: Params, name: str) -> float | None:
        value = params.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ControlError("bad-params", f"{name} is seconds since 1970-01-01 UTC")
        return value - self._node.wall_offset

    def _flow(
        self, pdn: Pdn, flow: Flow, since: float | None = None, until: float | None = None
    ) -> dict[str, JsonValue]:
        client = flow.client
        return {
            "id": flow.number,
            "kind": client.kind.value,
            "source": str(client.source),
            "destination": str(client.destination),
            "rate": round(1 / client.interval, 6),
            "running": client.running,
            **statistics_view(flow.statistics(since, until)),
            "duplicates": client.duplicates,
            "child_sas": pdn.child_counters(),
        }


def _text(params: Params, name: str) -> str | None:
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise ControlError("bad-params", f"{name} is text")
    return value


def _whole_number(params: Params, name: str) -> int | None:
    value = params.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ControlError("bad-params", f"{name} is a whole number")
    return value
