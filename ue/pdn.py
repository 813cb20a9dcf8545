"""One PDN connection of a UE: what it is composed of, what a person asks of it, what it shows.

::

    a person, IKE SAs, answers  ->  Device  ->  Execution  ->  IkeSas, Tunnel, Swu, USIM, files, trace
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from itertools import count
from math import inf, isfinite

from protocols.dataplane.observation import counters_view
from protocols.dataplane.userspace.clients import StreamKind
from protocols.dataplane.userspace.host import FlowKind
from protocols.errors import LocalError, StackError
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.events import (
    AddressesUpdated,
    ChildSaRemoved,
    Closed,
    EapRequestReceived,
    Event,
    IkeSaRekeyed,
    PathSuspected,
    SaState,
    SuccessorCreated,
)
from protocols.ikev2.sa import IkeSa
from protocols.io.control import ControlError
from protocols.io.platform import Platform
from protocols.path import Address, Endpoint, Path
from protocols.threegpp.observation import record_ike_event
from protocols.threegpp.swu import DeviceSwu
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue.authentication import Authenticator, EmergencyAuthenticator
from ue.backoff import FileBackOff
from ue.commands import Command, Tell
from ue.config import UeConfiguration
from ue.connection import Move, MoveOutcome
from ue.context import DeviceState
from ue.execution import Execution
from ue.ike_sas import IkeSas, Standing
from ue.initiator import Initiator
from ue.kept import Kept
from ue.observation import record_eap, session_view
from ue.profile import (
    authenticator,
    device,
    initiator_config,
    state_directory,
)
from ue.silence import HINT_INTERVAL
from ue.swu import Swu
from ue.temporary import TemporaryIdentityStore
from ue.tickets import Tickets
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
        has_default_route: bool = True,
    ) -> None:
        """``ike_config`` where it is known already.

        ``beside``: the first connection of the same UE, with which it shares what EAP has left.
        ``has_default_route``: as in ``Tunnel``.
        """
        self.configuration = configuration
        self.name = configuration.apn
        self.recorder = recorder
        self._swu = swu
        self._preferred = preferred
        self.wall_offset = platform.clock.wall() - platform.clock.monotonic()
        self.ike_config = ike_config or initiator_config(configuration, platform.clock.moment)
        self.dropped_notifies: Counter[str] = Counter()
        self._in_vain: tuple[Address, ...] | None = None  # addresses that an attach asked for, and nobody answered
        self._icmp_at = -inf  # the last ICMP error that was followed up
        kept_as = configuration.imsi if beside is None else f"{configuration.imsi}-{configuration.apn}"
        back_off = FileBackOff(state_directory(configuration) / f"back-off-{kept_as}.json")
        kept = Kept(back_off, temporary, self.wall_offset, recorder)
        shared = None if beside is None else beside._authenticator
        self._authenticator: Authenticator | EmergencyAuthenticator = shared or authenticator(
            configuration, platform.entropy, temporary.load()
        )
        self.device = device(configuration, self.ike_config, platform.entropy, self._authenticator, kept.back_off())
        initiator = Initiator(configuration, self.ike_config)
        self._ike = IkeSas(initiator, swu=swu, owner=self, extension=self._extension, recorder=recorder)
        self.tunnel = Tunnel(
            configuration,
            self.device,
            swu=swu,
            recorder=recorder,
            numbers=count(1) if beside is None else beside.flows.numbers,
            has_default_route=has_default_route,
            sa=lambda: self._ike.present,
            carry_out=self._carry_out,
            suspect=self._ike.suspect,
        )
        self._tickets = Tickets(self._carry_out)
        self._execution = Execution(
            self.device,
            ike=self._ike,
            tunnel=self.tunnel,
            swu=swu,
            owner=self,
            usim=None if usim is None else self._questions(usim),
            resolver=platform.resolver(configuration.dns.settings(), platform.clock.monotonic),
            kept=kept,
            tickets=self._tickets,
            recorder=recorder,
            told=lambda tell: told(self, tell),
        )
        self.idle, self.busy = self._execution.idle, self._execution.busy

    def _questions(self, usim: Usim) -> UsimQuestions:
        return UsimQuestions(
            usim,
            swu=self._swu,
            asker=lambda: (self._ike.present, self._ike.successor),
            answered=lambda result: self._carry_out(self.device.usim_answered(result)),
            failed=lambda why: self._carry_out(self.device.usim_failed(why)),
        )

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
            self._carry_out(self.device.detach(self._tickets.next(), self._now()))

    def close(self) -> None:
        """Let go of everything, without a word to the gateway where it has not answered."""
        self._execution.close()
        self.tunnel.close()
        self._ike.close("the UE stops")

    # --- what a person asks for

    async def attach(
        self,
        access: str | None = None,
        *,
        force: bool = False,
        again: bool = False,
        previous: tuple[Address, ...] | None = None,
        patience: float | None = None,
    ) -> None:
        """Attach; returns when the UE is attached, ``ControlError`` says in one sentence why it is not.

        ``force``: even though the network has asked to be left alone (BACKOFF_TIMER). ``again``: nobody has asked.
        ``previous``: inner addresses to keep (handover), in place of those configured. ``patience``: seconds for a
        gateway's first answer.
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
        wanted = self._in_vain if again and previous is None else previous
        try:
            await self._tickets.wait_for(
                "refused",
                lambda ticket: self.device.attach(
                    name, ticket, self._now(), force=force, again=again, previous=wanted, patience=patience
                ),
            )
        except LocalError:
            raise  # nobody was asked
        except StackError:
            attempt = self.device.connection
            unanswered = again and attempt is not None and attempt.unanswered
            self._in_vain = wanted if unanswered else None  # the gateway may have them still
            raise
        self._in_vain = None

    def _tell_of_back_off(self, force: bool) -> None:
        """That the network is not even asked stands in the trace, too."""
        back_off, now = self.device.back_off, self._now()
        why = None if force or back_off is None else back_off.refusal(now)
        if why is None or back_off is None or self.device.state not in (DeviceState.IDLE, DeviceState.CLOSED):
            return
        left = round(back_off.until - now, 3) if isfinite(back_off.until) else None
        data: dict[str, JsonValue] = {"cause": back_off.cause, "seconds": left, "apn": self.device.apn}
        session = self._ike.session or self.device.imsi.digits
        self.recorder.event("attach-held-back", f"The UE does not attach: {why}.", data, session)

    async def move(self, to: str, *, keep_old: bool = False, again: bool = False) -> Move:
        """Move to an access; returns the measures when the gateway has agreed. ``again``: its address has changed."""
        connection = self.device.connection
        if connection is not None and self.device.state is DeviceState.ESTABLISHED and not self.device.can_move:
            text = f"The UE cannot move to {to}: the gateway does not support MOBIKE."
            self.recorder.event("move-impossible", text, {"from": connection.access, "to": to}, self._ike.session)
        await self._tickets.wait_for(
            "move-failed",
            lambda ticket: self.device.move(to, ticket, self._now(), keep_old=keep_old, again=again),
        )
        assert connection is not None  # or the move had been refused
        return next(move for move in reversed(connection.moves) if move.outcome is MoveOutcome.COMPLETED)

    async def attach_anew(self, to: str, *, reachable: bool) -> None:
        """Go to another access without MOBIKE: by an attach there that asks for the inner addresses (handover).

        ``reachable``: the gateway can be told on the old one. ``ControlError`` when the attach fails: nothing is left.
        """
        self._require_attached()
        connection = self.device.connection
        assert connection is not None
        previous, old = connection.addresses, connection.access
        text = f"The gateway does not support MOBIKE: the UE leaves {old} and attaches on {to} with its addresses."
        self.recorder.event("attaching-anew", text, {"from": old, "to": to}, self._ike.session)
        _log.info("%s", text)
        if reachable:
            await self.detach()
        else:
            self._ike.close(f"{old} is gone")
        await self.idle.wait()
        await self.attach(to, again=True, previous=previous)

    async def detach(self) -> None:
        """Detach; returns when the gateway has answered or is given up."""
        await self._tickets.wait_for("detach-failed", lambda ticket: self.device.detach(ticket, self._now()))

    def give_up_attach(self, access: str, why: str) -> bool:
        """End an attach that is under way on an access, without a word; whether there was one."""
        connection = self.device.connection
        if connection is None or self.device.state is not DeviceState.ATTACHING or connection.access != access:
            return False
        self._carry_out(self.device.give_up_attach(why, self._now()))
        self._ike.close(why)
        return True

    def rekey_ike(self) -> None:
        """Begin to rekey the IKE SA (RFC 7296 §1.3.2)."""
        self._require_attached()
        self._ike.rekey_ike()

    def rekey_child(self, inbound_spi: str | None = None) -> list[str]:
        """Begin to rekey a child SA, without an SPI all of them (RFC 7296 §1.3.3); which ones it were."""
        self._require_attached()
        return self._ike.rekey_child(inbound_spi)

    def _require_attached(self) -> None:
        if self.device.state is not DeviceState.ESTABLISHED:
            raise LocalError("the UE is not attached")

    def suspend(self) -> None:
        """Leave every access; the next move brings the UE back (RFC 4621 §5.4)."""
        self._carry_out(self.device.suspend(self._now()))

    def recheck(self) -> None:
        """Tell the gateway of the addresses in use once more, which looks for NATs (RFC 4555 §3.8)."""
        self._carry_out(self.device.recheck())

    def check_liveness(self) -> None:
        """Find out now whether the gateway can be reached (RFC 7296 §2.4)."""
        self._require_attached()
        self._ike.suspect()

    def release(self, name: str) -> None:
        """Close an access that is open and not in use."""
        connection = self.device.connection
        if name in self.device.open_accesses and connection is not None and connection.access != name:
            self.close_access(name)

    def close_access(self, name: str) -> None:
        """Close an access that a move has kept open, or cut the one in use off."""
        self._carry_out(self.device.close_access(name))

    # --- IKE

    def _now(self) -> float:
        return self._swu.now()

    def wall(self, moment: float) -> float:
        """The wall clock at a moment of the monotonic one."""
        return moment + self.wall_offset

    def ike_event(self, sa: IkeSa, event: Event) -> None:
        """An IKE SA of this connection's says something."""
        session = self._ike.session_of(sa)
        record_ike_event(self.recorder, event, session)
        if isinstance(event, EapRequestReceived):
            record_eap(self.recorder, event.packet, direction="in", peer=str(sa.path.remote), session=session)
        if isinstance(event, SuccessorCreated):
            self._ike.belongs_to(event.successor, session)
        standing = self._ike.standing(sa)
        if standing is Standing.SUCCESSOR:
            self._carry_out(self.device.handle_successor(event))
        if standing is not Standing.PRESENT and isinstance(event, Closed):
            self._ike.forget(sa)
        if standing is Standing.PRESENT or (standing is Standing.FORMER and isinstance(event, ChildSaRemoved)):
            self._device_event(event)

    def _device_event(self, event: Event) -> None:
        if isinstance(event, IkeSaRekeyed):
            self._ike.present = event.successor
        if isinstance(event, AddressesUpdated):
            self.tunnel.moved()
        if isinstance(event, PathSuspected) and self.device.connection is not None:
            heard_at = max(self._ike.required().mobility.heard_at, self.tunnel.heard_at or 0.0)
            self.device.connection.silence = self._now() - heard_at
        self._carry_out(self.device.handle(event, self._now()))
        if isinstance(event, AddressesUpdated) and self.configuration.ike.rekey_after_move:
            self._rekey_after_move(event)

    def _rekey_after_move(self, event: AddressesUpdated) -> None:
        """As a UE does whose data plane cannot send an ESP SA by another path (kernel-libipsec)."""
        if event.new != event.old and self._ike.present is not None and self._ike.present.children:
            self.rekey_child()

    def unreachable(self, sa: IkeSa | None, remote: Endpoint) -> None:
        """ICMP says that a packet of an IKE SA of this connection's has not arrived; ``None``: one of ESP.

        Once the connection is up that is a hint, no more, and the gateway is asked (RFC 7296 §2.4, RFC 4621 §5.1.1).
        """
        present = self._ike.present
        if present is None or sa not in (None, present):
            return
        if self.device.state is not DeviceState.ESTABLISHED:
            self._carry_out(self.device.unreachable(remote, self._now()))
        elif present.path.remote.address == remote.address and self._now() - self._icmp_at >= HINT_INTERVAL:
            self._icmp_at = self._now()
            text = f"ICMP says that {remote} cannot be reached: the gateway is asked."
            self.recorder.event("icmp-error", text, {"remote": str(remote)}, self._ike.session)
            self._ike.suspect()

    def _carry_out(self, commands: list[Command]) -> None:
        self._execution.carry_out(commands)

    def inbound_packets(self, spi: bytes) -> int:
        """How many packets of a child SA have shown that the gateway lives."""
        return self.tunnel.evidence(spi)

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
        return self._ike.present

    def dropped_ike(self) -> Counter[str]:
        """What was dropped of IKE and of its notifies, by reason."""
        dropped = Counter(self.dropped_notifies)
        if self.sa is not None and self.sa.state is not SaState.CLOSED:
            dropped.update(self.sa.dropped)
        return dropped

    def session(self) -> dict[str, JsonValue] | None:
        """The present or last connection, ``None`` before the first."""
        connection = self.device.connection
        if connection is None:
            return None
        return session_view(
            self.device,
            connection,
            self.sa,
            self.tunnel.counters,
            self.wall,
            inner_device=self.tunnel.device_view,
            gateway=None if self._ike.initiator.gateway is None else str(self._ike.initiator.gateway),
            session=self._ike.session,
        )

    def child_counters(self) -> list[JsonValue]:
        """What each child SA has carried."""
        if self.sa is None:
            return []
        return [
            {"inbound_spi": spi.hex(), "counters": counters_view(self.tunnel.counters(spi))} for spi in self.sa.children
        ]

    def holdings(self) -> tuple[str, ...]:
        """What is still there of a connection; nothing once it has ended."""
        found = [f"child SA {spi.hex()}" for spi in self.tunnel.installed]
        for sa in (self._ike.present, self._ike.successor):
            if sa is not None and sa.state is not SaState.CLOSED:
                found.append(f"IKE SA {sa.local_spi.hex()}")
        if self.tunnel.in_use:
            found.append("host of the inner addresses")
        return (*found, *(f"access {name}" for name in self.device.open_accesses))
