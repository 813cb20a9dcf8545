"""AT_MAC, AT_CHECKCODE and AT_ENCR_DATA of both methods (RFC 4187 §10.12, §10.13, §10.15; RFC 9048 §3.4).

EAP-AKA uses SHA-1, EAP-AKA' SHA-256. MACs and checkcodes are computed over the octets as they were on
the wire.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.buffer import Reader
from protocols.eap.aka.attributes import (
    MAC_LENGTH,
    UNIT,
    AtEncrData,
    AtIv,
    AtMac,
    AtPadding,
    Attribute,
    AttributeType,
    encode_attributes,
)
from protocols.eap.aka.messages import AkaMessage, NestedAttributes
from protocols.eap.packet import EapType, trimmed
from protocols.errors import DecodeError
from protocols.secret import Secret

IV_LENGTH = 16
_CIPHER_BLOCK = 16
_TYPE_AT = 4  # the octet of an EAP packet that names its method
_HASHES = {EapType.AKA: hashlib.sha1, EapType.AKA_PRIME: hashlib.sha256}


def encode_with_mac(message: AkaMessage, k_aut: Secret, extra: bytes = b"") -> bytes:
    """The packet with AT_MAC added as its last attribute (RFC 4187 §10.15).

    ``extra`` is the message-specific data that the MAC covers behind the packet.
    """
    blank = replace(message, attributes=(*message.attributes, AtMac(bytes(MAC_LENGTH)))).encode()
    return blank[:-MAC_LENGTH] + _mac(blank, k_aut, extra)


def mac_verifies(octets: bytes, k_aut: Secret, extra: bytes = b"") -> bool:
    """Whether the packet has an AT_MAC and it is right, over the octets as received (RFC 4187 §10.15)."""
    octets = trimmed(octets)
    at = _mac_offset(octets)
    if at is None or octets[_TYPE_AT] not in _HASHES:
        return False
    blank = octets[:at] + bytes(MAC_LENGTH) + octets[at + MAC_LENGTH :]
    return hmac.compare_digest(_mac(blank, k_aut, extra), octets[at : at + MAC_LENGTH])


def checkcode(packets: Iterable[bytes], method: EapType = EapType.AKA) -> bytes:
    """The hash over the AKA-Identity packets as on the wire, nothing for none (RFC 4187 §10.13)."""
    octets = b"".join(packets)
    return _HASHES[method](octets, usedforsecurity=False).digest() if octets else b""


def encrypt_attributes(attributes: Iterable[Attribute], k_encr: Secret, iv: bytes) -> tuple[AtIv, AtEncrData]:
    """Nested attributes, padded, under AES-128-CBC (RFC 4187 §10.12); ``iv`` is 16 fresh random octets."""
    plaintext = encode_attributes(attributes)
    missing = -len(plaintext) % _CIPHER_BLOCK
    if missing:
        plaintext += encode_attributes([AtPadding(missing)])
    encryptor = Cipher(algorithms.AES(k_encr.reveal()), modes.CBC(iv)).encryptor()
    return AtIv(iv), AtEncrData(encryptor.update(plaintext) + encryptor.finalize())


def decrypt_attributes(k_encr: Secret, iv: bytes, ciphertext: bytes) -> bytes:
    """The plaintext of AT_ENCR_DATA: AES-128-CBC (RFC 4187 §10.12)."""
    if not ciphertext or len(ciphertext) % _CIPHER_BLOCK:
        raise DecodeError(f"AT_ENCR_DATA holds {len(ciphertext)} octets, no multiple of {_CIPHER_BLOCK}")
    decryptor = Cipher(algorithms.AES(k_encr.reveal()), modes.CBC(iv)).decryptor()
    return decryptor.update(ciphertext) + decryptor.finalize()


def nested_attributes(message: AkaMessage, k_encr: Secret) -> NestedAttributes:
    """What AT_ENCR_DATA of a message holds, nothing where it has none; ``DecodeError`` as in §10.1, §10.12."""
    iv, encrypted = message.get(AtIv), message.get(AtEncrData)
    if iv is None or encrypted is None:
        return NestedAttributes(message.name, ())
    return message.decode_nested(decrypt_attributes(k_encr, iv.value, encrypted.ciphertext))


def _mac(octets: bytes, k_aut: Secret, extra: bytes) -> bytes:
    """HMAC truncated to 16 octets, with the hash of the packet's method."""
    digest = _HASHES[EapType(octets[_TYPE_AT])]
    return hmac.digest(k_aut.reveal(), octets + extra, digest)[:MAC_LENGTH]


def _mac_offset(octets: bytes) -> int | None:
    """Where the 16 octets of the MAC begin, in a packet of one of the two methods."""
    reader = Reader(octets)
    reader.skip(8)
    while reader.remaining:
        number, units = reader.u8(), reader.u8()
        value = reader.offset
        reader.skip(units * UNIT - 2)
        if number == AttributeType.AT_MAC and units * UNIT == 4 + MAC_LENGTH:
            return value + 2
    return None
