"""What an IKE SA on SWu says, as trace records: messages in RFC notation, state changes, keys for Wireshark."""

from __future__ import annotations

from protocols.eap.observation import eap_body
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.description import describe
from protocols.ikev2.events import Event, IkeKeysDerived, MessageReceived, MessageSent, StateChanged
from protocols.ikev2.registry import EncryptionId, ExchangeType, IntegrityId
from protocols.ikev2.tasks.beet import USE_BEET_MODE
from protocols.path import Path
from protocols.threegpp.causes import NOTIFY_NAMES
from protocols.threegpp.description import ATTRIBUTE_NAMES, NOTIFY_DATA
from protocols.trace.keys import EspKeysRecord, IkeKeysRecord
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind

# REACTIVATION_REQUESTED_CAUSE has the number of strongSwan's USE_BEET_MODE, and stands in INFORMATIONAL alone
_NAMES_ELSEWHERE = {**NOTIFY_NAMES, int(USE_BEET_MODE): "USE_BEET_MODE"}


def record_ike_event(recorder: Recorder, event: Event, session: str) -> None:
    """Messages, state changes and keys of an IKE SA, for the trace."""
    if not recorder.enabled:
        return
    if isinstance(event, (MessageSent, MessageReceived)):
        recorder.record_later(Kind.MESSAGE, message_body, event, session=session)
    elif isinstance(event, StateChanged):
        recorder.record(
            Kind.STATE,
            {"machine": "ike-sa", "old": event.old.value, "new": event.new.value, "why": event.why},
            session,
        )
    elif isinstance(event, IkeKeysDerived):
        keys, suite = event.keys, event.suite
        record = IkeKeysRecord(
            spi_i=event.spi_i,
            spi_r=event.spi_r,
            sk_ei=keys.sk_ei.reveal(),
            sk_er=keys.sk_er.reveal(),
            sk_ai=keys.sk_ai.reveal(),
            sk_ar=keys.sk_ar.reveal(),
            encryption=EncryptionId(suite.encryption).name,
            encryption_key_bits=suite.encryption_key_bits,
            integrity=None if suite.integrity is None else IntegrityId(suite.integrity).name,
        )
        recorder.record(Kind.KEYS, record.to_body(), session)


def message_body(event: MessageSent | MessageReceived) -> dict[str, JsonValue]:
    """The body of a ``message`` record on SWu; ``detail.payloads`` has every payload, decoded and in octets."""
    message = event.message
    names = NOTIFY_NAMES if message.exchange == ExchangeType.INFORMATIONAL else _NAMES_ELSEWHERE
    fragments = {} if event.fragments == 1 else {"fragments": event.fragments}
    return {
        "protocol": "ikev2",
        "direction": "out" if isinstance(event, MessageSent) else "in",
        "interface": "SWu",
        "peer": str(event.path.remote),
        "name": message.name,
        "summary": message.summary(names),
        "detail": {
            "spi_i": message.spi_i.hex(),
            "spi_r": message.spi_r.hex(),
            "message_id": message.message_id,
            "local": str(event.path.local),
            "remote": str(event.path.remote),
            **fragments,
            "payloads": describe(
                message, notify_names=names, notify_data=NOTIFY_DATA, attribute_names=ATTRIBUTE_NAMES, eap=_eap
            ),
        },
        "retransmission": event.retransmission,
    }


def _eap(octets: bytes) -> JsonValue:
    body = eap_body(octets, direction="", interface="SWu", peer="")
    return {"name": body["name"], "detail": body["detail"]}


def record_esp_keys(recorder: Recorder, spec: ChildSaSpec, path: Path, session: str) -> None:
    """Both directions of a child SA on a path: a new row on every move."""
    if not recorder.enabled or not recorder.export_keys:
        return
    integrity = None if spec.suite.integrity is None else IntegrityId(spec.suite.integrity).name
    encryption = EncryptionId(spec.suite.encryption).name
    for spi, source, destination, key, integrity_key in (
        (spec.inbound_spi, path.remote, path.local, spec.inbound_encryption_key, spec.inbound_integrity_key),
        (spec.outbound_spi, path.local, path.remote, spec.outbound_encryption_key, spec.outbound_integrity_key),
    ):
        record = EspKeysRecord(
            spi=spi,
            source=source,
            destination=destination,
            encryption=encryption,
            encryption_key=key.reveal(),
            integrity=integrity,
            integrity_key=integrity_key.reveal(),
        )
        recorder.record(Kind.KEYS, record.to_body(), session)
