"""The gateway's control methods: what the command line, the dashboards and the laboratory ask of a node."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from epdg.config import RedirectSection
from epdg.live import Live
from epdg.session import SessionState
from protocols.errors import LocalError
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.reauthentication import LIFETIME_MAXIMUM, AuthenticationLifetime
from protocols.ikev2.tasks.redirect import RedirectPeer
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.io.control import ControlError, Handler, Params
from protocols.path import Address
from protocols.threegpp.swu import GatewaySwu
from protocols.trace.records import JsonValue

if TYPE_CHECKING:
    from epdg.runtime import EpdgNode

KIND = "epdg"
DISTRIBUTION = "epdg-emulator"
LIST_LIMIT = 100
LIST_LIMIT_MAXIMUM = 1000


def control_methods(node: EpdgNode) -> Mapping[str, Handler]:
    """The methods of a node by name."""
    methods = _Methods(node)
    return {
        "node.status": methods.status,
        "sessions.list": methods.list_sessions,
        "sessions.get": methods.get_session,
        "sessions.detach": methods.detach_session,
        "sessions.restore-pcscf": methods.restore_p_cscf,
        "sessions.rekey-ike": methods.rekey_ike,
        "sessions.rekey-child": methods.rekey_child,
        "sessions.reauthenticate": methods.reauthenticate,
        "sessions.redirect": methods.redirect_session,
        "peers.list": methods.list_peers,
        "epdg.host.log": methods.host_log,
        "addresses.list": methods.list_addresses,
        "addresses.withdraw": methods.withdraw_address,
        "addresses.restore": methods.restore_address,
        "addresses.prefer": methods.prefer_address,
    }


class _Methods:
    """Parameters in, JSON out."""

    def __init__(self, node: EpdgNode) -> None:
        self._node = node

    async def status(self, params: Params) -> JsonValue:
        del params
        return {
            "node": self._node.configuration.node,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self._node.started,
            "fqdn": self._node.fqdn,
            "data_plane": self._node.backend.view,
            "listen": [str(endpoint) for endpoint in self._node.ports.local_endpoints],
            "sessions": len(self._node.live),
            "half_open": self._node.endpoint.half_open,
            "totals": dict(self._node.totals),
            "reasons": {name: dict(counted) for name, counted in self._node.reasons.items()},
            "dropped": {
                "ike": {str(k): v for k, v in self._dropped_ike().items()},
                "swu": {str(k): v for k, v in self._node.ports.dropped.items()},
                "esp": dict(
                    Counter({reason.value: number for reason, number in self._node.data_plane.drops.items()})
                    + self._node.carrier.dropped
                ),
                "tun": self._node.core.dropped,
                "diameter": {str(k): v for k, v in self._node.swm.dropped.items()},
            },
            "trace": {"esp": None if self._node.esp_tap is None else self._node.esp_tap.view},
            "addresses_in_use": {name: pool.in_use for name, pool in self._node.pools.items()},
        }

    def _dropped_ike(self) -> Counter[str]:
        dropped = self._node.endpoint.dropped + self._node.dropped_notifies
        for live in self._node.live.values():
            dropped.update(live.sa.dropped)
        return dropped

    async def list_sessions(self, params: Params) -> JsonValue:
        limit = params.get("limit", LIST_LIMIT)
        cursor = params.get("cursor")
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIST_LIMIT_MAXIMUM:
            raise ControlError("bad-params", f"limit: a whole number from 1 to {LIST_LIMIT_MAXIMUM}")
        if not (cursor is None or (isinstance(cursor, str) and cursor.isdecimal())):
            raise ControlError("bad-params", "cursor: what a previous answer gave as next")
        views = [self._node.view(live) for live in self._node.live.values()] + list(reversed(self._node.ended.values()))
        views = [view for view in views if _matches(view, params)]
        start = int(cursor) if cursor else 0
        page = views[start : start + limit]
        more = start + limit < len(views)
        return {"sessions": list(page), "next": str(start + limit) if more else None, "total": len(views)}

    async def get_session(self, params: Params) -> JsonValue:
        identifier = params.get("id")
        live = self._node.find(identifier)
        if live is not None:
            return self._node.view(live)
        if isinstance(identifier, str) and identifier in self._node.ended:
            return self._node.ended[identifier]
        raise ControlError("not-found", f"no session {identifier}")

    async def detach_session(self, params: Params) -> JsonValue:
        live = self._node.find(params.get("id"))
        if live is None:
            raise ControlError("not-found", f"no session {params.get('id')}")
        if live.session.state is SessionState.CLOSING:
            return {"id": live.session.identifier, "state": live.session.state.value}
        live.session.detach()
        self._node.endpoint.initiate(live.sa, DeleteIkeSa("detached by the operator"), self._node.now())
        self._node.pump()
        return {"id": live.session.identifier, "state": live.session.state.value}

    async def restore_p_cscf(self, params: Params) -> JsonValue:
        """P-CSCF restoration by its extended mechanism (TS 23.380 §5.6.5): other addresses, no new tunnel."""
        live = self._node.find(params.get("id"))
        if live is None:
            raise ControlError("not-found", f"no session {params.get('id')}")
        swu = live.sa.extension
        if not (isinstance(swu, GatewaySwu) and swu.p_cscf_reselection):
            raise ControlError("not-possible", "the UE did not announce P_CSCF_RESELECTION_SUPPORT")
        commands = live.session.restore_p_cscf(_addresses(params.get("addresses")))
        if not commands:
            raise ControlError("not-possible", "the UE is not attached, or asked for no P-CSCF of these IP versions")
        self._node.carry_out(live, commands)
        return {"id": live.session.identifier, "state": live.session.state.value}

    async def rekey_ike(self, params: Params) -> JsonValue:
        """RFC 7296 §1.3.2; the answer says that it has begun."""
        live = self._established(params)
        self._node.endpoint.initiate(live.sa, RekeyIke(), self._node.now())
        self._node.pump()
        return {"id": live.session.identifier}

    async def rekey_child(self, params: Params) -> JsonValue:
        """RFC 7296 §1.3.3: the child SA with this inbound SPI, without one all of them."""
        live = self._established(params)
        wanted = params.get("inbound_spi")
        spis = [spi for spi, child in live.sa.children.items() if not child.replaced and wanted in (None, spi.hex())]
        if not spis:
            raise ControlError("not-found", f"no child SA {wanted} in session {live.session.identifier}")
        for spi in spis:
            self._node.endpoint.initiate(live.sa, RekeyChild(spi), self._node.now())
        self._node.pump()
        return {"id": live.session.identifier, "inbound_spis": [spi.hex() for spi in spis]}

    async def reauthenticate(self, params: Params) -> JsonValue:
        """RFC 4478 §2: the UE has so many seconds to authenticate anew, none: it is to begin at once."""
        live, lifetime = self._established(params), params.get("lifetime", 0)
        if not isinstance(lifetime, int | float) or isinstance(lifetime, bool) or not 0 <= lifetime <= LIFETIME_MAXIMUM:
            raise ControlError("bad-params", f"lifetime is a number of seconds from 0 to {LIFETIME_MAXIMUM}")
        self._node.endpoint.initiate(live.sa, AuthenticationLifetime(lifetime), self._node.now())
        self._node.pump()
        return {"id": live.session.identifier}

    def _established(self, params: Params) -> Live:
        live = self._node.find(params.get("id"))
        if live is None:
            raise ControlError("not-found", f"no session {params.get('id')}")
        if live.session.state is not SessionState.ESTABLISHED:
            raise ControlError("not-now", f"session {live.session.identifier} is {live.session.state.value}")
        return live

    async def list_addresses(self, params: Params) -> JsonValue:
        del params
        return self._node.addresses.view()

    async def withdraw_address(self, params: Params) -> JsonValue:
        """Lose an address: its ports close; UEs are told, or with ``silently`` have to find out."""
        address = self._node.addresses.named(params)
        silently = params.get("silently", False)
        if not isinstance(silently, bool):
            raise ControlError("bad-params", "silently is true or false")
        self._node.addresses.withdraw(address)
        self._node.close_ports(address)
        text = f"The gateway has lost {address}{' without a word' if silently else ''}."
        self._node.recorder.event("address-withdrawn", text, {"address": str(address), "silently": silently})
        if not silently:
            self._tell_everybody()
        return self._node.addresses.view()

    async def restore_address(self, params: Params) -> JsonValue:
        """Have an address again."""
        address = self._node.addresses.named(params)
        if address in self._node.addresses.withdrawn:
            self._node.open_ports(address)
            self._node.addresses.restore(address)
            self._node.recorder.event(
                "address-restored", f"The gateway has {address} again.", {"address": str(address)}
            )
            self._tell_everybody()
        return self._node.addresses.view()

    async def prefer_address(self, params: Params) -> JsonValue:
        """Ask one session, or all of them, to use an address (RFC 4555 §3.6)."""
        address = self._node.addresses.named(params)
        if address in self._node.addresses.withdrawn:
            raise ControlError("not-found", f"the gateway has lost {address}")
        chosen = list(self._node.live.values())
        if params.get("id") is not None:
            one = self._node.find(params.get("id"))
            if one is None:
                raise ControlError("not-found", f"no session {params.get('id')}")
            chosen = [one]
        for live in chosen:
            self._node.tell_addresses(live, prefer=address)
        self._node.pump()
        return self._node.addresses.view()

    def _tell_everybody(self) -> None:
        for live in list(self._node.live.values()):
            self._node.tell_addresses(live)
        self._node.pump()

    async def redirect_session(self, params: Params) -> JsonValue:
        """RFC 5685 §5: the UE is told to go to another gateway, and deletes the session itself."""
        live = self._node.find(params.get("id"))
        if live is None:
            raise ControlError("not-found", f"no session {params.get('id')}")
        gateway = params.get("gateway")
        try:
            target = RedirectSection.model_validate({"gateway": gateway}).gateway
        except ValueError:
            raise ControlError("bad-params", "gateway: an address or a domain name") from None
        if live.session.state is not SessionState.ESTABLISHED:
            raise ControlError("not-possible", f"the session is {live.session.state.value}")
        try:
            task = RedirectPeer(live.sa, target)
        except LocalError as error:
            raise ControlError("not-possible", str(error)) from error
        self._node.endpoint.initiate(live.sa, task, self._node.now())
        self._node.pump()
        return {"id": live.session.identifier, "gateway": str(target)}

    async def host_log(self, params: Params) -> JsonValue:
        ssrc = params.get("ssrc")
        if not isinstance(ssrc, int) or isinstance(ssrc, bool):
            raise ControlError("bad-params", "ssrc is the number of a voice call, as ue.traffic.start gives it")
        call = self._node.core.call(ssrc)
        if call is None:
            raise ControlError("not-found", f"no host behind the gateway has had a voice call {ssrc}")
        offset = self._node.wall_offset
        since, until = (_moment(params, name, offset) for name in ("since", "until"))
        return {
            "ssrc": ssrc,
            "running": call.running,
            "sent": [[sequence, moment + offset] for sequence, moment in call.sent_log(since, until)],
            "received": [[sequence, moment + offset] for sequence, moment in call.received_log(since, until)],
        }

    async def list_peers(self, params: Params) -> JsonValue:
        del params
        return {"peers": self._node.swm.peers()}


def _addresses(value: JsonValue) -> tuple[Address, ...]:
    listed = value if isinstance(value, list) else []
    try:
        if listed:
            return tuple(ip_address(str(each)) for each in listed)
    except ValueError:
        pass
    raise ControlError("bad-params", "addresses: a list of IP addresses")


def _moment(params: Params, name: str, offset: float) -> float | None:
    value = params.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ControlError("bad-params", f"{name} is seconds since 1970-01-01 UTC")
    return value - offset


def _matches(view: dict[str, JsonValue], params: Params) -> bool:
    for name in ("imsi", "apn", "state"):
        wanted = params.get(name)
        if wanted is not None and view[name] != wanted:
            return False
    address = params.get("address")
    if address is None:
        return True
    inner = view["inner_addresses"]
    ike = view["ike"]
    remote = ike["path"]["remote"] if isinstance(ike, dict) and isinstance(ike["path"], dict) else ""
    return (isinstance(inner, list) and address in inner) or str(remote).rpartition(":")[0].strip("[]") == address
