"""Between rows and subscribers: values in columns, keys sealed under the master key where there is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Network
from itertools import groupby
from operator import attrgetter

from sqlalchemy import Row, select

from aaa.subscribers.master_keys import MasterKeys
from aaa.subscribers.schema import ApnRow, Base, SubscriberRow
from aaa.subscribers.subscriber import Algorithm, ApnSubscription, PdnType, Subscriber
from protocols.algorithms.sqn import SqnGeneration, SqnScheme
from protocols.errors import BackendError
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi, Plmn

Values = dict[str, object]
ReadRow = Row[tuple[object, ...]]

# One statement, so that a reader never sees APNs of another moment; plain rows, since every attach reads its subscriber
# twice and objects for rows cost several times as much. A row for each APN, or one without.
_SUBSCRIBERS, _APNS = (Base.metadata.tables[each.__tablename__] for each in (SubscriberRow, ApnRow))
SUBSCRIBERS = (
    select(*_SUBSCRIBERS.c, *(column.label(f"apn_{column.name}") for column in _APNS.c))
    .select_from(_SUBSCRIBERS.outerjoin(_APNS))
    .order_by(_SUBSCRIBERS.c.imsi, _APNS.c.position)
)


def subscriber_values(subscriber: Subscriber, keys: MasterKeys | None) -> Values:
    """The columns of ``subscribers``."""
    imsi = str(subscriber.imsi)
    values: Values = {
        "imsi": imsi,
        "amf": subscriber.amf,
        "algorithm": subscriber.algorithm.value,
        "tuak_iterations": subscriber.tuak_iterations,
        "res_length": subscriber.res_length,
        "sqn_generation": subscriber.sqn_scheme.generation.value,
        "ind_bits": subscriber.sqn_scheme.ind_bits,
        "sequence": subscriber.sequence,
        "clock_difference": None,
        "enabled": subscriber.enabled,
        "non_3gpp_allowed": subscriber.non_3gpp_allowed,
        "msisdn": subscriber.msisdn,
        "roaming_allowed": subscriber.roaming_allowed,
        "visited_networks": ",".join(map(str, subscriber.visited_networks)),
        "wlan_allowed": subscriber.wlan_allowed,
        "ambr_uplink_bits": subscriber.ambr_uplink_bits,
        "ambr_downlink_bits": subscriber.ambr_downlink_bits,
        "session_timeout": subscriber.session_timeout,
        "imei": subscriber.imei,
    }
    return values | sealed_keys(imsi, _clear(subscriber), keys)


def sealed_keys(imsi: str, clear: dict[str, bytes | None], keys: MasterKeys | None) -> Values:
    """The columns of the keys, under the newest master key or in clear without one."""
    if keys is None:
        return {**clear, "key_version": None}
    sealed: Values = {name: None if octets is None else keys.seal(octets, imsi, name) for name, octets in clear.items()}
    return sealed | {"key_version": keys.newest}


def opened_keys(row: SubscriberRow | ReadRow, keys: MasterKeys | None) -> dict[str, bytes | None]:
    """K, OP and OPc of a row in clear; ``BackendError`` names the row that does not open."""
    stored = {"k": row.k, "op": row.op, "opc": row.opc}
    if row.key_version is None:
        return stored
    if keys is None:
        raise BackendError(f"the keys of IMSI {row.imsi} are sealed, and there is no master key")
    version = row.key_version
    try:
        return {
            name: None if octets is None else keys.open(version, octets, row.imsi, name)
            for name, octets in stored.items()
        }
    except BackendError as error:
        raise BackendError(f"the keys of IMSI {row.imsi} cannot be read: {error}") from None


def _clear(subscriber: Subscriber) -> dict[str, bytes | None]:
    return {
        "k": subscriber.k.reveal(),
        "op": subscriber.op.reveal() if subscriber.op else None,
        "opc": subscriber.opc.reveal() if subscriber.opc else None,
    }


def apn_values(subscriber: Subscriber) -> list[Values]:
    """The columns of ``apns``, a row for each APN."""
    return [
        {
            "imsi": str(subscriber.imsi),
            "position": position,
            "name": str(held.apn),
            "pdn_type": held.pdn_type.value,
            "ambr_uplink_bits": held.ambr_uplink_bits,
            "ambr_downlink_bits": held.ambr_downlink_bits,
            "static_ipv4": str(held.static_ipv4) if held.static_ipv4 else None,
            "static_ipv6": str(held.static_ipv6) if held.static_ipv6 else None,
            "qci": held.qci,
            "priority_level": held.priority_level,
            "pre_emption_capability": held.pre_emption_capability,
            "pre_emption_vulnerability": held.pre_emption_vulnerability,
            "is_default": held.is_default,
            "visited_dynamic_address": held.visited_dynamic_address,
            "pgw": held.pgw,
        }
        for position, held in enumerate(subscriber.apns)
    ]


def subscribers_of(rows: Iterable[ReadRow], keys: MasterKeys | None) -> Iterator[Subscriber]:
    """The values of what ``SUBSCRIBERS`` has read; ``BackendError`` names a row that makes no sense."""
    for _, of_one in groupby(rows, attrgetter("imsi")):
        yield _subscriber(tuple(of_one), keys)


def _subscriber(rows: tuple[ReadRow, ...], keys: MasterKeys | None) -> Subscriber:
    row = rows[0]
    clear = opened_keys(row, keys)
    k = clear["k"]
    assert k is not None
    try:
        return Subscriber(
            imsi=Imsi(row.imsi),
            k=Secret(k),
            op=_secret(clear["op"]),
            opc=_secret(clear["opc"]),
            amf=row.amf,
            algorithm=Algorithm(row.algorithm),
            tuak_iterations=row.tuak_iterations,
            res_length=row.res_length,
            sqn_scheme=scheme_of(row.sqn_generation, row.ind_bits),
            sequence=row.sequence,
            enabled=row.enabled,
            non_3gpp_allowed=row.non_3gpp_allowed,
            msisdn=row.msisdn,
            roaming_allowed=row.roaming_allowed,
            visited_networks=tuple(Plmn.parse(text) for text in row.visited_networks.split(",") if text),
            wlan_allowed=row.wlan_allowed,
            ambr_uplink_bits=row.ambr_uplink_bits,
            ambr_downlink_bits=row.ambr_downlink_bits,
            session_timeout=row.session_timeout,
            imei=row.imei,
            apns=tuple(_apn(each) for each in rows if each.apn_id is not None),
        )
    except ValueError as error:
        raise BackendError(f"the database row of IMSI {row.imsi} is not valid: {error}") from error


def scheme_of(generation: str, ind_bits: int) -> SqnScheme:
    """The scheme that two columns say; ``ValueError``."""
    return SqnScheme(SqnGeneration(generation), ind_bits)


def _apn(row: ReadRow) -> ApnSubscription:
    return ApnSubscription(
        apn=Apn(row.apn_name),
        pdn_type=PdnType(row.apn_pdn_type),
        ambr_uplink_bits=row.apn_ambr_uplink_bits,
        ambr_downlink_bits=row.apn_ambr_downlink_bits,
        static_ipv4=IPv4Address(row.apn_static_ipv4) if row.apn_static_ipv4 else None,
        static_ipv6=IPv6Network(row.apn_static_ipv6) if row.apn_static_ipv6 else None,
        qci=row.apn_qci,
        priority_level=row.apn_priority_level,
        pre_emption_capability=row.apn_pre_emption_capability,
        pre_emption_vulnerability=row.apn_pre_emption_vulnerability,
        is_default=row.apn_is_default,
        visited_dynamic_address=row.apn_visited_dynamic_address,
        pgw=row.apn_pgw,
    )


def _secret(octets: bytes | None) -> Secret | None:
    return None if octets is None else Secret(octets)
