"""Control methods about the gateway itself: its status, its Diameter peers, the hosts behind it."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocols.io.configuration import shown
from protocols.io.control import ControlError, Handler, Params
from protocols.io.parameters import moment, required_whole_number
from protocols.io.process import process_view
from protocols.trace.records import JsonValue

if TYPE_CHECKING:
    from epdg.runtime import EpdgNode

KIND = "epdg"
DISTRIBUTION = "epdg-emulator"


class NodeMethods:
    """Of all that the node is composed of."""

    def __init__(self, node: EpdgNode) -> None:
        self._node = node

    def methods(self) -> Mapping[str, Handler]:
        """By name."""
        return {
            "node.status": self.status,
            "node.configuration": self.configuration,
            "node.reload": self.reload,
            "peers.list": self.list_peers,
            "epdg.host.log": self.host_log,
        }

    async def status(self, params: Params) -> JsonValue:
        """How it does."""
        del params
        node = self._node
        return {
            "node": node.configuration.node,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": node.started,
            "fqdn": node.fqdn,
            "data_plane": {**node.backend.view, **node.carrier.counted},
            "listen": [str(endpoint) for endpoint in node.swu.ports.local_endpoints],
            "sessions": len(node.sessions.live),
            "states": dict(Counter(live.session.state.value for live in node.sessions.live.values())),
            "half_open": node.swu.endpoint.half_open,
            "totals": dict(node.tally.totals),
            "reasons": {name: dict(counted) for name, counted in node.tally.reasons.items()},
            "dropped": {
                "ike": {str(k): v for k, v in self._dropped_ike().items()},
                "swu": {str(k): v for k, v in node.swu.ports.dropped.items()},
                "esp": dict(
                    Counter({reason.value: number for reason, number in node.child_sas.data_plane.drops.items()})
                    + node.carrier.dropped
                ),
                "tun": node.child_sas.core.dropped,
                "diameter": {str(k): v for k, v in node.swm.dropped.items()},
            },
            "figures": self._figures(),
            "process": process_view(),
            "trace": {**node.recorder.view(), "esp": None if node.swu.esp_tap is None else node.swu.esp_tap.view},
            "telemetry": None if node.telemetry is None else node.telemetry.view(),
            "addresses_in_use": {name: pool.in_use for name, pool in node.grants.pools.items()},
        }

    async def configuration(self, params: Params) -> JsonValue:
        """What it was started with, without secrets."""
        del params
        return shown(self._node.configuration)

    async def reload(self, params: Params) -> JsonValue:
        """Read the configuration again; ``ConfigurationError``: nothing has changed."""
        del params
        plan = self._node.reloading.reload()
        return {"changed": [*plan.changed], "needs_restart": [*plan.needs_restart]}

    def _figures(self) -> JsonValue:
        durations = self._node.sessions.durations
        figures: dict[str, JsonValue] = {
            "attach": durations.attach.view(),
            "move": durations.move.view(),
            "diameter": self._node.swm.figures(),
            "carried": {**self._node.child_sas.carried()},
        }
        return figures

    def _dropped_ike(self) -> Counter[str]:
        dropped = self._node.swu.endpoint.dropped + self._node.swu.dropped_notifies
        for live in self._node.sessions.live.values():
            dropped.update(live.sa.dropped)
        return dropped

    async def list_peers(self, params: Params) -> JsonValue:
        """The Diameter peers."""
        del params
        return {"peers": self._node.swm.peers()}

    async def host_log(self, params: Params) -> JsonValue:
        """What the host behind the gateway has sent and received of a voice call."""
        ssrc = required_whole_number(params, "ssrc", "ssrc is the number of a voice call, as ue.traffic.start gives it")
        call = self._node.child_sas.core.call(ssrc)
        if call is None:
            raise ControlError("not-found", f"no host behind the gateway has had a voice call {ssrc}")
        offset = self._node.wall_offset
        since, until = moment(params, "since", offset), moment(params, "until", offset)
        return {
            "ssrc": ssrc,
            "running": call.running,
            "sent": [[sequence, at + offset] for sequence, at in call.sent_log(since, until)],
            "received": [[sequence, at + offset] for sequence, at in call.received_log(since, until)],
        }
