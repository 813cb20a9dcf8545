"""Who a node is (RFC 6733 §5.3), the answers it gives by itself (§6.2, §7) and its message identifiers (§3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocols.diameter.codec import Avp, DiameterMessage, RequestError, Result, answer_to
from protocols.diameter.dictionary import S6B_APPLICATION, SWM_APPLICATION, SWX_APPLICATION, VENDOR_3GPP, ResultCode
from protocols.entropy import Entropy


@dataclass(frozen=True, slots=True)
class Application:
    """An authentication application; ``vendor`` is zero for those of the IETF."""

    identifier: int
    vendor: int = 0


SWM = Application(SWM_APPLICATION, VENDOR_3GPP)
SWX = Application(SWX_APPLICATION, VENDOR_3GPP)
S6B = Application(S6B_APPLICATION, VENDOR_3GPP)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiameterIdentity:
    """Who we are (RFC 6733 §5.3): ``host`` and ``realm`` are DiameterIdentity texts.

    ``served_realms`` are realms besides ``realm`` for which requests are taken. ``origin_state_id`` grows
    with every restart (§8.16), zero leaves the AVP out.
    """

    host: str
    realm: str
    applications: tuple[Application, ...] = (SWM,)
    product_name: str = "ePDG emulator"
    vendor_id: int = 0
    supported_vendors: tuple[int, ...] = (VENDOR_3GPP,)
    served_realms: tuple[str, ...] = ()
    origin_state_id: int = 0

    def origin_avps(self) -> tuple[Avp, ...]:
        """Origin-Host and Origin-Realm."""
        return (Avp.of("Origin-Host", self.host), Avp.of("Origin-Realm", self.realm))

    def state_avps(self) -> tuple[Avp, ...]:
        """Origin-State-Id where it is kept."""
        return (Avp.of("Origin-State-Id", self.origin_state_id),) if self.origin_state_id else ()

    def serves_realm(self, realm: str) -> bool:
        """Whether requests to ``realm`` are for us (RFC 6733 §6.1.4); realms compare without case."""
        return realm.lower() in {name.lower() for name in (self.realm, *self.served_realms)}

    def answer(self, request: DiameterMessage, result: ResultCode, avps: Iterable[Avp] = ()) -> DiameterMessage:
        """An answer of the node itself (RFC 6733 §6.2); ``avps`` follow Origin-Realm."""
        return answer_to(request, origin_host=self.host, origin_realm=self.realm, result=Result.of(result), avps=avps)

    def refusal(self, request: DiameterMessage, error: RequestError, avps: Iterable[Avp] = ()) -> DiameterMessage:
        """An answer with the error, its text and the AVP to blame (RFC 6733 §7.1.5, §7.3, §7.5)."""
        failed = () if error.failed is None else (Avp.of("Failed-AVP", (error.failed,)),)
        return self.answer(request, error.result, (*avps, Avp.of("Error-Message", str(error)), *failed))


class IdentifierSource:
    """Hop-by-Hop and End-to-End Identifiers (RFC 6733 §3), one source for all connections of a node."""

    def __init__(self, entropy: Entropy, *, wall: float) -> None:
        self._hop_by_hop = int.from_bytes(entropy.octets(4), "big")
        low = int.from_bytes(entropy.octets(4), "big") & 0xFFFFF
        self._end_to_end = (int(wall) & 0xFFF) << 20 | low

    def hop_by_hop(self) -> int:
        """The next Hop-by-Hop Identifier: counts up from a random start."""
        self._hop_by_hop = (self._hop_by_hop + 1) & 0xFFFFFFFF
        return self._hop_by_hop

    def end_to_end(self) -> int:
        """The next End-to-End Identifier: counts up from time and random octets."""
        self._end_to_end = (self._end_to_end + 1) & 0xFFFFFFFF
        return self._end_to_end
