"""Our EAP peer against a RADIUS EAP server (RFC 3579): the test carries what a gateway would carry.

::

    EAP-Response/Identity   -->  Access-Request [EAP-Message, State, Message-Authenticator]
                            <--  Access-Challenge [EAP-Message, State]  |  Access-Accept [MS-MPPE-*]  |  Access-Reject
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pyrad.packet import AccessAccept, AccessRequest, AuthPacket, Packet

from lab.namespaces import Namespace
from protocols.algorithms.usim import UsimResult
from protocols.eap.aka import peer as aka
from protocols.eap.observation import eap_body
from protocols.eap.packet import EapCode, EapPacket, EapType, identity_response
from protocols.io.entropy import SystemEntropy
from protocols.threegpp.identity import Imsi
from tests.peers.strongswan import RadiusServer
from tests.peers.swm_radius_bridge import EAP_MESSAGE, EAP_MESSAGE_LENGTH, STATE, USER_NAME, master_session_key

REPLY_TIMEOUT = 5.0
REPLY_LENGTH = 4096
ROUNDS_MAXIMUM = 20
MPPE_LENGTH = 64

Change = Callable[[bytes], bytes]


class Usim(Protocol):
    """What answers for the USIM."""

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """AUTHENTICATE (TS 31.102 §7.1.2)."""


def unchanged(packet: bytes) -> bytes:
    """A wire that alters nothing."""
    return packet


@dataclass(kw_only=True)
class RadiusOutcome:
    """One authentication: what the peer reported, whether the server accepted, and every EAP packet."""

    accepted: bool = False
    peer: aka.Succeeded | aka.Failed | None = None
    key: bytes | None = None
    challenges: int = 0
    transcript: list[bytes] = field(default_factory=list)

    @property
    def narrative(self) -> list[str]:
        """The exchange in the RFC's words."""
        return [str(eap_body(packet, direction="", interface="", peer="")["name"]) for packet in self.transcript]

    @property
    def succeeded(self) -> bool:
        """Both ends say so, and the server has told the authenticator the peer's MSK."""
        if not self.accepted or not isinstance(self.peer, aka.Succeeded):
            return False
        return self.key == self.peer.msk.reveal()[:MPPE_LENGTH]


@dataclass(kw_only=True)
class RadiusSubscriber:
    """A subscriber in front of a RADIUS server; ``held`` goes from one authentication to the next."""

    namespace: Namespace
    server: RadiusServer
    imsi: Imsi
    usim: Usim
    nai: str
    options: aka.PeerOptions | None = None
    held: aka.TemporaryIdentities = field(default_factory=aka.TemporaryIdentities)
    outer_identity: str | None = None
    downlink: Change = unchanged
    uplink: Change = unchanged

    def authenticate(self) -> RadiusOutcome:
        """One authentication, from the identity of IDi to Access-Accept or Access-Reject."""
        outcome = RadiusOutcome()
        peer = aka.EapAkaPeer(
            nai=self.nai,
            imsi=self.imsi,
            entropy=SystemEntropy(),
            options=self.options,
            held=self.held,
            outer_identity=self.outer_identity,
        )
        peer.identity_given()
        self._take(peer, outcome)
        with self.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as wire:
            wire.settimeout(REPLY_TIMEOUT)
            wire.connect((str(self.server.address), self.server.port))
            response: bytes | None = identity_response(0, peer.identity.encode())
            outcome.transcript.append(response or b"")
            state: list[bytes] = []
            for number in range(ROUNDS_MAXIMUM):
                if response is None:
                    break
                request, reply = self._exchange(wire, number, peer.identity, response, state)
                state = reply.get(STATE, [])
                packet = self.downlink(b"".join(reply.get(EAP_MESSAGE, [])))
                outcome.transcript.append(packet)
                if reply.code == AccessAccept:
                    outcome.accepted, outcome.key = True, master_session_key(request, reply)
                peer.receive(packet)
                response = self._take(peer, outcome)
        return outcome

    def _take(self, peer: aka.EapAkaPeer, outcome: RadiusOutcome) -> bytes | None:
        response: bytes | None = None
        while (event := peer.poll_event()) is not None:
            match event:
                case aka.ChallengeReceived():
                    outcome.challenges += 1
                    peer.answer(self.usim.authenticate(event.rand, event.autn))
                case aka.PacketToSend():
                    response = self.uplink(event.packet)
                    outcome.transcript.append(response)
                case aka.TemporaryIdentitiesChanged():
                    self.held = event.held
                case aka.Succeeded() | aka.Failed():
                    outcome.peer = event
        return response

    def _exchange(
        self, wire: socket.socket, number: int, user: str, eap: bytes, state: list[bytes]
    ) -> tuple[AuthPacket, Packet]:
        request = AuthPacket(code=AccessRequest, id=number, secret=self.server.secret.encode())
        request[USER_NAME] = [user.encode()]
        request[EAP_MESSAGE] = [eap[at : at + EAP_MESSAGE_LENGTH] for at in range(0, len(eap), EAP_MESSAGE_LENGTH)]
        if state:
            request[STATE] = state
        request.add_message_authenticator()  # RFC 3579 §3.2: MUST be present beside EAP-Message
        wire.send(request.RequestPacket())
        octets = wire.recv(REPLY_LENGTH)
        reply = request.CreateReply(packet=octets)
        assert request.VerifyReply(reply, octets)
        return request, reply


def bid_down(packet: bytes) -> bytes:
    """The server's offer of EAP-AKA' made unreadable; for the way down."""
    decoded = EapPacket.decode(packet)
    if decoded.code is EapCode.REQUEST and decoded.type == EapType.AKA_PRIME:
        return packet[:4] + bytes([EapType.SIM]) + packet[5:]
    return packet


def nak_for_aka(packet: bytes) -> bytes:
    """The peer's Nak as if it knew nothing but EAP-AKA; for the way up."""
    decoded = EapPacket.decode(packet)
    if decoded.type != EapType.NAK:
        return packet
    nak = EapPacket(code=EapCode.RESPONSE, identifier=decoded.identifier, type=EapType.NAK, data=bytes([EapType.AKA]))
    return nak.encode()
