"""SWu of a fleet: the UEs share the sockets of an access, but each is deaf on those that it has left.

A UE of its own closes the sockets of an access when it leaves it: the gateway's requests to it (a return-routability
check of the former address, a liveness check of a UE that is suspended) find nobody.
"""

from __future__ import annotations

from lab.fleet.figures import FleetFigures
from lab.fleet.member import FleetPdn
from protocols.path import Datagram
from ue.swu import Swu


class FleetSwu(Swu):
    """As ``Swu``; what comes where its UE is not is counted and not heard."""

    figures: FleetFigures  # set by whoever makes it

    def receive_ike(self, datagram: Datagram) -> None:
        """As ``Swu``."""
        owner = self.owner_by_spi(datagram.payload)
        if isinstance(owner, FleetPdn) and not owner.listens(datagram.path.local):
            self.figures.stray_ike += 1
            return
        super().receive_ike(datagram)
