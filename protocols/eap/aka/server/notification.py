"""Notifications by phase (RFC 4187 §6.1, §6.2, §9.10): who may read them, and what protects them."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.eap.aka.attributes import AtCounter, AtNotification, Attribute
from protocols.eap.aka.messages import NOTIFICATION_PHASE_BIT, AkaMessage, AkaSubtype, NotificationCode
from protocols.eap.aka.protection import IV_LENGTH, encode_with_mac, encrypt_attributes
from protocols.eap.packet import EapCode, EapType
from protocols.entropy import Entropy
from protocols.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What protects a notification after authentication; ``counter`` is that of a fast re-authentication."""

    k_encr: Secret
    k_aut: Secret
    counter: int | None


def failure_before_authentication(method: EapType, identifier: int) -> bytes:
    """General failure (16384): the P bit is set, so there is no AT_MAC (§9.10)."""
    return _message(method, identifier, NotificationCode.GENERAL_FAILURE, ()).encode()


def notification_after_authentication(
    method: EapType, identifier: int, code: int, protection: Protection, entropy: Entropy
) -> bytes:
    """A code without P bit: under AT_MAC, in fast re-authentication with AT_COUNTER (§9.10)."""
    if code & NOTIFICATION_PHASE_BIT:
        raise ValueError(f"notification {code} is one before authentication")
    encrypted: tuple[Attribute, ...] = ()
    if protection.counter is not None:
        counter = [AtCounter(protection.counter)]
        encrypted = encrypt_attributes(counter, protection.k_encr, entropy.octets(IV_LENGTH))
    return encode_with_mac(_message(method, identifier, code, encrypted), protection.k_aut)


def _message(method: EapType, identifier: int, code: int, encrypted: tuple[Attribute, ...]) -> AkaMessage:
    """EAP-Request/AKA-Notification."""
    return AkaMessage(
        method=method,
        code=EapCode.REQUEST,
        identifier=identifier,
        subtype=AkaSubtype.NOTIFICATION,
        attributes=(AtNotification(code), *encrypted),
    )
