"""What the UE's EAP peer and device say, as trace records and as the views of the control interface."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from protocols.dataplane.observation import children_view, ike_view, path_view
from protocols.dataplane.port import ChildSaCounters
from protocols.eap.observation import eap_body
from protocols.ikev2.sa import IkeSa
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind
from ue.connection import Connection, Move
from ue.device import Device
from ue.selection import Selection

INTERFACE = "SWu"


# --- EAP ----------------------------------------------------------------------------------------------


def record_eap(recorder: Recorder, octets: bytes, *, direction: str, peer: str, session: str) -> None:
    """An EAP packet inside IKE_AUTH (RFC 7296 §2.16)."""
    if not recorder.enabled:
        return
    body = eap_body(octets, direction=direction, interface=INTERFACE, peer=peer)
    recorder.record(Kind.MESSAGE, body, session)


# --- views --------------------------------------------------------------------------------------------


def session_view(
    device: Device,
    connection: Connection,
    sa: IkeSa | None,
    counters: Callable[[bytes], ChildSaCounters | None],
    wall: Callable[[float], float],
    *,
    inner_device: JsonValue,
    gateway: str | None,
    session: str,
) -> dict[str, JsonValue]:
    """The connection as the control interface shows it; nothing in it is secret. ``wall`` tells wall clock."""
    return {
        "id": session or None,
        "state": device.state.value,
        "imsi": device.imsi.digits,
        "nai": device.nai,
        "apn": device.apn,
        "access": connection.access,
        "open_accesses": list(device.open_accesses),
        "inner_addresses": [str(address) for address in connection.addresses],
        "device": inner_device,
        "handover": None
        if not connection.previous
        else {"previous": [str(address) for address in connection.previous], "kept": connection.handed_over},
        "dns": [str(address) for address in connection.dns],
        "p_cscf": [str(address) for address in connection.p_cscf],
        "application_version": connection.granted.application_version,
        "supported_attributes": list(connection.granted.supported_attributes),
        "liveness_period": connection.granted.liveness_period,
        "created": wall(connection.started),
        "established": None if connection.established is None else wall(connection.established),
        "ended": None if connection.ended is None else wall(connection.ended),
        "gateway": gateway,
        "selection": _selection_view(connection.selection),
        "eap": connection.authentication.view(),
        "ike": None if sa is None else ike_view(sa, wall),
        "child_sas": [] if sa is None else children_view(sa, counters, wall),
        "paths": [
            {
                **path_view(use.path),
                "access": use.access,
                "since": wall(use.since),
                "until": None if use.until is None else wall(use.until),
                "why": use.why,
                "validated": True,
            }
            for use in connection.paths
        ],
        "attach": {
            "seconds": connection.attach_interval,
            "requests": connection.attach_requests,
            "retransmissions": connection.attach_retransmissions,
        },
        "moves": [move_view(move, wall) for move in connection.moves],
        "emergency_support": connection.emergency_support,
        "back_off": None
        if device.back_off is None
        else {
            "cause": device.back_off.cause,
            "until": wall(device.back_off.until) if isfinite(device.back_off.until) else None,
        },
        "last_error": None
        if connection.last_error is None
        else {"cause": connection.last_error[0], "text": connection.last_error[1]},
    }


def _selection_view(selection: Selection | None) -> JsonValue:
    """The gateway that was selected and why, and those that were not."""
    if selection is None:
        return None
    candidate = selection.candidate
    rejected: list[JsonValue] = [
        {"gateway": each.what, "outcome": each.outcome, "why": each.why} for each in selection.decisions
    ]
    return {"gateway": None if candidate is None else candidate.view(), "rejected": rejected}


def move_view(move: Move, wall: Callable[[float], float]) -> dict[str, JsonValue]:
    """A move and its measures; ``started`` is wall clock, ``update_seconds`` until the gateway's answer."""
    return {
        "from": move.origin,
        "to": move.target,
        "outcome": move.outcome.value,
        "why": move.why,
        "started": wall(move.started),
        "update_seconds": move.update_interval,
        "requests": move.requests,
        "retransmissions": move.retransmissions,
        "old": path_view(move.old),
        "new": None if move.new is None else path_view(move.new),
        "nat": None if move.nat is None else {"local": move.nat.local, "remote": move.nat.remote},
        "kept_old": not move.closed_old,
        "inner_address_unchanged": move.inner_address_unchanged,
        "spis_unchanged": move.spis_unchanged,
    }
