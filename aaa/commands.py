"""``aaa fault``: telling a running server to misbehave; and which running server a command means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from aaa.config import AaaConfiguration
from aaa.faults.rule import FaultRule
from aaa.provisioning import ConfigurationOption, JsonOption, Unshown, refusal
from protocols.io.configuration import exit_on_error, load, validate
from protocols.io.control import call_sync
from protocols.io.documents import Document
from protocols.trace.records import JsonValue

faults = typer.Typer(
    name="fault", help="Tell a running server to misbehave.", no_args_is_help=True, add_completion=False
)

ControlOption = Annotated[Path | None, typer.Option("--control", help="The node's control socket, instead of -c.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The rule's name.")]


def control_of(config: Path | None, control: Path | None) -> Path:
    """The control socket that the command line names."""
    if control is not None:
        return control
    if config is None:
        raise refusal("--control", Unshown("nothing"), "a control socket, or -c with a configuration file")
    return load(config, AaaConfiguration).control


@faults.command("list")
@exit_on_error
def list_faults(config: ConfigurationOption = None, control: ControlOption = None, as_json: JsonOption = False) -> None:
    """List the fault rules of a running node, in the order in which they are asked."""
    answer = call_sync(control_of(config, control), "faults.list")
    assert isinstance(answer, dict)
    found = answer["faults"]
    assert isinstance(found, list)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for rule in found:
        assert isinstance(rule, dict)
        typer.echo(_line(rule))


@faults.command()
@exit_on_error
def add(
    name: NameArgument,
    imsi: Annotated[str | None, typer.Option(help="IMSI, PREFIX* or FIRST-LAST.")] = None,
    apn: Annotated[str | None, typer.Option(help="Only for this APN.")] = None,
    command: Annotated[str | None, typer.Option(help="Only for this request: DER, AAR, STR, MAR or SAR.")] = None,
    step: Annotated[str | None, typer.Option(help="Of a DER: identity, challenge or final.")] = None,
    attempts: Annotated[str | None, typer.Option(help="A subscriber's attempts: 1, 2-4, 3- or 'every 3'.")] = None,
    share: Annotated[float | None, typer.Option(help="The part of the attempts that it hits, 0 to 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another share of the attempts.")] = None,
    result: Annotated[
        str | None, typer.Option(help="Answer with this result: a name, a number or VENDOR:NUMBER.")
    ] = None,
    backoff: Annotated[int | None, typer.Option(help="Ask to stay away for so many seconds.")] = None,
    delay: Annotated[float | None, typer.Option(help="Answer so many seconds late.")] = None,
    truncate: Annotated[int | None, typer.Option(help="Cut the answer after so many octets.")] = None,
    silence: Annotated[bool, typer.Option("--silence", help="Do not answer.")] = False,
    duplicate: Annotated[bool, typer.Option("--duplicate", help="Answer twice.")] = False,
    wrong_session_id: Annotated[bool, typer.Option("--wrong-session-id", help="Another Session-Id.")] = False,
    eap_failure: Annotated[bool, typer.Option("--eap-failure", help="EAP-Failure in place of the request.")] = False,
    wrong_mac: Annotated[bool, typer.Option("--wrong-mac", help="A wrong AT_MAC.")] = False,
    wrong_autn: Annotated[bool, typer.Option("--wrong-autn", help="A wrong MAC in AUTN.")] = False,
    old_sqn: Annotated[bool, typer.Option("--old-sqn", help="An SQN that was used.")] = False,
    clear_amf_bit: Annotated[bool, typer.Option("--clear-amf-bit", help="AMF without its separation bit.")] = False,
    wrong_keys: Annotated[bool, typer.Option("--wrong-keys", help="Other CK and IK than the USIM's.")] = False,
    times: Annotated[int | None, typer.Option(help="Apply it so often, for ever without this.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Add it without effect.")] = False,
    config: ConfigurationOption = None,
    control: ControlOption = None,
) -> None:
    """Add a rule behind the others; it is gone when the node ends."""
    match: dict[str, JsonValue] = {
        "imsi": imsi,
        "apn": apn,
        "command": command,
        "step": step,
        "attempts": attempts,
        "share": share,
        "seed": seed,
    }
    action: dict[str, JsonValue] = {
        "result": result,
        "backoff": backoff,
        "delay": delay,
        "truncate": truncate,
        "silence": silence,
        "duplicate": duplicate,
        "wrong_session_id": wrong_session_id,
        "eap_failure": eap_failure,
        "wrong_mac": wrong_mac,
        "wrong_autn": wrong_autn,
        "old_sqn": old_sqn,
        "clear_amf_bit": clear_amf_bit,
        "wrong_keys": wrong_keys,
    }
    rule: dict[str, JsonValue] = {
        "name": name,
        "match": {key: value for key, value in match.items() if value is not None},
        "action": {key: value for key, value in action.items() if value is not None and value is not False},
        "times": times,
        "enabled": not disabled,
    }
    validate(Document.of(rule, "command line"), FaultRule)
    call_sync(control_of(config, control), "faults.add", rule=rule)
    typer.echo(f"fault rule {name} added")


@faults.command()
@exit_on_error
def remove(name: NameArgument, config: ConfigurationOption = None, control: ControlOption = None) -> None:
    """Remove a rule."""
    call_sync(control_of(config, control), "faults.remove", name=name)
    typer.echo(f"fault rule {name} removed")


@faults.command()
@exit_on_error
def clear(config: ConfigurationOption = None, control: ControlOption = None) -> None:
    """Remove every rule."""
    answer = call_sync(control_of(config, control), "faults.clear")
    assert isinstance(answer, dict)
    number = answer["removed"]
    typer.echo("1 fault rule removed" if number == 1 else f"{number} fault rules removed")


def _line(rule: dict[str, JsonValue]) -> str:
    match, action = rule["match"], rule["action"]
    assert isinstance(match, dict)
    assert isinstance(action, dict)
    when = " ".join(f"{key}={value}" for key, value in match.items()) or "always"
    what = " ".join(key if value is True else f"{key}={value}" for key, value in action.items())
    state = "" if rule["enabled"] else "  disabled"
    if rule["remaining"] is not None:
        state += f"  {rule['remaining']} left"
    return f"{rule['name']}  {when}  {what}  matched {rule['matched']}, applied {rule['applied']}{state}"
