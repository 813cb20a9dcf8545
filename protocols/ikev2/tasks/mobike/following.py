"""What moves without UPDATE_SA_ADDRESSES (RFC 4555 §3.8, RFC 7296 §2.23), at the end that is not behind a NAT.

With MOBIKE IKE packets move nothing; authentic, replay-fresh ESP of a peer behind a NAT may move where ESP
is sent (``follow_esp``), and IKE stays until the peer finds out by its liveness check. Without MOBIKE new
authentic packets of a peer behind a NAT move everything (§2.23), and the rekey of a peer that has no NAT
does (``move_by_rekey``): Android rekeys from its new address when a gateway has no MOBIKE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import EspFollowed, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import TsiPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.tasks.mobike.mobility import adopt, move_children, updated, usable
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


def esp_heard_from(sa: IkeSa, inbound_spi: bytes, path: Path, now: float) -> bool:
    """ESP passed ICV and replay check on another path; whether what we send follows it."""
    mobility = sa.mobility
    here = mobility.esp_path
    if sa.state is not SaState.ESTABLISHED or inbound_spi not in sa.children or here is None:
        return False
    if not sa.config.follow_esp or sa.first_initiator or sa.nat.local or not sa.nat.remote:
        return False
    if mobility.in_doubt or path in (here, mobility.failed) or path.local.address != here.local.address:
        return False  # a move that is being checked, or was found wanting, is not decided by ESP
    if not usable(path.remote.address) or path.remote.port == 0:
        return False
    old = here
    if mobility.negotiated:
        mobility.followed = path
        move_children(sa, path)
        sa.emit(EspFollowed(old=old, new=path))
    else:
        _go(sa, path, now)
    return True


def heard_from(sa: IkeSa, path: Path, now: float) -> None:
    """A new authentic IKE message came on ``path``; only without MOBIKE does that mean anything (§2.23)."""
    if sa.mobility.negotiated or sa.state is not SaState.ESTABLISHED or path == sa.path:
        return
    if sa.config.follow_esp and not sa.first_initiator and sa.nat.remote and not sa.nat.local:
        _go(sa, path, now)


def rekeyed_from(sa: IkeSa, message: Message, path: Path, now: float) -> None:
    """A CREATE_CHILD_SA request that rekeys came on ``path``: where MOBIKE was not negotiated, it is a move."""
    if sa.mobility.negotiated or sa.first_initiator or sa.state is not SaState.ESTABLISHED or path == sa.path:
        return
    rekeys = message.notify(NotifyType.REKEY_SA) is not None or message.first(TsiPayload) is None
    if rekeys and sa.responder_config.move_by_rekey and usable(path.remote.address):
        _go(sa, path, now)


def _go(sa: IkeSa, path: Path, now: float) -> None:
    """Everything is sent on ``path`` from now on; a peer without MOBIKE cannot be asked for COOKIE2."""
    old = sa.path
    sa.change_path(path, now)
    adopt(sa, path)
    move_children(sa, path)
    sa.emit(updated(sa, old, validated=False))
