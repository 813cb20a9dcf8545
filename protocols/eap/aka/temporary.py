"""Temporary identities of a server: pseudonyms, re-authentication identities and what is kept behind the latter.

A username is the IMSI encrypted under a key of the server's own, in the manner of TS 33.234 §6.4 (which
TS 33.402 §6.2 takes over), with two changes: the cipher is AES-SIV (RFC 5297), so that a username that
nobody issued is recognised, and therefore it is longer::

    leading digit (TS 23.003 §19.3.4, §19.3.5) | key index | base64url(AES-SIV(IMSI in BCD | random))

No two usernames of a subscriber have anything in common (RFC 9048 §5.2). Keys roll over: the newest key of
a ring encrypts, every one decrypts. Pure functions of the ring and of the entropy passed in.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from protocols.eap.packet import EapType
from protocols.entropy import Entropy
from protocols.errors import DecodeError
from protocols.secret import Secret
from protocols.threegpp.identity import IdentityKind, Imsi

KEY_LENGTH = 32
KEY_INDICES = 64  # one character of base64url
FIRST_COUNTER = 1  # RFC 4187 §5.1
LAST_COUNTER = 0xFFFF  # RFC 4187 §5.1
PSEUDONYMS = {EapType.AKA: IdentityKind.PSEUDONYM_AKA, EapType.AKA_PRIME: IdentityKind.PSEUDONYM_AKA_PRIME}
REAUTHENTICATION_IDENTITIES = {
    EapType.AKA: IdentityKind.REAUTHENTICATION_AKA,
    EapType.AKA_PRIME: IdentityKind.REAUTHENTICATION_AKA_PRIME,
}
_INDEX_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_RANDOM_LENGTH = 9  # makes the whole a multiple of three octets: base64 without padding, one text for each
_IMSI_LENGTH = 8  # sixteen BCD digits, filled with F
_USERNAMES = b"EAP-AKA temporary username"
_CONTEXTS = b"EAP-AKA re-authentication context"


@dataclass(frozen=True, slots=True)
class TemporaryKey:
    """One key of a server and the index by which its usernames name it."""

    index: int
    key: Secret

    def __post_init__(self) -> None:
        if not 0 <= self.index < KEY_INDICES:
            raise ValueError(f"key index {self.index} is not 0 to {KEY_INDICES - 1}")
        if len(self.key.reveal()) != KEY_LENGTH:
            raise ValueError(f"the key of index {self.index} has {len(self.key.reveal())} octets, not {KEY_LENGTH}")


@dataclass(frozen=True, slots=True)
class KeyRing:
    """A server's keys, newest first."""

    keys: tuple[TemporaryKey, ...]

    def __post_init__(self) -> None:
        indices = [each.index for each in self.keys]
        if not indices or len(set(indices)) != len(indices):
            raise ValueError("a key ring holds one key at least, and no two of the same index")

    @classmethod
    def of(cls, entropy: Entropy) -> KeyRing:
        """A ring of one new key."""
        return cls((TemporaryKey(0, Secret(entropy.octets(KEY_LENGTH))),))

    def rolled(self, entropy: Entropy, *, keep: int) -> KeyRing:
        """With a new key in front; ``keep`` older ones stay, so that their usernames stay known."""
        index = (self.keys[0].index + 1) % KEY_INDICES
        older = tuple(each for each in self.keys if each.index != index)[:keep]
        return KeyRing((TemporaryKey(index, Secret(entropy.octets(KEY_LENGTH))), *older))

    def get(self, index: int) -> TemporaryKey | None:
        """The key of an index."""
        return next((each for each in self.keys if each.index == index), None)


def issue_username(ring: KeyRing, kind: IdentityKind, imsi: Imsi, entropy: Entropy) -> bytes:
    """A new username of ``kind``, a pseudonym's or a re-authentication identity's (RFC 4187 §4.1.1.7)."""
    newest = ring.keys[0]
    prefix = kind.value + _INDEX_CHARACTERS[newest.index]
    plaintext = bytes.fromhex(str(imsi).ljust(2 * _IMSI_LENGTH, "f")) + entropy.octets(_RANDOM_LENGTH)
    sealed = _cipher(newest, _USERNAMES).encrypt(plaintext, [prefix.encode()])
    return prefix.encode() + base64.urlsafe_b64encode(sealed)


def imsi_of_username(ring: KeyRing, username: str) -> Imsi | None:
    """The IMSI in a username that a key of the ring made, ``None`` for any other text."""
    if len(username) < 2 or not username.isascii() or "=" in username:
        return None
    key = ring.get(_INDEX_CHARACTERS.find(username[1]))
    if key is None:
        return None
    try:
        sealed = base64.b64decode(username[2:], altchars=b"-_", validate=True)
        plaintext = _cipher(key, _USERNAMES).decrypt(sealed, [username[:2].encode()])
        return Imsi(plaintext[:_IMSI_LENGTH].hex().rstrip("f"))
    except (binascii.Error, InvalidTag, ValueError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReauthenticationContext:
    """What a server keeps for the next fast re-authentication (RFC 4187 §5.1): a full authentication context.

    ``username`` is the one-time identity under which it is found, ``counter`` the value that the next request
    carries, ``network_name`` that of the full authentication (RFC 9048 §3.3, empty in EAP-AKA). ``k_re`` is as
    in ``AkaKeys``. ``pseudonym`` is the one issued last, ``permanent_identity`` the root NAI. ``established`` is
    when the full authentication was, in seconds of whoever stores it.
    """

    username: str
    method: EapType
    imsi: Imsi
    permanent_identity: str
    pseudonym: str | None
    k_encr: Secret
    k_aut: Secret
    k_re: Secret
    counter: int
    network_name: bytes = b""
    established: float | None = None

    def following(self, username: str) -> ReauthenticationContext:
        """After a fast re-authentication that issued ``username``."""
        return replace(self, username=username, counter=self.counter + 1)

    def seal(self, ring: KeyRing) -> bytes:
        """Encrypted for storage under the newest key, bound to ``username``."""
        value = {
            "method": int(self.method),
            "imsi": str(self.imsi),
            "permanent_identity": self.permanent_identity,
            "pseudonym": self.pseudonym,
            "k_encr": self.k_encr.reveal().hex(),
            "k_aut": self.k_aut.reveal().hex(),
            "k_re": self.k_re.reveal().hex(),
            "counter": self.counter,
            "network_name": self.network_name.hex(),
            "established": self.established,
        }
        newest = ring.keys[0]
        plaintext = json.dumps(value, separators=(",", ":")).encode()
        return bytes([newest.index]) + _cipher(newest, _CONTEXTS).encrypt(plaintext, [self.username.encode()])

    @classmethod
    def open(cls, ring: KeyRing, username: str, sealed: bytes) -> ReauthenticationContext:
        """Out of storage; ``DecodeError`` when no key of the ring opens it."""
        key = ring.get(sealed[0]) if sealed else None
        if key is None:
            raise DecodeError("the re-authentication context is under a key that is gone")
        try:
            value = json.loads(_cipher(key, _CONTEXTS).decrypt(sealed[1:], [username.encode()]))
            return cls(
                username=username,
                method=EapType(value["method"]),
                imsi=Imsi(value["imsi"]),
                permanent_identity=value["permanent_identity"],
                pseudonym=value["pseudonym"],
                k_encr=Secret(bytes.fromhex(value["k_encr"])),
                k_aut=Secret(bytes.fromhex(value["k_aut"])),
                k_re=Secret(bytes.fromhex(value["k_re"])),
                counter=value["counter"],
                network_name=bytes.fromhex(value["network_name"]),
                established=value["established"],
            )
        except (InvalidTag, ValueError, KeyError, TypeError) as error:
            raise DecodeError("the re-authentication context does not open: it was altered") from error


def _cipher(key: TemporaryKey, purpose: bytes) -> AESSIV:
    """AES-SIV under the key for one purpose."""
    return AESSIV(HKDFExpand(algorithm=hashes.SHA256(), length=KEY_LENGTH, info=purpose).derive(key.key.reveal()))
