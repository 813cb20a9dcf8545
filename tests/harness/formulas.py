"""What IKE computes, once more by straight-line code from the RFCs, out of captured octets and the entropy drawn.

PRF_HMAC_SHA2_256, ENCR_AES_GCM_16 with 128 bits, X25519 and ML-KEM; nothing of the product's own is called but the
numbers of its registry.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.entropy import SeededEntropy
from protocols.ikev2.config import ResponderConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.registry import ExchangeType, KeGroup
from tests.harness.pair import Node, Pair


class Recording:
    """Entropy that remembers what it gave."""

    def __init__(self, seed: str) -> None:
        self._inner = SeededEntropy(seed)
        self.given: list[bytes] = []

    def octets(self, length: int) -> bytes:
        self.given.append(self._inner.octets(length))
        return self.given[-1]


def recorded(node: Node, responder: ResponderConfig | None = None) -> Recording:
    """An end's entropy from before anything was drawn: its end point is made anew."""
    entropy = Recording(f"{node.name} {os.environ.get('PYTEST_CURRENT_TEST', '')}")
    node.endpoint = IkeEndpoint(entropy=entropy, responder=responder)
    return entropy


ML_KEM: dict[KeGroup, tuple[type[mlkem.MLKEM768PrivateKey] | type[mlkem.MLKEM1024PrivateKey], int]] = {
    KeGroup.ML_KEM_768: (mlkem.MLKEM768PrivateKey, 1184),
    KeGroup.ML_KEM_1024: (mlkem.MLKEM1024PrivateKey, 1568),
}


def secret_of(entropy: Recording, mine: bytes, theirs: bytes) -> bytes:
    """The shared secret of a key exchange: the private value is found among what was drawn, by its public value."""
    for drawn in entropy.given:
        if len(drawn) == 32 and len(mine) == 32:
            private = X25519PrivateKey.from_private_bytes(drawn)
            if private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) == mine:
                return private.exchange(X25519PublicKey.from_public_bytes(theirs))
        if len(drawn) == 64:
            for kind, length in ML_KEM.values():
                key = kind.from_seed_bytes(drawn)
                if length == len(mine) and key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) == mine:
                    return key.decapsulate(theirs)
    raise AssertionError("nobody drew the private value of this public one")


def prf(key: bytes, data: bytes) -> bytes:
    """PRF_HMAC_SHA2_256."""
    return hmac.new(key, data, hashlib.sha256).digest()


def prf_plus(key: bytes, seed: bytes, length: int) -> bytes:
    """T1 = prf(K, S | 0x01), Tn = prf(K, Tn-1 | S | n) (RFC 7296 §2.13)."""
    stream = block = b""
    for counter in range(1, 20):
        block = prf(key, block + seed + bytes([counter]))
        stream += block
    return stream[:length]


@dataclass(frozen=True, kw_only=True)
class Keys:
    """SK_d, SK_e (with four octets of salt) and SK_p of ENCR_AES_GCM_16 with 128 bits."""

    d: bytes
    ei: bytes
    er: bytes
    pi: bytes
    pr: bytes

    @classmethod
    def of(cls, skeyseed: bytes, seed: bytes) -> Keys:
        """RFC 7296 §2.14."""
        s = prf_plus(skeyseed, seed, 32 + 40 + 64)
        return cls(d=s[:32], ei=s[32:52], er=s[52:72], pi=s[72:104], pr=s[104:136])


def opened(octets: bytes, key: bytes) -> tuple[bytes, bytes]:
    """The clear part and the content of the SK or SKF payload, which is the first (RFC 5282 §3, §5.1)."""
    clear = 32 if octets[16] == 46 else 36
    salt, iv = key[16:], octets[clear : clear + 8]
    plain = AESGCM(key[:16]).decrypt(salt + iv, octets[clear + 8 :], octets[:clear])
    return octets[:clear], plain[: len(plain) - 1 - plain[-1]]


def whole(datagrams: list[bytes], key: bytes) -> tuple[bytes, bytes]:
    """IntAuth_*A | IntAuth_*P of a message (RFC 9242 §3.3.2), and its content."""
    parts = {}
    for octets in datagrams:
        clear, content = opened(octets, key)
        parts[int.from_bytes(clear[32:34], "big")] = (clear, content)
    inner = b"".join(parts[number][1] for number in sorted(parts))
    first = parts[min(parts)][0]
    header = first[:16] + bytes([46]) + first[17:24] + (32 + len(inner)).to_bytes(4, "big")
    return header + first[28:30] + (4 + len(inner)).to_bytes(2, "big") + inner, inner


def captured(pair: Pair, sender: str, exchange: ExchangeType, message_id: int) -> list[bytes]:
    """The datagrams of one message, each once."""
    found = [
        datagram.payload
        for who, datagram in pair.seen
        if who == sender
        and datagram.payload[18] == exchange
        and int.from_bytes(datagram.payload[20:24], "big") == message_id
    ]
    return list(dict.fromkeys(found))


def body_of(inner: bytes, first: int, wanted: int) -> bytes:
    """The body of the first payload of a type in a chain."""
    kind = first
    while kind != wanted:
        kind, inner = inner[0], inner[int.from_bytes(inner[2:4], "big") :]
    return inner[4 : int.from_bytes(inner[2:4], "big")]
