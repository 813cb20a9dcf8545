"""AAA server, gateway and UE as processes on loopback, and a dashboard that keeps an audit log before them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.nodes.test_ue_node import IKE_PORT, NATT_PORT, USER, Ue
from tests.peers.aaa_node import AaaProcess
from tests.peers.dashboards_node import DashboardsProcess
from tests.peers.epdg_node import EpdgProcess


@dataclass
class FourNodes:
    """``gw``, ``aaa`` and ``phone`` to the dashboard; the UE has not attached. A client with the operator's token."""

    epdg: EpdgProcess
    ue: Ue
    client: httpx.Client
    audit: Path


@contextmanager
def four_nodes(directory: Path, *, gateway: str, place: str) -> Iterator[FourNodes]:
    """Started in order, ended in the other; ``gateway`` and ``place``: where gateway and UE are."""
    for name in ("aaa", "epdg", "ue", "dashboards"):
        (directory / name).mkdir()
    aaa = AaaProcess(directory / "aaa")
    aaa.provision(USER)
    ports: dict[str, object] = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}

    def change(values: dict[str, object]) -> None:
        values["gateway"] = {**ports, "address": gateway, "ca": str(directory / "epdg" / "pki" / "ca.pem")}
        values["accesses"] = {"wifi": {"address": place, **ports}}

    audit = directory / "audit.jsonl"
    with (
        aaa,
        EpdgProcess(directory / "epdg", aaa.port, address=gateway) as epdg,
        Ue(directory / "ue", epdg.authority, change=change).node("run") as ue,
        DashboardsProcess(
            directory / "dashboards",
            {"gw": ("epdg", epdg.control), "aaa": ("aaa", aaa.control), "phone": ("ue", ue.control)},
            f"audit_log: {audit}",
        ) as dashboards,
        dashboards.client() as client,
    ):
        yield FourNodes(epdg, ue, client, audit)
