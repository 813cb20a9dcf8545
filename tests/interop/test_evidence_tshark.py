"""A bundle of evidence before tshark: decrypted by the profile in it, readable without one, every packet explained."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from lab.network.nat import Nat, NatKind
from lab.virtual.world import CORE_HOST, VirtualWorld, run
from protocols.trace.bundle import bundle as bundle_of
from protocols.trace.records import JsonValue, TraceRecord
from protocols.trace.selection import records_of
from tests.harness.evidence_story import told
from tests.peers.tshark import Tshark

ENCRYPTED = "isakmp.typepayload == 46"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with keys, unpacked."""
    return unpacked(tmp_path_factory.mktemp("evidence"), with_keys=True)


def unpacked(directory: Path, *, with_keys: bool) -> Path:
    for name, content in told(export_keys=True).files(with_keys=with_keys).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def judge(bundle: Path, tmp_path: Path, *, profile: bool = True) -> Tshark:
    return Tshark(tmp_path, bundle / "wireshark-profile" if profile else None)


def test_the_profile_in_the_bundle_opens_ike_and_esp(bundle: Path, tmp_path: Path) -> None:
    tshark, capture = judge(bundle, tmp_path), bundle / "capture.pcapng"
    eap = tshark.fields(capture, ("eap.type", "isakmp.messageid"), display_filter="isakmp && eap")
    assert [row["isakmp.messageid"] for row in eap] == [["0x00000001"], ["0x00000002"], ["0x00000002"]]
    assert [row["eap.type"] for row in eap] == [["23"], ["23"], []]  # AKA-Challenge twice, Success
    moves = tshark.fields(capture, ("ip.src",), display_filter="isakmp.notify.msgtype == 16400")
    assert {row["ip.src"][0] for row in moves} == {"10.2.0.2", "10.1.0.2"}  # UPDATE_SA_ADDRESSES
    echoes = tshark.fields(capture, ("ip.src", "icmp.type", "esp.icv_good"), display_filter="esp && icmp.type == 8")
    assert {row["ip.src"][0] for row in echoes} >= {"10.1.0.2", "10.2.0.2"}  # on both paths of the SA
    assert all(row["esp.icv_good"] == ["1"] for row in echoes)
    assert tshark.fields(capture, ("frame.number",), display_filter="esp && !icmp") == []
    spis = {row["esp.spi"][0] for row in tshark.fields(capture, ("esp.spi",), display_filter="icmp")}
    assert len(spis) == 4  # two of each end: one was rekeyed
    assert (
        len({row["isakmp.ispi"][0] for row in tshark.fields(capture, ("isakmp.ispi",), display_filter="isakmp")}) == 2
    )
    assert tshark.complaints(capture) == []


def test_without_the_profile_the_capture_stays_closed(bundle: Path, tmp_path: Path) -> None:
    tshark, capture = judge(bundle, tmp_path, profile=False), bundle / "capture.pcapng"
    assert tshark.fields(capture, ("frame.number",), display_filter="icmp || (isakmp && eap)") == []
    assert tshark.fields(capture, ("frame.number",), display_filter=ENCRYPTED) != []


def test_every_packet_says_whose_it_is_and_which_step(bundle: Path, tmp_path: Path) -> None:
    tshark, capture = judge(bundle, tmp_path), bundle / "capture.pcapng"
    rows = tshark.fields(capture, ("frame.comment",))
    # the aggregator of fields is the bar that stands between the parts of a comment
    whole = [" ".join(row["frame.comment"]) for row in rows]
    session = told(export_keys=True).session
    assert all(comment.startswith(f"IMSI {session['imsi']}, APN internet ") for comment in whole)
    rows = tshark.fields(capture, ("frame.comment",), display_filter="isakmp.exchangetype == 35 && ip.src == 10.1.0.2")
    steps = [" ".join(row["frame.comment"]) for row in rows]
    assert any("IKE_AUTH request 2: EAP-Response/AKA-Challenge [ EAP ]" in step for step in steps)
    assert all("sent by ue, received by epdg" in step for step in steps)
    assert any("retransmission" in comment for comment in whole)
    assert any("lost: epdg has no record of it" in comment for comment in whole)
    assert any("DEA: DIAMETER_SUCCESS (2001)" in comment for comment in whole)
    assert any("ESP 0x" in comment for comment in whole)


def test_addresses_have_names_for_who_wants_them(bundle: Path, tmp_path: Path) -> None:
    capture = bundle / "capture.pcapng"
    assert b"ue-10.2.0.2\0" in capture.read_bytes()
    assert judge(bundle, tmp_path).complaints(capture) == []


def test_the_decrypted_view_opens_without_any_profile(bundle: Path, tmp_path: Path) -> None:
    tshark, capture = judge(bundle, tmp_path, profile=False), bundle / "decrypted.pcapng"
    assert tshark.complaints(capture) == []
    rows = tshark.fields(capture, ("frame.protocols", "exported_pdu.ipv4_src", "isakmp.exchangetype"))
    assert {row["frame.protocols"][0] for row in rows} >= {"raw:ip:icmp:data", "exported_pdu:isakmp"}
    assert tshark.fields(capture, ("frame.number",), display_filter=ENCRYPTED) == []
    for named in (
        "isakmp.notify.msgtype == 16400",  # UPDATE_SA_ADDRESSES
        "isakmp.notify.msgtype == 16401",  # COOKIE2
        "isakmp.cfg.attr.internal_ip4_address == 10.45.0.2",
        "eap.type == 23",
        "diameter.cmd.code == 268",
        "diameter.cmd.code == 303",
        "icmp.type == 0 && ip.dst == 10.45.0.2",
    ):
        assert tshark.fields(capture, ("frame.number",), display_filter=named) != [], named
    inner = tshark.fields(capture, ("frame.number",), display_filter="icmp")
    outer = judge(bundle, tmp_path).fields(bundle / "capture.pcapng", ("frame.number",), display_filter="esp && icmp")
    assert len(inner) == len(outer)


def test_without_keys_the_capture_opens_and_tells_no_secret(tmp_path: Path) -> None:
    bundle = unpacked(tmp_path / "bundle", with_keys=False)
    tshark, capture = judge(bundle, tmp_path), bundle / "capture.pcapng"
    assert tshark.complaints(capture) == []
    assert tshark.fields(capture, ("frame.number",), display_filter="icmp || (isakmp && eap)") == []
    rows = tshark.fields(capture, ("diameter.EAP-Master-Session-Key",), display_filter="diameter.avp.code == 464")
    assert rows
    assert all(set(row["diameter.EAP-Master-Session-Key"][0].replace(":", "")) == {"0"} for row in rows)


def test_a_session_behind_a_nat_and_in_fragments_is_as_readable(tmp_path: Path) -> None:
    """Datagrams in both their forms, keepalives, RFC 7383's fragments, a mapping that changed."""

    async def story(world: VirtualWorld) -> tuple[list[TraceRecord], dict[str, JsonValue]]:
        await world.ue.call("ue.attach")
        await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=2)
        await world.advance(1)
        nat = world.accesses["home"].nat
        assert nat is not None
        nat.rebind()
        await world.advance(3)
        listed = await world.epdg.call("sessions.list")
        assert isinstance(listed, dict)
        assert isinstance(listed["sessions"], list)
        (session,) = listed["sessions"]
        assert isinstance(session, dict)
        return [record for node in (world.ue, world.epdg, world.aaa) for record in node.trace], session

    path = Impairments(delay=0.01)
    nat = Nat(NatKind.PORT_RESTRICTED, ip_address("198.51.100.1"), lifetime=30.0)
    home = AccessNetwork("home", ip_address("10.1.0.2"), uplink=path, downlink=path, nat=nat)
    changes = {"epdg": {"ike": {"fragment_size": 576}}}
    records, session = run(story, accesses=[home], export_keys=True, changes=changes)
    for name, content in bundle_of(records_of(records, session), session=session, with_keys=True).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    tshark, capture = judge(tmp_path, tmp_path), tmp_path / "capture.pcapng"
    assert tshark.complaints(capture) == []
    echoes = tshark.fields(capture, ("ip.src", "udp.srcport"), display_filter="esp && icmp.type == 8")
    assert {row["ip.src"][0] for row in echoes} == {"10.1.0.2", "198.51.100.1"}
    assert len({row["udp.srcport"][0] for row in echoes if row["ip.src"][0] == "198.51.100.1"}) == 2
    assert tshark.fields(capture, ("frame.number",), display_filter="esp && !icmp") == []
    fragments = tshark.fields(capture, ("frame.comment",), display_filter="isakmp.typepayload == 53")
    assert all(", fragment " in " ".join(row["frame.comment"]) for row in fragments)
    assert fragments
    clear = Tshark(tmp_path).fields(
        tmp_path / "decrypted.pcapng",
        ("isakmp.messageid", "eap.type"),
        display_filter="isakmp.typepayload == 37 && eap",
    )
    assert clear == [{"isakmp.messageid": ["0x00000001"], "eap.type": ["23"]}]  # CERT and EAP, whole again
