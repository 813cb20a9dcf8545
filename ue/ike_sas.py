"""The IKE SAs of a PDN connection: the present one, and the one that authenticates anew and is to take its place.

A session is named by its first IKE SA, whatever rekeying and authenticating anew have made of that.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from protocols.errors import LocalError
from protocols.ikev2.events import Answer, EapReply, SaState
from protocols.ikev2.extension import Extension
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.io.control import ControlError
from protocols.trace.recorder import Recorder
from ue.commands import AccessPorts, Connect, ConnectSuccessor, MoveSa, UseAddresses
from ue.initiator import Initiator
from ue.observation import record_eap
from ue.swu import SaOwner, Swu


class Standing(Enum):
    """What an IKE SA is to the connection."""

    PRESENT = "present"
    SUCCESSOR = "successor"
    FORMER = "former"


class IkeSas:
    """``owner`` is told what they say; ``extension`` makes the 3GPP part of one."""

    def __init__(
        self,
        initiator: Initiator,
        *,
        swu: Swu,
        owner: SaOwner,
        extension: Callable[[], Extension],
        recorder: Recorder,
    ) -> None:
        self.initiator = initiator
        self._swu = swu
        self._owner = owner
        self._extension = extension
        self._recorder = recorder
        self.present: IkeSa | None = None
        self.successor: IkeSa | None = None
        self._names: dict[bytes, str] = {}

    def required(self) -> IkeSa:
        """The present one; ``LocalError`` without it."""
        if self.present is None:
            raise LocalError("there is no IKE SA")
        return self.present

    def standing(self, sa: IkeSa) -> Standing:
        """Which one it is."""
        if sa is self.successor:
            return Standing.SUCCESSOR
        return Standing.PRESENT if sa is self.present else Standing.FORMER

    # --- the session's name

    @property
    def session(self) -> str:
        """The name of the present session, empty before the first."""
        return "" if self.present is None else self.session_of(self.present)

    def session_of(self, sa: IkeSa) -> str:
        """The name of an IKE SA's session."""
        return self._names.get(sa.local_spi, sa.local_spi.hex())

    def belongs_to(self, sa: IkeSa, session: str) -> None:
        """An IKE SA goes on with a session that has begun with another."""
        self._names[sa.local_spi] = session

    def forget(self, sa: IkeSa) -> None:
        """One that is not the present one has ended."""
        self._names.pop(sa.local_spi, None)
        if sa is self.successor:
            self.successor = None

    def part(self) -> None:
        """What is said from here on belongs to a connection to come."""
        if self.present is not None:
            self._names.pop(self.present.local_spi, None)
            self.present = None

    # --- their beginning and their end

    def connect(self, command: Connect, ports: AccessPorts) -> IkeSa:
        """Begin that of an attach."""
        config, path = self.initiator.first(command, ports, alone=self._swu.is_alone(self._owner))
        self.present = None
        self.present = self._swu.connect(self._owner, config, path, self._extension())
        return self.present

    def connect_successor(self, command: ConnectSuccessor, ports: AccessPorts) -> None:
        """Begin the one that authenticates anew."""
        config, path = self.initiator.successor(command, ports)
        self.successor = self._swu.connect(self._owner, config, path, self._extension())
        self.belongs_to(self.successor, self.session)

    def adopt_successor(self) -> IkeSa | None:
        """It takes over; the former one, which is to be deleted."""
        former, self.present, self.successor = self.present, self.successor, None
        return former

    def drop_successor(self, why: str) -> None:
        """It does not take over."""
        self.delete(self.successor, why)
        self.successor = None

    def delete(self, sa: IkeSa | None, why: str) -> None:
        """End one, with a word to the gateway where there are keys to say it with."""
        if sa is None or sa.state is SaState.CLOSED:
            return
        if sa.state in (SaState.INITIAL, SaState.INIT_SENT) or sa.mobility.suspended:
            self._swu.endpoint.close(sa, why, self._swu.now())
        elif sa.state is not SaState.DELETING:
            self._swu.endpoint.initiate(sa, DeleteIkeSa(why), self._swu.now())

    def close(self, why: str) -> None:
        """End the present one without a word."""
        if self.present is not None and self.present.state is not SaState.CLOSED:
            self._swu.endpoint.close(self.present, why, self._swu.now())
            self._swu.pump()

    # --- what they are asked for

    def answer(self, sa: IkeSa, reply: Answer) -> None:
        """Answer the open question of one."""
        if isinstance(reply, EapReply) and reply.packet is not None:
            peer = str(sa.path.remote)
            record_eap(self._recorder, reply.packet, direction="out", peer=peer, session=self.session)
        self._swu.endpoint.answer(sa, reply, self._swu.now())

    def move(self, command: MoveSa) -> None:
        """To another path (RFC 4555 §3.5)."""
        self._swu.endpoint.move(self.required(), command.path, self._swu.now(), old_gone=command.old_gone)

    def suspend(self) -> None:
        """Send nothing until the next move (RFC 4621 §5.4)."""
        self._swu.endpoint.suspend(self.required(), self._swu.now())

    def use_addresses(self, command: UseAddresses) -> None:
        """For path tests (RFC 4555 §3.10)."""
        self._swu.endpoint.set_addresses(self.required(), command.addresses, self._swu.now(), tell=False)

    def suspect(self) -> None:
        """Find out now whether the path works (RFC 4555 §3.5)."""
        if self.present is not None:
            self._swu.endpoint.suspect(self.present, self._swu.now())
            self._swu.pump()

    def rekey_ike(self) -> None:
        """Begin to rekey the present one (RFC 7296 §1.3.2)."""
        self._initiate(RekeyIke())
        self._swu.pump()

    def rekey_child(self, inbound_spi: str | None) -> list[str]:
        """Begin to rekey a child SA, without an SPI all of them (RFC 7296 §1.3.3); which ones it were."""
        children = self.required().children
        spis = [spi for spi, one in children.items() if not one.replaced and inbound_spi in (None, spi.hex())]
        if not spis:
            raise ControlError("not-found", f"there is no child SA {inbound_spi}")
        for spi in spis:
            self._initiate(RekeyChild(spi))
        self._swu.pump()
        return [spi.hex() for spi in spis]

    def _initiate(self, task: Task) -> None:
        self._swu.endpoint.initiate(self.required(), task, self._swu.now())
