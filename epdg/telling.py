"""What happens to a session, in one plain sentence each; ``who`` is the IMSI, else the NAI."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from epdg.commands import Tell
from epdg.refusals import WITHOUT_END
from protocols.ikev2.admission import TurnedAway
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    Closed,
    ConfigurationExchanged,
    CreateChildSaRefused,
    Established,
    IdentityReceived,
    PeerRedirected,
    Refused,
)
from protocols.path import Address, Path
from protocols.threegpp.backoff import DEACTIVATED

DROPS = {
    "bad_icv": "with a wrong ICV",
    "replayed": "which had come before",
    "bad_selector": "outside the traffic selectors",
    "malformed": "which were malformed",
    "too_big": "too big for the tunnel",
}
"""Counters of ``ChildSaCounters``, in words."""


def attach_requested(event: IdentityReceived, nai: str, apn: str | None, *, emergency: bool) -> Tell:
    """A UE presents itself."""
    wanted = "an emergency session" if emergency else f"APN {apn or '(default)'}"
    return Tell(
        name="attach-requested",
        text=f"{nai} asks for {wanted} from {event.path.remote}.",
        data={
            "nai": nai,
            "apn": apn,
            "remote": str(event.path.remote),
            "authentication": event.authentication.value,
            "emergency": emergency,
        },
    )


def turned_away(request: TurnedAway) -> Tell:
    """An IKE_SA_INIT request made no SA."""
    return Tell(
        name="turned-away",
        text=f"IKE_SA_INIT from {request.path.remote} made no IKE SA: {request.text}.",
        data={
            "remote": str(request.path.remote),
            "spi_i": request.spi_i.hex(),
            "reason": request.reason,
            "text": request.text,
            "facts": dict(request.facts),
        },
    )


def attached(
    event: Established, who: str, imsi: str | None, apn: str | None, addresses: tuple[Address, ...], seconds: float
) -> Tell:
    """It is up."""
    inner = ", ".join(map(str, addresses))
    return Tell(
        name="attached",
        text=f"{who} is attached to {apn} with {inner} from {event.path.remote}.",
        data={
            "imsi": imsi,
            "apn": apn,
            "inner_address": inner,
            "remote": str(event.path.remote),
            "seconds": round(seconds, 6),
            "mobike": event.mobike,
            "nat": event.nat.remote,
        },
    )


def moved(event: AddressesUpdated) -> Tell:
    """The UE is elsewhere, or goes to another address of ours."""
    went = f"moved from {event.old.remote} to {event.new.remote}"
    if event.old == event.new:
        went = f"says again that it is at {event.new.remote}"
    elif event.old.remote == event.new.remote:
        went = f"at {event.new.remote} goes to {event.new.local} now, no longer to {event.old.local}"
    return Tell(
        name="moved",
        text=f"The UE {went}"
        + (" behind a NAT" if event.nat.remote else "")
        + ("; the address was checked." if event.validated else "."),
        data={
            "old": str(event.old.remote),
            "new": str(event.new.remote),
            "nat": event.nat.remote,
            "validated": event.validated,
        },
    )


def not_moved(event: AddressUpdateFailed, seconds: float) -> Tell:
    """It stays where it was; ``seconds`` since it began to move."""
    return Tell(
        name="address-update-failed",
        text=f"The UE stays at {event.old.remote}; {event.new.remote} was not adopted: {event.why}.",
        data={
            "old": str(event.old.remote),
            "new": str(event.new.remote),
            "why": event.why,
            "seconds": round(seconds, 3),
        },
    )


def unchecked(new: Path, why: str) -> Tell:
    """The UE takes it for a move, and the address was neither adopted nor found wanting."""
    return Tell(
        name="address-update-unchecked",
        text=f"That the UE is at {new.remote} was never checked: {why}.",
        data={"new": str(new.remote), "why": why},
    )


def redirected(event: PeerRedirected, who: str) -> Tell:
    """It was told to go to another gateway."""
    text = f"{who} was told to go to the gateway {event.gateway} ({event.stage.value})."
    return Tell(name="redirected", text=text, data={"gateway": str(event.gateway), "stage": event.stage.value})


def restored(event: ConfigurationExchanged, who: str) -> Tell:
    """It was told of other P-CSCFs."""
    servers = ", ".join(dict.fromkeys(str(ip_address(attribute.value)) for attribute in event.attributes))
    text = f"{who} was told to use P-CSCF {servers}."
    return Tell(name="p-cscf-restored", text=text, data={"p_cscf": servers, "confirmed": bool(event.answer)})


def rekey_refused(event: CreateChildSaRefused, who: str) -> Tell:
    """A CREATE_CHILD_SA came to nothing."""
    cause, end = event.notify.type.name, "the UE" if event.by_peer else "the gateway"
    return Tell(
        name="rekey-refused",
        text=f"For {event.what} of {who} {end} said {cause}.",
        data={
            "cause": cause,
            "what": event.what,
            "by_peer": event.by_peer,
            "again": event.again_at is not None,
            "reason": event.reason,
            "facts": dict(event.facts),
        },
    )


def refused(event: Refused, who: str, cause: str, back_off: float | None) -> Tell:
    """There is no session; ``back_off``: how long the UE is to wait, infinite without an end."""
    end = "The UE refused" if event.by_peer else "Refused"
    return Tell(
        name="refused",
        text=f"{end} {who or 'an unknown UE'}: {event.text.rstrip('.')}.",
        data={
            "cause": cause,
            "text": event.text,
            "by_peer": event.by_peer,
            "back_off": WITHOUT_END if back_off == DEACTIVATED else back_off,
            "reason": event.reason,
            "facts": dict(event.facts),
        },
    )


def dropped(carried: Mapping[str, int], who: str) -> list[Tell]:
    """What the gateway took from the UE and dropped; ``carried``: the counters of all child SAs of the session."""
    told: list[Tell] = []
    for reason, words in DROPS.items():
        count = carried.get(reason, 0)
        if count:
            text = f"ESP packets of {who} that were dropped: {count}, {words}."
            taken = carried.get("inbound_packets", 0)
            told.append(
                Tell(name="esp-dropped", text=text, data={"reason": reason, "count": count, "inbound_packets": taken})
            )
    return told


def gone(event: Closed, who: str, *, was_attached: bool, ending: str, granted: int | None) -> Tell:
    """It is over. ``ending``: who or what ended it, empty where the IKE SA did; ``granted``: seconds that are over."""
    return Tell(
        name="detached" if was_attached else "attach-ended",
        text=f"{who or 'An unknown UE'} is gone: {event.why}.",
        data={
            "why": event.why,
            "by_peer": event.by_peer,
            "ending": ending,
            "granted": granted,
        },
    )
