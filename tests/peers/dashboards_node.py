"""The real ``dashboards serve`` as a process, and a client that has signed in as its operator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from lab.namespaces import terminate
from tests.peers.processes import Peer, wait_until

API = "/api/v1"
TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class DashboardsProcess(Peer):
    """``dashboards serve`` in ``directory`` before ``nodes``: name → kind and control socket."""

    directory: Path
    nodes: Mapping[str, tuple[str, Path]]
    extra: str = ""
    url: str = field(default="", init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it; it has asked every node when this returns."""
        path = self.directory / "dashboards.yaml"
        nodes = "\n".join(
            f"  - {{ name: {name}, kind: {kind}, control: {control} }}" for name, (kind, control) in self.nodes.items()
        )
        path.write_text(f"listen: 127.0.0.1:0\ntoken: {TOKEN}\npoll_interval: 0.2\n{self.extra}\nnodes:\n{nodes}\n")
        command = [sys.executable, "-m", "dashboards", "serve", "-c", str(path)]
        with (self.directory / "dashboards.log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        link = self.process.stdout.readline().decode()
        self.url = link.removeprefix("Sign in at ").partition("/sign-in")[0]
        with self.client() as client:
            wait_until(lambda: self._follows(client), what="dashboards", timeout=20)

    def _follows(self, client: httpx.Client) -> bool:
        return all(node["reachable"] for node in client.get(f"{API}/nodes").json()["nodes"])

    def client(self) -> httpx.Client:
        """A client with the operator's token."""
        return httpx.Client(base_url=self.url, timeout=30, headers=BEARER)

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            terminate(self.process)
            assert self.process.stdout is not None
            self.process.stdout.close()
