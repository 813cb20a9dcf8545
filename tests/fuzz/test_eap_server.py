"""Invariant: nothing a peer sends makes the EAP server raise, and only the right response makes it succeed.

Both methods, in every state of full authentication, key derivation negotiation and fast re-authentication: every
truncation and bit of the right response, and arbitrary attributes, plain and nested, under the right keys.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocols.eap.aka.attributes import AtEncrData, AtIv, AtMac, UnknownAttribute
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import PacketToSend
from protocols.eap.aka.protection import encode_with_mac, encrypt_attributes
from protocols.eap.aka.server import ContextRequested, EapAkaServer, Failed, ServerOptions, Succeeded, VectorRequested
from protocols.eap.aka.server.events import ServerEvent
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.eap.packet import EapType
from protocols.entropy import SeededEntropy
from protocols.secret import Secret
from tests.harness.eap_by_formula import IV, FormulaPeer, vector
from tests.harness.eap_network import AKA, PRIME, Network

FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
STATES = ["identity", "challenge", "negotiated", "reauthentication", "notification"]
EVERYWHERE = pytest.mark.parametrize(
    ("method", "state"),
    [(method, state) for method in (AKA, PRIME) for state in STATES if (method, state) != (AKA, "negotiated")],
)


@dataclass
class Scene:
    """A server in a state, and the response that is right there."""

    server: EapAkaServer
    response: bytes
    keys: tuple[Secret, Secret] | None
    nonce: bytes
    contexts: dict[str, ReauthenticationContext]

    def hear(self, packet: bytes) -> list[ServerEvent]:
        """What the server says to a packet, its questions answered."""
        self.server.receive(packet)
        return drain(self.server, self.contexts)


def drain(server: EapAkaServer, contexts: dict[str, ReauthenticationContext]) -> list[ServerEvent]:
    """Events, questions answered."""
    events: list[ServerEvent] = []
    while (event := server.poll_event()) is not None:
        events.append(event)
        if isinstance(event, VectorRequested):
            server.answer_vector(vector(7, method=event.method, network_name=event.network_name))
        elif isinstance(event, ContextRequested):
            server.answer_context(contexts.get(event.username))
    return events


@functools.cache
def remembered(method: EapType) -> tuple[Network, FormulaPeer]:
    """A network and a peer after a full authentication."""
    network = Network(options=ServerOptions(methods=(method,)))
    peer = FormulaPeer(methods=(method,), result_indications=True)
    network.succeed(peer)
    return network, peer


def scene(method: EapType, state: str) -> Scene:
    """A server in ``state``."""
    network, earlier = remembered(method)
    options = ServerOptions(
        methods=(method,),
        always_request_identity=state == "identity",
        result_indications=True,
        kdfs=(9, 1) if state == "negotiated" else (1,),
    )
    peer = replace(earlier, heard=[])
    if state not in ("reauthentication", "notification"):
        peer.reauthentication = None
    server = EapAkaServer(entropy=SeededEntropy("fuzz"), options=options, ring=network.ring)
    contexts = dict(network.contexts)
    server.start(peer.begin())
    nonce = b""
    rounds = {"notification": 2, "negotiated": 2}.get(state, 1)
    response = b""
    for number in range(rounds):
        if number:
            server.receive(response)
        request = drain(server, contexts)[-1]
        assert isinstance(request, PacketToSend), request
        response = peer.answer(request.packet)
        if AkaMessage.decode(request.packet).subtype == AkaSubtype.REAUTHENTICATION:
            nonce = peer.nonce
    keys = None if peer.keys is None or state == "identity" else (peer.keys.k_encr, peer.keys.k_aut)
    return Scene(server, response, keys, nonce if state == "reauthentication" else b"", contexts)


def succeeded(events: list[ServerEvent]) -> bool:
    """Whether the peer has got what it wants: success, or its notification."""
    return any(
        isinstance(event, Succeeded)
        or (isinstance(event, PacketToSend) and b"\x0c\x01\x80\x00" in event.packet)  # AT_NOTIFICATION: Success
        for event in events
    )


@EVERYWHERE
def test_the_right_response_is_right(method: EapType, state: str) -> None:
    here = scene(method, state)
    assert succeeded(here.hear(here.response)) == (state != "identity")


@EVERYWHERE
def test_every_disturbance_of_the_right_response(method: EapType, state: str) -> None:
    right = scene(method, state).response
    disturbed = [right[:length] for length in range(len(right))]
    disturbed += [
        right[:at] + bytes([right[at] ^ (1 << bit)]) + right[at + 1 :] for at in range(len(right)) for bit in (0, 4, 7)
    ]
    for packet in disturbed:
        here = scene(method, state)
        events = here.hear(packet)
        # RFC 4187 §6.2: a response to the success notification is not read
        assert state == "notification" or not succeeded(events), packet.hex()
        assert not any(isinstance(event, Failed) for event in events) or here.server.concluded


ATTRIBUTE = st.builds(
    lambda number, value: UnknownAttribute(number, value + bytes(-(len(value) + 2) % 4)),
    st.one_of(st.integers(1, 24), st.integers(128, 136), st.integers(0, 255)),
    st.binary(max_size=40),
)


@EVERYWHERE
@FEW
@given(
    subtype=st.sampled_from([*AkaSubtype, 77]),
    attributes=st.lists(ATTRIBUTE, max_size=4),
    nested=st.one_of(st.none(), st.lists(ATTRIBUTE, max_size=3)),
    bare=st.booleans(),
)
def test_arbitrary_attributes_under_the_right_keys(
    method: EapType,
    state: str,
    subtype: int,
    attributes: list[UnknownAttribute],
    nested: list[UnknownAttribute] | None,
    bare: bool,
) -> None:
    here = scene(method, state)
    right = AkaMessage.decode(here.response)
    message = replace(right, subtype=subtype, attributes=tuple(attributes))
    if nested is not None and here.keys is not None:
        message = replace(message, attributes=(*attributes, *encrypt_attributes(nested, here.keys[0], IV)))
    if bare or here.keys is None:
        packet = message.encode()
    else:
        packet = encode_with_mac(message, here.keys[1], here.nonce)
    assert state == "notification" or not succeeded(here.hear(packet))


PARTS = st.one_of(
    st.sampled_from(["0001010000000001", "6001010000000001", "001010000000001", "2A", "4A", "8Bx", "", "x" * 250]),
    st.text(max_size=20),
)
IDENTITY = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda *parts: "".join(parts).encode(), PARTS, st.sampled_from(["!", "@", "..", ""]), PARTS, st.just("@"), PARTS
    ),
)


@pytest.mark.parametrize("method", [AKA, PRIME])
@FEW
@given(identity=IDENTITY)
@example(identity=b"a..b!0001010000000001@x")
@example(identity=b"a@b!6001010000000001@x")
@example(identity=b"0001010000000001@" + b"r" * 230)
@example(identity=b"6001010000000001@" + b"r" * 230)
def test_any_identity_leads_to_a_request_or_to_the_keys_of_it(method: EapType, identity: bytes) -> None:
    network, _ = remembered(method)
    server = EapAkaServer(entropy=SeededEntropy(1), options=ServerOptions(methods=(method,)), ring=network.ring)
    peer = FormulaPeer(methods=(method,))
    peer.begin()
    peer.identity = identity
    server.start(identity)
    for _ in range(4):
        (*_, event) = drain(server, {})
        if isinstance(event, Succeeded):
            assert event.msk == peer.msk
            return
        assert isinstance(event, PacketToSend)
        server.receive(peer.answer(event.packet))
    assert server.concluded or isinstance(drain(server, {})[-1], (PacketToSend, Succeeded))


@pytest.mark.parametrize("method", [AKA, PRIME])
def test_right_keys_with_a_part_left_out(method: EapType) -> None:
    for state in ("challenge", "reauthentication"):
        here = scene(method, state)
        assert here.keys is not None
        right = AkaMessage.decode(here.response)
        needed = [kind for kind in right.attributes if not isinstance(kind, AtMac)]
        for left_out in needed:
            kept = tuple(attribute for attribute in needed if attribute is not left_out)
            packet = encode_with_mac(replace(right, attributes=kept), here.keys[1], here.nonce)
            optional = left_out.type.name in ("AT_CHECKCODE", "AT_RESULT_IND")
            events = scene(method, state).hear(packet)
            assert (succeeded(events) or any(isinstance(event, Succeeded) for event in events)) == optional
        assert {AtIv, AtEncrData} <= {type(each) for each in needed} or state == "challenge"
