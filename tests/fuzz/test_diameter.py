"""Invariant: whatever the octets, decoding gives a value that round-trips or raises DecodeError; a machine
and a listening node give answers, counted drops or an ended connection, never another exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.diameter.capabilities import Admission, Capabilities, Judgement, admit_all
from protocols.diameter.codec import (
    Avp,
    DiameterMessage,
    RequestError,
    check_request,
    decode_message,
    encode_message,
    redact,
)
from protocols.diameter.dictionary import BY_CODE, RELAY_APPLICATION, SWM_APPLICATION, DisconnectCause
from protocols.diameter.events import PeerState
from protocols.diameter.formats import REQUEST_FORMATS
from protocols.diameter.framing import Framer
from protocols.diameter.identity import DiameterIdentity, IdentifierSource
from protocols.diameter.peer import PeerMachine
from protocols.diameter.routing import Route, RoutingTable, is_redirect
from protocols.diameter.swm import Dea, Der, Str
from protocols.diameter.uri import DiameterUri
from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError, RemoteError
from protocols.io.diameter import DiameterNode

IDENTITY = DiameterIdentity(host="aaa.epc.test", realm="epc.test", origin_state_id=3)
SERVICES = {SWM_APPLICATION: {268, 275, 274}}
COMMANDS = sorted({command for _, command in REQUEST_FORMATS} | {1})

known_codes = st.sampled_from(sorted(BY_CODE))
any_code = st.tuples(st.sampled_from([0, 10415, 9]), st.integers(0, 0xFFFFFFFF))
avps = st.builds(
    lambda key, mandatory, data: Avp(vendor=key[0], code=key[1], mandatory=mandatory, data=data),
    known_codes | any_code,
    st.booleans(),
    st.binary(max_size=40),
)
groups = st.recursive(
    avps,
    lambda members: st.builds(
        lambda name, inside: Avp.of(name, tuple(inside)),
        st.sampled_from(["Proxy-Info", "Failed-AVP", "Terminal-Information", "APN-Configuration", "AMBR"]),
        st.lists(members, max_size=4),
    ),
    max_leaves=8,
)
messages = st.builds(
    DiameterMessage,
    command=st.sampled_from(COMMANDS),
    application=st.sampled_from([0, SWM_APPLICATION, 5]),
    request=st.booleans(),
    proxiable=st.booleans(),
    error=st.booleans(),
    retransmitted=st.booleans(),
    hop_by_hop=st.integers(0, 0xFFFFFFFF),
    end_to_end=st.integers(0, 0xFFFFFFFF),
    avps=st.lists(groups, max_size=12).map(tuple),
)


def valid_der() -> DiameterMessage:
    return Der(
        session_id="epdg.epc.test;1;1",
        origin_host="epdg.epc.test",
        origin_realm="epc.test",
        destination_realm="epc.test",
        eap_payload=b"\x02\x01\x00\x05\x01",
        ue_local_ip=ip_address("192.0.2.1"),
    ).to_message()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good message with some octets changed, its length kept right or not."""
    octets = bytearray(encode_message(draw(st.just(valid_der()) | messages)))
    for _ in range(draw(st.integers(1, 4))):
        octets[draw(st.integers(0, len(octets) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del octets[draw(st.integers(0, len(octets))) :]
    if draw(st.booleans()) and len(octets) >= 20:
        del octets[len(octets) // 4 * 4 :]
        octets[0:4] = b"\x01" + len(octets).to_bytes(3, "big")
    return bytes(octets)


@given(messages)
def test_messages_round_trip(message: DiameterMessage) -> None:
    octets = encode_message(message)
    assert decode_message(octets) == message
    assert len(redact(octets)) == len(octets)
    json.dumps(message.detail(), allow_nan=False)
    assert message.name in message.summary()


@given(st.binary(max_size=200) | damaged())
def test_any_octets(octets: bytes) -> None:
    assert len(redact(octets)) == len(octets)
    try:
        message = decode_message(octets)
    except DecodeError:
        return
    assert decode_message(encode_message(message)) == message
    json.dumps(message.detail(), allow_nan=False)
    with contextlib.suppress(RequestError):
        check_request(message)
    for value in (Der, Dea, Str):
        with contextlib.suppress(RemoteError):
            value.from_message(message)


@given(st.lists(st.binary(max_size=60), max_size=10), st.integers(1, 30))
def test_framing_does_not_depend_on_segments(bodies: list[bytes], step: int) -> None:
    wanted = [b"\x01" + (20 + len(b) // 4 * 4).to_bytes(3, "big") + bytes(16) + b[: len(b) // 4 * 4] for b in bodies]
    stream = b"".join(wanted)
    framer, found = Framer(), []
    for start in range(0, len(stream), step):
        framer.feed(stream[start : start + step])
        while (octets := framer.next()) is not None:
            found.append(octets)
    assert found == wanted


def drain(machine: PeerMachine) -> None:
    machine.poll_transmit()
    while machine.poll_event() is not None:
        continue


def machine(identity: DiameterIdentity = IDENTITY, admission: Admission = admit_all) -> PeerMachine:
    entropy = SeededEntropy("fuzz")
    return PeerMachine(
        identity=identity,
        local_addresses=(ip_address("127.0.0.1"),),
        services=SERVICES,
        identifiers=IdentifierSource(entropy, wall=0.0),
        entropy=entropy,
        admission=admission,
    )


def opened() -> tuple[PeerMachine, PeerMachine]:
    one, other = machine(), machine()
    one.start_initiator(0.0)
    other.start_responder(0.0)
    other.receive(one.poll_transmit() or b"", 0.0)
    one.receive(other.poll_transmit() or b"", 0.0)
    assert one.state is PeerState.OPEN
    drain(one)
    drain(other)
    return one, other


@given(
    st.sampled_from(["responder", "initiator", "electing", "open", "closing"]),
    st.lists(damaged() | messages.map(encode_message)),
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_machine_survives_anything(state: str, stream: list[bytes]) -> None:
    end = machine()
    if state == "responder":
        end.start_responder(0.0)
    elif state == "initiator":
        end.start_initiator(0.0)
    elif state == "electing":
        end, other = machine(admission=lambda _: Judgement.ELECTION), machine()
        end.start_responder(0.0)
        other.start_initiator(0.0)
        end.receive(other.poll_transmit() or b"", 0.0)
        assert end.state is PeerState.WAIT_RETURNS
    else:
        end, _ = opened()
        end.send_request(valid_der(), 0.0)
        if state == "closing":
            end.stop(DisconnectCause.REBOOTING, 0.0)
    now = 0.0
    for octets in stream:
        end.receive(octets, now)
        drain(end)
        now += 7.0
        end.handle_timeout(now)
        drain(end)
    end.disconnected(now)
    drain(end)
    assert end.state is PeerState.CLOSED
    assert end.next_deadline() is None
    assert end.pending_requests == 0


uris = st.from_regex(r"\A(aaas?://)?[a-z.]{0,8}(:[0-9]{0,6})?(;transport=(tcp|sctp|udp|x))?(;protocol=(diameter|x))?\Z")


@given(st.text(max_size=40) | uris)
def test_any_uri(text: str) -> None:
    try:
        uri = DiameterUri.parse(text)
    except DecodeError:
        return
    assert 0 < uri.port < 65536
    assert uri.host in text.lower()


@given(st.lists(st.tuples(messages, messages, uris, st.integers(-1, 7), st.integers(0, 100)), max_size=4))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_routing_survives_any_redirect(steps: list[tuple[DiameterMessage, DiameterMessage, str, int, int]]) -> None:
    """A request goes to a peer that is there, or to none."""
    table = RoutingTable([Route(host="a.test", priority=1), Route(host="b.test", realms=frozenset({"epc.test"}))])
    present = [
        Capabilities(
            host=host,
            realm="epc.test",
            applications=frozenset({application}),
            product_name="",
            origin_state_id=0,
            addresses=(),
        )
        for host, application in (("a.test", SWM_APPLICATION), ("b.test", 5), ("R.test", RELAY_APPLICATION))
    ]
    for now, (request, answer, uri, usage, lifetime) in enumerate(steps):
        named = (Avp.of("Redirect-Host", uri), Avp.of("Redirect-Host", "aaa://b.test"))
        times = (Avp.of("Redirect-Host-Usage", usage), Avp.of("Redirect-Max-Cache-Time", lifetime))
        is_redirect(answer)
        table.learn(request, replace(answer, avps=(*answer.avps, *named, *times)), by="a.test", now=float(now))
        for message in (request, answer, valid_der()):
            assert table.choose(message, present, now + 0.5) in {"a.test", "b.test", "r.test", None}
            assert table.choose(message, present, now + 0.5, tried={"a.test", "b.test", "r.test"}) is None


def test_port_survives_anything(caplog: pytest.LogCaptureFixture) -> None:
    """Connections with random, truncated and changed octets; afterwards the node still serves."""
    source = SeededEntropy("port")
    good = encode_message(replace(valid_der(), hop_by_hop=1, end_to_end=1))
    one = machine(replace(IDENTITY, host="epdg.epc.test"))
    one.start_initiator(0.0)
    cer = one.poll_transmit() or b""
    streams = [source.octets(1 + n) for n in range(40)]
    streams += [cer[:n] for n in range(0, len(cer), 5)]
    streams += [cer + good[:n] for n in range(0, len(good), 7)]
    for n in range(0, len(good), 3):
        changed = bytearray(good)
        changed[n] ^= 0xFF
        streams.append(cer + bytes(changed))

    async def test() -> None:
        node = DiameterNode(IDENTITY)
        at = await node.listen("127.0.0.1", 0)
        for stream in streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
            writer.write(stream)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    continue
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(cer)
        answer = await reader.read(65536)
        assert decode_message(answer).integer("Result-Code") == 2001
        writer.close()
        await writer.wait_closed()
        await node.close()
        assert sum(node.dropped.values()) > len(streams) // 2

    asyncio.run(asyncio.wait_for(test(), 60))
    assert "Traceback" not in caplog.text
