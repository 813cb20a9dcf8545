"""Debian's Prometheus beside nodes of ours on loopback: a gateway, an AAA server, a UE, a dashboard, a small fleet.

``scraped`` plays one story (the UE attaches, talks and moves; so do the fleet's, some of them call) while Prometheus
scrapes, and asks it for queries meanwhile until each has had data.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Network
from pathlib import Path

import httpx
import yaml

from lab.fleet.config import FleetFile
from lab.fleet.engine import FleetEngine
from lab.fleet.metrics import MetricsServer
from lab.fleet.nodes import ACCESSES, CORE_HOST, FIRST_IMSI, NAT_TRAVERSAL_PORT, FleetNodes, NodesPlan
from lab.fleet.plan import FleetPlan
from lab.fleet.rule import SubscriberRule, read_master
from lab.fleet.schedule import Action, FleetEvent, FleetSchedule
from lab.fleet.talk import TalkKind
from lab.processes import NodeProcess, poll_until
from tests.peers.aaa_node import free_port
from tests.peers.processes import find_program

FLEET = 6
UE = FLEET  # its index by the rule of the fleet's subscribers
LIMIT = 45.0  # seconds until every query has had data
POLL_INTERVAL = 0.5
SCHEDULE = FleetSchedule(
    name="everything",
    title="Attach, talk, call, move twice, detach",
    repeat=False,
    events=(
        FleetEvent(at=0, do=Action.ATTACH),
        FleetEvent(at=0.2, do=Action.TALK, rate=10, seconds=4),
        FleetEvent(at=0.5, do=Action.TALK, kind=TalkKind.VOICE, seconds=11, share=0.5),
        FleetEvent(at=3, do=Action.MOVE, to="next"),
        FleetEvent(at=6, do=Action.MOVE, to="next"),
        FleetEvent(at=13, do=Action.DETACH),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Scraped:
    """``silent``: queries that never had data; ``metrics``: what was scraped last, by job."""

    silent: frozenset[str]
    metrics: Mapping[str, str]
    imsis: frozenset[str]


async def scraped(directory: Path, queries: Collection[str]) -> Scraped:
    """Play the story; ``queries`` in PromQL, of which each is asked until it has data or ``LIMIT`` is over."""
    network = IPv4Network(f"127.{64 + os.getpid() % 128}.90.0/24")
    plan = NodesPlan(directory=directory, count=FLEET + 1, network=network, trace=True)
    plan.prepare()
    rule = SubscriberRule(first_imsi=FIRST_IMSI, master=read_master(directory / "fleet.master"))
    async with contextlib.AsyncExitStack() as stack:
        ue = await stack.enter_async_context(_process("ue", directory, _ue(plan, rule)))
        dashboard = await stack.enter_async_context(_process("dashboards", directory, _dashboards()))
        await stack.enter_async_context(FleetNodes(plan))
        await ue.ready()
        url = (await dashboard.said("Sign in at ")).partition("/sign-in")[0]
        engine = await stack.enter_async_context(FleetEngine(FleetFile.read(plan.fleet)))
        fleet = MetricsServer(0, engine.latest)
        stack.callback(fleet.close)
        targets = {"epdg": url.removeprefix("http://"), "fleet": f"127.0.0.1:{fleet.port}"}
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=10))
        prometheus = await stack.enter_async_context(_prometheus(directory, targets))
        assert not await _asked(
            client, prometheus, ("epdg_node_up == 1", "epdg_fleet_ues")
        )  # from here on it sees growth
        engine.start(FleetPlan(schedule=SCHEDULE, count=FLEET, rate=1.0, duration=LIMIT))
        async with asyncio.TaskGroup() as tasks:
            playing = tasks.create_task(_play(plan, ue))
            silent = await _asked(client, prometheus, queries)
            playing.cancel()
        texts = {job: (await client.get(f"http://{target}/metrics")).text for job, target in targets.items()}
        await engine.stop()
    return Scraped(
        silent=frozenset(silent), metrics=texts, imsis=frozenset(rule.imsi(index).digits for index in range(FLEET + 1))
    )


async def _asked(client: httpx.AsyncClient, prometheus: str, queries: Collection[str]) -> set[str]:
    """Those that had no data within ``LIMIT``."""
    waiting = set(queries)
    await poll_until(lambda: _is_ready(client, prometheus), what="Prometheus does not get ready", interval=LIMIT)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT):
            while waiting:
                for query in sorted(waiting):
                    answer = await client.post(f"{prometheus}/api/v1/query", data={"query": query})
                    found = answer.json()
                    assert found["status"] == "success", f"{query}: {found}"
                    if any(not math.isnan(float(series["value"][1])) for series in found["data"]["result"]):
                        waiting.discard(query)
                await asyncio.sleep(POLL_INTERVAL)
    return waiting


async def _is_ready(client: httpx.AsyncClient, prometheus: str) -> bool | None:
    with contextlib.suppress(httpx.TransportError):
        return (await client.get(f"{prometheus}/-/ready")).status_code == HTTPStatus.OK or None
    return None


async def _play(plan: NodesPlan, ue: NodeProcess) -> None:
    """The UE attaches, talks and moves; somebody sends ESP of no SA; until cancelled."""
    await ue.client.call("ue.attach", access="wifi-a")
    await ue.client.call("ue.traffic.start", destination=str(CORE_HOST), rate=20)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        while True:
            for access in ("wifi-b", "wifi-a"):
                await ue.client.call("ue.move", to=access)
                stranger.sendto(b"\0\0\1\0" + bytes(60), (str(plan.gateway), NAT_TRAVERSAL_PORT))
                await asyncio.sleep(2 * POLL_INTERVAL)


@contextlib.asynccontextmanager
async def _process(module: str, directory: Path, configuration: Mapping[str, object]) -> AsyncIterator[NodeProcess]:
    file = directory / f"{module}.yaml"
    file.write_text(yaml.safe_dump(dict(configuration)))
    control = directory / f"{module}.sock"
    verb = "run" if module == "ue" else "serve"  # which attaches when it is told to
    words = [sys.executable, "-m", module, verb, "-c", str(file)]
    process = NodeProcess(module, words, log=directory / f"{module}.log", control=control)
    await process.start()
    try:
        yield process
    finally:
        await process.terminate()
        print(f"--- {module} ---\n{process.text()[-2000:]}")


@contextlib.asynccontextmanager
async def _prometheus(directory: Path, targets: Mapping[str, str]) -> AsyncIterator[str]:
    """A Prometheus that scrapes every second, in a directory of its own; its URL."""
    jobs = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
    file = directory / "prometheus.yaml"
    file.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    listen = f"127.0.0.1:{free_port()}"
    words = [
        str(find_program("prometheus")),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address={listen}",
    ]
    process = NodeProcess("prometheus", words, log=directory / "prometheus.log")
    await process.start()
    try:
        yield f"http://{listen}"
    finally:
        await process.terminate()
        print(f"--- prometheus ---\n{process.text()[-2000:]}")


def _ue(plan: NodesPlan, rule: SubscriberRule) -> dict[str, object]:
    k, opc = rule.keys(UE)
    ue = yaml.safe_load(plan.fleet.read_text())["ue"]
    accesses = {
        name: {"address": str(plan.network[last]), "ike_port": 0, "nat_traversal_port": 0}
        for name, last in zip(ACCESSES, (21, 22, 23), strict=True)
    }
    return {
        **ue,
        "imsi": rule.imsi(UE).digits,
        "usim": {"k": k.reveal().hex(), "opc": opc.reveal().hex()},
        "eap": {"state": "eap-state.json"},
        "accesses": accesses,
        "data_plane": {"kind": "in-process"},
        "control": "ue.sock",
        "state": "ue-state",
    }


def _dashboards() -> dict[str, object]:
    nodes = [{"name": kind, "kind": kind, "control": f"{kind}.sock"} for kind in ("epdg", "aaa", "ue")]
    return {"listen": "127.0.0.1:0", "poll_interval": 0.5, "nodes": nodes}
