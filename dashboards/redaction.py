"""The last guard before a trace leaves: fields that carry secrets are blanked, whoever put them there."""

from __future__ import annotations

from functools import lru_cache

from protocols.trace.records import JsonValue

REDACTED = "[redacted]"

# Normalised names (letters and digits only, lower case) of what RFC 7296, RFC 4187, TS 33.102, TS 33.402
# and RFC 6942 keep secret, and of this project's own configuration secrets.
# fmt: off
_SECRET = frozenset({
    "skd", "skai", "skar", "skei", "sker", "skpi", "skpr", "skeyseed", "keymat", "ei", "er", "ai", "ar",
    "msk", "emsk", "mk", "kencr", "kaut", "kasme", "ck", "ik", "ckprime", "ikprime", "res", "xres", "k",
    "opc", "op", "sqnkey", "eapmastersessionkey", "mastersessionkey", "sharedsecret", "privatekey",
    "secret", "password", "token", "psk", "confidentialitykey", "integritykey", "sipauthorization",
    "encryptionkey", "authenticationkey", "inboundencryptionkey", "inboundintegritykey",
    "outboundencryptionkey", "outboundintegritykey",
})
# fmt: on


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    return "".join(character for character in name.lower() if character.isalnum()) in _SECRET


def redacted(value: JsonValue) -> JsonValue:
    """A copy with secret members blanked, also in lists of ``{"name": …, "value": …}``."""
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    named_secret = isinstance(name, str) and is_secret(name)
    return {
        key: REDACTED if is_secret(key) or (named_secret and key in ("value", "data")) else redacted(item)
        for key, item in value.items()
    }
