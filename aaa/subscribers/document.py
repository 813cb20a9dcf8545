"""A subscriber as people write it: names and plain values, the same in YAML, JSON, CSV and on the command line.

Values may be text or, where YAML or JSON has them, numbers and truth values. ``DocumentError`` names the field and
what was expected; it holds no key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Network

from aaa.subscribers.subscriber import AMF_LENGTH, ApnSubscription, PdnType, Subscriber
from protocols.algorithms.sqn import SQN_BITS, SqnGeneration, SqnScheme
from protocols.algorithms.suite import KEY_LENGTHS, OPERATOR_LENGTH, Algorithm
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi, Plmn
from protocols.trace.records import JsonValue

KEY_FIELDS = ("k", "op", "opc")
NOT_SHOWN = "(not shown, see --secrets)"
_SHOWN_CHARACTERS = 60
_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})


class DocumentError(ValueError):
    """A field that is wrong: its name, what stood there in words, what was expected."""

    def __init__(self, field: str, got: str, expected: str) -> None:
        super().__init__(f"{field}: got {got}, expected {expected}")
        self.field = field
        self.got = got
        self.expected = expected


Parser = Callable[[object], object]


class _Expected(Exception):
    """What a parser expected of a value."""


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Expected("text")
    return str(value).strip()


def _optional(parser: Parser) -> Parser:
    """``None`` and empty text are absence."""

    def parse(value: object) -> object:
        return None if value is None or value == "" else parser(value)

    return parse


def _imsi(value: object) -> Imsi:
    try:
        return Imsi(_text(value))
    except ValueError:
        raise _Expected("6 to 15 digits")


def _digits(minimum: int, maximum: int) -> Parser:
    def parse(value: object) -> str:
        text = _text(value)
        if not (text.isascii() and text.isdigit() and minimum <= len(text) <= maximum):
            raise _Expected(f"{minimum} to {maximum} digits" if minimum > 1 else f"up to {maximum} digits")
        return text

    return parse


def _number(value: object) -> int:
    text = _text(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise _Expected("a whole number")
    return int(text)


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = _text(value).lower()
    if text not in _TRUE | _FALSE:
        raise _Expected("true or false")
    return text in _TRUE


def _hexadecimal(value: object, digits: Sequence[int]) -> bytes:
    text = _text(value)
    expected = f"{' or '.join(map(str, digits))} hexadecimal digits"
    if len(text) not in digits or not text.isalnum():  # fromhex would take spaces
        raise _Expected(expected)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _Expected(expected)


def _amf(value: object) -> bytes:
    return _hexadecimal(value, (2 * AMF_LENGTH,))


def _sqn(value: object) -> int:
    try:
        sqn = int(_text(value), 16)
    except ValueError:
        sqn = -1
    if not 0 <= sqn < 1 << SQN_BITS:
        raise _Expected(f"up to {SQN_BITS // 4} hexadecimal digits")
    return sqn


def _one_of(kind: type[Algorithm] | type[SqnGeneration] | type[PdnType]) -> Parser:
    def parse(value: object) -> object:
        try:
            return kind(_text(value).lower())
        except ValueError:
            raise _Expected(" or ".join(member.value for member in kind))

    return parse


def _networks(value: object) -> tuple[Plmn, ...]:
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise _Expected("networks such as 001-01")
    try:
        return tuple(Plmn.parse(_text(part)) for part in parts)
    except ValueError:
        raise _Expected("networks such as 001-01")


def _apn_name(value: object) -> Apn:
    try:
        return Apn(_text(value))
    except ValueError as error:
        raise _Expected(f"a name such as internet: {error}")


def _address(value: object) -> IPv4Address:
    try:
        return IPv4Address(_text(value))
    except ValueError:
        raise _Expected("an IPv4 address")


def _prefix(value: object) -> IPv6Network:
    try:
        return IPv6Network(_text(value))
    except ValueError:
        raise _Expected("an IPv6 prefix such as 2001:db8:0:1::/64")


@functools.cache
def _secret(algorithm: Algorithm, field: str) -> Parser:
    lengths = KEY_LENGTHS[algorithm] if field == "k" else (OPERATOR_LENGTH[algorithm],)
    digits = [2 * length for length in lengths]

    def parse(value: object) -> Secret:
        if lengths == (0,):
            raise _Expected(f"none with {algorithm.value}")
        return Secret(_hexadecimal(value, digits))

    return parse


# name in documents: attribute, parser
_APN_FIELDS: dict[str, tuple[str, Parser]] = {
    "apn": ("apn", _apn_name),
    "type": ("pdn_type", _one_of(PdnType)),
    "ul": ("ambr_uplink_bits", _number),
    "dl": ("ambr_downlink_bits", _number),
    "ipv4": ("static_ipv4", _optional(_address)),
    "ipv6": ("static_ipv6", _optional(_prefix)),
    "qci": ("qci", _number),
    "priority": ("priority_level", _number),
    "pre_emption_capability": ("pre_emption_capability", _truth),
    "pre_emption_vulnerability": ("pre_emption_vulnerability", _truth),
    "visited_dynamic_address": ("visited_dynamic_address", _truth),
    "pgw": ("pgw", _optional(_text)),
    "default": ("is_default", _truth),
}
_PLAIN_FIELDS: dict[str, tuple[str, Parser]] = {
    "imsi": ("imsi", _imsi),
    "msisdn": ("msisdn", _optional(_digits(1, 15))),
    "enabled": ("enabled", _truth),
    "non_3gpp_allowed": ("non_3gpp_allowed", _truth),
    "roaming_allowed": ("roaming_allowed", _truth),
    "visited_networks": ("visited_networks", _networks),
    "wlan_allowed": ("wlan_allowed", _truth),
    "ambr_ul": ("ambr_uplink_bits", _optional(_number)),
    "ambr_dl": ("ambr_downlink_bits", _optional(_number)),
    "session_timeout": ("session_timeout", _optional(_number)),
    "imei": ("imei", _optional(_digits(14, 16))),
    "tuak_iterations": ("tuak_iterations", _number),
    "res_length": ("res_length", _number),
    "amf": ("amf", _amf),
}
_OTHER_FIELDS = ("algorithm", "k", "op", "opc", "sqn_scheme", "ind_bits", "sqn", "apns")
FIELDS = (*_PLAIN_FIELDS, *_OTHER_FIELDS)
APN_FIELDS = tuple(_APN_FIELDS)


def subscriber_from(document: Mapping[str, object]) -> Subscriber:
    """A new subscriber; ``DocumentError``."""
    for needed in ("imsi", "k"):
        if document.get(needed) in (None, ""):
            raise DocumentError(needed, "nothing", "a value")
    values = _values(document, Algorithm.MILENAGE, SqnScheme())
    try:
        return Subscriber(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise DocumentError("subscriber", "values that do not go together", str(error)) from None


def changed_by(document: Mapping[str, object], subscriber: Subscriber) -> Subscriber:
    """The subscriber with the fields of the document, all else as it was; ``DocumentError``.

    Another algorithm wants its keys along: what it does not use is let go, and RES gets its usual length.
    """
    values = _values(document, subscriber.algorithm, subscriber.sqn_scheme)
    algorithm = values.get("algorithm", subscriber.algorithm)
    if algorithm is not subscriber.algorithm:
        values = {"op": None, "opc": None, "tuak_iterations": 1, "res_length": 8, **values}
    elif document.get("op"):
        values.setdefault("opc", None)
    elif document.get("opc"):
        values.setdefault("op", None)
    scheme = values.get("sqn_scheme", subscriber.sqn_scheme)
    if isinstance(scheme, SqnScheme) and "sequence" not in values and scheme != subscriber.sqn_scheme:
        before = subscriber.sqn_scheme
        values["sequence"] = scheme.seq_of(before.compose(subscriber.sequence, before.ind_count - 1))
    try:
        return replace(subscriber, **values)  # type: ignore[arg-type]
    except ValueError as error:
        raise DocumentError("subscriber", "values that do not go together", str(error)) from None


def _values(document: Mapping[str, object], algorithm: Algorithm, scheme: SqnScheme) -> dict[str, object]:
    """Attributes of ``Subscriber``, of the fields that are there."""
    values: dict[str, object] = {}
    for field, value in document.items():
        if field in _PLAIN_FIELDS:
            attribute, parser = _PLAIN_FIELDS[field]
            values[attribute] = _parsed(field, value, parser)
        elif field not in _OTHER_FIELDS:
            raise DocumentError(field, "an unknown field", f"one of {', '.join(FIELDS)}")
    if "algorithm" in document:
        chosen = _parsed("algorithm", document["algorithm"], _one_of(Algorithm))
        assert isinstance(chosen, Algorithm)
        values["algorithm"] = algorithm = chosen
    for field in KEY_FIELDS:
        if field in document:
            values[field] = _parsed(field, document[field], _secret(algorithm, field), optional=True)
    if "sqn_scheme" in document or "ind_bits" in document:
        scheme = _scheme(document, scheme)
        values["sqn_scheme"] = scheme
    if "sqn" in document:
        sqn = _parsed("sqn", document["sqn"], _sqn)
        assert isinstance(sqn, int)
        values["sequence"] = scheme.seq_of(sqn)
    if "apns" in document:
        values["apns"] = apns_from(document["apns"])
    return values


def _scheme(document: Mapping[str, object], scheme: SqnScheme) -> SqnScheme:
    generation = _parsed("sqn_scheme", document.get("sqn_scheme", scheme.generation.value), _one_of(SqnGeneration))
    bits = _parsed("ind_bits", document.get("ind_bits", scheme.ind_bits), _number)
    assert isinstance(generation, SqnGeneration)
    assert isinstance(bits, int)
    try:
        return SqnScheme(generation, bits)
    except ValueError as error:
        raise DocumentError("ind_bits", repr(bits), str(error)) from None


def apns_from(value: object) -> tuple[ApnSubscription, ...]:
    """From a list of mappings or of texts ``NAME[,key=value]…``; without a default the first is it.

    A tuple is what this function made before.
    """
    if isinstance(value, tuple):
        return value
    items = [value] if isinstance(value, str) and value else value or []
    if not isinstance(items, list):
        raise DocumentError("apns", "something else", "a list of APNs")
    held = [_apn(item) for item in items]
    if held and not any(apn.is_default for apn in held):
        held[0] = replace(held[0], is_default=True)
    if len({apn.apn for apn in held}) != len(held):
        raise DocumentError("apns", ", ".join(str(apn.apn) for apn in held), "every APN once")
    if sum(apn.is_default for apn in held) > 1:
        raise DocumentError("apns", ", ".join(str(apn.apn) for apn in held), "one default")
    return tuple(held)


def _apn(item: object) -> ApnSubscription:
    document = _apn_document(item) if isinstance(item, str) else item
    if not isinstance(document, Mapping) or "apn" not in document:
        raise DocumentError("apns", _shown("apns", item), "a name, or a mapping with apn")
    values: dict[str, object] = {}
    for field, value in document.items():
        if field not in _APN_FIELDS:
            raise DocumentError("apns", repr(field), f"one of {', '.join(APN_FIELDS)}")
        attribute, parser = _APN_FIELDS[field]
        values[attribute] = _parsed(f"apns.{field}", value, parser)
    try:
        return ApnSubscription(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise DocumentError("apns", _shown("apns", document["apn"]), str(error)) from None


def _apn_document(text: str) -> dict[str, object]:
    name, *settings = text.split(",")
    document: dict[str, object] = {"apn": name}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key in document or key not in _APN_FIELDS:
            expected = f"NAME and then {'=, '.join(APN_FIELDS[1:])}=, each at most once"
            raise DocumentError("apns", repr(text), expected)
        document[key] = value
    return document


def _parsed(field: str, value: object, parser: Parser, *, optional: bool = False) -> object:
    if optional and (value is None or value == ""):
        return None
    try:
        return parser(value)
    except _Expected as expected:
        raise DocumentError(field, _shown(field, value), str(expected)) from None


def _shown(field: str, value: object) -> str:
    if field in KEY_FIELDS:
        return f"{len(str(value))} characters that are not shown"
    if value is None or value == "":
        return "nothing"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


# --- the other way ----------------------------------------------------------------------------------


def described(subscriber: Subscriber, *, secrets: bool) -> dict[str, JsonValue]:
    """Every field; the keys only with ``secrets``."""

    def key(value: Secret | None) -> JsonValue:
        if value is None:
            return None
        return value.reveal().hex() if secrets else NOT_SHOWN

    scheme = subscriber.sqn_scheme
    sqn = scheme.compose(subscriber.sequence, subscriber.sequence % scheme.ind_count)
    return {
        "imsi": str(subscriber.imsi),
        "msisdn": subscriber.msisdn,
        "enabled": subscriber.enabled,
        "non_3gpp_allowed": subscriber.non_3gpp_allowed,
        "roaming_allowed": subscriber.roaming_allowed,
        "visited_networks": [str(network) for network in subscriber.visited_networks],
        "wlan_allowed": subscriber.wlan_allowed,
        "ambr_ul": subscriber.ambr_uplink_bits,
        "ambr_dl": subscriber.ambr_downlink_bits,
        "session_timeout": subscriber.session_timeout,
        "imei": subscriber.imei,
        "algorithm": subscriber.algorithm.value,
        "k": key(subscriber.k),
        "op": key(subscriber.op),
        "opc": key(subscriber.opc),
        "tuak_iterations": subscriber.tuak_iterations,
        "res_length": subscriber.res_length,
        "amf": subscriber.amf.hex(),
        "sqn_scheme": scheme.generation.value,
        "ind_bits": scheme.ind_bits,
        "sqn": f"{sqn:0{SQN_BITS // 4}x}",
        "apns": [described_apn(held) for held in subscriber.apns],
    }


def described_apn(held: ApnSubscription) -> dict[str, JsonValue]:
    """Every field of an APN."""
    return {
        "apn": str(held.apn),
        "type": held.pdn_type.value,
        "ul": held.ambr_uplink_bits,
        "dl": held.ambr_downlink_bits,
        "ipv4": None if held.static_ipv4 is None else str(held.static_ipv4),
        "ipv6": None if held.static_ipv6 is None else str(held.static_ipv6),
        "qci": held.qci,
        "priority": held.priority_level,
        "pre_emption_capability": held.pre_emption_capability,
        "pre_emption_vulnerability": held.pre_emption_vulnerability,
        "visited_dynamic_address": held.visited_dynamic_address,
        "pgw": held.pgw,
        "default": held.is_default,
    }
