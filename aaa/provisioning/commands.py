"""``aaa subscriber add|list|show|update|remove``: one subscriber at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from aaa.hss.local import LocalHss
from aaa.provisioning.opening import (
    ConfigurationOption,
    DatabaseOption,
    ImsiArgument,
    JsonOption,
    MasterKeysOption,
    Unshown,
    first_digits,
    opened_database,
    refusal,
    refused_field,
    wanted_imsi,
)
from aaa.subscribers import (
    SequenceGoesBack,
    Subscriber,
    SubscriberExists,
    SubscriberFilter,
    UnknownImsi,
)
from aaa.subscribers.document import APN_FIELDS, DocumentError, changed_by, described, subscriber_from
from protocols.io.configuration import exit_on_error
from protocols.io.entropy import SystemEntropy
from protocols.io.vectors import write_vectors
from protocols.threegpp.identity import Apn

application = typer.Typer(name="subscriber", help="Provision subscribers.", no_args_is_help=True, add_completion=False)

VECTORS_MAXIMUM = 1024  # as many SQN as are reserved at a time

KOption = Annotated[str | None, typer.Option(envvar="AAA_K", help="K: 32 hexadecimal digits, or 64 for TUAK.")]
OpcOption = Annotated[str | None, typer.Option(envvar="AAA_OPC", help="OPc: 32 hexadecimal digits; TOPc: 64.")]
OpOption = Annotated[str | None, typer.Option(envvar="AAA_OP", help="OP (or TOP), instead of OPc.")]
AlgorithmOption = Annotated[str | None, typer.Option(help="milenage, tuak, or xor (test USIMs, TS 34.108).")]
IterationsOption = Annotated[int | None, typer.Option(help="How often TUAK permutes.")]
ResLengthOption = Annotated[int | None, typer.Option(help="Octets of RES, 4 to 16.")]
AmfOption = Annotated[str | None, typer.Option(help="AMF: 4 hexadecimal digits.")]
SqnOption = Annotated[str | None, typer.Option(help="SQN_HE to go on after: up to 12 hexadecimal digits.")]
SchemeOption = Annotated[
    str | None, typer.Option(help="not-time-based, partly-time-based or time-based (TS 33.102 Annex C).")
]
IndBitsOption = Annotated[int | None, typer.Option(help="Bits of IND in SQN, 0 to 16.")]
MsisdnOption = Annotated[str | None, typer.Option(help="Up to 15 digits; empty: none.")]
ImeiOption = Annotated[str | None, typer.Option(help="The equipment that the subscriber is bound to; empty: any.")]
EnabledOption = Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether it is barred.")]
Non3gppOption = Annotated[
    bool | None, typer.Option("--non-3gpp/--no-non-3gpp", help="The subscription to non-3GPP access.")
]
RoamingOption = Annotated[bool | None, typer.Option("--roaming/--no-roaming", help="Whether it may roam.")]
NetworksOption = Annotated[
    str | None, typer.Option(help="Where it may roam: networks such as 001-01,262-02; empty: everywhere.")
]
WlanOption = Annotated[bool | None, typer.Option("--wlan/--no-wlan", help="Whether WLAN is allowed.")]
UplinkOption = Annotated[int | None, typer.Option("--ambr-ul", help="AMBR of the UE, bit/s.")]
DownlinkOption = Annotated[int | None, typer.Option("--ambr-dl", help="AMBR of the UE, bit/s.")]
TimeoutOption = Annotated[int | None, typer.Option(help="Session-Timeout, seconds.")]
ApnOption = Annotated[
    list[str] | None,
    typer.Option(
        help=f"NAME[,KEY=VALUE]…, keys: {' '.join(APN_FIELDS[1:])}. Repeat for more; the first one is the default APN."
    ),
]


@application.command()
@exit_on_error
def add(
    imsi: ImsiArgument,
    k: KOption = None,
    opc: OpcOption = None,
    op: OpOption = None,
    algorithm: AlgorithmOption = None,
    tuak_iterations: IterationsOption = None,
    res_length: ResLengthOption = None,
    amf: AmfOption = None,
    sqn: SqnOption = None,
    sqn_scheme: SchemeOption = None,
    ind_bits: IndBitsOption = None,
    msisdn: MsisdnOption = None,
    imei: ImeiOption = None,
    apn: ApnOption = None,
    enabled: EnabledOption = None,
    non_3gpp: Non3gppOption = None,
    roaming: RoamingOption = None,
    visited_networks: NetworksOption = None,
    wlan: WlanOption = None,
    ambr_uplink: UplinkOption = None,
    ambr_downlink: DownlinkOption = None,
    session_timeout: TimeoutOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Over an older subscriber.")] = False,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    master_keys: MasterKeysOption = None,
) -> None:
    """Add a subscriber."""
    if k is None:
        raise refusal("--k", Unshown("nothing"), "32 hexadecimal digits, or 64 for TUAK")
    if (algorithm or "").lower() != "xor" and (op is None) == (opc is None):
        given = "neither" if op is None else "both"
        raise refusal("--opc", Unshown(given), "either --opc or --op")
    document = _document(
        imsi=imsi,
        k=k,
        opc=opc,
        op=op,
        algorithm=algorithm,
        tuak_iterations=tuak_iterations,
        res_length=res_length,
        amf=amf,
        sqn=sqn,
        sqn_scheme=sqn_scheme,
        ind_bits=ind_bits,
        msisdn=msisdn,
        imei=imei,
        apns=apn or ["internet"],
        enabled=enabled,
        non_3gpp_allowed=non_3gpp,
        roaming_allowed=roaming,
        visited_networks=visited_networks,
        wlan_allowed=wlan,
        ambr_ul=ambr_uplink,
        ambr_dl=ambr_downlink,
        session_timeout=session_timeout,
    )
    try:
        subscriber = subscriber_from(document)
    except DocumentError as error:
        raise refused_field(error) from None
    with opened_database(config, database, master_keys) as opened:
        if replace:
            opened.replace(subscriber)
        else:
            try:
                opened.add(subscriber)
            except SubscriberExists:
                raise refusal("IMSI", imsi, "an IMSI that is not provisioned yet, or --replace") from None
    typer.echo(f"subscriber {subscriber.imsi} provisioned")


@application.command()
@exit_on_error
def update(
    imsi: ImsiArgument,
    k: KOption = None,
    opc: OpcOption = None,
    op: OpOption = None,
    algorithm: AlgorithmOption = None,
    tuak_iterations: IterationsOption = None,
    res_length: ResLengthOption = None,
    amf: AmfOption = None,
    sqn: SqnOption = None,
    sqn_scheme: SchemeOption = None,
    ind_bits: IndBitsOption = None,
    msisdn: MsisdnOption = None,
    imei: ImeiOption = None,
    apn: ApnOption = None,
    enabled: EnabledOption = None,
    non_3gpp: Non3gppOption = None,
    roaming: RoamingOption = None,
    visited_networks: NetworksOption = None,
    wlan: WlanOption = None,
    ambr_uplink: UplinkOption = None,
    ambr_downlink: DownlinkOption = None,
    session_timeout: TimeoutOption = None,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    master_keys: MasterKeysOption = None,
) -> None:
    """Change what is given of a subscriber; --apn replaces all its APNs."""
    wanted = wanted_imsi(imsi)
    document = _document(
        k=k,
        opc=opc,
        op=op,
        algorithm=algorithm,
        tuak_iterations=tuak_iterations,
        res_length=res_length,
        amf=amf,
        sqn=sqn,
        sqn_scheme=sqn_scheme,
        ind_bits=ind_bits,
        msisdn=msisdn,
        imei=imei,
        apns=apn or None,
        enabled=enabled,
        non_3gpp_allowed=non_3gpp,
        roaming_allowed=roaming,
        visited_networks=visited_networks,
        wlan_allowed=wlan,
        ambr_ul=ambr_uplink,
        ambr_dl=ambr_downlink,
        session_timeout=session_timeout,
    )
    if not document:
        raise refusal("update", Unshown("nothing"), "at least one option that changes something")
    with opened_database(config, database, master_keys) as opened:
        try:
            opened.update(wanted, lambda subscriber: changed_by(document, subscriber))
        except DocumentError as error:
            raise refused_field(error) from None
        except SequenceGoesBack as error:
            raise refusal("--sqn", sqn, f"an SQN that is not below: {error}") from None
    typer.echo(f"subscriber {wanted} changed")


def _document(**fields: object) -> dict[str, object]:
    """The fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


@application.command("list")
@exit_on_error
def list_subscribers(
    imsi_prefix: Annotated[str | None, typer.Option(help="IMSIs that begin with these digits.")] = None,
    apn: Annotated[str | None, typer.Option(help="Subscribers of this APN.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enabled/--disabled", help="Only those.")] = None,
    text: Annotated[str | None, typer.Option(help="Part of an IMSI, MSISDN, IMEI or the name of an APN.")] = None,
    after: Annotated[str | None, typer.Option(help="Begin behind this IMSI.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    master_keys: MasterKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """List subscribers by IMSI, one a line."""
    try:
        wanted_apn = None if apn is None else Apn(apn)
    except ValueError as error:
        raise refusal("--apn", apn, f"a name such as internet: {error}") from None
    where = SubscriberFilter(imsi_prefix=first_digits(imsi_prefix), apn=wanted_apn, enabled=enabled, text=text)
    behind = None if after is None else wanted_imsi(after)
    with opened_database(config, database, master_keys) as opened:
        left = limit
        first = True
        while left is None or left > 0:
            page = opened.page(after=behind, limit=min(left or 1000, 1000), where=where)
            if not page:
                break
            behind = page[-1].imsi
            left = None if left is None else left - len(page)
            for subscriber in page:
                if as_json:
                    shown = json.dumps(described(subscriber, secrets=False))
                    typer.echo(("[" if first else ",\n ") + shown, nl=False)
                else:
                    typer.echo(_line(subscriber))
                first = False
        if as_json:
            typer.echo("[]" if first else "]")


def _line(subscriber: Subscriber) -> str:
    apns = ",".join(str(held.apn) for held in subscriber.apns) or "-"
    access = "enabled" if subscriber.enabled else "disabled"
    if not subscriber.non_3gpp_allowed:
        access += ",no-non-3gpp"
    return f"{subscriber.imsi}  {access}  {apns}  {subscriber.msisdn or '-'}"


@application.command()
@exit_on_error
def show(
    imsi: ImsiArgument,
    secrets: Annotated[bool, typer.Option("--secrets", help="Print K, OP and OPc.")] = False,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    master_keys: MasterKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one subscriber; its keys only with --secrets."""
    wanted = wanted_imsi(imsi)
    with opened_database(config, database, master_keys) as opened:
        subscriber = opened.get(wanted)
    if subscriber is None:
        raise UnknownImsi(f"no subscriber has IMSI {wanted}")
    fields = described(subscriber, secrets=secrets)
    if as_json:
        typer.echo(json.dumps(fields))
        return
    for name, value in fields.items():
        if name == "apns" and isinstance(value, list):
            for held in value:
                assert isinstance(held, dict)
                typer.echo(
                    "apn: " + " ".join(f"{key}={_plain(text)}" for key, text in held.items() if text is not None)
                )
        elif isinstance(value, list):
            if value:
                typer.echo(f"{name}: {', '.join(map(str, value))}")
        elif value is not None:
            typer.echo(f"{name}: {_plain(value)}")


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@application.command()
@exit_on_error
def vectors(
    imsi: ImsiArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, for its owner only.")],
    count: Annotated[int, typer.Option(min=1, max=VECTORS_MAXIMUM, help="How many vectors.")] = 1,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    master_keys: MasterKeysOption = None,
) -> None:
    """Write authentication vectors with fresh SQN: for usim.vectors of ue, and hss.vectors of an HSS without K."""
    wanted = wanted_imsi(imsi)
    with opened_database(config, database, master_keys) as opened:
        centre = LocalHss(opened, SystemEntropy(), sequence_block=count)
        write_vectors(output, str(wanted), [centre.authentication_vector(wanted, None) for _ in range(count)])
    typer.echo(f"{count} vectors of subscriber {wanted} in {output}")


@application.command()
@exit_on_error
def remove(
    imsi: ImsiArgument,
    config: ConfigurationOption = None,
    database: DatabaseOption = None,
    master_keys: MasterKeysOption = None,
) -> None:
    """Remove one subscriber."""
    wanted = wanted_imsi(imsi)
    with opened_database(config, database, master_keys) as opened:
        if not opened.remove(wanted):
            raise UnknownImsi(f"no subscriber has IMSI {wanted}")
    typer.echo(f"subscriber {wanted} removed")
