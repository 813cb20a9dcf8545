"""IKE_INTERMEDIATE (RFC 9242) and the additional key exchanges of an initial IKE SA (RFC 9370 §2.2.2).

::

    HDR(IKE_SA_INIT), SAi1(.. ADDKE* ..), KEi, Ni, N(INTERMEDIATE_EXCHANGE_SUPPORTED)  -->
                      <--  HDR(IKE_SA_INIT), SAr1(.. ADDKE* ..), KEr, Nr, N(INTERMEDIATE_EXCHANGE_SUPPORTED)
    HDR(IKE_INTERMEDIATE), SK {KEi(1)}  -->
                      <--  HDR(IKE_INTERMEDIATE), SK {KEr(1)}             once for each ADDKE that was chosen, in order
    HDR(IKE_AUTH), SK {..}  -->

Each exchange goes under the keys that the one before it made. AUTH of both ends covers them all. How many
there are is known when IKE_SA_INIT is over; without additional key exchanges there is none. Left out: other
uses of the exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import LocalError, NegotiationError, RemoteError
from protocols.ikev2.config import IkeConfig, ResponderConfig
from protocols.ikev2.events import SaState
from protocols.ikev2.keymat import derive_updated_ike_keys, int_auth_content
from protocols.ikev2.message import Header, Message, encode_header
from protocols.ikev2.payloads import KePayload, NotifyPayload, Payload, Proposal, encode_payloads
from protocols.ikev2.registry import ExchangeType, KeGroup, NotifyType, PayloadType
from protocols.ikev2.suites import EspSuite, IkeSuite, KeyExchange, Prf
from protocols.ikev2.task import Response, Task
from protocols.ikev2.tasks import auth
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa
    from protocols.ikev2.sealer import MessageSealer


class Exchanges:
    """What an IKE SA keeps of its IKE_INTERMEDIATE exchanges: those to come, IntAuth of those that were."""

    def __init__(self) -> None:
        self._methods: tuple[KeGroup, ...] = ()
        self._int_auth_i = b""
        self._int_auth_r = b""
        self._done = 0
        self._shared = b""
        self._retired: MessageSealer | None = None

    @property
    def method(self) -> KeGroup | None:
        """The key exchange method whose turn it is."""
        return self._methods[0] if self._methods else None

    def begin(self, suite: IkeSuite) -> SaState:
        """IKE_SA_INIT is over; the state that follows it."""
        self._methods = methods(suite)
        return SaState.INTERMEDIATE if self._methods else SaState.HALF_OPEN

    def keep(self, shared: bytes) -> None:
        """The responder's secret of the exchange whose response goes under the old keys."""
        self._shared = shared

    def completed(self, sa: IkeSa, request: bytes, response: bytes, shared: bytes | None = None) -> None:
        """Extend IntAuth of both ends with what their messages contained, then update the keys.

        §3.3.2: SK_p are those "available before the corresponded IKE_INTERMEDIATE exchange is started".
        """
        suite, keys = sa.established_keys()
        prf = Prf.of(suite.prf)
        self._int_auth_i = prf(keys.sk_pi.reveal(), self._int_auth_i + request)
        self._int_auth_r = prf(keys.sk_pr.reveal(), self._int_auth_r + response)
        self._done += 1
        self._methods = self._methods[1:]
        self._retired = sa.sealer
        secret, self._shared = (self._shared if shared is None else shared), b""
        nonces = (sa.nonce_i, sa.nonce_r)
        sa.adopt_keys(suite, derive_updated_ike_keys(suite, keys, secret, *nonces, sa.spi_i, sa.spi_r))

    def int_auth(self) -> bytes:
        """IntAuth_iN | IntAuth_rN | IKE_AUTH_MID; nothing when there was no exchange (§3.3.2)."""
        if self._done == 0:
            return b""
        return self._int_auth_i + self._int_auth_r + (self._done + 1).to_bytes(4, "big")

    def sealer_of(self, message: Header | Message) -> MessageSealer | None:
        """What protected the last of the exchanges, if the message is the original initiator's request of it."""
        theirs = message.original_initiator and not message.response and message.message_id <= self._done
        return self._retired if theirs else None


class Intermediate:
    """The initiator's task of one additional key exchange; ``then`` comes after the last one."""

    exchange = ExchangeType.IKE_INTERMEDIATE

    def __init__(self, then: Task) -> None:
        self._then = then
        self._key_exchange: KeyExchange | None = None
        self._payloads: tuple[Payload, ...] = ()

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """KEi(n)."""
        method = sa.intermediate.method
        if method is None:
            raise LocalError("no additional key exchange is left")
        self._key_exchange = KeyExchange.generate(method, sa.entropy)
        self._payloads = (KePayload(group=method, data=self._key_exchange.public),)
        return self._payloads

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """KEr(n): update the keys and go on."""
        auth.raise_on_error(sa, message)
        exchange, ke = self._key_exchange, message.first(KePayload)
        if exchange is None:
            raise LocalError("IKE_INTERMEDIATE response before the request")
        shared = exchange.shared(checked(ke, exchange.group).data)
        request = Message(
            spi_i=sa.spi_i,
            spi_r=sa.spi_r,
            exchange=self.exchange,
            original_initiator=True,
            response=False,
            message_id=message.message_id,
            payloads=self._payloads,
        )
        sa.intermediate.completed(sa, content(request), message.authenticated, shared)
        if sa.intermediate.method is None:
            sa.enter(SaState.HALF_OPEN, "all additional key exchanges are done")
        proceed(sa, self._then, now)


def process_request(sa: IkeSa, message: Message) -> Response:
    """The responder's side; the keys change once the response is sealed (``answered``)."""
    method = sa.intermediate.method
    if method is None:
        raise LocalError("no additional key exchange is left")
    ke = checked(message.first(KePayload), method)
    public, shared = KeyExchange.respond(method, ke.data, sa.entropy)
    sa.intermediate.keep(shared)
    return Response(payloads=(KePayload(group=method, data=public),))


def answered(sa: IkeSa, request: Message, response: Message, now: float) -> None:
    """The responder's response is on its way: everything after it goes under new keys."""
    sa.intermediate.completed(sa, request.authenticated, content(response))
    if isinstance(sa.config, ResponderConfig):
        sa.timers.arm_setup(now, sa.config.half_open_lifetime)  # at most seven times: the number of exchanges
    if sa.intermediate.method is None:
        sa.enter(SaState.HALF_OPEN, "all additional key exchanges are done")


def proceed(sa: IkeSa, then: Task, now: float) -> None:
    """The next additional key exchange, or what comes after the last (RFC 9242 §3.2: sequential, before IKE_AUTH)."""
    sa.initiate(then if sa.intermediate.method is None else Intermediate(then), now)


def content(message: Message) -> bytes:
    """What AUTH covers of an IKE_INTERMEDIATE of ours, before encryption and fragmentation (RFC 9242 §3.3.2)."""
    first, inner = encode_payloads(message.payloads)
    header = encode_header(
        spi_i=message.spi_i,
        spi_r=message.spi_r,
        next_payload=PayloadType.SK,
        exchange=message.exchange,
        original_initiator=message.original_initiator,
        response=message.response,
        message_id=message.message_id,
        length=0,
    )
    return int_auth_content(header + bytes((first, 0, 0, 0)), inner)


# --- for IKE_SA_INIT


def announce(config: IkeConfig) -> tuple[NotifyPayload, ...]:
    """N(INTERMEDIATE_EXCHANGE_SUPPORTED) where the policy has a use for it (RFC 9242 §3.1)."""
    return (NotifyPayload(type=NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED),) if wanted(config) else ()


def wanted(config: IkeConfig) -> bool:
    """Whether a suite of the policy has additional key exchanges."""
    return any(suite.additional for suite in config.ike_policy.suites)


def agreed(config: IkeConfig, message: Message) -> bool:
    """Whether both ends do additional key exchanges; what Notification Data there may be is ignored (§3.1)."""
    return wanted(config) and message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None


def proposals(config: IkeConfig) -> tuple[Proposal, ...]:
    """What the initiator offers: suites with additional key exchanges too, if there are any."""
    return config.ike_policy.proposals(b"", additional=wanted(config))


def check(suite: IkeSuite, message: Message) -> None:
    """A responder that chose additional key exchanges MUST have announced IKE_INTERMEDIATE (RFC 9370 §2.2.1)."""
    if suite.additional and message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is None:
        raise NegotiationError(
            "the responder chose additional key exchanges without IKE_INTERMEDIATE", NotifyType.NO_PROPOSAL_CHOSEN
        )


# --- for all additional key exchanges


def methods(suite: IkeSuite | EspSuite) -> tuple[KeGroup, ...]:
    """The methods of ADDKE1 to ADDKE7 in order, without those where NONE was chosen (RFC 9370 §2.2.2)."""
    return tuple([method for method in suite.additional if method != KeGroup.NONE])


def checked(ke: KePayload | None, method: KeGroup) -> KePayload:
    """The KE payload of the exchange whose turn it is."""
    if ke is None or ke.group != method:
        what = "no KE payload" if ke is None else f"KE of method {int(ke.group)}"
        raise RemoteError(f"{what} where the turn is {method.name}'s", NotifyType.INVALID_SYNTAX)
    return ke
