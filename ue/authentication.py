"""How the UE proves itself by EAP-AKA or EAP-AKA' (TS 24.302 §7.2.2.1, TS 33.402 §8.2): exchanges as commands.

::

    EapRequestReceived -> AskUsim | AnswerIke(EapReply)      usim_answered -> AnswerIke(EapReply)
    identity given     -> KeepTemporaryIdentities            EAP-Success   -> KeepTemporaryIdentities, EapReply(MSK)

What one exchange leaves (pseudonym, fast re-authentication context) is what the next one begins with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocols.algorithms.usim import UsimResult
from protocols.eap.aka import peer as aka
from protocols.eap.aka.messages import METHOD_NAMES
from protocols.eap.packet import EapType
from protocols.eap.unauthenticated import Admitted, UnauthenticatedPeer
from protocols.entropy import Entropy
from protocols.ikev2.events import EapReply
from protocols.threegpp.identity import Imsi
from protocols.trace.records import JsonValue
from ue.commands import AskUsim, Command, KeepTemporaryIdentities, Tell


@dataclass(frozen=True, kw_only=True)
class EapOutcome:
    """How an exchange succeeded: method, full or fast, and the identity that the keys were made of."""

    method: EapType | None  # none: an emergency without authentication
    fast: bool
    identity: str

    def view(self) -> dict[str, JsonValue]:
        """As events and the control interface show it."""
        kind = "fast" if self.fast else "full"
        method = "none" if self.method is None else f"EAP-{METHOD_NAMES[self.method]}"
        return {"method": method, "kind": kind, "identity": self.identity}


@dataclass(frozen=True, kw_only=True)
class EapProblem:
    """Why an exchange goes no further: a cause for records, a sentence for people."""

    cause: str
    text: str


class Authenticator:
    """One subscriber's policy and what its exchanges have left; ``outer_identity``: IDi where it is not chosen here."""

    def __init__(
        self,
        *,
        imsi: Imsi,
        nai: str,
        entropy: Entropy,
        options: aka.PeerOptions | None = None,
        held: aka.TemporaryIdentities | None = None,
        outer_identity: str | None = None,
    ) -> None:
        self.held = held or aka.TemporaryIdentities()
        self._imsi = imsi
        self._nai = nai
        self._entropy = entropy
        self._options = options
        self._outer_identity = outer_identity

    def begin(self, answer: Callable[[EapReply], Command]) -> Authentication:
        """A new exchange, whose packets ``answer`` makes commands of."""
        peer = aka.EapAkaPeer(
            nai=self._nai,
            imsi=self._imsi,
            entropy=self._entropy,
            options=self._options,
            held=self.held,
            outer_identity=self._outer_identity,
        )
        return Authentication(peer, answer, self._keep)

    def _keep(self, held: aka.TemporaryIdentities) -> Command:
        self.held = held
        return KeepTemporaryIdentities(held=held)


class EmergencyAuthenticator:
    """A UE without a USIM: nothing to prove, nothing that an exchange leaves (TS 33.402 §13.3)."""

    def __init__(self, imei: str) -> None:
        """``imei`` has 15 digits."""
        self._imei = imei

    def begin(self, answer: Callable[[EapReply], Command]) -> Authentication:
        """As ``Authenticator.begin``."""
        return Authentication(UnauthenticatedPeer(self._imei), answer)


class Authentication:
    """One exchange; ``outcome`` or ``problem`` tell how it has ended."""

    def __init__(
        self,
        peer: aka.EapAkaPeer | UnauthenticatedPeer,
        answer: Callable[[EapReply], Command],
        keep: Callable[[aka.TemporaryIdentities], Command] | None = None,
    ) -> None:
        self.outcome: EapOutcome | None = None
        self.problem: EapProblem | None = None
        self._peer = peer
        self._answer = answer
        self._keep = keep

    @property
    def identity(self) -> str:
        """What IDi says."""
        return self._peer.identity

    @property
    def server_authenticated(self) -> bool:
        """Whether the network has proved itself."""
        return self.outcome is not None or self._peer.server_authenticated

    def view(self) -> dict[str, JsonValue] | None:
        """``outcome`` as events and the control interface show it, ``None`` without EAP or before its end."""
        return None if self.outcome is None else self.outcome.view()

    @property
    def refusal(self) -> str | None:
        """What this end found wrong, while the network has not confirmed it."""
        found = self._peer.refusal
        return None if found is None or found.cause is aka.AkaFailure.NOTIFICATION else found.why

    @property
    def found(self) -> str | None:
        """Its kind in a word, or that of what the server has notified."""
        return None if self._peer.refusal is None else self._peer.refusal.cause.value

    @property
    def notified(self) -> str | None:
        """The failure that the EAP server has notified (RFC 4187 §6.1), while EAP-Failure has not come."""
        found = self._peer.refusal
        return found.why if found is not None and found.cause is aka.AkaFailure.NOTIFICATION else None

    def identity_given(self) -> list[Command]:
        """IDi was sent: a fast re-authentication identity in it is used up (RFC 4187 §4.1.1.8)."""
        if isinstance(self._peer, aka.EapAkaPeer):
            self._peer.identity_given()
        return self._take()

    def receive(self, packet: bytes) -> list[Command]:
        """An EAP packet from the network."""
        self._peer.receive(packet)
        return self._take()

    def usim_answered(self, result: UsimResult) -> list[Command]:
        """The USIM's verdict on the challenge."""
        assert isinstance(self._peer, aka.EapAkaPeer)  # nobody else asks a USIM
        self._peer.answer(result)
        return self._take()

    def _take(self) -> list[Command]:
        commands: list[Command] = []
        while self.problem is None and (event := self._peer.poll_event()) is not None:
            match event:
                case aka.ChallengeReceived():
                    commands.append(AskUsim(rand=event.rand, autn=event.autn))
                case aka.PacketToSend():
                    commands.append(self._answer(EapReply(packet=event.packet)))
                case aka.TemporaryIdentitiesChanged():
                    assert self._keep is not None
                    commands.append(self._keep(event.held))
                case aka.NetworkNameDiffers():
                    text = f"The network calls the access {event.received}, not {event.expected}; that is accepted."
                    data: dict[str, JsonValue] = {"expected": event.expected, "received": event.received}
                    commands.append(Tell(name="network-name-differs", text=text, data=data))
                case aka.Succeeded():
                    identity = event.identity.decode("utf-8", "replace")
                    self.outcome = EapOutcome(method=event.method, fast=event.fast, identity=identity)
                    commands.append(self._answer(EapReply(msk=event.msk)))
                case Admitted():
                    self.outcome = EapOutcome(method=None, fast=False, identity=event.identity)
                    commands.append(self._answer(EapReply(msk=event.msk)))
                case aka.Failed():
                    self.problem = EapProblem(cause=event.cause.value, text=f"authentication rejected: {event.why}")
                case aka.PacketDiscarded():
                    # RFC 3748 discards in silence; inside IKE_AUTH nothing would ever follow
                    self.problem = EapProblem(cause="eap", text=f"the EAP server breaks the rules: {event.why}")
        return commands
