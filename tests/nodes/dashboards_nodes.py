"""AAA server, gateway and UE as processes on loopback, and a dashboard that keeps an audit log before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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
    second: EpdgProcess | None = None


@contextmanager
def four_nodes(
    directory: Path,
    *,
    gateway: str,
    place: str,
    second_gateway: str | None = None,
    ahead: Callable[[Path], AbstractContextManager[Path]] = nullcontext,
    extra: str = "",
) -> Iterator[FourNodes]:
    """Started in order, ended in the other; ``gateway`` and ``place``: where gateway and UE are.

    ``second_gateway``: another one, ``gw-2``, to which the UE lets itself be redirected. ``ahead``: what the dashboard
    has of the first one's control socket. ``extra`` goes into the dashboard's configuration.
    """
    for name in ("aaa", "epdg", "second", "ue", "dashboards"):
        (directory / name).mkdir()
    (directory / "second" / "pki").symlink_to(directory / "epdg" / "pki")
    aaa = AaaProcess(directory / "aaa")
    aaa.provision(USER)
    ports: dict[str, object] = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}

    def change(values: dict[str, object]) -> None:
        values["gateway"] = {**ports, "address": gateway, "ca": str(directory / "epdg" / "pki" / "ca.pem")}
        values["accesses"] = {"wifi": {"address": place, **ports}}
        if second_gateway is not None:
            values["redirect"] = {"obey": "authenticated"}

    audit = directory / "audit.jsonl"
    with ExitStack() as running:
        running.enter_context(aaa)
        epdg = running.enter_context(EpdgProcess(directory / "epdg", aaa.port, address=gateway))
        nodes = {"gw": ("epdg", running.enter_context(ahead(epdg.control))), "aaa": ("aaa", aaa.control)}
        second = None
        if second_gateway is not None:
            second = EpdgProcess(directory / "second", aaa.port, address=second_gateway)
            nodes["gw-2"] = ("epdg", running.enter_context(second).control)
        ue = running.enter_context(Ue(directory / "ue", epdg.authority, change=change).node("run"))
        nodes["phone"] = ("ue", ue.control)
        extra = f"audit_log: {audit}\n{extra}"
        dashboards = running.enter_context(DashboardsProcess(directory / "dashboards", nodes, extra))
        yield FourNodes(epdg, ue, running.enter_context(dashboards.client()), audit, second)
