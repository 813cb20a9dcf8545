"""What the device of a PDN connection says, carried out: on SWu, in the tunnel, at the USIM, in files, in the trace."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from protocols.errors import StackError
from protocols.io.dns import Resolver
from protocols.threegpp.observation import record_esp_keys
from protocols.trace.recorder import Recorder
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
    ExpectChildSa,
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
from ue.context import DeviceState
from ue.device import Device
from ue.ike_sas import IkeSas
from ue.kept import Kept
from ue.swu import SaOwner, Swu
from ue.tickets import Tickets
from ue.tunnel import Tunnel
from ue.usim_questions import UsimQuestions

_log = logging.getLogger(__name__)


class Execution:
    """``idle``: nothing of a connection is left; ``busy``: the contrary.

    ``owner``: of IKE SAs, child SAs and open accesses. ``usim``: none where nothing is asked of one. ``told``: an event
    that somebody may want to know.
    """

    def __init__(
        self,
        device: Device,
        *,
        ike: IkeSas,
        tunnel: Tunnel,
        swu: Swu,
        owner: SaOwner,
        usim: UsimQuestions | None,
        resolver: Resolver,
        kept: Kept,
        tickets: Tickets,
        recorder: Recorder,
        told: Callable[[Tell], None],
    ) -> None:
        self._device = device
        self._ike = ike
        self._tunnel = tunnel
        self._swu = swu
        self._owner = owner
        self._usim = usim
        self._resolver = resolver
        self._kept = kept
        self._tickets = tickets
        self._recorder = recorder
        self._told = told
        self._lookups: set[asyncio.Task[None]] = set()
        self._commands: deque[Command] = deque()
        self._carrying_out = False
        self.idle = asyncio.Event()
        self.idle.set()
        self.busy = asyncio.Event()

    def close(self) -> None:
        """No name is waited for any more."""
        for lookup in self._lookups:
            lookup.cancel()

    def carry_out(self, commands: list[Command]) -> None:
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
        if self._device.state in (DeviceState.IDLE, DeviceState.CLOSED):
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
                self._swu.accesses.close(command.access, self._owner)
            case Resolve():
                self._look_up(command)
            case Connect():
                self._tunnel.begin()
                sa = self._ike.connect(command, self._device.ports(command.access))
                self.carry_out(self._device.connected(sa.window))
            case ConnectSuccessor():
                self._ike.connect_successor(command, self._device.ports(command.access))
            case AnswerSuccessor():
                if self._ike.successor is not None:
                    self._ike.answer(self._ike.successor, command.answer)
            case AdoptSuccessor():
                former = self._ike.adopt_successor()
                self.carry_out(self._device.adopted(self._ike.required().window))
                self._ike.delete(former, "replaced by one that was authenticated anew")
            case DropSuccessor():
                self._ike.drop_successor(command.why)
            case MoveSa():
                self._ike.move(command)
            case SuspendSa():
                self._ike.suspend()
            case UseAddresses():
                self._ike.use_addresses(command)
            case DeleteSa():
                self._ike.delete(self._ike.present, command.why)
            case AskUsim():
                assert self._usim is not None  # authentication by EAP needs one
                self._usim.ask(command.rand, command.autn)
            case AnswerIke():
                self._ike.answer(self._ike.required(), command.answer)
            case InstallChildSa() | ExpectChildSa() | UpdateChildSa() | RetireChildSa() | RemoveChildSa():
                try:
                    self._child_sa(command)
                except StackError as error:
                    self._not_carried(error)
            case StartHost():
                self._tunnel.start_host(command.addresses)
            case StopHost():
                self._tunnel.stop_host()
            case KeepBackOff():
                self._kept.keep_back_off(command)
            case KeepTemporaryIdentities():
                self._kept.keep_temporary_identities(command)
            case Tell():
                _log.info("%s", command.text)
                self._recorder.event(command.name, command.text, command.data, self._ike.session or None)
                self._told(command)
            case Finished():
                self._tickets.finish(command)

    def _open_access(self, name: str) -> None:
        if self._device.state is DeviceState.ATTACHING:
            self._ike.part()
        try:
            ports = self._swu.accesses.open(name, self._owner)
        except StackError as error:
            self.carry_out(self._device.access_failed(name, str(error), self._swu.now()))
            return
        self.carry_out(self._device.access_opened(name, ports, self._swu.now()))

    def _look_up(self, command: Resolve) -> None:
        assert self._swu.tasks is not None
        task = self._swu.tasks.create_task(self._resolve(command))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _resolve(self, command: Resolve) -> None:
        resolution = await self._resolver.resolve(command.name, command.kinds)
        self.carry_out(self._device.resolved(resolution, self._swu.now()))

    def _child_sa(
        self, command: InstallChildSa | ExpectChildSa | UpdateChildSa | RetireChildSa | RemoveChildSa
    ) -> None:
        """``StackError``: what carries ESP refuses."""
        match command:
            case InstallChildSa():
                self._tunnel.install(command)
                self._swu.adopt_child(command.spec.inbound_spi, command.spec.outbound_spi, self._owner)
                record_esp_keys(self._recorder, command.spec, command.spec.path, self._ike.session)
            case ExpectChildSa():
                self._tunnel.expect(command)
            case UpdateChildSa():
                spec = self._tunnel.update(command)
                if spec is not None:
                    record_esp_keys(self._recorder, spec, command.path, self._ike.session)
            case RetireChildSa():
                self._tunnel.retire(command.inbound_spi)
            case RemoveChildSa():
                self._swu.drop_child(command.inbound_spi)
                self._tunnel.remove(command.inbound_spi)

    def _not_carried(self, error: StackError) -> None:
        """The kernel without an algorithm, say: the connection ends."""
        text = f"ESP cannot be carried: {error}."
        self._recorder.event("esp-not-carried", text, {"why": str(error)}, self._ike.session)
        _log.error("ESP cannot be carried: %s", error)
        self.carry_out(self._device.esp_not_carried(str(error)))
