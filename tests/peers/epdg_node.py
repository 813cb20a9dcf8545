"""The real ``epdg serve`` as a process on loopback, and a phone of the test's own that attaches to it.

The phone is the IKE machine on real sockets with an EAP-AKA peer and a software USIM behind it: what is
judged here is the gateway's node, its process, its SWm and its data plane.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import yaml

from epdg.pki import make_pki, read_chain
from lab.namespaces import terminate
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.errors import BackendError
from protocols.ikev2.certificates import CertificateVerifier
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    EapReply,
    EapRequestReceived,
    Event,
)
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, IdrPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import ConfigAttributeType, IdType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.suites import EspSuite, IkeSuite
from protocols.ikev2.task import Task
from protocols.io.control import call_sync
from protocols.io.driver import Driver
from protocols.io.entropy import SystemEntropy
from protocols.io.udp import SwuPorts
from protocols.path import Datagram, Endpoint
from protocols.path import Path as NetworkPath
from protocols.threegpp.swu import DeviceSwu
from protocols.trace.records import JsonValue
from tests.harness.aka_user import AkaUser
from tests.peers import aaa_node, evidence
from tests.peers.processes import Peer, wait_until

FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
ADDRESS = "127.0.31.1"
CORE_HOST = "10.99.0.1"
START_TIMEOUT = 20.0
EVENT_TIMEOUT = 30.0

E = TypeVar("E")


@dataclass
class EpdgProcess(Peer):
    """``epdg serve`` in ``directory``; ``changes`` edit the configuration before it is written."""

    directory: Path
    aaa_port: int
    address: str = ADDRESS
    ike_port: int = 15000
    natt_port: int = 14500
    changes: Callable[[dict[str, object]], None] | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def configuration(self) -> Path:
        """Where its configuration lies."""
        return self.directory / "epdg.yaml"

    @property
    def control(self) -> Path:
        """Its control socket."""
        return self.directory / "epdg.sock"

    @property
    def authority(self) -> Path:
        """The CA its certificate is of."""
        return self.directory / "pki" / "ca.pem"

    def write_configuration(self) -> Path:
        """Write certificate and configuration; where the latter lies."""
        if not self.authority.exists():
            make_pki(self.directory / "pki", (FQDN, "internet", "ims"))
        values: dict[str, object] = {
            "plmn": {"mcc": "001", "mnc": "01"},
            "listen": {
                "addresses": [self.address],
                "ike_port": self.ike_port,
                "nat_traversal_port": self.natt_port,
            },
            "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
            "diameter": {
                "host": f"epdg-{self.address.replace(chr(46), chr(45))}.{aaa_node.REALM}",
                "realm": aaa_node.REALM,
                "peers": [{"host": aaa_node.HOST, "address": "127.0.0.1", "port": self.aaa_port}],
            },
            "apns": {"internet": {"pool": "10.45.0.0/24", "dns": ["10.45.0.1"]}},
            "data_plane": {"hosts": [CORE_HOST]},
            "control": "epdg.sock",
            "trace": {"export_keys": True},
        }
        if self.changes is not None:
            self.changes(values)
        self.configuration.write_text(yaml.safe_dump(values))
        return self.configuration

    def close(self) -> None:
        """End it; its evidence is kept."""
        if self.process is not None:
            evidence.keep(self.control)
            terminate(self.process)

    def start(self, *, with_peer: bool = True) -> None:
        """Start it and wait until it serves and, if wanted, has its AAA server."""
        log = self.directory / "epdg.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "epdg", "serve", "-c", str(self.write_configuration())],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def ready() -> bool | None:
            with contextlib.suppress(BackendError):
                peers = call_sync(self.control, "peers.list")
                assert isinstance(peers, dict)
                listed = peers["peers"]
                assert isinstance(listed, list)
                if not with_peer or any(isinstance(peer, dict) and peer["state"] == "Open" for peer in listed):
                    return True
            return None

        wait_until(ready, what="epdg", timeout=START_TIMEOUT, process=self.process, log=log.read_text)

    def call(self, method: str, **params: JsonValue) -> dict[str, JsonValue]:
        """A control method's answer."""
        with ThreadPoolExecutor(1) as thread:  # the caller may be on an event loop
            answer = thread.submit(call_sync, self.control, method, **params).result()
        assert isinstance(answer, dict)
        return answer

    def sessions(self, **params: JsonValue) -> list[dict[str, JsonValue]]:
        """The sessions it lists."""
        listed = self.call("sessions.list", **params)["sessions"]
        assert isinstance(listed, list)
        return [session for session in listed if isinstance(session, dict)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; its exit status."""
        assert self.process is not None
        evidence.keep(self.control)
        self.process.send_signal(number)
        return self.process.wait(START_TIMEOUT)

    def log(self) -> str:
        """What it wrote on standard error."""
        return (self.directory / "epdg.log").read_text()


class Phone:
    """One UE on the running loop."""

    def __init__(self, gateway: EpdgProcess, user: AkaUser, *, apn: str = "internet", imei: str | None = None) -> None:
        self.user = user
        self.gateway = Endpoint.of(gateway.address, gateway.ike_port)
        self._natt_port = gateway.natt_port
        self._endpoint = IkeEndpoint(
            entropy=SystemEntropy(), extension=lambda: DeviceSwu(imei=imei, server_authenticated=lambda: True)
        )
        self._ports = SwuPorts(on_ike=self._received, on_esp=self._esp)
        self.plane = UserspaceDataPlane(entropy=SystemEntropy(), deliver=self._inner, transmit=self._ports.send_esp)
        self._driver: Driver[tuple[IkeSa, Event], Datagram] = Driver(
            self._endpoint, on_event=self._event, transmit=self._ports.send_ike
        )
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        self.traffic_classes: list[int] = []  # of ESP that has come
        self._events: list[Event] = []
        self._changed = asyncio.Event()
        self.sa: IkeSa | None = None
        self.config = InitiatorConfig(
            ike_policy=IkePolicy((IkeSuite.of("aes128-sha256-x25519"),)),
            esp_policy=EspPolicy((EspSuite.of("aes128gcm16"),)),
            identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=user.nai.encode()),
            responder_identity=IdrPayload(id_type=IdType.ID_FQDN, data=apn.encode()),
            verifier=CertificateVerifier(read_chain(gateway.authority), lambda: datetime.now(UTC)),
            gateway_names=(FQDN,),
            nat_traversal_port=gateway.natt_port,
            remote_nat_traversal_port=gateway.natt_port,
            configuration_request=(
                ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS, value=b""),
                ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_DNS, value=b""),
            ),
        )

    def attach(self, address: str) -> None:
        """Send IKE_SA_INIT from ``address``."""
        self.open(address)
        start = NetworkPath(Endpoint.of(address, self.gateway.port), self.gateway)
        self.sa = self._endpoint.connect(self.config, start, self._driver.now())
        self._driver.pump()

    def open(self, address: str) -> None:
        """Have the address."""
        self._ports.open(Endpoint.of(address, self.gateway.port), encapsulating=False)
        self._ports.open(Endpoint.of(address, self._natt_port), encapsulating=True)

    def leave(self, address: str) -> None:
        """Lose the address."""
        self._ports.close(Endpoint.of(address, self.gateway.port))
        self._ports.close(Endpoint.of(address, self._natt_port))

    def move(self, address: str) -> None:
        """UPDATE_SA_ADDRESSES from ``address``."""
        assert self.sa is not None
        here = NetworkPath(Endpoint.of(address, self._natt_port), Endpoint(self.gateway.address, self._natt_port))
        self._endpoint.move(self.sa, here, self._driver.now())
        self._driver.pump()

    def initiate(self, task: Task) -> None:
        """Start an exchange."""
        assert self.sa is not None
        self._endpoint.initiate(self.sa, task, self._driver.now())
        self._driver.pump()

    def close(self) -> None:
        """Vanish without a word."""
        self._driver.close()
        self._ports.close_all()

    async def wait(self, kind: type[E]) -> E:
        """The next event of a kind that was not taken yet."""
        async with asyncio.timeout(EVENT_TIMEOUT):
            while True:
                for event in self._events:
                    if isinstance(event, kind):
                        self._events.remove(event)
                        return event
                self._changed.clear()
                await self._changed.wait()

    def _received(self, datagram: Datagram) -> None:
        self._endpoint.receive(datagram, self._driver.now())
        self._driver.pump()

    def _esp(self, octets: bytes, path: NetworkPath, traffic_class: int) -> None:
        self.traffic_classes.append(traffic_class)
        self.plane.receive_esp(octets, path, traffic_class)

    def _inner(self, packet: bytes, inbound_spi: bytes) -> None:
        del inbound_spi
        self.packets.put_nowait(packet)

    def _event(self, found: tuple[IkeSa, Event]) -> None:
        sa, event = found
        if isinstance(event, EapRequestReceived):
            response = self.user.take(event.packet)
            if response is not None:
                reply = EapReply(packet=response)
            else:
                reply = EapReply(msk=self.user.msk)
            self._endpoint.answer(sa, reply, self._driver.now())
        elif isinstance(event, ChildSaInstalled):
            if event.replaces is None:
                self.plane.install(event.spec)
            else:
                self.plane.replace(event.replaces, event.spec, send_at_once=event.send_at_once)
        elif isinstance(event, ChildSaPathChanged):
            self.plane.update_path(event.inbound_spi, event.path, event.encapsulation)
        elif isinstance(event, ChildSaRemoved):
            self.plane.remove(event.inbound_spi)
        self._events.append(event)
        self._changed.set()
