"""Diameter messages and AVPs on the wire (RFC 6733 §3 and §4), and the check of a request's format (§7.1.5).

AVPs keep their octets: what the dictionary does not know survives a round trip, groups are opened when
somebody asks for a member. The P flag of an AVP and the reserved flags are sent zero and ignored on
receipt (§3, §4.1). Left out: IPFilterRule as a structure;
DiameterURI is text here and read by ``uri``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn

from protocols.buffer import Reader
from protocols.diameter.dictionary import (
    BY_CODE,
    BY_NAME,
    SECRET_AVPS,
    VALUE_NAMES,
    VENDOR_3GPP,
    AvpDefinition,
    AvpType,
    ExperimentalResultCode,
    ResultCode,
    command_name,
)
from protocols.diameter.formats import GROUP_FORMATS, REQUEST_FORMATS, Occurrence
from protocols.diameter.framing import HEADER_LENGTH, VERSION
from protocols.errors import DecodeError, LocalError, RemoteError
from protocols.trace.records import JsonValue

DESCRIPTION_DEPTH = 5  # groups inside groups that a description opens

_REQUEST, _PROXIABLE, _ERROR, _RETRANSMITTED = 0x80, 0x40, 0x20, 0x10
_VENDOR, _MANDATORY = 0x80, 0x40

_HEADER = struct.Struct(">IIIII")
_AVP_HEADER = struct.Struct(">II")
_AVP_VENDOR_HEADER = struct.Struct(">III")
_U32 = struct.Struct(">I")
_I32 = struct.Struct(">i")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")
_F32 = struct.Struct(">f")
_F64 = struct.Struct(">d")

_ADDRESS_IPV4 = b"\x00\x01"  # AddressFamilyNumbers of IANA, RFC 6733 §4.3.1
_ADDRESS_IPV6 = b"\x00\x02"

Address = IPv4Address | IPv6Address
AvpValue = int | float | str | bytes | IPv4Address | IPv6Address | tuple["Avp", ...]


class RequestError(RemoteError):
    """A request that is answered with ``result`` and, where one is to blame, ``failed`` in a Failed-AVP."""

    def __init__(self, result: ResultCode, message: str, failed: Avp | None = None) -> None:
        super().__init__(message)
        self.result = result
        self.failed = failed


class MalformedMessage(DecodeError):
    """A message whose header is sound and whose AVPs are not (RFC 6733 §7.1.5)."""

    def __init__(self, message: str, *, header: DiameterMessage, failed: Avp | None = None) -> None:
        super().__init__(message)
        self.header = header
        self.failed = failed


@dataclass(frozen=True, kw_only=True)
class Avp:
    """One AVP (RFC 6733 §4.1); ``data`` without header and padding."""

    code: int
    vendor: int = 0
    mandatory: bool = True
    data: bytes = b""

    @classmethod
    def of(cls, name: str, value: AvpValue) -> Avp:
        """Build by dictionary name; flags from our table. ``LocalError`` on a value of the wrong type."""
        definition = definition_of(name)
        avp = object.__new__(Avp)  # as in decode_avps
        fields = avp.__dict__
        fields["code"] = definition.code
        fields["vendor"] = definition.vendor
        fields["mandatory"] = definition.mandatory
        fields["data"] = encode_value(definition, value)
        return avp

    @property
    def definition(self) -> AvpDefinition | None:
        """What the dictionary knows of it."""
        return BY_CODE.get((self.vendor, self.code))

    @property
    def name(self) -> str:
        """The dictionary's name, or ``AVP-<vendor>-<code>``."""
        definition = BY_CODE.get((self.vendor, self.code))
        return definition.name if definition is not None else f"AVP-{self.vendor}-{self.code}"

    @property
    def value(self) -> AvpValue:
        """The typed value; octets of an unknown AVP. ``RequestError`` when the octets do not fit the type."""
        definition = BY_CODE.get((self.vendor, self.code))
        return self.data if definition is None else decode_value(definition, self)

    def encode(self) -> bytes:
        """Header, data and padding."""
        data = self.data
        length = len(data)
        padding = -length % 4
        if self.vendor:
            flags = _VENDOR | (_MANDATORY if self.mandatory else 0)
            header = _AVP_VENDOR_HEADER.pack(self.code, flags << 24 | 12 + length, self.vendor)
        else:
            header = _AVP_HEADER.pack(self.code, (_MANDATORY if self.mandatory else 0) << 24 | 8 + length)
        return header + data + b"\x00" * padding if padding else header + data


def decode_avps(octets: bytes, offset: int = 0) -> tuple[Avp, ...]:
    """All AVPs from ``offset`` to the end; ``DecodeError`` on a length that does not fit."""
    avps: list[Avp] = []
    append, unpack, new = avps.append, _AVP_HEADER.unpack_from, object.__new__
    end = len(octets)
    vendor: int
    while offset < end:
        if end - offset < 8:
            raise _length_error(octets, offset)
        code, word = unpack(octets, offset)
        length = word & 0xFFFFFF
        following = offset + (length + 3 & -4)
        start = offset + (12 if word & 0x80000000 else 8)
        # The one check of bounds: header, data and padding
        if following > end or offset + length < start:
            raise _length_error(octets, offset)
        vendor = _U32.unpack_from(octets, offset + 8)[0] if word & 0x80000000 else 0
        # Avp(…) assigns field by field past its own guard, which costs more than all the rest here
        avp = new(Avp)
        fields = avp.__dict__
        fields["code"] = code
        fields["vendor"] = vendor
        fields["mandatory"] = word & 0x40000000 != 0
        fields["data"] = octets[start : offset + length]
        append(avp)
        offset = following
    return tuple(avps)


def _length_error(octets: bytes, offset: int) -> _AvpLengthError:
    """What does not fit of the AVP at ``offset``: it is read again, piece by piece."""
    reader = Reader(octets, offset)
    code = vendor = 0
    try:
        code, word = _AVP_HEADER.unpack(reader.take(8))
        if word & 0x80000000:
            vendor = reader.u32()
        size = (word & 0xFFFFFF) - (reader.offset - offset)
        reader.take(size)
        reader.take(-size % 4)
    except DecodeError as error:
        return _AvpLengthError(f"AVP {code}: {error}", code=code, vendor=vendor)
    raise AssertionError(f"the AVP at offset {offset} fits")


class _AvpLengthError(DecodeError):
    """An AVP length that is too small or too large; names the AVP for the Failed-AVP."""

    def __init__(self, message: str, *, code: int, vendor: int) -> None:
        super().__init__(message)
        self.code = code
        self.vendor = vendor


def definition_of(name: str) -> AvpDefinition:
    """The definition of an AVP by name; ``LocalError`` for a name the dictionary does not have."""
    definition = BY_NAME.get(name)
    if definition is None:
        raise LocalError(f"no AVP is called {name}")
    return definition


class _Keys(dict[str, int]):
    def __missing__(self, name: str) -> NoReturn:
        raise LocalError(f"no AVP is called {name}")


_KEYS = _Keys({name: definition.vendor << 32 | definition.code for name, definition in BY_NAME.items()})


def encode_value(definition: AvpDefinition, value: AvpValue) -> bytes:
    """Octets of a typed value; ``LocalError`` on the wrong Python type or range."""
    kind = definition.type
    try:
        if kind is AvpType.OCTET_STRING and isinstance(value, bytes):
            return value
        if kind in (AvpType.UTF8_STRING, AvpType.OCTET_STRING) and isinstance(value, str):
            return value.encode()
        if kind is AvpType.DIAMETER_IDENTITY and isinstance(value, str):
            return value.encode("ascii")
        if kind is AvpType.GROUPED and isinstance(value, tuple):
            return b"".join([member.encode() for member in value])
        if kind is AvpType.ADDRESS and isinstance(value, IPv4Address):
            return _ADDRESS_IPV4 + value.packed
        if kind is AvpType.ADDRESS and isinstance(value, IPv6Address):
            return _ADDRESS_IPV6 + value.packed
        if isinstance(value, int):
            if kind in (AvpType.UNSIGNED32, AvpType.TIME):
                return _U32.pack(value)
            if kind is AvpType.INTEGER32:
                return _I32.pack(value)
            if kind is AvpType.UNSIGNED64:
                return _U64.pack(value)
            if kind is AvpType.INTEGER64:
                return _I64.pack(value)
        if isinstance(value, float):
            if kind is AvpType.FLOAT32:
                return _F32.pack(value)
            if kind is AvpType.FLOAT64:
                return _F64.pack(value)
    except (struct.error, UnicodeError, OverflowError) as error:
        raise LocalError(f"{definition.name} cannot hold this value: {error}") from error
    raise LocalError(f"{definition.name} is of type {kind.value}, not {type(value).__name__}")


def decode_value(definition: AvpDefinition, avp: Avp) -> AvpValue:
    """The typed value of an AVP; ``RequestError`` 5014 or 5004 when its octets do not fit."""
    kind = definition.type
    data = avp.data
    if kind is AvpType.OCTET_STRING:
        return data
    if kind is AvpType.GROUPED:
        return decode_group(definition, avp)
    if kind in (AvpType.UTF8_STRING, AvpType.DIAMETER_IDENTITY):
        try:
            return data.decode("ascii" if kind is AvpType.DIAMETER_IDENTITY else "utf-8")
        except UnicodeDecodeError:
            raise RequestError(ResultCode.DIAMETER_INVALID_AVP_VALUE, f"{definition.name} is not text", avp) from None
    if kind is AvpType.ADDRESS:
        return _decode_address(definition, avp)
    minimum = definition.minimum_length
    if len(data) != minimum:
        raise RequestError(
            ResultCode.DIAMETER_INVALID_AVP_LENGTH,
            f"{definition.name} has {len(data)} octets of data, {minimum} expected",
            replace(avp, data=bytes(minimum)),
        )
    return _decode_number(kind, data)


def _decode_number(kind: AvpType, data: bytes) -> int | float:
    if kind in (AvpType.UNSIGNED32, AvpType.UNSIGNED64, AvpType.TIME):
        return int.from_bytes(data, "big")
    if kind in (AvpType.INTEGER32, AvpType.INTEGER64):
        return int.from_bytes(data, "big", signed=True)
    number: float = (_F32 if kind is AvpType.FLOAT32 else _F64).unpack(data)[0]
    return number


def _decode_address(definition: AvpDefinition, avp: Avp) -> AvpValue:
    """IPv4 and IPv6 as addresses, other families as octets (RFC 6733 §4.3.1)."""
    family, octets = avp.data[:2], avp.data[2:]
    if family == _ADDRESS_IPV4 and len(octets) == 4:
        return IPv4Address(octets)
    if family == _ADDRESS_IPV6 and len(octets) == 16:
        return IPv6Address(octets)
    if len(avp.data) < 2 or family in (_ADDRESS_IPV4, _ADDRESS_IPV6):
        raise RequestError(
            ResultCode.DIAMETER_INVALID_AVP_LENGTH,
            f"{definition.name} has {len(avp.data)} octets of data",
            avp,
        )
    return avp.data


def decode_group(definition: AvpDefinition, avp: Avp) -> tuple[Avp, ...]:
    """Members of a grouped AVP (RFC 6733 §4.4); ``RequestError`` 5014 when they do not fit."""
    try:
        return decode_avps(avp.data)
    except DecodeError as error:
        raise RequestError(
            ResultCode.DIAMETER_INVALID_AVP_LENGTH, f"{definition.name}: {error}", replace(avp, data=b"")
        ) from error


class AvpContainer:
    """Typed access to AVPs by dictionary name, shared by messages and groups."""

    avps: tuple[Avp, ...]

    def find(self, name: str) -> Avp | None:
        """The first AVP of that name."""
        definition = definition_of(name)
        code, vendor = definition.code, definition.vendor
        for avp in self.avps:
            if avp.code == code and avp.vendor == vendor:
                return avp
        return None

    def find_all(self, name: str) -> tuple[Avp, ...]:
        """Every AVP of that name, in order."""
        definition = definition_of(name)
        code, vendor = definition.code, definition.vendor
        return tuple([avp for avp in self.avps if avp.code == code and avp.vendor == vendor])

    def get(self, name: str) -> AvpValue | None:
        """The typed value of the first AVP of that name."""
        avp = self.find(name)
        return None if avp is None else avp.value

    def values(self, name: str) -> tuple[AvpValue, ...]:
        """The typed values of every AVP of that name."""
        return tuple([avp.value for avp in self.find_all(name)])

    def text(self, name: str) -> str | None:
        """A text AVP; an OctetString is taken for UTF-8."""
        avp = self.find(name)
        if avp is None:
            return None
        try:
            return avp.data.decode()
        except UnicodeDecodeError:
            raise RequestError(ResultCode.DIAMETER_INVALID_AVP_VALUE, f"{name} is not text", avp) from None

    def integer(self, name: str) -> int | None:
        """An integer or Enumerated AVP."""
        value = self.get(name)
        if value is None or isinstance(value, int):
            return value
        raise LocalError(f"{name} is not an integer AVP")

    def octets(self, name: str) -> bytes | None:
        """The octets of an AVP of any type."""
        avp = self.find(name)
        return None if avp is None else avp.data

    def address(self, name: str) -> Address | None:
        """An Address AVP; ``None`` for a family other than IPv4 and IPv6."""
        value = self.get(name)
        return value if isinstance(value, IPv4Address | IPv6Address) else None

    def group(self, name: str) -> AvpGroup | None:
        """A grouped AVP, opened."""
        avp = self.find(name)
        return None if avp is None else AvpGroup(avps=decode_group(definition_of(name), avp))

    def groups(self, name: str) -> tuple[AvpGroup, ...]:
        """Every grouped AVP of that name, opened."""
        definition = definition_of(name)
        return tuple([AvpGroup(avps=decode_group(definition, avp)) for avp in self.find_all(name)])

    def detail(self) -> dict[str, JsonValue]:
        """Names and values for a reader; keys in order, repeated AVPs as lists, secrets by length only."""
        return _describe(self.avps, DESCRIPTION_DEPTH)


@dataclass(frozen=True)
class AvpGroup(AvpContainer):
    """An opened grouped AVP."""

    avps: tuple[Avp, ...]


@dataclass(frozen=True, kw_only=True)
class DiameterMessage(AvpContainer):
    """A message (RFC 6733 §3). The identifiers of a request are set by the connection that sends it."""

    command: int
    application: int
    request: bool
    proxiable: bool = False
    error: bool = False
    retransmitted: bool = False
    hop_by_hop: int = 0
    end_to_end: int = 0
    avps: tuple[Avp, ...] = ()

    @cached_property
    def _first(self) -> dict[int, Avp]:
        """The first AVP of every vendor and code: a reader asks for many, most of which are not there."""
        return {avp.vendor << 32 | avp.code: avp for avp in reversed(self.avps)}

    def find(self, name: str) -> Avp | None:
        """The first AVP of that name."""
        return self._first.get(_KEYS[name])

    def find_all(self, name: str) -> tuple[Avp, ...]:
        """Every AVP of that name, in order."""
        return super().find_all(name) if _KEYS[name] in self._first else ()

    @property
    def name(self) -> str:
        """``DER``, ``DEA``, …"""
        return command_name(self.command, request=self.request)

    @cached_property
    def _is_sound(self) -> bool:
        """True, or the ``RequestError`` of ``check_request``."""
        rules = _REQUEST_RULES.get((self.application, self.command))
        if rules is not None:
            _check_members(self.avps, rules, ())
        return True

    @property
    def session_id(self) -> str | None:
        """The Session-Id, if there is one."""
        return self.text("Session-Id")

    def summary(self) -> str:
        """One line in the standards' notation: ``DER [ Session-Id, Auth-Application-Id, … ]``."""
        error = " (E)" if self.error else ""
        return f"{self.name}{error} [ {', '.join([avp.name for avp in self.avps])} ]"


def decode_message(octets: bytes) -> DiameterMessage:
    """Decode one whole message; ``DecodeError`` on a bad header, ``MalformedMessage`` on bad AVPs."""
    header = Reader(octets).take(HEADER_LENGTH)
    version_length, flags_command, application, hop_by_hop, end_to_end = _HEADER.unpack(header)
    if version_length >> 24 != VERSION:
        raise DecodeError(f"Diameter version {version_length >> 24}")
    if version_length & 0xFFFFFF != len(octets) or len(octets) % 4:
        raise DecodeError(f"message length {version_length & 0xFFFFFF} of {len(octets)} octets")
    flags = flags_command >> 24
    avps: tuple[Avp, ...] = ()
    failure: _AvpLengthError | None = None
    try:
        avps = decode_avps(octets, HEADER_LENGTH)
    except _AvpLengthError as error:
        failure = error
    message = DiameterMessage(
        command=flags_command & 0xFFFFFF,
        application=application,
        request=bool(flags & _REQUEST),
        proxiable=bool(flags & _PROXIABLE),
        error=bool(flags & _ERROR),
        retransmitted=bool(flags & _RETRANSMITTED),
        hop_by_hop=hop_by_hop,
        end_to_end=end_to_end,
        avps=avps,
    )
    if failure is not None:
        definition = BY_CODE.get((failure.vendor, failure.code))
        size = 0 if definition is None else definition.minimum_length
        failed = Avp(code=failure.code, vendor=failure.vendor, data=bytes(size))
        raise MalformedMessage(str(failure), header=message, failed=failed) from failure
    return message


def encode_message(message: DiameterMessage) -> bytes:
    """Encode; the length is computed."""
    body = b"".join([avp.encode() for avp in message.avps])
    flags = (
        (_REQUEST if message.request else 0)
        | (_PROXIABLE if message.proxiable else 0)
        | (_ERROR if message.error else 0)
        | (_RETRANSMITTED if message.retransmitted else 0)
    )
    length = HEADER_LENGTH + len(body)
    if length > 0xFFFFFF:
        raise LocalError(f"a message of {length} octets has no encoding")
    return (
        _HEADER.pack(
            VERSION << 24 | length,
            flags << 24 | message.command,
            message.application,
            message.hop_by_hop,
            message.end_to_end,
        )
        + body
    )


@dataclass(frozen=True, slots=True)
class Result:
    """Result-Code (vendor 0) or Experimental-Result (its vendor): two number spaces, never mixed."""

    vendor: int
    code: int

    @classmethod
    def of(cls, code: int) -> Result:
        """A Result-Code, or an Experimental-Result of 3GPP for a member of ``ExperimentalResultCode``."""
        return cls(VENDOR_3GPP if isinstance(code, ExperimentalResultCode) else 0, int(code))

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Result:
        """The result of an answer; ``DecodeError`` when it has none."""
        code = message.integer("Result-Code")
        if code is not None:
            return cls(0, code)
        experimental = message.group("Experimental-Result")
        if experimental is not None:
            vendor = experimental.integer("Vendor-Id")
            code = experimental.integer("Experimental-Result-Code")
            if vendor is not None and code is not None:
                return cls(vendor, code)
        raise DecodeError(f"{message.name} without a result")

    def avp(self) -> Avp:
        """Result-Code or Experimental-Result (RFC 6733 §7.1, §7.6)."""
        if self.vendor == 0:
            return Avp.of("Result-Code", self.code)
        return Avp.of(
            "Experimental-Result",
            (Avp.of("Vendor-Id", self.vendor), Avp.of("Experimental-Result-Code", self.code)),
        )

    @property
    def name(self) -> str:
        """``DIAMETER_SUCCESS``, ``DIAMETER_ERROR_USER_UNKNOWN``, or the numbers."""
        codes = {0: ResultCode, VENDOR_3GPP: ExperimentalResultCode}.get(self.vendor)
        if codes is not None and self.code in codes._value2member_map_:
            return codes(self.code).name
        return str(self.code) if self.vendor == 0 else f"{self.code} of vendor {self.vendor}"

    @property
    def is_success(self) -> bool:
        """2xxx (RFC 6733 §7.1.2; TS 29.273 uses the same thousands for Experimental-Result)."""
        return self.code // 1000 == 2

    @property
    def is_multi_round(self) -> bool:
        """DIAMETER_MULTI_ROUND_AUTH: another round is needed."""
        return self.vendor == 0 and self.code == ResultCode.DIAMETER_MULTI_ROUND_AUTH

    @property
    def is_protocol_error(self) -> bool:
        """3xxx of the base protocol: only in answers with the E flag (RFC 6733 §7.1.3)."""
        return self.vendor == 0 and self.code // 1000 == 3

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"


def answer_to(
    request: DiameterMessage,
    *,
    origin_host: str,
    origin_realm: str,
    result: Result,
    avps: Iterable[Avp] = (),
) -> DiameterMessage:
    """Build an answer (RFC 6733 §6.2): identifiers, P flag, Session-Id and Proxy-Info of the request.

    A protocol error sets the E flag (§7.2). ``avps`` follow Origin-Realm.
    """
    session_id = request.find("Session-Id")
    return DiameterMessage(
        command=request.command,
        application=request.application,
        request=False,
        proxiable=request.proxiable,
        error=result.is_protocol_error,
        hop_by_hop=request.hop_by_hop,
        end_to_end=request.end_to_end,
        avps=(
            *(() if session_id is None else (session_id,)),
            result.avp(),
            Avp.of("Origin-Host", origin_host),
            Avp.of("Origin-Realm", origin_realm),
            *avps,
            *request.find_all("Proxy-Info"),
        ),
    )


def check_request(message: DiameterMessage) -> None:
    """Check a request against its Command Code Format; ``RequestError`` names what to answer.

    Unknown AVPs with the M flag: 5001 (RFC 6733 §4.1), absent required ones: 5005, too many: 5009,
    octets that do not fit the type: 5014 or 5004. Commands without a format in our table pass.
    """
    message._is_sound  # noqa: B018, SLF001  once a message: it never changes


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """How often an AVP may stand there, and what its octets must fit; ``length`` zero where it varies."""

    definition: AvpDefinition
    maximum: int | None
    length: int
    is_text: bool
    is_anything: bool
    members: _Rules | None


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """A Command Code Format, or the members of a group."""

    by_code: dict[tuple[int, int], _Rule]
    required: tuple[Occurrence, ...]


def _rules_of(occurrences: tuple[Occurrence, ...]) -> _Rules:
    by_code: dict[tuple[int, int], _Rule] = {}
    for occurrence in occurrences:
        definition = BY_NAME[occurrence.name]
        members = GROUP_FORMATS.get(occurrence.name)
        by_code[definition.vendor, definition.code] = _Rule(
            definition=definition,
            maximum=occurrence.maximum,
            length=0 if definition.type is AvpType.ADDRESS else definition.minimum_length,
            is_text=definition.type in (AvpType.UTF8_STRING, AvpType.DIAMETER_IDENTITY),
            is_anything=definition.type is AvpType.OCTET_STRING,
            members=None if members is None else _rules_of(members),
        )
    return _Rules(by_code=by_code, required=tuple(occurrence for occurrence in occurrences if occurrence.minimum))


_REQUEST_RULES = {key: _rules_of(occurrences) for key, occurrences in REQUEST_FORMATS.items()}


def _check_members(avps: tuple[Avp, ...], rules: _Rules, path: tuple[Avp, ...]) -> None:
    counts: dict[str, int] = {}
    by_code = rules.by_code
    for avp in avps:
        rule = by_code.get((avp.vendor, avp.code))
        if rule is None:
            # RFC 6733 §4.1: an AVP with the M flag that is not understood MUST be refused
            if avp.mandatory:
                raise RequestError(
                    ResultCode.DIAMETER_AVP_UNSUPPORTED, f"{avp.name} is not supported", _inside(path, avp)
                )
            continue
        name = rule.definition.name
        counts[name] = count = counts.get(name, 0) + 1
        if rule.maximum is not None and count > rule.maximum:
            raise RequestError(
                ResultCode.DIAMETER_AVP_OCCURS_TOO_MANY_TIMES,
                f"{name} occurs more than {rule.maximum} times",
                _inside(path, avp),
            )
        # Octets that are known to fit are not made a value; all others are, and say what is wrong with them
        data = avp.data
        if rule.is_anything or (data.isascii() if rule.is_text else len(data) == rule.length != 0):
            continue
        value = decode_value(rule.definition, avp)
        if rule.members is not None and isinstance(value, tuple):
            _check_members(value, rule.members, (*path, avp))
    for required in rules.required:
        name = required.name
        if counts.get(name, 0) < required.minimum:
            raise RequestError(ResultCode.DIAMETER_MISSING_AVP, f"{name} is missing", _inside(path, example_of(name)))


def example_of(name: str) -> Avp:
    """An AVP of the shortest legal length and zeros, to say which one is missing (RFC 6733 §7.1.5)."""
    definition = definition_of(name)
    return Avp(
        code=definition.code,
        vendor=definition.vendor,
        mandatory=definition.mandatory,
        data=bytes(definition.minimum_length),
    )


def _inside(path: tuple[Avp, ...], avp: Avp) -> Avp:
    """The offending AVP within copies of the groups around it (RFC 6733 §7.5)."""
    for group in reversed(path):
        avp = replace(group, data=avp.encode())
    return avp


def redact(octets: bytes) -> bytes:
    """The same message with the data of secret AVPs zeroed, for traces without keys; lengths stay."""
    masked = bytearray(octets)
    _mask(masked, Reader(octets, min(HEADER_LENGTH, len(octets))), DESCRIPTION_DEPTH)
    return bytes(masked)


def _mask(masked: bytearray, reader: Reader, depth: int) -> None:
    try:
        while reader.remaining:
            start = reader.offset
            code, word = _AVP_HEADER.unpack(reader.take(8))
            vendor = _U32.unpack(reader.take(4))[0] if word >> 24 & _VENDOR else 0
            size = (word & 0xFFFFFF) - (reader.offset - start)
            start = reader.offset
            data = reader.sub(size)
            reader.skip(-size % 4)
            definition = BY_CODE.get((vendor, code))
            if definition is None:
                continue
            if definition.name in SECRET_AVPS:
                masked[start : start + size] = bytes(size)
            elif definition.type is AvpType.GROUPED and depth:
                _mask(masked, data, depth - 1)
            elif definition.type is AvpType.GROUPED:
                # What is not opened cannot be told from a secret
                masked[start : start + size] = bytes(size)
    except DecodeError:
        # What cannot be read cannot be told from a secret
        end = reader.offset + reader.remaining
        masked[start:end] = bytes(end - start)


_UNREADABLE = "(a group that cannot be read, not shown)"


def _describe(avps: tuple[Avp, ...], depth: int) -> dict[str, JsonValue]:
    described: dict[str, JsonValue] = {}
    for avp in avps:
        value = _describe_value(avp, depth)
        name = avp.name
        if name not in described:
            described[name] = value
            continue
        present = described[name]
        described[name] = [*present, value] if isinstance(present, list) else [present, value]
    return described


def _describe_value(avp: Avp, depth: int) -> JsonValue:
    if avp.name in SECRET_AVPS:
        return f"({len(avp.data)} octets, not shown)"
    try:
        value = avp.value
    except RequestError:
        # What cannot be read cannot be told from a secret
        return _UNREADABLE if avp.definition is not None and avp.definition.type is AvpType.GROUPED else avp.data.hex()
    if isinstance(value, tuple):
        return _describe(value, depth - 1) if depth > 1 else _UNREADABLE
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, IPv4Address | IPv6Address):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    names = VALUE_NAMES.get(avp.name)
    if names is not None and isinstance(value, int) and value in names._value2member_map_:
        return f"{names(value).name} ({value})"
    return value
