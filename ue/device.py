"""The UE's PDN connection over untrusted access as a pure machine: events in, commands out (TS 24.302 §7.2).

It knows neither sockets nor SAs: the runtime carries its commands out and brings the answers back.

::

    attach           -> OpenAccess      access_opened  -> Connect | MoveSa
    EapRequestReceived -> AskUsim       usim_answered  -> AnswerIke(EapReply)
    Established      -> StartHost       host_started   -> Tell, Finished
    move             -> [CloseAccess,] OpenAccess      AddressesUpdated -> Tell, Finished
    detach           -> DeleteSa        Closed         -> StopHost, CloseAccess, Tell, Finished

Its procedures: which gateway, and refusals, in ``ue.attaching``; ``ue.redirects``; ``ue.moves``; authenticating anew in
``ue.reauthentication``. What they share is in ``ue.context``. Left out: choosing an access by itself unless the one in
use falls silent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocols.algorithms.usim import UsimResult
from protocols.entropy import Entropy
from protocols.errors import LocalError, RemoteError
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    AddressUpdateStarted,
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    ChildSaRetired,
    Closed,
    ConfigurationAnswer,
    ConfigurationReceived,
    CreateChildSaRefused,
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
from protocols.names import Resolution
from protocols.path import Address, Endpoint
from protocols.threegpp.identity import Imsi
from protocols.trace.records import JsonValue
from ue.attaching import IKE_PORT, Attaching
from ue.authentication import Authenticator, EmergencyAuthenticator
from ue.backoff import BackOff
from ue.commands import (
    AccessPorts,
    AnswerIke,
    Command,
    DeleteSa,
    ExpectChildSa,
    InstallChildSa,
    OpenAccess,
    RemoveChildSa,
    RetireChildSa,
    Tell,
    UpdateChildSa,
)
from ue.configuration import Granted, p_cscf_among
from ue.connection import Connection, MoveOutcome, Signalling
from ue.context import DeviceState, PdnContext
from ue.moves import Moves
from ue.reauthentication import Reauthentication
from ue.redirects import Redirects
from ue.retry import RetryPolicy
from ue.selection import Barred, Selection
from ue.sentences import rekey_refused, silence_facts, unfinished

REACTIVATIONS_MAXIMUM = 5  # in a row; TS 24.302 §7.2.4.2 sets no bound
REACTIVATION_INTERVAL = 60.0  # a connection that lasted so long begins a new row


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
        self.nai = nai
        self._context = PdnContext(
            imsi=imsi,
            apn=apn,
            authenticator=authenticator or Authenticator(imsi=imsi, nai=nai, entropy=entropy),
            back_off=back_off,
        )
        self._attaching = Attaching(
            self._context,
            gateway=gateway,
            gateway_port=gateway_port,
            select=select,
            patience=patience,
            retry=retry or RetryPolicy(),
        )
        self._redirects = Redirects(self._context, self._attaching, gateways=gateways or {}, resolves=resolves)
        self._moves = Moves(
            self._context, accesses=accesses, other_versions=dict(other_versions or {}), by_rekey=moves_by_rekey
        )
        self._reactivate = reactivate
        self._previous = previous_addresses

    @property
    def imsi(self) -> Imsi:
        """Whose connection it is."""
        return self._context.imsi

    @property
    def apn(self) -> str:
        """The network behind the gateway."""
        return self._context.apn

    @property
    def state(self) -> DeviceState:
        """Where the connection is in its life."""
        return self._context.state

    @property
    def connection(self) -> Connection | None:
        """The attach under way or done; ``None`` before the first."""
        return self._context.connection

    @property
    def back_off(self) -> BackOff | None:
        """How long the network wants to be left alone."""
        return self._context.back_off

    @property
    def open_accesses(self) -> tuple[str, ...]:
        """Accesses whose ports are open."""
        return tuple(self._context.open)

    def only_allowed(self, version: int) -> None:
        """The network allows one IP version only, this one."""
        if self._context.connection is not None:
            self._context.connection.only_allowed = version

    def back_off_received(self, seconds: float) -> None:
        """A refusal that is being read asks the UE to stay away for so long."""
        if self._context.connection is not None:
            self._context.connection.back_off = seconds

    def reactivation_received(self) -> None:
        """The gateway deletes the IKE SA and wants the UE back (TS 24.302 §7.2.4.2)."""
        if self._context.connection is not None:
            self._context.connection.reactivation = True

    def emergency_support_received(self) -> None:
        """The gateway serves emergency sessions."""
        if self._context.connection is not None:
            self._context.connection.emergency_support = True

    @property
    def server_authenticated(self) -> bool:
        """Whether the USIM has accepted the network: the IMEI may be told (TS 24.302 §7.2.2.1)."""
        return self._context.connection is not None and self._context.connection.authentication.server_authenticated

    def ports(self, access: str) -> AccessPorts:
        """Where the ports of an open access are; ``LocalError`` when it is closed."""
        ports = self._context.open.get(access)
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
        patience: float | None = None,
    ) -> list[Command]:
        """Attach on an access; not while the network wants to be left alone, unless that is to be ignored.

        ``again``: nobody has asked for it, so that gateways and networks that have barred the UE stay so.
        ``previous``: inner addresses that the UE has elsewhere and wants to keep (handover, TS 24.302 §7.2.2.1).
        ``patience``: seconds for a gateway's first answer, by default as long as the request is retransmitted.
        """
        if self._context.state not in (DeviceState.IDLE, DeviceState.CLOSED):
            raise LocalError(f"the UE is {self._context.state.words} already")
        refusal = None if self._context.back_off is None else self._context.back_off.refusal(now)
        if refusal is not None and not force:
            raise LocalError(refusal)
        if not again:
            self._context.barred = Barred()
        connection = self._context.begin(access, ticket, now)
        connection.previous = self._previous if previous is None else previous
        connection.patience = patience
        self._context.state = DeviceState.ATTACHING
        return [OpenAccess(access=access)]

    @property
    def can_move(self) -> bool:
        """Whether the connection that is up can go to another access."""
        return self._moves.possible

    def move(
        self, access: str, ticket: int, now: float, *, keep_old: bool = False, again: bool = False
    ) -> list[Command]:
        """Move to another access; a move that is under way is superseded.

        ``again``: to the same access is allowed, its address is another one.
        """
        return self._moves.move(access, ticket, now, keep_old=keep_old, again=again)

    def suspend(self, now: float) -> list[Command]:
        """Leave every access and be nowhere; ``move`` comes back, to the same access or another one."""
        return self._moves.suspend(now)

    def recheck(self) -> list[Command]:
        """Tell the gateway of the addresses in use once more: there may be a NAT now, or none (RFC 4555 §3.8)."""
        return self._moves.recheck()

    def detach(self, ticket: int, now: float) -> list[Command]:
        """End the connection."""
        connection = self._context.connection
        if connection is None or self._context.state not in (DeviceState.ATTACHING, DeviceState.ESTABLISHED):
            raise LocalError("the UE is not attached")
        connection.detach_ticket = ticket
        connection.detach_requested = True
        commands: list[Command] = []
        if connection.move is not None:
            commands += self._moves.end(connection.move, MoveOutcome.FAILED, "the UE detaches", now)
        commands += self._context.abandon_reauthentication("the UE detaches")
        commands += self._context.fail_attach(connection, "cancelled", "the UE was told to detach")
        if self._context.state is DeviceState.ATTACHING and connection.selecting:
            return commands + self._context.end(connection, now)  # there is no IKE SA yet
        self._context.state = DeviceState.CLOSING
        return [*commands, DeleteSa(why="the UE detaches")]

    def give_up_attach(self, why: str, now: float) -> list[Command]:
        """The access of the attach under way is no good any more: no other gateway is tried there, nobody is told."""
        connection = self._context.connection
        if connection is None or self._context.state is not DeviceState.ATTACHING:
            return []
        connection.unanswered, connection.redirect = True, None
        commands = self._context.fail_attach(connection, "access", why, reason="access")
        if connection.selecting:
            return commands + self._context.end(connection, now)  # there is no IKE SA yet
        self._context.state = DeviceState.CLOSING
        return commands

    def close_access(self, access: str) -> list[Command]:
        """Close an access that an earlier move has kept open, or cut the one in use off."""
        if access not in self._context.open:
            raise LocalError(f"access {access} is not open")
        return [
            *self._context.close_access(access),
            Tell(name="access-closed", text=f"The ports on {access} were closed.", data={"access": access}),
        ]

    # --- answers

    def access_opened(self, access: str, ports: AccessPorts, now: float) -> list[Command]:
        """The ports are open."""
        self._context.open[access] = ports
        connection = self._context.connection
        if connection is None or self._context.state is DeviceState.CLOSING:
            return []
        if self._context.state is DeviceState.ATTACHING:
            return self._attaching.reach(connection, now)
        return self._moves.access_opened(connection, access, now)

    def access_failed(self, access: str, why: str, now: float) -> list[Command]:
        """The ports cannot be opened."""
        connection = self._context.connection
        if connection is None:
            return []
        connection.testing.discard(access)
        if self._context.state is DeviceState.ATTACHING:
            connection.unanswered = True
            commands = self._context.fail_attach(connection, "access", why)
            return commands + self._context.end(connection, now)
        return self._moves.access_failed(connection, access, why, now)

    def resolved(self, resolution: Resolution, now: float) -> list[Command]:
        """A name was looked up; an answer that nobody waits for any more means nothing."""
        connection = self._context.connection
        if connection is None:
            return []
        if self._context.state is DeviceState.ESTABLISHED and connection.pending is not None:
            return self._redirects.resolved(connection, connection.pending, resolution)
        selection = connection.selection
        if self._context.state is not DeviceState.ATTACHING or selection is None or selection.asks != resolution.name:
            return []
        return self._attaching.advance(connection, selection, selection.resolved(resolution), now)

    def unreachable(self, gateway: Endpoint, now: float) -> list[Command]:
        """ICMP says that nobody is there: enough to try another gateway, not to end anything (RFC 7296 §2.4)."""
        return self._attaching.unreachable(gateway)

    def connected(self, signalling: Signalling) -> list[Command]:
        """The IKE SA has begun."""
        if self._context.connection is not None:
            self._context.connection.signalling = signalling
        return []

    def usim_answered(self, result: UsimResult) -> list[Command]:
        """The USIM's verdict on the challenge."""
        if self._context.reauthentication is not None:
            return self._context.reauthentication.usim_answered(result)
        return self._attaching.usim_answered(result)

    def usim_failed(self, why: str) -> list[Command]:
        """The USIM gives no verdict (its store cannot be written, say)."""
        if self._context.reauthentication is not None:
            return self._context.abandon_reauthentication(f"the USIM failed: {why}")
        return self._attaching.usim_failed(why)

    def host_started(self, now: float) -> list[Command]:
        """The inner addresses are in use: the UE is attached."""
        return self._attaching.host_started()

    def host_failed(self, why: str) -> list[Command]:
        """The inner addresses cannot be used."""
        return self._attaching.host_failed(why)

    def esp_not_carried(self, why: str) -> list[Command]:
        """What carries ESP refuses a child SA or its move: the connection ends."""
        connection = self._context.connection
        if connection is None or self._context.state is DeviceState.CLOSED:
            return []
        return self._context.give_up(connection, "esp-not-carried", f"ESP cannot be carried: {why}")

    # --- events of the IKE SA

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take an event of the IKE SA."""
        connection = self._context.connection
        if connection is None:
            return []
        if isinstance(event, EapRequestReceived):
            return self._attaching.eap_request(connection, event)
        if isinstance(event, Established):
            return self._attaching.established(connection, event, now)
        if isinstance(event, ChildSaInstalled):
            connection.children[event.spec.inbound_spi] = event.spec
            return [InstallChildSa(spec=event.spec, replaces=event.replaces, send_at_once=event.send_at_once)]
        if isinstance(event, AddressUpdateStarted):
            # a gateway may send there as soon as it has the request (RFC 4555 §3.7), before its response is read here
            return [
                ExpectChildSa(inbound_spi=spi, path=event.new, encapsulation=event.nat.encapsulation)
                for spi in connection.children
            ]
        if isinstance(event, ChildSaPathChanged):
            return [UpdateChildSa(inbound_spi=event.inbound_spi, path=event.path, encapsulation=event.encapsulation)]
        if isinstance(event, ChildSaRetired):
            known = event.inbound_spi in connection.children
            return [RetireChildSa(inbound_spi=event.inbound_spi)] if known else []
        if isinstance(event, ChildSaRemoved):
            return self._child_removed(connection, event)
        if isinstance(event, AddressesUpdated):
            return self._moves.updated(connection, event, now)
        if isinstance(event, AddressUpdateFailed):
            return self._moves.update_refused(connection, event, now)
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
            self._context.session = None  # RFC 5723 §6.2: "When the IKE SA is rekeyed, the ticket is invalidated"
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
            return self._moves.suspected(connection)
        if isinstance(event, PathValidated):
            return self._moves.end_test(connection)
        if isinstance(event, Refused):
            return self._attaching.refused(connection, event, now)
        if isinstance(event, Redirected):
            return self._redirects.received(connection, event)
        if isinstance(event, RedirectIgnored):
            text = f"A redirect to {event.gateway or 'an unknown kind of gateway'} was not obeyed: {event.why}."
            gateway = None if event.gateway is None else str(event.gateway)
            return [Tell(name="redirect-ignored", text=text, data={"gateway": gateway, "why": event.why})]
        if isinstance(event, TicketReceived):
            self._context.session = event.session
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
        connection, attempt = self._context.connection, self._context.reauthentication
        if connection is None or attempt is None:
            return []
        try:
            granted = Granted.of(event.configuration if isinstance(event, Established) else ())
        except RemoteError:
            granted = Granted()
        commands = attempt.handle(event, granted.addresses)
        if attempt.over:
            self._context.reauthentication = None
        if attempt.succeeded and isinstance(event, Established):
            self._context.session = None  # the ticket goes with the former SA; the new one brings its own
            connection.authentication = attempt.authentication
            connection.children |= {spec.inbound_spi: spec for spec in attempt.children}
            connection.gateway_addresses = attempt.gateway_addresses
            connection.mobike, connection.nat, connection.path = event.mobike, event.nat, event.path
        return commands

    def adopted(self, signalling: Signalling) -> list[Command]:
        """The second IKE SA has taken over."""
        if self._context.connection is not None:
            self._context.connection.continued(signalling)
        return []

    def _reauthenticate(self, connection: Connection) -> list[Command]:
        """Not while the UE moves: the event comes again."""
        if (
            self._context.state is not DeviceState.ESTABLISHED
            or connection.move is not None
            or self._context.reauthentication
        ):
            return []
        if connection.access not in self._context.open or connection.path is None:
            return []
        self._context.reauthentication = Reauthentication(self._context.authenticator, connection.addresses)
        return self._context.reauthentication.begin(connection.access, connection.path.remote.address)

    def _child_removed(self, connection: Connection, event: ChildSaRemoved) -> list[Command]:
        """Without its last child SA a UE is attached and has no traffic, which is legal (RFC 7296 §1.4.1)."""
        if connection.children.pop(event.inbound_spi, None) is None:
            return []
        removed: list[Command] = [RemoveChildSa(inbound_spi=event.inbound_spi)]
        if not connection.children and not event.with_ike_sa and self._context.state is DeviceState.ESTABLISHED:
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

    # --- the end

    def _closed(self, connection: Connection, event: Closed, now: float) -> list[Command]:
        commands: list[Command] = []
        why = event.why
        if event.by_peer or connection.detach_requested or connection.deleting:
            self._context.session = None  # RFC 5723 §6.2: the ticket goes with an SA that was deleted
        if connection.move is not None:
            commands += self._moves.end(connection.move, MoveOutcome.FAILED, why, now)
        if connection.redirect is not None and not connection.detach_requested:
            return commands + self._redirects.follow(connection, connection.redirect, now)
        if self._context.state is DeviceState.ATTACHING:
            text = connection.turned_away or unfinished(connection, self._attaching.where(connection), event)
            selection = connection.selection
            if selection is not None and selection.candidate is not None:
                return commands + self._attaching.elsewhere(connection, selection, text, now)
            connection.unanswered = not event.by_peer
            commands += self._context.fail_attach(
                connection,
                "no response",
                text,
                by_peer=event.by_peer,
                reason="ended-by-gateway" if event.by_peer else "no-response",
                facts=silence_facts(connection, self._attaching.where(connection), event),
            )
        if connection.established is not None:
            # the host was still being started, or the SA would be in use
            commands += self._context.fail_attach(
                connection,
                "ended",
                f"the connection ended before it could be used: {why}",
                by_peer=event.by_peer,
                reason="ended-by-gateway" if event.by_peer else "ended",
            )
            name = "detached" if connection.detach_requested or event.by_peer else "connection-lost"
            commands.append(
                Tell(
                    name=name,
                    text=f"Detached from {self._context.apn}: {why}.",
                    data={"why": why, "by_peer": event.by_peer, "access": connection.access},
                )
            )
            if name == "connection-lost":
                connection.last_error = (name, why)
        commands += self._context.end(connection, now)
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
        assert self._context.connection is not None
        self._context.connection.reactivations = row + 1
        text = "The network has ended the connection and wants the UE to attach again."
        return [Tell(name="reactivating", text=text, data={"reactivations": row + 1}), *commands]
