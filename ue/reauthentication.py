"""Authenticating anew, make before break (RFC 7296 §2.8.3, RFC 4478 §2): events of the new IKE SA in, commands out.

::

    ReauthenticationDue -> ConnectSuccessor      EapRequestReceived -> AskUsim     usim_answered -> AnswerSuccessor
    Established         -> AdoptSuccessor, Tell  Refused, Closed    -> Tell

The new IKE SA comes without INITIAL_CONTACT and asks for the inner addresses that the UE has; the present one
carries on until the new one is up and is deleted then. One that fails changes nothing: the event comes again.
"""

from __future__ import annotations

from protocols.algorithms.usim import UsimResult
from protocols.eap.aka import peer as aka
from protocols.ikev2.events import (
    Closed,
    EapReply,
    EapRequestReceived,
    Established,
    Event,
    PeerAddressesChanged,
    Refused,
)
from protocols.path import Address
from ue.commands import (
    AdoptSuccessor,
    AnswerSuccessor,
    AskUsim,
    Command,
    ConnectSuccessor,
    DropSuccessor,
    Tell,
)


class Reauthentication:
    """One attempt; ``over`` when it has succeeded or failed."""

    def __init__(self, peer: aka.EapAkaPeer, addresses: tuple[Address, ...]) -> None:
        self.peer = peer
        self.over = False
        self.succeeded = False
        self.gateway_addresses: tuple[Address, ...] = ()
        self._addresses = addresses

    def begin(self, access: str, gateway: Address) -> list[Command]:
        """A second IKE SA from the access in use to the gateway's address in use."""
        return [ConnectSuccessor(access=access, gateway=gateway, addresses=self._addresses)]

    def handle(self, event: Event, addresses: tuple[Address, ...]) -> list[Command]:
        """Take an event of the new IKE SA; ``addresses`` are the inner ones that ``Established`` brings."""
        if isinstance(event, EapRequestReceived):
            self.peer.receive(event.packet)
            return self._take_from_peer()
        if isinstance(event, PeerAddressesChanged):
            self.gateway_addresses = event.addresses
            return []
        if isinstance(event, Established):
            if set(addresses) != set(self._addresses):
                return self.abandon("the gateway gives other inner addresses")
            self.over = self.succeeded = True
            return [AdoptSuccessor(), Tell(name="reauthenticated", text="Authenticated anew; the old IKE SA goes.")]
        if isinstance(event, Refused):
            return self._fail(event.text)
        if isinstance(event, Closed):
            return self._fail(event.why)
        return []

    def usim_answered(self, result: UsimResult) -> list[Command]:
        """The USIM's verdict on the challenge."""
        self.peer.answer(result)
        return self._take_from_peer()

    def abandon(self, why: str) -> list[Command]:
        """Let the new IKE SA go."""
        return [] if self.over else [*self._fail(why), DropSuccessor(why=why)]

    def _take_from_peer(self) -> list[Command]:
        commands: list[Command] = []
        while not self.over and (event := self.peer.poll_event()) is not None:
            if isinstance(event, aka.ChallengeReceived):
                commands.append(AskUsim(rand=event.rand, autn=event.autn))
            elif isinstance(event, aka.PacketToSend):
                commands.append(AnswerSuccessor(answer=EapReply(packet=event.packet)))
            elif isinstance(event, aka.Succeeded):
                commands.append(AnswerSuccessor(answer=EapReply(msk=event.msk)))
            elif isinstance(event, aka.Failed | aka.PacketDiscarded):
                commands += self.abandon(event.why)
        return commands

    def _fail(self, why: str) -> list[Command]:
        if self.over:
            return []
        self.over = True
        text = f"Authenticating anew failed: {why.rstrip('.')}."
        return [Tell(name="reauthentication-failed", text=text, data={"why": why})]
