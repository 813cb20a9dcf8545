"""IKE_SA_INIT (RFC 7296 §1.2, §2.6, §2.7, §2.23): suites, Diffie-Hellman, nonces, COOKIE, NAT detection.

::

    HDR, [N(COOKIE),] SAi1, KEi, Ni, N(NATD)*  -->
                      <--  HDR, SAr1, KEr, Nr, [CERTREQ,] N(NATD)*

The responder keeps nothing of a request that it refuses; COOKIE is demanded by ``endpoint`` before an
``IkeSa`` exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from protocols.entropy import Entropy
from protocols.errors import LocalError, NegotiationError, RemoteError
from protocols.ikev2.certificates import Requested
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.events import SaState
from protocols.ikev2.extension import Step
from protocols.ikev2.habits import GroupObedience, arranged
from protocols.ikev2.keymat import derive_ike_keys
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import KePayload, NoncePayload, NotifyPayload, Payload, Proposal, SaPayload
from protocols.ikev2.proposals import IkePolicy, check_answer_ike, select_ike
from protocols.ikev2.registry import ExchangeType, HashAlgorithmId, KeGroup, NotifyType, TransformType
from protocols.ikev2.signatures import decode_hash_algorithms, encode_hash_algorithms
from protocols.ikev2.spi import NO_SPI
from protocols.ikev2.suites import KEY_EXCHANGES, IkeSuite, KeyExchange, Prf
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import auth, beet, childless, ike_auth, intermediate, mobike, natd, redirect
from protocols.path import Datagram, Endpoint, Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

NONCE_LENGTH = 32  # §2.10: at least half the PRF's key, 16 to 256 octets
COOKIE_LENGTH_MAXIMUM = 64  # §2.6
HASHES = encode_hash_algorithms()


class Init:
    """The initiator's task; COOKIE and INVALID_KE_PAYLOAD make it start again, a bounded number of times."""

    exchange = ExchangeType.IKE_SA_INIT

    def __init__(self, generate: Callable[[KeGroup, Entropy], KeyExchange] = KeyExchange.generate) -> None:
        """``generate`` makes our private values; another than the default replays a known run."""
        self._generate = generate
        self._key_exchange: KeyExchange | None = None
        self._nonce = b""
        self._cookie: bytes | None = None
        self._attempts = 0

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """Offer every suite of the policy, with a key of its first group unless the peer asked for another."""
        config = sa.initiator_config
        if self._key_exchange is None:
            group = config.habits.initial_group or config.ike_policy.suites[0].group
            self._key_exchange = self._generate(group, sa.entropy)
            self._nonce = sa.entropy.octets(NONCE_LENGTH)
        if sa.state is SaState.INITIAL:
            sa.enter(SaState.INIT_SENT, "IKE_SA_INIT request sent")
            sa.timers.arm_setup(now, config.init_patience)
        cookie = () if self._cookie is None else (NotifyPayload(type=NotifyType.COOKIE, data=self._cookie),)
        payloads: tuple[Payload, ...] = (
            SaPayload(proposals=intermediate.proposals(config)),
            KePayload(group=self._key_exchange.group, data=self._key_exchange.public),
            NoncePayload(data=self._nonce),
            *natd.offer(sa, sa.path),
            *sa.fragmentation.announce(),
            *intermediate.announce(config),
            NotifyPayload(type=NotifyType.SIGNATURE_HASH_ALGORITHMS, data=HASHES),
            *redirect.announce(sa),
            *beet.announce(sa),
            *sa.extension.payloads(Step.INIT_REQUEST),
        )
        return (*cookie, *arranged(payloads, config.habits.init_order))  # §2.6: COOKIE first

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Take the responder's choice, or do what it demands first."""
        config = sa.initiator_config
        if path in config.initial_paths:
            sa.path = path  # RFC 4555 §3.1: the pair that works
        cookie = message.notify(NotifyType.COOKIE)
        if cookie is not None:
            if not 1 <= len(cookie.data) <= COOKIE_LENGTH_MAXIMUM:
                raise RemoteError(f"COOKIE of {len(cookie.data)} octets", NotifyType.INVALID_SYNTAX)
            self._cookie = cookie.data
            self._again(sa, "COOKIE demanded again and again", now)
            return
        invalid_ke = message.notify(NotifyType.INVALID_KE_PAYLOAD)
        if invalid_ke is not None:
            self._change_group(sa, invalid_ke, config)
            if config.habits.renew_spi:
                sa.renew_spi()
                self._cookie = None  # it was for the other SPI
            self._again(sa, "INVALID_KE_PAYLOAD again and again", now)
            return
        if redirect.obey_initial(sa, message, now):
            return
        auth.raise_on_error(sa, message)
        offered, ke, nonce = message.first(SaPayload), message.first(KePayload), message.first(NoncePayload)
        if offered is None or ke is None or nonce is None:
            raise RemoteError("IKE_SA_INIT response without SA, KE or nonce", NotifyType.INVALID_SYNTAX)
        if len(offered.proposals) != 1:
            raise NegotiationError("the responder must choose one proposal", NotifyType.NO_PROPOSAL_CHOSEN)
        suite = check_answer_ike(intermediate.proposals(config), offered.proposals[0])
        intermediate.check(suite, message)
        exchange = self._exchange()
        if ke.group != exchange.group or suite.group != exchange.group:
            raise NegotiationError("the responder's KE is of another group", NotifyType.INVALID_SYNTAX)
        if message.spi_r == NO_SPI:
            raise RemoteError("the responder accepts with an SPI of zero", NotifyType.INVALID_SYNTAX)  # §2.6
        check_nonce(suite, nonce)
        if nonce.data == self._nonce or ke.data == exchange.public:
            raise RemoteError("our own nonce or public value came back", NotifyType.INVALID_SYNTAX)
        sa.extension.take(Step.INIT_RESPONSE, message)
        childless.note(sa, message)
        sa.spi_r = message.spi_r
        sa.nonce_i, sa.nonce_r = self._nonce, nonce.data
        derive(sa, suite, exchange.shared(ke.data))
        sa.peer_hashes = signature_hashes(message)
        beet.note(sa, message)
        sa.fragmentation.agree(message)
        sa.nat = natd.assess(sa, message, path)
        # RFC 7296 §2.23 (a NAT was found) and RFC 4555 §3.3 (we want MOBIKE): go on from port 4500
        if sa.nat.encapsulation or (mobike.wanted(sa) and sa.mobility.nat_traversal):
            sa.path = Path(
                Endpoint(sa.path.local.address, config.nat_traversal_port),
                Endpoint(sa.path.remote.address, config.remote_nat_traversal_port),
            )
        sa.mobility.validated = sa.path
        sa.timers.arm_setup(now, None)
        sa.enter(sa.intermediate.begin(suite), "IKE_SA_INIT done")
        sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
        intermediate.proceed(sa, ike_auth.Authentication(Requested.of(message)), now)

    def _exchange(self) -> KeyExchange:
        if self._key_exchange is None:
            raise LocalError("IKE_SA_INIT response before the request")
        return self._key_exchange

    def _again(self, sa: IkeSa, why: str, now: float) -> None:
        self._attempts += 1
        if self._attempts > sa.initiator_config.init_retries:
            raise RemoteError(why, reason="init-again", facts={"why": why, "times": self._attempts})
        sa.window.restart_initial()
        sa.initiate(self, now, urgent=True)

    def _change_group(self, sa: IkeSa, notify: NotifyPayload, config: InitiatorConfig) -> None:
        """Obey only a group that we offered (§2.7), never the one just sent.

        The Notify may be forged, and name the weakest group offered: what a group is worth is for the policy
        to say. A genuine responder that prefers another asks for it again, and may have it again.
        """
        group = int.from_bytes(notify.data, "big") if len(notify.data) == 2 else -1
        obedience = config.habits.group_obedience
        if obedience is GroupObedience.ANY and group in KEY_EXCHANGES:
            # CVE-2024-20069: what was not offered is offered now
            further = tuple(replace(suite, group=KeGroup(group)) for suite in config.ike_policy.suites)
            policy = IkePolicy(tuple(dict.fromkeys((*config.ike_policy.suites, *further))))
            sa.config = config = replace(config, ike_policy=policy)
        proposals = intermediate.proposals(config)
        holding = [any(each.id == group for each in one.of_type(TransformType.KE)) for one in proposals]
        offered = all(holding) if obedience is GroupObedience.EVERY_PROPOSAL else any(holding)
        if not offered or group == self._exchange().group:
            raise NegotiationError(
                f"INVALID_KE_PAYLOAD asks for group {group}, which was not offered",
                NotifyType.NO_PROPOSAL_CHOSEN,
                reason="ke-group",
                facts={
                    "asked": _group_text(group),
                    "sent": _group_text(self._exchange().group),
                    "obeys": obedience.value,
                    "offered": [_group_text(each) for each in _groups(proposals)],
                },
            )
        self._key_exchange = self._generate(KeGroup(group), sa.entropy)


def _groups(proposals: tuple[Proposal, ...]) -> list[int]:
    return list(dict.fromkeys(int(each.id) for one in proposals for each in one.of_type(TransformType.KE)))


def _group_text(group: int) -> str:
    return "no group" if group < 0 else f"group {group} ({KeGroup.of(group).name})"


def try_elsewhere(sa: IkeSa, attempt: int) -> None:
    """RFC 4555 §3.1: "SHOULD try various source and destination address combinations when retransmitting".

    Each retransmission goes to one more pair, beside the one that was asked for.
    """
    pairs = sa.initiator_config.initial_paths
    if pairs:
        sa.repeat_on(pairs[(attempt - 1) % len(pairs)])


def process_request(sa: IkeSa, message: Message, datagram: Datagram, now: float) -> Response:
    """The responder's side: choose, compute, answer; the SA is half open afterwards."""
    config = sa.responder_config
    offered, ke, nonce = message.first(SaPayload), message.first(KePayload), message.first(NoncePayload)
    if offered is None or ke is None or nonce is None:
        raise RemoteError("IKE_SA_INIT request without SA, KE or nonce", NotifyType.INVALID_SYNTAX)
    sa.spi_i = message.spi_i
    additional = intermediate.agreed(config, message)
    answer, suite = select_ike(offered.proposals, config.ike_policy, additional=additional)
    if ke.group != suite.group:
        # RFC 7296 §1.2: name the group we chose; nothing is kept
        group = NotifyPayload(type=NotifyType.INVALID_KE_PAYLOAD, data=int(suite.group).to_bytes(2, "big"))
        why = f"KE of group {int(ke.group)}, group {int(suite.group)} was asked for"
        return Response(payloads=(group,), close=why)
    check_nonce(suite, nonce)
    sa.extension.take(Step.INIT_REQUEST, message)
    redirect.note(sa, message)
    public, shared = KeyExchange.respond(suite.group, ke.data, sa.entropy)
    sa.nonce_i, sa.nonce_r = nonce.data, sa.entropy.octets(NONCE_LENGTH)
    sa.init_request = datagram.payload
    derive(sa, suite, shared)
    sa.peer_hashes = signature_hashes(message)
    beet.note(sa, message)
    sa.fragmentation.agree(message)
    sa.nat = natd.assess(sa, message, datagram.path)
    sa.enter(sa.intermediate.begin(suite), "IKE_SA_INIT answered")
    sa.timers.arm_setup(now, config.half_open_lifetime)
    return Response(
        payloads=(
            SaPayload(proposals=(answer,)),
            KePayload(group=suite.group, data=public),
            NoncePayload(data=sa.nonce_r),
            *auth.certificate_requests(sa),
            *natd.offer(sa, datagram.path),
            *(sa.fragmentation.announce() if sa.fragmentation.negotiated else ()),
            *(intermediate.announce(config) if additional else ()),
            NotifyPayload(type=NotifyType.SIGNATURE_HASH_ALGORITHMS, data=HASHES),
            *childless.announce(sa),
            *beet.announce(sa),
            *sa.extension.payloads(Step.INIT_RESPONSE),
        )
    )


def check_nonce(suite: IkeSuite, nonce: NoncePayload) -> None:
    """Nonces MUST be at least half the key size of the PRF that was chosen (§2.10)."""
    if 2 * len(nonce.data) < Prf.of(suite.prf).key_length:
        raise RemoteError(f"a nonce of {len(nonce.data)} octets for {suite.prf.name}", NotifyType.INVALID_SYNTAX)


def derive(sa: IkeSa, suite: IkeSuite, shared: bytes) -> None:
    """SKEYSEED and the seven keys (§2.14)."""
    sa.adopt_keys(suite, derive_ike_keys(suite, shared, sa.nonce_i, sa.nonce_r, sa.spi_i, sa.spi_r))


def signature_hashes(message: Message) -> frozenset[HashAlgorithmId]:
    """The hash algorithms the peer takes in signatures (RFC 7427 §4)."""
    notify = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
    return decode_hash_algorithms(notify.data) if notify is not None else frozenset()
