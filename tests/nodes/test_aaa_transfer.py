"""`aaa subscriber import` and `export`: the CSV of SIM vendors, the YAML form, all or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aaa.command_line import application
from aaa.subscribers import (
    Algorithm,
    ApnSubscription,
    PdnType,
    SqnScheme,
    Subscriber,
    SubscriberDatabase,
)
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.milenage import derive_opc
from protocols.algorithms.sqn import SqnGeneration
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi, Plmn

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 §4.3.1, set 1
MANY = 8_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'aaa.db'}"


@pytest.fixture
def database(url: str) -> Iterator[SubscriberDatabase]:
    with SubscriberDatabase(url) as opened:
        opened.migrate()
        yield opened


def imported(url: str, file: Path, text: str, *words: str) -> Result:
    """The command over a file with this text."""
    file.write_text(text)
    return CliRunner().invoke(application, ["subscriber", "import", str(file), "--database", url, *words])


def exported(url: str, *words: str) -> str:
    result = CliRunner().invoke(application, ["subscriber", "export", "--database", url, *words])
    assert result.exit_code == 0, result.output
    return str(result.output)


def imsi(number: int) -> str:
    return f"00101{number:010d}"


# --- CSV --------------------------------------------------------------------------------------------

SPACED = " ".join(K[at : at + 2] for at in range(0, 32, 2))


@pytest.mark.parametrize("text", ["", "IMSI,Ki,OPc\n", "# nobody\n"])
def test_a_file_without_subscribers_is_refused(url: str, tmp_path: Path, text: str) -> None:
    result = imported(url, tmp_path / "cards.csv", text)
    assert result.exit_code == 2
    assert result.stderr == f"nothing imported: {tmp_path / 'cards.csv'} holds no subscriber\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{imsi(1)},{K},{OPC}\n",
        f"IMSI,Ki,OPc\n{imsi(1)},{K},{OPC}\n",
        f"IMSI;Ki;OPc\r\n{imsi(1)};{K.upper()};{OPC}\r\n",
        f"imsi ki opc\n{imsi(1)} {K} {OPC}",
        f"# made for tests\n\nIMSI\tKI\tOPC\n{imsi(1)}\t{SPACED}\t{OPC}\n",
        f'"ICCID","IMSI","PIN1","Ki","OPc","ADM1"\n"8949","{imsi(1)}","1234","{K}","{OPC}","77"\n',
        f"IMSI, Ki, OP, OPc\n{imsi(1)}, {SPACED}, {'00' * 16}, {OPC}\n",
        f"\ufeffIMSI,Ki,OPc,MSISDN\n{imsi(1)},{K},{OPC},\n",
    ],
)
def test_shapes_of_vendors(url: str, database: SubscriberDatabase, tmp_path: Path, text: str) -> None:
    result = imported(url, tmp_path / "cards.csv", text)
    assert result.output == "1 subscriber imported\n"
    found = database.get(Imsi(imsi(1)))
    assert found is not None
    assert (found.k.reveal().hex(), found.opc and found.opc.reveal().hex()) == (K, OPC)
    assert [str(apn.apn) for apn in found.apns] == ["internet"]


def test_optional_columns_and_options(url: str, database: SubscriberDatabase, tmp_path: Path) -> None:
    text = (
        "IMSI,Ki,OPc,Algorithm,AMF,SQN,MSISDN,IMEI\n"
        f"{imsi(1)},{K},{OPC},Milenage,b9b9,0000000000ff,49171,490154203237518\n"
        f"{imsi(2)},{K},{OPC * 2},TUAK,,,,\n"
        f"{imsi(3)},{K},,xor,,,,\n"
    )
    result = imported(url, tmp_path / "cards.csv", text, "--amf", "8001", "--apn", "ims,qci=5", "--apn", "internet")
    assert result.exit_code == 0, result.output
    first, second, third = database.all()
    assert (first.amf.hex(), first.sequence, first.msisdn, first.imei) == ("b9b9", 7, "49171", "490154203237518")
    assert (second.algorithm, second.amf.hex()) == (Algorithm.TUAK, "8001")
    assert (third.algorithm, third.opc, third.msisdn) == (Algorithm.XOR, None, None)
    assert [(str(apn.apn), apn.qci, apn.is_default) for apn in third.apns] == [("ims", 5, True), ("internet", 9, False)]


BAD = (
    f"IMSI,Ki,OPc\n{imsi(1)},{K},{OPC}\n"
    f"{imsi(2)},{K[:-1]},{OPC}\n"
    f"00101x,{K},{OPC}\n"
    f"{imsi(3)},{K}\n"
    f"{imsi(1)},{K},{OPC}\n"
    f"{imsi(4)},{K},{OPC[:-1]}z\n"
    f"{imsi(5)},{K},\n"
    f"{imsi(6)},{K},{OPC}\n"
)
COMPLAINTS = [
    "3: k: got 31 characters that are not shown, expected 32 hexadecimal digits",
    "4: imsi: got '00101x', expected 6 to 15 digits",
    "5: line: got 2 columns, expected 3 columns",
    f"6: imsi: got '{imsi(1)}', expected every IMSI once, and line 2 has it",
    "7: opc: got 32 characters that are not shown, expected 32 hexadecimal digits",
    "8: subscriber: got values that do not go together, expected milenage takes either OP or OPc",
]


def test_all_or_nothing(url: str, database: SubscriberDatabase, tmp_path: Path) -> None:
    """Every bad line has its line, no key is echoed, nothing is stored, exit status 2."""
    file = tmp_path / "cards.csv"
    result = imported(url, file, BAD)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines == [*(f"{file}:{line}" for line in COMPLAINTS), "nothing imported: 6 bad lines, 2 good ones"]
    assert database.count() == 0
    skipping = imported(url, file, BAD, "--skip-bad")
    assert skipping.exit_code == 0
    assert skipping.stdout == "2 subscribers imported, 6 bad lines left out\n"
    assert [str(found.imsi) for found in database.all()] == [imsi(1), imsi(6)]


def test_what_is_provisioned_stays_without_replace(url: str, database: SubscriberDatabase, tmp_path: Path) -> None:
    text = f"{imsi(1)},{K},{OPC}\n{imsi(2)},{K},{OPC}\n"
    file = tmp_path / "cards.csv"
    database.add(replace(laboratory_subscriber(1), sequence=40))
    refused = imported(url, file, text)
    assert refused.exit_code == 2
    assert (
        f"{file}:1: imsi: got '{imsi(1)}', expected an IMSI that is not provisioned yet, or --replace" in refused.stderr
    )
    assert database.count() == 1
    assert imported(url, file, text, "--replace").stdout == "2 subscribers imported\n"
    changed = database.get(Imsi(imsi(1)))
    assert changed is not None
    assert (changed.k.reveal().hex(), changed.sequence) == (K, 0)  # another USIM
    database.change_sequence(Imsi(imsi(1)), lambda state: replace(state, seq=99))
    assert imported(url, file, text, "--replace").exit_code == 0
    assert database.sequence(Imsi(imsi(1))) == 99  # the same one


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "Name,Number\na,b\n", "expected IMSI,Ki,OPc or a header that has IMSI and Ki"),
        ("a.csv", "IMSI,Ki,Ki\n", "expected IMSI,Ki,OPc"),
        ("a.yaml", "- imsi: 1\n", "expected a list below subscribers"),
        ("a.yaml", "subscribers:\n  - {imsi: 1, imsi: 2}\n", "got 'imsi' twice"),
        ("a.yaml", "subscribers:\n  - &a {imsi: 1}\n  - *a\n", "got an alias"),
        ("a.yaml", "subscribers: [\n", "got text that does not parse"),
        ("a.yaml", "subscribers: []\nothers: []\n", "expected subscribers alone"),
        ("a.yaml", "subscribers:\n  - " + "[" * 50 + "]" * 50 + "\n", "got lists without end"),
        ("a.yaml", "subscribers:\n  - imsi\n", "item: got no mapping"),
        ("a.yaml", f"subscribers:\n  - {{imsi: {imsi(1)}, k: {K}, opc: {OPC}, colour: red}}\n", "an unknown field"),
    ],
)
def test_files_that_are_none(url: str, tmp_path: Path, name: str, text: str, words: str) -> None:
    result = imported(url, tmp_path / name, text)
    assert result.exit_code == 2
    assert words in result.stderr.splitlines()[0]
    assert str(tmp_path / name) in result.stderr.splitlines()[0]
    assert K not in result.output


def test_a_file_that_is_not_there(url: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(application, ["subscriber", "import", str(tmp_path / "no.csv"), "--database", url])
    assert (result.exit_code, result.stderr) == (2, f"{tmp_path / 'no.csv'}: No such file or directory\n")


def test_many_subscribers(url: str, database: SubscriberDatabase, tmp_path: Path) -> None:
    """Transactions of some thousands; more bad lines than anybody reads are counted."""
    keys = (hashlib.md5(f"{number}".encode(), usedforsecurity=False).hexdigest() for number in range(MANY))
    text = "".join(f"{imsi(number)},{key},{key}\n" for number, key in enumerate(keys))
    file = tmp_path / "cards.csv"
    assert imported(url, file, text).stdout == f"{MANY} subscribers imported\n"
    assert database.count() == MANY
    again = imported(url, file, text)
    assert again.exit_code == 2
    assert again.stderr.splitlines()[-2:] == [
        f"{file}: {MANY - 100} more bad lines",
        f"nothing imported: {MANY} bad lines, 0 good ones",
    ]


# --- export -----------------------------------------------------------------------------------------

EVERYTHING = Subscriber(
    imsi=Imsi("310260123456789"),
    k=Secret(bytes(range(32))),
    op=Secret(bytes(range(32, 64))),
    algorithm=Algorithm.TUAK,
    tuak_iterations=3,
    res_length=16,
    amf=bytes.fromhex("b9b9"),
    sqn_scheme=SqnScheme(SqnGeneration.PARTLY_TIME_BASED, 0),
    sequence=77,
    enabled=False,
    non_3gpp_allowed=False,
    msisdn="491710000042",
    roaming_allowed=False,
    visited_networks=(Plmn("262", "02"), Plmn("310", "260")),
    wlan_allowed=False,
    ambr_uplink_bits=5,
    ambr_downlink_bits=6,
    session_timeout=3600,
    imei="490154203237518",
    apns=(
        ApnSubscription(
            apn=Apn("ims"),
            pdn_type=PdnType.IPV4_OR_IPV6,
            ambr_uplink_bits=1,
            ambr_downlink_bits=4_294_967_295,
            static_ipv4=IPv4Address("10.45.0.7"),
            static_ipv6=IPv6Network("2001:db8:0:1::/64"),
            qci=5,
            priority_level=1,
            pre_emption_capability=True,
            pre_emption_vulnerability=False,
            visited_dynamic_address=True,
            pgw="pgw.example.org",
        ),
        ApnSubscription(apn=Apn("internet"), is_default=True),
    ),
)


def test_yaml_holds_everything(url: str, database: SubscriberDatabase, tmp_path: Path) -> None:
    everybody = [laboratory_subscriber(1), replace(laboratory_subscriber(2), apns=(), op=Secret(bytes(16)), opc=None)]
    everybody.append(EVERYTHING)
    database.put(everybody)
    text = exported(url, "--format", "yaml", "--secrets")
    for subscriber in everybody:
        database.remove(subscriber.imsi)
    assert imported(url, tmp_path / "all.yaml", text).stdout == "3 subscribers imported\n"
    assert list(database.all()) == everybody


def test_csv_holds_what_vendors_deliver(url: str, database: SubscriberDatabase, tmp_path: Path) -> None:
    op = Secret(bytes(range(16)))
    user = replace(laboratory_subscriber(2), opc=None, op=op, msisdn="49171")
    database.put([laboratory_subscriber(1), user, EVERYTHING])
    file = tmp_path / "cards.csv"
    result = CliRunner().invoke(
        application, ["subscriber", "export", str(file), "--secrets", "--imsi-prefix", "00101", "--database", url]
    )
    assert (result.exit_code, result.output) == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    header, first, second = file.read_text().splitlines()
    assert header == "imsi,ki,opc,algorithm,amf,sqn,msisdn"
    assert first.startswith(f"{imsi(1)},{laboratory_subscriber(1).k.reveal().hex()},")
    assert second.split(",")[2] == derive_opc(user.k, op).reveal().hex()
    database.remove(user.imsi)
    database.remove(laboratory_subscriber(1).imsi)
    assert imported(url, file, file.read_text()).stdout == "2 subscribers imported\n"


def test_an_export_that_cannot_be_written_is_one_line(url: str, database: SubscriberDatabase) -> None:
    database.put([laboratory_subscriber(1)])
    result = CliRunner().invoke(application, ["subscriber", "export", "/dev/full", "--database", url])
    assert (result.exit_code, result.stderr) == (1, "/dev/full cannot be written: No space left on device\n")


@pytest.mark.parametrize("command", ["list", "export"])
@pytest.mark.parametrize("prefix", ["00101x", "%", "\udcff", "0" * 16, ""])
def test_the_first_digits_of_imsis_are_digits(url: str, command: str, prefix: str) -> None:
    result = CliRunner().invoke(application, ["subscriber", command, f"--imsi-prefix={prefix}", "--database", url])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"command line: --imsi-prefix: got {prefix!r}, expected up to 15 digits")


def test_text_that_no_database_holds_is_one_line(url: str, database: SubscriberDatabase) -> None:
    result = CliRunner().invoke(application, ["subscriber", "list", "--text", "\udcff", "--database", url])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("form", ["csv", "yaml"])
def test_keys_leave_on_demand_only(url: str, database: SubscriberDatabase, form: str) -> None:
    database.put([EVERYTHING, laboratory_subscriber(1)])
    text = exported(url, "--format", form)
    assert str(EVERYTHING.imsi) in text
    for subscriber in (EVERYTHING, laboratory_subscriber(1)):
        for key in (subscriber.k, subscriber.op, subscriber.opc):
            assert key is None or key.reveal().hex() not in text
