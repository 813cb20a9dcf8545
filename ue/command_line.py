"""``ue``: the emulated UE. Attaches in the foreground, or serves as a node that is told what to do."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from pydantic_core import PydanticCustomError

from protocols.dataplane.choice import refusing
from protocols.dataplane.userspace.host import FlowKind
from protocols.errors import ConfigurationError
from protocols.io.clock import SystemClock
from protocols.io.configuration import EXIT_REFUSED, exit_on_error, load
from protocols.io.control import call_sync
from protocols.io.dns import DnsResolver
from protocols.path import Address
from protocols.trace.records import JsonValue
from ue.config import UeConfiguration, effective_configuration
from ue.management import Hint
from ue.pdn import Pdn
from ue.pdn_config import check_previous_addresses
from ue.personas import persona_file, read_persona, shipped
from ue.profile import require_namespaces
from ue.runtime import UeNode
from ue.selecting import decide, views
from ue.selection import ConfiguredUse, SelectionPolicy

if TYPE_CHECKING:
    from ue.narration import Narrator

PING_RATE = 5.0  # per second
PING_PATIENCE = 1.0  # seconds for the last answer

application = typer.Typer(
    name="ue",
    help="Emulated UE: attaches to an ePDG over SWu (IKEv2, EAP-AKA, MOBIKE, ESP).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

access_commands = typer.Typer(
    name="access", help="Tell a running UE of its accesses, as a lower layer would.", no_args_is_help=True
)
application.add_typer(access_commands)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")]
PdnOption = Annotated[str | None, typer.Option(help="Only this PDN connection, by its APN; by default all of them.")]
OnePdnOption = Annotated[str | None, typer.Option(help="The PDN connection, by its APN; the first one by default.")]
AccessArgument = Annotated[str, typer.Argument(metavar="NAME", help="The access, by name or address.")]
LogJsonOption = Annotated[bool, typer.Option("--log-json", help="Log lines as JSON.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log debugging detail.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@application.command()
@exit_on_error
def attach(
    config: ConfigOption,
    access: Annotated[
        str | None, typer.Option(help="The access to attach on, by name or address; the first one by default.")
    ] = None,
    ping: Annotated[str | None, typer.Option(help="Send echo requests to this inner address, then detach.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many echo requests.")] = 5,
    stay: Annotated[bool, typer.Option("--stay", help="Stay attached after the echo requests.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even though the network has asked to be left alone (BACKOFF_TIMER).")
    ] = False,
    pdn: Annotated[
        str | None,
        typer.Option(help="Only this PDN connection, by its APN; by default the first and those with attach: true."),
    ] = None,
    handover: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="An inner address to keep (handover). Repeat for one of each IP version."),
    ] = None,
) -> None:
    """Attach in the foreground and show every step; Ctrl-C or SIGTERM detaches.

    Exit status 1: refused, or no answer to any echo request; 2: the configuration is wrong.
    """
    from ue.narration import Narrator  # here: rich is a tenth of a node's start

    configuration = load(config, UeConfiguration)
    destination = None if ping is None else _address(ping)
    previous = _previous(configuration, pdn, handover)
    if access is not None:
        _check_access(configuration, "--access", access)
    logging.basicConfig(level=logging.ERROR)
    narrator = Narrator()

    async def run() -> bool:
        node = _made(configuration, config)
        node.recorder.subscribe(narrator.take)
        answered = True

        async def work() -> None:
            nonlocal answered
            await node.attach(access, force=force, pdn=pdn, previous=previous)
            if pdn is None:
                await node.attach_others(access, force=force)
            for session in node.sessions():
                narrator.session(session)
            if destination is not None:
                answered = await _ping(node.pdn(pdn), destination, count, narrator)
            if destination is None or stay:
                narrator.say("Attached; Ctrl-C detaches.")
                await node.stopped()

        await _serve(node, work)
        return answered

    if not asyncio.run(run()):
        raise SystemExit(EXIT_REFUSED)


@application.command("run")
@exit_on_error
def run_command(config: ConfigOption, log_json: LogJsonOption = False, verbose: VerboseOption = False) -> None:
    """Be a node that waits on its control socket; attaches by itself only with attach_at_start."""
    _node(config, log_json, verbose, attach_at_start=False)


@application.command("serve")
@exit_on_error
def serve_command(config: ConfigOption, log_json: LogJsonOption = False, verbose: VerboseOption = False) -> None:
    """As run, but attach at start, and again whenever that fails or the connection is lost."""
    _node(config, log_json, verbose, attach_at_start=True)


@application.command()
@exit_on_error
def move(
    config: ConfigOption,
    to: Annotated[str, typer.Option(help="The access to move to, by name or address.")],
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Keep the old access open (make before break).")] = False,
    pdn: PdnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a running, attached UE to another access (MOBIKE).

    Exit status 1 where a PDN connection has not moved.
    """
    configuration = load(config, UeConfiguration)
    _check_access(configuration, "--to", to)
    _check_pdn(configuration, pdn)
    answer = _call(configuration, "ue.move", to=to, keep_old=keep_old, pdn=pdn)
    outcomes = _object(answer, "pdns")
    if as_json:
        typer.echo(json.dumps(answer))
    for name in outcomes:
        done = _object(outcomes, name)
        if not as_json:
            typer.echo(
                (f"{name}: " if len(outcomes) > 1 else "")
                + (_moved(done) if "error" not in done else str(done["error"]))
            )
    if any("error" in _object(outcomes, name) for name in outcomes):
        raise SystemExit(EXIT_REFUSED)


def _moved(done: dict[str, JsonValue]) -> str:
    seconds = done["update_seconds"]
    milliseconds = f"{seconds * 1000:.0f} ms" if isinstance(seconds, int | float) else "?"
    kept = done["inner_address_unchanged"] and done["spis_unchanged"]
    nat = _object(done, "nat")
    return (
        f"moved from {done['from']} to {done['to']}{' behind a NAT' if nat.get('local') else ''} in {milliseconds}, "
        f"{done['requests']} request(s), {done['retransmissions']} retransmission(s); "
        f"inner address and SPIs {'unchanged' if kept else 'CHANGED'}"
    )


@application.command()
@exit_on_error
def connect(
    config: ConfigOption,
    access: Annotated[
        str | None, typer.Option(help="The access to attach on, by name or address; the first one by default.")
    ] = None,
    pdn: OnePdnOption = None,
    force: Annotated[bool, typer.Option("--force", help="Even though the network has asked to be left alone.")] = False,
    handover: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="An inner address to keep (handover). Repeat for one of each IP version."),
    ] = None,
) -> None:
    """Have a running UE attach one PDN connection; `ue detach` ends it, the node goes on."""
    configuration = load(config, UeConfiguration)
    previous = _previous(configuration, pdn, handover)
    if access is not None:
        _check_access(configuration, "--access", access)
    wanted: list[JsonValue] | None = None if previous is None else [str(each) for each in previous]
    session = _call(configuration, "ue.attach", access=access, pdn=pdn, force=force, handover=wanted)
    addresses = session.get("inner_addresses")
    typer.echo(
        f"{session['apn']}: attached on {session['access']} with "
        f"{', '.join(map(str, addresses if isinstance(addresses, list) else []))}"
    )


@application.command()
@exit_on_error
def detach(config: ConfigOption, pdn: PdnOption = None) -> None:
    """Detach a running UE; its node goes on."""
    configuration = load(config, UeConfiguration)
    _check_pdn(configuration, pdn)
    _call(configuration, "ue.detach", pdn=pdn)
    typer.echo("detached")


@application.command("rekey-ike")
@exit_on_error
def rekey_ike(config: ConfigOption, pdn: OnePdnOption = None) -> None:
    """Rekey the IKE SA of a running, attached UE."""
    configuration = load(config, UeConfiguration)
    _check_pdn(configuration, pdn)
    _call(configuration, "ue.rekey-ike", pdn=pdn)
    typer.echo("rekey of the IKE SA begun")


@application.command("rekey-child")
@exit_on_error
def rekey_child(
    config: ConfigOption,
    inbound_spi: Annotated[
        str | None, typer.Option("--spi", help="The UE's inbound SPI in hexadecimal; all child SAs without.")
    ] = None,
    pdn: OnePdnOption = None,
) -> None:
    """Rekey the ESP SAs of a running, attached UE."""
    configuration = load(config, UeConfiguration)
    _check_pdn(configuration, pdn)
    answer = _call(configuration, "ue.rekey-child", inbound_spi=inbound_spi, pdn=pdn)
    spis = answer.get("inbound_spis")
    typer.echo(f"rekey of {', '.join(map(str, spis if isinstance(spis, list) else []))} begun")


@application.command()
@exit_on_error
def suspend(config: ConfigOption, pdn: PdnOption = None) -> None:
    """Leave every access of a running UE without a word; `ue move` brings it back."""
    configuration = load(config, UeConfiguration)
    _check_pdn(configuration, pdn)
    _call(configuration, "ue.suspend", pdn=pdn)
    typer.echo("suspended")


@application.command()
@exit_on_error
def select(
    config: ConfigOption,
    access: Annotated[
        str | None, typer.Option(help="The access, by name or address; the first one by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which gateways a UE would try, in which order and why, without attaching.

    Exit status 1: there is none.
    """
    configuration = load(config, UeConfiguration)
    if access is not None:
        _check_access(configuration, "--access", access)
    policy = configuration.selection_policy
    if policy is None:
        gateway = configuration.gateway
        configured = (*gateway.addresses, *gateway.alternatives)
        use = ConfiguredUse.ONLY
        policy = SelectionPolicy(home=configuration.plmn.plmn, configured=configured, configured_use=use)
    name = configuration.access_named(access) if access is not None else next(iter(configuration.accesses))
    assert name is not None
    version = configuration.accesses[name].address.version
    resolver = DnsResolver(configuration.dns.settings(), SystemClock().monotonic)
    lines, candidates = asyncio.run(decide(policy, version, resolver))
    if as_json:
        typer.echo(json.dumps({"candidates": views(candidates), "trace": lines}))
    else:
        for line in lines:
            typer.echo(line)
        for number, candidate in enumerate(candidates, 1):
            typer.echo(f"{number}. {candidate}: {candidate.why}")
    if not candidates:
        typer.echo("no gateway was found", err=True)
        raise SystemExit(EXIT_REFUSED)


@application.command()
@exit_on_error
def liveness(config: ConfigOption, pdn: OnePdnOption = None) -> None:
    """Have a running, attached UE find out now whether its gateway can be reached."""
    configuration = load(config, UeConfiguration)
    _check_pdn(configuration, pdn)
    _call(configuration, "ue.liveness", pdn=pdn)
    typer.echo("asked")


@access_commands.command()
@exit_on_error
def lost(config: ConfigOption, name: AccessArgument) -> None:
    """The access has no address any more."""
    _access(config, "ue.access.lost", name)


@access_commands.command()
@exit_on_error
def gained(
    config: ConfigOption,
    name: AccessArgument,
    address: Annotated[str | None, typer.Option(help="Its address, where it is another one.")] = None,
) -> None:
    """The access has an address."""
    if address is not None:
        _address(address, "--address")
    _access(config, "ue.access.gained", name, address=address)


@access_commands.command()
@exit_on_error
def hint(config: ConfigOption, name: AccessArgument, value: Annotated[Hint, typer.Argument(help="How it is.")]) -> None:
    """What a lower layer says of the access."""
    _access(config, "ue.access.hint", name, hint=value.value)


@application.command()
@exit_on_error
def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show the connections of a running UE, and what carries their ESP."""
    from ue.narration import Narrator

    answer = _call(load(config, UeConfiguration), "ue.status")
    if as_json:
        typer.echo(json.dumps(answer))
        return
    persona = answer.get("persona")
    if isinstance(persona, dict):
        lax = persona.get("lax")
        typer.echo(f"persona: {persona.get('name')}{', lax: see `ue personas`' if lax else ''}")
    data_plane = answer.get("data_plane")
    if isinstance(data_plane, dict):
        typer.echo(data_plane.get("remark"))
    sessions = answer.get("sessions")
    if not isinstance(sessions, list) or not sessions:
        typer.echo(f"state: {answer.get('state')}")
        return
    narrator = Narrator()
    for session in sessions:
        narrator.session(session)


@application.command()
@exit_on_error
def personas(
    name: Annotated[str | None, typer.Argument(help="A persona's name, or a file; all of them without.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the personas; with a name, show the configuration that one gives and what it does not check."""
    if name is None:
        headers = [read_persona(persona_file(each))[0] for each in shipped()]
        if as_json:
            typer.echo(json.dumps([header.model_dump() for header in headers]))
            return
        for header in headers:
            typer.echo(f"{header.name:16} {header.description}")
            for sentence in header.lax:
                typer.echo(f"{'':16} lax: {sentence}")
        return
    found, effective = effective_configuration(name)
    if as_json:
        typer.echo(json.dumps({**found.model_dump(), "configuration": effective}))
        return
    typer.echo(f"# {found.name}: {found.description}")
    for sentence in found.lax:
        typer.echo(f"# lax: {sentence}")
    typer.echo(yaml.safe_dump(effective, sort_keys=False, allow_unicode=True, width=120), nl=False)


def _node(config: Path, log_json: bool, verbose: bool, *, attach_at_start: bool) -> None:
    configuration = load(config, UeConfiguration)
    configuration.logging.start(configuration.node, as_json=log_json, verbose=verbose)

    async def run() -> None:
        node = _made(configuration, config)
        wanted = attach_at_start or configuration.attach_at_start
        await _serve(node, node.stay_attached if wanted else node.stopped)

    asyncio.run(run())


def _made(configuration: UeConfiguration, file: Path) -> UeNode:
    """``ConfigurationError`` where this machine does not have what the file asks for."""
    require_namespaces(configuration, file)
    with refusing(file):
        return UeNode(configuration)


async def _serve(node: UeNode, work: Callable[[], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    await node.run(work)


async def _ping(pdn: Pdn, destination: Address, count: int, narrator: Narrator) -> bool:
    """Echo requests one after the other; whether any was answered."""
    flow = pdn.start_traffic(FlowKind.ICMP, destination, PING_RATE, count)
    await flow.finished(PING_PATIENCE)
    score = flow.statistics(None, None)
    narrator.say(f"ping {destination}: {score.sent} sent, {score.received} received{_round_trip(score.rtt_average_ms)}")
    return score.received > 0


def _round_trip(average_ms: float | None) -> str:
    return "" if average_ms is None else f", round trip {average_ms:.1f} ms on average"


def _address(text: str, option: str = "--ping") -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ConfigurationError(
            file="command line", key=option, value=text, expected="an IP address such as 10.45.0.1"
        ) from None


def _previous(configuration: UeConfiguration, pdn: str | None, texts: list[str] | None) -> tuple[Address, ...] | None:
    """What ``--handover`` says, checked against the PDN connection that it is for."""
    wanted = _check_pdn(configuration, pdn)
    if not texts:
        return None
    addresses = tuple(_address(text, "--handover") for text in texts)
    try:
        check_previous_addresses(addresses, wanted.pdn_type)
    except PydanticCustomError as error:
        raise ConfigurationError(
            file="command line", key="--handover", value=" ".join(texts), expected=str(error)
        ) from None
    return addresses


def _check_pdn(configuration: UeConfiguration, text: str | None) -> UeConfiguration:
    """The part of the configuration that is for a PDN connection, by its APN or its name."""
    if text is None or text == configuration.apn:
        return configuration
    for name, part in configuration.pdns.items():
        if text in (name, part.apn):
            return part
    known = ", ".join([configuration.apn, *(part.apn for part in configuration.pdns.values())])
    expected = f"a PDN connection by its APN; known are {known}"
    raise ConfigurationError(file="command line", key="--pdn", value=text, expected=expected)


def _check_access(configuration: UeConfiguration, option: str, text: str) -> None:
    if configuration.access_named(text) is None:
        expected = f"an access or its address; known are {', '.join(configuration.accesses)}"
        raise ConfigurationError(file="command line", key=option, value=text, expected=expected)


def _access(config: Path, method: str, name: str, **params: JsonValue) -> None:
    """Tell a running UE of an access, and say where that has led."""
    configuration = load(config, UeConfiguration)
    _check_access(configuration, "NAME", name)
    answer = _call(configuration, method, name=name, **params)
    if not answer.get("automatic"):
        typer.echo("noted; management.automatic is off, nothing is decided")
        return
    typer.echo(f"{answer['phase']} on {answer['access']}; the best is {answer['best'] or 'none'}")


def _call(configuration: UeConfiguration, method: str, **params: JsonValue) -> dict[str, JsonValue]:
    answer = call_sync(configuration.control, method, **params)
    return answer if isinstance(answer, dict) else {}


def _object(value: dict[str, JsonValue], name: str) -> dict[str, JsonValue]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}
