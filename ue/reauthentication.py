"""Authenticating anew, make before break (RFC 7296 §2.8.3, RFC 4478 §2): events of the new IKE SA in, commands out.

::

    ReauthenticationDue -> ConnectSuccessor      EapRequestReceived -> AskUsim     usim_answered -> AnswerSuccessor
    Established         -> AdoptSuccessor, InstallChildSa, Tell     Refused, Closed -> Tell

Fast re-authentication is used where an earlier exchange has left what that needs (RFC 4187 §5).

The new IKE SA comes without INITIAL_CONTACT and asks for the inner addresses that the UE has; the present one
carries on until the new one is up and is deleted then. One that fails changes nothing: the event comes again.
"""

from __future__ import annotations

from protocols.algorithms.usim import UsimResult
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.events import (
    ChildSaInstalled,
    Closed,
    EapRequestReceived,
    Established,
    Event,
    PeerAddressesChanged,
    Refused,
    SaState,
    StateChanged,
)
from protocols.path import Address
from ue.authentication import Authenticator, EmergencyAuthenticator
from ue.commands import (
    AdoptSuccessor,
    AnswerSuccessor,
    Command,
    ConnectSuccessor,
    DropSuccessor,
    InstallChildSa,
    Tell,
)


class Reauthentication:
    """One attempt; ``over`` when it has succeeded or failed. ``children``: what comes with the new IKE SA."""

    def __init__(self, authenticator: Authenticator | EmergencyAuthenticator, addresses: tuple[Address, ...]) -> None:
        self.authentication = authenticator.begin(lambda reply: AnswerSuccessor(answer=reply))
        self.over = False
        self.succeeded = False
        self.gateway_addresses: tuple[Address, ...] = ()
        self.children: list[ChildSaSpec] = []
        self._addresses = addresses

    def begin(self, access: str, gateway: Address) -> list[Command]:
        """A second IKE SA from the access in use to the gateway's address in use."""
        identity = self.authentication.identity
        return [ConnectSuccessor(access=access, identity=identity, gateway=gateway, addresses=self._addresses)]

    def handle(self, event: Event, addresses: tuple[Address, ...]) -> list[Command]:
        """Take an event of the new IKE SA; ``addresses`` are the inner ones that ``Established`` brings."""
        if isinstance(event, EapRequestReceived):
            return self._unless_over(self.authentication.receive(event.packet))
        if isinstance(event, StateChanged):
            return self.authentication.identity_given() if event.new is SaState.AUTHENTICATING else []
        if isinstance(event, PeerAddressesChanged):
            self.gateway_addresses = event.addresses
            return []
        if isinstance(event, ChildSaInstalled):
            self.children.append(event.spec)
            return []  # it carries nothing before the new IKE SA takes over
        if isinstance(event, Established):
            if set(addresses) != set(self._addresses):
                return self.abandon("the gateway gives other inner addresses")
            self.over = self.succeeded = True
            text = "Authenticated anew; the old IKE SA goes."
            told = Tell(name="reauthenticated", text=text, data={"eap": self.authentication.view()})
            return [AdoptSuccessor(), *(InstallChildSa(spec=spec, replaces=None) for spec in self.children), told]
        if isinstance(event, Refused):
            return self._fail(event.text)
        if isinstance(event, Closed):
            return self._fail(event.why)
        return []

    def usim_answered(self, result: UsimResult) -> list[Command]:
        """The USIM's verdict on the challenge."""
        return self._unless_over(self.authentication.usim_answered(result))

    def abandon(self, why: str) -> list[Command]:
        """Let the new IKE SA go."""
        return [] if self.over else [*self._fail(why), DropSuccessor(why=why)]

    def _unless_over(self, commands: list[Command]) -> list[Command]:
        problem = self.authentication.problem
        return commands if problem is None else commands + self.abandon(problem.text)

    def _fail(self, why: str) -> list[Command]:
        if self.over:
            return []
        self.over = True
        text = f"Authenticating anew failed: {why.rstrip('.')}."
        return [Tell(name="reauthentication-failed", text=text, data={"why": why})]
