"""An EAP-AKA and EAP-AKA' server made by hand, whose packets are right unless a test changes them; a peer fed by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import compose
from protocols.algorithms.usim import UsimResult
from protocols.algorithms.vector import AMF_SEPARATION, AkaVector, generate_vector
from protocols.eap.aka.attributes import (
    AtAutn,
    AtCounter,
    AtKdf,
    AtKdfInput,
    AtNonceS,
    AtNotification,
    AtRand,
    Attribute,
)
from protocols.eap.aka.keys import AkaKeys, SessionKeys, derive_keys, derive_reauthentication_keys, prime_vector
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.peer import (
    ChallengeReceived,
    EapAkaPeer,
    PacketToSend,
    PeerEvent,
    PeerOptions,
    Succeeded,
    TemporaryIdentities,
    TemporaryIdentitiesChanged,
)
from protocols.eap.aka.protection import encode_with_mac, encrypt_attributes
from protocols.eap.packet import EapCode, EapPacket, EapType, success
from protocols.entropy import SeededEntropy
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi
from ue.usim import MemorySqnStore, SoftwareUsim

IMSI = Imsi("001010000000001")
REALM = "nai.epc.mnc001.mcc001.3gppnetwork.org"
NAI = f"0{IMSI}@{REALM}"
PRIME_NAI = f"6{IMSI}@{REALM}"
K = Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"))  # TS 35.208 §4.3.1, test set 1
OPC = Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf"))
WLAN = "WLAN"
NONCE_S = bytes(range(16))


@dataclass
class HandMadeServer:
    """The network's side of one method; ``keys`` are those of the last challenge, ``identifier`` the last used."""

    method: EapType = EapType.AKA
    name: bytes = WLAN.encode()
    seq: int = 0
    identifier: int = 0
    keys: AkaKeys = field(init=False)
    vector: AkaVector = field(init=False)

    def message(self, subtype: int, *attributes: Attribute) -> AkaMessage:
        """A request with the next identifier."""
        self.identifier = (self.identifier + 1) % 256
        return AkaMessage(
            code=EapCode.REQUEST,
            identifier=self.identifier,
            subtype=subtype,
            attributes=attributes,
            method=self.method,
        )

    def ask(self, *attributes: Attribute) -> bytes:
        """EAP-Request/AKA-Identity."""
        return self.message(AkaSubtype.IDENTITY, *attributes).encode()

    def challenge(
        self,
        identity: str,
        *extra: Attribute,
        nested: Iterable[Attribute] = (),
        kdfs: tuple[int, ...] = (1,),
        amf: bytes = AMF_SEPARATION,
    ) -> bytes:
        """EAP-Request/AKA-Challenge for whoever gave this identity last."""
        self.seq += 1
        rand = bytes([self.seq]) * 16
        self.vector = generate_vector(Milenage(K, opc=OPC), rand=rand, sqn=compose(self.seq, self.seq % 32), amf=amf)
        attributes: list[Attribute] = [AtRand(self.vector.rand), AtAutn(self.vector.autn)]
        vector = self.vector
        if self.method is EapType.AKA_PRIME:
            vector = prime_vector(vector, self.name)
            attributes += [*(AtKdf(kdf) for kdf in kdfs), AtKdfInput(self.name)]
        self.keys = derive_keys(identity.encode(), ik=vector.ik, ck=vector.ck, method=self.method)
        inside = list(nested)
        if inside:
            attributes += encrypt_attributes(inside, self.keys.k_encr, bytes([self.seq]) * 16)
        return encode_with_mac(self.message(AkaSubtype.CHALLENGE, *attributes, *extra), self.keys.k_aut)

    def reauthentication(
        self, counter: int, *extra: Attribute, nested: Iterable[Attribute] = (), nonce_s: bytes | None = NONCE_S
    ) -> bytes:
        """EAP-Request/AKA-Reauthentication under the keys of the last challenge."""
        inside: list[Attribute] = [AtCounter(counter), *nested]
        if nonce_s is not None:
            inside.insert(1, AtNonceS(nonce_s))
        attributes = (*encrypt_attributes(inside, self.keys.k_encr, bytes([counter % 256]) * 16), *extra)
        return encode_with_mac(self.message(AkaSubtype.REAUTHENTICATION, *attributes), self.keys.k_aut)

    def reauthentication_keys(self, identity: str, counter: int) -> SessionKeys:
        """MSK and EMSK of a fast re-authentication."""
        return derive_reauthentication_keys(
            self.keys.k_re, method=self.method, identity=identity.encode(), counter=counter, nonce_s=NONCE_S
        )

    def notification(self, code: int, *, counter: int | None = None) -> bytes:
        """A protected EAP-Request/AKA-Notification."""
        attributes: tuple[Attribute, ...] = (AtNotification(code),)
        if counter is not None:
            attributes += encrypt_attributes([AtCounter(counter)], self.keys.k_encr, bytes(16))
        return encode_with_mac(self.message(AkaSubtype.NOTIFICATION, *attributes), self.keys.k_aut)


class FedPeer:
    """A peer that is fed by hand, with a software USIM; ``held`` is what it has told to keep."""

    def __init__(
        self,
        options: PeerOptions | None = None,
        held: TemporaryIdentities | None = None,
        *,
        nai: str = NAI,
        outer: str | None = None,
        usim: SoftwareUsim | None = None,
    ) -> None:
        self.held = held or TemporaryIdentities()
        self.usim = usim or SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=MemorySqnStore())
        self.machine = EapAkaPeer(
            nai=nai, imsi=IMSI, entropy=SeededEntropy("peer"), options=options, held=held, outer_identity=outer
        )
        self.seen: list[PeerEvent] = []

    def hear(self, packet: bytes, usim: UsimResult | None = None) -> bytes | None:
        """Take a packet, ask the USIM where that is wanted; the response, ``None`` when there is none."""
        self.machine.receive(packet)
        response: bytes | None = None
        while (event := self.machine.poll_event()) is not None:
            self.seen.append(event)
            if isinstance(event, ChallengeReceived):
                self.machine.answer(usim or self.usim.authenticate(event.rand, event.autn))
            elif isinstance(event, PacketToSend):
                assert response is None
                response = event.packet
            elif isinstance(event, TemporaryIdentitiesChanged):
                self.held = event.held
        return response

    def told(self, packet: bytes, usim: UsimResult | None = None) -> AkaMessage:
        """The response as a message of the method."""
        response = self.hear(packet, usim)
        assert response is not None, self.seen[-1]
        return AkaMessage.decode(response)

    def succeed(self, identifier: int) -> Succeeded:
        """EAP-Success, which the peer must take."""
        assert self.hear(success(identifier)) is None
        event = self.seen[-1]
        assert isinstance(event, Succeeded), event
        return event


def identity_request(identifier: int = 200) -> bytes:
    """EAP-Request/Identity."""
    return EapPacket(code=EapCode.REQUEST, identifier=identifier, type=EapType.IDENTITY).encode()


def without_context(held: TemporaryIdentities) -> TemporaryIdentities:
    """What is left once a fast re-authentication identity was used."""
    return replace(held, reauthentication=None)
