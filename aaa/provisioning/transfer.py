"""``aaa subscriber import`` and ``export``: files of any number of subscribers, CSV or YAML.

An import reads the file twice: once to find every line that is wrong, and then, unless there was one, to store it in
transactions of some thousands, so that a node that serves meanwhile is never kept waiting for long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Annotated, TextIO

import typer

from aaa.provisioning.commands import AlgorithmOption, AmfOption, ApnOption
from aaa.provisioning.opening import (
    ConfigurationOption,
    DatabaseOption,
    MasterKeysOption,
    first_digits,
    opened_database,
    refusal,
    refused_field,
)
from aaa.provisioning.progress import Progress
from aaa.subscribers import Subscriber, SubscriberDatabase, SubscriberFilter
from aaa.subscribers.database import BATCH
from aaa.subscribers.document import DocumentError, apns_from
from aaa.subscribers.forms.csv_form import read_csv, write_csv
from aaa.subscribers.forms.entry import Advance, Entry, FileProblem, entries
from aaa.subscribers.forms.yaml_form import read_yaml, write_yaml
from protocols.errors import BackendError
from protocols.io.configuration import exit_on_error

REFUSED = 2  # exit status
MOST_LINES = 100  # of bad lines that are printed


class Form(str, Enum):
    """How a file is written."""

    CSV = "csv"
    YAML = "yaml"


FormOption = Annotated[Form | None, typer.Option("--format", help="csv or yaml; told by the file's name if left out.")]


def add_transfer_commands(application: typer.Typer) -> None:
    """``import`` and ``export``."""
    application.command("import")(exit_on_error(import_subscribers))
    application.command("export")(exit_on_error(export_subscribers))


def import_subscribers(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV (IMSI,Ki,OPc) or YAML.")],
    form: FormOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Over older subscribers.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the good lines where there are bad ones.")
    ] = False,
    algorithm: AlgorithmOption = None,
    amf: AmfOption = None,
    apn: ApnOption = None,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    master_keys: MasterKeysOption = None,
) -> None:
    """Import subscribers, all or none; the options are for fields that the file leaves out."""
    chosen = form or _form_of(file)
    try:
        apns = apns_from(apn or ["internet"])
    except DocumentError as error:
        raise refused_field(error) from None
    defaults = {"algorithm": algorithm, "amf": amf, "apns": apns}
    given = {name: value for name, value in defaults.items() if value is not None}
    with opened_database(config, database, master_keys) as opened, Progress() as progress:
        bad = Complaints(file)
        good = 0
        for entry in _checked(file, chosen, given, opened, replace, progress.task("reading", _size(file))):
            if entry.problem is None:
                good += 1
            else:
                bad.tell(entry.line, entry.problem)
        bad.sum_up()
        if bad.count and not skip_bad:
            typer.echo(f"nothing imported: {bad.count} bad lines, {good} good ones", err=True)
            raise typer.Exit(REFUSED)
        if not good:
            typer.echo(f"nothing imported: {file} holds no subscriber", err=True)
            raise typer.Exit(REFUSED)
        stored = opened.put_all(
            (
                entry.subscriber
                for entry in _checked(file, chosen, given, opened, replace, lambda octets: None)
                if entry.subscriber is not None
            ),
            over=replace,
            progress=progress.task("storing", good),
        )
    typer.echo(
        f"{stored} subscriber{'s' if stored != 1 else ''} imported"
        + (f", {bad.count} bad lines left out" if bad.count else "")
    )


class Complaints:
    """Bad lines on standard error, one line each, up to a number of them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.count = 0

    def tell(self, line: int, problem: DocumentError) -> None:
        """Print one."""
        self.count += 1
        if self.count <= MOST_LINES:
            typer.echo(f"{self._file}:{line}: {problem}", err=True)

    def sum_up(self) -> None:
        """Say how many were not printed."""
        if self.count > MOST_LINES:
            typer.echo(f"{self._file}: {self.count - MOST_LINES} more bad lines", err=True)


def _checked(
    file: Path,
    form: Form,
    defaults: Mapping[str, object],
    database: SubscriberDatabase,
    replace: bool,
    advance: Advance,
) -> Iterator[Entry]:
    """Entries of the file; one that is provisioned already is a problem, unless it is to be replaced."""
    try:
        found = entries((read_yaml if form is Form.YAML else read_csv)(file, advance), defaults)
        if replace:
            yield from found
            return
        while batch := tuple(islice(found, BATCH)):
            there = database.existing([entry.subscriber.imsi for entry in batch if entry.subscriber is not None])
            for entry in batch:
                if entry.subscriber is not None and entry.subscriber.imsi in there:
                    expected = "an IMSI that is not provisioned yet, or --replace"
                    problem = DocumentError("imsi", repr(str(entry.subscriber.imsi)), expected)
                    yield Entry(line=entry.line, problem=problem)
                else:
                    yield entry
    except FileProblem as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(REFUSED) from None


def _form_of(file: Path) -> Form:
    return Form.YAML if file.suffix.lower() in (".yaml", ".yml") else Form.CSV


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def export_subscribers(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to; standard output if left out.")
    ] = None,
    form: FormOption = None,
    secrets: Annotated[bool, typer.Option("--secrets", help="With K, OP and OPc.")] = False,
    imsi_prefix: Annotated[str | None, typer.Option(help="IMSIs that begin with these digits.")] = None,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    master_keys: MasterKeysOption = None,
) -> None:
    """Export subscribers; keys only with --secrets. YAML holds everything, CSV what SIM vendors deliver."""
    chosen = form or (Form.CSV if file is None else _form_of(file))
    where = SubscriberFilter(imsi_prefix=first_digits(imsi_prefix))
    with opened_database(config, database, master_keys) as opened, Progress() as progress:
        advance = progress.task("exporting", opened.count(where))

        def counted() -> Iterator[Subscriber]:
            for subscriber in opened.all(where=where):
                yield subscriber
                advance(1)

        write = write_yaml if chosen is Form.YAML else write_csv
        with _output(file) as output:
            for piece in write(counted(), secrets=secrets):
                output.write(piece)
            output.flush()


@contextmanager
def _output(file: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that its owner alone may read; ``BackendError`` when it takes no more."""
    try:
        with _opened(file) as output:
            yield output
    except BrokenPipeError:
        raise  # a reader that has enough
    except OSError as error:
        raise BackendError(f"{file or 'standard output'} cannot be written: {error.strerror}") from None


@contextmanager
def _opened(file: Path | None) -> Iterator[TextIO]:
    if file is None:
        yield sys.stdout
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise refusal("FILE", str(file), f"a file that can be written: {error.strerror}") from None
    with open(descriptor, "w", encoding="utf-8") as opened:
        yield opened
