"""Who a UE says it is and where it wants to go, out of IDi and IDr (TS 24.302 §7.2.2.1)."""

from __future__ import annotations

from protocols.ikev2.payloads import IdrPayload
from protocols.threegpp.identity import Apn, Imsi, Nai


def imsi_of(text: str) -> str | None:
    """The IMSI in an NAI or standing alone, ``None`` when there is none (a UE that is no 3GPP device)."""
    try:
        imsi = Nai.parse(text).imsi
    except ValueError:
        imsi = None
    if imsi is not None:
        return imsi.digits
    try:
        return Imsi(text).digits
    except ValueError:
        return None


def apn_of(identity: IdrPayload | None) -> str | None:
    """The APN's network identifier in IDr, which is ID_FQDN or ID_KEY_ID (TS 24.302 §7.2.2.1)."""
    if identity is None or not identity.data:
        return None
    text = identity.data.decode("utf-8", "replace")
    try:
        return Apn(text).network_identifier
    except ValueError:
        return text.lower()
