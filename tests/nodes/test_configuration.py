"""Configuration files: what they say, and the one line that refuses them."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Network, IPv6Address
from pathlib import Path
from typing import Literal

import pytest
import typer
from pydantic import Field, field_validator
from typer.testing import CliRunner

from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import (
    AnyPort,
    ConfigurationModel,
    Count,
    Digits,
    Endpoint,
    FilePath,
    HexSecret,
    Interval,
    IpAddress,
    IpNetwork,
    Key128,
    Port,
    TextSecret,
    exit_on_error,
    load,
    parse,
)
from protocols.io.control import ControlError
from protocols.path import Endpoint as PathEndpoint
from protocols.secret import Secret

K = "465b5ce8b199b49faa5f0a2ee238a6bc"


class Flavour(Enum):
    MILENAGE = "milenage"
    TUAK = "tuak"


class Subscriber(ConfigurationModel):
    imsi: Digits = Field(pattern=r"^[0-9]{6,15}$")
    k: Key128
    flavour: Flavour = Flavour.MILENAGE


class Access(ConfigurationModel):
    local: Endpoint | None = None
    address: IpAddress | None = None
    pool: IpNetwork | None = None
    port: Port = 500
    bound: AnyPort = 0
    interval: Interval = 10.0
    retries: Count = 3
    encapsulation: Literal["always", "detected"] = "detected"


class Node(ConfigurationModel):
    name: str = "epdg"
    enabled: bool = True
    access: Access = Access()
    subscribers: tuple[Subscriber, ...] = ()
    token: TextSecret | None = None
    seed: HexSecret | None = None
    certificate: FilePath | None = None

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if " " in name:
            raise ValueError("a name without spaces")
        return name


def test_values_arrive_as_types(tmp_path: Path) -> None:
    file = tmp_path / "epdg.yaml"
    file.write_text(
        f"""
        name: epdg-1
        access: {{local: "127.0.1.1:15000", address: "2001:db8::1", pool: 10.45.0.0/16, interval: 0.5}}
        subscribers:
          - {{imsi: 001010000000001, k: {K}, flavour: tuak}}
        token: open sesame
        seed: 0x00ff
        certificate: pki/epdg.pem
        """
    )
    node = load(file, Node)
    assert node.access.local == PathEndpoint.of("127.0.1.1", 15000)
    assert node.access.address == IPv6Address("2001:db8::1")
    assert node.access.pool == IPv4Network("10.45.0.0/16")
    assert node.access.interval == 0.5
    assert node.subscribers[0].imsi == "001010000000001"  # neither octal nor without its zeros
    assert node.subscribers[0].k == Secret(bytes.fromhex(K))
    assert node.subscribers[0].flavour is Flavour.TUAK
    assert node.token == Secret(b"open sesame")
    assert node.seed == Secret(b"\x00\xff")
    assert node.certificate == tmp_path / "pki/epdg.pem"
    assert K not in repr(node)
    assert "sesame" not in node.model_dump_json()


@pytest.mark.parametrize(
    ("yaml", "value"),
    [
        ("001", "001"),
        ("310150123456789", "310150123456789"),
        ("0x10", "0x10"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("yes", "yes"),
        ("1_000", "1_000"),
    ],
)
def test_text_stays_the_text_it_looks_like(yaml: str, value: str) -> None:
    class Text(ConfigurationModel):
        text: Digits

    assert parse(f"text: {yaml}", Text).text == value


def test_an_empty_file_is_all_defaults_and_values_are_frozen() -> None:
    node = parse("# nothing\n", Node)
    assert node == Node()
    with pytest.raises(ValueError, match="frozen"):
        node.name = "other"


REFUSALS = {
    "nmae: epdg": "f: nmae: got an unknown key, expected no such key (did you mean name?)",
    "access: {prot: 500}": "f: access.prot: got an unknown key, expected no such key (did you mean port?)",
    "access: {zzz: 1}": (
        "f: access.zzz: got an unknown key, expected no such key: known keys are local, address, pool, port, "
        "bound, interval, retries, encapsulation"
    ),
    "enabled: perhaps": "f: enabled: got 'perhaps', expected true or false",
    "name: 7": "f: name: got 7, expected text (in quotes where it looks like a number)",
    "name: my node": "f: name: got 'my node', expected a name without spaces",
    "name: [a]": "f: name: got a list, expected text (in quotes where it looks like a number)",
    "access: here": "f: access: got 'here', expected a mapping",
    "access: {port: 0}": "f: access.port: got 0, expected at least 1",
    "access: {port: 65536}": "f: access.port: got 65536, expected at most 65535",
    "access: {port: true}": "f: access.port: got true, expected a whole number",
    "access: {port: '500'}": "f: access.port: got '500', expected a whole number",
    "access: {retries: 1.5}": "f: access.retries: got 1.5, expected a whole number",
    "access: {interval: 0}": "f: access.interval: got 0, expected more than 0",
    "access: {interval: soon}": "f: access.interval: got 'soon', expected a number of seconds",
    "access: {local: localhost:1}": (
        "f: access.local: got 'localhost:1', expected an address and port such as 127.0.0.1:3868 or [::1]:3868"
    ),
    "access: {encapsulation: never}": ("f: access.encapsulation: got 'never', expected 'always' or 'detected'"),
    "subscribers: {}": "f: subscribers: got a mapping, expected a list",
    "subscribers: [{imsi: 1, k: 0}]": ("f: subscribers.0.imsi: got '1', expected text like ^[0-9]{6,15}$"),
    f"subscribers: [{{k: {K}}}]": "f: subscribers.0.imsi: got nothing, expected a value",
    "subscribers: [{imsi: '001010000000001', k: abc}]": (
        "f: subscribers.0.k: got a value that is not shown, expected 32 hexadecimal digits"
    ),
    "- a": "f: (top): got a list, expected a mapping",
    "a: 1\nname: x\nname: y": "f:3: name: got the key twice, expected every key once",
    "name: [": "f:1: (syntax): got expected the node content, but found '<stream end>', expected YAML",
    "name: a\n\tport: 1": ("f:2: (syntax): got found character '\\t' that cannot start any token, expected YAML"),
    "name: !!python/object/apply:os.getcwd []": (
        "f:1: (syntax): got a tag or alias that is not understood, expected YAML"
    ),
    "name: *nowhere": "f:1: (syntax): got a tag or alias that is not understood, expected YAML",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_one_line_with_file_key_value_and_expectation(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, Node, file="f")
    assert str(caught.value) == REFUSALS[text]


@pytest.mark.parametrize(
    "text",
    [
        "subscribers: [{imsi: '001010000000001', k: 'SECRET'}]",
        "subscribers: [{imsi: '001010000000001', kk: SECRET}]",
        "token: [SECRET]",
        "token: {SECRET: 1}",
        "seed: SECRET",
        "seed: {value: SECRET}",
        "opc: SECRET",
        "admin_password: SECRET",
        "opcc: SECRET",
        'token: "SECRET',
        "token: SECRET: SECRET",
        "k: &SECRET SECRET\ntoken: [",
    ],
)
def test_no_secret_is_printed(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, Node, file="f")
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in repr(caught.value.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent.yaml: \(file\): got no such file"):
        load(tmp_path / "absent.yaml", Node)
    with pytest.raises(ConfigurationError, match="got a directory"):
        load(tmp_path, Node)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(tmp_path / "binary.yaml", Node)


def test_deep_nesting_is_refused_and_not_a_traceback() -> None:
    with pytest.raises(ConfigurationError):
        parse("name: " + "[" * 50_000, Node)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            ConfigurationError(file="f", key="k", value=1, expected="two"),
            2,
            "f: k: got 1, expected two\n",
        ),
        (BackendError("the kernel\nsaid no"), 1, "the kernel said no\n"),
        (ControlError("not-found", "there is no session 7"), 1, "there is no session 7\n"),
    ],
)
def test_console_scripts_say_one_line(error: Exception, status: int, line: str) -> None:
    application = typer.Typer()

    @application.command()
    @exit_on_error
    def start(port: int = 500) -> None:
        """Start the node."""
        raise error

    @application.command()
    def other() -> None:
        """Something else."""

    result = CliRunner().invoke(application, ["start", "--port", "7"])
    assert result.exit_code == status
    assert result.stderr == line
    assert result.stdout == ""


def test_a_defect_keeps_its_traceback() -> None:
    @exit_on_error
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()
