"""An attach on its way: to the gateway configured or selected, past refusals (TS 23.402 §4.5.4, TS 24.302 §7.2)."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from protocols.algorithms.usim import UsimResult
from protocols.errors import RemoteError
from protocols.ikev2.events import EapRequestReceived, Established, Refused
from protocols.ikev2.registry import NotifyType
from protocols.path import Endpoint
from protocols.threegpp.causes import AUTHENTICATION_FAILED, notify_name
from ue.backoff import BackOff
from ue.commands import Command, Connect, DeleteSa, Finished, KeepBackOff, OpenAccess, Procedure, StartHost, Tell
from ue.configuration import Granted
from ue.connection import Connection, Onward, PathUse
from ue.context import DeviceState, PdnContext
from ue.retry import Bar, RetryPolicy
from ue.selection import Barred, Selection, SelectionCommand
from ue.sentences import attached, not_handed_over

NAT_REFUSALS_MAXIMUM = 3  # RFC 4555 §3.9: "several times"
IKE_PORT = 500  # RFC 7296 §2.23
EAP_FAILED = "eap-failed"


class Attaching:
    """Which gateway is asked, and what its refusals mean; the arguments are ``Device``'s."""

    def __init__(
        self,
        context: PdnContext,
        *,
        gateway: Endpoint | None,
        gateway_port: int,
        select: Callable[[int, Barred], Selection] | None,
        patience: float | None,
        retry: RetryPolicy,
    ) -> None:
        self._context = context
        self._gateway = gateway
        self._gateway_port = gateway_port if gateway is None else gateway.port
        self._select = select
        self._patience = patience
        self._retry = retry

    @property
    def configured(self) -> Endpoint | None:
        """Where the gateway is by configuration; ``None``: it has to be selected."""
        return self._gateway

    def unreachable(self, gateway: Endpoint) -> list[Command]:
        """ICMP says that nobody is there: enough to try another gateway, not to end anything (RFC 7296 §2.4)."""
        connection = self._context.connection
        if connection is None or self._context.state is not DeviceState.ATTACHING or connection.selection is None:
            return []
        if connection.gateway != gateway.address or connection.heard or connection.turned_away is not None:
            return []
        connection.turned_away = "ICMP says that it cannot be reached"
        return [DeleteSa(why=connection.turned_away)]

    def reach(self, connection: Connection, now: float) -> list[Command]:
        """Connect to the gateway, or find one first."""
        if connection.gateway is not None:
            return [self._connect(connection)]
        selection = connection.selection
        if selection is None and self._select is not None:
            version = self._context.open[connection.access].ike.address.version
            selection = connection.selection = self._select(version, self._context.barred)
        if selection is None:
            return [self._connect(connection)]
        return self.advance(connection, selection, [] if selection.begun else selection.begin(), now)

    def advance(
        self, connection: Connection, selection: Selection, told: list[SelectionCommand], now: float
    ) -> list[Command]:
        """The selection has made a step: to a gateway, to its end, or it waits for an answer."""
        commands: list[Command] = [*told]
        candidate = selection.candidate
        if candidate is not None:
            connection.gateway = candidate.address
            if not selection.of_redirect:
                connection.names = () if candidate.name is None else (candidate.name,)
            return [*commands, self._connect(connection)]
        if not selection.over:
            return commands
        connection.for_good = not selection.temporary
        connection.unanswered = selection.temporary and connection.cause is None
        cause = "no gateway" if connection.cause is None else notify_name(connection.cause)
        return [
            *commands,
            *self._context.fail_attach(connection, cause, selection.verdict),
            *self._context.end(connection, now),
        ]

    def elsewhere(self, former: Connection, selection: Selection, why: str, now: float) -> list[Command]:
        """The gateway does not serve: the attach goes on with the next, or fails with all that were tried."""
        former.ended = now
        told = selection.failed(why)
        connection = self._context.begin(former.access, former.attach_ticket, former.started)
        connection.selection, connection.cause = selection, former.cause
        connection.reactivations, connection.previous = former.reactivations, former.previous
        connection.patience = former.patience
        connection.trail, connection.names = former.trail, former.names
        self._context.connection = connection
        self._context.session = None
        if former.access not in self._context.open and selection.candidate is not None:
            return [*told, OpenAccess(access=former.access)]
        return self.advance(connection, selection, told, now)

    def _connect(self, connection: Connection) -> Connect:
        """Start the SA; a ticket is presented once (RFC 5723 §4.3.1)."""
        session, self._context.session = self._context.session, None
        connection.resumes = session is not None
        return Connect(
            access=connection.access,
            identity=connection.authentication.identity,
            gateway=connection.gateway,
            trail=connection.trail,
            session=session,
            previous_addresses=connection.previous,
            names=connection.names,
            patience=self._patience_of(connection),
        )

    def _patience_of(self, connection: Connection) -> float | None:
        """For the gateway's first answer: bounded where there is another gateway, or another access."""
        bounds = (connection.patience, None if connection.selection is None else self._patience)
        return min((bound for bound in bounds if bound is not None), default=None)

    def where(self, connection: Connection) -> Endpoint | None:
        """The gateway that this connection is for."""
        if connection.gateway is None:
            return self._gateway
        return Endpoint(connection.gateway, self._gateway_port)

    # --- proof of identity, inner addresses

    def eap_request(self, connection: Connection, event: EapRequestReceived) -> list[Command]:
        """EAP asks something."""
        if self._context.state is not DeviceState.ATTACHING:
            return []
        used = connection.authentication.identity_given() if connection.resumes else []
        connection.resumes = False  # the ticket was not taken
        return self._unless_over(connection, [*used, *connection.authentication.receive(event.packet)])

    def usim_answered(self, result: UsimResult) -> list[Command]:
        """The USIM's verdict on the challenge."""
        connection = self._context.connection
        if connection is None or self._context.state is not DeviceState.ATTACHING:
            return []
        return self._unless_over(connection, connection.authentication.usim_answered(result))

    def usim_failed(self, why: str) -> list[Command]:
        """The USIM gives no verdict."""
        connection = self._context.connection
        if connection is None or self._context.state is not DeviceState.ATTACHING:
            return []
        return self._context.give_up(connection, "usim", f"the USIM failed: {why}")

    def _unless_over(self, connection: Connection, commands: list[Command]) -> list[Command]:
        """What the exchange asks for, and the end of the attach where it goes no further."""
        problem = connection.authentication.problem
        return (
            commands
            if problem is None
            else commands + self._context.give_up(connection, problem.cause, problem.text, EAP_FAILED)
        )

    def established(self, connection: Connection, event: Established, now: float) -> list[Command]:
        """The IKE SA is up; the UE is attached once its inner addresses are in use."""
        if self._context.state is not DeviceState.ATTACHING:
            return []
        self._context.state = DeviceState.ESTABLISHED
        connection.established = now
        connection.attach_interval = now - connection.started
        connection.attach_requests, connection.attach_retransmissions = connection.counts
        connection.mobike, connection.nat, connection.path = event.mobike, event.nat, event.path
        connection.paths.append(PathUse(path=event.path, access=connection.access, since=now, why="attach"))
        try:
            granted = Granted.of(event.configuration)
        except RemoteError as error:
            return self._context.give_up(connection, "configuration", str(error))
        connection.addresses, connection.dns, connection.p_cscf = granted.addresses, granted.dns, granted.p_cscf
        connection.granted = granted
        outside = [each for each in granted.addresses if each in (event.path.local.address, event.path.remote.address)]
        if outside:  # what is sent to the gateway would never leave the UE, or come back by it
            text = f"the gateway assigned {outside[0]}, which is an end of the tunnel"
            return self._context.give_up(connection, "configuration", text)
        if not connection.addresses:
            return self._context.give_up(connection, "configuration", "the gateway assigned no inner address")
        welcome: list[Command] = [] if self._context.back_off is None else [KeepBackOff(back_off=None)]
        self._context.back_off = None
        return [*welcome, StartHost(addresses=connection.addresses)]

    def host_started(self) -> list[Command]:
        """The inner addresses are in use: the UE is attached."""
        connection = self._context.connection
        if connection is None or self._context.state is not DeviceState.ESTABLISHED or connection.path is None:
            return []
        commands: list[Command] = [attached(connection, connection.path, self._context.imsi, self._context.apn)]
        if connection.handed_over is False:
            commands.append(not_handed_over(connection, self._context.apn))
        if connection.attach_ticket is not None:
            commands.append(Finished(procedure=Procedure.ATTACH, ticket=connection.attach_ticket))
            connection.attach_ticket = None
        return commands

    def host_failed(self, why: str) -> list[Command]:
        """The inner addresses cannot be used."""
        connection = self._context.connection
        if connection is None or self._context.state is not DeviceState.ESTABLISHED:
            return []
        return self._context.give_up(connection, "host", why)

    # --- refusals

    def refused(self, connection: Connection, event: Refused, now: float) -> list[Command]:
        """The gateway refuses, or is not accepted by the UE."""
        number = None if event.notify is None else int(event.notify.type)
        cause = "gateway refused" if number is None else notify_name(number)
        attaching = self._context.state is DeviceState.ATTACHING
        if (
            number == NotifyType.UNEXPECTED_NAT_DETECTED
            and attaching
            and connection.nat_refusals < NAT_REFUSALS_MAXIMUM
        ):
            # RFC 4555 §3.9: "SHOULD retry IKE_SA establishment several times, starting from a new IKE_SA_INIT"
            connection.nat_refusals += 1
            connection.redirect = Onward(
                gateway=connection.gateway,
                trail=connection.trail,
                selection=connection.selection,
                names=connection.names,
            )
            return [Tell(name="nat-detected", text="A NAT changed the addresses; the attach begins anew.", data={})]
        if attaching:
            text = self._refusal_text(connection, event, number)
            commands = self._stay_away(connection, cause, now) if event.by_peer else []
            if self._turned_away(connection, number if event.by_peer else None, text):
                return commands
            found = connection.authentication.found
            reason, facts = (event.reason, event.facts) if found is None else (EAP_FAILED, {"failure": found})
            commands += self._context.fail_attach(
                connection, cause, text, by_peer=event.by_peer, reason=reason, facts=facts
            )
            self._context.state = DeviceState.CLOSING
            return commands
        connection.last_error = (cause, event.text)
        return []

    def _turned_away(self, connection: Connection, number: int | None, text: str) -> bool:
        """Whether the next gateway is tried; who is barred by the cause is remembered (TS 24.302 §7.2.2.2).

        A back-off timer takes the place of both: the network says itself when it may be asked again.
        """
        rule, selection = self._retry.rule(number), connection.selection
        connection.cause = number
        candidate = None if selection is None else selection.candidate
        cause = "refused" if number is None else notify_name(number)
        waits = connection.back_off is not None
        barred = rule.bars is not Bar.NONE and not waits
        if barred and rule.bars is Bar.EVERYWHERE:
            self._context.barred.everywhere = cause
        elif barred and candidate is not None and rule.bars is Bar.PLMN and candidate.plmn is not None:
            self._context.barred.bar_network(candidate.plmn, cause)
        elif barred and candidate is not None:
            self._context.barred.gateways[candidate.address] = cause
        elsewhere = candidate is not None and not waits and (rule.elsewhere or number is None)
        connection.for_good = barred and not elsewhere
        if elsewhere:
            connection.turned_away = text
        return elsewhere

    def _stay_away(self, connection: Connection, cause: str, now: float) -> list[Command]:
        """BACKOFF_TIMER beside the refusal; zero seconds end an earlier one."""
        if connection.back_off is None:
            return []
        self._context.back_off = BackOff(cause=cause, until=now + connection.back_off) if connection.back_off else None
        if self._context.back_off is None:
            return [KeepBackOff(back_off=None)]
        text = f"The network asks the UE to stay away {self._context.back_off.how_long(now)}."
        seconds = connection.back_off if isfinite(connection.back_off) else None
        told = Tell(name="back-off", text=text, data={"cause": cause, "seconds": seconds})
        return [KeepBackOff(back_off=self._context.back_off), told]

    def _refusal_text(self, connection: Connection, event: Refused, number: int | None) -> str:
        finding = connection.authentication.refusal
        if finding is not None:
            return f"authentication rejected: {finding}"
        if not event.by_peer:
            return f"the gateway is not accepted: {event.text}"
        if number in (None, AUTHENTICATION_FAILED) and connection.authentication.notified is not None:
            return f"authentication rejected: {connection.authentication.notified}"
        if number == AUTHENTICATION_FAILED:
            return "authentication rejected by the network (AUTHENTICATION_FAILED 24)"
        return event.text
