"""Identities of subscribers, networks and access points (TS 23.003 §2, §9, §19; RFC 7542).

Covers the IMSI, the PLMN, the root and decorated NAI, the APN network identifier and the ePDG FQDN.
Left out: temporary identities other than their recognition by leading digit, TAC/LAC forms of the
ePDG FQDN. Text that does not conform raises ``ValueError`` with one plain sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

_DIGITS = re.compile(r"[0-9]+\Z")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_PLMN_REALM = re.compile(r"(?:.*\.)?mnc([0-9]{2,3})\.mcc([0-9]{3})\.(?:pub\.)?3gppnetwork\.org\Z", re.IGNORECASE)
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
    """What the user part of an NAI holds, told by its leading character (TS 23.003 §19.3)."""

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
    UNRECOGNISED = "unrecognised"


_PERMANENT = frozenset(
    {
        IdentityKind.PERMANENT_AKA,
        IdentityKind.PERMANENT_SIM,
        IdentityKind.PERMANENT_AKA_PRIME,
        IdentityKind.UNPREFIXED_IMSI,
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
        if not text or len(text.encode()) > 253:
            raise ValueError("an NAI has 1 to 253 octets")  # RFC 7542 §2.3
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
        """The root NAI ``0<IMSI>@nai.epc.mnc<MNC>.mcc<MCC>.3gppnetwork.org`` (TS 23.003 §19.3.2)."""
        prefix = "sos.nai.epc" if emergency else "nai.epc"
        return cls(username=f"{leading_digit}{imsi}", realm=f"{prefix}.{plmn.domain}")

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

    def _resolved(self) -> tuple[IdentityKind, Imsi | None]:
        """The kind, and the IMSI of a permanent one.

        Some devices send the bare IMSI. Its first digit may then look like a leading digit: the PLMN
        in the realm decides, and the standard's form wins where both readings fit.
        """
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
    prefix = "sos.epdg" if emergency else "epdg"
    return f"{prefix}.epc.mnc{plmn.mnc_label}.mcc{plmn.mcc}.pub.3gppnetwork.org"
