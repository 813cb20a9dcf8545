"""A move where MOBIKE was not negotiated: the child SAs are rekeyed from the new address, as Android does it.

Nothing in RFC 7296 says so: its addresses are those that the SA was set up with, unless a NAT changes them (§2.23).
A gateway that follows takes the source of a rekey for the peer's new address; another one's answer goes to the old
address, and the SA ends with the retransmissions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import AddressUpdateFailed, AddressUpdateStarted
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.tasks import child
from protocols.ikev2.tasks.mobike import mobility
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class RekeyFromThere(RekeyChild):
    """The rekey of one child SA, from the path that the SA has moved to."""

    def __init__(self, inbound_spi: bytes, old: Path, new: Path) -> None:
        super().__init__(inbound_spi)
        self._from = old
        self._to = new

    def made(self, sa: IkeSa, new: child.ChildSa, lowest: bytes, now: float) -> None:
        """The gateway has answered there; everything of this IKE SA follows."""
        super().made(sa, new, lowest, now)
        if sa.path == self._to != sa.mobility.validated:
            mobility.adopt(sa, self._to)
            mobility.move_children(sa, self._to)
            sa.emit(mobility.updated(sa, self._from, validated=True))

    def refused(self, sa: IkeSa, notify: NotifyPayload, now: float) -> None:
        """The gateway does not rekey, and so does not move."""
        super().refused(sa, notify, now)
        if sa.path == self._to != sa.mobility.validated:
            why = f"the gateway refused the rekey from there: {notify.type.name}"
            sa.emit(AddressUpdateFailed(old=self._from, new=self._to, why=why))


def start(sa: IkeSa, path: Path, now: float) -> None:
    """Send from ``path`` and rekey every child SA from there."""
    old = sa.mobility.esp_path or sa.path
    sa.emit(AddressUpdateStarted(old=old, new=path, nat=sa.nat))
    sa.change_path(path, now)
    for spi, one in list(sa.children.items()):
        if not one.replaced and not one.closing:
            sa.enqueue(RekeyFromThere(spi, old, path))
