"""What initiators do differently where RFC 7296 and RFC 4555 leave it to them, or where they break them.

The defaults are this implementation's own ways; real UEs have others, and each of them is an option by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import KeGroup, PayloadType

PayloadKind = tuple[PayloadType, int | None]
"""A payload by its type, and a Notify payload by its Notify Message Type as well."""


class GroupObedience(str, Enum):
    """Which group of an INVALID_KE_PAYLOAD is obeyed (RFC 7296 §1.2, §2.7)."""

    OFFERED = "offered"
    EVERY_PROPOSAL = "every-proposal"
    ANY = "any"  # not even offered: CVE-2024-20069


class ResponderCheck(str, Enum):
    """Whether the IDr that comes back has to be a name of the gateway's certificate (RFC 7296 §3.5)."""

    UNLESS_ECHOED = "unless-echoed"  # TS 24.302 §7.2.2.1: the APN, echoed, names no host
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Habits:
    """The ways of an initiator.

    ``initial_group``: KE of the first request, by default of the first suite (§1.2). ``renew_spi``: INVALID_KE_PAYLOAD
    is followed with another SPIi. ``init_order``, ``auth_order`` and ``update_order``: in which order payloads go into
    IKE_SA_INIT, the first IKE_AUTH and UPDATE_SA_ADDRESSES requests (§2.5 leaves it free); what is not named comes
    last. ``certificate_requests``: CERTREQ for the trust anchors (§3.7). ``early_notifies``: what the profile reads of
    the last IKE_AUTH response is acted upon before AUTH is verified.

    ``mobike_versions``: IP versions of the gateway's address on which MOBIKE is announced (RFC 4555 §3.2).
    ``busy_while_moving``: while UPDATE_SA_ADDRESSES is unanswered every request but one with DELETE is answered
    TEMPORARY_FAILURE. ``refused_update_is_fatal``: an error in the response ends the IKE SA (§3.5 would have it go
    back or elsewhere). ``esp_waits_for_response``: child SAs never move before the gateway has taken the update (§3.5
    lets them go with the request). ``moves_by_rekey``: without MOBIKE a move is a rekey of the child SAs from the new
    address. ``probes_before_update``: an empty INFORMATIONAL from the new address comes first, to all the gateway's
    addresses (§3.10). ``always_lists_addresses``: IKE_AUTH and every update carry the list of addresses (§3.4, §3.6).
    ``answers_configuration``: CFG_REQUEST and CFG_SET of an SA that is up are answered with CP (RFC 7296 §3.15).
    """

    initial_group: KeGroup | None = None
    group_obedience: GroupObedience = GroupObedience.OFFERED
    renew_spi: bool = False
    init_order: tuple[PayloadKind, ...] = ()
    auth_order: tuple[PayloadKind, ...] = ()
    update_order: tuple[PayloadKind, ...] = ()
    certificate_requests: bool = True
    responder_check: ResponderCheck = ResponderCheck.UNLESS_ECHOED
    early_notifies: bool = False
    mobike_versions: frozenset[int] = frozenset({4, 6})
    busy_while_moving: bool = False
    refused_update_is_fatal: bool = False
    esp_waits_for_response: bool = False
    moves_by_rekey: bool = False
    probes_before_update: bool = False
    always_lists_addresses: bool = False
    answers_configuration: bool = True


def kind_of(payload: Payload) -> PayloadKind:
    """What an order names a payload by."""
    return payload.payload_type, int(payload.type) if isinstance(payload, NotifyPayload) else None


def arranged(payloads: Iterable[Payload], order: tuple[PayloadKind, ...]) -> tuple[Payload, ...]:
    """The payloads in this order; those that it does not name follow, as they stood."""
    places = {kind: place for place, kind in enumerate(order)}
    return tuple(sorted(payloads, key=lambda payload: places.get(kind_of(payload), len(places))))
