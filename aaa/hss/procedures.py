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

from dataclasses import replace
from typing import NoReturn, Protocol

from aaa.equipment import ANY_EQUIPMENT, check_equipment
from aaa.hss.local import LocalHss
from aaa.hss.port import HssRefusal, SubscriberProfile, VectorRequest
from aaa.hss.profile import user_data
from aaa.hss.registration import WITHOUT_SUBSCRIPTION, Registration, RegistrationStore, ServingServer, digest
from aaa.subscribers.subscriber import Subscriber, is_host
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, RatType, ResultCode
from protocols.eap.packet import EapType
from protocols.threegpp.identity import Apn, Imsi, Plmn

VECTORS_LIMIT = 5  # in one MAA; SIP-Number-Auth-Items may ask for more (TS 29.273 §8.1.2.1.2)


class SubscriberSource(Protocol):
    """What the procedures need of ``SubscriberDatabase``."""

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``, if provisioned."""


class HssProcedures:
    """MAR and SAR as calls; ``server`` is the AAA server that asks."""

    def __init__(self, subscribers: SubscriberSource, vectors: LocalHss, registrations: RegistrationStore) -> None:
        self._subscribers = subscribers
        self._vectors = vectors
        self._registrations = registrations
        self._authenticating: dict[
            Imsi, ServingServer
        ] = {}  # who asked for vectors and has not registered the user yet
        self._emergencies: set[Imsi] = set()  # of those, who may be authenticated for an emergency only

    # --- MAR ----------------------------------------------------------------------------------------

    def authenticate(self, request: VectorRequest, *, server: ServingServer, count: int = 1) -> tuple[AkaVector, ...]:
        """Vectors for a user that may be authenticated (TS 29.273 §8.1.2.1.2).

        ``HssRefusal``; ``AuthenticationError`` when AUTS does not verify. With AUTS there is one vector.
        """
        subscriber = self._subscriber(request.imsi)
        if not subscriber.non_3gpp_allowed and not request.emergency:
            _refuse_without_subscription(request.imsi)
        if not _may_roam(subscriber, request.visited_network):
            _refuse(
                ExperimentalResultCode.DIAMETER_ERROR_ROAMING_NOT_ALLOWED,
                f"Subscriber {request.imsi} may not roam in {request.visited_network}.",
            )
        if not subscriber.wlan_allowed and request.rat_type == RatType.WLAN:
            _refuse(
                ExperimentalResultCode.DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED,
                f"Subscriber {request.imsi} may not use WLAN.",
            )
        present = self._registrations.registration(request.imsi)
        if present is not None and present.server != server and not request.replaces_failed_server:
            _refuse_served_elsewhere(request.imsi, present.server)
        prime_for: bytes | None = None
        if request.method is EapType.AKA_PRIME:
            if request.network_name is None:
                raise HssRefusal(Result.of(ResultCode.DIAMETER_MISSING_AVP), "A vector of EAP-AKA' needs the ANID.")
            prime_for = request.network_name
        elif request.method is not EapType.AKA:
            _refuse(
                ExperimentalResultCode.DIAMETER_ERROR_AUTH_SCHEME_NOT_SUPPORTED,
                "Vectors are for EAP-AKA and EAP-AKA'.",
            )
        wanted = 1 if request.resynchronisation is not None else max(1, min(count, VECTORS_LIMIT))
        vectors = tuple(
            self._vectors.vector_of(subscriber, request.resynchronisation, prime_for=prime_for) for _ in range(wanted)
        )
        self._authenticating[request.imsi] = server
        if not subscriber.non_3gpp_allowed:
            self._emergencies.add(request.imsi)
        return vectors

    # --- SAR ----------------------------------------------------------------------------------------

    def register(self, imsi: Imsi, *, server: ServingServer) -> SubscriberProfile:
        """REGISTRATION: ``server`` serves the user, if it is the one that authenticated it (TS 23.402 §12.1.2)."""
        subscriber = self._subscriber(imsi)
        present = self._registrations.registration(imsi)
        expected = self._authenticating.get(imsi, server if present is None else present.server)
        if expected != server:
            _refuse_served_elsewhere(imsi, expected)
        if not subscriber.non_3gpp_allowed and imsi not in self._emergencies:  # fast re-authentication had no MAR
            _refuse_without_subscription(imsi)
        self._emergencies.discard(imsi)
        self._authenticating.pop(imsi, None)
        kept = present if present is not None and present.server == server else Registration(server=server)
        return self._told(subscriber, kept, stored=present)

    def user_data(self, imsi: Imsi, *, server: ServingServer) -> SubscriberProfile:
        """AAA_USER_DATA_REQUEST: the profile, for the server that serves the user."""
        subscriber, present = self._subscriber(imsi), self._registered(imsi, server)
        return self._told(subscriber, present, stored=present)

    def restore(self, imsi: Imsi, *, server: ServingServer) -> SubscriberProfile:
        """RESTORATION: a server that lost its data gets the profile, with the PDN gateways it reported (§8.1.2.2.2)."""
        subscriber, present = self._subscriber(imsi), self._registered(imsi, server)
        return self._told(subscriber, present, stored=present)

    def deregister(self, imsi: Imsi, *, server: ServingServer) -> None:
        """USER_DEREGISTRATION and its kin: nobody serves the user; what the server said of PDN gateways goes."""
        self._registered(imsi, server)
        self._registrations.store_registration(imsi, None)

    def update_pgw(self, imsi: Imsi, apn: str, pgw: str | None, *, server: ServingServer) -> None:
        """PGW_UPDATE: the PDN gateway that serves ``apn``, which is one of the user's (TS 29.273 §8.1.2.2.2)."""
        subscriber = self._subscriber(imsi)
        present = self._registered(imsi, server)
        subscribed = _subscribed(subscriber, apn)
        if pgw is None:
            self._told(subscriber, present.with_pgw(subscribed or apn, None), stored=present)
            return
        if subscribed is None:
            _refuse(
                ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION,
                f"Subscriber {imsi} has no subscription to this APN.",
            )
        if not is_host(pgw):
            raise HssRefusal(Result.of(ResultCode.DIAMETER_INVALID_AVP_VALUE), "The PDN gateway is no host.")
        self._told(subscriber, present.with_pgw(subscribed, pgw), stored=present)

    def check_device(self, imsi: Imsi, imei: str | None) -> None:
        """A subscription that is bound to one device is used in no other (3GPP has no such check; 5554 of S13)."""
        subscriber = self._subscriber(imsi)
        finding = check_equipment(ANY_EQUIPMENT, imei, bound=subscriber.imei)
        if finding.refused:
            _refuse(ExperimentalResultCode.DIAMETER_ERROR_ILLEGAL_EQUIPMENT, finding.text or "The device is refused.")

    # --- inside -------------------------------------------------------------------------------------

    def _subscriber(self, imsi: Imsi) -> Subscriber:
        subscriber = self._subscribers.get(imsi)
        if subscriber is None:
            _refuse(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN, "The subscriber is unknown.")
        return subscriber

    def _told(
        self, subscriber: Subscriber, registration: Registration, *, stored: Registration | None
    ) -> SubscriberProfile:
        """The profile, when it is kept what the server knows from now on; ``stored`` is what is kept yet."""
        profile = user_data(subscriber, registration.pgws)
        told = replace(registration, profile=digest(profile))
        if (
            not subscriber.non_3gpp_allowed
        ):  # an emergency, or the subscription has just ended and HssPush has to see it
            told = replace(registration, profile=registration.profile or WITHOUT_SUBSCRIPTION)
        if told != stored:
            self._registrations.store_registration(subscriber.imsi, told)
        return SubscriberProfile(imsi=subscriber.imsi, user_data=profile, imei=subscriber.imei)

    def _registered(self, imsi: Imsi, server: ServingServer) -> Registration:
        present = self._registrations.registration(imsi)
        if present is None:
            _refuse(
                ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_NOT_REGISTERED, f"No server serves subscriber {imsi}."
            )
        if present.server != server:
            _refuse_served_elsewhere(imsi, present.server)
        return present


def _subscribed(subscriber: Subscriber, name: str) -> str | None:
    """The APN of ``name`` as the subscription writes it."""
    try:
        wanted = Apn(name).network_identifier
    except ValueError:
        return None
    return next((str(held.apn) for held in subscriber.apns if held.apn.network_identifier == wanted), None)


def _may_roam(subscriber: Subscriber, visited: str | None) -> bool:
    """Whether the Visited-Network-Identifier is home or a network that the user may visit (TS 29.273 §8.1.2.1.2).

    An IMSI does not tell how many digits its MNC has: either makes a home network.
    """
    if visited is None:
        return True
    digits = str(subscriber.imsi)
    if any(_is(visited, Plmn(digits[:3], digits[3:end])) for end in (5, 6)):
        return True
    if not subscriber.roaming_allowed:
        return False
    return not subscriber.visited_networks or any(_is(visited, plmn) for plmn in subscriber.visited_networks)


def _is(visited: str, plmn: Plmn) -> bool:
    """Names such as mnc001.mcc001.3gppnetwork.org, or below it (TS 23.003 §19.2)."""
    return f".{visited.lower()}".endswith(f".{plmn.domain}")


def _refuse(code: ExperimentalResultCode, text: str) -> NoReturn:
    raise HssRefusal(Result.of(code), text)


def _refuse_without_subscription(imsi: Imsi) -> NoReturn:
    _refuse(
        ExperimentalResultCode.DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION,
        f"Subscriber {imsi} has no subscription to non-3GPP access.",
    )


def _refuse_served_elsewhere(imsi: Imsi, server: ServingServer) -> NoReturn:
    raise HssRefusal(
        Result.of(ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED),
        f"Subscriber {imsi} is served by {server.host}.",
        serving_server=server.host,
    )
