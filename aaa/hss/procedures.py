"""The procedures of the HSS on SWx (TS 29.273 §8.1.2), whether a Diameter request or a call asks for them.

::

    3GPP AAA server                      HSS
     MAR: user, method       -->          user known, non-3GPP subscribed, roaming, RAT, served by whom?
                             <--  MAA     vectors; the server is remembered until its SAR
     SAR: REGISTRATION       -->
                             <--  SAA     the server serves the user; the profile

Calls block and are not for several threads at once; failures of the database are ``BackendError``.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from aaa.hss.local import LocalHss
from aaa.hss.port import DeregistrationReason, HssRefusal, SubscriberProfile, VectorRequest
from aaa.hss.registration import Registration, RegistrationStore
from aaa.subscribers.subscriber import Subscriber
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode
from protocols.threegpp.identity import Imsi

VECTORS_LIMIT = 5  # in one MAA; SIP-Number-Auth-Items may ask for more (TS 29.273 §8.1.2.1.2)


class SubscriberSource(Protocol):
    """What the procedures need of ``SubscriberDatabase``."""

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``, if provisioned."""


class HssProcedures:
    """MAR and SAR as calls; ``server`` is the Origin-Host of the AAA server that asks."""

    def __init__(self, subscribers: SubscriberSource, vectors: LocalHss, registrations: RegistrationStore) -> None:
        self._subscribers = subscribers
        self._vectors = vectors
        self._registrations = registrations
        self._authenticating: dict[Imsi, str] = {}  # who asked for vectors and has not registered the user yet

    # --- MAR ----------------------------------------------------------------------------------------

    def authenticate(self, request: VectorRequest, *, server: str, count: int = 1) -> tuple[AkaVector, ...]:
        """Vectors for a user that may be authenticated (TS 29.273 §8.1.2.1.2).

        ``HssRefusal``; ``AuthenticationError`` when AUTS does not verify. With AUTS there is one vector.
        """
        subscriber = self._subscriber(request.imsi)
        if not subscriber.non_3gpp_allowed:
            _refuse(
                ExperimentalResultCode.DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION,
                f"Subscriber {request.imsi} has no subscription to non-3GPP access.",
            )
        present = self._registrations.registration(request.imsi)
        if present is not None and present.server != server and not request.replaces_failed_server:
            _refuse_served_elsewhere(request.imsi, present.server)
        if request.resynchronisation is None:
            wanted = max(1, min(count, VECTORS_LIMIT))
            vectors = tuple(self._vectors.authentication_vector(request.imsi, None) for _ in range(wanted))
        else:
            vectors = (self._vectors.authentication_vector(request.imsi, request.resynchronisation),)
        self._authenticating[request.imsi] = server
        return vectors

    # --- SAR ----------------------------------------------------------------------------------------

    def register(self, imsi: Imsi, *, server: str) -> SubscriberProfile:
        """REGISTRATION: ``server`` serves the user, if it is the one that authenticated it (TS 23.402 §12.1.2)."""
        subscriber = self._subscriber(imsi)
        present = self._registrations.registration(imsi)
        expected = self._authenticating.get(imsi, server if present is None else present.server)
        if expected != server:
            _refuse_served_elsewhere(imsi, expected)
        if present is None or present.server != server:
            self._registrations.store_registration(imsi, Registration(server=server))
        self._authenticating.pop(imsi, None)
        return _profile(subscriber)

    def user_data(self, imsi: Imsi, *, server: str) -> SubscriberProfile:
        """AAA_USER_DATA_REQUEST: the profile, for the server that serves the user."""
        subscriber = self._subscriber(imsi)
        self._registered(imsi, server)
        return _profile(subscriber)

    def deregister(self, imsi: Imsi, why: DeregistrationReason, *, server: str) -> None:
        """USER_DEREGISTRATION and its kin: nobody serves the user; what the server said of PDN gateways goes."""
        self._registered(imsi, server)
        self._registrations.store_registration(imsi, None)

    def update_pgw(self, imsi: Imsi, apn: str, pgw: str | None, *, server: str) -> None:
        """PGW_UPDATE: the PDN gateway that serves ``apn`` (TS 29.273 §8.1.2.2.2)."""
        self._subscriber(imsi)
        present = self._registered(imsi, server)
        self._registrations.store_registration(imsi, present.with_pgw(apn, pgw))

    # --- inside -------------------------------------------------------------------------------------

    def _subscriber(self, imsi: Imsi) -> Subscriber:
        subscriber = self._subscribers.get(imsi)
        if subscriber is None:
            _refuse(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN, "The subscriber is unknown.")
        return subscriber

    def _registered(self, imsi: Imsi, server: str) -> Registration:
        present = self._registrations.registration(imsi)
        if present is None:
            _refuse(
                ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_NOT_REGISTERED, f"No server serves subscriber {imsi}."
            )
        if present.server != server:
            _refuse_served_elsewhere(imsi, present.server)
        return present


def _profile(subscriber: Subscriber) -> SubscriberProfile:
    return SubscriberProfile(
        imsi=subscriber.imsi, enabled=subscriber.enabled, msisdn=subscriber.msisdn, apns=subscriber.apns
    )


def _refuse(code: ExperimentalResultCode, text: str) -> NoReturn:
    raise HssRefusal(Result.of(code), text)


def _refuse_served_elsewhere(imsi: Imsi, server: str) -> NoReturn:
    raise HssRefusal(
        Result.of(ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED),
        f"Subscriber {imsi} is served by {server}.",
        serving_server=server,
    )
