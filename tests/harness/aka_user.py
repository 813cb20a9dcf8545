"""A user of the test network in tests: an EAP-AKA peer with its software USIM, driven packet by packet."""

from __future__ import annotations

from dataclasses import dataclass, field

from aaa.subscribers import Subscriber
from protocols.algorithms.sqn import SqnWindow
from protocols.eap.aka import peer as aka
from protocols.entropy import SeededEntropy
from protocols.secret import Secret
from protocols.threegpp.identity import Nai
from ue.usim import MemorySqnStore, SoftwareUsim

MNC_LENGTH = 2  # of PLMN 001/01


@dataclass
class AkaUser:
    """One exchange; ``msk`` and ``failed`` tell how it ended, ``held`` what the server has given to come back with."""

    peer: aka.EapAkaPeer
    usim: SoftwareUsim
    nai: str
    msk: Secret | None = None
    failed: bool = False
    held: aka.TemporaryIdentities = field(default_factory=aka.TemporaryIdentities)
    challenges: int = 0
    permanent: str = ""  # the permanent NAI, where ``nai`` is a temporary one
    options: aka.PeerOptions | None = None

    def take(self, packet: bytes) -> bytes | None:
        """The response to an EAP packet, ``None`` when there is none."""
        self.peer.receive(packet)
        response: bytes | None = None
        while (event := self.peer.poll_event()) is not None:
            match event:
                case aka.TemporaryIdentitiesChanged():
                    self.held = event.held
                case aka.ChallengeReceived():
                    self.challenges += 1
                    self.peer.answer(self.usim.authenticate(event.rand, event.autn))
                case aka.PacketToSend():
                    response = event.packet
                case aka.Succeeded():
                    self.msk = event.msk
                case aka.Failed():
                    self.failed = True
        return response

    def again(self) -> AkaUser:
        """The same USIM in a new exchange."""
        peer = _peer(self.nai, self.usim, self.options)
        return AkaUser(peer=peer, usim=self.usim, nai=self.nai, options=self.options)

    def returning(self) -> AkaUser:
        """The same USIM in a new exchange, under the temporary identity that it holds."""
        permanent = self.permanent or self.nai
        peer = _peer(permanent, self.usim, self.options, self.held)
        user = AkaUser(
            peer=peer,
            usim=self.usim,
            nai=peer.identity,
            held=self.held,
            permanent=permanent,
            options=self.options,
        )
        peer.identity_given()
        return user

    def named(self, identity: str) -> AkaUser:
        """The same exchange under another outer identity."""
        return AkaUser(peer=self.peer, usim=self.usim, nai=identity)


def aka_user(
    subscriber: Subscriber,
    *,
    seq_ms: int = 0,
    k: Secret | None = None,
    nai: str | None = None,
    options: aka.PeerOptions | None = None,
) -> AkaUser:
    """The user whose USIM has the keys of ``subscriber`` (or another K) and has accepted ``seq_ms``.

    ``nai`` is what it calls itself, the root NAI by default.
    """
    usim = SoftwareUsim(
        imsi=subscriber.imsi,
        k=k or subscriber.k,
        op=subscriber.op,
        opc=subscriber.opc,
        algorithm=subscriber.algorithm,
        tuak_iterations=subscriber.tuak_iterations,
        res_length=subscriber.res_length,
        store=MemorySqnStore(SqnWindow((seq_ms,) * subscriber.sqn_scheme.ind_count)),
    )
    nai = nai or str(Nai.root(subscriber.imsi, subscriber.imsi.plmn(MNC_LENGTH)))
    return AkaUser(peer=_peer(nai, usim, options), usim=usim, nai=nai, options=options)


def _peer(
    nai: str,
    usim: SoftwareUsim,
    options: aka.PeerOptions | None,
    held: aka.TemporaryIdentities | None = None,
) -> aka.EapAkaPeer:
    return aka.EapAkaPeer(nai=nai, imsi=usim.imsi, entropy=SeededEntropy("user"), options=options, held=held)
