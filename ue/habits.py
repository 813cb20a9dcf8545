"""The ``ike`` section of the UE's configuration: in which of the ways that are left open it speaks IKEv2."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from protocols.ikev2.habits import GroupObedience, Habits, PayloadKind, ResponderCheck
from protocols.ikev2.key_exchange import GROUP_NAMES, KEY_EXCHANGES
from protocols.ikev2.registry import IdType, KeGroup, NotifyType, PayloadType
from protocols.io.configuration import ConfigurationModel, Count, IpAddress
from protocols.threegpp.causes import NOTIFY_NAMES, PrivateNotify

ADDITIONAL_ADDRESSES_MAXIMUM = 8  # as strongSwan
DSCP_MAXIMUM = 63
_NAMES = {
    kind.name: kind
    for kind in (
        PayloadType.SA,
        PayloadType.KE,
        PayloadType.NONCE,
        PayloadType.IDi,
        PayloadType.IDr,
        PayloadType.CERT,
        PayloadType.CERTREQ,
        PayloadType.AUTH,
        PayloadType.CP,
        PayloadType.TSi,
        PayloadType.TSr,
    )
}


def _group(value: object) -> object:
    if isinstance(value, KeGroup) or value is None:
        return value
    if not isinstance(value, str) or value not in GROUP_NAMES:
        raise PydanticCustomError("group", "a key exchange group such as modp2048")
    return GROUP_NAMES[value]


def _payload(value: object) -> object:
    if isinstance(value, tuple):
        return value
    refusal = PydanticCustomError(
        "payload", "a payload ({names}) or a notify such as N(MOBIKE_SUPPORTED)", {"names": ", ".join(_NAMES)}
    )
    if not isinstance(value, str):
        raise refusal
    if value in _NAMES:
        return _NAMES[value], None
    name = value.removeprefix("N(").removesuffix(")")
    if value != f"N({name})":
        raise refusal
    for types in (NotifyType, PrivateNotify):
        if name in types.__members__:
            return PayloadType.N, int(types[name])
    raise refusal


def payload_name(kind: PayloadKind) -> str:
    """What ``payload_order`` calls a payload."""
    payload, notify = kind
    if notify is None:
        return payload.name
    return f"N({NOTIFY_NAMES.get(notify, NotifyType.of(notify).name)})"


Group = Annotated[KeGroup, BeforeValidator(_group), PlainSerializer(lambda group: KEY_EXCHANGES[group].name)]
Kind = Annotated[PayloadKind, BeforeValidator(_payload), PlainSerializer(payload_name)]


class ResponderId(str, Enum):
    """As what IDr carries the APN (TS 24.302 §7.2.2.1)."""

    FQDN = "fqdn"
    KEY_ID = "key-id"

    @property
    def id_type(self) -> IdType:
        """Its ID Type (RFC 7296 §3.5)."""
        return {ResponderId.FQDN: IdType.ID_FQDN, ResponderId.KEY_ID: IdType.ID_KEY_ID}[self]


class Version(str, Enum):
    """An IP version."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


class UpdateRefusal(str, Enum):
    """What an error in the answer to UPDATE_SA_ADDRESSES leads to."""

    RETRY = "retry"  # back, or elsewhere (RFC 4555 §3.5)
    FATAL = "fatal"


class EspMoves(str, Enum):
    """When child SAs move (RFC 4555 §3.5)."""

    EARLY = "early"
    WITH_RESPONSE = "with-response"


class MoveWithoutMobike(str, Enum):
    """How the UE moves where the gateway has no MOBIKE."""

    NEVER = "never"
    REKEY = "rekey"


class AddressLists(str, Enum):
    """When the gateway is told the UE's addresses (RFC 4555 §3.4, §3.6)."""

    CHANGED = "changed"
    ALWAYS = "always"


class PayloadOrder(ConfigurationModel):
    """Orders of payloads in three requests (RFC 7296 §2.5 leaves them free); what is not named comes last."""

    init: tuple[Kind, ...] = ()
    auth: tuple[Kind, ...] = ()
    update: tuple[Kind, ...] = ()


class IkeSection(ConfigurationModel):
    """Each key is one habit; ``protocols.ikev2.habits`` has what they mean."""

    group: Group | None = None
    invalid_ke: GroupObedience = GroupObedience.OFFERED
    renew_spi: bool = False
    payload_order: PayloadOrder = PayloadOrder()
    certificate_requests: bool = True
    responder_id: ResponderId = ResponderId.FQDN
    responder_check: ResponderCheck = ResponderCheck.UNLESS_ECHOED
    early_notifies: bool = False
    mobike_over: tuple[Version, ...] = (Version.IPV4, Version.IPV6)
    busy_while_moving: bool = False
    refused_update: UpdateRefusal = UpdateRefusal.RETRY
    esp_moves: EspMoves = EspMoves.EARLY
    move_without_mobike: MoveWithoutMobike = MoveWithoutMobike.NEVER
    probe_before_update: bool = False
    rekey_after_move: bool = False
    address_lists: AddressLists = AddressLists.CHANGED
    additional_addresses: Annotated[tuple[IpAddress, ...], Field(max_length=ADDITIONAL_ADDRESSES_MAXIMUM)] = ()
    detect_mapping_changes: bool = True
    answer_configuration: bool = True
    dscp: Annotated[Count, Field(le=DSCP_MAXIMUM)] = 0

    def habits(self) -> Habits:
        """As the machine has them."""
        versions = {Version.IPV4: 4, Version.IPV6: 6}
        return Habits(
            initial_group=self.group,
            group_obedience=self.invalid_ke,
            renew_spi=self.renew_spi,
            init_order=self.payload_order.init,
            auth_order=self.payload_order.auth,
            update_order=self.payload_order.update,
            certificate_requests=self.certificate_requests,
            responder_check=self.responder_check,
            early_notifies=self.early_notifies,
            mobike_versions=frozenset(versions[each] for each in self.mobike_over),
            busy_while_moving=self.busy_while_moving,
            refused_update_is_fatal=self.refused_update is UpdateRefusal.FATAL,
            esp_waits_for_response=self.esp_moves is EspMoves.WITH_RESPONSE,
            moves_by_rekey=self.move_without_mobike is MoveWithoutMobike.REKEY,
            probes_before_update=self.probe_before_update,
            always_lists_addresses=self.address_lists is AddressLists.ALWAYS,
            answers_configuration=self.answer_configuration,
        )
