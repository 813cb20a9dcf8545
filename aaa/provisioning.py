"""``aaa subscriber``: provisioning from the command line. A refusal is one line; keys are never echoed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

import typer

from aaa.config import AaaConfiguration
from aaa.subscribers import (
    Algorithm,
    ApnSubscription,
    PdnType,
    Subscriber,
    SubscriberDatabase,
    SubscriberExists,
    UnknownImsi,
)
from aaa.subscribers.subscriber import AMF_LENGTH, DEFAULT_AMBR_BITS, KEY_LENGTH
from protocols.algorithms.sqn import IND_COUNT, SEQ_MAXIMUM, SQN_BITS, compose, seq_of
from protocols.errors import ConfigurationError
from protocols.io.configuration import exit_on_error, load
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi
from protocols.trace.records import JsonValue

application = typer.Typer(name="subscriber", help="Provision subscribers.", no_args_is_help=True, add_completion=False)

ConfigurationOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The node's configuration file, for its database.")
]
DatabaseOption = Annotated[str | None, typer.Option("--database", help="An SQLAlchemy URL, such as sqlite:///aaa.db.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImsiArgument = Annotated[str, typer.Argument(metavar="IMSI", help="6 to 15 digits.")]

_APN_KEYS = {"type", "ul", "dl", "ipv4"}


class Unshown:
    """Stands for a value that is not echoed, or that is absent."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


def refusal(key: str, value: object, expected: str) -> ConfigurationError:
    """A command line that is wrong, in one line."""
    return ConfigurationError(file="command line", key=key, value=value, expected=expected)


@contextmanager
def unmigrated_database(config: Path | None, database: str | None) -> Iterator[SubscriberDatabase]:
    """The database that ``--database`` or the configuration file names, as it is."""
    file, key = "command line", "--database"
    if database is None:
        if config is None:
            expected = "a database URL, or -c with a configuration file"
            raise refusal("--database", Unshown("nothing"), expected)
        database = load(config, AaaConfiguration).database
        file, key = str(config), "database"
        if database is None:
            raise ConfigurationError(file=file, key=key, value=None, expected="a database URL")
    try:
        opened = SubscriberDatabase(database)
    except ValueError as error:
        expected = f"an SQLAlchemy URL such as sqlite:///aaa.db ({error})"
        hidden = Unshown("a value that is not shown")
        raise ConfigurationError(file=file, key=key, value=hidden, expected=expected) from None
    with opened:
        yield opened


@contextmanager
def opened_database(config: Path | None, database: str | None) -> Iterator[SubscriberDatabase]:
    """The same, its schema brought up to date."""
    with unmigrated_database(config, database) as opened:
        opened.migrate()
        yield opened


@application.command()
@exit_on_error
def add(
    imsi: ImsiArgument,
    k: Annotated[str, typer.Option(envvar="AAA_K", help="K: 32 hexadecimal digits.")],
    opc: Annotated[str | None, typer.Option(envvar="AAA_OPC", help="OPc: 32 hexadecimal digits.")] = None,
    op: Annotated[str | None, typer.Option(envvar="AAA_OP", help="OP, instead of OPc.")] = None,
    amf: Annotated[str, typer.Option(help="AMF: 4 hexadecimal digits.")] = "8000",
    sqn: Annotated[str, typer.Option(help="SQN_HE to go on after: up to 12 hexadecimal digits.")] = "0",
    msisdn: Annotated[str | None, typer.Option(help="Up to 15 digits.")] = None,
    apn: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME[,type=ipv4|ipv6|ipv4v6][,ul=BITS][,dl=BITS][,ipv4=ADDRESS]; repeat for more, "
            "the first one is the default APN."
        ),
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Provision it barred.")] = False,
    no_non_3gpp: Annotated[
        bool, typer.Option("--no-non-3gpp", help="Without a subscription to non-3GPP access.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Over an older subscriber.")] = False,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
) -> None:
    """Add a subscriber."""
    if (op is None) == (opc is None):
        given = "neither" if op is None else "both"
        raise refusal("--opc", Unshown(given), "either --opc or --op")
    subscriber = Subscriber(
        imsi=_imsi(imsi),
        k=_key("--k", k),
        op=None if op is None else _key("--op", op),
        opc=None if opc is None else _key("--opc", opc),
        amf=_amf(amf),
        algorithm=Algorithm.MILENAGE,
        sequence=_sequence(sqn),
        enabled=not disabled,
        non_3gpp_allowed=not no_non_3gpp,
        msisdn=_msisdn(msisdn),
        apns=_apns(apn or ["internet"]),
    )
    with opened_database(config, database) as opened:
        if replace:
            opened.replace(subscriber)
        else:
            try:
                opened.add(subscriber)
            except SubscriberExists:
                raise refusal("IMSI", imsi, "an IMSI that is not provisioned yet, or --replace") from None
    typer.echo(f"subscriber {subscriber.imsi} provisioned")


@application.command("list")
@exit_on_error
def list_subscribers(
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List subscribers, one a line."""
    with opened_database(config, database) as opened:
        subscribers = tuple(opened.all())
    if as_json:
        typer.echo(json.dumps([_described(subscriber, secrets=False) for subscriber in subscribers]))
        return
    for subscriber in subscribers:
        apns = ",".join(str(held.apn) for held in subscriber.apns) or "-"
        access = "enabled" if subscriber.enabled else "disabled"
        if not subscriber.non_3gpp_allowed:
            access += ",no-non-3gpp"
        typer.echo(f"{subscriber.imsi}  {access}  {apns}  {subscriber.msisdn or '-'}")


@application.command()
@exit_on_error
def show(
    imsi: ImsiArgument,
    secrets: Annotated[bool, typer.Option("--secrets", help="Print K, OP and OPc.")] = False,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one subscriber; its keys only with --secrets."""
    wanted = _imsi(imsi)
    with opened_database(config, database) as opened:
        subscriber = opened.get(wanted)
    if subscriber is None:
        raise UnknownImsi(f"no subscriber has IMSI {wanted}")
    described = _described(subscriber, secrets=secrets)
    if as_json:
        typer.echo(json.dumps(described))
        return
    for name, value in described.items():
        if name == "apns" and isinstance(value, list):
            for held in value:
                assert isinstance(held, dict)
                typer.echo("apn: " + " ".join(f"{key}={text}" for key, text in held.items()))
        elif value is not None:
            typer.echo(f"{name}: {str(value).lower() if isinstance(value, bool) else value}")


@application.command()
@exit_on_error
def remove(imsi: ImsiArgument, config: ConfigurationOption = None, database: DatabaseOption = None) -> None:
    """Remove one subscriber."""
    wanted = _imsi(imsi)
    with opened_database(config, database) as opened:
        if not opened.remove(wanted):
            raise UnknownImsi(f"no subscriber has IMSI {wanted}")
    typer.echo(f"subscriber {wanted} removed")


def _described(subscriber: Subscriber, *, secrets: bool) -> dict[str, JsonValue]:
    def key(value: Secret | None) -> JsonValue:
        if value is None:
            return None
        return value.reveal().hex() if secrets else "(not shown, see --secrets)"

    sqn = compose(subscriber.sequence, subscriber.sequence % IND_COUNT)
    return {
        "imsi": str(subscriber.imsi),
        "msisdn": subscriber.msisdn,
        "enabled": subscriber.enabled,
        "non_3gpp_allowed": subscriber.non_3gpp_allowed,
        "algorithm": subscriber.algorithm.value,
        "k": key(subscriber.k),
        "op": key(subscriber.op),
        "opc": key(subscriber.opc),
        "amf": subscriber.amf.hex(),
        "sqn": f"{sqn:0{SQN_BITS // 4}x}",
        "apns": [
            {
                "apn": str(held.apn),
                "type": held.pdn_type.value,
                "ul": held.ambr_uplink_bits,
                "dl": held.ambr_downlink_bits,
                "ipv4": None if held.static_ipv4 is None else str(held.static_ipv4),
                "default": held.is_default,
            }
            for held in subscriber.apns
        ],
    }


def _imsi(text: str) -> Imsi:
    try:
        return Imsi(text)
    except ValueError:
        raise refusal("IMSI", text, "6 to 15 digits") from None


def _key(option: str, text: str) -> Secret:
    octets = _hex(text)
    if octets is None or len(octets) != KEY_LENGTH:
        shown = Unshown(f"{len(text)} characters that are not shown")
        raise refusal(option, shown, f"{2 * KEY_LENGTH} hexadecimal digits")
    return Secret(octets)


def _amf(text: str) -> bytes:
    octets = _hex(text)
    if octets is None or len(octets) != AMF_LENGTH:
        raise refusal("--amf", text, f"{2 * AMF_LENGTH} hexadecimal digits")
    return octets


def _hex(text: str) -> bytes | None:
    if any(character.isspace() for character in text):
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def _sequence(text: str) -> int:
    try:
        seq = seq_of(int(text, 16))
    except ValueError:
        seq = -1
    if not 0 <= seq <= SEQ_MAXIMUM:
        raise refusal("--sqn", text, f"up to {SQN_BITS // 4} hexadecimal digits")
    return seq


def _msisdn(text: str | None) -> str | None:
    if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise refusal("--msisdn", text, "up to 15 digits")
    return text


def _apns(texts: list[str]) -> tuple[ApnSubscription, ...]:
    held = tuple(_apn(text, is_default=position == 0) for position, text in enumerate(texts))
    if len({subscription.apn for subscription in held}) != len(held):
        raise refusal("--apn", ",".join(texts), "every APN once")
    return held


def _apn(text: str, *, is_default: bool) -> ApnSubscription:
    name, *settings = text.split(",")
    pairs = [setting.partition("=") for setting in settings]
    values = {key: value for key, _, value in pairs}
    if not set(values) <= _APN_KEYS or len(values) != len(pairs):
        raise refusal("--apn", text, "NAME and then type=, ul=, dl= or ipv4=, each at most once")
    try:
        return ApnSubscription(
            apn=Apn(name),
            pdn_type=PdnType(values.get("type", PdnType.IPV4V6.value)),
            ambr_uplink_bits=_rate(values.get("ul")),
            ambr_downlink_bits=_rate(values.get("dl")),
            static_ipv4=IPv4Address(values["ipv4"]) if "ipv4" in values else None,
            is_default=is_default,
        )
    except ValueError as error:
        raise refusal("--apn", text, f"NAME[,type=…][,ul=…][,dl=…][,ipv4=…]: {error}") from None


def _rate(text: str | None) -> int:
    """Bits per second, as far as Unsigned32 holds them (TS 29.272 §7.3.41)."""
    if text is None:
        return DEFAULT_AMBR_BITS
    if not (text.isascii() and text.isdigit() and int(text) <= 0xFFFFFFFF):
        raise ValueError(f"{text!r} is no bit rate below 4294967296")
    return int(text)
