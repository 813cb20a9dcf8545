"""What the procedures of a PDN connection share: its state, the attach under way or done, open accesses, the end."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from protocols.errors import LocalError
from protocols.ikev2.events import EapReply
from protocols.ikev2.ticket import ResumableSession
from protocols.threegpp.identity import Imsi
from protocols.trace.records import JsonValue
from ue.authentication import Authenticator, EmergencyAuthenticator
from ue.backoff import BackOff
from ue.commands import (
    AccessPorts,
    AnswerIke,
    CloseAccess,
    Command,
    DeleteSa,
    Finished,
    Procedure,
    RemoveChildSa,
    StopHost,
    Tell,
)
from ue.connection import Connection
from ue.reauthentication import Reauthentication
from ue.selection import Barred


class DeviceState(str, Enum):
    """Where the connection is in its life."""

    IDLE = "idle"
    ATTACHING = "attaching"
    ESTABLISHED = "established"
    CLOSING = "closing"
    CLOSED = "closed"

    @property
    def words(self) -> str:
        """For a sentence that begins with "the UE is"."""
        return {
            DeviceState.IDLE: "not attached",
            DeviceState.ATTACHING: "attaching",
            DeviceState.ESTABLISHED: "attached",
            DeviceState.CLOSING: "detaching",
            DeviceState.CLOSED: "detached",
        }[self]


class PdnContext:
    """State of one PDN connection.

    ``open``: the ports of the accesses that are open. ``session``: a ticket to resume with. ``barred``: gateways and
    networks that have refused the UE for good, ``back_off``: how long it stays away. ``reauthentication``: the second
    IKE SA, while it authenticates anew.
    """

    def __init__(
        self,
        *,
        imsi: Imsi,
        apn: str,
        authenticator: Authenticator | EmergencyAuthenticator,
        back_off: BackOff | None,
    ) -> None:
        self.imsi = imsi
        self.apn = apn
        self.authenticator = authenticator
        self.state = DeviceState.IDLE
        self.connection: Connection | None = None
        self.open: dict[str, AccessPorts] = {}
        self.session: ResumableSession | None = None
        self.barred = Barred()
        self.back_off = back_off
        self.reauthentication: Reauthentication | None = None

    def begin(self, access: str, ticket: int | None, now: float) -> Connection:
        """A new attach, with an authentication of its own, in the place of what was before."""
        self.connection = Connection(access, ticket, self.authenticator.begin(_answer), now)
        return self.connection

    def established(self) -> Connection:
        """The connection, if it is up and stays; ``LocalError``."""
        if self.connection is None or self.state is not DeviceState.ESTABLISHED:
            raise LocalError(f"the UE is {self.state.words}")
        if self.connection.deleting:
            raise LocalError(f"the UE is {DeviceState.CLOSING.words}")
        return self.connection

    def close_access(self, access: str) -> list[Command]:
        """Close the ports of an open access."""
        del self.open[access]
        return [CloseAccess(access=access)]

    def abandon_reauthentication(self, why: str) -> list[Command]:
        """Let the second IKE SA go, if one is authenticating anew."""
        attempt, self.reauthentication = self.reauthentication, None
        return [] if attempt is None else attempt.abandon(why)

    def fail_attach(
        self,
        connection: Connection,
        cause: str,
        text: str,
        *,
        by_peer: bool = False,
        reason: str = "",
        facts: Mapping[str, JsonValue] | None = None,
    ) -> list[Command]:
        """Nothing if the attach is over already. ``reason`` and ``facts`` say it to programs."""
        ticket, connection.attach_ticket = connection.attach_ticket, None
        goes_on = connection.established is None and (connection.trail is not None or connection.reactivations > 0)
        if ticket is None and not goes_on:
            return []
        followed = connection.last_error is not None  # told already
        if ticket is None and followed:
            return []
        connection.last_error = (cause, text)
        return [
            Tell(
                name="refused",
                text=f"The attach to {self.apn} on {connection.access} failed: {text}.",
                data={"cause": cause, "text": text, "by_peer": by_peer, "reason": reason, "facts": dict(facts or {})},
            ),
            *(() if ticket is None else (Finished(procedure=Procedure.ATTACH, ticket=ticket, failure=text),)),
        ]

    def give_up(self, connection: Connection, cause: str, text: str, reason: str = "") -> list[Command]:
        """This end finds something wrong during the attach."""
        commands = self.fail_attach(connection, cause, text, by_peer=False, reason=reason or cause)
        self.state = DeviceState.CLOSING
        return [*commands, DeleteSa(why=text)]

    def end(self, connection: Connection, now: float) -> list[Command]:
        """Nothing of the connection is left but the memory of it."""
        self.state = DeviceState.CLOSED
        connection.ended = now
        if connection.paths:
            connection.paths[-1].until = now
        commands = self.abandon_reauthentication("the connection has ended")
        commands += remove_children(connection)
        if connection.addresses:
            commands.append(StopHost())
        for access in list(self.open):
            commands += self.close_access(access)
        if connection.detach_ticket is not None:
            commands.append(Finished(procedure=Procedure.DETACH, ticket=connection.detach_ticket))
            connection.detach_ticket = None
        return commands


def remove_children(connection: Connection) -> list[Command]:
    """Those of an IKE SA that was replaced and waits for the answer to its DELETE: nobody hears of it any more."""
    left = list(connection.children)
    connection.children.clear()
    return [RemoveChildSa(inbound_spi=spi) for spi in left]


def _answer(reply: EapReply) -> Command:
    return AnswerIke(answer=reply)
