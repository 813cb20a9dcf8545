"""The dashboard's page in Chromium with 10,000 sessions and 1,000 events a second.

    python -m benchmarks.dashboard [--seconds 600] [--results benchmarks/results/dashboard.json]
                                   [--page docs/dashboard-performance.md]

Four processes: a gateway whose sessions move all the time (``benchmarks.busy_gateway``), the dashboard, Chromium with
the list of sessions and then with one session's page, and this one, which asks the browser:

- from the key press to the painted rows of a search among all sessions, the keys of IMSIs, an address and an APN;
- from the gateway's record to the frame that has it painted, by the moment that every address tells;
- the page's heap after a collection of garbage, its nodes and listeners, and the server's memory;
- the processor time of gateway, dashboard and browser, which depends less on what else the machine does.

Needs Chromium and Playwright (``make test`` installs both). ``--seconds 0`` measures nothing and writes the page anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.busy_gateway import MESSAGES, RATE, READY, SESSIONS, SOCKET, WATCHED
from benchmarks.processors import used
from lab.namespaces import terminate
from tests.browser.chromium import Sitting, chromium
from tests.peers.dashboards_node import DashboardsProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page

RESULTS = Path("benchmarks/results/dashboard.json")
DOCUMENT = Path("docs/dashboard-performance.md")
PROBE = Path(__file__).with_name("dashboard_probe.js")
LONG = 600.0  # seconds that count
WARM_UP = 10.0  # seconds before: code is compiled, caches are filled
SAMPLE_INTERVAL = 10.0  # seconds between looks at the heap
SHARE_OF_SESSION = 0.1  # of the time, for the page of one session
GOALS = {"filter_p95_ms": 100.0, "list_p95_ms": 250.0, "session_p95_ms": 250.0}
IMSI = "0010100000"  # what all have in common


@dataclass
class Sample:
    """The page at one moment: octets and counts; ``rss`` are the server's octets of memory."""

    seconds: float
    heap: int
    nodes: int
    listeners: int
    rss: int


@dataclass
class Watch:
    """What was seen of one page: milliseconds from record to paint, samples, frames and the longest of them.

    ``processors``: seconds of them that were used in each of the ``seconds`` that it took.
    """

    ages: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    frames: int = 0
    longest: float = 0.0
    seconds: float = 0.0
    processors: dict[str, float] = field(default_factory=dict)

    def take(self, page: Page) -> None:
        """What the probe has seen since it was asked last."""
        seen = page.evaluate("probe.take()")
        self.ages += seen["ages"]
        self.frames += seen["frames"]
        self.longest = max(self.longest, seen["longest"])


@dataclass
class BusyDashboards(DashboardsProcess):
    """A dashboard, and the process of the gateway behind it."""

    gateway: int = 0


@contextlib.contextmanager
def busy(directory: Path, *, sessions: int = SESSIONS, rate: float = RATE) -> Iterator[BusyDashboards]:
    """The gateway and a dashboard before it."""
    words = ["--sessions", str(sessions), "--rate", str(rate)]
    gateway = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.busy_gateway", str(directory), *words], stdout=subprocess.PIPE
    )
    assert gateway.stdout is not None
    try:
        if gateway.stdout.readline().decode().strip() != READY:
            raise SystemExit("the gateway did not start")
        nodes = {"epdg": ("epdg", directory / SOCKET)}
        with BusyDashboards(directory, nodes, gateway=gateway.pid) as dashboards:
            yield dashboards
    finally:
        terminate(gateway)
        gateway.stdout.close()


class Observer:
    """A page with the probe in it."""

    def __init__(self, browser: Browser, dashboards: BusyDashboards, path: str) -> None:
        self.sitting = Sitting(browser, dashboards.url)
        self.page: Page = self.sitting.page
        self.page.add_init_script(path=PROBE)
        self.page.goto(path)
        self._protocol: CDPSession = self.sitting.context.new_cdp_session(self.page)
        self._protocol.send("Performance.enable")
        assert dashboards.process is not None
        self._server = dashboards.process.pid
        # Playwright's driver and the browser that it started are all that is left below this process
        self._processes = {"gateway": dashboards.gateway, "dashboard": self._server, "browser": os.getpid()}
        self._begun = time.monotonic()

    def sample(self) -> Sample:
        """The page now, after a collection of garbage."""
        self._protocol.send("HeapProfiler.collectGarbage")
        told = self._protocol.send("Performance.getMetrics")["metrics"]
        figures = {each["name"]: each["value"] for each in told}
        statm = Path(f"/proc/{self._server}/statm").read_text(encoding="ascii")
        return Sample(
            seconds=time.monotonic() - self._begun,
            heap=int(figures["JSHeapUsedSize"]),
            nodes=int(figures["Nodes"]),
            listeners=int(figures["JSEventListeners"]),
            rss=int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        )

    def watch(self, seconds: float, interval: float = SAMPLE_INTERVAL) -> Watch:
        """Look at it for so long."""
        seen = Watch()
        self.page.evaluate("probe.begin()")
        before, began = used(self._processes), time.monotonic()
        end = began + seconds
        while time.monotonic() < end:
            self.page.wait_for_timeout(min(interval, max(0.0, end - time.monotonic())) * 1000)
            seen.take(self.page)
            seen.samples.append(self.sample())
            self.page.evaluate("probe.longest = 0")  # the collection was ours
        seen.seconds = time.monotonic() - began
        seen.processors = {name: (now - before[name]) / seen.seconds for name, now in used(self._processes).items()}
        return seen

    def searches(self) -> list[float]:
        """Milliseconds from each key press to its painted rows."""
        box = self.page.get_by_role("searchbox", name="Search sessions")
        taken: list[float] = []

        def type_in(key: str, total: int, text: str) -> None:
            waiting = self.page.evaluate_handle(f"({{ done: probe.searched({total}, {json.dumps(text)}) }})")
            box.press(key)
            taken.append(self.page.evaluate("(waiting) => waiting.done", waiting))

        for number in ("00417", "02718", "09999", "03141"):
            box.fill(IMSI)
            self.page.wait_for_timeout(500)
            for length in range(1, len(number) + 1):
                found = sum(f"{each:05d}".startswith(number[:length]) for each in range(1, SESSIONS + 1))
                type_in(number[length - 1], found, number[:length])
        # every key changes the rows: where they stay there is no paint to wait for
        for text, key, total in (("10.45.3", "9", 250), ("i", "m", SESSIONS // 4)):
            for _ in range(5):
                box.fill(text)
                self.page.wait_for_timeout(500)
                type_in(key, total, text + key)
        box.fill("")
        self.page.wait_for_timeout(500)
        return taken


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def growth(samples: Sequence[Sample], name: str) -> float:
    """Octets (or what it is) a minute that a figure grows by, by least squares over the samples."""
    if len(samples) < 3:
        return float("nan")
    moments = [sample.seconds / 60 for sample in samples]
    return statistics.linear_regression(moments, [getattr(sample, name) for sample in samples]).slope


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Count and percentiles, milliseconds."""
    rounded = {f"p{share * 100:.0f}": round(percentile(values, share), 1) for share in (0.5, 0.95, 0.99)}
    return {"count": len(values), **rounded, "worst": round(max(values, default=float("nan")), 1)}


def described(watch: Watch, seconds: float) -> dict[str, Any]:
    """One page's figures."""
    samples = watch.samples
    return {
        "seconds": seconds,
        "paint_ms": spread(watch.ages),
        "frames_a_second": round(watch.frames / seconds, 1),
        "longest_frame_ms": round(watch.longest, 1),
        "heap_mb": [round(sample.heap / 1e6, 2) for sample in samples],
        "heap_growth_mb_a_minute": round(growth(samples, "heap") / 1e6, 3),
        "nodes": [sample.nodes for sample in samples],
        "listeners": [sample.listeners for sample in samples],
        "server_mb": [round(sample.rss / 1e6, 1) for sample in samples],
        "processors": {name: round(share, 3) for name, share in watch.processors.items()},
    }


def measured(seconds: float) -> dict[str, Any]:
    """Everything, in one run."""
    with tempfile.TemporaryDirectory() as name, busy(Path(name)) as dashboards, chromium() as browser:
        of_list = Observer(browser, dashboards, "/#/sessions")
        of_list.page.locator("#sessions tr").nth(49).wait_for()
        of_list.watch(WARM_UP)
        begun = len(of_list.searches())  # the first ones warm the search up
        searches = of_list.searches()
        watch = of_list.watch(seconds)
        complaints = of_list.sitting.complaints
        of_list.sitting.close()
        of_session = Observer(browser, dashboards, f"/#/sessions/{WATCHED}")
        of_session.page.locator(".ladder .item").first.wait_for()
        of_session.watch(WARM_UP)
        span = max(20.0, seconds * SHARE_OF_SESSION)
        session = of_session.watch(span)
        complaints += of_session.sitting.complaints
        of_session.sitting.close()
        version = browser.version
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "processors": len(os.sched_getaffinity(0)),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "chromium": version,
            "load_at_the_end": os.getloadavg()[0],
        },
        "long": seconds >= LONG,
        "sessions": SESSIONS,
        "events_a_second": RATE,
        "messages_a_second": MESSAGES,
        "filter_ms": spread(searches),
        "searches_before": begun,
        "list": described(watch, seconds),
        "session": described(session, span),
        "complaints": complaints,
    }


def document(results: dict[str, Any]) -> str:
    """The page of docs."""
    machine, of_list, of_session = results["machine"], results["list"], results["session"]
    short = "" if results["long"] else f"**Provisional**: {of_list['seconds']:.0f} s in place of {LONG:.0f} s.\n\n"

    def row(title: str, goal: str, figures: dict[str, Any]) -> str:
        values = " | ".join(str(figures[name]) for name in ("p50", "p95", "p99", "worst"))
        return f"| {title} | {goal} | {values} | {figures['count']:,} |"

    def steady(title: str, page: dict[str, Any]) -> str:
        heap, nodes, server = page["heap_mb"], page["nodes"], page["server_mb"]
        used = " | ".join(f"{page['processors'][name]:.2f}" for name in ("gateway", "dashboard", "browser"))
        return (
            f"| {title} | {page['seconds']:.0f} | {heap[0]} → {heap[-1]} ({min(heap)} to {max(heap)}) | "
            f"{page['heap_growth_mb_a_minute']:+} | {nodes[0]:,} → {nodes[-1]:,} | {server[0]} → {server[-1]} | "
            f"{page['frames_a_second']} | {page['longest_frame_ms']} | {used} |"
        )

    return "\n".join(
        [
            "# The dashboard's page under load",
            "",
            "Written by `python -m benchmarks.dashboard` from `benchmarks/results/dashboard.json`: "
            f"{results['sessions']:,} sessions, of which {results['events_a_second']:,} a second move, and "
            f"{results['messages_a_second']:,} messages of IKE beside; gateway, dashboard and "
            "Chromium share the machine.",
            "",
            f"{short}{results['date']}, {machine['processors']} processors, {machine['platform']}, Python "
            f"{machine['python']}, Chromium {machine['chromium']}; load {machine['load_at_the_end']:.1f}.",
            "",
            "| milliseconds | goal, p95 | median | p95 | p99 | worst | number |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            row("key press to painted rows of a search", f"{GOALS['filter_p95_ms']:.0f}", results["filter_ms"]),
            row("record to paint, list of sessions", f"{GOALS['list_p95_ms']:.0f}", of_list["paint_ms"]),
            row("record to paint, one session's page", f"{GOALS['session_p95_ms']:.0f}", of_session["paint_ms"]),
            "",
            "| page | seconds | heap after collection, MB | growth, MB a minute | nodes | server's memory, MB | "
            "frames a second | longest frame, ms | processors: gateway | dashboard | browser |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            steady("list of sessions", of_list),
            steady("one session", of_session),
            "",
        ]
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=LONG)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=DOCUMENT)
    arguments = parser.parse_args()
    if arguments.seconds:
        results = measured(arguments.seconds)
        arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(arguments.results.read_text(encoding="utf-8"))
    arguments.page.write_text(document(results), encoding="utf-8")
    print(document(results))


if __name__ == "__main__":
    main()
