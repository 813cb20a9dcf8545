"""BEET mode for a child SA, asked for as strongSwan does: by a private Notify that its Vendor ID gives a meaning.

::

    HDR, SAi1, KEi, Ni, V  -->
                      <--  HDR, SAr1, KEr, Nr, V
    SK {.., N(USE_BEET_MODE), SAi2, TSi, TSr}  -->
                      <--  SK {.., N(USE_BEET_MODE), SAr2, TSi, TSr}

Without the Notify in the answer the child SA is in tunnel mode, as it is with USE_TRANSPORT_MODE (RFC 7296 §1.3.1).
The selectors have to come down to one host on each side (RFC 7402 appendix B). A rekey keeps the mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import NegotiationError
from protocols.esp import beet
from protocols.esp.sa import EspMode
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, VendorIdPayload
from protocols.ikev2.registry import NotifyType
from protocols.selectors import TrafficSelector

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

VENDOR_ID = bytes.fromhex("882fe56d6fd20dbc2251613b2ebe5beb")  # MD5 of "strongSwan"
USE_BEET_MODE = NotifyType.of(40961)  # of private use (RFC 7296 §3.10.1); 3GPP has it too, in INFORMATIONAL
Selectors = tuple[TrafficSelector, ...]


def announce(sa: IkeSa) -> tuple[VendorIdPayload, ...]:
    """V in IKE_SA_INIT: of an initiator that may ask, of a responder that has been told and may agree."""
    wanted = sa.config.beet and (sa.first_initiator or sa.beet_understood)
    return (VendorIdPayload(VENDOR_ID),) if wanted else ()


def note(sa: IkeSa, message: Message) -> None:
    """Whether the peer gives the Notify the meaning that it has here."""
    sa.beet_understood = any(payload.data == VENDOR_ID for payload in message.all(VendorIdPayload))


def ask(mode: EspMode) -> tuple[NotifyPayload, ...]:
    """N(USE_BEET_MODE) in a request for a child SA in that mode, and in the answer that agrees."""
    return (NotifyPayload(type=USE_BEET_MODE),) if mode is EspMode.BEET else ()


def wish(sa: IkeSa, remote: Selectors) -> EspMode:
    """What an initiator asks for: its own address is not known before the response."""
    return EspMode.BEET if sa.config.beet and beet.host_of(remote) is not None else EspMode.TUNNEL


def asked_for(message: Message) -> bool:
    """Whether a request asks for it, or an answer agrees."""
    return message.notify(USE_BEET_MODE) is not None


def agree(sa: IkeSa, asked: bool, local: Selectors, remote: Selectors, before: EspMode | None = None) -> EspMode:
    """The responder's choice for the narrowed selectors; ``before``: the mode of the child SA that is rekeyed."""
    allowed = before is EspMode.BEET or (sa.config.beet and sa.beet_understood)
    return EspMode.BEET if asked and allowed and beet.fits(local, remote) else EspMode.TUNNEL


def agreed(message: Message, asked: EspMode, local: Selectors, remote: Selectors) -> EspMode:
    """The mode that a response grants; a Notify that nobody asked for means nothing."""
    if asked is EspMode.TUNNEL or not asked_for(message):
        return EspMode.TUNNEL
    if not beet.fits(local, remote):
        raise NegotiationError("BEET mode for more than one host on a side", NotifyType.TS_UNACCEPTABLE)
    return EspMode.BEET
