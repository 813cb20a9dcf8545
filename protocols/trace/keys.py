"""Key records, and the Wireshark profile that decrypts a capture with them.

``IkeKeysRecord`` and ``EspKeysRecord`` are the bodies of records of kind ``keys``; they exist only while
the operator exports keys. ``WiresharkProfile`` turns them into the files of a Wireshark configuration
directory (``WIRESHARK_CONFIG_DIR=profile wireshark capture.pcapng``): ``ikev2_decryption_table``,
``esp_sa``, ``decode_as_entries``, ``preferences``.

Wireshark silently drops all rows after one whose key length does not fit its algorithm, so every row is
checked here; what it has no algorithm for (ChaCha20-Poly1305, CCM in ESP) becomes a comment. Rows of
``esp_sa`` name exact addresses: an SPI is unique only per receiver, so a moved SA gets a row per path. An IKE SA
has one row, that of its last keys: after additional key exchanges (RFC 9370) Wireshark reads the SA from IKE_AUTH
on, and IKE_INTERMEDIATE, which went under earlier keys, stays closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from protocols.errors import DecodeError, LocalError
from protocols.path import Address, Endpoint
from protocols.trace.pcap import ObservedDatagram
from protocols.trace.records import JsonValue, Kind, TraceRecord

# Encryption algorithm by IANA name: Wireshark's name, accepted key sizes in bits, salt octets kept with
# the key (RFC 5282 §7.1, RFC 4106 §8.1, RFC 5930 §2.2), ICV of its own (AEAD)
_IKE_ENCRYPTION: dict[str, tuple[str, tuple[int, ...], int, bool]] = {
    "ENCR_3DES": ("3DES [RFC2451]", (192,), 0, False),
    "ENCR_AES_CBC": ("AES-CBC-{bits} [RFC3602]", (128, 192, 256), 0, False),
    "ENCR_AES_CTR": ("AES-CTR-{bits} [RFC5930]", (128, 192, 256), 4, False),
    "ENCR_AES_CCM_8": ("AES-CCM-{bits} with 8 octet ICV [RFC5282]", (128, 192, 256), 3, True),
    "ENCR_AES_CCM_12": ("AES-CCM-{bits} with 12 octet ICV [RFC5282]", (128, 192, 256), 3, True),
    "ENCR_AES_CCM_16": ("AES-CCM-{bits} with 16 octet ICV [RFC5282]", (128, 192, 256), 3, True),
    "ENCR_AES_GCM_8": ("AES-GCM-{bits} with 8 octet ICV [RFC5282]", (128, 192, 256), 4, True),
    "ENCR_AES_GCM_12": ("AES-GCM-{bits} with 12 octet ICV [RFC5282]", (128, 192, 256), 4, True),
    "ENCR_AES_GCM_16": ("AES-GCM-{bits} with 16 octet ICV [RFC5282]", (128, 192, 256), 4, True),
}
_ESP_ENCRYPTION: dict[str, tuple[str, tuple[int, ...], int, bool]] = {
    "ENCR_NULL": ("NULL", (0,), 0, False),
    "ENCR_3DES": ("TripleDES-CBC [RFC2451]", (192,), 0, False),
    "ENCR_AES_CBC": ("AES-CBC [RFC3602]", (128, 192, 256), 0, False),
    "ENCR_AES_CTR": ("AES-CTR [RFC3686]", (128, 192, 256), 4, False),
    "ENCR_AES_GCM_8": ("AES-GCM with 8 octet ICV [RFC4106]", (128, 192, 256), 4, True),
    "ENCR_AES_GCM_12": ("AES-GCM with 12 octet ICV [RFC4106]", (128, 192, 256), 4, True),
    "ENCR_AES_GCM_16": ("AES-GCM with 16 octet ICV [RFC4106]", (128, 192, 256), 4, True),
}
# Integrity algorithm by IANA name: Wireshark's name in IKEv2, in ESP, key octets; no key where Wireshark
# knows only the ICV's length
_INTEGRITY: dict[str, tuple[str, str, int]] = {
    "AUTH_HMAC_MD5_96": ("HMAC_MD5_96 [RFC2403]", "HMAC-MD5-96 [RFC2403]", 16),
    "AUTH_HMAC_SHA1_96": ("HMAC_SHA1_96 [RFC2404]", "HMAC-SHA-1-96 [RFC2404]", 20),
    "AUTH_HMAC_SHA2_256_128": ("HMAC_SHA2_256_128 [RFC4868]", "HMAC-SHA-256-128 [RFC4868]", 32),
    "AUTH_HMAC_SHA2_384_192": ("HMAC_SHA2_384_192 [RFC4868]", "HMAC-SHA-384-192 [RFC4868]", 48),
    "AUTH_HMAC_SHA2_512_256": ("HMAC_SHA2_512_256 [RFC4868]", "HMAC-SHA-512-256 [RFC4868]", 64),
    "AUTH_AES_XCBC_96": (
        "ANY 96-bits of Authentication [No Checking]",
        "ANY 96 bit authentication [no checking]",
        0,
    ),
    "AUTH_AES_CMAC_96": (
        "ANY 96-bits of Authentication [No Checking]",
        "ANY 96 bit authentication [no checking]",
        0,
    ),
}


@dataclass(frozen=True, kw_only=True)
class IkeKeysRecord:
    """The keys of one IKE SA (RFC 7296 §2.14); SK_e of AEAD algorithms includes the salt.

    ``encryption`` and ``integrity`` are IANA names, ``integrity`` is ``None`` for AEAD.
    """

    spi_i: bytes
    spi_r: bytes
    sk_ei: bytes
    sk_er: bytes
    sk_ai: bytes
    sk_ar: bytes
    encryption: str
    encryption_key_bits: int | None
    integrity: str | None

    def to_body(self) -> dict[str, JsonValue]:
        """The body of a ``keys`` record."""
        return {
            "table": "ikev2",
            "spi_i": self.spi_i.hex(),
            "spi_r": self.spi_r.hex(),
            "sk_ei": self.sk_ei.hex(),
            "sk_er": self.sk_er.hex(),
            "sk_ai": self.sk_ai.hex(),
            "sk_ar": self.sk_ar.hex(),
            "encryption": self.encryption,
            "encryption_key_bits": self.encryption_key_bits,
            "integrity": self.integrity,
        }

    @classmethod
    def of(cls, body: dict[str, JsonValue]) -> IkeKeysRecord:
        """Back from a body; ``DecodeError`` on what does not fit."""
        bits = body.get("encryption_key_bits")
        if bits is not None and (not isinstance(bits, int) or isinstance(bits, bool)):
            raise DecodeError("keys record: encryption_key_bits is not a whole number")
        return cls(
            spi_i=_octets(body, "spi_i"),
            spi_r=_octets(body, "spi_r"),
            sk_ei=_octets(body, "sk_ei"),
            sk_er=_octets(body, "sk_er"),
            sk_ai=_octets(body, "sk_ai"),
            sk_ar=_octets(body, "sk_ar"),
            encryption=_text(body, "encryption"),
            encryption_key_bits=bits,
            integrity=None if body.get("integrity") is None else _text(body, "integrity"),
        )

    def row(self) -> str:
        """The line of ``ikev2_decryption_table``; ``LocalError`` when Wireshark cannot use these keys."""
        if len(self.spi_i) != 8 or len(self.spi_r) != 8:
            raise LocalError("an IKE SPI that is not eight octets")
        bits = 192 if self.encryption == "ENCR_3DES" else self.encryption_key_bits
        name, aead = _encryption(_IKE_ENCRYPTION, self.encryption, bits, (self.sk_ei, self.sk_er))
        integrity, sk_ai, sk_ar = "NONE [RFC4306]", "", ""
        if not aead:
            integrity, _, length = _integrity(self.integrity)
            if length:
                if not len(self.sk_ai) == len(self.sk_ar) == length:
                    raise LocalError(f"{self.integrity} keys that are not {length} octets")
                sk_ai, sk_ar = self.sk_ai.hex(), self.sk_ar.hex()
        return (
            f"{self.spi_i.hex()},{self.spi_r.hex()},{self.sk_ei.hex()},{self.sk_er.hex()},"
            f'"{name}",{sk_ai},{sk_ar},"{integrity}"'
        )


@dataclass(frozen=True, kw_only=True)
class EspKeysRecord:
    """The keys of one ESP SA, one direction on one path; AEAD keys include the salt (RFC 4106 §8.1)."""

    spi: bytes
    source: Endpoint
    destination: Endpoint
    encryption: str
    encryption_key: bytes
    integrity: str | None
    integrity_key: bytes

    def to_body(self) -> dict[str, JsonValue]:
        """The body of a ``keys`` record."""
        return {
            "table": "esp",
            "spi": self.spi.hex(),
            "source": str(self.source.address),
            "source_port": self.source.port,
            "destination": str(self.destination.address),
            "destination_port": self.destination.port,
            "encryption": self.encryption,
            "encryption_key": self.encryption_key.hex(),
            "integrity": self.integrity,
            "integrity_key": self.integrity_key.hex(),
        }

    @classmethod
    def of(cls, body: dict[str, JsonValue]) -> EspKeysRecord:
        """Back from a body; ``DecodeError`` on what does not fit."""
        return cls(
            spi=_octets(body, "spi"),
            source=Endpoint(_address(body, "source"), _port(body, "source_port")),
            destination=Endpoint(_address(body, "destination"), _port(body, "destination_port")),
            encryption=_text(body, "encryption"),
            encryption_key=_octets(body, "encryption_key"),
            integrity=None if body.get("integrity") is None else _text(body, "integrity"),
            integrity_key=_octets(body, "integrity_key"),
        )

    def row(self) -> str:
        """The line of ``esp_sa``; ``LocalError`` when Wireshark cannot use these keys."""
        if len(self.spi) != 4:
            raise LocalError("an ESP SPI that is not four octets")
        known = _ESP_ENCRYPTION.get(self.encryption)
        bits = 0 if known is None else 8 * (len(self.encryption_key) - known[2])
        name, aead = _encryption(_ESP_ENCRYPTION, self.encryption, bits, (self.encryption_key,))
        integrity, integrity_key = "NULL", b""
        if not aead:
            _, integrity, length = _integrity(self.integrity)
            if length:
                if len(self.integrity_key) != length:
                    raise LocalError(f"a key of {self.integrity} that is not {length} octets")
                integrity_key = self.integrity_key
        fields = (
            f"IPv{self.source.address.version}",
            str(self.source.address),
            str(self.destination.address),
            "0x" + self.spi.hex(),
            name,
            _hex(self.encryption_key),
            integrity,
            _hex(integrity_key),
        )
        return ",".join(f'"{field}"' for field in fields)


def _hex(key: bytes) -> str:
    return "0x" + key.hex() if key else ""


def _encryption(
    table: dict[str, tuple[str, tuple[int, ...], int, bool]],
    algorithm: str,
    bits: int | None,
    keys: tuple[bytes, ...],
) -> tuple[str, bool]:
    if algorithm not in table:
        raise LocalError(f"Wireshark has no decryption of {algorithm}")
    name, sizes, salt, aead = table[algorithm]
    if bits not in sizes:
        raise LocalError(f"{algorithm} has no key of {bits} bits")
    if any(len(key) != bits // 8 + salt for key in keys):
        raise LocalError(f"keys of {algorithm} that are not {bits // 8 + salt} octets")
    return name.format(bits=bits), aead


def _integrity(algorithm: str | None) -> tuple[str, str, int]:
    if algorithm is None:
        raise LocalError("no integrity algorithm beside an encryption without one of its own")
    if algorithm not in _INTEGRITY:
        raise LocalError(f"Wireshark has no check of {algorithm}")
    return _INTEGRITY[algorithm]


def _text(body: dict[str, JsonValue], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise DecodeError(f"keys record: {key} is not text")
    return value


def _octets(body: dict[str, JsonValue], key: str) -> bytes:
    try:
        return bytes.fromhex(_text(body, key))
    except ValueError:
        raise DecodeError(f"keys record: {key} is not hexadecimal") from None


def _address(body: dict[str, JsonValue], key: str) -> Address:
    try:
        return ip_address(_text(body, key))
    except ValueError:
        raise DecodeError(f"keys record: {key} is not an address") from None


def _port(body: dict[str, JsonValue], key: str) -> int:
    value = body.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        raise DecodeError(f"keys record: {key} is not a port")
    return value


# --- The profile ------------------------------------------------------------------------------------

_PREFERENCES = """\
esp.enable_encryption_decode: TRUE
esp.enable_authentication_check: TRUE
"""
_DISSECTORS = {"ikev2": "ISAKMP", "encapsulation": "UDPENCAP", "diameter": "Diameter"}
_STANDARD_PORTS = {"ikev2": 500, "encapsulation": 4500, "diameter": 3868}


class WiresharkProfile:
    """Collects ``keys`` and ``datagram`` records and writes what Wireshark needs to read a capture."""

    def __init__(self, records: Iterable[TraceRecord] = ()) -> None:
        # by what a row is of: the same SA is reported by both of its ends
        self._ike_rows: dict[str, str] = {}
        self._esp_rows: dict[str, str] = {}
        self._omitted: dict[str, str] = {}
        self._flows: dict[str, dict[frozenset[int], None]] = {use: {} for use in _DISSECTORS}
        for record in records:
            self.add(record)

    @property
    def omitted(self) -> tuple[str, ...]:
        """Why keys were left out, one reason each."""
        return tuple(self._omitted)

    def add(self, record: TraceRecord) -> bool:
        """Take a record; whether ``files()`` changed. ``DecodeError`` on a body that does not fit."""
        if record.kind is Kind.KEYS:
            return self._add_keys(record.body)
        if record.kind is Kind.DATAGRAM:
            return self._add_flow(ObservedDatagram.of(record))
        return False

    def files(self) -> dict[str, str]:
        """File name → text of the configuration directory."""
        comments = [f"# left out: {why}" for why in self._omitted]
        return {
            "ikev2_decryption_table": _lines([*comments, *self._ike_rows.values()]),
            "esp_sa": _lines([*comments, *self._esp_rows]),
            "decode_as_entries": _lines(self._decode_as()),
            "preferences": _PREFERENCES,
        }

    def _add_keys(self, body: dict[str, JsonValue]) -> bool:
        table = body.get("table")
        if table not in ("ikev2", "esp"):
            raise DecodeError(f"keys record: unknown table {table!r}")
        rows = self._ike_rows if table == "ikev2" else self._esp_rows
        keys = IkeKeysRecord.of(body) if table == "ikev2" else EspKeysRecord.of(body)
        try:
            row = keys.row()
        except LocalError as why:
            rows, row = self._omitted, str(why)
        subject = f"{keys.spi_i.hex()},{keys.spi_r.hex()}" if isinstance(keys, IkeKeysRecord) else row
        if rows is self._omitted:
            subject = row
        if rows.get(subject) == row:
            return False
        rows[subject] = row
        return True

    def _add_flow(self, seen: ObservedDatagram) -> bool:
        use = _use(seen)
        if use is None:
            return False
        ports = frozenset((seen.source.port, seen.destination.port))
        if ports in self._flows[use]:
            return False
        self._flows[use][ports] = None
        return True

    def _decode_as(self) -> list[str]:
        entries = []
        for use, flows in self._flows.items():
            table = "tcp.port" if use == "diameter" else "udp.port"
            for port in _covering(flows, _STANDARD_PORTS[use]):
                entries.append(f"decode_as_entry: {table},{port},(none),{_DISSECTORS[use]}")
        return entries


def _use(seen: ObservedDatagram) -> str | None:
    """What a flow is decoded as; IKE behind the non-ESP marker is a flow of encapsulated ESP."""
    if seen.transport in ("tcp", "tls"):  # of SCTP the payload protocol identifier says it
        return "diameter"
    if seen.transport != "udp":
        return None
    if seen.protocol == "ikev2":
        return "encapsulation" if seen.payload.startswith(bytes(4)) else "ikev2"
    return "encapsulation" if seen.protocol == "esp" else None


def _covering(flows: Iterable[frozenset[int]], standard: int) -> list[int]:
    """Few ports of which every flow has one, when its own is not ``standard``: servers', not clients'."""
    left = [ports for ports in flows if standard not in ports]
    chosen = []
    while left:
        uses = Counter(port for ports in left for port in ports)
        port = min(uses, key=lambda port: (-uses[port], port))
        chosen.append(port)
        left = [ports for ports in left if port not in ports]
    return sorted(chosen)


def _lines(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)
