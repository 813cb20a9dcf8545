"""Nodes as the dashboard meets them: real control servers whose sessions and traces the test scripts.

The dashboard's public seam is the control socket; behind it stand here three recorders (gateway, AAA,
UE) and a table of sessions instead of machines. Time is a number that the script advances.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from dashboards.__main__ import build_server, listen
from dashboards.config import DashboardsConfig
from epdg.control.session_selection import EndedSubject, page, several
from protocols.io.configuration import parse
from protocols.io.control import ControlError, ControlServer
from protocols.trace.recorder import Recorder
from protocols.trace.records import Kind
from tests.nodes.dashboards_gateway import GatewayActions

TOKEN = "correct-horse-battery-staple"
GATEWAY = "127.0.1.1:14500"
ACCESS_A = "127.0.2.1:4500"
ACCESS_B = "127.0.3.1:4500"
NAT_OUTSIDE = "127.0.6.1:40961"

INIT = "SAi1, KEi, Ni, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), N(SIGNATURE_HASH_ALGORITHMS)"
INIT_ANSWER = "SAr1, KEr, Nr, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), CERTREQ"
AUTH = "IDi, CERTREQ, IDr, CPRQ(INTERNAL_IP4_ADDRESS, P_CSCF_IP4_ADDRESS), SAi2, TSi, TSr, N(MOBIKE_SUPPORTED)"
AUTH_DONE = "AUTH, CPRP(INTERNAL_IP4_ADDRESS), SAr2, TSi, TSr, N(MOBIKE_SUPPORTED)"


class World:
    """Three nodes, their sessions and traces; ``start``/``stop`` open and close one node's socket."""

    def __init__(self, directory: Path, *, now: float | None = None) -> None:
        self.directory = directory
        self.now = time.time() - 90.0 if now is None else now
        self.recorders = {
            name: Recorder(name, monotonic=lambda: self.now, wall=lambda: self.now) for name in ("epdg", "aaa", "ue")
        }
        self.sessions: dict[str, dict[str, Any]] = {}
        self.detached: list[str] = []
        self.asked: list[str] = []  # the sessions that somebody wanted to know when they had changed
        self.actions = GatewayActions(self._get)
        self.started = dict.fromkeys(self.recorders, self.now)
        self.told: dict[str, dict[str, Any]] = {name: {} for name in self.recorders}
        self._servers: dict[str, ControlServer] = {}

    # --- nodes ---

    def socket(self, name: str) -> Path:
        """A node's control socket."""
        return self.directory / f"{name}.sock"

    async def start(self, name: str) -> None:
        """Open a node's control socket."""
        handlers: dict[str, Any] = {"node.status": lambda _: self._status(name)}
        if name == "epdg":
            handlers |= {
                "sessions.list": self._list,
                "sessions.get": self._get,
                "sessions.several": self._several,
                "sessions.detach": self._detach,
                "peers.list": self._peers,
                **self.actions.methods(),
            }
        server = ControlServer(self.socket(name), handlers, self.recorders[name])
        await server.start()
        self._servers[name] = server

    async def stop(self, name: str) -> None:
        """Take a node's control socket away."""
        await self._servers.pop(name).close()

    async def restart(self, name: str) -> None:
        """End a node and start it anew: nothing it knew is left."""
        await self.stop(name)
        self.now += 1.0
        self.started[name] = self.now
        self.recorders[name] = Recorder(name, monotonic=lambda: self.now, wall=lambda: self.now)
        if name == "epdg":
            self.sessions.clear()
        await self.start(name)

    async def stop_all(self) -> None:
        """Take every socket away."""
        for name in list(self._servers):
            await self.stop(name)

    async def _status(self, name: str) -> dict[str, Any]:
        return {
            "node": name,
            "kind": name,
            "version": "0.1.0",
            "started": self.started[name],
            "states": Counter(session["state"] for session in self.sessions.values()) if name == "epdg" else {},
            "half_open": 0,
            "totals": {"attached": 7},
            "dropped": {"esp": {"replayed": 3}, "ike": {}, "odd": "not a table"},
            "secret": "must-not-be-seen",
            **self.told[name],
        }

    async def _peers(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"peers": [{"host": "aaa.epc.mnc001.mcc001.3gppnetwork.org", "state": "I-Open", "requests": 4}]}

    async def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        return page(map(EndedSubject, self.sessions.values()), params)

    async def _get(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.sessions[params["id"]]
        except KeyError:
            raise ControlError("not-found", f"no session {params['id']}") from None

    async def _several(self, params: dict[str, Any]) -> dict[str, Any]:
        self.asked += params["ids"]
        return several(self.sessions.get, params)

    async def _detach(self, params: dict[str, Any]) -> dict[str, Any]:
        session = await self._get(params)
        self.detached.append(session["id"])
        self.detach(session["id"])
        return {"id": session["id"]}

    # --- script ---

    def say(
        self,
        sender: str,
        receiver: str,
        name: str,
        content: str,
        *,
        session: dict[str, Any],
        lost: bool = False,
        retransmission: bool = False,
        detail: dict[str, Any] | None = None,
        after: float = 0.012,
    ) -> None:
        """One message from a node to another, recorded by both, or by the sender alone when it is lost."""
        self.now += after
        swu = "ue" in (sender, receiver)
        body: dict[str, Any] = {
            "protocol": "ikev2" if swu else "diameter",
            "interface": "SWu" if swu else "SWm",
            "name": name,
            "summary": f"{name} [ {content} ]" if swu else f"{name} {{ {content} }}",
            "detail": (detail or {}) | ({"Session-Id": session["diameter_session_id"]} if not swu else {}),
            "retransmission": retransmission,
        }
        if swu:
            body["detail"] |= {"spi_i": session["ike"]["spi_i"], "spi_r": session["ike"]["spi_r"]}
        self._record(sender, Kind.MESSAGE, body | {"direction": "out", "peer": receiver}, session)
        self.now += 0.0007
        if not lost:
            self._record(receiver, Kind.MESSAGE, body | {"direction": "in", "peer": sender}, session)

    def eap(self, direction: str, name: str, session: dict[str, Any]) -> None:
        """An EAP packet as the AAA records it beside the Diameter message that carries it."""
        body = {
            "protocol": "eap",
            "interface": "SWm",
            "direction": direction,
            "peer": "epdg",
            "name": name,
            "summary": name,
            "detail": {"identifier": 1},
            "retransmission": False,
        }
        self._record("aaa", Kind.MESSAGE, body, session)

    def event(
        self, node: str, name: str, text: str, session: dict[str, Any] | None, data: dict[str, Any] | None = None
    ) -> None:
        """Something a person wants to know."""
        self._record(node, Kind.EVENT, {"name": name, "text": text, "data": data or {}}, session)

    def state(self, node: str, machine: str, old: str, new: str, why: str, session: dict[str, Any]) -> None:
        """A change of state."""
        self._record(node, Kind.STATE, {"machine": machine, "old": old, "new": new, "why": why}, session)

    def _record(self, node: str, kind: Kind, body: dict[str, Any], session: dict[str, Any] | None) -> None:
        label = None
        if session is not None:
            label = {
                "epdg": session["id"],
                "aaa": session["diameter_session_id"],
                "ue": f"ue-{session['imsi'][-4:]}-{session['ike']['spi_i'][:4]}",
            }[node]
        self.recorders[node].record(kind, body, label)

    def new_session(self, number: int, apn: str = "internet", identifier: str | None = None) -> dict[str, Any]:
        """A session that has just begun to attach."""
        imsi = f"0010100000{number:05d}"
        identifier = identifier or f"s{number:06x}"
        session: dict[str, Any] = {
            "id": identifier,
            "state": "attaching",
            "imsi": imsi,
            "nai": f"0{imsi}@nai.epc.mnc001.mcc001.3gppnetwork.org",
            "apn": apn,
            "inner_addresses": [],
            "created": self.now,
            "established": None,
            "gateway": "epdg",
            "ike": {
                "spi_i": f"{0xA1B2C3D4E5F60000 + number * 7919:016x}",
                "spi_r": f"{0x0F1E2D3C4B5A0000 + number * 104729:016x}",
                "suite": "aes256-sha256-x25519",
                "nat": {"local": False, "remote": False},
                "mobike": True,
                "path": {"local": GATEWAY, "remote": ACCESS_A},
                "established": None,
                "requests_sent": 2,
                "retransmissions_sent": 0,
                "state": "established",
                "sk_d": "00" * 32,
            },
            "child_sas": [],
            "paths": [
                {
                    "local": GATEWAY,
                    "remote": ACCESS_A,
                    "since": self.now,
                    "until": None,
                    "why": "attached",
                    "validated": True,
                }
            ],
            "diameter_session_id": f"epdg.epc.mnc001.mcc001.3gppnetwork.org;1800000000;{number}",
            "last_error": None,
        }
        self.sessions[identifier] = session
        return session

    def attach(
        self, number: int, apn: str = "internet", *, retransmit: bool = False, identifier: str | None = None
    ) -> dict[str, Any]:
        """The whole attach procedure (TS 33.402 §8.2.2) with EAP-AKA."""
        s = self.new_session(number, apn, identifier)
        if retransmit:
            self.say("ue", "epdg", "IKE_SA_INIT request 0", INIT, session=s, lost=True)
            self.say("ue", "epdg", "IKE_SA_INIT request 0", INIT, session=s, retransmission=True, after=0.5)
        else:
            self.say("ue", "epdg", "IKE_SA_INIT request 0", INIT, session=s)
        self.say("epdg", "ue", "IKE_SA_INIT response 0", INIT_ANSWER, session=s, after=0.003)
        self.state("epdg", "IkeSa", "IDLE", "INIT_DONE", "IKE_SA_INIT answered", s)
        self.say("ue", "epdg", "IKE_AUTH request 1", AUTH, session=s)
        self.say("epdg", "aaa", "DER", "EAP-Payload=Response/Identity, Service-Selection", session=s)
        self.eap("in", "EAP-Response/Identity", s)
        self.eap("out", "EAP-Request/AKA-Challenge", s)
        self.say("aaa", "epdg", "DEA", "DIAMETER_MULTI_ROUND_AUTH, EAP-Payload=Request/AKA-Challenge", session=s)
        self.say("epdg", "ue", "IKE_AUTH response 1", "IDr, CERT, AUTH, EAP", session=s)
        self.say("ue", "epdg", "IKE_AUTH request 2", "EAP", session=s, after=0.03)
        self.say("epdg", "aaa", "DER", "EAP-Payload=Response/AKA-Challenge", session=s)
        self.eap("in", "EAP-Response/AKA-Challenge", s)
        self.eap("out", "EAP-Success", s)
        self.say(
            "aaa",
            "epdg",
            "DEA",
            "DIAMETER_SUCCESS, EAP-Payload=Success, EAP-Master-Session-Key",
            session=s,
            detail={"EAP-Master-Session-Key": "ab" * 64, "User-Name": s["imsi"]},
        )
        self.say("epdg", "ue", "IKE_AUTH response 2", "EAP", session=s)
        self.say("ue", "epdg", "IKE_AUTH request 3", "AUTH", session=s)
        self.say("epdg", "ue", "IKE_AUTH response 3", AUTH_DONE, session=s)
        self.state("epdg", "IkeSa", "AUTHENTICATING", "ESTABLISHED", "AUTH verified", s)
        s["state"] = "established"
        s["established"] = s["ike"]["established"] = self.now
        s["inner_addresses"] = [f"10.45.{number // 250}.{number % 250 + 2}"]
        s["child_sas"] = [
            {
                "inbound_spi": f"{0xC0A10000 + number:08x}",
                "outbound_spi": f"{0x0BADC000 + number:08x}",
                "suite": "aes128gcm16",
                "local_selectors": ["0.0.0.0-255.255.255.255"],
                "remote_selectors": [f"{s['inner_addresses'][0]}/32"],
                "path": {"local": GATEWAY, "remote": ACCESS_A},
                "encapsulation": True,
                "counters": {
                    "inbound_packets": 1842 + number,
                    "inbound_octets": 1_204_311,
                    "outbound_packets": 2210,
                    "outbound_octets": 2_871_022,
                    "replayed": 0,
                    "bad_icv": 0,
                    "bad_selector": 0,
                    "malformed": 0,
                },
                "inbound_encryption_key": "11" * 16,
            }
        ]
        self.event("ue", "attached", "Attached to the gateway.", s)
        self.event(
            "epdg",
            "attached",
            f"{s['imsi']} attached to {apn} with {s['inner_addresses'][0]}.",
            s,
            {"apn": apn, "inner_address": s["inner_addresses"][0]},
        )
        return s

    def move(self, identifier: str, remote: str, *, answered: bool = True) -> None:
        """MOBIKE (RFC 4555): UPDATE_SA_ADDRESSES, the COOKIE2 check, and the move or its failure."""
        s = self.sessions[identifier]
        self.now += 8.0
        update = "N(UPDATE_SA_ADDRESSES), N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP)"
        old = s["ike"]["path"]["remote"]
        self.say("ue", "epdg", "INFORMATIONAL request 4", update, session=s)
        self.say("epdg", "ue", "INFORMATIONAL response 4", "N(NAT_DETECTION_*)", session=s)
        self.say("epdg", "ue", "INFORMATIONAL request 0", "N(COOKIE2)", session=s, lost=not answered)
        if answered:
            self.say("ue", "epdg", "INFORMATIONAL response 0", "N(COOKIE2)", session=s)
            s["paths"][-1]["until"] = self.now
            s["paths"].append(
                {
                    "local": GATEWAY,
                    "remote": remote,
                    "since": self.now,
                    "until": None,
                    "why": "UPDATE_SA_ADDRESSES",
                    "validated": True,
                }
            )
            s["ike"]["path"] = {"local": GATEWAY, "remote": remote}
            s["ike"]["nat"]["remote"] = remote == NAT_OUTSIDE
            for child in s["child_sas"]:
                child["path"] = {"local": GATEWAY, "remote": remote}
            self.event("epdg", "moved", f"Moved from {old} to {remote}.", s, {"old": old, "new": remote})
            return
        for after in (0.5, 1.0, 2.0):
            self.say(
                "epdg",
                "ue",
                "INFORMATIONAL request 0",
                "N(COOKIE2)",
                session=s,
                lost=True,
                retransmission=True,
                after=after,
            )
        s["paths"][-1]["until"] = self.now - 3.5
        s["paths"].append(
            {
                "local": GATEWAY,
                "remote": remote,
                "since": self.now - 3.5,
                "until": self.now,
                "why": "UPDATE_SA_ADDRESSES",
                "validated": False,
            }
        )
        s["paths"].append(
            {
                "local": GATEWAY,
                "remote": old,
                "since": self.now,
                "until": None,
                "why": "return routability check failed: back to the last validated path",
                "validated": True,
            }
        )
        self.event(
            "epdg",
            "address-update-failed",
            f"{remote} did not answer the check; still at {old}.",
            s,
            {"tried": remote},
        )

    def refuse(self, number: int) -> dict[str, Any]:
        """An attach the AAA refuses."""
        s = self.new_session(number, "ims")
        self.say("ue", "epdg", "IKE_SA_INIT request 0", INIT, session=s)
        self.say("epdg", "ue", "IKE_SA_INIT response 0", INIT_ANSWER, session=s)
        self.say("ue", "epdg", "IKE_AUTH request 1", AUTH, session=s)
        self.say("epdg", "aaa", "DER", "EAP-Payload=Response/Identity", session=s)
        self.say("aaa", "epdg", "DEA", "DIAMETER_ERROR_USER_UNKNOWN", session=s)
        self.say("epdg", "ue", "IKE_AUTH response 1", "IDr, N(USER_UNKNOWN)", session=s)
        s["state"] = "closed"
        s["paths"] = []  # it never was on one
        s["last_error"] = {"cause": "USER_UNKNOWN", "text": "the home AAA does not know this subscriber"}
        self.event("epdg", "refused", f"{s['imsi']} refused: user unknown (9001).", s, {"notify": 9001})
        return s

    def detach(self, identifier: str) -> None:
        """The gateway ends a session."""
        s = self.sessions[identifier]
        self.now = max(self.now, time.time())
        self.say("epdg", "ue", "INFORMATIONAL request 1", "D", session=s)
        self.say("ue", "epdg", "INFORMATIONAL response 1", "", session=s)
        self.say("epdg", "aaa", "STR", "DIAMETER_ADMINISTRATIVE", session=s)
        self.say("aaa", "epdg", "STA", "DIAMETER_SUCCESS", session=s)
        s["state"] = "closed"
        self.event("epdg", "detached", f"{s['imsi']} detached by the operator.", s)


class Site:
    """A world and a dashboard that looks at it, on an event loop of their own thread."""

    def __init__(
        self, directory: Path, extra: str = "", *, now: float | None = None, port: int = 0, nodes: str = ""
    ) -> None:
        self.world = World(directory, now=now)
        self._others: list[World] = []
        more = nodes
        nodes = "\n".join(
            f"  - {{ name: {name}, kind: {name}, control: {self.world.socket(name)} }}"
            for name in ("epdg", "aaa", "ue")
        )
        text = f"listen: 127.0.0.1:{port}\ntoken: {TOKEN}\npoll_interval: 0.1\n{extra}\nnodes:\n{nodes}\n{more}\n"
        self.config = parse(text, DashboardsConfig)
        self._listening = listen(self.config)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="site")
        self._server: uvicorn.Server
        self._loop: asyncio.AbstractEventLoop

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        for name in self.world.recorders:
            await self.world.start(name)
        self._server = build_server(self.config, TOKEN)
        self._ready.set()
        await self._server.serve(sockets=[self._listening])
        for world in (self.world, *self._others):
            await world.stop_all()

    async def other_world(self, directory: Path) -> World:
        """A second gateway."""
        world = World(directory)
        await world.start("epdg")
        self._others.append(world)
        return world

    def do(self, action: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a world's method (plain or async) on the site's loop and wait for it."""

        async def run() -> Any:
            result = action(*args, **kwargs)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def __enter__(self) -> Site:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(setattr, self._server, "should_exit", True)
        self._thread.join(20)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def site(directory: Path, extra: str = "", **kwargs: Any) -> Iterator[Site]:
    """A running site."""
    with Site(directory, extra, **kwargs) as running:
        yield running
