"""Session resumption at the gateway (RFC 5723): what the gateway's own octets in a ticket say, the ticket secret.

Not in TS 24.302: a resumed session costs the AAA server no round, so that it is off unless configured.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from protocols.errors import ConfigurationError, RemoteError
from protocols.ikev2.ticket import SECRET_LENGTH_MINIMUM, TicketOffice, TicketPolicy
from protocols.secret import Secret


@dataclass(frozen=True, kw_only=True)
class ResumedSubscriber:
    """The session behind a ticket: who was authenticated, for which APN, with which addresses, until when (wall)."""

    nai: str
    user_name: str | None
    imsi: str | None
    apn: str
    addresses: tuple[str, ...]
    until: float | None

    def encode(self) -> bytes:
        """Octets for ``ConfigurationReply.session``."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, octets: bytes) -> ResumedSubscriber:
        """From a ticket of ours, perhaps of another release: ``RemoteError`` when it cannot be used."""
        try:
            found = cls(**json.loads(octets))
            found = replace(found, addresses=tuple(str(ip_address(address)) for address in found.addresses))
        except (ValueError, TypeError) as error:
            raise RemoteError(f"the session of the ticket: {error}") from error
        return found


def ticket_office(secret: Path, lifetime: float, key_interval: float, wall: Callable[[], float]) -> TicketOffice:
    """The gateway's tickets under the secret in a file; ``ConfigurationError`` when it is unusable."""
    expected = f"a file with at least {SECRET_LENGTH_MINIMUM} random octets"
    try:
        octets = secret.read_bytes()
    except OSError as error:
        why = error.strerror or "an unreadable file"
        raise ConfigurationError(file=str(secret), key="ike.resumption.secret_file", value=why, expected=expected)
    if len(octets) < SECRET_LENGTH_MINIMUM:
        why = f"{len(octets)} octets"
        raise ConfigurationError(file=str(secret), key="ike.resumption.secret_file", value=why, expected=expected)
    policy = TicketPolicy(secret=Secret(octets), wall=wall, lifetime=lifetime, key_interval=key_interval)
    return TicketOffice(policy)
