"""A session of the gateway as the control interface shows it."""

from __future__ import annotations

from collections.abc import Callable

from epdg.session import Session
from protocols.dataplane.observation import children_view, ike_view, path_view
from protocols.dataplane.port import ChildSaCounters
from protocols.ikev2.sa import IkeSa
from protocols.trace.records import JsonValue


def session_view(
    session: Session,
    sa: IkeSa,
    counters: Callable[[bytes], ChildSaCounters | None],
    wall: Callable[[float], float],
    *,
    gateway: str,
    diameter_session_id: str | None,
) -> dict[str, JsonValue]:
    """One session as the control interface shows it; nothing in it is secret. ``wall`` tells wall clock."""
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
        "ike": ike_view(sa, wall),
        "child_sas": children_view(sa, counters, wall),
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
