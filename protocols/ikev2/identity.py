"""Identities of IDi and IDr (RFC 7296 §3.5) as text, for configuration tables and for people."""

from __future__ import annotations

from ipaddress import ip_address

from protocols.ikev2.payloads import IdiPayload, IdrPayload
from protocols.ikev2.registry import IdType

_ADDRESS_LENGTHS = {IdType.ID_IPV4_ADDR: 4, IdType.ID_IPV6_ADDR: 16}


def identity_text(identity: IdiPayload | IdrPayload) -> str:
    """A name, a mailbox or an address as written; other kinds as hexadecimal digits."""
    if identity.id_type in (IdType.ID_FQDN, IdType.ID_RFC822_ADDR, IdType.ID_KEY_ID):
        return identity.data.decode("utf-8", "backslashreplace")
    if _ADDRESS_LENGTHS.get(identity.id_type) == len(identity.data):
        return str(ip_address(identity.data))
    return identity.data.hex()
