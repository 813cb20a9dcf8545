"""A peer of EAP-AKA and EAP-AKA' that follows the formulas of RFC 4187 and RFC 9048 step by step, to judge servers.

It shares codecs and key derivation with the product, which have their own vectors, and no machine. A test
overrides one step to make it do wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.vector import AkaVector, generate_vector
from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtAutn,
    AtAuts,
    AtCheckcode,
    AtCounter,
    AtCounterTooSmall,
    AtIdentity,
    AtKdf,
    AtKdfInput,
    AtNextPseudonym,
    AtNextReauthId,
    AtNonceS,
    AtPermanentIdReq,
    AtRand,
    AtRes,
    AtResultInd,
    Attribute,
)
from protocols.eap.aka.keys import AkaKeys, derive_keys, derive_reauthentication_keys, prime_vector
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.protection import (
    checkcode,
    encode_with_mac,
    encrypt_attributes,
    mac_verifies,
    nested_attributes,
)
from protocols.eap.packet import EapCode, EapPacket, EapType
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi

IMSI = Imsi("001010000000001")
REALM = "nai.epc.mnc001.mcc001.3gppnetwork.org"
K = Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"))
OPC = Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf"))
IV = bytes(range(100, 116))


def vector(number: int, *, method: EapType, network_name: bytes | None, amf: bytes = b"\x80\x00") -> AkaVector:
    """The vector of a RAND made of ``number``."""
    plain = generate_vector(Milenage(K, opc=OPC), rand=bytes([number] * 16), sqn=32 * number, amf=amf)
    return plain if method is EapType.AKA else prime_vector(plain, network_name or b"")


@dataclass
class FormulaPeer:
    """``heard`` are the server's messages; the fields below are what a peer keeps between exchanges."""

    methods: tuple[EapType, ...] = (EapType.AKA, EapType.AKA_PRIME)
    result_indications: bool = False
    kdfs: tuple[int, ...] = (1,)
    synchronisation_failures: int = 0
    highest_counter: int = 0
    permanent: str | None = None
    pseudonym: str | None = None
    reauthentication: str | None = None
    keys: AkaKeys | None = None
    identity: bytes = b""
    heard: list[AkaMessage] = field(default_factory=list)
    msk: Secret | None = None
    nonce: bytes = b""
    _rounds: list[bytes] = field(default_factory=list)
    _counter: int = 0
    _k_aut: Secret | None = None

    def begin(self, identity: str | None = None) -> bytes:
        """What EAP-Response/Identity would hold, at the beginning of an exchange."""
        self.heard, self._rounds, self.msk, self._counter = [], [], None, 0
        digit = "0" if self.methods[0] is EapType.AKA else "6"
        mine = self.reauthentication or self.pseudonym or f"{digit}{IMSI}@{REALM}"
        self.identity = (identity if identity is not None else mine).encode()
        return self.identity

    def answer(self, packet: bytes) -> bytes:
        """The response to a request."""
        decoded = EapPacket.decode(packet)
        assert decoded.code is EapCode.REQUEST
        if decoded.type not in self.methods:
            wanted = bytes(self.methods)
            return EapPacket(
                code=EapCode.RESPONSE, identifier=decoded.identifier, type=EapType.NAK, data=wanted
            ).encode()
        message = AkaMessage.from_packet(decoded)
        self.heard.append(message)
        if message.subtype == AkaSubtype.IDENTITY:
            return self.answer_identity(message, packet)
        if message.subtype == AkaSubtype.CHALLENGE:
            return self.answer_challenge(message, packet)
        if message.subtype == AkaSubtype.REAUTHENTICATION:
            return self.answer_reauthentication(message, packet)
        return self.answer_notification(message, packet)

    def answer_identity(self, message: AkaMessage, packet: bytes) -> bytes:
        """RFC 4187 §4.1.5."""
        digit = "0" if message.method is EapType.AKA else "6"
        identity = self.permanent or f"{digit}{IMSI}@{REALM}"
        if message.get(AtPermanentIdReq) is None and self.pseudonym is not None:
            identity = self.pseudonym
        if message.get(AtAnyIdReq) is not None and self.reauthentication is not None:
            identity = self.reauthentication
        self.identity = identity.encode()
        response = self.response(message, AkaSubtype.IDENTITY, AtIdentity(self.identity)).encode()
        self._rounds += [packet, response]
        return response

    def answer_challenge(self, message: AkaMessage, packet: bytes) -> bytes:
        """RFC 4187 §9.3, RFC 9048 §3.2, §3.3."""
        self.reauthentication = None
        prime = message.method is EapType.AKA_PRIME
        if prime and message.kdfs[0] not in self.kdfs:
            chosen = next(kdf for kdf in message.kdfs if kdf in self.kdfs)
            return self.response(message, AkaSubtype.CHALLENGE, AtKdf(chosen)).encode()
        if self.synchronisation_failures:
            self.synchronisation_failures -= 1
            copies = [AtKdf(kdf) for kdf in message.kdfs]
            return self.response(message, AkaSubtype.SYNCHRONIZATION_FAILURE, AtAuts(bytes(14)), *copies).encode()
        rand, autn = message.require(AtRand).value, message.require(AtAutn).value
        name = message.require(AtKdfInput).value if prime else None
        mine = vector(rand[0], method=message.method, network_name=name)
        assert autn == mine.autn
        keys = derive_keys(self.identity, ik=mine.ik, ck=mine.ck, method=message.method)
        assert mac_verifies(packet, keys.k_aut)
        self.verify_checkcode(message)
        nested = nested_attributes(message, keys.k_encr)
        pseudonym, again = nested.get(AtNextPseudonym), nested.get(AtNextReauthId)
        if pseudonym is not None:
            self.pseudonym = f"{pseudonym.value.decode()}@{REALM}"
        self.reauthentication = again.value.decode() if again is not None else None
        self.keys, self.highest_counter, self.msk, self._k_aut = keys, 0, keys.msk, keys.k_aut
        response = self.response(message, AkaSubtype.CHALLENGE, AtRes.of(mine.xres), *self.closing(message))
        return encode_with_mac(response, keys.k_aut)

    def answer_reauthentication(self, message: AkaMessage, packet: bytes) -> bytes:
        """RFC 4187 §5.4, §5.5, §9.8."""
        assert self.keys is not None
        assert mac_verifies(packet, self.keys.k_aut)
        self.verify_checkcode(message)
        nested = nested_attributes(message, self.keys.k_encr)
        counter, nonce = nested.require(AtCounter).value, nested.require(AtNonceS).value
        self.nonce = nonce
        answered: list[Attribute] = [AtCounter(counter)]
        if counter <= self.highest_counter:
            answered.append(AtCounterTooSmall())
        else:
            again = nested.get(AtNextReauthId)
            self.reauthentication = again.value.decode() if again is not None else None
            session = derive_reauthentication_keys(
                self.keys.k_re, method=message.method, identity=self.identity, counter=counter, nonce_s=nonce
            )
            self.highest_counter, self._counter, self.msk = counter, counter, session.msk
        pair = encrypt_attributes(answered, self.keys.k_encr, IV)
        response = self.response(message, AkaSubtype.REAUTHENTICATION, *pair, *self.closing(message))
        return encode_with_mac(response, self.keys.k_aut, nonce)

    def answer_notification(self, message: AkaMessage, packet: bytes) -> bytes:
        """RFC 4187 §9.10, §9.11."""
        response = self.response(message, AkaSubtype.NOTIFICATION)
        if self._k_aut is None or not mac_verifies(packet, self._k_aut):
            return response.encode()
        if self._counter:
            assert self.keys is not None
            nested = nested_attributes(message, self.keys.k_encr)
            assert nested.require(AtCounter).value == self._counter
            pair = encrypt_attributes([AtCounter(self._counter)], self.keys.k_encr, IV)
            response = self.response(message, AkaSubtype.NOTIFICATION, *pair)
        return encode_with_mac(response, self._k_aut)

    def closing(self, message: AkaMessage) -> list[Attribute]:
        """AT_CHECKCODE and AT_RESULT_IND as the request offers them."""
        found: list[Attribute] = []
        if message.get(AtCheckcode) is not None:
            found.append(AtCheckcode(checkcode(self._rounds, message.method)))
        if self.result_indications and message.get(AtResultInd) is not None:
            found.append(AtResultInd())
        return found

    def verify_checkcode(self, message: AkaMessage) -> None:
        """RFC 4187 §10.13."""
        code = message.get(AtCheckcode)
        assert code is None or code.checkcode == checkcode(self._rounds, message.method)

    def response(self, request: AkaMessage, subtype: AkaSubtype, *attributes: Attribute) -> AkaMessage:
        """A response to a request."""
        return AkaMessage(
            method=request.method,
            code=EapCode.RESPONSE,
            identifier=request.identifier,
            subtype=subtype,
            attributes=attributes,
        )
