"""The policy of the EAP server (RFC 4187, RFC 9048): which options hold for whom.

Until the user has named itself the options of the node hold, those of a rule for every subscriber of an APN before
them; then those of the first rule that fits subscriber and APN.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from protocols.eap.aka.server import EapAkaServer, ServerOptions
from protocols.eap.aka.temporary import KeyRing
from protocols.entropy import Entropy
from protocols.threegpp.identity import Apn, Imsi

_RANGE = re.compile(r"([0-9]{6,15})-([0-9]{6,15})\Z")
_PREFIX = re.compile(r"[0-9]{1,15}\Z")


@dataclass(frozen=True, slots=True)
class ImsiRange:
    """IMSIs from ``first`` to ``last``, compared as text of one length; ``last`` empty: a prefix."""

    first: str
    last: str = ""

    @classmethod
    def parse(cls, text: str) -> ImsiRange:
        """From ``00101``, a prefix, or ``001010000000001-001010000000099``; ``ValueError``."""
        match = _RANGE.match(text)
        if match is not None and len(match[1]) == len(match[2]) and match[1] <= match[2]:
            return cls(match[1], match[2])
        if match is None and _PREFIX.match(text):
            return cls(text)
        raise ValueError("the first digits of IMSIs, or a range such as 001010000000001-001010000000099")

    def __contains__(self, imsi: Imsi) -> bool:
        digits = str(imsi)
        if not self.last:
            return digits.startswith(self.first)
        return len(digits) == len(self.first) and self.first <= digits <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class EapRule:
    """Options of some subscribers (``None``: all) at some APN (``None``: any), complete."""

    imsis: ImsiRange | None
    apn: str | None
    options: ServerOptions

    def fits(self, imsi: Imsi | None, apn: str | None) -> bool:
        """Whether it holds; ``imsi`` is ``None`` for a user who has not named itself, ``apn`` for the default APN."""
        if self.imsis is not None and (imsi is None or imsi not in self.imsis):
            return False
        return self.apn is None or (apn is not None and _network_identifier(apn) == self.apn)


@dataclass(frozen=True, slots=True, kw_only=True)
class EapService:
    """Makes the EAP server of an exchange; ``ring`` gives the keys of temporary identities, where there are any."""

    options: ServerOptions
    rules: tuple[EapRule, ...] = ()
    ring: Callable[[], KeyRing | None] = lambda: None

    def options_for(self, imsi: Imsi | None, apn: str | None) -> ServerOptions:
        """What holds for a subscriber at an APN; success waits for authorisation always."""
        fitting = (rule.options for rule in self.rules if rule.fits(imsi, apn))
        return replace(next(fitting, self.options), authorisation=True)

    def server(self, apn: str | None, entropy: Entropy) -> EapAkaServer:
        """For one exchange."""
        return EapAkaServer(
            entropy=entropy,
            options=self.options_for(None, apn),
            ring=self.ring(),
            policy=lambda imsi: self.options_for(imsi, apn),
        )


def _network_identifier(apn: str) -> str:
    """The network identifier of an APN as a gateway wrote it; a text that is none stays as it is."""
    try:
        return Apn(apn).network_identifier
    except ValueError:
        return apn
