"""SWx, S6b and SWm messages as tshark and pycrate read them, and in the form of Open5GS's.

Three judges that know nothing of this project: every message decodes without complaint, with the same AVPs,
flags, vendors and values; where Open5GS sent the same command, it is the same in form.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from protocols.diameter import s6b
from protocols.diameter.codec import Avp, AvpContainer, AvpGroup, DiameterMessage, decode_message, encode_message
from protocols.diameter.framing import Framer
from protocols.diameter.swx import Maa, Mar, Saa, Sar
from tests.harness.diameter_capture import capture
from tests.harness.diameter_messages import S6B, SWM, SWX, Answer, Request
from tests.harness.material import shared
from tests.peers.tshark import Tshark

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pycrate_diameter = pytest.importorskip("pycrate_diameter.Diameter3GPP")

RUNS = "vectors/runs/diameter_gtpv2_open5gs.json"
CAPTURE = "captures/open5gs_swx_s6b_s2b.pcapng"


def messages() -> list[DiameterMessage]:
    """Every example, its answer after it."""
    made = []
    for number, (request, answer) in enumerate((*SWX, *S6B, *SWM)):
        message = replace(request.to_message(), hop_by_hop=number + 1, end_to_end=number + 1)
        made += [message, answer.to_message(message)]
    return made


def identifier(message: DiameterMessage) -> str:
    return f"{message.application}-{message.name}"


# --- tshark ---------------------------------------------------------------------------------------------

# tshark 4.0 has no entry of this name, or reads the octets in a way of its own
UNNAMED = {"Software-Version"}


def leaves(container: AvpContainer) -> Iterator[tuple[str, str]]:
    """tshark's field and what it shows, for every AVP that is no group."""
    for avp in container.avps:
        value = avp.value
        name = f"diameter.{avp.name}"
        if isinstance(value, tuple):
            yield from leaves(AvpGroup(value))
        elif isinstance(value, IPv4Address):
            yield f"{name}.IPv4", str(value)
        elif isinstance(value, IPv6Address):
            yield f"{name}.IPv6", str(value)
        elif avp.name == "Visited-Network-Identifier":
            yield name, avp.data.hex()
        else:
            yield name, value.hex() if isinstance(value, bytes) else str(value)


def test_tshark_reads_the_same_values(tmp_path: Path) -> None:
    made = messages()
    written = capture(tmp_path / "applications.pcap", made)
    tshark = Tshark(tmp_path)
    assert tshark.complaints(written) == []
    wanted = [list(leaves(message)) for message in made]
    names = sorted({name for rows in wanted for name, _ in rows if name.partition(".")[2] not in UNNAMED})
    rows = tshark.fields(written, (*names, "diameter.applicationId", "diameter.cmd.code"), display_filter="diameter")
    assert len(rows) == len(made)
    for message, row, expected in zip(made, rows, wanted, strict=True):
        assert int(row["diameter.applicationId"][0]) == message.application
        assert int(row["diameter.cmd.code"][0]) == message.command
        for name in names:
            assert row[name] == [value for held, value in expected if held == name], f"{message.name}: {name}"


# --- pycrate --------------------------------------------------------------------------------------------

Read = tuple[int, int, bool, object]


def ours(container: AvpContainer) -> list[Read]:
    """Code, vendor, M flag and value of every AVP, groups as lists."""
    return [(avp.code, avp.vendor, avp.mandatory, our_value(avp)) for avp in container.avps]


def our_value(avp: Avp) -> object:
    if avp.name == "3GPP-Charging-Characteristics":  # pycrate takes 3GPP's code 13 for Framed-Compression
        return int.from_bytes(avp.data, "big")
    if avp.name == "Mobile-Node-Identifier":  # text after RFC 5779 §6.6, octets to pycrate
        return avp.data
    value = avp.value
    return ours(AvpGroup(value)) if isinstance(value, tuple) else value


def is_mistaken(avp: Avp) -> bool:
    """pycrate takes RFC 7683's codes 621 and 623 for 3GPP's, which are no groups."""
    return avp.name in ("OC-Supported-Features", "OC-OLR")


def theirs(avps: Iterator[object]) -> list[Read]:
    """The same out of pycrate's elements."""
    read: list[Read] = []
    for avp in avps:
        header, data = avp[0], avp[1]  # type: ignore[index]
        vendor = header["VendorID"].get_val() if header["V"].get_val() else 0
        read.append((header["Code"].get_val(), vendor, bool(header["M"].get_val()), their_value(data)))
    return read


def their_value(data: object) -> object:
    kind = type(data).__name__
    if kind == "Grouped":
        return theirs(iter(data))  # type: ignore[call-overload]
    value = data.get_val()  # type: ignore[attr-defined]
    if kind == "Address":
        return ip_address(value[1])
    return value.decode("ascii") if kind == "DiameterIdentity" else value


@pytest.mark.parametrize("message", messages(), ids=identifier)
def test_pycrate_reads_the_same(message: DiameterMessage) -> None:
    """Also the other way round: what pycrate encodes of what it read are our octets."""
    message = replace(message, avps=tuple(avp for avp in message.avps if not is_mistaken(avp)))
    octets = encode_message(message)
    read = pycrate_diameter.Diameter3GPP()
    read.from_bytes(octets)
    assert read["DiameterHdr"]["AppID"].get_val() == message.application
    assert read["DiameterHdr"]["Cmd"].get_val() == message.command
    assert bool(read["DiameterHdr"]["R"].get_val()) == message.request
    assert theirs(iter(read["AVPs"])) == ours(message)
    assert read.to_bytes() == octets


# --- Open5GS --------------------------------------------------------------------------------------------


KINDS: dict[tuple[int, str], type[Request] | type[Answer]] = {
    (16777265, "MAR"): Mar,
    (16777265, "MAA"): Maa,
    (16777265, "SAR"): Sar,
    (16777265, "SAA"): Saa,
    (16777272, "AAR"): s6b.Aar,
    (16777272, "AAA"): s6b.Aaa,
    (16777272, "STR"): s6b.Str,
    (16777272, "STA"): s6b.Sta,
}


def again(message: DiameterMessage) -> DiameterMessage:
    """The message as we write it once we have read it."""
    kind = KINDS[message.application, message.name]
    read = kind.from_message(message)
    if message.request:
        assert not hasattr(read, "result")
        return read.to_message()  # type: ignore[call-arg]
    asked = replace(message, request=True, avps=message.find_all("Session-Id"))
    return read.to_message(asked)  # type: ignore[call-arg]


def form(container: AvpContainer) -> list[object]:
    """Code, vendor, M flag and value or members of every AVP, without their order."""
    return sorted(
        (
            (avp.code, avp.vendor, avp.mandatory, form(AvpGroup(value)) if isinstance(value, tuple) else value)
            for avp in container.avps
            for value in [avp.value]
        ),
        key=repr,
    )


def assert_same_form(message: DiameterMessage) -> None:
    written = again(message)
    item = message.group("3GPP-SIP-Auth-Data-Item")
    if message.request and item is not None and item.find("3GPP-SIP-Authentication-Scheme") is None:
        # Open5GS's AAA server leaves the scheme out of a resynchronisation; TS 29.273 §8.1.2.1.1 demands it
        ours_item = written.group("3GPP-SIP-Auth-Data-Item")
        assert ours_item is not None
        assert form(ours_item)[1:] == form(item)
        written, message = (
            replace(held, avps=tuple(avp for avp in held.avps if avp.name != "3GPP-SIP-Auth-Data-Item"))
            for held in (written, message)
        )
    assert (written.command, written.application, written.request, written.proxiable) == (
        message.command,
        message.application,
        message.request,
        message.proxiable,
    )
    assert form(written) == form(message)


def test_recorded_messages_of_open5gs_are_written_alike() -> None:
    """The same AVPs with the same flags, vendors and values, in whatever order."""
    entries = json.loads(shared(RUNS).read_text())["diameter"]
    # In the other runs one end is python-diameter
    hexes = [entry["hex"] for entry in entries if entry["capture"] == "open5gs_non3gpp.pcapng"]
    recorded = [decode_message(bytes.fromhex(text)) for text in hexes]
    taken = [message for message in recorded if (message.application, message.name) in KINDS]
    assert {(message.application, message.name) for message in taken} == set(KINDS)
    for message in taken:
        assert_same_form(message)


def test_captured_messages_of_open5gs_are_written_alike(tmp_path: Path) -> None:
    rows = Tshark(tmp_path).fields(shared(CAPTURE), ("tcp.payload",), display_filter="diameter")
    seen = set()
    for row in rows:
        framer = Framer()
        framer.feed(bytes.fromhex("".join(row["tcp.payload"])))
        while (octets := framer.next()) is not None:
            message = decode_message(octets)
            if (message.application, message.name) in KINDS:
                seen.add((message.application, message.name))
                assert_same_form(message)
    assert seen == set(KINDS)
