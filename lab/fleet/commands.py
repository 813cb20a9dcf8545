"""``lab fleet`` and what belongs to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.fleet.arrivals import Arrivals
from lab.fleet.distributed import run_locust
from lab.fleet.mix import DEFAULT_PERSONA, PersonaMix
from lab.fleet.serving import serve_command
from lab.memory import memory_directory
from lab.run_directory import RunDirectory
from protocols.errors import ConfigurationError
from protocols.io.configuration import exit_on_error
from protocols.threegpp.identity import Imsi

if TYPE_CHECKING:
    from rich.console import Console

    from lab.fleet.config import FleetFile
    from lab.fleet.nodes import NodesPlan
    from lab.fleet.plan import FleetPlan

# What plays is imported by the command that plays: the others of the laboratory are to answer at once.

PLAIN_WIDTH = 160
UE_MAXIMUM = 1_000_000
PROCESSES_MAXIMUM = 64
DURATION_MAXIMUM = 31 * 86400.0
DEFAULT_PLATEAU = 60.0
LEAST_RATE, GATHERING_INTERVAL = 10.0, 100.0

application = typer.Typer(
    name="fleet",
    help="Thousands of UEs: attach, talk, move, detach.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Gateway, accesses and subscribers (lab/fleet/example.yaml).")
]
CountOption = Annotated[int, typer.Option(min=1, max=UE_MAXIMUM, help="How many UEs.")]
RateOption = Annotated[
    float | None,
    typer.Option(min=0.001, max=100_000, help="How many come per second; by default 10, or all in 100 seconds."),
]
PersonaOption = Annotated[
    str, typer.Option(help="Which phones they are: NAME=WEIGHT,… such as pixel-aosp=60,iphone=40.")
]
ScheduleOption = Annotated[str, typer.Option(help="What each does: one that ships, or a YAML file.")]
DurationOption = Annotated[
    float | None, typer.Option(min=0.1, max=DURATION_MAXIMUM, help="Seconds after which everybody detaches.")
]
PlateauOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=DURATION_MAXIMUM,
        help="Seconds after which everybody detaches, once all have attached; 60 without --duration.",
    ),
]
RoundsOption = Annotated[int | None, typer.Option(min=1, help="How often a UE goes through the schedule at most.")]
ArrivalsOption = Annotated[Arrivals, typer.Option(help="Evenly, or as a Poisson process.")]
SeedOption = Annotated[int, typer.Option(help="Another order of personas and times.")]
ProcessesOption = Annotated[int, typer.Option(min=1, max=PROCESSES_MAXIMUM, help="How many processes share the UEs.")]
NodesOption = Annotated[
    bool, typer.Option("--with-nodes", help="Start an AAA server and a gateway on loopback for it.")
]
NetworkOption = Annotated[
    str | None, typer.Option(help="The loopback network of --with-nodes, 127.0.80.0/24 by default.")
]
DirectoryOption = Annotated[
    Path | None, typer.Option(help="Keep what --with-nodes writes here (keys included).", file_okay=False)
]
MetricsOption = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Serve Prometheus on this port of 127.0.0.1.")
]
OutputOption = Annotated[Path | None, typer.Option(help="Write the summary here (JSON).", dir_okay=False)]


@application.callback()
@exit_on_error
def fleet(
    context: typer.Context,
    count: CountOption = 100,
    rate: RateOption = None,
    persona: PersonaOption = DEFAULT_PERSONA,
    schedule: ScheduleOption = "commute",
    duration: DurationOption = None,
    plateau: PlateauOption = None,
    rounds: RoundsOption = None,
    arrivals: ArrivalsOption = Arrivals.EVEN,
    seed: SeedOption = 0,
    processes: ProcessesOption = 1,
    config: ConfigOption = None,
    with_nodes: NodesOption = False,
    network: NetworkOption = None,
    directory: DirectoryOption = None,
    metrics: MetricsOption = None,
    output: OutputOption = None,
) -> None:
    """Run a fleet, bounded by count and time; Ctrl-C lets everybody detach first."""
    if context.invoked_subcommand is not None:
        return
    from lab.fleet.plan import FleetPlan
    from lab.fleet.run import RunOptions, run_fleet
    from lab.fleet.schedule import find

    if with_nodes == (config is not None):
        raise ConfigurationError(
            file="command line",
            key="--config",
            value=None if config is None else str(config),
            expected="either --config FILE or --with-nodes",
        )
    playable = find(schedule)
    plan = FleetPlan(
        count=count,
        rate=max(LEAST_RATE, count / GATHERING_INTERVAL) if rate is None else rate,
        duration=DURATION_MAXIMUM if duration is None else duration,
        schedule=playable.schedule,
        mix=PersonaMix.parse(persona),
        arrivals=arrivals,
        rounds=rounds,
        seed=seed,
    )
    file = None if config is None else _checked(config, plan, processes)
    console = _console()
    for words in playable.left_out:
        console.print(f"Left out of {schedule}: {words}.")
    with _nodes(count, network, directory) if with_nodes else contextlib.nullcontext() as nodes:
        options = RunOptions(
            plan=plan,
            plateau=DEFAULT_PLATEAU if plateau is None and duration is None else plateau,
            playable=playable,
            processes=processes,
            file=file,
            nodes=nodes,
            metrics=metrics,
            output=output,
        )
        result = run_fleet(options, console)
    for failure in result.failures:
        console.print(f"✗ {failure}", style="bold red", soft_wrap=True)
    raise SystemExit(result.status)


def _console() -> Console:
    """A wide one where there is no terminal: a line a second is a line."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=PLAIN_WIDTH)


@contextlib.contextmanager
def _nodes(count: int, network: str | None, directory: Path | None) -> Iterator[NodesPlan]:
    """Where nodes of the fleet's own are to lie; what they write is gone afterwards unless a directory is named."""
    from lab.fleet.nodes import NodesPlan
    from lab.fleet.plan import DEFAULT_NETWORK

    with RunDirectory("fleet-nodes", memory_directory()) as temporary:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield NodesPlan(
            directory=(directory or Path(temporary)).resolve(),
            count=count,
            network=DEFAULT_NETWORK if network is None else _network(network),
        )


def _checked(config: Path, plan: FleetPlan, processes: int) -> FleetFile:
    """The configuration, with everything looked at that a process would stumble over."""
    from lab.fleet.config import FleetFile
    from lab.fleet.schedule import check_accesses

    file = FleetFile.read(config)
    file.rule.imsi(plan.count - 1)
    check_accesses(plan.schedule, file.accesses)
    for persona, _ in plan.mix.weights:
        file.ue(persona)
    if processes > 1:
        for name, access in file.ue(DEFAULT_PERSONA).accesses.items():
            for key, port in (("ike_port", access.ike_port), ("nat_traversal_port", access.nat_traversal_port)):
                if port:
                    raise ConfigurationError(
                        file=str(config),
                        key=f"ue.accesses.{name}.{key}",
                        value=port,
                        expected="0, so that several processes can be on this access",
                    )
    return file


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError:
        raise ConfigurationError(
            file="command line", key="--network", value=text, expected="a /24 of 127.0.0.0/8"
        ) from None


@application.command()
@exit_on_error
def subscribers(
    output: Annotated[Path, typer.Option(help="The file, .yaml or .csv; it holds keys.", dir_okay=False)],
    master: Annotated[
        Path | None, typer.Option(help="The file of the master key, made where there is none.", dir_okay=False)
    ] = None,
    config: ConfigOption = None,
    count: Annotated[int, typer.Option(min=1, max=UE_MAXIMUM, help="How many.")] = 100,
    first_imsi: Annotated[str, typer.Option(help="The IMSI of the first.")] = "001010000000001",
    apn: Annotated[list[str] | None, typer.Option(help="An APN, the first being the default; again for more.")] = None,
) -> None:
    """Write the fleet's subscribers for `aaa subscriber import`, into any HSS."""
    from lab.fleet.config import FleetFile
    from lab.fleet.rule import SubscriberRule, read_master
    from lab.fleet.subscribers import export

    if config is not None:
        rule = FleetFile.read(config).rule
    elif master is not None:
        rule = SubscriberRule(first_imsi=_imsi(first_imsi), master=read_master(master, create=True))
    else:
        raise ConfigurationError(
            file="command line", key="--master", value=None, expected="either --master FILE or --config FILE"
        )
    export(rule, count, apn or ["internet"], output)
    typer.echo(f"{count} subscribers from {rule.first_imsi} on in {output}")


def _imsi(text: str) -> Imsi:
    try:
        return Imsi(text)
    except ValueError:
        raise ConfigurationError(
            file="command line", key="--first-imsi", value=text, expected="6 to 15 digits"
        ) from None


application.command(name="serve")(serve_command)


@application.command()
@exit_on_error
def schedules() -> None:
    """List the schedules that ship."""
    from lab.fleet.schedule import find, shipped

    for name in shipped():
        typer.echo(f"{name}  {find(name).schedule.title}")


application.command(
    name="locust", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)(exit_on_error(run_locust))
