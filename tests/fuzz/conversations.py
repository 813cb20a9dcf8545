"""Invariant: whatever a peer says in a conversation, with the right keys or before there are any, the machine returns.

Fuzz targets by stage of a conversation; ``SCRIPTS`` are the real ones in which their search starts. The first octet
chooses the variant, the rest is the plaintext, its first payload type in front. AUTH by shared key is made right on
the way, since no search would ever find it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from protocols.errors import DecodeError, LocalError, RemoteError
from protocols.ikev2.certificates import CertificateVerifier
from protocols.ikev2.config import InitiatorConfig, ResponderConfig
from protocols.ikev2.events import (
    AuthenticationKind,
    MessageReceived,
    MessageSent,
    Redirected,
    SaState,
    TicketReceived,
)
from protocols.ikev2.fragment import find_encrypted, find_fragment
from protocols.ikev2.message import HEADER_LENGTH, Message, decode_message, encode_header
from protocols.ikev2.payloads import decode_payloads, encode_payloads
from protocols.ikev2.redirection import GatewayIdentity, RedirectObedience
from protocols.ikev2.registry import ExchangeType, PayloadType
from protocols.ikev2.revocation import Evidence, Revocation, RevocationPolicy
from protocols.ikev2.signatures import decode_hash_algorithms, encode_hash_algorithms
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.eap_rounds import Rounds
from protocols.ikev2.tasks.informational import DeleteChildSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.ikev2.ticket import TicketContents, TicketOffice, TicketPolicy
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret
from protocols.threegpp.observation import record_ike_event
from protocols.trace import jsonl
from protocols.trace.ladder import build_ladder, render_text
from protocols.trace.recorder import Recorder
from tests.fuzz.injection import (
    drain,
    established,
    fresh,
    inject,
    next_expected,
    node_of,
    other,
    outstanding,
    spent,
    truthful,
)
from tests.harness.certificates import MOMENT, Authority
from tests.harness.pair import ACCESS_A, ACCESS_B, GATEWAY, MSK, Pair, initiator_config, responder_config

PSK = Secret(b"a key that both ends know")
ROOT = Authority("root")
SERVED = ROOT.issue()
CLIENT = ROOT.issue(["ue@example.org"])
VERIFIER = CertificateVerifier(
    (ROOT.der,), lambda: MOMENT, revocation=Revocation(RevocationPolicy.REQUIRED, responders=(SERVED.chain[0],))
)
B = Path(Endpoint(ACCESS_B.address, 4500), Endpoint(GATEWAY.address, 4500))
FRAGMENTS = 24


def _office() -> TicketOffice:
    return TicketOffice(TicketPolicy(secret=Secret(bytes(32)), wall=lambda: 1.8e9))


def _ue(kind: AuthenticationKind = AuthenticationKind.EAP, **changes: object) -> InitiatorConfig:
    values: dict[str, object] = {
        "resumption": True,
        "redirect": RedirectObedience.ANY,
        "crash_secrets": (Secret(bytes(32)),),
        "authentication": kind,
    }
    if kind is AuthenticationKind.PSK:
        values["psk"] = PSK
    if kind is AuthenticationKind.CERTIFICATE:
        values["credentials"] = (CLIENT.credential(),)
        values["psk"] = PSK  # the gateway may prove itself by it, which gets further than a signature would
    return initiator_config(**{**values, **changes})


def _gateway(**changes: object) -> ResponderConfig:
    values: dict[str, object] = {
        "tickets": _office(),
        "crash_secrets": (Secret(bytes(32)),),
        "authentications": frozenset(AuthenticationKind),
        "shared_keys": _AnyKey(),
        "verifier": CertificateVerifier((ROOT.der,), lambda: MOMENT),
    }
    return responder_config(**{**values, **changes})


class _AnyKey(dict[str, Secret]):
    """Everybody's key is the same."""

    def get(self, name: str, default: object = None) -> Secret:  # type: ignore[override]
        """The one key."""
        return PSK


KINDS = tuple(AuthenticationKind)


def _half_open(kind: AuthenticationKind, deaf_to: str, count: int = 0) -> Pair:
    """A pair in which the IKE_AUTH messages of one end, ``count`` of them excepted, get lost."""
    pair = fresh(_ue(kind), _gateway())
    heard = [0]

    def lose(sender: str, datagram: Datagram) -> bool:
        if sender != deaf_to or datagram.payload[18] == ExchangeType.IKE_SA_INIT:
            return False
        heard[0] += 1
        return heard[0] > count

    pair.lose = lose
    pair.start(ACCESS_A)
    pair.run(0.2)
    return pair


# --- IKE_AUTH


def ikev2_auth(octets: bytes) -> None:
    """The plaintext of the first IKE_AUTH request at a half-open gateway, by every kind of authentication."""
    if not octets:
        return
    pair = _half_open(AuthenticationKind.EAP, "ue")
    plaintext = truthful(pair, "ue", octets[1:], PSK) if octets[0] & 1 else octets[1:]
    inject(pair, "ue", ExchangeType.IKE_AUTH, plaintext, response=False, message_id=1)


def ikev2_auth_response(octets: bytes) -> None:
    """The plaintext of the first IKE_AUTH response at a UE, by every kind of authentication."""
    if not octets:
        return
    pair = _half_open(KINDS[octets[0] % len(KINDS)], "epdg")
    plaintext = truthful(pair, "epdg", octets[1:], PSK)
    inject(pair, "epdg", ExchangeType.IKE_AUTH, plaintext, response=True, message_id=outstanding(pair.ue.live))


def ikev2_eap_rounds(octets: bytes) -> None:
    """What follows the first IKE_AUTH exchange with EAP: at the gateway, at the UE, and the last of all."""
    if not octets:
        return
    sender = "ue" if octets[0] & 1 else "epdg"
    pair = _half_open(AuthenticationKind.EAP, sender, count=1 + (octets[0] >> 1 & 1))
    receiver = node_of(pair, other(sender)).live
    if receiver.state is not SaState.AUTHENTICATING:
        return
    plaintext = truthful(pair, sender, octets[1:], MSK)
    message_id = next_expected(receiver) if sender == "ue" else outstanding(receiver)
    inject(pair, sender, ExchangeType.IKE_AUTH, plaintext, response=sender == "epdg", message_id=message_id)


# --- an SA that is up


def ikev2_fragments(octets: bytes) -> None:
    """Fragments with any numbers, totals and contents, of a request or of a response."""
    if not octets:
        return
    pair = established()
    sender = "ue" if octets[0] & 1 else "epdg"
    receiver, response = node_of(pair, other(sender)), bool(octets[0] & 2)
    sa = receiver.live
    if response:
        pair.lose = lambda who, datagram: True
        receiver.endpoint.initiate(sa, Liveness(), pair.now)
        pair.run(0.01)
    message_id = outstanding(sa) if response else next_expected(sa)
    at = 1
    for _ in range(FRAGMENTS):
        head = octets[at : at + 4]
        if len(head) < 4 or sa.state is not SaState.ESTABLISHED:
            break
        number, total, first, length = head
        content = octets[at + 4 : at + 4 + length]
        at += 4 + length
        place = (number, total if total < 255 else 65535)
        inject(
            pair, sender, ExchangeType.INFORMATIONAL, bytes((first,)) + content,
            response=response, message_id=message_id, fragment=place, seconds=0.0,
        )  # fmt: skip
    pair.run(0.05)
    if response:
        spent()


def ikev2_create_child_response(octets: bytes) -> None:
    """Responses to every use of CREATE_CHILD_SA, and to the DELETE that comes after, at either end."""
    if not octets:
        return
    pair = established()
    spent()
    sender = "ue" if octets[0] & 1 else "epdg"
    receiver = node_of(pair, other(sender))
    sa = receiver.live
    spi, child = next(iter(sa.children.items()))
    tasks: tuple[Task, ...] = (
        RekeyIke(),
        RekeyChild(spi),
        CreateChild(child.spec.local_selectors, child.spec.remote_selectors),
        DeleteChildSa(spi),
    )
    task = tasks[octets[0] >> 1 & 3]
    pair.lose = lambda who, datagram: True
    receiver.endpoint.initiate(sa, task, pair.now)
    pair.run(0.01)
    inject(pair, sender, task.exchange, octets[1:], response=True, message_id=outstanding(sa))
    pair.run(40.0)


def ikev2_mobike(octets: bytes) -> None:
    """Requests from another address, responses to our move, to the check that follows one, to a change of addresses."""
    if not octets:
        return
    pair = established()
    spent()
    pair.lose = lambda who, datagram: True
    stage, rest = octets[0] % 5, octets[1:]
    ue, gateway, informational = pair.ue.live, pair.epdg.live, ExchangeType.INFORMATIONAL
    if stage == 0:
        inject(
            pair, "ue", informational, rest,
            response=False, message_id=next_expected(gateway), path=B.reversed(), seconds=8.0,
        )  # fmt: skip
    elif stage == 1:
        pair.ue.endpoint.move(ue, B, pair.now)
        pair.run(0.01)
        inject(pair, "epdg", informational, rest, response=True, message_id=outstanding(ue), seconds=8.0)
    elif stage == 2:
        update = bytes((PayloadType.N,)) + bytes.fromhex("0000000800004010")
        inject(pair, "ue", informational, update, response=False, message_id=next_expected(gateway), path=B.reversed())
        inject(pair, "ue", informational, rest, response=True, message_id=outstanding(gateway), seconds=8.0)
    elif stage == 3:
        pair.epdg.endpoint.set_addresses(gateway, (Endpoint.of("203.0.113.9", 4500),), pair.now)
        pair.run(0.01)
        inject(pair, "ue", informational, rest, response=True, message_id=outstanding(gateway), seconds=8.0)
    else:
        inject(pair, "epdg", informational, rest, response=False, message_id=next_expected(ue), seconds=8.0)


# --- before there are keys, and without them


def ikev2_unprotected(octets: bytes) -> None:
    """Clear messages in five places: cookie, resumption, an answer to each, and beside an SA that is up."""
    if len(octets) < 2:
        return
    stage, first, body = octets[0] % 5, octets[1], octets[2:]
    exchange = ExchangeType.IKE_SESSION_RESUME if octets[0] & 0x40 else ExchangeType.IKE_SA_INIT
    length = HEADER_LENGTH + len(body)

    def clear(spi_i: bytes, spi_r: bytes, kind: ExchangeType, *, response: bool, from_initiator: bool) -> bytes:
        return encode_header(
            spi_i=spi_i, spi_r=spi_r, next_payload=PayloadType.of(first), exchange=kind,
            original_initiator=from_initiator, response=response, message_id=0, length=length,
        ) + body  # fmt: skip

    if stage in (0, 1):
        pair = fresh(_ue(), _gateway(cookie_threshold=0 if stage else 64))
        datagram = clear(b"initiato", bytes(8), exchange, response=False, from_initiator=True)
        pair.epdg.endpoint.receive(Datagram(Path(GATEWAY, ACCESS_A), datagram), pair.now)
        drain(pair.epdg)
    elif stage in (2, 3):
        session = _ticket() if stage == 3 else None
        pair = fresh(_ue(session=session), _gateway())
        pair.lose = lambda who, datagram: True
        pair.start(ACCESS_A)
        pair.run(0.01)
        kind = ExchangeType.IKE_SESSION_RESUME if session is not None else ExchangeType.IKE_SA_INIT
        datagram = clear(pair.ue.live.spi_i, b"responde", kind, response=True, from_initiator=False)
        pair.ue.endpoint.receive(Datagram(pair.ue.live.path, datagram), pair.now)
        pair.run(4.0)
    else:
        pair = established()
        for node, from_initiator in ((pair.epdg, True), (pair.ue, False)):
            sa = node.live
            for response in (False, True):
                datagram = clear(
                    sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, response=response, from_initiator=from_initiator
                )
                node.endpoint.receive(Datagram(sa.path, datagram), pair.now)
                drain(node)
            assert sa.state is SaState.ESTABLISHED


@functools.cache
def _ticket() -> object:
    pair = fresh(_ue(), _gateway()).attach()
    return pair.ue.take(TicketReceived).session


# --- values


def ikev2_certificates(octets: bytes) -> None:
    """A certificate, a CRL or an OCSP response of anything."""
    if not octets:
        return
    rest = octets[1:]
    chain = (rest, *SERVED.chain) if octets[0] % 4 == 3 else SERVED.chain
    evidence = {
        1: Evidence(crls=(rest,)),
        2: Evidence(ocsp_responses=(rest,)),
    }.get(octets[0] % 4, Evidence())
    if octets[0] % 4 == 0:
        chain = (rest,)
    with contextlib.suppress(RemoteError):
        VERIFIER.verify(chain, None, evidence=evidence)


def ikev2_values(octets: bytes) -> None:
    """What lies in Notify data, tickets, fragments and EAP; what decodes encodes to what decodes the same."""
    with contextlib.suppress(DecodeError):
        gateway = GatewayIdentity.decode(octets)
        if gateway.gateway is not None:
            assert GatewayIdentity.decode(gateway.encode()) == gateway
    with contextlib.suppress(DecodeError):
        contents = TicketContents.decode(octets)
        assert TicketContents.decode(contents.encode()) == contents
    with contextlib.suppress(RemoteError):
        _office().open(octets)
    with contextlib.suppress(RemoteError):
        known = decode_hash_algorithms(octets)
        assert decode_hash_algorithms(encode_hash_algorithms(known)) == known
    for find in (find_encrypted, find_fragment):
        with contextlib.suppress(RemoteError):
            find(bytes(HEADER_LENGTH) + octets[1:], octets[0] if octets else 0)
    with contextlib.suppress(RemoteError):
        Rounds().request(octets, gateway_authenticated=True)
    with contextlib.suppress(RemoteError):
        Rounds().response(octets)


def ikev2_ladder(octets: bytes) -> None:
    """Any message that decodes can be told: in RFC notation, as records, as a drawing."""
    try:
        message = decode_message(octets)
    except RemoteError:
        try:
            payloads = decode_payloads(PayloadType.of(octets[0] if octets else 0), octets[1:])
        except RemoteError:
            return
        message = Message(
            spi_i=b"initiato", spi_r=b"responde", exchange=ExchangeType.INFORMATIONAL,
            original_initiator=True, response=False, message_id=1, payloads=payloads,
        )  # fmt: skip
    ue, gateway = (Recorder(name, monotonic=lambda: 0.0, wall=lambda: 0.0) for name in ("ue", "epdg"))
    record_ike_event(ue, MessageSent(message=message, path=B, fragments=2), "ue-1")
    record_ike_event(gateway, MessageReceived(message=message, path=B.reversed()), "s-1")
    records = [*ue.since(0), *gateway.since(0)]
    assert list(jsonl.decode_lines(map(jsonl.encode_line, records))) == records
    ladder = build_ladder(records)
    assert message.name in render_text(ladder, details=True)
    assert ladder.to_json()


CONVERSATIONS: tuple[Callable[[bytes], None], ...] = (
    ikev2_auth,
    ikev2_auth_response,
    ikev2_eap_rounds,
    ikev2_fragments,
    ikev2_create_child_response,
    ikev2_mobike,
    ikev2_unprotected,
    ikev2_certificates,
    ikev2_values,
    ikev2_ladder,
)


# --- where the search starts


@functools.cache
def recorded() -> tuple[tuple[str, Message], ...]:
    """Who said what in real conversations: by every kind of authentication, and a full life."""
    said: list[tuple[str, Message]] = []
    for kind in KINDS:
        pair = fresh(_ue(kind), _gateway()).attach()
        if kind is AuthenticationKind.EAP:
            for node in (pair.ue, pair.epdg):
                spi, child = next(iter(node.live.children.items()))
                node.endpoint.initiate(node.live, RekeyChild(spi), pair.now)
                pair.run(1.0)
                wanted = (child.spec.local_selectors, child.spec.remote_selectors)
                node.endpoint.initiate(node.live, CreateChild(*wanted), pair.now)
                node.endpoint.set_addresses(node.live, (Endpoint.of("2001:db8::9", 4500),), pair.now)
                pair.run(1.0)
            with contextlib.suppress(LocalError):
                pair.roam(ACCESS_B)
            pair.run(1.0)
            pair.ue.endpoint.initiate(pair.ue.live, RekeyIke(), pair.now)
            pair.run(1.0)
        for node in (pair.ue, pair.epdg):
            said += [(node.name, event.message) for event in node.events if isinstance(event, MessageSent)]
            assert not node.has(Redirected)
    return tuple(said)


def _chain(message: Message) -> bytes:
    first, body = encode_payloads(message.payloads)
    return bytes((first,)) + body


def seeds(name: str) -> Iterator[bytes]:
    """Plaintexts of real conversations for the target of that name, behind each choice it offers."""
    said = {(who, message.exchange, message.response, _chain(message)) for who, message in recorded()}
    chosen: dict[str, tuple[ExchangeType, bool | None, int]] = {
        "ikev2_auth": (ExchangeType.IKE_AUTH, False, 2),
        "ikev2_auth_response": (ExchangeType.IKE_AUTH, True, 3),
        "ikev2_eap_rounds": (ExchangeType.IKE_AUTH, None, 4),
        "ikev2_create_child_response": (ExchangeType.CREATE_CHILD_SA, True, 8),
        "ikev2_mobike": (ExchangeType.INFORMATIONAL, None, 5),
        "ikev2_unprotected": (ExchangeType.IKE_SA_INIT, None, 5),
    }
    if name in chosen:
        exchange, response, choices = chosen[name]
        for _, kind, is_response, chain in sorted(said):
            if kind == exchange and response in (None, is_response):
                for choice in range(choices):
                    yield bytes((choice,)) + chain
    elif name == "ikev2_fragments":
        yield bytes.fromhex("00 01022904 00000008 02022900 01022904 00000008 02022904 00004000")
        yield bytes.fromhex("03 0101 00 00") + bytes.fromhex("02ff0004 00000000 0000ff00")
    elif name == "ikev2_certificates":
        yield b"\0" + SERVED.chain[0]
        yield b"\1" + ROOT.crl(CLIENT.certificate)
        yield b"\2" + ROOT.ocsp(SERVED.certificate)
        yield b"\3" + ROOT.der
    elif name == "ikev2_values":
        yield bytes.fromhex("0104c0000201")
        yield b"\x03\x04epdgnonce"
        yield encode_hash_algorithms()
        office = _office()
        session = _ticket()
        yield session.ticket  # type: ignore[attr-defined]
        yield office.open(session.ticket).encode()  # type: ignore[attr-defined]
    else:
        for _, _, _, chain in sorted(said):
            yield chain
