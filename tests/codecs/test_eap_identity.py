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
