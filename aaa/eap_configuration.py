"""The ``eap`` section of the AAA server's configuration, and the policy that it stands for."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from aaa.eap import EapRule, ImsiRange
from protocols.eap.aka.attributes import KDF_CK_IK_PRIME
from protocols.eap.aka.server import IdentityRequest, ServerOptions
from protocols.eap.aka.temporary import KEY_INDICES, LAST_COUNTER
from protocols.eap.packet import EapType
from protocols.io.configuration import ConfigurationModel, Count, FilePath, Interval
from protocols.threegpp.identity import Apn

DEFAULT_KEY_INTERVAL = 30 * 86_400.0  # RFC 4187 leaves the life of a key to us, TS 33.402 as well
DEFAULT_KEYS_KEPT = 3
DEFAULT_LIFETIME = 86_400.0  # as long as a session by default
MAXIMUM_NETWORK_NAME_LENGTH = 253  # octets; Access-Network-ID is no longer than a realm (TS 29.273 §5.2.3.7)


class Method(str, Enum):
    """An EAP method in the configuration."""

    AKA = "aka"
    AKA_PRIME = "aka-prime"


_TYPES = {Method.AKA: EapType.AKA, Method.AKA_PRIME: EapType.AKA_PRIME}
_IDENTITY_REQUESTS = {
    "automatic": None,
    "any": IdentityRequest.ANY,
    "full-authentication": IdentityRequest.FULL_AUTHENTICATION,
    "permanent": IdentityRequest.PERMANENT,
}


class IdentityQuestion(str, Enum):
    """What is asked first where an identity is asked for."""

    AUTOMATIC = "automatic"
    ANY = "any"
    FULL_AUTHENTICATION = "full-authentication"
    PERMANENT = "permanent"


def _once(value: tuple[object, ...]) -> tuple[object, ...]:
    if len(set(value)) != len(value):
        raise PydanticCustomError("once", "each value once")
    return value


def _functions(value: tuple[int, ...]) -> tuple[int, ...]:
    if KDF_CK_IK_PRIME not in value:
        raise PydanticCustomError("kdfs", "1 among them, the only function that this server computes")
    return value


def _network_name(value: str) -> str:
    if not value or len(value.encode()) > MAXIMUM_NETWORK_NAME_LENGTH or not value.isprintable():
        raise PydanticCustomError("network_name", "an access network identity such as WLAN")
    if value.startswith("5G:"):  # RFC 9048 §5.3.1 derives keys from the SUPI there
        raise PydanticCustomError("network_name", "an access network that is not of 5G, such as WLAN")
    return value


def _imsis(value: object) -> object:
    if value is None or isinstance(value, ImsiRange):
        return value
    try:
        return ImsiRange.parse(str(value) if isinstance(value, int) and not isinstance(value, bool) else f"{value}")
    except ValueError as error:
        raise PydanticCustomError("imsis", "{expected}", {"expected": str(error)}) from None


def _apn(value: str) -> str:
    try:
        return Apn(value).network_identifier
    except ValueError:
        raise PydanticCustomError("apn", "an APN such as internet") from None


Methods = Annotated[tuple[Method, ...], Field(min_length=1), AfterValidator(_once)]
Functions = Annotated[
    tuple[Annotated[Count, Field(ge=1, le=0xFFFF)], ...], AfterValidator(_once), AfterValidator(_functions)
]
NetworkName = Annotated[str, AfterValidator(_network_name)]
Reauthentications = Annotated[Count, Field(ge=1, le=LAST_COUNTER)]
Resynchronisations = Annotated[Count, Field(ge=0, le=16)]


class RuleSection(ConfigurationModel):
    """Options of some subscribers, at some APN; what it leaves out is as in the section."""

    imsi: Annotated[ImsiRange | None, BeforeValidator(_imsis)] = None
    apn: Annotated[str, AfterValidator(_apn)] | None = None
    methods: Methods | None = None
    identity_chooses: bool | None = None
    identity_request: IdentityQuestion | None = None
    always_request_identity: bool | None = None
    pseudonyms: bool | None = None
    reauthentication: bool | None = None
    reauthentications: Reauthentications | None = None
    checkcode: bool | None = None
    result_indications: bool | None = None
    resynchronisations: Resynchronisations | None = None
    network_name: NetworkName | None = None
    kdfs: Functions | None = None
    bidding: bool | None = None
    separation_bit: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> RuleSection:
        if not self.model_fields_set - {"imsi", "apn"}:
            raise PydanticCustomError("rule", "at least one option, such as methods")
        return self


class TemporarySection(ConfigurationModel):
    """Pseudonyms and fast re-authentication identities: the file of their keys, and how long things live."""

    key_file: FilePath
    rollover_interval: Interval = DEFAULT_KEY_INTERVAL
    rollovers_kept: Annotated[Count, Field(ge=0, le=KEY_INDICES - 2)] = DEFAULT_KEYS_KEPT
    lifetime: Interval = DEFAULT_LIFETIME


class EapSection(ConfigurationModel):
    """The EAP server (RFC 4187, RFC 9048); ``temporary`` absent means no pseudonyms and no fast re-authentication."""

    methods: Methods = (Method.AKA, Method.AKA_PRIME)
    identity_chooses: bool = True
    identity_request: IdentityQuestion = IdentityQuestion.AUTOMATIC
    always_request_identity: bool = False
    pseudonyms: bool = True
    reauthentication: bool = True
    reauthentications: Reauthentications = ServerOptions().reauthentications
    checkcode: bool = True
    result_indications: bool = False
    resynchronisations: Resynchronisations = ServerOptions().resynchronisations
    network_name: NetworkName = ServerOptions().network_name.decode()
    kdfs: Functions = (KDF_CK_IK_PRIME,)
    bidding: bool = True
    separation_bit: bool = True
    rules: tuple[RuleSection, ...] = ()
    temporary: TemporarySection | None = None

    def options(self, rule: RuleSection | None = None) -> ServerOptions:
        """What holds by this section, or by one of its rules."""
        merged = self if rule is None else self.model_copy(update=_said(rule))
        return ServerOptions(
            methods=tuple(_TYPES[method] for method in merged.methods),
            identity_chooses=merged.identity_chooses,
            always_request_identity=merged.always_request_identity,
            first_identity_request=_IDENTITY_REQUESTS[merged.identity_request.value],
            pseudonyms=merged.pseudonyms,
            reauthentication=merged.reauthentication,
            reauthentications=merged.reauthentications,
            checkcode=merged.checkcode,
            result_indications=merged.result_indications,
            resynchronisations=merged.resynchronisations,
            network_name=merged.network_name.encode(),
            kdfs=merged.kdfs,
            bidding=merged.bidding,
            separation_bit=merged.separation_bit,
        )

    def policy(self) -> tuple[EapRule, ...]:
        """The rules in their order."""
        return tuple(EapRule(imsis=rule.imsi, apn=rule.apn, options=self.options(rule)) for rule in self.rules)


def _said(rule: RuleSection) -> dict[str, object]:
    """The options that a rule sets."""
    names = set(RuleSection.model_fields) - {"imsi", "apn"}
    return {name: getattr(rule, name) for name in names if getattr(rule, name) is not None}
