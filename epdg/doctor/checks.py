"""The list of checks, in the order in which they are shown."""

from __future__ import annotations

from epdg.config import EpdgConfiguration
from epdg.doctor import configured, machine
from epdg.doctor.finding import Check, Finding, Situation

CHECKS: tuple[Check, ...] = (
    machine.data_plane,
    machine.ports,
    machine.buffers,
    machine.tun,
    machine.raw_sockets,
    machine.nftables,
    machine.forwarding,
    configured.egress,
    configured.diameter_peers,
    configured.diameter_tls,
    configured.certificates,
    machine.clock,
    machine.control,
)


def examine(configuration: EpdgConfiguration | None) -> list[Finding]:
    """Every check's findings; without a configuration those of the machine alone."""
    situation = Situation.of(configuration)
    return [finding for check in CHECKS for finding in check(situation)]
