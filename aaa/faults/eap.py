"""The wrapper around the EAP server's options: it lets pass what a rule does to vectors on purpose.

The server itself refuses a vector for EAP-AKA' without the AMF separation bit (RFC 9048 §3.3); while a rule clears
the bit of a subscriber's vectors it must not, or the UE would never see one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aaa.eap import EapService
from aaa.faults.table import FaultTable
from protocols.eap.aka.server import ServerOptions
from protocols.threegpp.identity import Imsi


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyEap(EapService):
    """The service under the rules of ``table``."""

    table: FaultTable

    def options_for(self, imsi: Imsi | None, apn: str | None) -> ServerOptions:
        """What holds for a subscriber at an APN."""
        options = EapService.options_for(self, imsi, apn)
        if imsi is None or not self.table.clears_amf_bit(str(imsi), apn):
            return options
        return replace(options, separation_bit=False)
