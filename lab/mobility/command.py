"""``lab run`` and ``lab list``: schedules played on a stage, results shown and written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lab.mobility.stage_name import BackendName, NatName, StageName
from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import exit_on_error

if TYPE_CHECKING:
    from lab.mobility.loader import NamedSchedule
    from lab.mobility.result import RunResult
    from lab.mobility.stage import Stage

# What plays is imported when something is played: the other commands of the laboratory are to answer at once.

PLAIN_WIDTH = 220  # of tables where the output is no terminal
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def open_stage(name: StageName, backend: BackendName = BackendName.AUTO, nat: NatName = NatName.LAB) -> Stage:
    """The stage of a name; each is imported when it is wanted."""
    if name is StageName.VIRTUAL:
        from lab.mobility.virtual import VirtualStage

        return VirtualStage()
    if name is StageName.LOOPBACK:
        from lab.mobility.loopback import LoopbackStage

        return LoopbackStage()
    from lab.mobility.namespaces import NamespaceStage

    return NamespaceStage(backend, nat)


@exit_on_error
def run(
    schedules: Annotated[
        list[str] | None, typer.Argument(help="Names of shipped schedules (lab list), or files.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every shipped schedule that the stage can play.")] = False,
    stage: Annotated[
        StageName, typer.Option(help="virtual time in this process, loopback sockets, or network namespaces (root).")
    ] = StageName.VIRTUAL,
    backend: Annotated[
        BackendName, typer.Option(help="What carries ESP in namespaces; auto: the best that is there.")
    ] = BackendName.AUTO,
    nat: Annotated[
        NatName, typer.Option(help="What translates in namespaces: the laboratory itself, or the kernel's nftables.")
    ] = NatName.LAB,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the schedule's own.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Leave JSON, PNG and SVG of every run here.", file_okay=False)
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Play each so often, with one seed after the other.")] = 1,
) -> None:
    """Play schedules of moves; exit status 0 only if every expectation in them held."""
    from lab.mobility.loader import check_for_nftables, load_schedule, shipped

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PLAIN_WIDTH)
    if bool(schedules) == every:
        raise ConfigurationError(
            file="command line",
            key="SCHEDULES",
            value=" ".join(schedules) + " --all" if schedules else None,
            expected="names of schedules (lab list), files, or --all",
        )
    if stage is not StageName.NAMESPACES and backend not in (BackendName.AUTO, BackendName.PYTHON):
        raise ConfigurationError(
            file="command line",
            key="--backend",
            value=backend.value,
            expected=f"auto or python: on {stage.value} Python carries ESP (--stage namespaces has all)",
        )
    if stage is not StageName.NAMESPACES and nat is not NatName.LAB:
        raise ConfigurationError(
            file="command line",
            key="--nat",
            value=nat.value,
            expected=f"lab: on {stage.value} the laboratory translates (--stage namespaces has both)",
        )
    chosen = [load_schedule(each) for each in (shipped() if every else schedules or ())]
    if every:
        chosen = [each for each in chosen if stage in each.schedule.stages]
    for each in chosen:
        if stage not in each.schedule.stages:
            stages = ", ".join(name.value for name in each.schedule.stages)
            raise ConfigurationError(
                file=str(each.file), key="stages", value=stage.value, expected=f"a stage of this schedule: {stages}"
            )
        if nat is NatName.NFTABLES:
            check_for_nftables(each)
    if output is not None:
        _make(output)  # before the playing, which may take long
    try:
        place = _played_on(stage, backend, nat)
        results = _run_all(chosen, open_stage(stage, backend, nat), place, seed, output, repeat, console)
    except KeyboardInterrupt:
        console.print("Stopped before the end.")
        raise SystemExit(EXIT_INTERRUPTED) from None
    if len(results) > 1:
        _summary(results, console)
    raise SystemExit(0 if all(result.passed for result in results) else EXIT_FAILED)


def _run_all(
    chosen: Sequence[NamedSchedule],
    stage: Stage,
    place: str,
    seed: int | None,
    output: Path | None,
    repeat: int,
    console: Console,
) -> list[RunResult]:
    from lab.mobility.player import play
    from lab.mobility.table import show

    results = []
    for named in chosen:
        first = named.schedule.seed if seed is None else seed
        for turn in range(repeat):
            result, series = play(
                named, stage, first + turn, lambda name, at, words: console.print(f"{name} {at:10.3f} s  {words}")
            )
            show(result, console)
            results.append(result)
            if output is not None:
                from lab.mobility.plot import write_plots

                stem = output / f"{named.name}-{place}-{result.seed}"
                written = [_write(result, stem), *write_plots(result, series, stem)]
                console.print("Written: " + ", ".join(map(str, written)), soft_wrap=True)
    return results


def _played_on(stage: StageName, backend: BackendName, nat: NatName) -> str:
    """In the names of files."""
    chosen = [backend.value] if backend is not BackendName.AUTO else []
    return "-".join([stage.value, *chosen, *([nat.value] if nat is not NatName.LAB else [])])


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"{output}: {error.strerror}") from error


def _write(result: RunResult, stem: Path) -> Path:
    path = stem.with_name(f"{stem.name}.json")
    try:
        path.write_text(result.to_text(), encoding="utf-8")
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror}") from error
    return path


def _summary(results: Sequence[RunResult], console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, title="All runs")
    for title in ("Schedule", "Seed", "Moves", "Outage, ms", "Lost", "MOS", ""):
        table.add_column(title, no_wrap=True, overflow="fold")
    for result in results:
        up, down = result.uplink, result.downlink
        failed = [check for check in result.checks if not check.passed]
        table.add_row(
            result.schedule,
            str(result.seed),
            str(sum(move.outcome == "completed" for move in result.moves)),
            f"{up.outage_ms}/{down.outage_ms}",
            f"{up.lost}/{down.lost}",
            f"{up.mos}/{down.mos}",
            f"{len(failed)} FAILED" if failed else "held",
        )
    console.print(table)


@exit_on_error
def list_schedules() -> None:
    """The schedules that are shipped: name, title, stages."""
    from lab.mobility.loader import load_schedule, shipped

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PLAIN_WIDTH)
    table = Table(box=SIMPLE_HEAD)
    for title in ("Name", "Title", "Length", "Stages"):
        table.add_column(title)
    for name in shipped():
        schedule = load_schedule(name).schedule
        everywhere = set(schedule.stages) == set(StageName)
        stages = "all" if everywhere else ", ".join(stage.value for stage in schedule.stages)
        table.add_row(name, schedule.title, str(timedelta(seconds=schedule.duration)), stages)
    console.print(table)
