"""What the laboratory's nodes are told: configuration files, certificates and test subscribers of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import yaml

from aaa.config import AaaConfiguration, Role
from aaa.subscribers import ApnSubscription, Subscriber, SubscriberDatabase
from epdg.config import EpdgConfiguration
from epdg.pki import make_pki
from protocols.entropy import Entropy
from protocols.io.configuration import load
from protocols.io.entropy import SystemEntropy
from protocols.path import Address, Endpoint
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi, Plmn, epdg_fqdn
from protocols.trace.records import JsonValue
from ue.config import UeConfiguration

PLMN = Plmn("001", "01")
REALM = "epc.mnc001.mcc001.3gppnetwork.org"  # TS 23.003 §19.2
AAA_HOST = f"aaa.{REALM}"
HSS_HOST = f"hss.{REALM}"
EPDG_HOST = f"epdg.{REALM}"
SUBSCRIBERS = 5
FIRST_IMSI = 1010000000001  # with the leading zeros of MCC 001
APNS = ("internet", "ims")
KEY_OCTETS = 16
RING = 50_000  # records; a reader that is late by minutes still misses none

Changes = Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class AccessPlan:
    """An access network of the UE; ``label`` is what people call it."""

    name: str
    label: str
    address: Address
    next_hop: Address | None = None
    hears: bool = True

    def section(self, ports: Mapping[str, int]) -> dict[str, JsonValue]:
        """The access in the UE's configuration."""
        section: dict[str, JsonValue] = {"address": str(self.address), **ports}
        if self.next_hop is not None:
            section["next_hop"] = str(self.next_hop)
        if not self.hears:
            section["hears"] = False
        return section


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """What a stage decides about the nodes' network.

    ``aaa`` is where the AAA server listens, ``core_host`` whom the UE's traffic goes to; ``tun``: inner
    packets go through TUN devices, else hosts inside the processes send and answer them.
    """

    aaa: Endpoint
    gateway: Address
    ike_port: int
    nat_traversal_port: int
    accesses: Sequence[AccessPlan]
    pools: Mapping[str, IPv4Network]
    core_host: IPv4Address
    tun: bool

    @property
    def ports(self) -> dict[str, int]:
        """The ports that stand for 500 and 4500, by their configuration keys."""
        return {"ike_port": self.ike_port, "nat_traversal_port": self.nat_traversal_port}


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Where the pieces of a run lie."""

    directory: Path

    def configuration(self, node: str) -> Path:
        """A node's configuration file."""
        return self.directory / f"{node}.yaml"

    def control(self, node: str) -> Path:
        """A node's control socket."""
        return self.directory / f"{node}.sock"

    def log(self, node: str) -> Path:
        """What a node printed."""
        return self.directory / f"{node}.log"


def new_subscribers(entropy: Entropy) -> tuple[Subscriber, ...]:
    """Subscribers of PLMN 001/01 with fresh keys, each with all APNs."""
    apns = tuple(ApnSubscription(apn=Apn(name), is_default=name == APNS[0]) for name in APNS)
    return tuple(
        Subscriber(
            imsi=Imsi(f"{FIRST_IMSI + number:015}"),
            k=Secret(entropy.octets(KEY_OCTETS)),
            opc=Secret(entropy.octets(KEY_OCTETS)),
            apns=apns,
        )
        for number in range(SUBSCRIBERS)
    )


def prepare(
    files: RunFiles,
    plan: NetworkPlan,
    *,
    export_keys: bool,
    dashboard: Endpoint | None,
    laboratory: bool = False,
    changes: Mapping[str, Changes] | None = None,
    entropy: Entropy | None = None,
    now: datetime | None = None,
) -> Subscriber:
    """Write everything the nodes need; the subscriber that the UE is.

    ``laboratory``: there is one beside the dashboard, which offers it. ``changes`` are merged into the configurations,
    by node. With ``entropy`` and ``now`` the files depend on nothing
    else: a run on virtual time has the same keys and certificates every time.
    """
    changes = changes or {}
    subscribers = new_subscribers(entropy or SystemEntropy())
    with SubscriberDatabase(f"sqlite:///{files.directory / 'aaa.db'}") as database:
        database.migrate()
        for subscriber in subscribers:
            database.add(subscriber)
    make_pki(files.directory / "pki", (epdg_fqdn(PLMN), *APNS), entropy=entropy, now=now)
    trace: dict[str, JsonValue] = {"export_keys": export_keys, "ring": RING}
    nodes = {"aaa": _aaa(plan), "epdg": _epdg(plan), "ue": _ue(plan, subscribers[0])}
    for node, configuration in nodes.items():
        _write(files, node, merged({**configuration, "trace": trace}, changes.get(node, {})))
    if dashboard is not None:
        names = (*_NODES, LABORATORY) if laboratory else _NODES
        listed: list[JsonValue] = [{"name": node, "kind": node, "control": f"{node}.sock"} for node in names]
        _write(files, "dashboards", {"listen": str(dashboard), "nodes": listed, "results": "results"})
    if laboratory:
        _write(files, LABORATORY, {"results": "results", "control": f"{LABORATORY}.sock"})
    return subscribers[0]


def merged(configuration: Mapping[str, JsonValue], changes: Changes) -> dict[str, JsonValue]:
    """A configuration with changes: mappings are merged, everything else is replaced."""
    result = dict(configuration)
    for key, value in changes.items():
        before = result.get(key)
        both = isinstance(before, dict) and isinstance(value, Mapping)
        result[key] = merged(before, value) if both else value  # type: ignore[arg-type]  # both says what they are
    return result


def check(files: RunFiles) -> None:
    """``ConfigurationError``, in a file of the run's, for the first thing that a node would refuse."""
    load(files.configuration("aaa"), AaaConfiguration).check(Role.BOTH, str(files.configuration("aaa")))
    load(files.configuration("epdg"), EpdgConfiguration)
    load(files.configuration("ue"), UeConfiguration)


_NODES = ("epdg", "aaa", "ue")
LABORATORY = "lab"


def _aaa(plan: NetworkPlan) -> dict[str, JsonValue]:
    return {
        "identity": {"host": AAA_HOST, "realm": REALM},
        "listen": {"address": str(plan.aaa.address), "port": plan.aaa.port},
        "database": "sqlite:///aaa.db",
        "eap": {"temporary": {"key_file": "eap-keys.json"}},
        # SWx on a connection of its own, so that it is in the trace
        "hss": {"connection": "swx", "identity": {"host": HSS_HOST, "realm": REALM}},
        "control": "aaa.sock",
    }


def _epdg(plan: NetworkPlan) -> dict[str, JsonValue]:
    return {
        "plmn": {"mcc": PLMN.mcc, "mnc": PLMN.mnc},
        "listen": {"addresses": [str(plan.gateway)], **plan.ports},
        "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
        "ike": {"force_encapsulation": True},  # runs with and without root are alike
        "diameter": {
            "host": EPDG_HOST,
            "realm": REALM,
            "peers": [{"host": AAA_HOST, "address": str(plan.aaa.address), "port": plan.aaa.port}],
        },
        "apns": {name: {"pool": str(pool), "dns": [str(pool[1])]} for name, pool in plan.pools.items()},
        "data_plane": {"kind": "tun"} if plan.tun else {"kind": "in-process", "hosts": [str(plan.core_host)]},
        "control": "epdg.sock",
    }


def _ue(plan: NetworkPlan, subscriber: Subscriber) -> dict[str, JsonValue]:
    assert subscriber.opc is not None
    return {
        "imsi": str(subscriber.imsi),
        "plmn": {"mcc": PLMN.mcc, "mnc": PLMN.mnc},
        "usim": {"k": subscriber.k.reveal().hex(), "opc": subscriber.opc.reveal().hex()},
        "eap": {"state": "eap-state.json"},
        "apn": APNS[0],
        "gateway": {"address": str(plan.gateway), **plan.ports, "ca": "pki/ca.pem"},
        # the truth about NATs: the gateway's pretence alone puts ESP into UDP
        "force_encapsulation": False,
        "accesses": {access.name: access.section(plan.ports) for access in plan.accesses},
        "data_plane": {"kind": "tun", "routes": [f"{plan.core_host}/32"]} if plan.tun else {"kind": "in-process"},
        "control": "ue.sock",
        "state": "ue-state",
    }


def _write(files: RunFiles, node: str, configuration: Mapping[str, JsonValue]) -> None:
    path = files.configuration(node)
    path.touch(mode=0o600)  # the UE's holds the keys of its USIM
    path.write_text(yaml.safe_dump(dict(configuration), sort_keys=False), encoding="utf-8")
