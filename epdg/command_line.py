"""The command ``epdg``: serve, make certificates, look at sessions."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from epdg.config import EpdgConfiguration
from epdg.pki import KeyKind, issue, make_pki, write_crl, write_ocsp_response
from epdg.tail import tail
from protocols.dataplane.choice import refusing
from protocols.errors import ConfigurationError
from protocols.io.configuration import EXIT_REFUSED, exit_on_error, load
from protocols.io.control import call_sync
from protocols.io.process import expect_many, starting
from protocols.threegpp.identity import Plmn, epdg_fqdn
from protocols.trace.records import JsonValue

app = typer.Typer(
    help="The ePDG: IKEv2 towards UEs, SWm towards the AAA server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
pki = typer.Typer(help="Certificates, CRLs and OCSP responses of a CA for tests.", no_args_is_help=True)
app.add_typer(pki, name="pki")

DNS_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*\Z")

CERTIFIED_NAME = re.compile(r"[\x21-\x7e]{1,253}\Z")

app.command("tail")(tail)

ConfigurationOption = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration (YAML).")]


@app.command()
@exit_on_error
def serve(configuration: ConfigurationOption) -> None:
    """Serve UEs until SIGTERM or Ctrl-C, then let go of them (DELETE), of the AAA server (STR, DPR).

    SIGHUP: read the configuration again; sessions stay.
    """
    settings = load(configuration, EpdgConfiguration)
    settings.logging.start(settings.node)
    asyncio.run(_serve(settings, configuration))


async def _serve(settings: EpdgConfiguration, file: Path) -> None:
    with starting():
        from epdg.runtime import EpdgNode  # here: the other commands start without it

    expect_many()
    with refusing(file):
        node = EpdgNode(settings, file=file)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    loop.add_signal_handler(signal.SIGHUP, node.reloading.hang_up)
    await node.run()


@app.command()
@exit_on_error
def doctor(
    configuration: Annotated[
        Path | None, typer.Option("--config", "-c", help="The gateway's configuration (YAML); without: this machine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what the gateway needs and whether it is there; exit status 1 when something is missing."""
    from epdg.doctor.checks import examine  # netlink's library takes a while
    from epdg.doctor.finding import Status

    findings = examine(None if configuration is None else load(configuration, EpdgConfiguration))
    complete = all(finding.status is not Status.MISSING for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": complete, "findings": [finding.view() for finding in findings]}, indent=2))
    else:
        for finding in findings:
            typer.echo(finding.line())
    if not complete:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
@exit_on_error
def status(
    configuration: ConfigurationOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Show how the running gateway is: sessions, what carries ESP, what was dropped."""
    answer = call_sync(load(configuration, EpdgConfiguration).control, "node.status")
    if as_json or not isinstance(answer, dict):
        typer.echo(json.dumps(answer, indent=2))
        return
    listen, data_plane, dropped = answer["listen"], answer["data_plane"], answer["dropped"]
    typer.echo(f"{answer['fqdn']} on {', '.join(map(str, listen)) if isinstance(listen, list) else ''}")
    typer.echo(f"sessions: {answer['sessions']}, half open: {answer['half_open']}")
    if isinstance(data_plane, dict):
        typer.echo(data_plane["remark"])
    counted = {
        f"{kind} {reason}": number
        for kind, reasons in (dropped.items() if isinstance(dropped, dict) else ())
        for reason, number in (reasons.items() if isinstance(reasons, dict) else ())
    }
    typer.echo(f"dropped: {', '.join(f'{name} {number}' for name, number in counted.items()) or 'nothing'}")


@app.command()
@exit_on_error
def sessions(
    configuration: ConfigurationOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
    imsi: Annotated[str | None, typer.Option(help="Only this IMSI.")] = None,
) -> None:
    """List the sessions of the running gateway."""
    settings = load(configuration, EpdgConfiguration)
    params: dict[str, JsonValue] = {} if imsi is None else {"imsi": imsi}
    answer = call_sync(settings.control, "sessions.list", **params)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    from epdg.session_table import print_sessions  # here: rich is a tenth of a node's start

    listed = answer["sessions"] if isinstance(answer, dict) else []
    print_sessions(listed if isinstance(listed, list) else [])


@app.command("reload")
@exit_on_error
def reload_configuration(configuration: ConfigurationOption) -> None:
    """Have the running gateway read its configuration again, as SIGHUP does, and say what has come of it."""
    answer = call_sync(load(configuration, EpdgConfiguration).control, "node.reload")
    assert isinstance(answer, dict)
    for name, words in (("changed", "changed"), ("needs_restart", "needs a restart")):
        keys = answer[name]
        for key in keys if isinstance(keys, list) else []:
            typer.echo(f"{key}: {words}")


class DetachCause(str, Enum):
    """Why a session is ended, as ``sessions.detach`` has it."""

    OPERATOR = "operator"
    REACTIVATE = "reactivate"


@app.command()
@exit_on_error
def detach(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    configuration: ConfigurationOption,
    cause: Annotated[
        DetachCause, typer.Option(help="reactivate: the UE is told to come again.")
    ] = DetachCause.OPERATOR,
) -> None:
    """End one session of the running gateway."""
    settings = load(configuration, EpdgConfiguration)
    call_sync(settings.control, "sessions.detach", id=session, cause=cause.value)


@app.command()
@exit_on_error
def liveness(
    session: Annotated[str, typer.Argument(help="The session's id.")], configuration: ConfigurationOption
) -> None:
    """Ask one UE of the running gateway whether it lives; exit status 1 when it does not answer."""
    _ask(configuration, "sessions.liveness", session)


@app.command("check-path")
@exit_on_error
def check_path(
    session: Annotated[str, typer.Argument(help="The session's id.")], configuration: ConfigurationOption
) -> None:
    """Have one UE prove that it is where it says (RFC 4555 §3.7); exit status 1 when it does not answer."""
    _ask(configuration, "sessions.check-path", session)


def _ask(configuration: Path, method: str, session: str) -> None:
    answer = call_sync(load(configuration, EpdgConfiguration).control, method, id=session)
    assert isinstance(answer, dict)
    path = answer["path"]
    where = path["remote"] if isinstance(path, dict) else ""
    typer.echo(f"{where} {'answered after' if answer['answered'] else 'has not answered for'} {answer['seconds']} s")
    if not answer["answered"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
@exit_on_error
def evidence(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    configuration: ConfigurationOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive to write (ZIP).")],
    others: Annotated[
        list[Path] | None, typer.Option("--with", help="The control socket of another node; may be repeated.")
    ] = None,
) -> None:
    """Write all that is known of one session: capture, keys where exported, ladder, trace, configurations, result."""
    from epdg.evidence import write_evidence  # the ladder's drawing and the catalogue of causes take a while

    names = write_evidence(session, load(configuration, EpdgConfiguration).control, others or [], output)
    typer.echo(f"{output}: {', '.join(names)}")


@app.command("restore-pcscf")
@exit_on_error
def restore_p_cscf(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    address: Annotated[list[str], typer.Argument(help="The P-CSCF addresses that the UE is to use from now on.")],
    configuration: ConfigurationOption,
) -> None:
    """Tell the UE of one session of other P-CSCFs (P-CSCF restoration, TS 23.380)."""
    settings = load(configuration, EpdgConfiguration)
    call_sync(settings.control, "sessions.restore-pcscf", id=session, addresses=list(address))


@app.command("rekey-ike")
@exit_on_error
def rekey_ike(
    session: Annotated[str, typer.Argument(help="The session's id.")], configuration: ConfigurationOption
) -> None:
    """Rekey the IKE SA of one session of the running gateway."""
    settings = load(configuration, EpdgConfiguration)
    call_sync(settings.control, "sessions.rekey-ike", id=session)


@app.command("rekey-child")
@exit_on_error
def rekey_child(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    configuration: ConfigurationOption,
    inbound_spi: Annotated[
        str | None, typer.Option("--spi", help="The gateway's inbound SPI in hexadecimal; all child SAs without.")
    ] = None,
) -> None:
    """Rekey the ESP SAs of one session of the running gateway."""
    settings = load(configuration, EpdgConfiguration)
    call_sync(settings.control, "sessions.rekey-child", id=session, inbound_spi=inbound_spi)


@app.command()
@exit_on_error
def reauthenticate(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    configuration: ConfigurationOption,
    lifetime: Annotated[float, typer.Option(min=0, help="How many seconds the UE has; 0: it begins at once.")] = 0,
) -> None:
    """Have one UE of the running gateway authenticate anew (AUTH_LIFETIME)."""
    settings = load(configuration, EpdgConfiguration)
    call_sync(settings.control, "sessions.reauthenticate", id=session, lifetime=lifetime)


@app.command()
@exit_on_error
def addresses(
    configuration: ConfigurationOption,
    add: Annotated[str | None, typer.Option(help="Have this address, which is not configured, too.")] = None,
    remove: Annotated[str | None, typer.Option(help="Give up an address that was added.")] = None,
    withdraw: Annotated[str | None, typer.Option(help="Lose this address.")] = None,
    silently: Annotated[bool, typer.Option("--silently", help="Lose it without telling the UEs.")] = False,
    restore: Annotated[str | None, typer.Option(help="Have this address again.")] = None,
    prefer: Annotated[str | None, typer.Option(help="Ask UEs to use this address.")] = None,
    session: Annotated[str | None, typer.Option(help="With --prefer: only this session.")] = None,
) -> None:
    """Show or change the addresses of the running gateway (RFC 4555 §3.6)."""
    control = load(configuration, EpdgConfiguration).control
    if add is not None:
        call_sync(control, "addresses.add", address=add)
    if remove is not None:
        call_sync(control, "addresses.remove", address=remove)
    if withdraw is not None:
        call_sync(control, "addresses.withdraw", address=withdraw, silently=silently)
    if restore is not None:
        call_sync(control, "addresses.restore", address=restore)
    if prefer is not None:
        call_sync(control, "addresses.prefer", address=prefer, id=session)
    answer = call_sync(control, "addresses.list")
    listed = answer["addresses"] if isinstance(answer, dict) else []
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict):
            remark = f"{'' if each['present'] else '  (withdrawn)'}{'' if each['configured'] else '  (added)'}"
            typer.echo(f"{each['address']}{remark}")


@app.command()
@exit_on_error
def redirect(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    gateway: Annotated[str, typer.Argument(help="Address or name of the gateway that the UE is sent to.")],
    configuration: ConfigurationOption,
) -> None:
    """Send the UE of one session to another gateway (RFC 5685)."""
    settings = load(configuration, EpdgConfiguration)
    call_sync(settings.control, "sessions.redirect", id=session, gateway=gateway)


@pki.command("init")
@exit_on_error
def pki_init(
    directory: Annotated[Path, typer.Argument(help="Where to write ca.pem, gateway.pem and their keys.")],
    mcc: Annotated[str, typer.Option(help="Mobile country code.")] = "001",
    mnc: Annotated[str, typer.Option(help="Mobile network code.")] = "01",
    apn: Annotated[list[str] | None, typer.Option(help="An APN to name in the certificate; may be repeated.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="A further DNS name; may be repeated.")] = None,
    rsa: Annotated[bool, typer.Option("--rsa", help="RSA-2048 instead of ECDSA P-256.")] = False,
) -> None:
    """Make a CA and a gateway certificate with the ePDG FQDN and the APNs as names."""
    try:
        fqdn = epdg_fqdn(Plmn(mcc, mnc))
    except ValueError as error:
        raise ConfigurationError(
            file="command line", key="--mcc/--mnc", value=f"{mcc}/{mnc}", expected=f"a PLMN ({error})"
        ) from error
    for each in [*(apn or []), *(name or [])]:
        if not DNS_NAME.match(each):
            raise ConfigurationError(
                file="command line",
                key="--apn/--name",
                value=each,
                expected="a DNS name, such as internet or epdg.example",
            )
    names = dict.fromkeys([fqdn, *(apn or ["internet", "ims"]), *(name or [])])
    files = make_pki(directory, tuple(names), use_rsa=rsa)
    typer.echo(f"CA certificate (for the UEs): {files.authority}")
    typer.echo(f"gateway certificate and key:  {files.chain}, {files.key}")
    typer.echo(f"names: {', '.join(names)}")


PkiDirectory = Annotated[Path, typer.Argument(help="The directory that `epdg pki init` has made.")]
CertificateFile = Annotated[Path, typer.Argument(help="A certificate of its CA (PEM).")]


@pki.command("issue")
@exit_on_error
def pki_issue(
    directory: PkiDirectory,
    names: Annotated[list[str], typer.Argument(help="DNS names, mailboxes (the NAI of a UE) or addresses.")],
    kind: Annotated[KeyKind, typer.Option(help="The key's kind.")] = KeyKind.ECDSA,
    client: Annotated[bool, typer.Option("--client", help="For a UE instead of a gateway.")] = False,
    diameter: Annotated[bool, typer.Option("--diameter", help="For TLS between Diameter nodes.")] = False,
) -> None:
    """Make a certificate and its key; the first name is the file's."""
    for each in names:
        if not CERTIFIED_NAME.match(each):
            raise ConfigurationError(
                file="command line", key="NAMES", value=each, expected="a DNS name, a mailbox or an address"
            )
    path = issue(directory, tuple(names), kind=kind, client=client, diameter=diameter)
    typer.echo(f"certificate: {path}, its key beside it")


@pki.command("revoke")
@exit_on_error
def pki_revoke(directory: PkiDirectory, certificate: CertificateFile) -> None:
    """Put a certificate on the CA's CRL."""
    typer.echo(f"CRL: {write_crl(directory, certificate)}")


@pki.command("crl")
@exit_on_error
def pki_crl(directory: PkiDirectory) -> None:
    """Make the CA's CRL anew, for another week."""
    typer.echo(f"CRL: {write_crl(directory)}")


@pki.command("ocsp")
@exit_on_error
def pki_ocsp(directory: PkiDirectory, certificate: CertificateFile) -> None:
    """Make an OCSP response about a certificate, good unless the CRL has it, for a week."""
    typer.echo(f"OCSP response: {write_ocsp_response(directory, certificate)}")
