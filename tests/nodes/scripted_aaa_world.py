"""A real gateway and a real UE in this process, on loopback sockets, and an AAA server that says what a test wants.

The AAA server is a ``DiameterNode``: it authenticates the UE by EAP-AKA, unless the test has an answer of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import yaml

from aaa.subscribers.laboratory import laboratory_subscriber
from epdg.config import EpdgConfiguration
from epdg.pki import make_pki
from epdg.runtime import EpdgNode
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import compose, seq_of
from protocols.algorithms.vector import generate_vector
from protocols.diameter.codec import DiameterMessage
from protocols.diameter.swm import (
    SWM_APPLICATION,
    Aaa,
    Aar,
    ApnConfiguration,
    Asa,
    Asr,
    CommandCode,
    Dea,
    Der,
    Raa,
    Rar,
    Result,
    ResultCode,
    Sta,
    Str,
)
from protocols.eap.aka import server as eap
from protocols.eap.packet import EapPacket, EapType
from protocols.entropy import SeededEntropy
from protocols.io.configuration import load
from protocols.io.diameter import SWM, DiameterIdentity, DiameterNode
from protocols.io.platform import Platform
from protocols.trace.records import Kind, TraceRecord
from tests.peers import aaa_node
from tests.peers.epdg_node import FQDN
from ue.config import UeConfiguration
from ue.runtime import UeNode

USER = laboratory_subscriber(1)
IMEI = "356938035643809"
GATEWAY, WIFI_A, WIFI_B = "127.0.61.1", "127.0.61.21", "127.0.61.31"
IKE_PORT, NATT_PORT = 15000, 14500
EPDG_HOST = f"epdg.{aaa_node.REALM}"
PROFILE = ApnConfiguration(context_identifier=1, service_selection="internet")
SUCCESS = Result(0, ResultCode.DIAMETER_SUCCESS)
TIMEOUT = 10.0

Changes = dict[str, object]
Scripted = Callable[[Der], "dict[str, object] | None"]


@dataclass(eq=False)
class AaaServer:
    """The AAA server ``host``; ``script`` may answer a DER, ``None`` from it lets the UE authenticate itself.

    ``profile`` and ``renewal`` are what DEA and AA-Answer say of the session.
    """

    host: str = aaa_node.HOST
    script: Scripted = lambda der: None
    profile: dict[str, object] = field(default_factory=lambda: {"apn_configuration": PROFILE})
    renewal: dict[str, object] = field(default_factory=lambda: {"result": SUCCESS, "apn_configuration": PROFILE})
    ders: list[Der] = field(default_factory=list)
    aars: list[Aar] = field(default_factory=list)
    strs: list[Str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._me = {"origin_host": self.host, "origin_realm": aaa_node.REALM}
        identity = DiameterIdentity(host=self.host, realm=aaa_node.REALM, applications=(SWM,))
        self.node = DiameterNode(identity)
        for command, handler in (
            (CommandCode.DIAMETER_EAP, self._der),
            (CommandCode.AA, self._aar),
            (CommandCode.SESSION_TERMINATION, self._str),
        ):
            self.node.on_request(SWM_APPLICATION, command, handler)
        self._servers: dict[str, eap.EapAkaServer] = {}
        self._sequence = compose(1, 1)
        self.changed = asyncio.Event()

    async def _der(self, message: DiameterMessage) -> DiameterMessage:
        der = Der.from_message(message)
        self.ders.append(der)
        self.changed.set()
        values = self.script(der) or self._authenticate(der)
        return Dea(session_id=der.session_id, **self._me, **values).to_message(message)  # type: ignore[arg-type]

    async def _aar(self, message: DiameterMessage) -> DiameterMessage:
        aar = Aar.from_message(message)
        self.aars.append(aar)
        self.changed.set()
        return Aaa(session_id=aar.session_id, **self._me, **self.renewal).to_message(message)  # type: ignore[arg-type]

    async def _str(self, message: DiameterMessage) -> DiameterMessage:
        request = Str.from_message(message)
        self.strs.append(request)
        self.changed.set()
        return Sta(session_id=request.session_id, **self._me, result=SUCCESS).to_message(message)

    def _authenticate(self, der: Der) -> dict[str, object]:
        if EapPacket.decode(der.eap_payload).type == EapType.IDENTITY:
            self._servers[der.session_id] = eap.EapAkaServer(entropy=SeededEntropy(der.session_id))
            self._servers[der.session_id].start((der.user_name or "").encode())
        else:
            self._servers[der.session_id].receive(der.eap_payload)
        server = self._servers[der.session_id]
        while (event := server.poll_event()) is not None:
            if isinstance(event, eap.VectorRequested):
                assert USER.opc is not None
                self._sequence = compose(seq_of(self._sequence) + 1, 1)
                rand = SeededEntropy(self._sequence).octets(16)
                server.answer_vector(generate_vector(Milenage(USER.k, opc=USER.opc), rand=rand, sqn=self._sequence))
            elif isinstance(event, eap.PacketToSend):
                return {"result": Result(0, ResultCode.DIAMETER_MULTI_ROUND_AUTH), "eap_payload": event.packet}
            elif isinstance(event, eap.Succeeded):
                key = {"eap_payload": event.packet, "master_session_key": event.msk}
                return {"result": SUCCESS, "user_name": str(USER.imsi), **key, **self.profile}
        return {"result": Result(0, ResultCode.DIAMETER_AUTHENTICATION_REJECTED)}

    async def abort(self, session_id: str, realm: str = aaa_node.REALM, host: str = aaa_node.HOST) -> Asa:
        """ASR."""
        asr = Asr(
            session_id=session_id,
            origin_host=host,
            origin_realm=realm,
            destination_realm=aaa_node.REALM,
            destination_host=EPDG_HOST,
        )
        return Asa.from_message(await self.node.request(asr.to_message()))

    async def reauthorise(self, session_id: str, kind: int = 0) -> Raa:
        """RAR."""
        rar = Rar(
            session_id=session_id,
            origin_host=aaa_node.HOST,
            origin_realm=aaa_node.REALM,
            destination_realm=aaa_node.REALM,
            destination_host=EPDG_HOST,
            re_auth_request_type=kind,
        )
        return Raa.from_message(await self.node.request(rar.to_message()))


class World:
    """``async with World(directory) as world``: all three are up, the UE is not attached.

    ``platform``: the gateway's, ``ue_platform``: the UE's.
    """

    def __init__(
        self,
        directory: Path,
        *,
        gateway: Changes | None = None,
        ue: Changes | None = None,
        backup: bool = False,
        platform: Platform | None = None,
        ue_platform: Platform | None = None,
    ) -> None:
        self.directory = directory
        self._platform, self._ue_platform = platform, ue_platform
        self.aaa = AaaServer()
        self.backup = AaaServer(host=f"backup.{aaa_node.REALM}")
        self.servers = (self.aaa, self.backup) if backup else (self.aaa,)
        self._gateway_changes, self._ue_changes = gateway or {}, ue or {}
        self._tasks: list[asyncio.Task[None]] = []
        self._told: list[tuple[str, TraceRecord]] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> World:
        pki = self.directory / "pki"
        if not pki.exists():
            make_pki(pki, (FQDN, "internet", "ims"))
        peers = {server: aaa_node.free_port() for server in self.servers}
        ports: Changes = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
        self.gateway = EpdgNode(
            self._load(
                "epdg",
                EpdgConfiguration,
                {
                    "plmn": {"mcc": "001", "mnc": "01"},
                    "listen": {"addresses": [GATEWAY], **ports},
                    "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
                    "diameter": {
                        "host": EPDG_HOST,
                        "realm": aaa_node.REALM,
                        "peers": [
                            {"host": server.host, "address": "127.0.0.1", "port": port, "priority": priority}
                            for priority, (server, port) in enumerate(peers.items())
                        ],
                        "request_interval": 2,
                    },
                    "apns": {"internet": {"pool": "10.45.0.0/24"}, "sos": {"pool": "10.47.0.0/24"}},
                    "control": "epdg.sock",
                    **self._gateway_changes,
                },
            ),
            self._platform,
        )
        assert USER.opc is not None
        self.ue = UeNode(
            self._load(
                "ue",
                UeConfiguration,
                {
                    "imsi": str(USER.imsi),
                    "plmn": {"mcc": "001", "mnc": "01"},
                    "usim": {"k": USER.k.reveal().hex(), "opc": USER.opc.reveal().hex()},
                    "imei": IMEI,
                    "apn": "internet",
                    "gateway": {"address": GATEWAY, **ports, "ca": "pki/ca.pem"},
                    "accesses": {"a": {"address": WIFI_A, **ports}, "b": {"address": WIFI_B, **ports}},
                    "control": "ue.sock",
                    "state": mkdtemp(dir=self.directory),
                    **self._ue_changes,
                },
            ),
            self._ue_platform,
        )
        for server, port in peers.items():
            await server.node.listen("127.0.0.1", port)
        for name, node in (("epdg", self.gateway), ("ue", self.ue)):
            node.recorder.subscribe(lambda record, name=name: self._take(name, record))
            self._tasks.append(asyncio.create_task(node.run()))
        try:
            for _ in peers:
                await self.event("peer-up", "epdg")
            await self.event("started", "ue")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _load(self, name: str, model, values: Changes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        file = self.directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        return load(file, model)

    async def __aexit__(self, *_: object) -> None:
        self.ue.stop()
        await self._tasks[1]
        self.gateway.stop()
        await self._tasks[0]
        for server in self.servers:
            await server.node.close()

    def _take(self, node: str, record: TraceRecord) -> None:
        if record.kind is Kind.EVENT:
            self._told.append((node, record))
            self._changed.set()

    async def event(self, name: str, node: str) -> dict[str, object]:
        """The data of the next event of this name that was not taken yet."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                for found in self._told:
                    if found[0] == node and found[1].body["name"] == name:
                        self._told.remove(found)
                        data = found[1].body["data"]
                        assert isinstance(data, dict)
                        return dict(data)
                self._changed.clear()
                await self._changed.wait()

    async def until(self, what: Callable[[], bool]) -> None:
        """Return when it is so, looking again whenever the AAA server hears something."""
        async with asyncio.timeout(TIMEOUT):
            while not what():
                self.aaa.changed.clear()
                await self.aaa.changed.wait()

    @property
    def session(self) -> dict[str, object]:
        """The one session at the gateway."""
        (live,) = self.gateway.sessions.live.values()
        return dict(self.gateway.sessions.view(live))

    @property
    def last(self) -> dict[str, object]:
        """The session that ended last."""
        return dict(next(reversed(self.gateway.sessions.ended.values())))

    @property
    def at_ue(self) -> dict[str, object]:
        """The UE's view."""
        session = self.ue.pdn().session()
        assert session is not None
        return dict(session)
