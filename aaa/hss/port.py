"""What the AAA server asks a home subscriber server (SWx, TS 29.273 §8): vectors and the profile.

The server in this package (``aaa.hss.local``) answers from the subscriber database in this process;
anything else that answers these two questions, such as a Diameter client on SWx, takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aaa.subscribers.subscriber import ApnSubscription
from protocols.algorithms.vector import AkaVector
from protocols.eap.aka.server import Resynchronisation
from protocols.threegpp.identity import Imsi


@dataclass(frozen=True, kw_only=True, slots=True)
class SubscriberProfile:
    """What an access decision needs of a subscriber (Non-3GPP-User-Data, TS 29.273 §8.2.3.1): no keys."""

    imsi: Imsi
    enabled: bool
    non_3gpp_allowed: bool
    msisdn: str | None
    apns: tuple[ApnSubscription, ...]


class HomeSubscriberServer(Protocol):
    """Answers of the HSS; calls may block, failures are ``BackendError``."""

    def authentication_vector(self, imsi: Imsi, resynchronisation: Resynchronisation | None) -> AkaVector:
        """A fresh vector (TS 33.102 §6.3.2), after moving SEQ_HE when AUTS is given (§6.3.5).

        ``UnknownImsi`` when there is no such subscriber, ``AuthenticationError`` when AUTS does not verify.
        """

    def profile(self, imsi: Imsi) -> SubscriberProfile | None:
        """The profile of ``imsi``, ``None`` when it is unknown."""
