"""What the AAA server asks a home subscriber server (SWx, TS 29.273 §8): vectors, registration, the profile.

Two answer: ``aaa.hss.in_process`` from the subscriber database of this process, and ``aaa.hss.client`` from
an HSS elsewhere, over Diameter. The results of the HSS are the same either way.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ServerAssignmentType
from protocols.diameter.profile import Non3gppUserData
from protocols.eap.aka.server import Resynchronisation
from protocols.eap.packet import EapType
from protocols.errors import StackError
from protocols.threegpp.identity import Imsi

SERVED: ContextVar[str | None] = ContextVar("SERVED", default=None)  # the SWm session that a question is for


class HssRefusal(StackError):
    """The HSS answered with ``result``, which is not success; ``text`` is one plain sentence.

    ``serving_server`` is the 3GPP-AAA-Server-Name of DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED.
    """

    def __init__(self, result: Result, text: str, *, serving_server: str | None = None) -> None:
        super().__init__(text)
        self.result = result
        self.text = text
        self.serving_server = serving_server


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorRequest:
    """What a MAR says (TS 29.273 §8.1.2.1.1).

    ``method`` is EAP-AKA or EAP-AKA'; ``network_name`` the access network identity (ANID) that an EAP-AKA'
    vector is bound to; ``visited_network`` and ``rat_type`` are what the gateway said of the access.
    ``emergency``: neither subscription nor roaming nor RAT count (TS 33.402 §13.2), as far as the HSS is told.
    ``replaces_failed_server``: the gateway says that the AAA server it used before failed.
    """

    imsi: Imsi
    method: EapType = EapType.AKA
    network_name: bytes | None = None
    resynchronisation: Resynchronisation | None = None
    visited_network: str | None = None
    rat_type: int | None = None
    replaces_failed_server: bool = False
    emergency: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SubscriberProfile:
    """A subscriber as the AAA server knows it (Non-3GPP-User-Data, TS 29.273 §8.2.3.1): no keys.

    ``imei`` is the equipment that the subscription is bound to, told by an HSS in the same process; one on SWx
    has no word for it and judges the device itself.
    """

    imsi: Imsi
    user_data: Non3gppUserData
    imei: str | None = None


class HomeSubscriberServer(Protocol):
    """Answers of the HSS: ``HssRefusal`` for every result but success, ``BackendError`` when it does not answer."""

    async def authentication_vector(self, request: VectorRequest) -> AkaVector:
        """MAR: a fresh vector, of AKA' with CK' and IK' (TS 29.273 §8.1.2.1).

        ``AuthenticationError`` when AUTS does not verify.
        """

    async def register(self, imsi: Imsi, *, imei: str | None = None) -> SubscriberProfile:
        """SAR REGISTRATION: this server serves the user from now on (§8.1.2.2.2); the profile.

        ``imei`` is of the user's device, which an HSS elsewhere may have an opinion of.
        """

    async def user_data(self, imsi: Imsi, *, imei: str | None = None) -> SubscriberProfile:
        """SAR AAA_USER_DATA_REQUEST: the profile of a user who is registered here."""

    async def deregister(self, imsi: Imsi, why: ServerAssignmentType) -> None:
        """SAR USER_DEREGISTRATION and its kin: this server has no session of the user any more."""

    async def update_pgw(self, imsi: Imsi, apn: str, pgw: str | None) -> None:
        """SAR PGW_UPDATE: the PDN gateway that serves ``apn``, or that none does."""


class HssListener(Protocol):
    """Who is told what the HSS says on its own; the results tell whether the user is known here."""

    def deregistered(self, imsi: Imsi, reason: int, text: str) -> bool:
        """RTR: the HSS ended the registration (Reason-Code, TS 29.229 §6.3.17)."""

    def profile_changed(self, imsi: Imsi, profile: SubscriberProfile | None) -> bool:
        """PPR: another profile holds from now on; ``None``: ask for it."""
