"""Loses IKE messages of a kind: the laboratory reads what it carries, with the keys that its nodes export.

Exchanges that their header tells need no key; INFORMATIONAL requests are opened, and a response is of the kind
of its request. A fragmented message is known by its header alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lab.mobility.schedule import MessageKind
from protocols.entropy import SeededEntropy
from protocols.errors import StackError
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import HEADER_LENGTH, Header, Message, decode_header
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import EncryptionId, ExchangeType, IntegrityId, KeGroup, NotifyType, PrfId
from protocols.ikev2.sealer import Sealer
from protocols.ikev2.suites import IkeSuite
from protocols.secret import Secret
from protocols.trace.keys import IkeKeysRecord
from protocols.trace.records import Kind, TraceRecord

NON_ESP_MARKER = bytes(4)  # RFC 3948 §2.2
KEEPALIVE_LENGTH = 1  # §2.3
KEPT_EXCHANGES = 64  # a response comes soon, or its request again

_BY_EXCHANGE = {
    ExchangeType.IKE_SA_INIT: "ike-sa-init",
    ExchangeType.IKE_AUTH: "ike-auth",
    ExchangeType.CREATE_CHILD_SA: "create-child-sa",
}
NAT_DETECTION = (NotifyType.NAT_DETECTION_SOURCE_IP, NotifyType.NAT_DETECTION_DESTINATION_IP)

Exchange = tuple[bytes, bytes, int, bool]
"""SPIs, Message ID, whether the original initiator asked."""


@dataclass(kw_only=True)
class _Order:
    kind: MessageKind
    left: int
    access: str | None


class MessageLosses:
    """What is to be lost, and what kind the datagrams are that pass by."""

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self._orders: list[_Order] = []
        self._sealers: dict[tuple[bytes, bytes], tuple[Sealer, Sealer]] = {}
        self._exchanges: dict[Exchange, str] = {}

    def learn(self, record: TraceRecord) -> None:
        """Take the keys of an IKE SA from a trace."""
        if record.kind is not Kind.KEYS or record.body.get("table") != "ikev2":
            return
        keys = IkeKeysRecord.of(record.body)
        spis = keys.spi_i, keys.spi_r
        if spis not in self._sealers:
            self._sealers[spis] = _sealer(keys, original_initiator=True), _sealer(keys, original_initiator=False)

    def order(self, kind: MessageKind, count: int, access: str | None) -> None:
        """Lose the next ``count`` messages of a kind."""
        self._orders.append(_Order(kind=kind, left=count, access=access))

    def takes(self, octets: bytes, access: str) -> bool:
        """Whether this UDP payload is lost; counted if so."""
        if not self._orders and len(octets) != KEEPALIVE_LENGTH and not _may_be_ike(octets):
            return False  # ESP, of which there is much
        name = self._name(octets)
        if name is None:
            return False
        for order in self._orders:
            if order.access in (None, access) and order.kind.value in (name, MessageKind.ANY.value):
                order.left -= 1
                if not order.left:
                    self._orders.remove(order)
                self.lost[order.kind.value] += 1
                return True
        return False

    def _name(self, octets: bytes) -> str | None:
        """The value of the ``MessageKind`` that it is, another word for other messages, ``None`` for no message."""
        if not _may_be_ike(octets):
            return None if len(octets) == KEEPALIVE_LENGTH else MessageKind.ESP.value
        body = octets[len(NON_ESP_MARKER) :] if octets.startswith(NON_ESP_MARKER) else octets
        try:
            header = decode_header(body)
        except StackError:
            return MessageKind.ESP.value
        asked = header.original_initiator is not header.response
        exchange = (header.spi_i, header.spi_r, header.message_id, asked)
        if header.response:
            what = _BY_EXCHANGE.get(header.exchange) or self._exchanges.get(exchange, "other")
            return f"{what}-response"
        what = _BY_EXCHANGE.get(header.exchange) or self._request(body, header)
        self._exchanges[exchange] = what
        if len(self._exchanges) > KEPT_EXCHANGES:
            del self._exchanges[next(iter(self._exchanges))]
        return f"{what}-request"

    def _request(self, body: bytes, header: Header) -> str:
        sealers = self._sealers.get((header.spi_i, header.spi_r))
        if sealers is None:
            return "other"
        as_initiator, as_responder = sealers
        try:
            message = (as_responder if header.original_initiator else as_initiator).open(body, header)
        except StackError:
            return "other"
        return _word(message)


def _word(message: Message) -> str:
    if message.notify(NotifyType.UPDATE_SA_ADDRESSES) is not None:
        return "update"
    if message.notify(NotifyType.COOKIE2) is not None:
        return "cookie2"
    asks = all(isinstance(each, NotifyPayload) and each.type in NAT_DETECTION for each in message.payloads)
    return "liveness" if asks else "other"  # checks look for NATs as well (RFC 4555 §3.8)


def _may_be_ike(octets: bytes) -> bool:
    """By its length and version: cheap, since every packet of ESP is asked."""
    start = len(NON_ESP_MARKER) if octets.startswith(NON_ESP_MARKER) else 0
    return len(octets) >= start + HEADER_LENGTH and octets[start + 17] == 0x20


def _sealer(keys: IkeKeysRecord, *, original_initiator: bool) -> Sealer:
    """Only opens: PRF, group and what derives from SK_d and SK_p are not asked for."""
    suite = IkeSuite(
        encryption=EncryptionId[keys.encryption],
        encryption_key_bits=keys.encryption_key_bits,
        integrity=None if keys.integrity is None else IntegrityId[keys.integrity],
        prf=PrfId.PRF_HMAC_SHA2_256,
        group=KeGroup.CURVE25519,
    )
    none = Secret(b"")
    ike_keys = IkeKeys(
        sk_d=none,
        sk_ai=Secret(keys.sk_ai),
        sk_ar=Secret(keys.sk_ar),
        sk_ei=Secret(keys.sk_ei),
        sk_er=Secret(keys.sk_er),
        sk_pi=none,
        sk_pr=none,
    )
    return Sealer(suite, ike_keys, original_initiator, SeededEntropy(0))
