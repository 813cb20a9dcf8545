"""``aaa sessions``: the sessions of a running AAA server, listed, aborted and re-authorised."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from aaa.commands import ControlOption, control_of
from aaa.provisioning import ConfigurationOption, JsonOption
from protocols.errors import printable
from protocols.io.configuration import exit_on_error
from protocols.io.control import ControlClient, call_sync
from protocols.trace.records import JsonValue

PROCEDURE_INTERVAL = 180.0  # three requests without an answer, the pauses between them, what follows

sessions = typer.Typer(name="sessions", help="The sessions of a running AAA server.", add_completion=False)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The Session-Id.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why, for records.")]


@sessions.callback(invoke_without_command=True)
@exit_on_error
def list_sessions(
    context: typer.Context,
    config: ConfigurationOption = None,
    control: ControlOption = None,
    imsi: Annotated[str | None, typer.Option(help="Only of this subscriber.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the SWm sessions of a running node."""
    if context.invoked_subcommand is not None:
        return
    socket = control_of(config, control)
    found: list[JsonValue] = []
    cursor: JsonValue = None
    while True:
        answer = call_sync(socket, "sessions.list", imsi=imsi, cursor=cursor)
        assert isinstance(answer, dict)
        page = answer["sessions"]
        assert isinstance(page, list)
        found += page
        cursor = answer["next"]
        if cursor is None:
            break
    if as_json:
        typer.echo(json.dumps(found))
        return
    for session in found:
        assert isinstance(session, dict)
        typer.echo(_line(session))


def _line(session: dict[str, JsonValue]) -> str:
    created = session["created"]
    moment = datetime.fromtimestamp(created).isoformat(" ", "seconds") if isinstance(created, float) else "-"
    error = session["last_error"]
    why = f"  {error['text']}" if isinstance(error, dict) else ""
    words = (session["imsi"], session["state"], session["apn"], session["gateway"])
    return printable("  ".join((moment, *(str(word or "-") for word in words), str(session["id"]))) + why)


@sessions.command()
@exit_on_error
def abort(
    session_id: IdArgument,
    reason: ReasonOption = None,
    config: ConfigurationOption = None,
    control: ControlOption = None,
) -> None:
    """ASR to the gateway of a session, of an ePDG or a PGW: it ends the session."""
    _carry_out("sessions.abort", session_id, reason, config, control)


@sessions.command()
@exit_on_error
def reauthorise(
    session_id: IdArgument,
    reason: ReasonOption = None,
    config: ConfigurationOption = None,
    control: ControlOption = None,
) -> None:
    """RAR to the gateway of a session, of an ePDG or a PGW: it fetches the present profile."""
    _carry_out("sessions.reauthorise", session_id, reason, config, control)


def _carry_out(method: str, session_id: str, reason: str | None, config: Path | None, control: Path | None) -> None:
    client = ControlClient(control_of(config, control), answer_interval=PROCEDURE_INTERVAL)
    answer = asyncio.run(client.call(method, id=session_id, reason=reason))
    assert isinstance(answer, dict)
    typer.echo(printable(str(answer["text"])))
    if not answer["succeeded"]:
        raise typer.Exit(1)
