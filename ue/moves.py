"""Moves of an established connection, suspension, and the search for another path (RFC 4555 §3.5, §3.8, §3.10).

A move closes the old access before it opens the new one (break before make) unless it is told to keep it: then the
UE still hears there, and can go back when the new access turns out to be deaf.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocols.errors import LocalError
from protocols.ikev2.events import AddressesUpdated, AddressUpdateFailed
from protocols.path import Endpoint, Path
from protocols.trace.records import JsonValue
from ue.commands import Command, Finished, MoveSa, OpenAccess, Procedure, SuspendSa, Tell, UseAddresses
from ue.connection import Connection, Move, MoveOutcome, PathUse
from ue.context import DeviceState, PdnContext
from ue.sentences import moved, nat_changed

MOVES_KEPT = 100


class Moves:
    """Where the connection is; ``accesses``: those to look for another path on when the one in use fails.

    ``other_versions``: by IP version, where the gateway has NAT traversal. ``by_rekey``: it can move without MOBIKE.
    """

    def __init__(
        self,
        context: PdnContext,
        *,
        accesses: tuple[str, ...],
        other_versions: Mapping[int, Endpoint],
        by_rekey: bool,
    ) -> None:
        self._context = context
        self._accesses = accesses
        self._other_versions = other_versions
        self._by_rekey = by_rekey

    @property
    def possible(self) -> bool:
        """Whether the connection can go to another access at all."""
        connection = self._context.connection
        return connection is not None and (connection.mobike or self._by_rekey)

    def move(
        self, access: str, ticket: int, now: float, *, keep_old: bool = False, again: bool = False
    ) -> list[Command]:
        """Move to another access; a move that is under way is superseded.

        ``again``: to the same access is allowed, its address is another one.
        """
        connection = self._context.established()
        if not connection.mobike and not self._by_rekey:
            raise LocalError("the gateway does not support MOBIKE: the UE cannot move")
        under_way = connection.move
        origin = connection.access if under_way is None else under_way.target
        if access == origin and not connection.suspended and not again:
            raise LocalError(f"the UE is on {access} already")
        commands = self._context.abandon_reauthentication("the UE moves")
        if under_way is not None:
            commands += self.end(under_way, MoveOutcome.SUPERSEDED, f"superseded by a move to {access}", now)
        closes = not keep_old and origin in self._context.open
        move = self._begin(connection, origin, access, ticket, now, closed_old=closes)
        if closes:
            commands += self._context.close_access(origin)
        if access in self._context.open:
            return commands + self._send_update(connection, move, now)
        return [*commands, OpenAccess(access=access)]

    def suspend(self, now: float) -> list[Command]:
        """Leave every access and be nowhere; ``move`` comes back, to the same access or another one."""
        connection = self._context.established()
        if not connection.mobike:
            raise LocalError("the gateway does not support MOBIKE: the UE cannot come back from a pause")
        if connection.suspended and connection.move is None:
            raise LocalError("the UE is suspended already")
        commands = self._context.abandon_reauthentication("the UE has no access any more")
        if connection.move is not None:
            commands += self.end(connection.move, MoveOutcome.FAILED, "the UE has no access any more", now)
        connection.suspended = True
        connection.testing = set()
        commands.append(SuspendSa())
        for access in list(self._context.open):
            commands += self._context.close_access(access)
        text = f"Suspended: no access any more; it was {connection.access}."
        return [*commands, Tell(name="suspended", text=text, data={"access": connection.access})]

    def recheck(self) -> list[Command]:
        """Tell the gateway of the addresses in use once more: there may be a NAT now, or none (RFC 4555 §3.8)."""
        connection = self._context.established()
        move = connection.move
        path = connection.path if move is None else move.new
        nowhere = connection.suspended and move is None
        if not connection.mobike or nowhere or path is None:
            return []
        return [MoveSa(access=connection.access if move is None else move.target, path=path)]

    def access_opened(self, connection: Connection, access: str, now: float) -> list[Command]:
        """The ports that a move or the search for another path waits for are open."""
        if connection.move is not None and connection.move.target == access:
            return self._send_update(connection, connection.move, now)
        if access in connection.testing:
            return [self._use_open(connection)]
        return []

    def access_failed(self, connection: Connection, access: str, why: str, now: float) -> list[Command]:
        """They cannot be opened."""
        move = connection.move
        if move is None or move.target != access:
            return []
        commands = self.end(move, MoveOutcome.FAILED, why, now)
        return commands if move.ticket is None else commands + self._go_back(connection, move, now)

    def _begin(
        self, connection: Connection, origin: str, target: str, ticket: int | None, now: float, *, closed_old: bool
    ) -> Move:
        assert connection.path is not None
        requests, retransmissions = connection.counts
        connection.move = Move(
            origin=origin,
            target=target,
            old=connection.path,
            started=now,
            ticket=ticket,
            closed_old=closed_old,
            before=connection.identifiers,
            requests_before=requests,
            retransmissions_before=retransmissions,
        )
        connection.moves.append(connection.move)
        del connection.moves[:-MOVES_KEPT]
        return connection.move

    def _send_update(self, connection: Connection, move: Move, now: float) -> list[Command]:
        """To the gateway's address in use, or to one that it has told of in the access's IP version."""
        assert connection.path is not None
        local, remote = self._context.open[move.target].nat_traversal, connection.path.remote
        addresses = (remote.address, *connection.gateway_addresses)
        fitting = [address for address in addresses if address.version == local.address.version]
        known = self._other_versions.get(local.address.version)
        gone = all(ports.nat_traversal != move.old.local for ports in self._context.open.values())
        if not fitting and known is not None:
            move.new = Path(local, known)
            return [MoveSa(access=move.target, path=move.new, old_gone=gone)]
        if not fitting:
            why = f"the gateway has told of no IPv{local.address.version} address"
            commands = self.end(move, MoveOutcome.FAILED, why, now)
            return commands if move.ticket is None else commands + self._go_back(connection, move, now)
        move.new = Path(local, Endpoint(fitting[0], remote.port))
        return [MoveSa(access=move.target, path=move.new, old_gone=gone)]

    # --- paths that fail and paths that are found (RFC 4555 §3.10)

    def suspected(self, connection: Connection) -> list[Command]:
        """The path is silent: open what else there is. During a move try what is open: the way back, if it was kept."""
        if self._context.state is not DeviceState.ESTABLISHED:
            return []
        move = connection.move
        if move is not None and (connection.suspended or self._context.open.keys() <= {move.target}):
            return []
        if move is not None:
            text = f"Nothing is heard on {move.target}; {move.origin} is being tried as well."
            tell = Tell(name="path-suspected", text=text, data=_suspicion(connection, move.target))
            return [tell, self._use_open(connection)]
        others = [access for access in self._accesses if access not in self._context.open]
        connection.testing |= set(others)
        text = f"Nothing is heard on {connection.access}; other paths are being tried."
        tell = Tell(name="path-suspected", text=text, data=_suspicion(connection, connection.access))
        return [tell, self._use_open(connection), *(OpenAccess(access=access) for access in others)]

    def _use_open(self, connection: Connection) -> Command:
        """The addresses of all open accesses, in the order of the configuration, that in use first."""
        assert connection.path is not None
        order = [access for access in self._accesses if access in self._context.open]
        endpoints = [self._context.open[access].nat_traversal for access in order]
        return UseAddresses(addresses=tuple(dict.fromkeys((connection.path.local, *endpoints))))

    def end_test(self, connection: Connection) -> list[Command]:
        """A path is found, or the old one answers again: close what was opened for the test only."""
        tested, connection.testing = connection.testing, set()
        commands: list[Command] = [] if not self._accesses else [UseAddresses(addresses=None)]
        for access in list(self._context.open):
            if access != connection.access and access in tested:
                commands += self._context.close_access(access)
        return commands

    def _found(self, connection: Connection, event: AddressesUpdated, now: float) -> list[Command]:
        """The IKE SA has moved by itself: to another access, or to another address of the gateway."""
        access = next(
            (name for name, ports in self._context.open.items() if ports.nat_traversal == event.new.local), None
        )
        if connection.move is not None:
            why = f"another path answered: {event.new}"
            failed = connection.move
            ended = self.end(failed, MoveOutcome.FAILED, why, now)
            ended += self._found(connection, event, now) + self.end_test(connection)
            leaves = failed.target != connection.access and failed.target in self._context.open
            return ended + (self._context.close_access(failed.target) if leaves else [])
        if event.new != event.old:
            abandoned = self._context.abandon_reauthentication("the UE moves")
            if abandoned:
                return abandoned + self._found(connection, event, now)
        if access is not None and access != connection.access:
            move = self._begin(connection, connection.access, access, None, now, closed_old=False)
            move.old, move.new = event.old, event.new
            return self._complete(connection, move, event, now)
        if event.new.remote == event.old.remote:
            return []  # the same addresses, told again because a NAT has changed
        if connection.paths:
            connection.paths[-1].until = now
        connection.paths.append(PathUse(path=event.new, access=connection.access, since=now, why="gateway address"))
        del connection.paths[:-MOVES_KEPT]
        text = f"The gateway is used at {event.new.remote} now, no longer at {event.old.remote}."
        data: dict[str, JsonValue] = {"old": str(event.old.remote), "new": str(event.new.remote)}
        return [Tell(name="gateway-address-changed", text=text, data=data), *self.end_test(connection)]

    def updated(self, connection: Connection, event: AddressesUpdated, now: float) -> list[Command]:
        """The IKE SA is on a path: that of the move, or one that it has found by itself."""
        move, behind = connection.move, connection.nat.local
        connection.path, connection.nat = event.new, event.nat
        if move is not None and move.new is None:
            return []  # its access is being opened: the update will follow
        if move is None or move.new != event.new:
            told = [nat_changed(connection)] if event.new == event.old and behind != event.nat.local else []
            return told + self._found(connection, event, now)
        return self._complete(connection, move, event, now)

    def _complete(self, connection: Connection, move: Move, event: AddressesUpdated, now: float) -> list[Command]:
        connection.suspended = False
        move.nat = event.nat
        move.update_interval = now - move.started
        connection.access = move.target
        if connection.paths:
            connection.paths[-1].until = now
        why = "moved behind a NAT" if event.nat.local else "moved"
        connection.paths.append(PathUse(path=event.new, access=move.target, since=now, why=why))
        del connection.paths[:-MOVES_KEPT]
        commands = self.end(move, MoveOutcome.COMPLETED, None, now)
        if move.ticket is None and move.origin in self._context.open:
            commands += self._context.close_access(move.origin)
        if connection.testing:
            commands += self.end_test(connection)
        return commands

    def update_refused(self, connection: Connection, event: AddressUpdateFailed, now: float) -> list[Command]:
        """The gateway does not agree, or does not answer."""
        move = connection.move
        if move is None or move.new != event.new:
            return []
        commands = self.end(move, MoveOutcome.FAILED, event.why, now)
        return commands if move.ticket is None else commands + self._go_back(connection, move, now)

    def _go_back(self, connection: Connection, failed: Move, now: float) -> list[Command]:
        """Return to the access that the failed move came from; the gateway may have seen the other one."""
        if connection.deleting:
            return []
        if connection.suspended:  # there is nowhere to go back to
            left = list(self._context.open)
            return [SuspendSa(), *(each for access in left for each in self._context.close_access(access))]
        move = self._begin(connection, failed.target, failed.origin, None, now, closed_old=False)
        if failed.origin in self._context.open:
            if failed.new is None and self._context.open[failed.origin].nat_traversal == failed.old.local:
                connection.moves.remove(move)  # nothing was sent from elsewhere: nothing to undo
                connection.move = None
                return []
            return self._send_update(connection, move, now)
        return [OpenAccess(access=failed.origin)]

    def end(self, move: Move, outcome: MoveOutcome, why: str | None, now: float) -> list[Command]:
        """Take the measures and tell."""
        connection = self._context.connection
        assert connection is not None
        connection.move = None
        requests, retransmissions = connection.counts
        after = connection.identifiers
        move.outcome, move.why = outcome, why
        move.requests = requests - move.requests_before
        move.retransmissions = retransmissions - move.retransmissions_before
        move.inner_address_unchanged = after.addresses == move.before.addresses
        move.spis_unchanged = after.spis == move.before.spis
        commands: list[Command] = [moved(move, now)]
        if move.ticket is not None:
            failure = None
            if outcome is not MoveOutcome.COMPLETED:
                failure = f"the move from {move.origin} to {move.target} failed: {why}"
            commands.append(Finished(procedure=Procedure.MOVE, ticket=move.ticket, failure=failure))
        return commands


def _suspicion(connection: Connection, access: str) -> dict[str, JsonValue]:
    silence = connection.silence
    return {"access": access, "silence": None if silence is None else round(silence, 3)}
