"""An AAA server and a gateway of this machine's own for a fleet, on addresses of loopback, without any right.

What bounds a gateway for good reasons is set to fit the fleet rather than taken away: all UEs come from a few
addresses, so one source may have as many half-open SAs as there may be in all; pools, unfinished sessions and Diameter
requests in work fit the number of UEs. COOKIEs are demanded as ever. The nodes keep no trace unless told to.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import yaml

from epdg.pki import make_pki
from lab.configurations import AAA_HOST, APNS, EPDG_HOST, PLMN, REALM
from lab.fleet.config import DEFAULT_LEAVE_INTERVAL
from lab.fleet.plan import DEFAULT_NETWORK
from lab.fleet.rule import SubscriberRule, read_master
from lab.fleet.subscribers import export
from lab.processes import NodeProcess
from lab.stages import check_free
from protocols.errors import BackendError, ConfigurationError
from protocols.path import Endpoint
from protocols.threegpp.identity import Imsi, epdg_fqdn
from protocols.trace.records import JsonValue

FIRST_IMSI = Imsi("001010000000001")
CORE_HOST = IPv4Address("10.255.255.254")
INNER = IPv4Network("10.0.0.0/9")
IKE_PORT, NAT_TRAVERSAL_PORT, AAA_PORT = 15000, 14500, 13868
HALF_OPEN_MINIMUM = 4096
UNFINISHED_MINIMUM = 10_000
LAST_BYTE_GATEWAY, LAST_BYTE_AAA = 1, 2
ACCESSES = {"wifi-a": 11, "wifi-b": 12, "wifi-c": 13}
DETACHES_PER_SECOND = 20.0  # at least, on any machine of interest: bounds how long the UEs have to leave
IMPORT_INTERVAL = 600.0


@dataclass(frozen=True, kw_only=True)
class NodesPlan:
    """Where the nodes lie; ``directory`` holds everything that they and the fleet are told."""

    directory: Path
    count: int
    network: IPv4Network = DEFAULT_NETWORK
    trace: bool = False

    def __post_init__(self) -> None:
        if self.network.prefixlen > 24 or not self.network.is_loopback:
            raise ConfigurationError(
                file="command line", key="--network", value=str(self.network), expected="a /24 of 127.0.0.0/8"
            )

    @property
    def gateway(self) -> IPv4Address:
        """Where the gateway serves IKE."""
        return self.network[LAST_BYTE_GATEWAY]

    @property
    def aaa(self) -> Endpoint:
        """Where the AAA server serves Diameter."""
        return Endpoint(self.network[LAST_BYTE_AAA], AAA_PORT)

    @property
    def fleet(self) -> Path:
        """The fleet's configuration."""
        return self.directory / "fleet.yaml"

    def control(self, node: str) -> Path:
        """A node's control socket."""
        return self.directory / f"{node}.sock"

    def configuration(self, node: str) -> Path:
        """A node's configuration."""
        return self.directory / f"{node}.yaml"

    def prepare(self) -> None:
        """Write what everybody needs; ``BackendError`` when an address is taken."""
        check_free(self.aaa, socket.SOCK_STREAM, "the AAA server")
        for port in (IKE_PORT, NAT_TRAVERSAL_PORT):
            check_free(Endpoint(self.gateway, port), socket.SOCK_DGRAM, "the gateway")
        make_pki(self.directory / "pki", (epdg_fqdn(PLMN), *APNS))
        master = self.directory / "fleet.master"
        rule = SubscriberRule(first_imsi=FIRST_IMSI, master=read_master(master, create=True))
        export(rule, self.count, APNS, self.directory / "subscribers.yaml")
        self._write("aaa", self._aaa())
        self._write("epdg", self._epdg())
        self._write("fleet", self._fleet(master))

    def processes(self) -> tuple[NodeProcess, NodeProcess]:
        """The AAA server and the gateway, not started; the subscribers have to be imported before."""
        return self._process("aaa", "serve", "-c"), self._process("epdg", "serve", "-c")

    def importing(self) -> NodeProcess:
        """``aaa subscriber import``, not started."""
        words = ("subscriber", "import", "-c", str(self.configuration("aaa")), str(self.directory / "subscribers.yaml"))
        return NodeProcess(
            "aaa subscriber import", [sys.executable, "-m", "aaa", *words], log=self.directory / "import.log"
        )

    def _process(self, node: str, *words: str) -> NodeProcess:
        command = [sys.executable, "-m", node, *words, str(self.configuration(node))]
        return NodeProcess(node, command, log=self.directory / f"{node}.log", control=self.control(node))

    def _aaa(self) -> dict[str, JsonValue]:
        return {
            "identity": {"host": AAA_HOST, "realm": REALM},
            "listen": {"address": str(self.aaa.address), "port": self.aaa.port},
            "database": "sqlite:///aaa.db",
            "sessions": {"unfinished_limit": max(UNFINISHED_MINIMUM, self.count)},
            "diameter": {"limits": {"requests": max(1000, self.count)}},
            "trace": {"enabled": self.trace},
            "control": self.control("aaa").name,
        }

    def _epdg(self) -> dict[str, JsonValue]:
        half_open = max(HALF_OPEN_MINIMUM, self.count)
        pools = {name: str(network) for name, network in zip(APNS, INNER.subnets(new_prefix=10), strict=False)}
        return {
            "plmn": {"mcc": PLMN.mcc, "mnc": PLMN.mnc},
            "listen": {
                "addresses": [str(self.gateway)],
                "ike_port": IKE_PORT,
                "nat_traversal_port": NAT_TRAVERSAL_PORT,
            },
            "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
            "ike": {
                "suites": ["default", "legacy"],  # personas have what old phones have
                "esp_suites": ["default", "legacy"],
                "half_open_limit": half_open,
                "half_open_limit_per_source": half_open,
            },
            "diameter": {
                "host": EPDG_HOST,
                "realm": REALM,
                "peers": [{"host": AAA_HOST, "address": str(self.aaa.address), "port": self.aaa.port}],
                "limits": {"requests": max(1000, self.count)},
            },
            "apns": {name: {"pool": pool} for name, pool in pools.items()},
            "data_plane": {"kind": "in-process", "hosts": [str(CORE_HOST)]},
            "trace": {"enabled": self.trace},
            "control": self.control("epdg").name,
        }

    def _fleet(self, master: Path) -> dict[str, JsonValue]:
        accesses: dict[str, JsonValue] = {
            name: {"address": str(self.network[last]), "ike_port": 0, "nat_traversal_port": 0}
            for name, last in ACCESSES.items()
        }
        return {
            "subscribers": {"first_imsi": FIRST_IMSI.digits, "master_file": master.name},
            "ue": {
                "plmn": {"mcc": PLMN.mcc, "mnc": PLMN.mnc},
                "apn": APNS[0],
                "gateway": {
                    "address": str(self.gateway),
                    "ike_port": IKE_PORT,
                    "nat_traversal_port": NAT_TRAVERSAL_PORT,
                    "ca": "pki/ca.pem",
                },
                "force_encapsulation": False,  # the truth about NATs: the gateway alone puts ESP into UDP
                "accesses": accesses,
            },
            "destination": str(CORE_HOST),
            "leave_interval": max(DEFAULT_LEAVE_INTERVAL, self.count / DETACHES_PER_SECOND),
            "gateway_control": self.control("epdg").name,
            "control": "fleet.sock",
        }

    def _write(self, node: str, configuration: Mapping[str, JsonValue]) -> None:
        self.configuration(node).write_text(yaml.safe_dump(dict(configuration), sort_keys=False), encoding="utf-8")


class FleetNodes:
    """The two processes, between ``async with``."""

    def __init__(self, plan: NodesPlan) -> None:
        self.plan = plan
        self.aaa, self.epdg = plan.processes()

    async def __aenter__(self) -> FleetNodes:
        try:
            importing = self.plan.importing()
            await importing.start()
            status = await importing.ended(IMPORT_INTERVAL)
            if status != 0:
                raise BackendError(f"the subscribers were not imported: {importing.text().strip()[-200:]}")
            await self.aaa.start()
            await self.aaa.ready()
            await self.epdg.start()
            await self.epdg.ready()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in (self.epdg, self.aaa):
            if process.started:
                await process.terminate()
