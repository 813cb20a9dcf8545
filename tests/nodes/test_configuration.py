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
    validate,
)
from protocols.io.control import ControlError
from protocols.io.documents import read_text
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


BILLION_LAUGHS = "name: &0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"n{number}: &{number} [{', '.join(f'*{number - 1}' for _ in range(10))}]" for number in range(1, 12)
)
REFUSALS = {
    "nmae: epdg": "f:1: nmae: got an unknown key, expected no such key (did you mean name?)",
    "access: {prot: 500}": "f:1: access.prot: got an unknown key, expected no such key (did you mean port?)",
    "access: {zzz: 1}": (
        "f:1: access.zzz: got an unknown key, expected no such key: known keys are local, address, pool, port, "
        "bound, interval, retries, encapsulation"
    ),
    "enabled: perhaps": "f:1: enabled: got 'perhaps', expected true or false",
    "name: 7": "f:1: name: got 7, expected text (in quotes where it looks like a number)",
    "name: my node": "f:1: name: got 'my node', expected a name without spaces",
    "name: [a]": "f:1: name: got a list, expected text (in quotes where it looks like a number)",
    "access: here": "f:1: access: got 'here', expected a mapping",
    "access: {port: 0}": "f:1: access.port: got 0, expected at least 1",
    "access: {port: 65536}": "f:1: access.port: got 65536, expected at most 65535",
    "access: {port: true}": "f:1: access.port: got true, expected a whole number",
    "access: {port: '500'}": "f:1: access.port: got '500', expected a whole number",
    "access: {retries: 1.5}": "f:1: access.retries: got 1.5, expected a whole number",
    "access: {interval: 0}": "f:1: access.interval: got 0, expected more than 0",
    "access: {interval: soon}": "f:1: access.interval: got 'soon', expected a number of seconds",
    "access: {local: localhost:1}": (
        "f:1: access.local: got 'localhost:1', expected an address and port such as 127.0.0.1:3868 or [::1]:3868"
    ),
    "access: {encapsulation: never}": ("f:1: access.encapsulation: got 'never', expected 'always' or 'detected'"),
    "subscribers: {}": "f:1: subscribers: got a mapping, expected a list",
    "subscribers: [{imsi: 1, k: 0}]": ("f:1: subscribers.0.imsi: got '1', expected text like ^[0-9]{6,15}$"),
    f"subscribers: [{{k: {K}}}]": "f:1: subscribers.0.imsi: got nothing, expected a value",
    "subscribers: [{imsi: '001010000000001', k: abc}]": (
        "f:1: subscribers.0.k: got a value that is not shown, expected 32 hexadecimal digits"
    ),
    "- a": "f: (top): got a list, expected a mapping",
    "a: 1\nname: x\nname: y": "f:3: name: got the key twice, expected every key once",
    "name: [": "f:1: (syntax): got expected the node content, but found '<stream end>', expected YAML",
    "name: a\n\tport: 1": ("f:2: (syntax): got found character '\\t' that cannot start any token, expected YAML"),
    "name: !!python/object/apply:os.getcwd []": (
        "f:1: (syntax): got a tag or alias that is not understood, expected YAML"
    ),
    "a: &a [1, *a]": "f:1: (syntax): got an alias of what it stands in, expected an alias of something else",
    "a: &a\n  b:\n    c: *a": "f:3: (syntax): got an alias of what it stands in, expected an alias of something else",
    BILLION_LAUGHS: (
        "f:4: (syntax): got aliases that stand for more, expected aliases that stand for 10000 values at most"
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


WRITTEN = """\
# a comment
name: epdg-1
access:
  port: 500
  retries: &often 7
subscribers:
  - imsi: "001010000000001"
    k: 465b5ce8b199b49faa5f0a2ee238a6bc
  - {imsi: "001010000000002",
     k: 465b5ce8b199b49faa5f0a2ee238a6bc, flavour: %s}
"""


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (WRITTEN % "sweet", "f:10: subscribers.1.flavour: got 'sweet'"),
        (WRITTEN % "tuak" + "enabled: *often\n", "f:11: enabled: got 7"),
        (WRITTEN.replace("port: 500", "port: 0") % "tuak", "f:4: access.port: got 0"),
        (WRITTEN.replace("retries", "retires") % "tuak", "f:5: access.retires: got an unknown key"),
        (WRITTEN.replace("    k:", "    # k:", 1) % "tuak", "f:7: subscribers.0.k: got nothing"),
        (WRITTEN.replace("    k:", "    imsi:", 1) % "tuak", "f:8: imsi: got the key twice"),
    ],
)
def test_a_refusal_names_the_line_where_the_value_was_written(text: str, where: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, Node, file="f")
    assert str(caught.value).startswith(where + ", expected ")
    assert (caught.value.file, caught.value.line) == ("f", int(where.split(":")[1]))


BELOW = "name: below\naccess: {port: 501, retries: 5}\nsubscribers: [{imsi: '001010000000009', k: 0}]\n"


def test_a_document_is_laid_over_another_and_knows_where_each_value_comes_from() -> None:
    above = read_text("\naccess:\n  retries: 2\n  interval: null\n", "above").over(read_text(BELOW, "below"))
    assert above.data == {
        "name": "below",
        "access": {"port": 501, "retries": 2, "interval": None},
        "subscribers": [{"imsi": "001010000000009", "k": 0}],
    }
    assert above.file == "above"
    assert above.where(("access", "retries")) == ("above", 3)
    assert above.where(("access", "port")) == ("below", 2)
    assert above.where(("access", "bound")) == ("above", 2)
    assert above.where(("token",)) == ("above", None)
    with pytest.raises(ConfigurationError, match="^above:4: access.interval: got nothing, expected a number of sec"):
        validate(above, Node)
    replaced = read_text("subscribers: []\naccess: {interval: 1}", "above").over(read_text(BELOW, "below"))
    assert validate(replaced, Node).subscribers == ()
    kept = read_text("access: {interval: 1}", "above").over(read_text(BELOW, "below"))
    with pytest.raises(
        ConfigurationError, match="^below:3: subscribers.0.k: got a value that is not shown, expected 32"
    ):
        validate(kept, Node)
    refusal = above.error(("access", "port"), 501, "an even port")
    assert str(refusal) == "below:2: access.port: got 501, expected an even port"


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
