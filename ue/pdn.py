"""One PDN connection of a UE at work: its device, its IKE SA, its data plane, what goes through it.

It carries out what the device says and brings the answers back. Inner packets are ``ue.tunnel``'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from math import isfinite

from protocols.dataplane.userspace.clients import StreamKind
from protocols.dataplane.userspace.host import FlowKind
from protocols.errors import BackendError, LocalError, StackError
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.events import (
    AddressesUpdated,
    Answer,
    ChildSaRemoved,
    Closed,
    EapReply,
    EapRequestReceived,
    Event,
    IkeSaRekeyed,
    PathSuspected,
    SaState,
    SuccessorCreated,
)
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.io.control import ControlError
from protocols.io.platform import Platform
from protocols.path import Address, Endpoint, Path
from protocols.threegpp.observation import record_esp_keys, record_ike_event
from protocols.threegpp.swu import DeviceSwu
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue.authentication import Authenticator, EmergencyAuthenticator
from ue.backoff import FileBackOff
from ue.commands import (
    AdoptSuccessor,
    AnswerIke,
    AnswerSuccessor,
    AskUsim,
    CloseAccess,
    Command,
    Connect,
    ConnectSuccessor,
    DeleteSa,
    DropSuccessor,
    Finished,
    InstallChildSa,
    KeepBackOff,
    KeepTemporaryIdentities,
    MoveSa,
    OpenAccess,
    RemoveChildSa,
    Resolve,
    RetireChildSa,
    StartHost,
    StopHost,
    SuspendSa,
    Tell,
    UpdateChildSa,
    UseAddresses,
)
from ue.config import UeConfiguration
from ue.connection import Move, MoveOutcome
from ue.context import DeviceState
from ue.initiator import Initiator
from ue.observation import counters_view, record_eap, session_view
from ue.profile import (
    authenticator,
    device,
    initiator_config,
    state_directory,
)
from ue.swu import Swu
from ue.temporary import TemporaryIdentityStore
from ue.traffic import DEFAULT_RATE, Flow, Flows
from ue.tunnel import Tunnel
from ue.usim import Usim
from ue.usim_questions import UsimQuestions

_log = logging.getLogger(__name__)


class Pdn:
    """A PDN connection, attached or not; ``name`` is its APN."""

    def __init__(
        self,
        configuration: UeConfiguration,
        *,
        swu: Swu,
        platform: Platform,
        recorder: Recorder,
        usim: Usim | None,
        temporary: TemporaryIdentityStore,
        ike_config: InitiatorConfig | None = None,
        told: Callable[[Pdn, Tell], None] = lambda pdn, tell: None,
        preferred: Callable[[], str | None] = lambda: None,
        beside: Pdn | None = None,
    ) -> None:
        """``ike_config`` where it is known already.

        ``beside``: the first connection of the same UE, with which it shares what EAP has left.
        """
        self.configuration = configuration
        self.name = configuration.apn
        self.recorder = recorder
        self._swu = swu
        self._endpoint = swu.endpoint
        self._told = told
        self._preferred = preferred
        self.wall_offset = platform.clock.wall() - platform.clock.monotonic()
        self.ike_config = ike_config or initiator_config(configuration, platform.clock.moment)
        self._temporary = temporary
        self._initiator = Initiator(configuration, self.ike_config)
        self._resolver = platform.resolver(configuration.dns.settings(), platform.clock.monotonic)
        self.dropped_notifies: Counter[str] = Counter()
        kept = configuration.imsi if beside is None else f"{configuration.imsi}-{configuration.apn}"
        self._back_off = FileBackOff(state_directory(configuration) / f"back-off-{kept}.json")
        shared = None if beside is None else beside._authenticator
        self._authenticator: Authenticator | EmergencyAuthenticator = shared or authenticator(
            configuration, platform.entropy, temporary.load()
        )
        back_off = self._back_off.read(self.wall_offset)
        self.device = device(configuration, self.ike_config, platform.entropy, self._authenticator, back_off)
        self._sa: IkeSa | None = None
        self._successor: IkeSa | None = None  # authenticates anew
        self._sessions: dict[bytes, str] = {}
        self.tunnel = Tunnel(
            configuration,
            self.device,
            swu=swu,
            recorder=recorder,
            numbers=count(1) if beside is None else beside.flows.numbers,
            has_default_route=beside is None,
            sa=lambda: self._sa,
            carry_out=self._carry_out,
            suspect=self.suspect_path,
        )
        self._usim: UsimQuestions | None = (
            None
            if usim is None
            else UsimQuestions(
                usim,
                swu=swu,
                asker=lambda: (self._sa, self._successor),
                answered=lambda result: self._carry_out(self.device.usim_answered(result)),
                failed=lambda why: self._carry_out(self.device.usim_failed(why)),
            )
        )
        self._commands: deque[Command] = deque()
        self._carrying_out = False
        self._lookups: set[asyncio.Task[None]] = set()
        self._tickets = count(1)
        self._waiting: dict[int, asyncio.Future[str | None]] = {}
        self.idle = asyncio.Event()
        self.idle.set()
        self.busy = asyncio.Event()

    def _extension(self) -> DeviceSwu:
        """The 3GPP part of an IKE SA of this connection's."""
        return DeviceSwu(
            imei=self.configuration.imei,
            server_authenticated=lambda: self.device.server_authenticated,
            p_cscf_reselection=self.configuration.request.p_cscf_reselection,
            pdu_session=self.configuration.request.pdu_session,
            only_allowed=self.device.only_allowed,
            back_off=self.device.back_off_received,
            reactivation=self.device.reactivation_received,
            emergency_support=self.device.emergency_support_received,
            dropped=self.dropped_notifies,
        )

    def leave(self) -> None:
        """Begin to detach if there is anything to detach from."""
        if self.device.state in (DeviceState.ATTACHING, DeviceState.ESTABLISHED):
            self._carry_out(self.device.detach(next(self._tickets), self._now()))

    def close(self) -> None:
        """Let go of everything, without a word to the gateway where it has not answered."""
        for lookup in self._lookups:
            lookup.cancel()
        self.tunnel.close()
        if self._sa is not None and self._sa.state is not SaState.CLOSED:
            self._endpoint.close(self._sa, "the UE stops", self._now())
            self._swu.pump()

    def suspect_path(self) -> None:
        """Find out now whether the path works (RFC 4555 §3.5)."""
        if self._sa is not None:
            self._endpoint.suspect(self._sa, self._now())
            self._swu.pump()

    # --- what a person asks for

    async def attach(
        self,
        access: str | None = None,
        *,
        force: bool = False,
        again: bool = False,
        previous: tuple[Address, ...] | None = None,
    ) -> None:
        """Attach; returns when the UE is attached, ``ControlError`` says in one sentence why it is not.

        ``force``: even though the network has asked to be left alone (BACKOFF_TIMER). ``again``: nobody has asked.
        ``previous``: inner addresses to keep (handover), in place of those configured.
        """
        name = access or self._preferred() or next(iter(self.configuration.accesses))
        gateway = self.configuration.gateway
        known = {each.version for each in gateway.addresses}
        if gateway.selection is None and self.configuration.accesses[name].address.version not in known:
            raise ControlError("refused", f"the gateway {gateway.address} cannot be reached from access {name}")
        if previous is not None:
            versions = self.configuration.pdn_type.versions
            if len({each.version for each in previous}) != len(previous) or any(
                each.version not in versions for each in previous
            ):
                raise ControlError("bad-params", "handover: at most one address of each IP version of pdn_type")
        self._tell_of_back_off(force)
        await self._wait_for(
            "refused",
            lambda ticket: self.device.attach(name, ticket, self._now(), force=force, again=again, previous=previous),
        )

    def _tell_of_back_off(self, force: bool) -> None:
        """That the network is not even asked stands in the trace, too."""
        back_off, now = self.device.back_off, self._now()
        why = None if force or back_off is None else back_off.refusal(now)
        if why is None or back_off is None or self.device.state not in (DeviceState.IDLE, DeviceState.CLOSED):
            return
        left = round(back_off.until - now, 3) if isfinite(back_off.until) else None
        data: dict[str, JsonValue] = {"cause": back_off.cause, "seconds": left, "apn": self.device.apn}
        session = self._session() or self.device.imsi.digits
        self.recorder.event("attach-held-back", f"The UE does not attach: {why}.", data, session)

    async def move(self, to: str, *, keep_old: bool = False, again: bool = False) -> Move:
        """Move to an access; returns the measures when the gateway has agreed. ``again``: its address has changed."""
        connection = self.device.connection
        if connection is not None and self.device.state is DeviceState.ESTABLISHED and not self.device.can_move:
            text = f"The UE cannot move to {to}: the gateway does not support MOBIKE."
            self.recorder.event("move-impossible", text, {"from": connection.access, "to": to}, self._session())
        await self._wait_for(
            "move-failed",
            lambda ticket: self.device.move(to, ticket, self._now(), keep_old=keep_old, again=again),
        )
        assert connection is not None  # or the move had been refused
        return next(move for move in reversed(connection.moves) if move.outcome is MoveOutcome.COMPLETED)

    async def attach_anew(self, to: str, *, reachable: bool) -> None:
        """Go to another access without MOBIKE: by an attach there that asks for the inner addresses (handover).

        ``reachable``: the gateway can be told on the old one. ``ControlError`` when the attach fails: nothing is left.
        """
        connection, sa = self.device.connection, self._attached_sa()
        assert connection is not None
        previous, old = connection.addresses, connection.access
        text = f"The gateway does not support MOBIKE: the UE leaves {old} and attaches on {to} with its addresses."
        self.recorder.event("attaching-anew", text, {"from": old, "to": to}, self._session())
        _log.info("%s", text)
        if reachable:
            await self.detach()
        else:
            self._endpoint.close(sa, f"{old} is gone", self._now())
            self._swu.pump()
        await self.idle.wait()
        await self.attach(to, again=True, previous=previous)

    async def detach(self) -> None:
        """Detach; returns when the gateway has answered or is given up."""
        await self._wait_for("detach-failed", lambda ticket: self.device.detach(ticket, self._now()))

    def _rekey_after_move(self, event: AddressesUpdated) -> None:
        """As a UE does whose data plane cannot send an ESP SA by another path (kernel-libipsec)."""
        if event.new != event.old and self._sa is not None and self._sa.children:
            self.rekey_child()

    def rekey_ike(self) -> None:
        """Begin to rekey the IKE SA (RFC 7296 §1.3.2)."""
        self._endpoint.initiate(self._attached_sa(), RekeyIke(), self._now())
        self._swu.pump()

    def rekey_child(self, inbound_spi: str | None = None) -> list[str]:
        """Begin to rekey a child SA, without an SPI all of them (RFC 7296 §1.3.3); which ones it were."""
        sa = self._attached_sa()
        spis = [spi for spi, one in sa.children.items() if not one.replaced and inbound_spi in (None, spi.hex())]
        if not spis:
            raise ControlError("not-found", f"there is no child SA {inbound_spi}")
        for spi in spis:
            self._endpoint.initiate(sa, RekeyChild(spi), self._now())
        self._swu.pump()
        return [spi.hex() for spi in spis]

    def _attached_sa(self) -> IkeSa:
        if self.device.state is not DeviceState.ESTABLISHED:
            raise LocalError("the UE is not attached")
        return self._require_sa()

    def suspend(self) -> None:
        """Leave every access; the next move brings the UE back (RFC 4621 §5.4)."""
        self._carry_out(self.device.suspend(self._now()))

    def recheck(self) -> None:
        """Tell the gateway of the addresses in use once more, which looks for NATs (RFC 4555 §3.8)."""
        self._carry_out(self.device.recheck())

    def check_liveness(self) -> None:
        """Find out now whether the gateway can be reached (RFC 7296 §2.4)."""
        self._attached_sa()
        self.suspect_path()

    def release(self, name: str) -> None:
        """Close an access that is open and not in use."""
        connection = self.device.connection
        if name in self.device.open_accesses and connection is not None and connection.access != name:
            self.close_access(name)

    def close_access(self, name: str) -> None:
        """Close an access that a move has kept open, or cut the one in use off."""
        self._carry_out(self.device.close_access(name))

    async def _wait_for(self, code: str, begin: Callable[[int], list[Command]]) -> None:
        ticket = next(self._tickets)
        outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        commands = begin(ticket)  # LocalError: not possible now
        self._waiting[ticket] = outcome
        try:
            self._carry_out(commands)
            failure = await outcome
        finally:
            self._waiting.pop(ticket, None)
        if failure is not None:
            raise ControlError(code, failure)

    # --- IKE

    def _now(self) -> float:
        return self._swu.now()

    def wall(self, moment: float) -> float:
        """The wall clock at a moment of the monotonic one."""
        return moment + self.wall_offset

    def ike_event(self, sa: IkeSa, event: Event) -> None:
        """An IKE SA of this connection's says something."""
        session = self._session_of(sa)
        record_ike_event(self.recorder, event, session)
        if isinstance(event, EapRequestReceived):
            record_eap(self.recorder, event.packet, direction="in", peer=str(sa.path.remote), session=session)
        if isinstance(event, SuccessorCreated):
            self._sessions[event.successor.local_spi] = session
        if sa is self._successor:
            self._carry_out(self.device.handle_successor(event))
            if isinstance(event, Closed):
                self._successor = None
                self._sessions.pop(sa.local_spi, None)
            return
        if sa is not self._sa and not isinstance(event, ChildSaRemoved):
            if isinstance(event, Closed):
                self._sessions.pop(sa.local_spi, None)
            return
        if isinstance(event, IkeSaRekeyed):
            self._sa = event.successor
        if isinstance(event, AddressesUpdated):
            self.tunnel.moved()
        if isinstance(event, PathSuspected) and self.device.connection is not None:
            heard_at = max(sa.mobility.heard_at, self.tunnel.heard_at or 0.0)
            self.device.connection.silence = self._now() - heard_at
        self._carry_out(self.device.handle(event, self._now()))
        if isinstance(event, AddressesUpdated) and self.configuration.ike.rekey_after_move:
            self._rekey_after_move(event)

    def unreachable(self, sa: IkeSa, remote: Endpoint) -> None:
        """ICMP says that a request of an IKE SA of this connection's has not arrived."""
        if sa is self._sa:
            self._carry_out(self.device.unreachable(remote, self._now()))

    # --- what the device says

    def _carry_out(self, commands: list[Command]) -> None:
        """In order; what a command brings forth comes before what stands behind it."""
        self._commands.extendleft(reversed(commands))
        if self._carrying_out:
            return
        self._carrying_out = True
        try:
            while self._commands:
                self._carry_out_one(self._commands.popleft())
        finally:
            self._carrying_out = False
            self._commands.clear()  # what stood behind a command that failed was meant for after it
        if self.device.state in (DeviceState.IDLE, DeviceState.CLOSED):
            self.idle.set()
            self.busy.clear()
        else:
            self.idle.clear()
            self.busy.set()
        self._swu.pump()

    def _carry_out_one(self, command: Command) -> None:
        match command:
            case OpenAccess():
                self._open_access(command.access)
            case CloseAccess():
                self._swu.accesses.close(command.access, self)
            case Connect():
                self._connect(command)
            case Resolve():
                assert self._swu.tasks is not None
                task = self._swu.tasks.create_task(self._resolve(command))
                self._lookups.add(task)
                task.add_done_callback(self._lookups.discard)
            case ConnectSuccessor():
                self._connect_successor(command)
            case AnswerSuccessor():
                if self._successor is not None:
                    self._answer(self._successor, command.answer)
            case AdoptSuccessor():
                self._adopt_successor()
            case DropSuccessor():
                self._delete(command.why, self._successor)
                self._successor = None
            case MoveSa():
                self._endpoint.move(self._require_sa(), command.path, self._now(), old_gone=command.old_gone)
            case SuspendSa():
                self._endpoint.suspend(self._require_sa(), self._now())
            case UseAddresses():
                self._endpoint.set_addresses(self._require_sa(), command.addresses, self._now(), tell=False)
            case DeleteSa():
                self._delete(command.why, self._sa)
            case AskUsim():
                assert self._usim is not None  # authentication by EAP needs one
                self._usim.ask(command.rand, command.autn)
            case KeepTemporaryIdentities():
                self._keep_temporary_identities(command)
            case AnswerIke():
                self._answer(self._require_sa(), command.answer)
            case InstallChildSa() | UpdateChildSa() | RetireChildSa() | RemoveChildSa():
                try:
                    self._child_sa(command)
                except StackError as error:
                    self._not_carried(error)
            case StartHost():
                self.tunnel.start_host(command.addresses)
            case StopHost():
                self.tunnel.stop_host()
            case KeepBackOff():
                self._keep_back_off(command)
            case Tell():
                _log.info("%s", command.text)
                self.recorder.event(command.name, command.text, command.data, self._session() or None)
                self._told(self, command)
            case Finished():
                waiting = self._waiting.get(command.ticket)
                if waiting is not None and not waiting.done():
                    waiting.set_result(command.failure)

    def _child_sa(self, command: InstallChildSa | UpdateChildSa | RetireChildSa | RemoveChildSa) -> None:
        """``StackError``: what carries ESP refuses."""
        match command:
            case InstallChildSa():
                self.tunnel.install(command)
                self._swu.adopt_child(command.spec.inbound_spi, self)
                record_esp_keys(self.recorder, command.spec, command.spec.path, self._session())
            case UpdateChildSa():
                spec = self.tunnel.update(command)
                if spec is not None:
                    record_esp_keys(self.recorder, spec, command.path, self._session())
            case RetireChildSa():
                self.tunnel.retire(command.inbound_spi)
            case RemoveChildSa():
                self._swu.drop_child(command.inbound_spi)
                self.tunnel.remove(command.inbound_spi)

    def _not_carried(self, error: StackError) -> None:
        """The kernel without an algorithm, say: the connection ends."""
        self.recorder.event("esp-not-carried", f"ESP cannot be carried: {error}.", {"why": str(error)}, self._session())
        _log.error("ESP cannot be carried: %s", error)
        self._carry_out(self.device.esp_not_carried(str(error)))

    def _keep_back_off(self, command: KeepBackOff) -> None:
        try:
            self._back_off.write(command.back_off, self.wall_offset)
        except BackendError as error:
            _log.error("%s", error)

    def _session(self) -> str:
        return "" if self._sa is None else self._session_of(self._sa)

    def _session_of(self, sa: IkeSa) -> str:
        """A session is named by its first IKE SA, whatever rekeying has made of that."""
        return self._sessions.get(sa.local_spi, sa.local_spi.hex())

    def _require_sa(self) -> IkeSa:
        if self._sa is None:
            raise LocalError("there is no IKE SA")
        return self._sa

    def inbound_packets(self, spi: bytes) -> int:
        """How many packets of a child SA have shown that the gateway lives."""
        return self.tunnel.evidence(spi)

    async def _resolve(self, command: Resolve) -> None:
        resolution = await self._resolver.resolve(command.name, command.kinds)
        self._carry_out(self.device.resolved(resolution, self._now()))

    def _connect(self, command: Connect) -> None:
        ports = self.device.ports(command.access)
        config, path = self._initiator.first(command, ports, alone=self._swu.is_alone(self))
        self._sa = None
        self.tunnel.begin()
        self._sa = self._swu.connect(self, config, path, self._extension())
        self._carry_out(self.device.connected(self._sa.window))

    def _connect_successor(self, command: ConnectSuccessor) -> None:
        config, path = self._initiator.successor(command, self.device.ports(command.access))
        self._successor = self._swu.connect(self, config, path, self._extension())
        self._sessions[self._successor.local_spi] = self._session()

    def _adopt_successor(self) -> None:
        former, self._sa, self._successor = self._sa, self._successor, None
        self._carry_out(self.device.adopted(self._require_sa().window))
        self._delete("replaced by one that was authenticated anew", former)

    def _delete(self, why: str, sa: IkeSa | None) -> None:
        if sa is None or sa.state is SaState.CLOSED:
            return
        if sa.state in (SaState.INITIAL, SaState.INIT_SENT) or sa.mobility.suspended:
            self._endpoint.close(sa, why, self._now())
        elif sa.state is not SaState.DELETING:
            self._endpoint.initiate(sa, DeleteIkeSa(why), self._now())

    def _keep_temporary_identities(self, command: KeepTemporaryIdentities) -> None:
        """A file that cannot be written costs a full authentication later, not this one."""
        try:
            self._temporary.save(command.held)
        except StackError as error:
            _log.error("%s", error)
            text = f"The UE's temporary identities could not be kept: {error}."
            self.recorder.event("temporary-identities-not-kept", text)

    def _answer(self, sa: IkeSa, reply: Answer) -> None:
        if isinstance(reply, EapReply) and reply.packet is not None:
            peer, session = str(sa.path.remote), self._session()
            record_eap(self.recorder, reply.packet, direction="out", peer=peer, session=session)
        self._endpoint.answer(sa, reply, self._now())

    # --- accesses

    def _open_access(self, name: str) -> None:
        if self.device.state is DeviceState.ATTACHING and self._sa is not None:
            self._sessions.pop(self._sa.local_spi, None)
            self._sa = None  # what is said from here on belongs to the new connection
        try:
            ports = self._swu.accesses.open(name, self)
        except StackError as error:
            self._carry_out(self.device.access_failed(name, str(error), self._now()))
            return
        self._carry_out(self.device.access_opened(name, ports, self._now()))

    # --- inner packets

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """ESP for a child SA of this connection's."""
        self.tunnel.receive_esp(octets, path, traffic_class)

    @property
    def flows(self) -> Flows:
        """Traffic of the UE's own through this connection."""
        return self.tunnel.flows

    def start_traffic(
        self, kind: FlowKind | StreamKind, destination: Address, rate: float = DEFAULT_RATE, limit: int | None = None
    ) -> Flow:
        """Begin a flow; ``LocalError`` when there is no inner address for it."""
        return self.tunnel.start_flow(kind, destination, rate, limit)

    def stop_host(self) -> None:
        """Nothing goes through the tunnel any more."""
        self.tunnel.stop_host()

    def restore_name_servers(self) -> None:
        """What the resolver's file had before the UE wrote it, also when that was another process of this UE's."""
        self.tunnel.restore_name_servers()

    # --- views

    @property
    def access(self) -> str:
        """Where it is, or was last; ``LocalError`` before the first attach."""
        if self.device.connection is None:
            raise LocalError("the UE is not attached")
        return self.device.connection.access

    @property
    def subscriber(self) -> str:
        """The IMSI."""
        return self.configuration.imsi

    @property
    def sa(self) -> IkeSa | None:
        """The present IKE SA."""
        return self._sa

    @property
    def esp_drops(self) -> Counter[str]:
        """ESP that was dropped, by reason."""
        return self.tunnel.drops

    def dropped_ike(self) -> Counter[str]:
        """What was dropped of IKE and of its notifies, by reason."""
        dropped = Counter(self.dropped_notifies)
        if self._sa is not None and self._sa.state is not SaState.CLOSED:
            dropped.update(self._sa.dropped)
        return dropped

    def session(self) -> dict[str, JsonValue] | None:
        """The present or last connection, ``None`` before the first."""
        connection = self.device.connection
        if connection is None:
            return None
        return session_view(
            self.device,
            connection,
            self._sa,
            self.tunnel.counters,
            self.wall,
            gateway=None if self._initiator.gateway is None else str(self._initiator.gateway),
            session=self._session(),
        )

    def child_counters(self) -> list[JsonValue]:
        """What each child SA has carried."""
        if self._sa is None:
            return []
        return [
            {"inbound_spi": spi.hex(), "counters": counters_view(self.tunnel.counters(spi))}
            for spi in self._sa.children
        ]

    def holdings(self) -> tuple[str, ...]:
        """What is still there of a connection; nothing once it has ended."""
        found = [f"child SA {spi.hex()}" for spi in self.tunnel.installed]
        for sa in (self._sa, self._successor):
            if sa is not None and sa.state is not SaState.CLOSED:
                found.append(f"IKE SA {sa.local_spi.hex()}")
        if self.tunnel.in_use:
            found.append("host of the inner addresses")
        return (*found, *(f"access {name}" for name in self.device.open_accesses))
