"""What the device tells people of attaches, moves and refusals: events with one plain sentence and their data."""

from __future__ import annotations

from protocols.ikev2.events import Closed, CreateChildSaRefused
from protocols.path import Endpoint, Path
from protocols.threegpp.causes import notify_name
from protocols.threegpp.identity import Imsi
from protocols.trace.records import JsonValue
from ue.commands import Tell
from ue.connection import Connection, Move, MoveOutcome


def attached(connection: Connection, path: Path, imsi: Imsi, apn: str) -> Tell:
    """The UE is attached, with the measures of that."""
    addresses = ", ".join(map(str, connection.addresses))
    only = "" if connection.only_allowed is None else f"; the network allows only IPv{connection.only_allowed}"
    return Tell(
        name="attached",
        text=f"Attached to {apn} on {connection.access} with {addresses} "
        f"after {(connection.attach_interval or 0.0) * 1000:.0f} ms{only}.",
        data={
            "imsi": imsi.digits,
            "apn": apn,
            "access": connection.access,
            "inner_addresses": [str(address) for address in connection.addresses],
            "local": str(path.local),
            "seconds": round(connection.attach_interval or 0.0, 6),
            "requests": connection.attach_requests,
            "retransmissions": connection.attach_retransmissions,
            "mobike": connection.mobike,
            "nat": connection.nat.local,
            "eap": connection.authentication.view(),
            "handed_over": connection.handed_over,
        },
    )


def not_handed_over(connection: Connection, apn: str) -> Tell:
    """The gateway did not give the addresses that the UE came with: what went through them is lost."""
    wanted = ", ".join(map(str, connection.previous))
    given = ", ".join(map(str, connection.addresses))
    return Tell(
        name="not-handed-over",
        text=f"The gateway did not keep {wanted} of {apn}: it gave {given}, so nothing was handed over.",
        data={
            "apn": apn,
            "wanted": [str(address) for address in connection.previous],
            "given": [str(address) for address in connection.addresses],
        },
    )


def unfinished(connection: Connection, gateway: Endpoint | None, event: Closed) -> str:
    """Why an attach ended without a refusal, at this gateway."""
    if event.by_peer:
        return f"the gateway ended the attach: {event.why}"
    requests, retransmissions = connection.counts
    sent = requests + retransmissions
    if requests > 1:
        return f"the gateway {gateway} fell silent during the attach: {event.why}"
    times = "once" if sent == 1 else f"{sent} times"
    return f"no response from the gateway {gateway}, asked {times} on {connection.access}"


def silence_facts(connection: Connection, gateway: Endpoint | None, event: Closed) -> dict[str, JsonValue]:
    """The same for programs; ``requests`` are those that had not been sent before."""
    requests, retransmissions = connection.counts
    return {
        "gateway": None if gateway is None else str(gateway),
        "access": connection.access,
        "requests": requests,
        "retransmissions": retransmissions,
        "why": event.why,
    }


def rekey_refused(event: CreateChildSaRefused) -> Tell:
    """One end did not want a rekey or another child SA."""
    cause = notify_name(int(event.notify.type))
    who = "the gateway" if event.by_peer else "the UE"
    data: dict[str, JsonValue] = {
        "cause": cause,
        "what": event.what,
        "by_peer": event.by_peer,
        "again": event.again_at is not None,
        "reason": event.reason,
        "facts": dict(event.facts),
    }
    return Tell(name="rekey-refused", text=f"For {event.what} {who} said {cause}.", data=data)


def nat_changed(connection: Connection) -> Tell:
    """A NAT has appeared on the path in use, or vanished from it."""
    behind = connection.nat.local
    text = f"{'There is a NAT now' if behind else 'There is no NAT any more'} on the way from {connection.access}."
    return Tell(name="nat-changed", text=text, data={"access": connection.access, "nat": behind})


def moved(move: Move, now: float) -> Tell:
    """A move has ended, well or not, with its measures."""
    data: dict[str, JsonValue] = {
        "from": move.origin,
        "to": move.target,
        "old": str(move.old.local),
        "new": None if move.new is None else str(move.new.local),
        "seconds": round(now - move.started, 6),
        "requests": move.requests,
        "retransmissions": move.retransmissions,
        "why": move.why,
        "asked": move.ticket is not None,
    }
    if move.outcome is not MoveOutcome.COMPLETED:
        return Tell(name="move-failed", text=f"The move to {move.target} failed: {move.why}.", data=data)
    nat = move.nat is not None and move.nat.local
    data.update(nat=nat, inner_address_unchanged=move.inner_address_unchanged, spis_unchanged=move.spis_unchanged)
    kept = "inner address and SPIs unchanged"
    if not move.inner_address_unchanged:
        kept = "the inner address has changed"
    elif not move.spis_unchanged:
        kept = "inner address unchanged, the child SA was rekeyed meanwhile"
    return Tell(
        name="moved",
        text=f"Moved from {move.origin} to {move.target}{' behind a NAT' if nat else ''} "
        f"in {(move.update_interval or 0.0) * 1000:.0f} ms; {kept}.",
        data=data,
    )
