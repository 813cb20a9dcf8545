"""Identities of TS 23.003: IMSI, PLMN, NAI, APN, ePDG FQDN."""

from __future__ import annotations

import pytest

from protocols.threegpp.identity import Apn, IdentityKind, Imsi, Nai, Plmn, epdg_fqdn

IMSI = Imsi("001010000000001")
REALM = "nai.epc.mnc001.mcc001.3gppnetwork.org"


def test_imsi() -> None:
    assert (IMSI.mcc, IMSI.mnc(2), IMSI.mnc(3)) == ("001", "01", "010")
    assert IMSI.plmn(2) == Plmn("001", "01")
    assert str(IMSI) == "001010000000001"
    assert IMSI.belongs_to(Plmn("001", "01"))
    assert IMSI.belongs_to(Plmn("001", "001"))  # as a realm pads it
    assert not IMSI.belongs_to(Plmn("001", "02"))
    with pytest.raises(ValueError, match="two or three digits"):
        IMSI.mnc(4)


@pytest.mark.parametrize(
    "text", ["", "12345", "1234567890123456", "00101000000000a", "00101000000000١", " 001010000000001"]
)
def test_imsi_of_wrong_shape(text: str) -> None:
    with pytest.raises(ValueError, match="6 to 15 digits"):
        Imsi(text)


@pytest.mark.parametrize("text", ["001-01", "001/01", "00101"])
def test_plmn(text: str) -> None:
    plmn = Plmn.parse(text)
    assert plmn == Plmn("001", "01")
    assert plmn.domain == "mnc001.mcc001.3gppnetwork.org"
    assert str(plmn) == "001-01"
    assert epdg_fqdn(plmn) == "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
    assert epdg_fqdn(plmn, emergency=True) == "sos.epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"


@pytest.mark.parametrize("text", ["", "1-1", "0010", "0010101", "00x01"])
def test_plmn_of_wrong_shape(text: str) -> None:
    with pytest.raises(ValueError, match="PLMN"):
        Plmn.parse(text)


def test_plmn_parts_are_checked() -> None:
    with pytest.raises(ValueError, match="MCC"):
        Plmn("01", "01")
    with pytest.raises(ValueError, match="MNC"):
        Plmn("001", "1")


@pytest.mark.parametrize(
    ("text", "kind", "imsi"),
    [
        (f"0001010000000001@{REALM}", IdentityKind.PERMANENT_AKA, "001010000000001"),
        ("0001010000000001", IdentityKind.PERMANENT_AKA, "001010000000001"),
        (f"6001010000000001@{REALM}", IdentityKind.PERMANENT_AKA_PRIME, "001010000000001"),
        (f"1001010000000001@{REALM}", IdentityKind.PERMANENT_SIM, "001010000000001"),
        (f"001010000000001@{REALM}", IdentityKind.UNPREFIXED_IMSI, "001010000000001"),
        ("262011234567890@nai.epc.mnc001.mcc262.3gppnetwork.org", IdentityKind.UNPREFIXED_IMSI, "262011234567890"),
        ("0262011234567890@nai.epc.mnc001.mcc262.3gppnetwork.org", IdentityKind.PERMANENT_AKA, "262011234567890"),
        ("901700000000001", IdentityKind.UNPREFIXED_IMSI, "901700000000001"),
        (f"2qwertz@{REALM}", IdentityKind.PSEUDONYM_AKA, None),
        ("262011234567890", IdentityKind.PSEUDONYM_AKA, None),
        (f"4EPC+AAAV6u@{REALM}", IdentityKind.REAUTHENTICATION_AKA, None),
        (f"7pseudo@{REALM}", IdentityKind.PSEUDONYM_AKA_PRIME, None),
        ("anonymous@example.org", IdentityKind.UNRECOGNISED, None),
        ("0notdigits@example.org", IdentityKind.UNRECOGNISED, None),
        ("0001010000000001@wlan.mnc001.mcc001.3gppnetwork.org", IdentityKind.PERMANENT_AKA, "001010000000001"),
        (
            f"{REALM}!0001010000000001@nai.epc.mnc002.mcc002.3gppnetwork.org",
            IdentityKind.PERMANENT_AKA,
            "001010000000001",
        ),
    ],
)
def test_nai(text: str, kind: IdentityKind, imsi: str | None) -> None:
    nai = Nai.parse(text)
    assert nai.kind is kind
    assert nai.imsi == (Imsi(imsi) if imsi else None)
    assert str(nai) == text


def test_root_and_decorated_nai() -> None:
    nai = Nai.root(IMSI, Plmn("001", "01"))
    assert str(nai) == f"0001010000000001@{REALM}"
    assert nai.plmn == Plmn("001", "001")
    assert str(Nai.root(IMSI, Plmn("001", "01"), emergency=True)) == f"0001010000000001@sos.{REALM}"
    decorated = Nai.parse("home.example!0001010000000001@visited.example")
    assert decorated.home_realm == "home.example"
    assert decorated.decoration == ("home.example",)
    assert decorated.plmn is None


HOME = Plmn("234", "15")
VISITED = Plmn("610", "71")
HOME_REALM = "nai.epc.mnc015.mcc234.3gppnetwork.org"
VISITED_REALM = "nai.epc.mnc071.mcc610.3gppnetwork.org"
ROOT = Nai.root(Imsi("234150999999999"), HOME)


@pytest.mark.parametrize(
    ("digit", "permanent", "pseudonym", "reauthentication"),
    [("0", "0", "2", "4"), ("6", "6", "7", "8")],
)
def test_leading_digits_by_method(digit: str, permanent: str, pseudonym: str, reauthentication: str) -> None:
    root = Nai.root(Imsi("234150999999999"), HOME, leading_digit=digit)
    assert str(root) == f"{permanent}234150999999999@{HOME_REALM}"
    assert root.kind.permanent
    hidden = root.temporary(f"{pseudonym}58405627015")
    assert str(hidden) == f"{pseudonym}58405627015@{HOME_REALM}"
    assert hidden.kind.pseudonym
    assert not hidden.kind.permanent
    again = root.temporary(f"{reauthentication}58405627015")
    assert again.kind.reauthentication
    assert (hidden.imsi, again.imsi) == (None, None)


def test_decorated_nai_of_a_visited_network() -> None:
    decorated = ROOT.decorated(VISITED)
    assert str(decorated) == f"{HOME_REALM}!0234150999999999@{VISITED_REALM}"
    assert Nai.parse(str(decorated)) == decorated
    assert (decorated.home_realm, decorated.undecorated) == (HOME_REALM, ROOT)
    assert decorated.plmn == Plmn("234", "015")
    assert decorated.imsi == Imsi("234150999999999")
    assert ROOT.undecorated == ROOT


@pytest.mark.parametrize(
    ("given", "visited", "expected"),
    [
        ("458405627015", False, f"458405627015@{HOME_REALM}"),
        (f"458405627015@aaa1.{HOME_REALM}", False, f"458405627015@aaa1.{HOME_REALM}"),
        (f"458405627015@aaa1.{HOME_REALM}", True, f"458405627015@aaa1.{HOME_REALM}"),
        ("458405627015", True, f"{HOME_REALM}!458405627015@{VISITED_REALM}"),
        ("258405627015", True, f"{HOME_REALM}!258405627015@{VISITED_REALM}"),
    ],
)
def test_temporary_identities_as_nai(given: str, visited: bool, expected: str) -> None:
    permanent = ROOT.decorated(VISITED) if visited else ROOT
    assert str(permanent.temporary(given)) == expected


@pytest.mark.parametrize("given", ["", "a b", "x" * 254, "@realm"])
def test_temporary_identities_that_are_none(given: str) -> None:
    with pytest.raises(ValueError, match="NAI"):
        ROOT.temporary(given)


def test_emergency_nai() -> None:
    by_imsi = Nai.root(Imsi("234150999999999"), HOME, emergency=True)
    assert str(by_imsi) == f"0234150999999999@sos.{HOME_REALM}"
    assert by_imsi.emergency
    assert (by_imsi.kind, by_imsi.imsi) == (IdentityKind.PERMANENT_AKA, Imsi("234150999999999"))
    roaming = ROOT.decorated(VISITED, emergency=True)
    assert str(roaming) == f"{HOME_REALM}!0234150999999999@sos.{VISITED_REALM}"
    assert roaming.emergency
    by_imei = Nai.emergency_imei("219551288888888", Plmn("345", "12"))
    assert str(by_imei) == "imei219551288888888@sos.nai.epc.mnc012.mcc345.3gppnetwork.org"
    assert (by_imei.kind, by_imei.imei, by_imei.mac) == (IdentityKind.EMERGENCY_IMEI, "219551288888888", None)
    by_mac = Nai.emergency_mac(bytes.fromhex("4445535400ab"), Plmn("345", "12"))
    assert str(by_mac) == "mac4445535400AB@sos.nai.epc.mnc012.mcc345.3gppnetwork.org"
    assert (by_mac.kind, by_mac.imei, by_mac.mac) == (IdentityKind.EMERGENCY_MAC, None, bytes.fromhex("4445535400ab"))
    assert Nai.parse(str(by_mac)) == by_mac
    elsewhere = Nai.parse("imei219551288888888@example.org")
    assert (elsewhere.kind, elsewhere.imei, elsewhere.emergency) == (IdentityKind.UNRECOGNISED, None, False)
    assert not Nai.parse("x@sos.example.org").emergency
    assert not ROOT.emergency


def test_emergency_nai_of_wrong_shape() -> None:
    with pytest.raises(ValueError, match="IMEI"):
        Nai.emergency_imei("123", HOME)
    with pytest.raises(ValueError, match="MAC"):
        Nai.emergency_mac(bytes(5), HOME)


def test_alternative_nai() -> None:
    nai = Nai.alternative("0234150999999999")
    assert str(nai) == "0234150999999999@unreachable.3gppnetwork.org"
    assert (nai.kind, nai.imsi) == (IdentityKind.ALTERNATIVE, None)
    with pytest.raises(ValueError, match="username"):
        Nai.alternative("")


@pytest.mark.parametrize(
    "text", ["", "@realm", "user@", "user@a..b", "a b@c", "us\ner", "!user@b", "home!@b", "x" * 254]
)
def test_nai_of_wrong_shape(text: str) -> None:
    with pytest.raises(ValueError, match="NAI"):
        Nai.parse(text)


def test_apn() -> None:
    assert Apn("IMS") == Apn("ims")
    assert str(Apn("Internet")) == "internet"
    full = Apn("ims.mnc001.mcc001.gprs")
    assert full.network_identifier == "ims"
    assert full.fqdn(Plmn("001", "01")) == "ims.apn.epc.mnc001.mcc001.3gppnetwork.org"


@pytest.mark.parametrize("text", ["", ".", "a..b", "-a", "a-", "a_b", "a" * 64, "ab." * 34 + "a"])
def test_apn_of_wrong_shape(text: str) -> None:
    with pytest.raises(ValueError, match="APN"):
        Apn(text)
