"""MOBIKE (RFC 4555; design: RFC 4621): a move is a transaction. This page is the table of contents.

============  ============================================================================================
mobility      where an SA is, which addresses both ends have; how child SAs follow
negotiation   MOBIKE_SUPPORTED (§3.2), addresses in IKE_AUTH (§3.4)
prohibition   NO_NATS_ALLOWED (§3.9)
update        UPDATE_SA_ADDRESSES, both ends (§3.5): pending, newest wins, refusals
check         COOKIE2 to a new address or on demand (§3.7), roll-back, the second chance of a path given up
addresses     ADDITIONAL_IP4/IP6_ADDRESS and NO_ADDITIONAL_ADDRESSES, both ends (§3.4, §3.6)
scouting      an empty request from a new address before the update of addresses, as strongSwan has it (§3.10)
probe         path testing (§3.10), changed NAT mappings (§3.8), hints
following     what moves without an update: ESP behind a NAT (§3.8), peers without MOBIKE (RFC 7296 §2.23)
patience      no address at all (RFC 4621 §5.4), silence that ends nothing (§3.11)
============  ============================================================================================

::

    ue (new address)                                   gateway
    SK {N(UPDATE_SA_ADDRESSES), N(NATD)*}  -->
                          <--  SK {N(NATD)*}            IKE is on the new path, child SAs are not
                          <--  SK {N(COOKIE2)}          its own request, after the response
    SK {N(COOKIE2)}  -->                                now the child SAs follow, all together

No answer to the check in time: IKE returns to the last validated path, where the child SAs still are; the
same request goes on being retransmitted there, a late answer proves nothing, and a fresh check follows. A
newer update supersedes an older one. A wrong COOKIE2 closes the IKE SA (§3.7); TEMPORARY_FAILURE, which a
UE answers while it has not seen our response to its update, postpones the check. By policy the child SAs
follow before the check (``after-update``) or without one (``never``).

Who started the first IKE SA of a series decides about addresses, whoever has rekeyed it since (§1.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import DeletePayload, NotifyPayload, Payload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.tasks import natd
from protocols.ikev2.tasks.mobike.addresses import AnnounceAddresses, set_addresses, take_list
from protocols.ikev2.tasks.mobike.check import check_again, check_expired, demand_check, heard_again
from protocols.ikev2.tasks.mobike.following import esp_heard_from, heard_from, rekeyed_from
from protocols.ikev2.tasks.mobike.mobility import Mobility
from protocols.ikev2.tasks.mobike.negotiation import announce, announced, take_announcement, wanted
from protocols.ikev2.tasks.mobike.patience import held_until, suspend
from protocols.ikev2.tasks.mobike.probe import (
    answered,
    compare_mapping,
    mapping_probe,
    probe_next,
    suspect,
    unanswered,
)
from protocols.ikev2.tasks.mobike.prohibition import nats_prohibited
from protocols.ikev2.tasks.mobike.scouting import ProbeThenUpdate, spread
from protocols.ikev2.tasks.mobike.update import UpdateAddresses, succeed, take_update
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

__all__ = [
    "AnnounceAddresses",
    "Mobility",
    "ProbeThenUpdate",
    "UpdateAddresses",
    "announce",
    "announced",
    "answered",
    "check_again",
    "check_expired",
    "compare_mapping",
    "demand_check",
    "esp_heard_from",
    "heard_again",
    "heard_from",
    "held_until",
    "mapping_probe",
    "probe_next",
    "process_request",
    "rekeyed_from",
    "refused_while_moving",
    "set_addresses",
    "spread",
    "succeed",
    "suspect",
    "suspend",
    "take_announcement",
    "unanswered",
    "wanted",
]

LISTS = (
    NotifyType.ADDITIONAL_IP4_ADDRESS,
    NotifyType.ADDITIONAL_IP6_ADDRESS,
    NotifyType.NO_ADDITIONAL_ADDRESSES,
)


def refused_while_moving(sa: IkeSa, message: Message) -> bool:
    """Whether a request is put off by TEMPORARY_FAILURE because our own update waits for its answer."""
    waits = sa.habits.busy_while_moving and sa.mobility.update is not None
    return waits and message.first(DeletePayload) is None


def process_request(sa: IkeSa, message: Message, path: Path, now: float) -> list[Payload]:
    """What an INFORMATIONAL request has for MOBIKE; COOKIE2 is echoed at any time (§3.7)."""
    # the DELETE of an SA follows a peer that moves meanwhile; one that was replaced moves nothing any more
    leaving = sa.state is SaState.DELETING and sa.heir is None
    active = sa.mobility.negotiated and (sa.state is SaState.ESTABLISHED or leaving)
    # §1.3, §3.5: who started the first IKE SA decides, whoever has rekeyed it since
    update = active and not sa.first_initiator and message.notify(NotifyType.UPDATE_SA_ADDRESSES) is not None
    addresses = active and sa.state is SaState.ESTABLISHED and any(message.notify(kind) is not None for kind in LISTS)
    payloads: list[Payload] = []
    if (update or addresses) and nats_prohibited(message, path):
        # §3.9: nothing is done, and the answer goes where the request came from
        payloads.append(NotifyPayload(type=NotifyType.UNEXPECTED_NAT_DETECTED))
        sa.dropped["unexpected-nat"] += 1
    else:
        if update:
            payloads += take_update(sa, message, path, now)
        elif message.notify(NotifyType.NAT_DETECTION_SOURCE_IP) is not None:
            # a liveness check with NAT detection (§3.8) is answered in kind
            payloads += natd.offer(sa, path)
        if addresses:
            take_list(sa, message, path, now)
    cookie = message.notify(NotifyType.COOKIE2)
    if cookie is not None:
        payloads.append(NotifyPayload(type=NotifyType.COOKIE2, data=cookie.data))
    return payloads
