"""Redirects that the UE obeys: the attach goes on at another gateway (RFC 5685)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from protocols.ikev2.events import Redirected
from protocols.ikev2.redirection import RedirectStage
from protocols.names import Resolution
from protocols.path import Address
from protocols.trace.records import JsonValue
from ue.attaching import Attaching
from ue.commands import Command, DeleteSa, OpenAccess, StopHost, Tell
from ue.connection import Connection, Onward
from ue.context import DeviceState, PdnContext, remove_children
from ue.selection import Selection


class Redirects:
    """``gateways``: addresses of those that a redirect may name. ``resolves``: other names can be looked up."""

    def __init__(
        self, context: PdnContext, attaching: Attaching, *, gateways: Mapping[str, Address], resolves: bool
    ) -> None:
        self._context = context
        self._attaching = attaching
        self._gateways = gateways
        self._resolves = resolves

    def received(self, connection: Connection, event: Redirected) -> list[Command]:
        """The gateway sends the UE elsewhere."""
        where = self._attaching.configured if connection.gateway is None else connection.gateway
        data: dict[str, JsonValue] = {"gateway": str(event.gateway), "stage": event.stage.value}
        established = event.stage is RedirectStage.ESTABLISHED
        local = self._context.open.get(connection.access)
        version = None if local is None else local.ike.address.version
        name = event.gateway if isinstance(event.gateway, str) else None
        target = self._gateways.get(name) if name is not None else event.gateway
        assert not isinstance(target, str)
        selection = None if established else connection.selection
        if name is not None and target is None and self._resolves and version is not None:
            selection = Selection.of_name(name, version, f"redirected to {name}")
        elif target is None or target.version != version:
            why = "its address is not known" if target is None else f"the UE has no IPv{target.version} access"
            text = f"The gateway {where} sends the UE to {event.gateway}, but {why}."
            return [Tell(name="redirect-ignored", text=text, data={**data, "why": why})]
        # An unauthenticated redirect does not say whose certificate will do
        trusted = name is not None and event.stage is not RedirectStage.INIT
        names = (*connection.names, *((name,) if name is not None and trusted else ()))
        onward = Onward(gateway=target, trail=event.trail, selection=selection, names=names)
        if established and target is None and selection is not None:
            connection.pending = onward  # looked up first: an SA that works is not given up for a dead name
            return [*selection.begin()]
        connection.redirect = onward
        text = f"The gateway {where} sends the UE to {event.gateway} ({event.stage.value})."
        commands: list[Command] = [Tell(name="redirected", text=text, data=data)]
        if established:
            commands.append(DeleteSa(why=f"redirected to {event.gateway}"))  # §5: SHOULD
        return commands

    def resolved(self, connection: Connection, pending: Onward, resolution: Resolution) -> list[Command]:
        """The name of a redirect's gateway was looked up while the SA lives on."""
        selection = pending.selection
        if selection is None or selection.asks != resolution.name:
            return []
        connection.pending = None
        where = self._attaching.configured if connection.gateway is None else connection.gateway
        data: dict[str, JsonValue] = {"gateway": resolution.name, "stage": RedirectStage.ESTABLISHED.value}
        commands: list[Command] = [*selection.resolved(resolution)]
        if selection.candidate is None:
            why = selection.verdict
            text = f"The gateway {where} sends the UE to {resolution.name}, but {why}."
            return [*commands, Tell(name="redirect-ignored", text=text, data={**data, "why": why})]
        connection.redirect = replace(pending, gateway=selection.candidate.address)
        text = f"The gateway {where} sends the UE to {resolution.name} ({RedirectStage.ESTABLISHED.value})."
        told = Tell(name="redirected", text=text, data=data)
        return [*commands, told, DeleteSa(why=f"redirected to {resolution.name}")]

    def follow(self, former: Connection, onward: Onward, now: float) -> list[Command]:
        """The SA that was redirected or refused is gone: the attach goes on, or begins anew, where it was told to."""
        former.ended = now
        commands = self._context.abandon_reauthentication("the connection has ended")
        commands += remove_children(former)
        if former.addresses:
            commands.append(StopHost())
        connection = self._context.begin(former.access, former.attach_ticket, now)
        connection.gateway, connection.trail = onward.gateway, onward.trail
        connection.selection, connection.names = onward.selection, onward.names
        connection.nat_refusals = former.nat_refusals
        connection.previous = former.previous
        self._context.connection = connection
        self._context.session = None
        self._context.state = DeviceState.ATTACHING
        if former.access not in self._context.open:
            return [*commands, OpenAccess(access=former.access)]
        return commands + self._attaching.reach(connection, now)
