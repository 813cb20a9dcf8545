"""Grafana's dashboards ask Prometheus for what there is: Debian's Prometheus, our nodes, every query of every panel."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.peers.processes import find_program, require_program
from tests.peers.prometheus import Scraped, scraped

pytestmark = pytest.mark.peer

FOLDER = Path(__file__).parents[2] / "dashboards" / "grafana"
DASHBOARDS = sorted(FOLDER.glob("*.json"))
WINDOW = "10s"


def panels(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["panels"]
    return found


def queries(file: Path) -> dict[str, str]:
    """By panel: each query as Grafana would send it, with all nodes selected."""
    return {
        f"{file.name}: {panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", WINDOW)
        .replace("$node", ".*")
        for panel in panels(file)
        for target in panel["targets"]
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    require_program("prometheus", "promtool")
    wanted = {query for file in DASHBOARDS for query in queries(file).values()}
    return asyncio.run(scraped(tmp_path_factory.mktemp("prometheus"), wanted))


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_every_query_of_every_panel_has_data(seen: Scraped, file: Path) -> None:
    found = queries(file)
    assert len(found) >= 5
    assert [where for where, query in found.items() if query in seen.silent] == []


@pytest.mark.parametrize("job", ["epdg", "fleet"])
def test_metrics_follow_prometheus_conventions(seen: Scraped, job: str) -> None:
    result = subprocess.run(
        [str(find_program("promtool")), "check", "metrics"],
        input=seen.metrics[job],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_nobody_is_in_the_metrics(seen: Scraped) -> None:
    for text in seen.metrics.values():
        assert not any(imsi in text for imsi in seen.imsis)


def test_every_metric_is_explained(seen: Scraped) -> None:
    docs = FOLDER.parents[1] / "docs"
    for job, page in (("epdg", "metrics.md"), ("fleet", "fleet.md")):
        explained = set(re.findall(r"`(epdg_[a-z_]+)`", (docs / page).read_text(encoding="utf-8")))
        shown = {
            name + ("_total" if kind == "counter" and not name.endswith("_total") else "")
            for name, kind in re.findall(r"^# TYPE (epdg_\S+) (\S+)$", seen.metrics[job], re.MULTILINE)
        }
        shown = {name for name in shown if name.startswith("epdg_fleet_") == (job == "fleet")}
        assert shown - explained == set()
        assert {name for name in explained - shown if name.startswith("epdg_fleet_") == (job == "fleet")} == set()


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboards_are_whole(file: Path) -> None:
    """What Grafana needs of a dashboard: identities that differ, places that do not overlap, our data source."""
    dashboard, taken = json.loads(file.read_text(encoding="utf-8")), set()
    assert dashboard["uid"] == f"epdg-{file.stem}"
    assert len({panel["id"] for panel in panels(file)}) == len(panels(file))
    for panel in panels(file):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "prometheus"}
            assert ("$node" in target["expr"]) <= bool(dashboard["templating"]["list"])
