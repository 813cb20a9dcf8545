"""The UE's PDN connection over untrusted access as a pure machine: events in, commands out (TS 24.302 §7.2).

It knows neither sockets nor SAs: the runtime carries its commands out and brings the answers back.

::

    attach           -> OpenAccess      access_opened  -> Connect | MoveSa
    EapRequestReceived -> AskUsim       usim_answered  -> AnswerIke(EapReply)
    Established      -> StartHost       host_started   -> Tell, Finished
    move             -> [CloseAccess,] OpenAccess      AddressesUpdated -> Tell, Finished
    detach           -> DeleteSa        Closed         -> StopHost, CloseAccess, Tell, Finished

A move closes the old access before it opens the new one (break before make) unless it is told to keep it:
then the UE still hears there, and can go back when the new access turns out to be deaf. Left out: choosing an
access by itself unless the one in use falls silent. Authenticating anew is in ``ue.reauthentication``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from math import isfinite

from protocols.algorithms.usim import UsimResult
from protocols.entropy import Entropy
from protocols.errors import LocalError, RemoteError
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    ChildSaRetired,
    Closed,
    ConfigurationAnswer,
    ConfigurationReceived,
    CreateChildSaRefused,
    EapReply,
    EapRequestReceived,
    Established,
    Event,
    IkeSaRekeyed,
    PathSuspected,
    PathValidated,
    PeerAddressesChanged,
    ReauthenticationDue,
    Redirected,
    RedirectIgnored,
    Refused,
    SaState,
    StateChanged,
    TicketReceived,
    TicketRejected,
)
from protocols.ikev2.payloads import ConfigurationAttribute
from protocols.ikev2.redirection import RedirectStage
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.ticket import ResumableSession
from protocols.names import Resolution
from protocols.path import Address, Endpoint, Path
from protocols.threegpp.causes import AUTHENTICATION_FAILED, notify_name
from protocols.threegpp.identity import Imsi
from protocols.trace.records import JsonValue
from ue.authentication import Authenticator, EmergencyAuthenticator
from ue.backoff import BackOff
from ue.commands import (
    AccessPorts,
    AnswerIke,
    CloseAccess,
    Command,
    Connect,
    DeleteSa,
    Finished,
    InstallChildSa,
    KeepBackOff,
    MoveSa,
    OpenAccess,
    Procedure,
    RemoveChildSa,
    RetireChildSa,
    StartHost,
    StopHost,
    SuspendSa,
    Tell,
    UpdateChildSa,
    UseAddresses,
)
from ue.configuration import Granted, p_cscf_among
from ue.connection import Connection, Move, MoveOutcome, Onward, PathUse, Signalling
from ue.reauthentication import Reauthentication
from ue.retry import Bar, RetryPolicy
from ue.selection import Barred, Selection, SelectionCommand
from ue.sentences import attached, moved, nat_changed, not_handed_over, rekey_refused, unfinished

MOVES_KEPT = 100
NAT_REFUSALS_MAXIMUM = 3  # RFC 4555 §3.9: "several times"
REACTIVATIONS_MAXIMUM = 5  # in a row; TS 24.302 §7.2.4.2 sets no bound
IKE_PORT = 500  # RFC 7296 §2.23
REACTIVATION_INTERVAL = 60.0  # a connection that lasted so long begins a new row


class DeviceState(str, Enum):
    """Where the connection is in its life."""

    IDLE = "idle"
    ATTACHING = "attaching"
    ESTABLISHED = "established"
    CLOSING = "closing"
    CLOSED = "closed"


class Device:
    """One UE with one PDN connection at a time."""

    def __init__(
        self,
        *,
        imsi: Imsi,
        nai: str,
        apn: str,
        gateway: Endpoint | None,
        entropy: Entropy,
        gateway_port: int = IKE_PORT,
        select: Callable[[int, Barred], Selection] | None = None,
        patience: float | None = None,
        resolves: bool = False,
        retry: RetryPolicy | None = None,
        accesses: tuple[str, ...] = (),
        gateways: Mapping[str, Address] | None = None,
        other_versions: Mapping[int, Endpoint] | None = None,
        reactivate: bool = True,
        moves_by_rekey: bool = False,
        back_off: BackOff | None = None,
        authenticator: Authenticator | EmergencyAuthenticator | None = None,
        previous_addresses: tuple[Address, ...] = (),
    ) -> None:
        """``gateway``: where it is, unless it has to be selected by what ``select`` makes for an access of that IP
        version; ``patience``: seconds for the first answer of one that was selected. ``resolves``: names that a
        redirect says can be looked up. ``retry``: what refusals lead to.

        ``accesses``: those to look for another path on when the one in use fails. ``gateways``: addresses of those
        that a redirect may name. ``other_versions``: by IP version, where the gateway has NAT traversal.
        ``moves_by_rekey``: it can move without MOBIKE.
        ``reactivate``: attach again when the gateway asks for it as it ends the connection. ``authenticator``: how it
        proves itself by EAP, by default with nothing but its NAI. ``previous_addresses``: those it comes with.
        """
        self.imsi = imsi
        self.nai = nai
        self.apn = apn
        self.state = DeviceState.IDLE
        self.connection: Connection | None = None
        self.back_off = back_off
        self._reactivate = reactivate
        self._moves_by_rekey = moves_by_rekey
        self.barred = Barred()
        self._gateway = gateway
        self._gateway_port = gateway_port if gateway is None else gateway.port
        self._select = select
        self._patience = patience
        self._resolves = resolves
        self._retry = retry or RetryPolicy()
        self._gateways = gateways or {}
        self._other_versions = dict(other_versions or {})
        self._session: ResumableSession | None = None
        self._authenticator = authenticator or Authenticator(imsi=imsi, nai=nai, entropy=entropy)
        self._accesses = accesses
        self._previous = previous_addresses
        self._open: dict[str, AccessPorts] = {}
        self._reauthentication: Reauthentication | None = None

    @property
    def open_accesses(self) -> tuple[str, ...]:
        """Accesses whose ports are open."""
        return tuple(self._open)

    def only_allowed(self, version: int) -> None:
        """The network allows one IP version only, this one."""
        if self.connection is not None:
            self.connection.only_allowed = version

    def back_off_received(self, seconds: float) -> None:
        """A refusal that is being read asks the UE to stay away for so long."""
        if self.connection is not None:
            self.connection.back_off = seconds

    def reactivation_received(self) -> None:
        """The gateway deletes the IKE SA and wants the UE back (TS 24.302 §7.2.4.2)."""
        if self.connection is not None:
            self.connection.reactivation = True

    def emergency_support_received(self) -> None:
        """The gateway serves emergency sessions."""
        if self.connection is not None:
            self.connection.emergency_support = True

    @property
    def server_authenticated(self) -> bool:
        """Whether the USIM has accepted the network: the IMEI may be told (TS 24.302 §7.2.2.1)."""
        return self.connection is not None and self.connection.authentication.server_authenticated

    def ports(self, access: str) -> AccessPorts:
        """Where the ports of an open access are; ``LocalError`` when it is closed."""
        ports = self._open.get(access)
        if ports is None:
            raise LocalError(f"access {access} is not open")
        return ports

    # --- what a person asks for

    def attach(
        self,
        access: str,
        ticket: int | None,
        now: float,
        *,
        force: bool = False,
        again: bool = False,
        previous: tuple[Address, ...] | None = None,
    ) -> list[Command]:
        """Attach on an access; not while the network wants to be left alone, unless that is to be ignored.

        ``again``: nobody has asked for it, so that gateways and networks that have barred the UE stay so.
        ``previous``: inner addresses that the UE has elsewhere and wants to keep (handover, TS 24.302 §7.2.2.1).
        """
        if self.state not in (DeviceState.IDLE, DeviceState.CLOSED):
            raise LocalError(f"the UE is {_WORDS[self.state]} already")
        refusal = None if self.back_off is None else self.back_off.refusal(now)
        if refusal is not None and not force:
            raise LocalError(refusal)
        if not again:
            self.barred = Barred()
        self.connection = Connection(access, ticket, self._authenticator.begin(_answer), now)
        self.connection.previous = self._previous if previous is None else previous
        self.state = DeviceState.ATTACHING
        return [OpenAccess(access=access)]

    def move(
        self, access: str, ticket: int, now: float, *, keep_old: bool = False, again: bool = False
    ) -> list[Command]:
        """Move to another access; a move that is under way is superseded.

        ``again``: to the same access is allowed, its address is another one.
        """
        connection = self._established()
        if not connection.mobike and not self._moves_by_rekey:
            raise LocalError("the gateway does not support MOBIKE: the UE cannot move")
        under_way = connection.move
        origin = connection.access if under_way is None else under_way.target
        if access == origin and not connection.suspended and not again:
            raise LocalError(f"the UE is on {access} already")
        commands = self._abandon_reauthentication("the UE moves")
        if under_way is not None:
            commands += self._end_move(under_way, MoveOutcome.SUPERSEDED, f"superseded by a move to {access}", now)
        closes = not keep_old and origin in self._open
        move = self._begin_move(connection, origin, access, ticket, now, closed_old=closes)
        if closes:
            commands += self._close_access(origin)
        if access in self._open:
            return commands + self._send_update(connection, move, now)
        return [*commands, OpenAccess(access=access)]

    def suspend(self, now: float) -> list[Command]:
        """Leave every access and be nowhere; ``move`` comes back, to the same access or another one."""
        connection = self._established()
        if not connection.mobike:
            raise LocalError("the gateway does not support MOBIKE: the UE cannot come back from a pause")
        if connection.suspended:
            raise LocalError("the UE is suspended already")
        commands = self._abandon_reauthentication("the UE has no access any more")
        if connection.move is not None:
            commands += self._end_move(connection.move, MoveOutcome.FAILED, "the UE has no access any more", now)
        connection.suspended = True
        connection.testing = set()
        commands.append(SuspendSa())
        for access in list(self._open):
            commands += self._close_access(access)
        text = f"Suspended: no access any more; it was {connection.access}."
        return [*commands, Tell(name="suspended", text=text, data={"access": connection.access})]

    def recheck(self) -> list[Command]:
        """Tell the gateway of the addresses in use once more: there may be a NAT now, or none (RFC 4555 §3.8)."""
        connection = self._established()
        move = connection.move
        path = connection.path if move is None else move.new
        nowhere = connection.suspended and move is None
        if not connection.mobike or nowhere or path is None:
            return []
        return [MoveSa(access=connection.access if move is None else move.target, path=path)]

    def detach(self, ticket: int, now: float) -> list[Command]:
        """End the connection."""
        connection = self.connection
        if connection is None or self.state not in (DeviceState.ATTACHING, DeviceState.ESTABLISHED):
            raise LocalError("the UE is not attached")
        connection.detach_ticket = ticket
        connection.detach_requested = True
        commands: list[Command] = []
        if connection.move is not None:
            commands += self._end_move(connection.move, MoveOutcome.FAILED, "the UE detaches", now)
        commands += self._abandon_reauthentication("the UE detaches")
        commands += self._fail_attach(connection, "cancelled", "the UE was told to detach")
        if self.state is DeviceState.ATTACHING and (connection.selecting):
            return commands + self._end(connection, now)  # there is no IKE SA yet
        self.state = DeviceState.CLOSING
        return [*commands, DeleteSa(why="the UE detaches")]

    def close_access(self, access: str) -> list[Command]:
        """Close an access that an earlier move has kept open, or cut the one in use off."""
        if access not in self._open:
            raise LocalError(f"access {access} is not open")
        return [
            *self._close_access(access),
            Tell(name="access-closed", text=f"The ports on {access} were closed.", data={"access": access}),
        ]

    # --- answers

    def access_opened(self, access: str, ports: AccessPorts, now: float) -> list[Command]:
        """The ports are open."""
        self._open[access] = ports
        connection = self.connection
        if connection is None or self.state is DeviceState.CLOSING:
            return []
        if self.state is DeviceState.ATTACHING:
            return self._reach(connection, now)
        if connection.move is not None and connection.move.target == access:
            return self._send_update(connection, connection.move, now)
        if access in connection.testing:
            return [self._use_open(connection)]
        return []

    def access_failed(self, access: str, why: str, now: float) -> list[Command]:
        """The ports cannot be opened."""
        connection = self.connection
        if connection is None:
            return []
        connection.testing.discard(access)
        if self.state is DeviceState.ATTACHING:
            commands = self._fail_attach(connection, "access", why)
            return commands + self._end(connection, now)
        move = connection.move
        if move is None or move.target != access:
            return []
        commands = self._end_move(move, MoveOutcome.FAILED, why, now)
        return commands if move.ticket is None else commands + self._go_back(connection, move, now)

    def resolved(self, resolution: Resolution, now: float) -> list[Command]:
        """A name was looked up; an answer that nobody waits for any more means nothing."""
        connection = self.connection
        if connection is None:
            return []
        if self.state is DeviceState.ESTABLISHED and connection.pending is not None:
            return self._redirect_resolved(connection, connection.pending, resolution)
        selection = connection.selection
        if self.state is not DeviceState.ATTACHING or selection is None or selection.asks != resolution.name:
            return []
        return self._advance(connection, selection, selection.resolved(resolution), now)

    def unreachable(self, gateway: Endpoint, now: float) -> list[Command]:
        """ICMP says that nobody is there: enough to try another gateway, not to end anything (RFC 7296 §2.4)."""
        connection = self.connection
        if connection is None or self.state is not DeviceState.ATTACHING or connection.selection is None:
            return []
        if connection.gateway != gateway.address or connection.heard or connection.turned_away is not None:
            return []
        connection.turned_away = "ICMP says that it cannot be reached"
        return [DeleteSa(why=connection.turned_away)]

    def connected(self, signalling: Signalling) -> list[Command]:
        """The IKE SA has begun."""
        if self.connection is not None:
            self.connection.signalling = signalling
        return []

    def usim_answered(self, result: UsimResult) -> list[Command]:
        """The USIM's verdict on the challenge."""
        connection = self.connection
        if self._reauthentication is not None:
            return self._reauthentication.usim_answered(result)
        if connection is None or self.state is not DeviceState.ATTACHING:
            return []
        return self._unless_over(connection, connection.authentication.usim_answered(result))

    def usim_failed(self, why: str) -> list[Command]:
        """The USIM gives no verdict (its store cannot be written, say)."""
        connection = self.connection
        if self._reauthentication is not None:
            return self._abandon_reauthentication(f"the USIM failed: {why}")
        if connection is None or self.state is not DeviceState.ATTACHING:
            return []
        return self._give_up(connection, "usim", f"the USIM failed: {why}")

    def host_started(self, now: float) -> list[Command]:
        """The inner addresses are in use: the UE is attached."""
        connection = self.connection
        if connection is None or self.state is not DeviceState.ESTABLISHED or connection.path is None:
            return []
        commands: list[Command] = [attached(connection, connection.path, self.imsi, self.apn)]
        if connection.handed_over is False:
            commands.append(not_handed_over(connection, self.apn))
        if connection.attach_ticket is not None:
            commands.append(Finished(procedure=Procedure.ATTACH, ticket=connection.attach_ticket))
            connection.attach_ticket = None
        return commands

    def host_failed(self, why: str) -> list[Command]:
        """The inner addresses cannot be used."""
        connection = self.connection
        if connection is None or self.state is not DeviceState.ESTABLISHED:
            return []
        return self._give_up(connection, "host", why)

    # --- events of the IKE SA

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take an event of the IKE SA."""
        connection = self.connection
        if connection is None:
            return []
        if isinstance(event, EapRequestReceived):
            return self._eap_request(connection, event)
        if isinstance(event, Established):
            return self._establish(connection, event, now)
        if isinstance(event, ChildSaInstalled):
            connection.children[event.spec.inbound_spi] = event.spec
            return [InstallChildSa(spec=event.spec, replaces=event.replaces, send_at_once=event.send_at_once)]
        if isinstance(event, ChildSaPathChanged):
            return [UpdateChildSa(inbound_spi=event.inbound_spi, path=event.path, encapsulation=event.encapsulation)]
        if isinstance(event, ChildSaRetired):
            known = event.inbound_spi in connection.children
            return [RetireChildSa(inbound_spi=event.inbound_spi)] if known else []
        if isinstance(event, ChildSaRemoved):
            return self._child_removed(connection, event)
        if isinstance(event, AddressesUpdated):
            return self._updated(connection, event, now)
        if isinstance(event, AddressUpdateFailed):
            return self._update_refused(connection, event, now)
        if isinstance(event, ConfigurationReceived):
            return self._configured(connection, event)
        if isinstance(event, ReauthenticationDue):
            return self._reauthenticate(connection)
        if isinstance(event, StateChanged):
            connection.deleting = connection.deleting or event.new is SaState.DELETING
            leaves = event.new is SaState.AUTHENTICATING and not connection.resumes
            connection.heard = connection.heard or leaves
            return connection.authentication.identity_given() if leaves else []
        if isinstance(event, IkeSaRekeyed):
            self._session = None  # RFC 5723 §6.2: "When the IKE SA is rekeyed, the ticket is invalidated"
            connection.continued(event.successor.window)
            return [Tell(name="ike-rekeyed", text="The IKE SA was rekeyed.")]
        if isinstance(event, CreateChildSaRefused):
            return [rekey_refused(event)]
        if isinstance(event, PeerAddressesChanged):
            connection.gateway_addresses = event.addresses
            listed = ", ".join(map(str, event.addresses))
            text = f"The gateway's addresses are {listed}."
            return [Tell(name="gateway-addresses", text=text, data={"addresses": [*map(str, event.addresses)]})]
        if isinstance(event, PathSuspected):
            return self._suspected(connection)
        if isinstance(event, PathValidated):
            return self._end_test(connection)
        if isinstance(event, Refused):
            return self._refused(connection, event, now)
        if isinstance(event, Redirected):
            return self._redirected(connection, event)
        if isinstance(event, RedirectIgnored):
            text = f"A redirect to {event.gateway or 'an unknown kind of gateway'} was not obeyed: {event.why}."
            return [Tell(name="redirect-ignored", text=text, data={"why": event.why})]
        if isinstance(event, TicketReceived):
            self._session = event.session
            return []
        if isinstance(event, TicketRejected):
            text = "The gateway does not resume the session: it is set up anew."
            return [Tell(name="ticket-rejected", text=text, data={})]
        if isinstance(event, Closed):
            return self._closed(connection, event, now)
        return []

    # --- authenticating anew

    def handle_successor(self, event: Event) -> list[Command]:
        """Take an event of the second IKE SA, which authenticates anew."""
        connection, attempt = self.connection, self._reauthentication
        if connection is None or attempt is None:
            return []
        try:
            granted = Granted.of(event.configuration if isinstance(event, Established) else ())
        except RemoteError:
            granted = Granted()
        commands = attempt.handle(event, granted.addresses)
        if attempt.over:
            self._reauthentication = None
        if attempt.succeeded and isinstance(event, Established):
            self._session = None  # the ticket goes with the former SA; the new one brings its own
            connection.authentication = attempt.authentication
            connection.gateway_addresses = attempt.gateway_addresses
            connection.mobike, connection.nat, connection.path = event.mobike, event.nat, event.path
        return commands

    def adopted(self, signalling: Signalling) -> list[Command]:
        """The second IKE SA has taken over."""
        if self.connection is not None:
            self.connection.continued(signalling)
        return []

    def _reauthenticate(self, connection: Connection) -> list[Command]:
        """Not while the UE moves: the event comes again."""
        if self.state is not DeviceState.ESTABLISHED or connection.move is not None or self._reauthentication:
            return []
        if connection.access not in self._open or connection.path is None:
            return []
        self._reauthentication = Reauthentication(self._authenticator, connection.addresses)
        return self._reauthentication.begin(connection.access, connection.path.remote.address)

    def _abandon_reauthentication(self, why: str) -> list[Command]:
        attempt, self._reauthentication = self._reauthentication, None
        return [] if attempt is None else attempt.abandon(why)

    # --- attach

    def _eap_request(self, connection: Connection, event: EapRequestReceived) -> list[Command]:
        if self.state is not DeviceState.ATTACHING:
            return []
        used = connection.authentication.identity_given() if connection.resumes else []
        connection.resumes = False  # the ticket was not taken
        return self._unless_over(connection, [*used, *connection.authentication.receive(event.packet)])

    def _unless_over(self, connection: Connection, commands: list[Command]) -> list[Command]:
        """What the exchange asks for, and the end of the attach where it goes no further."""
        problem = connection.authentication.problem
        return commands if problem is None else commands + self._give_up(connection, problem.cause, problem.text)

    def _establish(self, connection: Connection, event: Established, now: float) -> list[Command]:
        if self.state is not DeviceState.ATTACHING:
            return []
        self.state = DeviceState.ESTABLISHED
        connection.established = now
        connection.attach_interval = now - connection.started
        connection.attach_requests, connection.attach_retransmissions = connection.counts
        connection.mobike, connection.nat, connection.path = event.mobike, event.nat, event.path
        connection.paths.append(PathUse(path=event.path, access=connection.access, since=now, why="attach"))
        try:
            granted = Granted.of(event.configuration)
        except RemoteError as error:
            return self._give_up(connection, "configuration", str(error))
        connection.addresses, connection.dns, connection.p_cscf = granted.addresses, granted.dns, granted.p_cscf
        connection.granted = granted
        if not connection.addresses:
            return self._give_up(connection, "configuration", "the gateway assigned no inner address")
        welcome: list[Command] = [] if self.back_off is None else [KeepBackOff(back_off=None)]
        self.back_off = None
        return [*welcome, StartHost(addresses=connection.addresses)]

    def _child_removed(self, connection: Connection, event: ChildSaRemoved) -> list[Command]:
        """Without its last child SA a UE is attached and has no traffic, which is legal (RFC 7296 §1.4.1)."""
        if connection.children.pop(event.inbound_spi, None) is None:
            return []
        removed: list[Command] = [RemoveChildSa(inbound_spi=event.inbound_spi)]
        if not connection.children and not event.with_ike_sa and self.state is DeviceState.ESTABLISHED:
            text = f"The last child SA is gone ({event.why}): nothing can be sent until there is another."
            removed.append(Tell(name="no-child-sa", text=text, data={"why": event.why}))
        return removed

    def _configured(self, connection: Connection, event: ConfigurationReceived) -> list[Command]:
        """The gateway names other P-CSCFs, in CFG_REQUEST or CFG_SET (TS 24.302 §7.2); nothing else is taken."""
        accepted = p_cscf_among(event.attributes)
        try:
            servers = Granted.of(accepted).p_cscf
        except RemoteError:
            accepted, servers = (), ()
        commands: list[Command] = []
        if servers:
            old, connection.p_cscf = connection.p_cscf, servers
            named = ", ".join(map(str, servers))
            text = f"The network names other P-CSCFs: {named}; IMS has to be registered with anew."
            data: dict[str, JsonValue] = {
                "old": [str(address) for address in old],
                "new": [str(address) for address in servers],
            }
            commands.append(Tell(name="p-cscf-changed", text=text, data=data))
        taken = tuple(dict.fromkeys(ConfigurationAttribute(type=each.type) for each in accepted))
        return [*commands, AnswerIke(answer=ConfigurationAnswer(attributes=taken))]

    def _refused(self, connection: Connection, event: Refused, now: float) -> list[Command]:
        number = None if event.notify is None else int(event.notify.type)
        cause = "gateway refused" if number is None else notify_name(number)
        attaching = self.state is DeviceState.ATTACHING
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
            commands += self._fail_attach(connection, cause, text, by_peer=event.by_peer)
            self.state = DeviceState.CLOSING
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
            self.barred.everywhere = cause
        elif barred and candidate is not None and rule.bars is Bar.PLMN and candidate.plmn is not None:
            self.barred.bar_network(candidate.plmn, cause)
        elif barred and candidate is not None:
            self.barred.gateways[candidate.address] = cause
        elsewhere = candidate is not None and not waits and (rule.elsewhere or number is None)
        connection.for_good = barred and not elsewhere
        if elsewhere:
            connection.turned_away = text
        return elsewhere

    def _stay_away(self, connection: Connection, cause: str, now: float) -> list[Command]:
        """BACKOFF_TIMER beside the refusal; zero seconds end an earlier one."""
        if connection.back_off is None:
            return []
        self.back_off = BackOff(cause=cause, until=now + connection.back_off) if connection.back_off else None
        if self.back_off is None:
            return [KeepBackOff(back_off=None)]
        text = f"The network asks the UE to stay away {self.back_off.how_long(now)}."
        seconds = connection.back_off if isfinite(connection.back_off) else None
        told = Tell(name="back-off", text=text, data={"cause": cause, "seconds": seconds})
        return [KeepBackOff(back_off=self.back_off), told]

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

    def _give_up(self, connection: Connection, cause: str, text: str) -> list[Command]:
        """This end finds something wrong during the attach."""
        commands = self._fail_attach(connection, cause, text, by_peer=False)
        self.state = DeviceState.CLOSING
        return [*commands, DeleteSa(why=text)]

    def _fail_attach(self, connection: Connection, cause: str, text: str, *, by_peer: bool = False) -> list[Command]:
        """Nothing if the attach is over already."""
        ticket, connection.attach_ticket = connection.attach_ticket, None
        if ticket is None and connection.trail is None and not connection.reactivations:
            return []
        followed = connection.last_error is not None  # told already
        if ticket is None and followed:
            return []
        connection.last_error = (cause, text)
        return [
            Tell(
                name="refused",
                text=f"The attach to {self.apn} on {connection.access} failed: {text}.",
                data={"cause": cause, "text": text, "by_peer": by_peer},
            ),
            *(() if ticket is None else (Finished(procedure=Procedure.ATTACH, ticket=ticket, failure=text),)),
        ]

    # --- moves

    def _begin_move(
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
        local, remote = self._open[move.target].nat_traversal, connection.path.remote
        addresses = (remote.address, *connection.gateway_addresses)
        fitting = [address for address in addresses if address.version == local.address.version]
        known = self._other_versions.get(local.address.version)
        if not fitting and known is not None:
            move.new = Path(local, known)
            return [MoveSa(access=move.target, path=move.new)]
        if not fitting:
            why = f"the gateway has told of no IPv{local.address.version} address"
            commands = self._end_move(move, MoveOutcome.FAILED, why, now)
            return commands if move.ticket is None else commands + self._go_back(connection, move, now)
        move.new = Path(local, Endpoint(fitting[0], remote.port))
        return [MoveSa(access=move.target, path=move.new)]

    # --- paths that fail and paths that are found (RFC 4555 §3.10)

    def _suspected(self, connection: Connection) -> list[Command]:
        """The path is silent: open what else there is. During a move try what is open: the way back, if it was kept."""
        if self.state is not DeviceState.ESTABLISHED:
            return []
        move = connection.move
        if move is not None and (connection.suspended or self._open.keys() <= {move.target}):
            return []
        if move is not None:
            text = f"Nothing is heard on {move.target}; {move.origin} is being tried as well."
            tell = Tell(name="path-suspected", text=text, data={"access": move.target})
            return [tell, self._use_open(connection)]
        others = [access for access in self._accesses if access not in self._open]
        connection.testing |= set(others)
        text = f"Nothing is heard on {connection.access}; other paths are being tried."
        tell = Tell(name="path-suspected", text=text, data={"access": connection.access})
        return [tell, self._use_open(connection), *(OpenAccess(access=access) for access in others)]

    def _use_open(self, connection: Connection) -> Command:
        """The addresses of all open accesses, in the order of the configuration, that in use first."""
        assert connection.path is not None
        order = [access for access in self._accesses if access in self._open]
        endpoints = [self._open[access].nat_traversal for access in order]
        return UseAddresses(addresses=tuple(dict.fromkeys((connection.path.local, *endpoints))))

    def _end_test(self, connection: Connection) -> list[Command]:
        """A path is found, or the old one answers again: close what was opened for the test only."""
        tested, connection.testing = connection.testing, set()
        commands: list[Command] = [] if not self._accesses else [UseAddresses(addresses=None)]
        for access in list(self._open):
            if access != connection.access and access in tested:
                commands += self._close_access(access)
        return commands

    def _found(self, connection: Connection, event: AddressesUpdated, now: float) -> list[Command]:
        """The IKE SA has moved by itself: to another access, or to another address of the gateway."""
        access = next((name for name, ports in self._open.items() if ports.nat_traversal == event.new.local), None)
        if connection.move is not None:
            why = f"another path answered: {event.new}"
            failed = connection.move
            ended = self._end_move(failed, MoveOutcome.FAILED, why, now)
            ended += self._found(connection, event, now) + self._end_test(connection)
            leaves = failed.target != connection.access and failed.target in self._open
            return ended + (self._close_access(failed.target) if leaves else [])
        if event.new != event.old:
            abandoned = self._abandon_reauthentication("the UE moves")
            if abandoned:
                return abandoned + self._found(connection, event, now)
        if access is not None and access != connection.access:
            move = self._begin_move(connection, connection.access, access, None, now, closed_old=False)
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
        return [Tell(name="gateway-address-changed", text=text, data=data), *self._end_test(connection)]

    def _updated(self, connection: Connection, event: AddressesUpdated, now: float) -> list[Command]:
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
        commands = self._end_move(move, MoveOutcome.COMPLETED, None, now)
        if move.ticket is None and move.origin in self._open:
            commands += self._close_access(move.origin)
        if connection.testing:
            commands += self._end_test(connection)
        return commands

    def _update_refused(self, connection: Connection, event: AddressUpdateFailed, now: float) -> list[Command]:
        move = connection.move
        if move is None or move.new != event.new:
            return []
        commands = self._end_move(move, MoveOutcome.FAILED, event.why, now)
        return commands if move.ticket is None else commands + self._go_back(connection, move, now)

    def _go_back(self, connection: Connection, failed: Move, now: float) -> list[Command]:
        """Return to the access that the failed move came from; the gateway may have seen the other one."""
        if connection.suspended or connection.deleting:
            return []  # there is nowhere to go back to
        move = self._begin_move(connection, failed.target, failed.origin, None, now, closed_old=False)
        if failed.origin in self._open:
            if failed.new is None and self._open[failed.origin].nat_traversal == failed.old.local:
                connection.moves.remove(move)  # nothing was sent from elsewhere: nothing to undo
                connection.move = None
                return []
            return self._send_update(connection, move, now)
        return [OpenAccess(access=failed.origin)]

    def _end_move(self, move: Move, outcome: MoveOutcome, why: str | None, now: float) -> list[Command]:
        """Take the measures and tell."""
        connection = self.connection
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

    # --- redirects (RFC 5685)

    def _redirected(self, connection: Connection, event: Redirected) -> list[Command]:
        where = self._gateway if connection.gateway is None else connection.gateway
        data: dict[str, JsonValue] = {"gateway": str(event.gateway), "stage": event.stage.value}
        established = event.stage is RedirectStage.ESTABLISHED
        local = self._open.get(connection.access)
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

    def _redirect_resolved(self, connection: Connection, pending: Onward, resolution: Resolution) -> list[Command]:
        """The name of a redirect's gateway was looked up while the SA lives on."""
        selection = pending.selection
        if selection is None or selection.asks != resolution.name:
            return []
        connection.pending = None
        where = self._gateway if connection.gateway is None else connection.gateway
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

    def _follow(self, former: Connection, onward: Onward, now: float) -> list[Command]:
        """The SA that was redirected or refused is gone: the attach goes on, or begins anew, where it was told to."""
        former.ended = now
        commands = self._abandon_reauthentication("the connection has ended")
        commands += _remove_children(former)
        if former.addresses:
            commands.append(StopHost())
        connection = Connection(former.access, former.attach_ticket, self._authenticator.begin(_answer), now)
        connection.gateway, connection.trail = onward.gateway, onward.trail
        connection.selection, connection.names = onward.selection, onward.names
        connection.nat_refusals = former.nat_refusals
        connection.previous = former.previous
        self.connection = connection
        self._session = None
        self.state = DeviceState.ATTACHING
        if former.access not in self._open:
            return [*commands, OpenAccess(access=former.access)]
        return commands + self._reach(connection, now)

    # --- which gateway (TS 23.402 §4.5.4)

    def _reach(self, connection: Connection, now: float) -> list[Command]:
        """Connect to the gateway, or find one first."""
        if connection.gateway is not None:
            return [self._connect(connection)]
        selection = connection.selection
        if selection is None and self._select is not None:
            version = self._open[connection.access].ike.address.version
            selection = connection.selection = self._select(version, self.barred)
        if selection is None:
            return [self._connect(connection)]
        return self._advance(connection, selection, [] if selection.begun else selection.begin(), now)

    def _advance(
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
        cause = "no gateway" if connection.cause is None else notify_name(connection.cause)
        return [*commands, *self._fail_attach(connection, cause, selection.verdict), *self._end(connection, now)]

    def _elsewhere(self, former: Connection, selection: Selection, why: str, now: float) -> list[Command]:
        """The gateway does not serve: the attach goes on with the next, or fails with all that were tried."""
        former.ended = now
        told = selection.failed(why)
        connection = Connection(former.access, former.attach_ticket, self._authenticator.begin(_answer), former.started)
        connection.selection, connection.cause = selection, former.cause
        connection.reactivations = former.reactivations
        connection.trail, connection.names = former.trail, former.names
        self.connection = connection
        self._session = None
        if former.access not in self._open and selection.candidate is not None:
            return [*told, OpenAccess(access=former.access)]
        return self._advance(connection, selection, told, now)

    def _connect(self, connection: Connection) -> Connect:
        """Start the SA; a ticket is presented once (RFC 5723 §4.3.1)."""
        session, self._session = self._session, None
        connection.resumes = session is not None
        return Connect(
            access=connection.access,
            identity=connection.authentication.identity,
            gateway=connection.gateway,
            trail=connection.trail,
            session=session,
            previous_addresses=connection.previous,
            names=connection.names,
            patience=None if connection.selection is None else self._patience,
        )

    def _where(self, connection: Connection) -> Endpoint | None:
        """The gateway that this connection is for."""
        if connection.gateway is None:
            return self._gateway
        return Endpoint(connection.gateway, self._gateway_port)

    # --- the end

    def _closed(self, connection: Connection, event: Closed, now: float) -> list[Command]:
        commands: list[Command] = []
        why = event.why
        if event.by_peer or connection.detach_requested or connection.deleting:
            self._session = None  # RFC 5723 §6.2: the ticket goes with an SA that was deleted
        if connection.move is not None:
            commands += self._end_move(connection.move, MoveOutcome.FAILED, why, now)
        if connection.redirect is not None and not connection.detach_requested:
            return commands + self._follow(connection, connection.redirect, now)
        if self.state is DeviceState.ATTACHING:
            text = connection.turned_away or unfinished(connection, self._where(connection), event)
            selection = connection.selection
            if selection is not None and selection.candidate is not None:
                return commands + self._elsewhere(connection, selection, text, now)
            commands += self._fail_attach(connection, "no response", text, by_peer=event.by_peer)
        if connection.established is not None:
            name = "detached" if connection.detach_requested or event.by_peer else "connection-lost"
            commands.append(
                Tell(
                    name=name,
                    text=f"Detached from {self.apn}: {why}.",
                    data={"why": why, "by_peer": event.by_peer, "access": connection.access},
                )
            )
            if name == "connection-lost":
                connection.last_error = (name, why)
        commands += self._end(connection, now)
        if event.by_peer and connection.reactivation and not connection.detach_requested:
            commands += self._come_back(connection, now)
        return commands

    def _come_back(self, former: Connection, now: float) -> list[Command]:
        """REACTIVATION_REQUESTED_CAUSE: the tunnel is set up again (TS 24.302 §7.2.4.2), a bounded number of times."""
        lasted = 0.0 if former.established is None else now - former.established
        row = 0 if lasted >= REACTIVATION_INTERVAL else former.reactivations
        if not self._reactivate or row >= REACTIVATIONS_MAXIMUM:
            why = "it is configured not to" if not self._reactivate else f"it has done so {row} times in a row"
            text = f"The network wants the UE to attach again; {why}."
            return [Tell(name="reactivation-ignored", text=text, data={"reactivations": row})]
        commands = self.attach(former.access, None, now, force=True, again=True)
        assert self.connection is not None
        self.connection.reactivations = row + 1
        text = "The network has ended the connection and wants the UE to attach again."
        return [Tell(name="reactivating", text=text, data={"reactivations": row + 1}), *commands]

    def _end(self, connection: Connection, now: float) -> list[Command]:
        """Nothing of the connection is left but the memory of it."""
        self.state = DeviceState.CLOSED
        connection.ended = now
        if connection.paths:
            connection.paths[-1].until = now
        commands = self._abandon_reauthentication("the connection has ended")
        commands += _remove_children(connection)
        if connection.addresses:
            commands.append(StopHost())
        for access in list(self._open):
            commands += self._close_access(access)
        if connection.detach_ticket is not None:
            commands.append(Finished(procedure=Procedure.DETACH, ticket=connection.detach_ticket))
            connection.detach_ticket = None
        return commands

    # --- the rest

    def _established(self) -> Connection:
        if self.connection is None or self.state is not DeviceState.ESTABLISHED:
            raise LocalError(f"the UE is {_WORDS[self.state]}")
        if self.connection.deleting:
            raise LocalError(f"the UE is {_WORDS[DeviceState.CLOSING]}")
        return self.connection

    def _close_access(self, access: str) -> list[Command]:
        del self._open[access]
        return [CloseAccess(access=access)]


def _answer(reply: EapReply) -> Command:
    return AnswerIke(answer=reply)


_WORDS = {
    DeviceState.IDLE: "not attached",
    DeviceState.ATTACHING: "attaching",
    DeviceState.ESTABLISHED: "attached",
    DeviceState.CLOSING: "detaching",
    DeviceState.CLOSED: "detached",
}


def _remove_children(connection: Connection) -> list[Command]:
    """Those of an IKE SA that was replaced and waits for the answer to its DELETE: nobody hears of it any more."""
    left = list(connection.children)
    connection.children.clear()
    return [RemoveChildSa(inbound_spi=spi) for spi in left]
