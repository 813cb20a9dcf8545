"""An IKE SA and its child SAs as the control interfaces of both ends show them; nothing in it is secret.

``wall`` makes wall clock of the machines' monotonic time, both in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from protocols.dataplane.port import ChildSaCounters
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks.child import ChildSa
from protocols.ikev2.timing import Timer
from protocols.path import Path
from protocols.trace.records import JsonValue

Wall = Callable[[float], float]


def ike_view(sa: IkeSa, wall: Wall) -> dict[str, JsonValue]:
    """The IKE SA without its child SAs."""
    return {
        "spi_i": sa.spi_i.hex(),
        "spi_r": sa.spi_r.hex(),
        "suite": None if sa.suite is None else sa.suite.name,
        "nat": {"local": sa.nat.local, "remote": sa.nat.remote},
        "mobike": sa.mobility.negotiated,
        "path": path_view(sa.path),
        "state": sa.state.value,
        "requests_sent": sa.window.requests_sent,
        "retransmissions_sent": sa.window.retransmissions_sent,
        "lifetime": _lifetime_view(sa.timers.get(Timer.IKE_REKEY), sa.timers.get(Timer.IKE_EXPIRY), wall),
    }


def children_view(sa: IkeSa, counters: Callable[[bytes], ChildSaCounters | None], wall: Wall) -> list[JsonValue]:
    """Its child SAs, each with what ``counters`` tells of its inbound SPI."""
    return [_child_view(child, counters(child.spec.inbound_spi), wall) for child in sa.children.values()]


def _child_view(child: ChildSa, counters: ChildSaCounters | None, wall: Wall) -> dict[str, JsonValue]:
    spec = child.spec
    return {
        "inbound_spi": spec.inbound_spi.hex(),
        "outbound_spi": spec.outbound_spi.hex(),
        "suite": spec.suite.name,
        "local_selectors": [str(selector) for selector in spec.local_selectors],
        "remote_selectors": [str(selector) for selector in spec.remote_selectors],
        "path": path_view(spec.path),
        "encapsulation": spec.encapsulation,
        "mode": spec.mode.value,
        "counters": counters_view(counters),
        "lifetime": _lifetime_view(child.rekey_at, child.expires_at, wall),
    }


def _lifetime_view(rekey_at: float | None, expires_at: float | None, wall: Wall) -> dict[str, JsonValue]:
    """When it is to be rekeyed and when it ends (RFC 7296 §2.8), to the second; ``None``: never by itself."""
    return {
        "rekey_at": None if rekey_at is None else float(round(wall(rekey_at))),
        "expires_at": None if expires_at is None else float(round(wall(expires_at))),
    }


def counters_view(counters: ChildSaCounters | None) -> dict[str, JsonValue] | None:
    """A child SA's counters by name."""
    return None if counters is None else dict(asdict(counters))


def path_view(path: Path) -> dict[str, JsonValue]:
    """A path as two end points."""
    return {"local": str(path.local), "remote": str(path.remote)}
