"""Identities of subscribers, networks and access points (TS 23.003 §2, §9, §19; RFC 7542).

Covers the IMSI, the PLMN, the APN network identifier, the ePDG FQDN in all its forms and the NAI in all its forms:
root, decorated, pseudonym, fast re-authentication, emergency (by IMSI, IMEI or MAC address) and alternative. Left out:
the keyname and high priority NAIs (TS 23.003 §19.3.8, §19.3.10). Text that does not conform raises ``ValueError``
with one plain sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

_DIGITS = re.compile(r"[0-9]+\Z")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_PLMN_REALM = re.compile(r"(?:.*\.)?mnc([0-9]{2,3})\.mcc([0-9]{3})\.(?:pub\.)?3gppnetwork\.org\Z", re.IGNORECASE)
_EPDG_NAME = re.compile(r"(?:sos\.)?epdg\.epc\.mnc([0-9]{3})\.mcc([0-9]{3})\.pub\.3gppnetwork\.org\.?\Z", re.IGNORECASE)
EMERGENCY_REALM = "sos.invalid"  # TS 23.003 §19.3.6: never resolved, nobody's
_EMERGENCY_IMEI = re.compile(r"imei([0-9]{14,16})\Z", re.IGNORECASE)
_EMERGENCY_MAC = re.compile(r"mac([0-9a-f]{12})\Z", re.IGNORECASE)
_MAC_LENGTH = 6
NAI_MAXIMUM_LENGTH = 253  # octets, RFC 7542 §2.3
ALTERNATIVE_REALM = "unreachable.3gppnetwork.org"  # TS 23.003 §19.3.7
_APN_MAXIMUM_LENGTH = 100  # TS 23.003 §9: 63 is the network identifier's limit, 100 the whole APN's


@dataclass(frozen=True, slots=True)
class Plmn:
    """A public land mobile network (TS 23.003 §12.1): MCC of three digits, MNC of two or three."""

    mcc: str
    mnc: str

    def __post_init__(self) -> None:
        if not (_DIGITS.match(self.mcc) and len(self.mcc) == 3):
            raise ValueError(f"MCC {self.mcc!r} is not three digits")
        if not (_DIGITS.match(self.mnc) and len(self.mnc) in (2, 3)):
            raise ValueError(f"MNC {self.mnc!r} is not two or three digits")

    @property
    def mnc_label(self) -> str:
        """The MNC as domain names write it: padded to three digits (TS 23.003 §19.2)."""
        return self.mnc.zfill(3)

    @property
    def domain(self) -> str:
        """``mnc<MNC>.mcc<MCC>.3gppnetwork.org`` (TS 23.003 §19.2)."""
        return f"mnc{self.mnc_label}.mcc{self.mcc}.3gppnetwork.org"

    @classmethod
    def parse(cls, text: str) -> Plmn:
        """From ``001-01``, ``001/01`` or ``00101``."""
        compact = text.replace("-", "").replace("/", "").strip()
        if not (_DIGITS.match(compact) and len(compact) in (5, 6)):
            raise ValueError(f"PLMN {text!r} is not MCC and MNC, such as 001-01")
        return cls(compact[:3], compact[3:])

    def __str__(self) -> str:
        return f"{self.mcc}-{self.mnc}"


@dataclass(frozen=True, slots=True, order=True)
class Imsi:
    """An international mobile subscriber identity (TS 23.003 §2.2): 6 to 15 digits."""

    digits: str

    def __post_init__(self) -> None:
        if not (_DIGITS.match(self.digits) and 6 <= len(self.digits) <= 15):
            raise ValueError(f"IMSI {self.digits!r} is not 6 to 15 digits")

    @property
    def mcc(self) -> str:
        """The mobile country code: the first three digits."""
        return self.digits[:3]

    def mnc(self, length: int) -> str:
        """The mobile network code; its ``length``, 2 or 3, is the network's and not in the IMSI."""
        if length not in (2, 3):
            raise ValueError(f"an MNC has two or three digits, not {length}")
        return self.digits[3 : 3 + length]

    def plmn(self, mnc_length: int) -> Plmn:
        """The home network."""
        return Plmn(self.mcc, self.mnc(mnc_length))

    def belongs_to(self, plmn: Plmn) -> bool:
        """Whether the digits begin with this network's; a padded two-digit MNC counts as such."""
        candidates = {plmn.mnc}
        if len(plmn.mnc) == 3 and plmn.mnc.startswith("0"):
            candidates.add(plmn.mnc[1:])
        return any(self.digits.startswith(plmn.mcc + mnc) for mnc in candidates)

    def __str__(self) -> str:
        return self.digits


class IdentityKind(Enum):
    """What the user part of an NAI holds, told by its leading character (TS 23.003 §19.3).

    The digit of a kind is its value: ``0``, ``2`` and ``4`` are EAP-AKA's, ``6``, ``7`` and ``8`` EAP-AKA' 's.
    """

    PERMANENT_AKA = "0"
    PERMANENT_SIM = "1"
    PSEUDONYM_AKA = "2"
    PSEUDONYM_SIM = "3"
    REAUTHENTICATION_AKA = "4"
    REAUTHENTICATION_SIM = "5"
    PERMANENT_AKA_PRIME = "6"
    PSEUDONYM_AKA_PRIME = "7"
    REAUTHENTICATION_AKA_PRIME = "8"
    UNPREFIXED_IMSI = "IMSI without leading digit"
    EMERGENCY_IMEI = "IMEI of an emergency NAI"
    EMERGENCY_MAC = "MAC address of an emergency NAI"
    ALTERNATIVE = "alternative NAI"
    UNRECOGNISED = "unrecognised"

    @property
    def permanent(self) -> bool:
        """Whether it is the IMSI."""
        return self in _PERMANENT

    @property
    def pseudonym(self) -> bool:
        """Whether it is a pseudonym of a full authentication (TS 23.003 §19.3.5)."""
        return self in _PSEUDONYMS

    @property
    def reauthentication(self) -> bool:
        """Whether it is a fast re-authentication identity (TS 23.003 §19.3.4)."""
        return self in _REAUTHENTICATION


_PERMANENT = frozenset(
    {
        IdentityKind.PERMANENT_AKA,
        IdentityKind.PERMANENT_SIM,
        IdentityKind.PERMANENT_AKA_PRIME,
        IdentityKind.UNPREFIXED_IMSI,
    }
)
_PSEUDONYMS = frozenset({IdentityKind.PSEUDONYM_AKA, IdentityKind.PSEUDONYM_SIM, IdentityKind.PSEUDONYM_AKA_PRIME})
_REAUTHENTICATION = frozenset(
    {
        IdentityKind.REAUTHENTICATION_AKA,
        IdentityKind.REAUTHENTICATION_SIM,
        IdentityKind.REAUTHENTICATION_AKA_PRIME,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nai:
    """A network access identifier (RFC 7542; TS 23.003 §19.3), as written by its owner.

    ``decoration`` holds the realms of a decorated NAI in the order written (``home!user@visited``),
    ``realm`` what follows the @, empty where there is none.
    """

    username: str
    realm: str = ""
    decoration: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Nai:
        """Take ``[realm!...]username[@realm]`` apart."""
        if not text or len(text.encode()) > NAI_MAXIMUM_LENGTH:
            raise ValueError(f"an NAI has 1 to {NAI_MAXIMUM_LENGTH} octets")
        if any(character.isspace() or not character.isprintable() for character in text):
            raise ValueError(f"NAI {text!r} holds a space or a control character")
        user, at, realm = text.rpartition("@")
        if not at:
            user, realm = text, ""
        elif not realm or any(not label for label in realm.split(".")):
            raise ValueError(f"NAI {text!r} has an empty label in its realm")
        if not user:
            raise ValueError(f"NAI {text!r} has no username")
        *decoration, username = user.split("!")
        if not username or any(not part for part in decoration):
            raise ValueError(f"NAI {text!r} has an empty part beside its exclamation mark")
        return cls(username=username, realm=realm, decoration=tuple(decoration))

    @classmethod
    def root(cls, imsi: Imsi, plmn: Plmn, *, leading_digit: str = "0", emergency: bool = False) -> Nai:
        """The root NAI ``0<IMSI>@nai.epc.mnc<MNC>.mcc<MCC>.3gppnetwork.org`` (TS 23.003 §19.3.2).

        With ``emergency`` the IMSI-based emergency NAI, whose realm begins with ``sos`` (§19.3.9).
        """
        return cls(username=f"{leading_digit}{imsi}", realm=nai_realm(plmn, emergency=emergency))

    @classmethod
    def emergency_imei(cls, imei: str, visited: Plmn) -> Nai:
        """``imei<IMEI>@sos.nai.epc…`` of the selected network, for a UE without IMSI (TS 23.003 §19.3.6)."""
        if not (_DIGITS.match(imei) and 14 <= len(imei) <= 16):
            raise ValueError(f"IMEI {imei!r} is not 14 to 16 digits")
        return cls(username=f"imei{imei}", realm=nai_realm(visited, emergency=True))

    @classmethod
    def emergency_mac(cls, mac: bytes, visited: Plmn) -> Nai:
        """``mac<MAC>@sos.nai.epc…``, for a UE with neither IMSI nor IMEI (TS 23.003 §19.3.6)."""
        if len(mac) != _MAC_LENGTH:
            raise ValueError(f"a MAC address has {_MAC_LENGTH} octets, not {len(mac)}")
        return cls(username=f"mac{mac.hex().upper()}", realm=nai_realm(visited, emergency=True))

    @classmethod
    def alternative(cls, username: str) -> Nai:
        """``<any text>@unreachable.3gppnetwork.org``, which no AAA server is found by (TS 23.003 §19.3.7)."""
        return cls.parse(f"{username}@{ALTERNATIVE_REALM}")

    def temporary(self, identity: str) -> Nai:
        """A pseudonym or fast re-authentication identity as an NAI of this permanent one (TS 23.003 §19.3.4, §19.3.5).

        One that the server gave with its realm is used as it is; another takes realm and decoration of this.
        """
        given = Nai.parse(identity)
        return given if given.realm else Nai(username=given.username, realm=self.realm, decoration=self.decoration)

    def decorated(self, visited: Plmn, *, emergency: bool = False) -> Nai:
        """``<home realm>!<user>@<realm of the visited network>`` (TS 23.003 §19.3.3, emergency §19.3.9)."""
        realm = nai_realm(visited, emergency=emergency)
        return Nai(username=self.username, realm=realm, decoration=(self.home_realm,))

    @property
    def undecorated(self) -> Nai:
        """The same user at its home realm: what every attribute of EAP-AKA holds (RFC 4187 §4.1.1.4)."""
        return Nai(username=self.username, realm=self.home_realm) if self.decoration else self

    @property
    def home_realm(self) -> str:
        """The realm of the home network: a decoration names it first (TS 23.003 §19.3.3)."""
        return self.decoration[0] if self.decoration else self.realm

    @property
    def plmn(self) -> Plmn | None:
        """The home network, where the realm is a 3GPP one; its MNC is as the realm writes it."""
        match = _PLMN_REALM.match(self.home_realm)
        return Plmn(match[2], match[1]) if match else None

    @property
    def kind(self) -> IdentityKind:
        """What the username holds."""
        return self._resolved()[0]

    @property
    def imsi(self) -> Imsi | None:
        """The IMSI of a permanent identity, ``None`` for every other kind."""
        return self._resolved()[1]

    @property
    def emergency(self) -> bool:
        """Whether the realm is one for emergency services (TS 23.003 §19.3.6, §19.3.9)."""
        realm = self.realm.lower()
        return realm == EMERGENCY_REALM or (realm.startswith("sos.") and _PLMN_REALM.match(realm) is not None)

    @property
    def imei(self) -> str | None:
        """The IMEI of an emergency NAI (TS 23.003 §19.3.6)."""
        match = _EMERGENCY_IMEI.match(self.username) if self.emergency else None
        return match[1] if match else None

    @property
    def mac(self) -> bytes | None:
        """The MAC address of an emergency NAI (TS 23.003 §19.3.6)."""
        match = _EMERGENCY_MAC.match(self.username) if self.emergency else None
        return bytes.fromhex(match[1]) if match else None

    def _resolved(self) -> tuple[IdentityKind, Imsi | None]:
        """The kind, and the IMSI of a permanent one.

        Some devices send the bare IMSI. Its first digit may then look like a leading digit: the PLMN
        in the realm decides, and the standard's form wins where both readings fit.
        """
        if self.realm.lower() == ALTERNATIVE_REALM:
            return IdentityKind.ALTERNATIVE, None
        if self.emergency and (self.imei is not None or self.mac is not None):
            return IdentityKind.EMERGENCY_MAC if self.imei is None else IdentityKind.EMERGENCY_IMEI, None
        try:
            kind = IdentityKind(self.username[0])
        except ValueError:
            kind = IdentityKind.UNRECOGNISED
        prefixed = _imsi(self.username[1:]) if kind in _PERMANENT else None
        bare = _imsi(self.username)
        plmn = self.plmn
        if bare is not None:
            at_home = plmn is not None and bare.belongs_to(plmn)
            prefixed_at_home = plmn is not None and prefixed is not None and prefixed.belongs_to(plmn)
            if (at_home and not prefixed_at_home) or kind is IdentityKind.UNRECOGNISED:
                return IdentityKind.UNPREFIXED_IMSI, bare
        if kind in _PERMANENT and prefixed is None:
            return IdentityKind.UNRECOGNISED, None
        return kind, prefixed

    def __str__(self) -> str:
        decorated = "!".join((*self.decoration, self.username))
        return f"{decorated}@{self.realm}" if self.realm else decorated


def nai_realm(plmn: Plmn, *, emergency: bool = False) -> str:
    """``nai.epc.mnc<MNC>.mcc<MCC>.3gppnetwork.org``, a two-digit MNC padded (TS 23.003 §19.2, §19.3)."""
    return f"{'sos.' if emergency else ''}nai.epc.{plmn.domain}"


def _imsi(text: str) -> Imsi | None:
    """An IMSI, or nothing where the text is none."""
    try:
        return Imsi(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Apn:
    """An access point name (TS 23.003 §9), compared without regard to case.

    ``text`` is kept in lower case. An operator identifier (``.mnc….mcc….gprs``) may follow the
    network identifier.
    """

    text: str

    def __post_init__(self) -> None:
        lowered = self.text.lower()
        if not lowered or len(lowered) > _APN_MAXIMUM_LENGTH:
            raise ValueError(f"APN {self.text!r} is not 1 to {_APN_MAXIMUM_LENGTH} characters")
        for label in lowered.split("."):
            if not _LABEL.match(label):
                raise ValueError(f"APN {self.text!r} has a label {label!r} that is no domain label")
        object.__setattr__(self, "text", lowered)

    @property
    def network_identifier(self) -> str:
        """The APN without its operator identifier."""
        match = re.match(r"(.+)\.mnc[0-9]{3}\.mcc[0-9]{3}\.gprs\Z", self.text)
        return match[1] if match else self.text

    def fqdn(self, plmn: Plmn) -> str:
        """The name under which S-NAPTR finds its gateways (TS 23.003 §19.4.2.2)."""
        return f"{self.network_identifier}.apn.epc.{plmn.domain}"

    def __str__(self) -> str:
        return self.text


def epdg_fqdn(plmn: Plmn, *, emergency: bool = False) -> str:
    """The operator identifier FQDN of an ePDG (TS 23.003 §19.4.2.9.2; emergency §19.4.2.9A)."""
    return f"{_epdg(emergency)}.epc.mnc{plmn.mnc_label}.mcc{plmn.mcc}.pub.3gppnetwork.org"


def epdg_tracking_area_fqdn(plmn: Plmn, tac: int, *, fifth_generation: bool = False, emergency: bool = False) -> str:
    """The Tracking Area Identity FQDN of an ePDG (TS 23.003 §19.4.2.9.3; emergency §19.4.2.9A).

    ``tac`` has 16 bits, with ``fifth_generation`` 24 (5GS TAI).
    """
    if not 0 <= tac < 1 << (24 if fifth_generation else 16):
        raise ValueError(f"TAC {tac} does not fit in {24 if fifth_generation else 16} bits")
    low, middle, high = tac & 0xFF, tac >> 8 & 0xFF, tac >> 16
    if fifth_generation:
        area = f"tac-lb{low:02x}.tac-mb{middle:02x}.tac-hb{high:02x}.5gstac"
    else:
        area = f"tac-lb{low:02x}.tac-hb{middle:02x}.tac"
    return f"{area}.{epdg_fqdn(plmn, emergency=emergency)}"


def epdg_location_area_fqdn(plmn: Plmn, lac: int, *, emergency: bool = False) -> str:
    """The Location Area Identity FQDN of an ePDG, LAC of 16 bits (TS 23.003 §19.4.2.9.3; emergency §19.4.2.9A)."""
    if not 0 <= lac < 1 << 16:
        raise ValueError(f"LAC {lac} does not fit in 16 bits")
    return f"lac{lac:04x}.{epdg_fqdn(plmn, emergency=emergency)}"


def epdg_visited_country_fqdn(mcc: str, *, emergency: bool = False) -> str:
    """The name whose NAPTR records say whose ePDGs a country demands (TS 23.003 §19.4.2.9.4; emergency §19.4.2.9A)."""
    if not (_DIGITS.match(mcc) and len(mcc) == 3):
        raise ValueError(f"MCC {mcc!r} is not three digits")
    return f"{_epdg(emergency)}.epc.mcc{mcc}.visited-country.pub.3gppnetwork.org"


def epdg_plmn(name: str) -> Plmn | None:
    """Whose ePDG an operator identifier FQDN names; the MNC has three digits, as it is written there."""
    match = _EPDG_NAME.match(name)
    return Plmn(match[2], match[1]) if match else None


def _epdg(emergency: bool) -> str:
    return "sos.epdg" if emergency else "epdg"
