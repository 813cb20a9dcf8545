"""The sessions of a gateway: what their IKE SAs tell goes to them, and what they say is carried out.

Those that are up or on their way are ``live``; the last of those that have ended can still be looked at.
"""

from __future__ import annotations

import asyncio
import logging

from epdg.child_sas import ChildSas
from epdg.commands import (
    AllocateAddress,
    AnswerIke,
    AuthenticateAnew,
    Command,
    DeleteUe,
    GrantTime,
    ReleaseAddress,
    SendAar,
    SendConfiguration,
    SendDer,
    SendStr,
    Tell,
)
from epdg.config import EpdgConfiguration, RedirectPoint
from epdg.figures import Durations
from epdg.live import Live, SubscriberSessions
from epdg.observation import session_view
from epdg.pdn.grants import Grants
from epdg.policy import ServicePolicy
from epdg.profile import service_policy
from epdg.session import Session, SessionState
from epdg.swm import SwmClient
from epdg.swu import Swu
from epdg.tally import Tally
from epdg.usage import UsageRecords
from protocols.errors import StackError
from protocols.ikev2.events import (
    ChildSaAnswer,
    ChildSaOffered,
    Closed,
    ConfigurationRequested,
    Event,
    IkeSaRekeyed,
    Resumed,
    SaState,
    SuccessorCreated,
)
from protocols.ikev2.redirection import Gateway
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.reauthentication import AuthenticationLifetime
from protocols.io.logging import SESSION
from protocols.io.platform import Clock
from protocols.threegpp.observation import record_ike_event
from protocols.threegpp.swu import GatewaySwu
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

LOGGED = frozenset(
    {
        "attached",
        "moved",
        "redirected",
        "refused",
        "address-update-failed",
        "p-cscf-restored",
        "authorisation-renewed",
        "authorisation-not-renewed",
        "dismissed",
        "detached",
    }
)
DETACH_INTERVAL = 2.0  # for UEs to answer DELETE when the gateway stops
CLOSED_KEPT = 200  # ended sessions that can still be looked at

_log = logging.getLogger(__name__)


class Sessions:
    """``live`` by the SPI of the first IKE SA, ``ended`` by id, as they were shown last."""

    def __init__(
        self,
        configuration: EpdgConfiguration,
        *,
        fqdn: str,
        swu: Swu,
        child_sas: ChildSas,
        grants: Grants,
        swm: SwmClient,
        subscribers: SubscriberSessions,
        clock: Clock,
        recorder: Recorder,
        tally: Tally,
        usage: UsageRecords,
    ) -> None:
        self._configuration = configuration
        self._fqdn = fqdn
        self._swu = swu
        self._child_sas = child_sas
        self._grants = grants
        self._swm = swm
        self._subscribers = subscribers
        self._clock = clock
        self._recorder = recorder
        self._tally = tally
        self._usage = usage
        self.policy = service_policy(configuration)
        self.durations = Durations()
        self.live: dict[bytes, Live] = {}
        self.ended: dict[str, dict[str, JsonValue]] = {}
        self._by_successor: dict[bytes, Live] = {}
        self._superseded: Live | None = None
        self._emptied = asyncio.Event()

    def use(self, configuration: EpdgConfiguration, policy: ServicePolicy) -> None:
        """Treat sessions that begin from now on so."""
        self._configuration, self.policy = configuration, policy

    def find(self, identifier: JsonValue) -> Live | None:
        """A live session by its id."""
        try:
            live = self.live.get(bytes.fromhex(identifier)) if isinstance(identifier, str) else None
        except ValueError:
            return None
        return live if live is not None and live.session.identifier == identifier else None

    def view(self, live: Live) -> dict[str, JsonValue]:
        """A session as the control interface shows it."""
        return session_view(
            live.session,
            live.sa,
            self._child_sas.counters,
            lambda moment: self._clock.wall() + moment - self._swu.now(),
            gateway=self._configuration.node,
            diameter_session_id=live.diameter_session_id,
        )

    # --- what IKE SAs tell

    def handle(self, found: tuple[IkeSa, Event]) -> None:
        """Take an event of an IKE SA; the first one of an SA begins a session."""
        sa, event = found
        live = self.live.get(sa.local_spi) or self._by_successor.get(sa.local_spi)
        if live is None:
            live = self._begin(sa)
        record_ike_event(self._recorder, event, live.session.identifier)
        if isinstance(event, SuccessorCreated):
            self._by_successor[event.successor.local_spi] = live
        elif isinstance(event, IkeSaRekeyed):
            live.sa = event.successor
        elif isinstance(event, Closed) and sa is not live.sa:
            self._by_successor.pop(sa.local_spi, None)
            return  # rekeyed: the session goes on under another SA
        live.tell(event)
        self.durations.follow(live, event, self._swu.now())
        refused: StackError | None = None
        try:
            self._child_sas.handle(live, event)
        except StackError as error:
            refused = error
        if isinstance(event, ChildSaOffered):
            self._swu.endpoint.answer(sa, ChildSaAnswer(refused is None), self._swu.now())
        if refused is not None:
            self._not_carried(live, refused, ends=not isinstance(event, ChildSaOffered) or not live.session.established)
        if isinstance(event, ConfigurationRequested) and event.initial_contact:
            self._forget_former(live)
        if isinstance(event, Resumed):
            self._inherit(live)
        device = live.sa.extension
        if isinstance(device, GatewaySwu) and device.device_identity is not None:
            live.session.device_identity = device.device_identity
        self.carry_out(live, live.session.handle(event, self._clock.wall()))
        if isinstance(event, Closed):
            self._superseded = live if event.resumed else None
            self._usage.ended(live, why=event.why, by_peer=event.by_peer, wall=self._clock.wall())
            self._end(live)

    def _not_carried(self, live: Live, error: StackError, *, ends: bool) -> None:
        """What carries ESP refuses a child SA or its move, the kernel without an algorithm, say.

        The session ends by it, but not where a UE that has a child SA already is refused another one.
        """
        text = f"ESP of {live.session.imsi or live.session.nai} cannot be carried: {error}."
        self._tally.totals["esp-not-carried"] += 1
        self._recorder.event("esp-not-carried", text, {"why": str(error)}, live.session.identifier)
        _log.error("%s", text, extra={SESSION: live.session.identifier})
        if ends and live.sa.state is not SaState.CLOSED:
            self.carry_out(live, live.session.not_carried(str(error)))

    def _forget_former(self, newcomer: Live) -> None:
        """RFC 7296 §2.4: with INITIAL_CONTACT all other SAs of that identity are dead; no DELETE is due.

        Only what was authenticated counts: a second tunnel that the UE sets up meanwhile goes on. Their end
        is carried out at once, so that the newcomer can have the address of a former session.
        """
        for former in self._subscribers.beside(newcomer):
            if former.session.established is not None:
                former.session.supersede()
                self._swu.endpoint.close(former.sa, "the UE started anew (INITIAL_CONTACT)", self._swu.now())
        while (found := self._swu.endpoint.poll_event()) is not None:
            self.handle(found)

    def _inherit(self, heir: Live) -> None:
        """The former SA of a resumed one has just ended: its Diameter session goes on under the new one."""
        former, self._superseded = self._superseded, None
        if former is None:
            return  # it was lost before, and the AAA server was told so
        heir.session.inherit(former.session)
        self._swm.inherit(heir, former)

    # --- their beginning and their end

    def _begin(self, sa: IkeSa) -> Live:
        session = Session(
            sa.local_spi.hex(),
            default_apn=self._configuration.default_apn,
            own_names=frozenset({self._fqdn}),
            created=self._clock.wall(),
            policy=self.policy,
            elsewhere=self._elsewhere(),
            congested=self._congested,
        )
        live = Live(session, sa, self._swm.new_session_id())
        self.live[sa.local_spi] = live
        self._swu.tell_if_others(sa)
        self._swm.register(live)
        self._tally.totals["sessions"] += 1
        return live

    def _elsewhere(self) -> Gateway | None:
        """Where a UE that comes now is sent when it is authenticated (RFC 5685 §6)."""
        redirect = self._configuration.ike.redirect
        if redirect is None or redirect.stage is not RedirectPoint.AUTHENTICATION:
            return None
        return redirect.gateway if len(self.live) >= redirect.threshold else None

    def _congested(self, who: str) -> bool:
        """Whether there are as many sessions as the gateway is to take, and none of this NAI's or subscriber's."""
        threshold = self._configuration.limits.congestion_threshold
        if threshold is None:
            return False
        up = [each.session for each in self.live.values() if each.session.state is SessionState.ESTABLISHED]
        return len(up) >= threshold and not any(who in (session.nai, session.subscriber) for session in up)

    def _granted_time(self, live: Live, seconds: int | None) -> None:
        """Session-Timeout (RFC 6733 §8.13), the first or another one."""
        if live.expiry is not None:
            live.expiry.cancel()
            live.expiry = None
        if seconds:
            live.expiry = asyncio.get_running_loop().call_later(seconds, self._expired, live)

    def _expired(self, live: Live) -> None:
        live.session.expire()
        self._swu.initiate(live.sa, DeleteIkeSa("the session time granted by the AAA server is over"))

    def _end(self, live: Live) -> None:
        del self.live[live.first_spi]
        self._subscribers.forget(live)
        self._by_successor.pop(live.sa.local_spi, None)
        if live.expiry is not None:
            live.expiry.cancel()
        self._swm.forget(live)
        if not self.live:
            self._emptied.set()
        if not live.session.nai and live.session.last_error is None:
            return  # nobody yet: another group was asked for, or nothing more came
        self.ended[live.session.identifier] = self.view(live)
        while len(self.ended) > CLOSED_KEPT:
            self.ended.pop(next(iter(self.ended)))

    async def let_go(self, why: str) -> None:
        """DELETE to every UE, STR for every session, a bounded wait for the UEs' answers."""
        now = self._swu.now()
        self._emptied.clear()
        for live in list(self.live.values()):
            live.session.detach("gateway-stops")
            self._swu.endpoint.initiate(live.sa, DeleteIkeSa(why), now)
        self._swu.pump()
        if self.live:
            try:
                async with asyncio.timeout(DETACH_INTERVAL):
                    await self._emptied.wait()
            except TimeoutError:
                _log.warning("%d UEs did not answer DELETE", len(self.live))
        for live in list(self.live.values()):
            self._swu.endpoint.close(live.sa, why, self._swu.now())
        self._swu.pump()

    # --- what they say

    def carry_out(self, live: Live, commands: list[Command]) -> None:
        """Do what a session says."""
        if live.first_spi in self.live:
            self._subscribers.follow(live)
        for command in commands:
            if isinstance(command, AnswerIke):
                self._swu.endpoint.answer(live.sa, command.answer, self._swu.now())
                self._swu.pump()
            elif isinstance(command, SendDer | SendAar | SendStr):
                self._swm.send(live, command)
            elif isinstance(command, AllocateAddress):
                self.carry_out(live, self._grants.grant(live, command))
            elif isinstance(command, DeleteUe):
                self._swu.initiate(live.sa, DeleteIkeSa(command.why, command.notifies))
            elif isinstance(command, AuthenticateAnew):
                self._swu.initiate(live.sa, AuthenticationLifetime(0))
            elif isinstance(command, GrantTime):
                self._granted_time(live, command.seconds)
            elif isinstance(command, SendConfiguration):
                self._swu.initiate(live.sa, ExchangeConfiguration(command.type, command.attributes))
            elif isinstance(command, ReleaseAddress):
                self._grants.release(live, command)
            elif isinstance(command, Tell):
                self._tell(live, command)

    def _tell(self, live: Live, told: Tell) -> None:
        self._tally.count(told)
        if told.name == "attached":
            self.durations.attached(live, self._swu.now())
        if told.name in LOGGED:
            _log.info("%s", told.text, extra={SESSION: live.session.identifier})
        self._recorder.event(told.name, told.text, told.data, live.session.identifier)
