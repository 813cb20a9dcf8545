"""IKE_SESSION_RESUME and the IKE_AUTH that follows it (RFC 5723 §4.3, §5): an IKE SA from a ticket, without EAP.

::

    HDR, [N(COOKIE),] Ni, N(TICKET_OPAQUE), N(NATD)*  -->
                      <--  HDR, Nr, N(NATD)*              or N(TICKET_NACK): IKE_SA_INIT follows
    SK {IDi, [IDr,] AUTH, CP, SAi2, TSi, TSr, N(TICKET_REQUEST), N(..)}  -->
                      <--  SK {IDr, AUTH, CP, SAr2, TSi, TSr, N(TICKET_LT_OPAQUE), N(..)}
                           or SK {IDr, AUTH, N(REDIRECT)}, or without the child SA (RFC 7296 §2.21.2)

Keys come from the old SK_d and fresh nonces, AUTH is prf(SK_px, octets of RFC 7296 §2.15). Tickets are
granted in ``tickets``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocols.errors import AuthenticationError, LocalError, RemoteError
from protocols.ikev2.events import (
    Answer,
    ConfigurationReply,
    ConfigurationRequested,
    Refusal,
    Resumed,
    SaState,
    TicketRejected,
)
from protocols.ikev2.extension import Step
from protocols.ikev2.keymat import derive_resumed_ike_keys
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import AuthPayload, IdiPayload, IdrPayload, NoncePayload, NotifyPayload, Payload
from protocols.ikev2.registry import AuthMethod, ExchangeType, NotifyType
from protocols.ikev2.suites import IkeSuite, Prf
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import (
    auth,
    beet,
    child,
    childless,
    conclusion,
    config,
    crash_detection,
    init,
    mobike,
    natd,
    redirect,
    tickets,
)
from protocols.ikev2.ticket import ResumableSession, TicketContents
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret

if TYPE_CHECKING:
    from protocols.ikev2.config import InitiatorConfig
    from protocols.ikev2.sa import IkeSa


def opening(settings: InitiatorConfig, path: Path, now: float) -> Resume | init.Init:
    """The first task of an SA: a ticket that has expired, or is another gateway's, MUST NOT be presented (§4.3.1)."""
    session = settings.session
    if session is None or session.expires <= now or session.gateway != path.remote.address:
        return init.Init()
    return Resume(session)


class Resume:
    """The initiator's IKE_SESSION_RESUME; COOKIE makes it start again, a bounded number of times."""

    exchange = ExchangeType.IKE_SESSION_RESUME

    def __init__(self, session: ResumableSession) -> None:
        self._session = session
        self._nonce = b""
        self._cookie: bytes | None = None
        self._attempts = 0

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """Ni and the ticket; NAT detection anew (§4.3.2)."""
        self._nonce = self._nonce or sa.entropy.octets(init.NONCE_LENGTH)
        if sa.state is SaState.INITIAL:
            sa.enter(SaState.INIT_SENT, "IKE_SESSION_RESUME request sent")
        cookie = () if self._cookie is None else (NotifyPayload(type=NotifyType.COOKIE, data=self._cookie),)
        return (
            *cookie,
            NoncePayload(data=self._nonce),
            NotifyPayload(type=NotifyType.TICKET_OPAQUE, data=self._session.ticket),
            *natd.offer(sa, sa.path),
            *sa.fragmentation.announce(),
            *redirect.announce(sa),
            *beet.announce(sa),
            *sa.extension.payloads(Step.INIT_REQUEST),
        )

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Go on with IKE_AUTH, or do what the responder demands."""
        settings = sa.initiator_config
        cookie = message.notify(NotifyType.COOKIE)
        if cookie is not None:
            if not 1 <= len(cookie.data) <= init.COOKIE_LENGTH_MAXIMUM:
                raise RemoteError(f"COOKIE of {len(cookie.data)} octets", NotifyType.INVALID_SYNTAX)
            self._attempts += 1
            if self._attempts > settings.init_retries:
                raise RemoteError("COOKIE demanded again and again")
            self._cookie = cookie.data
            sa.window.restart_initial()
            sa.initiate(self, now, urgent=True)
            return
        if message.notify(NotifyType.TICKET_NACK) is not None:
            # §4.3.2: the initiator should re-initiate a regular IKE exchange
            sa.emit(TicketRejected())
            sa.window.restart_initial()
            sa.initiate(init.Init(), now, urgent=True)
            return
        if redirect.obey_initial(sa, message, now):
            return
        auth.raise_on_error(sa, message)
        nonce = message.first(NoncePayload)
        if nonce is None:
            raise RemoteError("IKE_SESSION_RESUME response without nonce", NotifyType.INVALID_SYNTAX)
        sa.extension.take(Step.INIT_RESPONSE, message)
        childless.note(sa, message)
        sa.spi_r = message.spi_r
        sa.nonce_i, sa.nonce_r = self._nonce, nonce.data
        _derive(sa, self._session.suite, self._session.sk_d)
        beet.note(sa, message)
        sa.fragmentation.agree(message)
        sa.nat = natd.assess(sa, message, path)
        if sa.nat.encapsulation or (settings.mobike and sa.mobility.nat_traversal):  # RFC 7296 §2.23, RFC 4555 §3.3
            sa.path = Path(
                Endpoint(sa.path.local.address, settings.nat_traversal_port),
                Endpoint(sa.path.remote.address, settings.remote_nat_traversal_port),
            )
        sa.mobility.validated = sa.path
        sa.enter(SaState.HALF_OPEN, "IKE_SESSION_RESUME done")
        sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
        sa.initiate(ResumedAuthentication(self._session), now)


class ResumedAuthentication:
    """The initiator's one IKE_AUTH request of a resumed SA (§4.3.3)."""

    exchange = ExchangeType.IKE_AUTH

    def __init__(self, session: ResumableSession) -> None:
        self._session = session
        self._offer: child.Offer | None = None

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """IDi as in the ticket, AUTH from SK_pi, everything else as ever."""
        self._offer = childless.offer(sa)
        identity = self._session.identity
        sa.enter(SaState.AUTHENTICATING, "IKE_AUTH request sent")
        return (
            identity,
            _auth(sa, identity, original_initiator=True),
            *crash_detection.announce(sa),
            *tickets.ask(sa),
            *mobike.announce(sa),
            *config.build_request(sa),
            *(() if self._offer is None else self._offer.payloads()),
            *sa.extension.payloads(Step.IDENTITY_REQUEST),
            *sa.extension.payloads(Step.FINAL_REQUEST),
        )

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """The gateway's AUTH from SK_pr, then what it grants."""
        auth.raise_on_error(sa, message, but=child.refused(message))
        identity = self._session.responder_identity
        _check_identity(message.first(IdrPayload), identity)
        _verify(sa, message, identity, original_initiator=False)
        conclusion.take(sa, message, self._offer, self._session.identity, identity, now)


def process_request(sa: IkeSa, message: Message, datagram: Datagram, now: float) -> Response:
    """The responder's IKE_SESSION_RESUME: a ticket that is not accepted is answered and nothing is kept (§4.3.2)."""
    settings = sa.responder_config
    ticket, nonce = message.notify(NotifyType.TICKET_OPAQUE), message.first(NoncePayload)
    if ticket is None or nonce is None or settings.tickets is None:
        raise RemoteError("IKE_SESSION_RESUME without ticket or nonce", NotifyType.INVALID_SYNTAX)
    sa.spi_i = message.spi_i
    try:
        contents = settings.tickets.open(ticket.data)
        if contents.suite not in settings.ike_policy.suites:
            raise RemoteError(f"the policy has no {contents.suite} any more")
    except RemoteError as error:
        return Response(payloads=(NotifyPayload(type=NotifyType.TICKET_NACK),), close=str(error))
    sa.extension.take(Step.INIT_REQUEST, message)
    redirect.note(sa, message)
    sa.nonce_i, sa.nonce_r = nonce.data, sa.entropy.octets(init.NONCE_LENGTH)
    sa.init_request = datagram.payload
    _derive(sa, contents.suite, contents.sk_d)
    sa.resumption.presented = contents
    beet.note(sa, message)
    sa.fragmentation.agree(message)
    sa.nat = natd.assess(sa, message, datagram.path)
    sa.enter(SaState.HALF_OPEN, "IKE_SESSION_RESUME answered")
    sa.timers.arm_setup(now, settings.half_open_lifetime)
    return Response(
        payloads=(
            NoncePayload(data=sa.nonce_r),
            *natd.offer(sa, datagram.path),
            *(sa.fragmentation.announce() if sa.fragmentation.negotiated else ()),
            *childless.announce(sa),
            *beet.announce(sa),
            *sa.extension.payloads(Step.INIT_RESPONSE),
        )
    )


class ResumedAuthenticator:
    """The responder's side of that IKE_AUTH: no EAP, but the configuration is asked for anew (§5)."""

    def __init__(self, sa: IkeSa, contents: TicketContents, message: Message) -> None:
        self._contents = contents
        self._child = childless.request(sa, message)
        self._mobike = mobike.announced(message)

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> Response | None:
        """Complete the response."""
        if isinstance(answer, Refusal):
            auth.report_refusal(sa, answer.text, answer.notify)
            return Response(payloads=(answer.notify, *answer.beside), close=answer.text)
        if not isinstance(answer, ConfigurationReply):
            raise LocalError(f"{type(answer).__name__} does not answer a resumption")
        contents = self._contents
        identity = contents.responder_identity
        sa.mobility.negotiated = sa.config.mobike and self._mobike
        office = sa.responder_config.tickets
        if office is not None:
            office.use(contents)  # §4.3.1: used once an SA is established with it
        proof = _auth(sa, identity, original_initiator=False)
        return conclusion.grant(sa, self._child, answer, contents.identity, identity, (identity, proof), now)


def process_auth(sa: IkeSa, message: Message, now: float) -> None:
    """The responder's IKE_AUTH of a resumed SA: who presents the ticket must know its keys (§4.3.3)."""
    contents, office = sa.resumption.presented, sa.responder_config.tickets
    if contents is None or office is None:
        raise LocalError("no ticket was presented")
    _check_identity(message.first(IdiPayload), contents.identity)
    asked = message.first(IdrPayload)
    _check_identity(asked or contents.responder_identity, contents.responder_identity)
    _verify(sa, message, contents.identity, original_initiator=True)
    if office.is_spent(contents):
        raise AuthenticationError("the ticket was used meanwhile", NotifyType.AUTHENTICATION_FAILED)
    authenticator = ResumedAuthenticator(sa, contents, message)
    mobike.take_announcement(sa, message)
    tickets.note(sa, message)
    sa.extension.take(Step.IDENTITY_REQUEST, message)
    sa.extension.take(Step.FINAL_REQUEST, message)
    sa.enter(SaState.AUTHENTICATING, "IKE_AUTH request received")
    sa.timers.arm_setup(now, sa.responder_config.setup_lifetime)
    sa.deferred = authenticator
    sa.resumption.supersedes = True
    sa.emit(Resumed(identity=contents.identity, former_spi_i=contents.spi_i, former_spi_r=contents.spi_r))
    sa.emit(
        ConfigurationRequested(
            identity=contents.identity,
            responder_identity=contents.responder_identity,
            configuration=config.requested(message),
            resumed=contents.data,
        )
    )


def superseded(sa: IkeSa, sas: Mapping[bytes, IkeSa]) -> IkeSa | None:
    """The former SA of one just resumed, if it is still there: SHOULD be deleted in silence (§4.3.4)."""
    contents = sa.resumption.presented
    if contents is None or not sa.resumption.supersedes:
        return None
    sa.resumption.supersedes = False
    former = sas.get(contents.spi_r)
    if former is None or former.spi_i != contents.spi_i:
        return None
    former.resumption.superseded = True
    return former


def _derive(sa: IkeSa, suite: IkeSuite, old_sk_d: Secret) -> None:
    sa.adopt_keys(suite, derive_resumed_ike_keys(suite, old_sk_d, sa.nonce_i, sa.nonce_r, sa.spi_i, sa.spi_r))


def _auth_data(sa: IkeSa, identity: IdiPayload | IdrPayload, *, original_initiator: bool) -> bytes:
    """AUTH = prf(SK_px, octets) (§4.3.3): a shared key's, without its padding."""
    suite, keys = sa.established_keys()
    key = keys.sk_pi if original_initiator else keys.sk_pr
    octets = auth.signed_octets(sa, identity, original_initiator=original_initiator)
    return Prf.of(suite.prf)(key.reveal(), octets)


def _auth(sa: IkeSa, identity: IdiPayload | IdrPayload, *, original_initiator: bool) -> AuthPayload:
    data = _auth_data(sa, identity, original_initiator=original_initiator)
    return AuthPayload(method=AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE, data=data)


def _verify(sa: IkeSa, message: Message, identity: IdiPayload | IdrPayload, *, original_initiator: bool) -> None:
    payload = message.first(AuthPayload)
    expected = _auth_data(sa, identity, original_initiator=original_initiator)
    right = payload is not None and payload.method == AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE
    if payload is None or not right or Secret(payload.data) != Secret(expected):
        raise AuthenticationError("the AUTH payload does not verify with the ticket", NotifyType.AUTHENTICATION_FAILED)


def _check_identity(got: IdiPayload | IdrPayload | None, wanted: IdiPayload | IdrPayload) -> None:
    """§4.3.3: IDi and IDr MUST be identical to the values included in the ticket."""
    if got != wanted:
        raise AuthenticationError("an identity differs from the ticket's", NotifyType.AUTHENTICATION_FAILED)
