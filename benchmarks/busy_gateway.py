"""A gateway with thousands of sessions, for whoever looks at it: ``python -m benchmarks.busy_gateway DIRECTORY``.

Its control socket is real (kind ``epdg``), and sessions are looked through by the gateway's own code
(``epdg.control``). What happens to them is made here, ``--rate`` times a second: a session moves, recorded as a
gateway records it; ``--messages`` of IKE are recorded beside. The address that a session moves to tells the moment:
``address_at``, so that who sees it knows how old the sight is.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import os
import signal
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

from epdg.control.session_selection import page, searchable, several
from protocols.io.control import ControlServer
from protocols.path import Address
from protocols.trace.recorder import Recorder
from protocols.trace.records import Kind
from tests.nodes.dashboards_world import GATEWAY, World

SESSIONS, RATE, MESSAGES = 10_000, 1000, 200
TICK_INTERVAL = 0.01  # seconds
MOMENTS = 1 << 22  # milliseconds that an address of 100.64.0.0/10 can tell apart: over an hour
PATHS_KEPT = 3
SOCKET, READY = "epdg.sock", "ready"
WATCHED = f"s{SESSIONS:06x}"  # the newest, on top of the list; moves once in WATCHED_INTERVAL besides
WATCHED_INTERVAL = 0.7  # seconds


def address_at(wall: float) -> str:
    """The address of RFC 6598's range that tells this moment."""
    value = int(wall * 1000) % MOMENTS
    return f"100.{64 + (value >> 16)}.{value >> 8 & 255}.{value & 255}:4500"


class Present:
    """A session that is there: described anew for every answer, as a gateway does."""

    __slots__ = ("_inner", "addresses", "apn", "created", "identifier", "imsi", "nai", "shown", "state", "text")

    def __init__(self, shown: dict[str, Any]) -> None:
        self.shown = shown
        self.identifier, self.state = str(shown["id"]), str(shown["state"])
        self.imsi, self.nai, self.apn = str(shown["imsi"]), str(shown["nai"]), str(shown["apn"])
        self.created = float(shown["created"])
        self._inner = tuple(map(ip_address, shown["inner_addresses"]))
        self.moved()

    def moved(self) -> None:
        """Its path is another."""
        outer = self.shown["ike"]["path"]["remote"].rpartition(":")[0]
        self.addresses: tuple[Address, ...] = (*self._inner, ip_address(outer))
        self.text = searchable(self.imsi, self.nai, self.apn, self.addresses)

    def view(self) -> dict[str, Any]:
        """Made now."""
        return copy.deepcopy(self.shown)


class BusyGateway(World):
    """Sessions that are established before anybody looks, and move from then on."""

    def __init__(self, directory: Path, sessions: int) -> None:
        super().__init__(directory)
        for number in range(1, sessions + 1):
            self.attach(number, "ims" if number % 4 == 0 else "internet")
        self.now = time.time()
        self.recorders = {"epdg": Recorder("epdg", monotonic=time.monotonic, wall=time.time)}  # and no others' records
        self.started["epdg"] = self.now
        self.subjects = {identifier: Present(session) for identifier, session in self.sessions.items()}
        self.moves = 0
        self._random = Random(1)  # noqa: S311 - no secrets
        self._names = list(self.sessions)

    def handlers(self) -> dict[str, Any]:
        """As a gateway's, as far as the dashboard asks."""
        return {
            "node.status": lambda _: self._status("epdg"),
            "sessions.list": self._list,
            "sessions.get": self._get,
            "sessions.several": self._several,
            "peers.list": self._peers,
        }

    async def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        return page(self.subjects.values(), params)

    async def _get(self, params: dict[str, Any]) -> dict[str, Any]:
        return copy.deepcopy(await super()._get(params))

    async def _several(self, params: dict[str, Any]) -> dict[str, Any]:
        return several(self._view, params)

    def _view(self, identifier: str) -> dict[str, Any] | None:
        subject = self.subjects.get(identifier)
        return None if subject is None else subject.view()

    def happen(self, identifier: str | None = None) -> None:
        """A session moves, now."""
        identifier = identifier or self._random.choice(self._names)
        session = self.sessions[identifier]
        now = time.time()
        remote = address_at(now)
        path = {"local": GATEWAY, "remote": remote}
        old = session["ike"]["path"]["remote"]
        session["ike"]["path"] = path
        session["paths"][-1]["until"] = now
        session["paths"].append({**path, "since": now, "until": None, "why": "UPDATE_SA_ADDRESSES", "validated": True})
        del session["paths"][:-PATHS_KEPT]
        self.subjects[identifier].moved()
        self.moves += 1
        self.recorders["epdg"].record(
            Kind.EVENT,
            {"name": "moved", "text": f"Moved from {old} to {remote}.", "data": {"old": old, "new": remote}},
            identifier,
        )

    def exchange(self) -> None:
        """A request of DPD and its answer (RFC 7296 §2.4), recorded as messages."""
        session = self.sessions[self._random.choice(self._names)]
        for direction, name in (("out", "INFORMATIONAL request 7"), ("in", "INFORMATIONAL response 7")):
            self._record(
                "epdg",
                Kind.MESSAGE,
                {
                    "protocol": "ikev2",
                    "interface": "SWu",
                    "direction": direction,
                    "peer": "ue",
                    "name": name,
                    "summary": f"{name} [ ]",
                    "detail": {"spi_i": session["ike"]["spi_i"], "spi_r": session["ike"]["spi_r"]},
                    "retransmission": False,
                },
                session,
            )

    async def live(self, rate: float, messages: float) -> None:
        """Let it happen, at these rates a second; a tick that is late makes up for it."""
        begun = time.monotonic()
        moved = exchanged = watched = 0
        parent = os.getppid()
        while os.getppid() == parent:  # nobody looks any more
            passed = time.monotonic() - begun
            while moved < passed * rate:
                self.happen()
                moved += 1
            while exchanged * 2 < passed * messages:
                self.exchange()
                exchanged += 1
            while watched * WATCHED_INTERVAL < passed:
                self.happen(WATCHED)
                watched += 1
            await asyncio.sleep(TICK_INTERVAL)


async def serve(arguments: argparse.Namespace) -> None:
    """Until SIGTERM."""
    gateway = BusyGateway(arguments.directory, arguments.sessions)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with ControlServer(arguments.directory / SOCKET, gateway.handlers(), gateway.recorders["epdg"]):
        sys.stdout.write(READY + "\n")
        sys.stdout.flush()
        living = asyncio.create_task(gateway.live(arguments.rate, arguments.messages))
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait((living, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (living, stopping):
            task.cancel()
        await asyncio.gather(living, stopping, return_exceptions=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--rate", type=float, default=RATE, help="moves a second")
    parser.add_argument("--messages", type=float, default=MESSAGES, help="messages of IKE a second")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
