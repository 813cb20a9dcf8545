"""What the gateway's IKE SAs say, as trace records and as the session view of the control interface."""

from __future__ import annotations

from collections.abc import Callable

from epdg.session import Session
from protocols.dataplane.port import ChildSaCounters
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.events import (
    Event,
    IkeKeysDerived,
    MessageReceived,
    MessageSent,
    StateChanged,
)
from protocols.ikev2.registry import EncryptionId, IntegrityId
from protocols.ikev2.sa import IkeSa
from protocols.path import Path
from protocols.threegpp.causes import NOTIFY_NAMES
from protocols.trace.keys import EspKeysRecord, IkeKeysRecord
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind


def record_ike_event(recorder: Recorder, event: Event, session: str) -> None:
    """Messages, state changes and keys of an IKE SA, for the trace."""
    if isinstance(event, (MessageSent, MessageReceived)):
        message = event.message
        recorder.record(
            Kind.MESSAGE,
            {
                "protocol": "ikev2",
                "direction": "out" if isinstance(event, MessageSent) else "in",
                "interface": "SWu",
                "peer": str(event.path.remote),
                "name": message.name,
                "summary": message.summary(NOTIFY_NAMES),
                "detail": {
                    "spi_i": message.spi_i.hex(),
                    "spi_r": message.spi_r.hex(),
                    "message_id": message.message_id,
                    "local": str(event.path.local),
                    "remote": str(event.path.remote),
                },
                "retransmission": event.retransmission,
            },
            session,
        )
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


def record_esp_keys(recorder: Recorder, spec: ChildSaSpec, path: Path, session: str) -> None:
    """Both directions of a child SA on a path: a new row on every move."""
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


def session_view(
    session: Session,
    sa: IkeSa,
    counters: Callable[[bytes], ChildSaCounters | None],
    *,
    gateway: str,
    diameter_session_id: str | None,
) -> dict[str, JsonValue]:
    """One session as the control interface shows it; nothing in it is secret."""

    children: list[JsonValue] = [
        child_view(child.spec, counters(child.spec.inbound_spi)) for child in sa.children.values()
    ]
    return {
        "id": session.identifier,
        "state": session.state.value,
        "imsi": session.imsi,
        "nai": session.nai,
        "apn": session.apn,
        "inner_addresses": [] if session.inner_address is None else [str(session.inner_address)],
        "created": session.created,
        "established": session.established,
        "gateway": gateway,
        "ike": {
            "spi_i": sa.spi_i.hex(),
            "spi_r": sa.spi_r.hex(),
            "suite": None if sa.suite is None else sa.suite.name,
            "nat": {"local": sa.nat.local, "remote": sa.nat.remote},
            "mobike": sa.mobility.negotiated,
            "path": path_view(sa.path),
            "state": sa.state.value,
            "requests_sent": sa.window.requests_sent,
            "retransmissions_sent": sa.window.retransmissions_sent,
        },
        "child_sas": children,
        "paths": [
            {
                **path_view(use.path),
                "since": use.since,
                "until": use.until,
                "why": use.why,
                "validated": use.validated,
            }
            for use in session.paths
        ],
        "diameter_session_id": diameter_session_id,
        "session_timeout": session.session_timeout,
        "last_error": None
        if session.last_error is None
        else {"cause": session.last_error[0], "text": session.last_error[1]},
    }


def child_view(spec: ChildSaSpec, counters: ChildSaCounters | None) -> dict[str, JsonValue]:
    """One child SA."""
    return {
        "inbound_spi": spec.inbound_spi.hex(),
        "outbound_spi": spec.outbound_spi.hex(),
        "suite": spec.suite.name,
        "local_selectors": [str(selector) for selector in spec.local_selectors],
        "remote_selectors": [str(selector) for selector in spec.remote_selectors],
        "path": path_view(spec.path),
        "encapsulation": spec.encapsulation,
        "counters": None if counters is None else dict(vars(counters)),
    }


def path_view(path: Path) -> dict[str, JsonValue]:
    """A path as two end points."""
    return {"local": str(path.local), "remote": str(path.remote)}
