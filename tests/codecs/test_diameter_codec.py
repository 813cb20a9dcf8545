"""Diameter messages and AVPs (RFC 6733 §3, §4): octets, recorded runs, the check of requests."""

from __future__ import annotations

import json
import struct
import subprocess
from ipaddress import ip_address
from shutil import which

import pytest
from diameter.message import Message
from diameter.message.avp import Avp as PackageAvp

from protocols.diameter import dictionary
from protocols.diameter.codec import (
    Avp,
    AvpValue,
    DiameterMessage,
    MalformedMessage,
    RequestError,
    Result,
    answer_to,
    check_request,
    decode_message,
    encode_message,
    redact,
)
from protocols.diameter.dictionary import (
    BY_CODE,
    BY_NAME,
    SWM_APPLICATION,
    AvpType,
    CommandCode,
    ExperimentalResultCode,
    ResultCode,
    command_name,
)
from protocols.diameter.formats import GROUP_FORMATS, REQUEST_FORMATS
from protocols.diameter.framing import Framer, FramingError, FramingFault
from protocols.errors import DecodeError, LocalError
from tests.harness.material import SHARED, shared

RUNS = "vectors/runs/diameter_gtpv2_open5gs.json"


def recorded() -> list[dict[str, object]]:
    """Messages of Open5GS, freeDiameter and python-diameter; none where the material is absent."""
    path = SHARED / RUNS
    if not path.exists():
        return []
    messages: list[dict[str, object]] = json.loads(path.read_text())["diameter"]
    return messages


# Octets by hand after RFC 6733 §4.1 (header), §4.2 (formats), §4.3.1 (Address), §4.4 (groups)
AVPS: list[tuple[str, AvpValue, str]] = [
    ("Session-Id", "a;1;2", "00000107 4000000d 613b313b32 000000"),
    ("Origin-Host", "aaa.x", "00000108 4000000d 6161612e78 000000"),
    ("Result-Code", 2001, "0000010c 4000000c 000007d1"),
    ("Auth-Application-Id", SWM_APPLICATION, "00000102 4000000c 01000030"),
    ("EAP-Payload", b"\x01\x02", "000001ce 4000000a 0102 0000"),
    ("EAP-Master-Session-Key", b"\x0b" * 4, "000001d0 4000000c 0b0b0b0b"),
    ("RAT-Type", 0, "00000408 80000010 000028af 00000000"),
    ("MIP6-Feature-Vector", 0x400000000000, "0000007c 40000010 0000400000000000"),
    ("Host-IP-Address", ip_address("127.0.0.8"), "00000101 4000000e 0001 7f000008 0000"),
    (
        "Host-IP-Address",
        ip_address("2001:db8::1"),
        "00000101 4000001a 0002 20010db8000000000000000000000001 0000",
    ),
    ("UE-Local-IP-Address", ip_address("192.0.2.1"), "00000af5 80000012 000028af 0001 c0000201 0000"),
    ("Visited-Network-Identifier", b"mnc001", "00000258 c0000012 000028af 6d6e63303031 0000"),
    (
        "Experimental-Result",
        (Avp.of("Vendor-Id", 10415), Avp.of("Experimental-Result-Code", 5001)),
        "00000129 40000020 0000010a 4000000c 000028af 0000012a 4000000c 00001389",
    ),
    ("Product-Name", "x", "0000010d 00000009 78 000000"),
    ("EAP-Payload", b"", "000001ce 40000008"),
]


@pytest.mark.parametrize(("name", "value", "octets"), AVPS)
def test_avp(name: str, value: AvpValue, octets: str) -> None:
    encoded = bytes.fromhex(octets)
    assert Avp.of(name, value).encode() == encoded
    message = decode_message(header(encoded))
    assert message.get(name) == value
    assert message.avps[0].name == name


def header(avps: bytes, *, flags: int = 0x80, command: int = 268, application: int = SWM_APPLICATION) -> bytes:
    """A message around AVPs, written by hand."""
    length = 20 + len(avps)
    return struct.pack(">IIIII", 1 << 24 | length, flags << 24 | command, application, 7, 9) + avps


def test_header_flags() -> None:
    for flags, field in ((0x80, "request"), (0x40, "proxiable"), (0x20, "error"), (0x10, "retransmitted")):
        message = decode_message(header(b"", flags=flags))
        assert getattr(message, field) is True
        assert encode_message(message) == header(b"", flags=flags)
    assert (message.hop_by_hop, message.end_to_end) == (7, 9)


def test_reserved_flags_are_ignored_and_sent_zero() -> None:
    # RFC 6733 §3 and §4.1: reserved bits MUST be set to zero and ignored by the receiver
    message = decode_message(header(bytes.fromhex("00000107 7f00000d 613b313b32 ffffff"), flags=0x8F))
    assert message.session_id == "a;1;2"
    assert encode_message(message) == header(bytes.fromhex("00000107 4000000d 613b313b32 000000"), flags=0x80)


def test_unknown_avps_survive() -> None:
    octets = header(bytes.fromhex("00ffffff c0000011 0000ffff aabbccddee 000000 00fffffe 0000000a 0102 0000"))
    message = decode_message(octets)
    assert message.avps[0] == Avp(code=0xFFFFFF, vendor=0xFFFF, mandatory=True, data=bytes.fromhex("aabbccddee"))
    assert message.avps[1].mandatory is False
    assert message.avps[1].value == b"\x01\x02"
    assert encode_message(message) == octets


def test_vendor_zero_is_ietf() -> None:
    # RFC 6733 §4.1: Vendor-ID zero is the IETF's own number space
    message = decode_message(header(bytes.fromhex("00000107 c0000011 00000000 613b313b32 000000")))
    assert message.session_id == "a;1;2"


def test_every_truncation_is_an_error() -> None:
    octets = header(b"".join(bytes.fromhex(octets) for _, _, octets in AVPS))
    for end in range(len(octets)):
        with pytest.raises(DecodeError):
            decode_message(octets[:end])


def test_every_truncation_with_a_fitting_length_is_an_error_or_fewer_avps() -> None:
    full = decode_message(header(b"".join(bytes.fromhex(octets) for _, _, octets in AVPS)))
    octets = encode_message(full)
    lengths = {20}
    for avp in full.avps:
        lengths.add(max(lengths) + len(avp.encode()))
    for end in range(20, len(octets), 4):
        cut = b"\x01" + end.to_bytes(3, "big") + octets[4:end]
        if end in lengths:
            assert decode_message(cut).avps == full.avps[: len(decode_message(cut).avps)]
        else:
            with pytest.raises(MalformedMessage) as caught:
                decode_message(cut)
            assert caught.value.header.hop_by_hop == 7


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        ("00000107 40000007 00000000", 263),  # shorter than its header
        ("00000408 c000000b 000028af", 1032),  # shorter than its header with Vendor-Id
        ("00000107 40000010 613b313b", 263),  # longer than the message
        ("00000107 40ffffff 613b313b", 263),
        ("00000107 4000000e 613b313b", 263),
    ],
)
def test_avp_lengths(octets: str, code: int) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode_message(header(bytes.fromhex(octets)))
    assert caught.value.failed is not None
    assert caught.value.failed.code == code


@pytest.mark.parametrize(
    ("name", "data", "result"),
    [
        ("Result-Code", b"\x01", ResultCode.DIAMETER_INVALID_AVP_LENGTH),
        ("MIP6-Feature-Vector", bytes(4), ResultCode.DIAMETER_INVALID_AVP_LENGTH),
        ("Session-Id", b"\xff\xfe", ResultCode.DIAMETER_INVALID_AVP_VALUE),
        ("Origin-Host", "ü.x".encode(), ResultCode.DIAMETER_INVALID_AVP_VALUE),
        ("Host-IP-Address", b"\x00\x01\x7f", ResultCode.DIAMETER_INVALID_AVP_LENGTH),
        ("Host-IP-Address", b"\x00", ResultCode.DIAMETER_INVALID_AVP_LENGTH),
        ("Experimental-Result", b"\x00\x00\x01", ResultCode.DIAMETER_INVALID_AVP_LENGTH),
    ],
)
def test_values_that_do_not_fit(name: str, data: bytes, result: ResultCode) -> None:
    definition = BY_NAME[name]
    with pytest.raises(RequestError) as caught:
        _ = Avp(code=definition.code, vendor=definition.vendor, data=data).value
    assert caught.value.result is result
    assert caught.value.failed is not None
    assert caught.value.failed.code == definition.code


def test_other_address_families_are_octets() -> None:
    e164 = b"\x00\x08491701234567"
    assert Avp(code=BY_NAME["Host-IP-Address"].code, data=e164).value == e164


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Result-Code", "2001"),
        ("Result-Code", -1),
        ("Result-Code", 1 << 32),
        ("Session-Id", b"a"),
        ("EAP-Payload", 1),
        ("Origin-Host", "ü"),
        ("Host-IP-Address", "127.0.0.1"),
        ("No-Such-AVP", 1),
    ],
)
def test_wrong_values_are_our_fault(name: str, value: AvpValue) -> None:
    with pytest.raises(LocalError):
        Avp.of(name, value)


def test_flags_of_our_table() -> None:
    mandatory = ("EAP-Payload", "EAP-Master-Session-Key", "Service-Selection", "APN-Configuration")
    assert all(BY_NAME[name].mandatory for name in mandatory)
    # RFC 6733 §4.5, TS 29.212 §5.3.0: M MUST NOT be set
    never = ("Product-Name", "Firmware-Revision", "Error-Message", "Error-Reporting-Host", "RAT-Type")
    assert not any(BY_NAME[name].mandatory for name in never)
    assert (BY_NAME["EAP-Master-Session-Key"].code, BY_NAME["EAP-Payload"].code) == (464, 462)
    assert BY_NAME["APN-Configuration"].vendor == 10415


def test_tables_name_known_avps() -> None:
    named = set(dictionary.VALUE_NAMES) | set(dictionary.SECRET_AVPS) | set(GROUP_FORMATS)
    for rules in (*REQUEST_FORMATS.values(), *GROUP_FORMATS.values()):
        named |= {rule.name for rule in rules}
    assert named <= set(BY_NAME)
    assert all(BY_NAME[name].type is AvpType.GROUPED for name in GROUP_FORMATS)


def test_command_names() -> None:
    assert command_name(CommandCode.DIAMETER_EAP, request=True) == "DER"
    assert command_name(268, request=False) == "DEA"
    assert command_name(9999, request=True) == "command 9999 R"


# Framing


def test_framer_cuts_at_any_place() -> None:
    messages = [header(b""), header(bytes.fromhex("00000107 4000000d 613b313b32 000000"))]
    stream = b"".join(messages) * 2
    for step in (1, 2, 3, 7, len(stream)):
        framer = Framer()
        found = []
        for start in range(0, len(stream), step):
            framer.feed(stream[start : start + step])
            while (octets := framer.next()) is not None:
                found.append(octets)
        assert found == messages * 2
        assert framer.pending == 0


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        ("00", FramingFault.VERSION),
        ("16030100", FramingFault.VERSION),
        ("01000010", FramingFault.LENGTH),
        ("01000016", FramingFault.LENGTH),
        ("01ffffe0", FramingFault.TOO_LONG),
    ],
)
def test_framer_gives_up(octets: str, fault: FramingFault) -> None:
    framer = Framer(limit=65536)
    framer.feed(bytes.fromhex(octets))
    with pytest.raises(FramingError) as caught:
        framer.next()
    assert caught.value.fault is fault


# Results and answers


def test_results_are_two_number_spaces() -> None:
    assert Result(0, 5001).name == "DIAMETER_AVP_UNSUPPORTED"
    assert Result(10415, 5001).name == "DIAMETER_ERROR_USER_UNKNOWN"
    assert Result(0, 5004).name == "DIAMETER_INVALID_AVP_VALUE"
    assert Result(10415, 5004).name == "DIAMETER_ERROR_ROAMING_NOT_ALLOWED"
    assert Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN) == Result(10415, 5001)
    assert Result.of(ResultCode.DIAMETER_AVP_UNSUPPORTED) == Result(0, 5001)
    assert Result(0, 1001).is_multi_round
    assert not Result(0, 1001).is_success
    assert Result(0, 3001).is_protocol_error
    assert not Result(10415, 3001).is_protocol_error
    assert (Result(0, 5999).name, Result(9, 5999).name) == ("5999", "5999 of vendor 9")


def test_answer_keeps_what_belongs_to_the_request() -> None:
    # RFC 6733 §6.2
    proxies = tuple(
        Avp.of("Proxy-Info", (Avp.of("Proxy-Host", host), Avp.of("Proxy-State", b"\x01"))) for host in ("p1", "p2")
    )
    request = DiameterMessage(
        command=268,
        application=SWM_APPLICATION,
        request=True,
        proxiable=True,
        hop_by_hop=3,
        end_to_end=4,
        avps=(Avp.of("Session-Id", "s"), Avp.of("Route-Record", "relay"), *proxies),
    )
    answer = answer_to(request, origin_host="a", origin_realm="x", result=Result(0, 3001))
    assert (answer.hop_by_hop, answer.end_to_end, answer.proxiable, answer.request) == (3, 4, True, False)
    assert answer.error
    assert answer.avps[0] == Avp.of("Session-Id", "s")
    assert answer.find_all("Proxy-Info") == proxies
    assert answer.find("Route-Record") is None
    assert not answer_to(request, origin_host="a", origin_realm="x", result=Result(0, 5012)).error


# The check of requests (RFC 6733 §7.1.5)


def der(*extra: Avp, without: str | None = None) -> DiameterMessage:
    avps = [
        Avp.of("Session-Id", "s"),
        Avp.of("Auth-Application-Id", SWM_APPLICATION),
        Avp.of("Origin-Host", "epdg.x"),
        Avp.of("Origin-Realm", "x"),
        Avp.of("Destination-Realm", "x"),
        Avp.of("Auth-Request-Type", 3),
        Avp.of("EAP-Payload", b""),
        *extra,
    ]
    kept = tuple(avp for avp in avps if avp.name != without)
    return DiameterMessage(command=268, application=SWM_APPLICATION, request=True, avps=kept)


def refusal(message: DiameterMessage) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check_request(message)
    return caught.value


def test_a_good_request_passes() -> None:
    check_request(
        der(
            Avp.of("Route-Record", "relay"),
            Avp.of("Route-Record", "relay2"),
            Avp.of("Proxy-Info", (Avp.of("Proxy-Host", "p"), Avp.of("Proxy-State", b"\x01"))),
            Avp(code=9999, vendor=1, mandatory=False, data=b"x"),
        )
    )


@pytest.mark.parametrize(
    "name",
    [
        "Session-Id",
        "Auth-Application-Id",
        "Origin-Host",
        "Origin-Realm",
        "Destination-Realm",
        "Auth-Request-Type",
        "EAP-Payload",
    ],
)
def test_missing_avp(name: str) -> None:
    error = refusal(der(without=name))
    assert error.result is ResultCode.DIAMETER_MISSING_AVP
    assert error.failed is not None
    assert error.failed.name == name
    # The example has the shortest legal length and contains zeroes
    assert error.failed.data == bytes(4 if BY_NAME[name].type in (AvpType.UNSIGNED32, AvpType.INTEGER32) else 0)


def test_unknown_mandatory_avp() -> None:
    unknown = Avp(code=9999, vendor=1, mandatory=True, data=b"x")
    error = refusal(der(unknown))
    assert (error.result, error.failed) == (ResultCode.DIAMETER_AVP_UNSUPPORTED, unknown)


def test_unknown_mandatory_avp_in_a_group() -> None:
    unknown = Avp(code=9999, vendor=1, mandatory=True, data=b"x")
    proxy = (Avp.of("Proxy-Host", "p"), Avp.of("Proxy-State", b""), unknown)
    error = refusal(der(Avp.of("Proxy-Info", proxy)))
    assert error.result is ResultCode.DIAMETER_AVP_UNSUPPORTED
    assert error.failed == Avp.of("Proxy-Info", (unknown,))


def test_missing_avp_in_a_group() -> None:
    error = refusal(der(Avp.of("Proxy-Info", (Avp.of("Proxy-Host", "p"),))))
    assert error.result is ResultCode.DIAMETER_MISSING_AVP
    assert error.failed == Avp.of("Proxy-Info", (Avp.of("Proxy-State", b""),))


def test_too_many() -> None:
    error = refusal(der(Avp.of("EAP-Payload", b"2")))
    assert error.result is ResultCode.DIAMETER_AVP_OCCURS_TOO_MANY_TIMES
    assert error.failed == Avp.of("EAP-Payload", b"2")


def test_value_of_the_wrong_length() -> None:
    error = refusal(der(Avp(code=1032, vendor=10415, data=b"\x01")))
    assert error.result is ResultCode.DIAMETER_INVALID_AVP_LENGTH
    assert error.failed == Avp(code=1032, vendor=10415, data=bytes(4))


# What a trace shows


def test_description_hides_secrets() -> None:
    key = b"\x5a" * 64
    message = DiameterMessage(
        command=268,
        application=SWM_APPLICATION,
        request=False,
        avps=(
            Avp.of("EAP-Master-Session-Key", key),
            Avp.of("Result-Code", 2001),
            Avp.of("Route-Record", "a"),
            Avp.of("Route-Record", "b"),
            Avp(code=1, data=b"\xff"),
        ),
    )
    detail = message.detail()
    assert key.hex() not in json.dumps(detail)
    assert detail["Result-Code"] == "DIAMETER_SUCCESS (2001)"
    assert detail["Route-Record"] == ["a", "b"]
    assert detail["User-Name"] == "ff"
    octets = encode_message(message)
    masked = redact(octets)
    assert len(masked) == len(octets)
    assert key not in masked
    assert decode_message(masked).octets("EAP-Master-Session-Key") == bytes(64)
    assert decode_message(masked).integer("Result-Code") == 2001
    # Cut in the middle of the key: nothing of it stays
    assert b"\x5a" not in redact(octets[:60])


def test_description_of_groups_in_groups_ends() -> None:
    avp = Avp.of("Failed-AVP", ())
    for _ in range(500):
        avp = Avp.of("Failed-AVP", (avp,))
    message = DiameterMessage(command=268, application=SWM_APPLICATION, request=False, avps=(avp,))
    assert "Failed-AVP" in message.detail()
    assert len(redact(encode_message(message))) == 20 + len(avp.encode())


# Recorded runs and independent implementations


def as_listed(avp: Avp, listed: dict[str, object]) -> None:
    """Compare an AVP with a recorded one, groups member by member."""
    assert (avp.code, avp.vendor, avp.mandatory) == (
        listed["code"],
        listed["vendor"],
        bool(int(str(listed["flags"])) & 0x40),
    )
    members = listed.get("avps")
    if members is None:
        assert avp.data.hex() == listed["hex"]
        return
    assert isinstance(members, list)
    value = avp.value
    assert isinstance(value, tuple)
    assert len(value) == len(members)
    for member, expected in zip(value, members, strict=True):
        as_listed(member, expected)


def test_recorded_messages_round_trip() -> None:
    shared(RUNS)
    messages = recorded()
    assert len(messages) > 50
    for entry in messages:
        octets = bytes.fromhex(str(entry["hex"]))
        message = decode_message(octets)
        assert encode_message(message) == octets, entry["name"]
        assert (message.application, message.command) == (entry["app"], entry["cmd"])
        listed = entry["avps"]
        assert isinstance(listed, list)
        assert len(listed) == len(message.avps)
        for avp, expected in zip(message.avps, listed, strict=True):
            as_listed(avp, expected)
        message.detail()


def test_recorded_swm_requests_pass_the_check() -> None:
    shared(RUNS)
    checked = 0
    for entry in recorded():
        if entry["app"] == SWM_APPLICATION and int(str(entry["flags"])) & 0x80:
            check_request(decode_message(bytes.fromhex(str(entry["hex"]))))
            checked += 1
    assert checked >= 4


def test_recorded_base_requests_pass_the_check() -> None:
    # Open5GS, freeDiameter and python-diameter each with their own CER and DPR
    shared(RUNS)
    names = set()
    for entry in recorded():
        if entry["app"] == 0 and int(str(entry["flags"])) & 0x80:
            check_request(decode_message(bytes.fromhex(str(entry["hex"]))))
            names.add(entry["name"])
    assert names >= {"CER", "DPR"}


def test_package_codec_agrees() -> None:
    """python-diameter reads the same header and AVPs as we do, and both write the same octets."""
    shared(RUNS)
    for entry in recorded():
        octets = bytes.fromhex(str(entry["hex"]))
        ours, theirs = decode_message(octets), Message.from_bytes(octets, plain_msg=True)
        assert theirs.header.hop_by_hop_identifier == ours.hop_by_hop
        assert theirs.header.end_to_end_identifier == ours.end_to_end
        assert theirs.header.is_request == ours.request
        assert [(a.code, a.vendor_id, a.is_mandatory, a.payload) for a in theirs.avps] == [
            (a.code, a.vendor, a.mandatory, a.data) for a in ours.avps
        ]
        for avp in ours.avps:
            definition = BY_CODE.get((avp.vendor, avp.code))
            if definition is not None and definition.type in (AvpType.UNSIGNED32, AvpType.INTEGER32):
                number = PackageAvp.from_bytes(avp.encode()).value
                assert isinstance(number, int)
                assert number & 0xFFFFFFFF == int(str(avp.value)) & 0xFFFFFFFF
        assert theirs.as_bytes() == encode_message(ours)


def test_capture_of_a_relay() -> None:
    """Every message that freeDiameter relayed in the capture decodes and round-trips."""
    capture = shared("captures/swm_freediameter_relay.pcapng")
    if which("tshark") is None:
        pytest.skip("tshark is not installed")
    streams = subprocess.run(
        ["tshark", "-r", capture, "-Y", "tcp.len > 0", "-T", "fields", "-e", "tcp.stream", "-e", "tcp.srcport"]
        + ["-e", "tcp.payload"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    framers: dict[tuple[str, str], Framer] = {}
    names = []
    for line in streams.splitlines():
        stream, port, payload = line.split("\t")
        framer = framers.setdefault((stream, port), Framer())
        framer.feed(bytes.fromhex(payload))
        while (octets := framer.next()) is not None:
            message = decode_message(octets)
            assert encode_message(message) == octets
            names.append(message.name)
            if message.name == "DER":
                check_request(message)
    assert all(framer.pending == 0 for framer in framers.values())
    assert {"CER", "CEA", "DWR", "DWA", "DER", "DEA", "ASR", "ASA", "DPR", "DPA"} <= set(names)
