"""COOKIE (RFC 7296 §2.6): made and recognized without keeping anything of the request.

A cookie is one octet that names the secret and a MAC over Ni, IPi and SPIi. KEi and the port are not in
it: a request repeated with another KEi passes with the cookie it has (§2.6.1).
"""

from __future__ import annotations

import hmac
from collections import deque
from typing import Final

from protocols.buffer import Reader
from protocols.entropy import Entropy
from protocols.errors import DecodeError
from protocols.ikev2.message import HEADER_LENGTH
from protocols.ikev2.payloads import MAXIMUM_NONCE_LENGTH, MINIMUM_NONCE_LENGTH
from protocols.ikev2.registry import NotifyType, PayloadType
from protocols.path import Address

SECRET_LIFETIME: Final = 60.0  # §2.6 leaves it to us
SECRET_LENGTH: Final = 32
NOTIFY_HEADER_LENGTH: Final = 4


class Cookies:
    """The responder's secrets: the present one, and the one before it while its cookies may be on their way."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._secrets: deque[tuple[int, bytes, float]] = deque(maxlen=2)

    def make(self, spi_i: bytes, nonce: bytes, source: Address, now: float) -> bytes:
        """The cookie to demand of this initiator."""
        version, secret, _ = self._current(now)
        return _cookie(version, secret, nonce + source.packed + spi_i)

    def verify(self, cookie: bytes, spi_i: bytes, nonce: bytes, source: Address, now: float) -> bool:
        """Whether it is one of ours, and not older than two lives of a secret."""
        self._current(now)
        material = nonce + source.packed + spi_i
        return any(
            hmac.compare_digest(cookie, _cookie(version, secret, material))
            for version, secret, made in self._secrets
            if now - made < 2 * SECRET_LIFETIME
        )

    def _current(self, now: float) -> tuple[int, bytes, float]:
        if not self._secrets or now - self._secrets[-1][2] >= SECRET_LIFETIME:
            version = (self._secrets[-1][0] + 1) % 256 if self._secrets else 0
            self._secrets.append((version, self._entropy.octets(SECRET_LENGTH), now))
        return self._secrets[-1]


def _cookie(version: int, secret: bytes, material: bytes) -> bytes:
    """Version octet and a MAC over Ni, the source address and SPIi (§2.6)."""
    return bytes([version]) + hmac.digest(secret, material, "sha256")


def read_request(octets: bytes) -> tuple[bytes, bytes | None]:
    """Ni and the cookie of an IKE_SA_INIT request, without decoding more of it than that.

    ``DecodeError`` when there is no nonce of a legal length: such a request gets no answer.
    """
    reader = Reader(octets, HEADER_LENGTH)
    kind = octets[16]
    cookie: bytes | None = None
    while kind:
        following = reader.u8()
        reader.skip(1)
        body = reader.take(reader.u16() - 4)
        if kind == PayloadType.NONCE:
            if not MINIMUM_NONCE_LENGTH <= len(body) <= MAXIMUM_NONCE_LENGTH:
                raise DecodeError(f"a nonce of {len(body)} octets")
            return body, cookie
        is_notify = kind == PayloadType.N and len(body) >= NOTIFY_HEADER_LENGTH
        if is_notify and cookie is None and body[2:4] == NotifyType.COOKIE.to_bytes(2, "big"):
            cookie = body[NOTIFY_HEADER_LENGTH + body[1] :]
        kind = following
    raise DecodeError("an IKE_SA_INIT request without nonce")
