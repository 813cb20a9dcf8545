"""A session of the gateway as the control interface shows it."""

from __future__ import annotations

from collections.abc import Callable

from epdg.session import Session
from protocols.dataplane.port import ChildSaCounters
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.sa import IkeSa
from protocols.path import Path
from protocols.trace.records import JsonValue


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
        "inner_addresses": [str(address) for address in session.inner_addresses],
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
        "authorisation": None if session.authorisation is None else session.authorisation.view(),
        "device_identity": session.device_identity,
        "emergency": session.emergency,
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
        "mode": spec.mode.value,
        "counters": None if counters is None else dict(vars(counters)),
    }


def path_view(path: Path) -> dict[str, JsonValue]:
    """A path as two end points."""
    return {"local": str(path.local), "remote": str(path.remote)}
