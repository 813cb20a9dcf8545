"""A bundle of evidence before tshark: decrypted by the profile in it, readable without one, every packet explained."""

from __future__ import annotations

from pathlib import Path

import pytest

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
