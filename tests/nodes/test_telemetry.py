"""OpenTelemetry with all nodes as processes: one trace of an attach, refused ones, collectors that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lab.virtual.world import VirtualWorld, run
from protocols.errors import ConfigurationError
from protocols.io.configuration import parse
from protocols.io.control import call_sync
from protocols.io.telemetry import TelemetrySection
from protocols.trace.records import JsonValue
from tests.nodes.test_swx import HSS, to_the_hss
from tests.nodes.test_ue_node import GATEWAY, IKE_PORT, NATT_PORT, USER, Ue, _wrong_key
from tests.peers.aaa_node import AaaProcess, free_port
from tests.peers.epdg_node import EpdgProcess
from tests.peers.processes import wait_until

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
pytest.importorskip("opentelemetry.proto", reason="opentelemetry-proto is not installed")

from tests.peers.collector import Collector, Seen  # noqa: E402 - where there is no opentelemetry-proto

SPANS = 18  # attach, IKE_SA_INIT, 3 IKE_AUTH; of both ends 2 DER, MAR, SAR, STR; move, its update and its check


@dataclass
class World:
    """HSS, AAA server and gateway as processes of their own, and where their spans go."""

    collector: Collector
    hss: AaaProcess
    aaa: AaaProcess
    epdg: EpdgProcess

    def ue(self, directory: Path, *, wrong_key: bool = False) -> Ue:
        def change(values: dict[str, object]) -> None:
            values["telemetry"] = self.telemetry
            if wrong_key:
                _wrong_key(values)

        return Ue(directory, self.epdg.authority, change=change)

    @property
    def telemetry(self) -> dict[str, object]:
        return {"otlp": self.collector.url, "interval": 0.1, "timeout": 0.5}

    def traces(self) -> dict[str, list[Seen]]:
        found: dict[str, list[Seen]] = {}
        for span in self.collector.spans:
            found.setdefault(span.trace, []).append(span)
        return found

    def trace_with(self, name: str, *, service: str, beside: set[str]) -> list[Seen]:
        """The spans of a new trace in which a service has told of this."""

        def look() -> list[Seen] | None:
            for trace, spans in self.traces().items():
                if trace not in beside and any(s.name == name and s.service == service for s in spans):
                    return spans
            return None

        return wait_until(look, what=f"{name} of {service}", timeout=20)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("telemetry")
    with Collector() as collector:
        telemetry = f"telemetry: {{otlp: '{collector.url}', interval: 0.1, timeout: 0.5}}\n"
        hss = AaaProcess(directory, role="hss", name="hss", host=HSS, extra=telemetry)
        hss.provision(USER)

        def change(values: dict[str, object]) -> None:
            values["listen"] = {"addresses": [GATEWAY], "ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
            values["telemetry"] = yaml.safe_load(telemetry)["telemetry"]

        with hss:
            aaa = AaaProcess(directory, role="aaa", extra=to_the_hss(hss.port) + telemetry)
            with aaa, EpdgProcess(directory, aaa.port, address=GATEWAY, changes=change) as epdg:
                yield World(collector, hss, aaa, epdg)


def child_of(spans: list[Seen], parent: Seen) -> list[tuple[str, str, str]]:
    found = [span for span in spans if span.parent == parent.identifier]
    return [(s.service, s.name, s.kind) for s in sorted(found, key=lambda s: s.start)]


def named(spans: list[Seen], service: str, name: str, kind: str) -> list[Seen]:
    found = [s for s in spans if (s.service, s.name, s.kind) == (service, name, kind)]
    return sorted(found, key=lambda s: s.start)


def test_an_attach_and_a_move_are_one_trace_of_all_nodes(world: World, tmp_path: Path) -> None:
    before = set(world.traces())
    ue = world.ue(tmp_path)
    with ue.node("run"):
        ue.call("ue.attach")
        ue.call("ue.move", to="wifi-b")
        spans = world.trace_with("move", service="epdg", beside=before)
        of_ue = world.trace_with("move", service="ue", beside=before)
        ue.call("ue.detach")
        (trace,) = {span.trace for span in spans}

        def complete() -> list[Seen] | None:
            spans = world.traces()[trace]
            return spans if len(spans) >= SPANS else None

        spans = wait_until(complete, what=f"{SPANS} spans", timeout=20, log=lambda: repr(world.traces()[trace]))
    assert len(spans) == SPANS
    assert {span.service for span in spans} == {"epdg", "aaa", "hss"}
    assert {span.service for span in of_ue} == {"ue"}
    assert len({span.identifier for span in spans}) == len(spans)
    assert all(span.start <= span.end for span in spans)
    assert all(span.error is None for span in spans)
    assert world.collector.paths == {"/v1/traces"}

    (root,) = [span for span in spans if not span.parent]
    assert (root.service, root.name, root.kind) == ("epdg", "attach", "internal")
    known = {span.identifier for span in spans}
    assert all(span.parent in known for span in spans if span is not root)
    rounds = child_of(spans, root)
    assert rounds[:4] == [("epdg", "IKE_SA_INIT", "server"), *[("epdg", "IKE_AUTH", "server")] * 3]
    assert set(rounds[4:]) == {("epdg", "move", "internal"), ("epdg", "STR", "client")}
    first, second, third = named(spans, "epdg", "IKE_AUTH", "server")
    assert child_of(spans, first) == [("epdg", "DER", "client")]
    assert child_of(spans, second) == [("epdg", "DER", "client")]
    assert child_of(spans, third) == []
    asks = named(spans, "epdg", "DER", "client")
    assert [child_of(spans, ask) for ask in asks] == [[("aaa", "DER", "server")]] * 2
    serves = named(spans, "aaa", "DER", "server")
    assert [child_of(spans, each) for each in serves] == [[("aaa", "MAR", "client")], [("aaa", "SAR", "client")]]
    for name in ("MAR", "SAR"):
        (asked,) = named(spans, "aaa", name, "client")
        assert child_of(spans, asked) == [("hss", name, "server")]
    (move,) = named(spans, "epdg", "move", "internal")
    assert child_of(spans, move) == [
        ("epdg", "UPDATE_SA_ADDRESSES", "server"),
        ("epdg", "return routability check", "client"),
    ]
    (own,) = [span for span in of_ue if span.name == "attach"]
    assert root.links == ((own.trace, own.identifier),)


def test_a_refused_attach_says_what_went_wrong(world: World, tmp_path: Path) -> None:
    before = set(world.traces())
    assert world.ue(tmp_path, wrong_key=True).command("attach").returncode == 1
    (trace,) = {span.trace for span in world.trace_with("attach", service="epdg", beside=before)}
    wait_until(lambda: named(world.traces()[trace], "epdg", "DER", "client")[1:], what="both rounds", timeout=10)
    spans = world.traces()[trace]
    (root,) = [span for span in spans if span.name == "attach"]
    assert root.error is not None
    assert "K or OPc" in root.error
    first, second = named(spans, "epdg", "DER", "client")
    assert first.error is None
    assert second.error == second.attributes["diameter.result"] != first.attributes["diameter.result"]


def test_what_the_collector_does_not_take_is_counted(world: World, tmp_path: Path) -> None:
    """Node and UE go on at once; when the collector is back, so are the spans."""
    world.collector.status = 400  # not to be tried again (OTLP/HTTP)
    try:
        (tmp_path / "one").mkdir()
        with world.ue(tmp_path / "one").node("attach", state="established"):
            wait_until(lambda: figure(world.epdg.control, "failed") or None, what="failures", timeout=20)
    finally:
        world.collector.status = 200
    assert "does not take spans" in world.epdg.log()
    exported = figure(world.epdg.control, "exported")
    (tmp_path / "two").mkdir()
    with world.ue(tmp_path / "two").node("attach", state="established"):
        wait_until(lambda: figure(world.epdg.control, "exported") > exported or None, what="spans again", timeout=20)
    assert "takes spans again" in world.epdg.log()
    for control in (world.hss.control, world.aaa.control, world.epdg.control):
        assert figure(control, "dropped") == figure(control, "records_lost") == 0


def figure(control: Path, name: str) -> int:
    status = call_sync(control, "node.status")
    assert isinstance(status, dict)
    telemetry: JsonValue = status["telemetry"]
    assert isinstance(telemetry, dict)
    value = telemetry[name]
    assert isinstance(value, int)
    return value


def test_without_the_packages_it_is_one_line(world: World, tmp_path: Path) -> None:
    """Packages of that name which hold nothing, before the real ones."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    for module, file in (("epdg", world.epdg.configuration), ("aaa", world.aaa.configuration)):
        done = subprocess.run(
            [sys.executable, "-m", module, "serve", "-c", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "telemetry.otlp" in done.stderr
        assert "epdg-emulator[otel]" in done.stderr


@pytest.mark.parametrize("url", ["collector:4318", "ftp://127.0.0.1", "http://a:b@127.0.0.1:4318", "http://h:99999"])
def test_what_is_no_collector_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="otlp"):
        parse(f"otlp: {url}", TelemetrySection)


def test_a_collector_that_is_away_costs_spans_and_no_time() -> None:
    """On virtual time: what the queue has no room for is counted, and the attach takes as long as ever."""

    async def story(world: VirtualWorld) -> tuple[JsonValue, JsonValue]:
        await world.ue.call("ue.attach", access="wifi-a")
        await world.advance(1)
        status = await world.epdg.call("node.status")
        (attached,) = [record for record in world.epdg.trace if record.body.get("name") == "attached"]
        data = attached.body["data"]
        assert isinstance(status, dict)
        assert isinstance(data, dict)
        return status["telemetry"], data["seconds"]

    away = {"otlp": f"http://127.0.0.1:{free_port()}", "queue": 2, "interval": 3600.0, "timeout": 0.1}
    figures, seconds = run(story, changes={"epdg": {"telemetry": away}})
    nothing, as_ever = run(story)
    assert nothing is None
    assert seconds == as_ever
    assert isinstance(figures, dict)
    assert figures["waiting"] == 2
    assert figures["dropped"] == 5  # IKE_SA_INIT, 3 IKE_AUTH, 2 DER, attach: seven in all
