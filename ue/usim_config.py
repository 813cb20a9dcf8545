"""Configuration of how the UE proves itself: ``usim``, ``eap``, ``certificate``."""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from protocols.algorithms.sqn import IND_BITS, IND_BITS_MAXIMUM
from protocols.algorithms.suite import DEFAULT_RES_LENGTH, Algorithm, AlgorithmKeys
from protocols.eap.aka.peer import IdentityForm, NetworkNamePolicy, PrivacyPolicy
from protocols.io.configuration import (
    ConfigurationModel,
    Count,
    FilePath,
    HexSecret,
    Interval,
    TextSecret,
    unfit,
)
from protocols.secret import Secret
from ue.gateway_config import PlmnSection

PIN_LENGTHS = range(4, 9)  # TS 102 221 §9.5.1
SERVER_TIMEOUT = 10.0  # as a modem has: the card behind it may think for long
_BEARER = re.compile(rb"[A-Za-z0-9._~+/-]+=*\Z")  # RFC 6750 §2.1: b64token


def _pin(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) in PIN_LENGTHS):
        raise PydanticCustomError("secret_text", "4 to 8 digits, in quotes")
    return Secret(text.encode())


Pin = Annotated[Secret, BeforeValidator(_pin), PlainSerializer(lambda _: "…")]


class CardSection(ConfigurationModel):
    """The USIM on a card: the PC/SC reader by (a part of) its name or by number, or the serial line of a modem.

    ``pin``: PIN 1, where the card wants it.
    """

    reader: str | Count = 0
    modem: FilePath | None = None
    pin: Pin | None = None

    @model_validator(mode="after")
    def _one_place(self) -> CardSection:
        if self.modem is not None and "reader" in self.model_fields_set:
            raise PydanticCustomError("card", "either reader or modem")
        return self


def _server_url(text: str) -> str:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        (url.hostname or "").encode("idna")
    except ValueError:
        usable = False
    plain = text.isascii() and text.isprintable() and not set(text) & set(' "<>\\')
    if not usable or not plain or "@" in url.netloc or "#" in text:
        raise PydanticCustomError(
            "usim_server", "an http or https URL such as https://sim.example:8443/, without user, password and fragment"
        )
    return text


def _shown_url(text: str) -> str:
    """Path and query may be what a reverse proxy knows us by."""
    url = urlsplit(text)
    return f"{url.scheme}://{url.netloc}"


def _bearer(token: Secret) -> Secret:
    if not _BEARER.match(token.reveal()):
        raise PydanticCustomError("secret_text", "a bearer token (RFC 6750): letters, digits and -._~+/, = at its end")
    return token


class ServerSection(ConfigurationModel):
    """The USIM behind an HTTP(S) server: see ``ue.usim_server``.

    ``ca``: what its certificate is verified by, in the place of the system's authorities. ``check_name: false``: a
    certificate verified by ``ca`` may be of any name. ``token``: a bearer token, for a reverse proxy before it.
    """

    url: Annotated[str, AfterValidator(_server_url), PlainSerializer(_shown_url)]
    ca: FilePath | None = None
    check_name: bool = True
    token: Annotated[TextSecret, AfterValidator(_bearer)] | None = None
    timeout: Interval = SERVER_TIMEOUT

    @model_validator(mode="after")
    def _verified(self) -> ServerSection:
        if self.ca is not None and urlsplit(self.url).scheme != "https":
            raise unfit("nothing with http, which has no certificates", "ca")
        if not self.check_name and self.ca is None:
            raise unfit("true without ca: any certificate of the system's authorities would do", "check_name")
        return self


class UsimSection(ConfigurationModel):
    """The USIM: in software (functions, keys, a file of accepted sequence numbers), a file of vectors, a card,
    or a server that has one.

    ``repeat``: vectors may be used again and again.
    """

    vectors: FilePath | None = None
    repeat: bool = False
    card: CardSection | None = None
    server: ServerSection | None = None
    algorithm: Algorithm = Algorithm.MILENAGE
    k: HexSecret | None = None
    opc: HexSecret | None = None
    op: HexSecret | None = None
    tuak_iterations: Annotated[Count, Field(ge=1, le=255)] = 1
    res_length: Annotated[Count, Field(ge=4, le=16)] = DEFAULT_RES_LENGTH
    ind_bits: Annotated[Count, Field(le=IND_BITS_MAXIMUM)] = IND_BITS
    sqn: FilePath | None = None

    @model_validator(mode="after")
    def _one_source(self) -> UsimSection:
        if sum(each is not None for each in (self.k, self.vectors, self.card, self.server)) != 1:
            raise PydanticCustomError("usim", "one of k, vectors, card and server")
        if self.k is None and (self.opc is not None or self.op is not None):
            raise PydanticCustomError("usim", "opc and op with k only")
        return self

    @property
    def tells_imsi(self) -> bool:
        """Whether the USIM itself says of whom it is."""
        return self.card is not None or self.server is not None

    @model_validator(mode="after")
    def _keys_that_fit(self) -> UsimSection:
        if self.k is None:
            return self
        if self.algorithm is not Algorithm.XOR and (self.op is None) == (self.opc is None):
            raise PydanticCustomError("usim", "either opc or op")
        try:
            AlgorithmKeys(
                algorithm=self.algorithm,
                k=self.k,
                op=self.op,
                opc=self.opc,
                tuak_iterations=self.tuak_iterations,
                res_length=self.res_length,
            )
        except ValueError as error:
            raise PydanticCustomError("usim", "keys that fit the algorithm ({why})", {"why": str(error)}) from None
        return self


class EapMethod(str, Enum):
    """A method of EAP that the UE knows."""

    AKA = "aka"
    AKA_PRIME = "aka-prime"

    @property
    def leading_digit(self) -> str:
        """What the permanent identity begins with (TS 23.003 §19.3.2)."""
        return {EapMethod.AKA: "0", EapMethod.AKA_PRIME: "6"}[self]


class OuterIdentity(str, Enum):
    """What is told: a temporary identity where there is one (TS 24.302 §7.2.2.1), or ever the permanent one."""

    TEMPORARY = "temporary"
    PERMANENT = "permanent"


class EapSection(ConfigurationModel):
    """EAP at the UE; ``state`` is a file for pseudonym and fast re-authentication context, keys included."""

    methods: tuple[EapMethod, ...] = Field(default=(EapMethod.AKA, EapMethod.AKA_PRIME), min_length=1)
    outer_identity: OuterIdentity = OuterIdentity.TEMPORARY
    inner_identity: OuterIdentity = OuterIdentity.TEMPORARY
    identity_form: IdentityForm = IdentityForm.NAI
    visited: PlmnSection | None = None
    emergency: bool = False
    privacy: PrivacyPolicy = PrivacyPolicy.LIBERAL
    pseudonyms: bool = True
    reauthentication: bool = True
    result_indications: bool = True
    network_name: str | None = Field(default="WLAN", min_length=1, max_length=253)
    network_name_mismatch: NetworkNamePolicy = NetworkNamePolicy.REJECT
    state: FilePath | None = None

    @model_validator(mode="after")
    def _each_once(self) -> EapSection:
        if len(set(self.methods)) != len(self.methods):
            raise PydanticCustomError("eap", "each of the methods once")
        return self


class CertificateSection(ConfigurationModel):
    """The UE's own certificate, for authentication by certificate; ``ocsp``: responses in DER to staple."""

    chain: FilePath
    key: FilePath
    ocsp: tuple[FilePath, ...] = ()
    pss: bool = False
