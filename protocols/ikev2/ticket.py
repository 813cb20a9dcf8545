"""Tickets by value (RFC 5723 §6, Appendix A.1): contents, protection under rotating keys, tickets that are spent.

A ticket is ``version, 3 reserved, key id (8) | IV (12) | AES-256-GCM(contents)``, the first part authenticated.
Keys come from one secret and the number of the rotation interval, so that tickets outlive a restart with the
same secret; those of the present and of the last interval open tickets. Left out: tickets by reference.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.buffer import Reader
from protocols.entropy import Entropy
from protocols.errors import DecodeError, RemoteError
from protocols.ikev2.payloads import IdiPayload, IdrPayload
from protocols.ikev2.suites import IkeSuite
from protocols.path import Address
from protocols.secret import Secret

FORMAT_VERSION = 1
KEY_ID_LENGTH = 8
IV_LENGTH = 12
IDENTIFIER_LENGTH = 8
SECRET_LENGTH_MINIMUM = 32
TICKET_LIFETIME = 3600.0  # RFC 5723 §9.8 names an hour as short
TICKET_KEY_INTERVAL = 86400.0  # §6.1: significantly longer than an IKE SA lives
SPENT_LIMIT = 65536


@dataclass(frozen=True, kw_only=True)
class ResumableSession:
    """What an initiator keeps to resume an IKE SA: the ticket, and what is "from the ticket" (RFC 5723 §4.2, §5)."""

    ticket: bytes
    gateway: Address
    expires: float
    suite: IkeSuite
    sk_d: Secret
    identity: IdiPayload
    responder_identity: IdrPayload


@dataclass(frozen=True, kw_only=True)
class TicketContents:
    """The state that a ticket carries (RFC 5723 §5, §6.1); ``expires`` is wall-clock time.

    ``spi_i`` and ``spi_r`` find the former SA (§5 note 4); ``data`` is the node's own, the authenticated
    subscriber among it (§5 note 1); ``identifier`` is what a ticket is known by once it is spent.
    """

    identifier: bytes
    identity: IdiPayload
    responder_identity: IdrPayload
    suite: IkeSuite
    sk_d: Secret
    spi_i: bytes
    spi_r: bytes
    expires: int
    data: bytes

    @classmethod
    def decode(cls, octets: bytes) -> TicketContents:
        """From the decrypted octets; ``DecodeError`` for what an older release wrote otherwise."""
        body = Reader(octets)
        identifier, spi_i, spi_r = body.take(IDENTIFIER_LENGTH), body.take(8), body.take(8)
        expires = int.from_bytes(body.take(8), "big")
        identity, responder, suite, sk_d, data = (body.take(body.u16()) for _ in range(5))
        body.finish("the ticket's contents")
        try:
            algorithms = IkeSuite.of(suite.decode("ascii"))
        except ValueError as error:
            raise DecodeError(f"suite of the ticket: {error}") from error
        return cls(
            identifier=identifier,
            identity=IdiPayload.decode(Reader(identity)),
            responder_identity=IdrPayload.decode(Reader(responder)),
            suite=algorithms,
            sk_d=Secret(sk_d),
            spi_i=spi_i,
            spi_r=spi_r,
            expires=expires,
            data=data,
        )

    def encode(self) -> bytes:
        """The octets that are encrypted."""
        parts = (
            self.identity.encode(),
            self.responder_identity.encode(),
            self.suite.name.encode(),
            self.sk_d.reveal(),
            self.data,
        )
        fixed = self.identifier + self.spi_i + self.spi_r + self.expires.to_bytes(8, "big")
        return fixed + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


@dataclass(frozen=True, kw_only=True)
class TicketPolicy:
    """How a gateway makes tickets; ``wall`` is its clock, since tickets outlive the process."""

    secret: Secret
    wall: Callable[[], float]
    lifetime: float = TICKET_LIFETIME
    key_interval: float = TICKET_KEY_INTERVAL
    one_time: bool = True
    spent_limit: int = SPENT_LIMIT

    def __post_init__(self) -> None:
        if len(self.secret.reveal()) < SECRET_LENGTH_MINIMUM:
            raise ValueError(f"a ticket secret of at least {SECRET_LENGTH_MINIMUM} octets is needed")
        if not 0 < self.lifetime <= self.key_interval:
            raise ValueError("tickets live at most as long as their keys are used")


class TicketOffice:
    """Makes and opens a gateway's tickets, and knows which are spent or revoked (RFC 5723 §4.3.1, §9.8)."""

    def __init__(self, policy: TicketPolicy) -> None:
        self.policy = policy
        self._spent: dict[bytes, int] = {}

    @property
    def spent(self) -> int:
        """How many tickets are remembered as spent."""
        return len(self._spent)

    def expiration(self, lifetime: float) -> int:
        """When a ticket made now expires."""
        return int(self.policy.wall() + lifetime)

    def seal(self, contents: TicketContents, entropy: Entropy) -> bytes:
        """A ticket under the present key."""
        key_id, key = self._key(self._interval())
        header = bytes((FORMAT_VERSION, 0, 0, 0)) + key_id
        iv = entropy.octets(IV_LENGTH)
        return header + iv + AESGCM(key).encrypt(iv, contents.encode(), header)

    def open(self, ticket: bytes) -> TicketContents:
        """The contents; ``RemoteError`` says why a ticket is not accepted."""
        body = Reader(ticket)
        header = body.take(4 + KEY_ID_LENGTH)
        iv, sealed = body.take(IV_LENGTH), body.rest()
        keys = dict(self._key(number) for number in (self._interval(), self._interval() - 1))
        key = keys.get(header[4:])
        if header[0] != FORMAT_VERSION or key is None:
            raise RemoteError("the ticket is under a key that is not in use")
        try:
            contents = TicketContents.decode(AESGCM(key).decrypt(iv, sealed, header))
        except InvalidTag:
            raise RemoteError("the ticket is not authentic") from None
        if contents.expires <= self.policy.wall():
            raise RemoteError("the ticket has expired")
        if contents.identifier in self._spent:
            raise RemoteError("the ticket is spent")
        return contents

    def use(self, contents: TicketContents) -> None:
        """An IKE SA was established with it: it is spent, where the policy says so (§4.3.1)."""
        if self.policy.one_time:
            self.revoke(contents.identifier)

    def is_spent(self, contents: TicketContents) -> bool:
        """Whether it was used, or revoked, meanwhile."""
        return contents.identifier in self._spent

    def revoke(self, identifier: bytes) -> None:
        """Not to be accepted any more; the oldest are forgotten first when there are too many."""
        now = int(self.policy.wall())
        self._spent.pop(identifier, None)
        self._spent[identifier] = self.expiration(self.policy.lifetime)
        while (first := next(iter(self._spent))) != identifier:
            if len(self._spent) <= self.policy.spent_limit and self._spent[first] > now:
                break
            del self._spent[first]

    def _interval(self) -> int:
        return int(self.policy.wall() // self.policy.key_interval)

    def _key(self, number: int) -> tuple[bytes, bytes]:
        """Key identifier and AES-256 key of a rotation interval."""
        secret, count = self.policy.secret.reveal(), number.to_bytes(8, "big", signed=True)
        key_id = hmac.digest(secret, b"IKEv2 ticket key id" + count, "sha256")[:KEY_ID_LENGTH]
        return key_id, hmac.digest(secret, b"IKEv2 ticket key" + count, "sha256")
