"""At the end of any story of a UE and a gateway nothing is left: no address, AAA session, SA, port or open question.

The device and sessions of the nodes on virtual time, over two IKE end points, a lossy link and an AAA server that
takes its time: attach, detach, moves, pauses, rekeys, reauthentication, resumption, restoration, loss of the SA, and
an AAA server that ends sessions or has their profiles fetched anew.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

import pytest

from epdg.commands import (
    AllocateAddress,
    AnswerIke,
    AuthenticateAnew,
    Command,
    DeleteUe,
    ReleaseAddress,
    SendAar,
    SendConfiguration,
    SendDer,
    SendStr,
)
from epdg.pdn.configuration import GrantedNetwork
from epdg.pdn.pool import AddressPools
from epdg.session import Session, SessionState
from protocols.diameter.swm import Dea, ResultCode
from protocols.eap.aka import server as eap
from protocols.eap.packet import EapPacket, EapType
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.ikev2.config import Lifetime
from protocols.ikev2.events import (
    ChildSaInstalled,
    ChildSaRemoved,
    Closed,
    ConfigurationRequested,
    Event,
    IkeSaRekeyed,
    Resumed,
    SaState,
    SuccessorCreated,
)
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload
from protocols.ikev2.registry import ConfigAttributeType, IdType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.reauthentication import AuthenticationLifetime
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.ikev2.ticket import TicketOffice, TicketPolicy
from protocols.path import Address, Datagram
from protocols.secret import Secret
from tests.harness.pair import initiator_config, responder_config
from tests.machines.test_epdg_aaa_initiated import aaa
from tests.machines.test_epdg_session import POLICY, dea
from tests.machines.test_ue_device import NAI, P_CSCF, World
from ue.commands import Command as DeviceCommand
from ue.context import DeviceState

STEPS = 60
KINDS = (ConfigAttributeType.INTERNAL_IP4_ADDRESS, ConfigAttributeType.P_CSCF_IP4_ADDRESS)
NETWORK = GrantedNetwork(p_cscf=(P_CSCF,))


@dataclass(eq=False)
class Live:
    """A session, the SA that it is on, and which Diameter session it is at the AAA server."""

    session: Session
    sa: IkeSa
    diameter: int


class Nodes(World):
    """The gateway's end is sessions, pools and an AAA server instead of a script."""

    def __init__(self, seed: int) -> None:
        clock = TicketOffice(TicketPolicy(secret=Secret(bytes(32)), wall=lambda: 1_800_000_000.0))
        asked = tuple(ConfigurationAttribute(type=kind, value=b"") for kind in KINDS)
        patience = {"liveness_interval": 20.0, "hold_lifetime": 60.0}
        lifetimes = {"child_lifetime": Lifetime(soft=3.0), "ike_lifetime": Lifetime(soft=7.0)}
        super().__init__(
            ue_config=initiator_config(
                identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=NAI.encode()),
                configuration_request=asked,
                resumption=True,
                **patience,
            ),
            gateway_config=responder_config(tickets=clock, **patience, **lifetimes),
            accesses=("a", "b"),
        )
        self.random = random.Random(seed)
        self.policy = replace(POLICY, reactivation=bool(seed % 2))
        self.pools = AddressPools([IPv4Network("10.45.0.0/24")])
        self.live: dict[IkeSa, Live] = {}
        self.superseded: Live | None = None
        self.carried: set[bytes] = set()
        self.aaa: dict[int, eap.EapAkaServer] = {}
        self.begun: set[int] = set()
        self.loss = 0.0

    # --- the link, and the way to the AAA server

    def _arrive(self, sender: str, datagram: Datagram) -> None:
        if callable(datagram):
            datagram()
        elif self.random.random() >= self.loss:
            super()._arrive(sender, datagram)

    def later(self, work: Callable[[], None]) -> None:
        self._count += 1
        self._flying.append((self.now + self.random.choice((0.0, 0.02, 0.2)), self._count, "aaa", work))  # type: ignore[arg-type]
        self._flying.sort()

    # --- the gateway

    def _gateway_event(self, sa: IkeSa, event: Event) -> None:
        live = self.live.get(sa)
        if live is None:
            names: frozenset[str] = frozenset()
            session = Session(
                sa.local_spi.hex(), default_apn="internet", own_names=names, created=self.now, policy=self.policy
            )
            live = self.live[sa] = Live(session, sa, self._count)
            self._count += 1
        if isinstance(event, SuccessorCreated):
            self.live[event.successor] = live
        elif isinstance(event, IkeSaRekeyed):
            live.sa = event.successor
        elif isinstance(event, ChildSaInstalled):
            self.carried.add(event.spec.inbound_spi)
        elif isinstance(event, ChildSaRemoved):
            self.carried.remove(event.inbound_spi)
        if isinstance(event, Closed):
            del self.live[sa]
            if sa is not live.sa:
                return
        if isinstance(event, ConfigurationRequested) and event.initial_contact:
            self._forget_former(live)
        if isinstance(event, Resumed) and self.superseded is not None:
            former, self.superseded = self.superseded, None
            live.session.inherit(former.session)
            live.diameter = former.diameter
        self._command(live, live.session.handle(event, self.now))
        if isinstance(event, Closed):
            self.superseded = live if event.resumed else None

    def _forget_former(self, newcomer: Live) -> None:
        for former in dict.fromkeys(self.live.values()):
            if former is not newcomer and former.session.established is not None:
                self.gateway.close(former.sa, "INITIAL_CONTACT", self.now)
        while (found := self.gateway.poll_event()) is not None:
            self._gateway_event(*found)

    def _command(self, live: Live, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, AnswerIke):
                self.gateway.answer(live.sa, command.answer, self.now)
            elif isinstance(command, SendDer):
                self._der(live, command.eap_payload)
            elif isinstance(command, SendStr):
                assert live.diameter in self.aaa  # the AAA server has it, and is told once
                del self.aaa[live.diameter]
            elif isinstance(command, AllocateAddress):
                wanted = command.wanted
                held = tuple(address for address in wanted if address in self._held_beside(live))
                addresses = self.pools.allocate(command.versions, wanted=wanted, held=held)
                self._command(live, live.session.address_allocated(addresses, NETWORK))
            elif isinstance(command, ReleaseAddress):
                if command.address not in self._held_beside(live):
                    self.pools.release(command.address)
            elif isinstance(command, DeleteUe):
                self.gateway.initiate(live.sa, DeleteIkeSa(command.why, command.notifies), self.now)
            elif isinstance(command, AuthenticateAnew):
                self.gateway.initiate(live.sa, AuthenticationLifetime(0), self.now)
            elif isinstance(command, SendAar):
                self._aar(live)
            elif isinstance(command, SendConfiguration):
                task = ExchangeConfiguration(command.type, command.attributes)
                self.gateway.initiate(live.sa, task, self.now)

    def _held_beside(self, live: Live) -> set[Address]:
        others = (other.session for other in self.live.values() if other is not live)
        return {each for other in others if other.state is not SessionState.CLOSED for each in other.inner_addresses}

    def _der(self, live: Live, packet: bytes) -> None:
        def decide() -> None:
            answer = self._decide(live.diameter, packet)
            self.later(lambda: self._command(live, live.session.aaa_answered(answer)))

        self.later(decide)

    def _aar(self, live: Live) -> None:
        def decide() -> None:
            known = live.diameter in self.aaa
            answer = aaa(self.random.choice((2001, 2001, 2001, 5003)) if known else 5002)
            self.later(lambda: self._command(live, live.session.authorisation_answered(answer, self.now)))

        self.later(decide)

    def _aaa_asks(self, ask: Callable[[Session], tuple[ResultCode, list[Command]]]) -> None:
        """ASR or RAR for whatever sessions the AAA server has, whatever they are doing."""
        for live in dict.fromkeys(self.live.values()):
            code, commands = ask(live.session)
            assert code in (ResultCode.DIAMETER_SUCCESS, ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
            self._command(live, commands)

    def _decide(self, session: int, packet: bytes) -> Dea:
        response = EapPacket.decode(packet)
        if response.type == EapType.IDENTITY:
            self.aaa[session] = eap.EapAkaServer(entropy=SeededEntropy(session))
            self.aaa[session].start(response.data)
        else:
            self.aaa[session].receive(packet)
        while (event := self.aaa[session].poll_event()) is not None:
            if isinstance(event, eap.VectorRequested):
                self.aaa[session].answer_vector(self._vector(event.resynchronisation))
            elif isinstance(event, eap.PacketToSend):
                return dea(0, 1001, eap_payload=event.packet)
            elif isinstance(event, eap.Succeeded):
                return dea(0, 2001, eap_payload=event.packet, master_session_key=event.msk)
        del self.aaa[session]
        return dea(0, 4001)

    # --- what happens

    def step(self) -> None:
        """One thing that a person, the network or chance does; what is not possible now is refused in one line."""
        here = self.random.choice(("a", "b"))
        keep = self.random.random() < 0.5
        device, choice = self.device, self.random.choice
        things: tuple[Callable[[], object], ...] = (
            *2 * (lambda: self._begin(lambda ticket: device.move(here, ticket, self.now, keep_old=keep)),),
            lambda: self._begin(lambda ticket: device.detach(ticket, self.now)),
            lambda: self.carry_out(device.suspend(self.now)),
            lambda: self._ue_asks(RekeyIke()),
            lambda: self._ue_asks(*self._rekeys(self.sa)),
            lambda: self._gateway_asks(lambda live: (RekeyIke(),)),
            lambda: self._gateway_asks(lambda live: self._rekeys(live.sa)),
            *2 * (lambda: self._gateway_asks(lambda live: (AuthenticationLifetime(choice((0, 40))),)),),
            lambda: self._gateway_asks(self._operator_detaches),
            lambda: self._aaa_asks(Session.abort),
            lambda: self._aaa_asks(lambda session: session.reauthorise(choice((0, 0, 1)))),
            self._restore,
            self._lose,
            lambda: setattr(self, "loss", choice((0.0, 0.0, 0.1, 0.3))),
        )
        with contextlib.suppress(LocalError):
            if device.state in (DeviceState.IDLE, DeviceState.CLOSED) and choice((True, True, False)):
                self._begin(lambda ticket: device.attach(here, ticket, self.now))
            else:
                choice(things)()
        self.run(choice((0.0, 0.005, 0.015, 0.03, 0.5, 5.0)))

    def _begin(self, begin: Callable[[int], list[DeviceCommand]]) -> None:
        self.begun.add(self.ask_only(begin))

    def _rekeys(self, sa: IkeSa | None) -> tuple[Task, ...]:
        return () if sa is None else tuple(RekeyChild(spi) for spi in sa.children)

    def _ue_asks(self, *tasks: Task) -> None:
        if self.sa is not None and self.device.state is DeviceState.ESTABLISHED:
            for task in tasks:
                self.ue.initiate(self.sa, task, self.now)

    def _gateway_asks(self, tasks: Callable[[Live], tuple[Task, ...]]) -> None:
        for live in dict.fromkeys(self.live.values()):
            if live.session.state is SessionState.ESTABLISHED:
                for task in tasks(live):
                    self.gateway.initiate(live.sa, task, self.now)

    def _operator_detaches(self, live: Live) -> tuple[Task, ...]:
        live.session.detach()
        return (DeleteIkeSa("detached by the operator"),)

    def _restore(self) -> None:
        for live in dict.fromkeys(self.live.values()):
            self._command(live, live.session.restore_p_cscf((P_CSCF,)))

    def _lose(self) -> None:
        if self.sa is not None and self.sa.state is not SaState.CLOSED:
            self.ue.close(self.sa, "no response to our request", self.now)

    def finish(self) -> None:
        """The link is good again, the UE leaves, and time passes."""
        self.loss = 0.0
        self.run(5.0)
        if self.device.state in (DeviceState.ATTACHING, DeviceState.ESTABLISHED):
            self._begin(lambda ticket: self.device.detach(ticket, self.now))
        self.run(900.0)


@pytest.mark.parametrize("seed", [*range(12), 82])
def test_nothing_is_left_at_the_end_of_any_story(seed: int) -> None:
    nodes = Nodes(seed)
    for _ in range(STEPS):
        nodes.step()
    nodes.finish()
    assert nodes.device.state in (DeviceState.IDLE, DeviceState.CLOSED)
    assert set(nodes.finished) == nodes.begun  # nobody waits
    assert nodes.pools.in_use == 0
    assert nodes.aaa == {}
    assert nodes.live == {}
    assert nodes.ue.sas == nodes.gateway.sas == {}
    assert nodes.installed == {}
    assert nodes.carried == set()
    assert nodes.addresses == ()
    assert nodes.open == set()
    assert nodes.successor is None or nodes.successor.state is SaState.CLOSED
