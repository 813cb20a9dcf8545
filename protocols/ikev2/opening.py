"""From a datagram for an IKE SA to an authentic message (RFC 7296 §2.5, §2.21.4; RFC 7383 §2.6).

IKE_SA_INIT goes unprotected; everything else has to be opened by the SA's sealer, whole or in fragments.
An error with a notify is about an authentic message that does not parse; about others nothing is said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocols.errors import DecodeError
from protocols.ikev2.events import SaState
from protocols.ikev2.fragment import find_encrypted, find_fragment
from protocols.ikev2.message import Header, Message, decode_message
from protocols.ikev2.registry import INITIAL_EXCHANGES, PayloadType
from protocols.ikev2.sealer import MessageSealer
from protocols.ikev2.window import Received
from protocols.path import Datagram

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class UnprotectedMessage(DecodeError):
    """A message that anybody may have sent, where protection was due (§2.21.4)."""

    def __init__(self, message: Message) -> None:
        super().__init__("the message is not protected")
        self.message = message


def open_datagram(sa: IkeSa, header: Header, datagram: Datagram, now: float) -> Received | None:
    """The message; ``None`` while fragments are missing or when a fragment is dropped and counted."""
    octets = datagram.payload
    if header.exchange in INITIAL_EXCHANGES:
        if not header.response and sa.state is not SaState.INITIAL and octets != sa.init_request:
            raise DecodeError("an unprotected request is taken as a retransmission only")
        return Received(message=_decode_unprotected(octets), path=datagram.path)
    sealer = sa.sealer_for(header)
    if sealer is None:
        raise DecodeError("protected message before keys")
    try:
        kind, _, _ = find_encrypted(octets, header.next_payload)
    except DecodeError as error:
        raise UnprotectedMessage(_decode_unprotected(octets)) from error
    if kind == PayloadType.SKF:
        return _open_fragment(sa, sealer, header, datagram, now)
    message = sealer.open(octets, header)
    sa.fragmentation.whole(header)
    return Received(message=message, path=datagram.path)


def repeats_answered(sa: IkeSa, header: Header, octets: bytes) -> bool:
    """Whether this is, authentically, a request that was answered (its first fragment, RFC 7383 §2.6.1)."""
    sealer = sa.sealer_for(header)
    if header.response or sealer is None or sa.window.answer_to(header.message_id) is None:
        return False
    if find_encrypted(octets, header.next_payload)[0] == PayloadType.SKF:
        return sealer.open_fragment(octets, header).number == 1
    sealer.open(octets, header)
    return True


def _open_fragment(sa: IkeSa, sealer: MessageSealer, header: Header, datagram: Datagram, now: float) -> Received | None:
    """A message once it is whole; fragment 1 stands for a request that comes again (RFC 7383 §2.6.1)."""
    place = find_fragment(datagram.payload, header.next_payload)
    why = sa.fragmentation.objection(header, place, sa.window, now)
    if why is not None:
        sa.dropped[why] += 1
        return None
    part = sealer.open_fragment(datagram.payload, header)
    known = None if header.response else sa.window.known_request(header.message_id)
    if known is not None:
        return replace(known, path=datagram.path)
    return sa.fragmentation.add(header, part, datagram, now)


def _decode_unprotected(octets: bytes) -> Message:
    try:
        return decode_message(octets)
    except DecodeError as error:
        raise DecodeError(str(error)) from error  # without the notify: nobody is known to have sent this
