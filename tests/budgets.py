"""The time of each suite, a directory under ``tests/``, printed against its budget after every run.

A suite over its budget is named so; with ``--strict-budgets`` it also fails the run. ``--long`` runs what is
marked ``long`` too (soaks, broad fuzzing), which the budgets leave out. Guests and then the suites of the largest
budgets run first: workers side by side take files in this order, and what is left at the end is small.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
BUDGETS = {  # seconds of two workers side by side; all of them together are seventeen minutes of the clock
    "browser": 290.0,
    "codecs": 20.0,
    "dataplane": 60.0,
    "fleet": 100.0,
    "fuzz": 90.0,
    "interop": 650.0,
    "machines": 90.0,
    "media": 15.0,
    "nodes": 660.0,
    "vectors": 15.0,
    "virtual": 70.0,
}
DEFAULT_BUDGET = 20.0
FILES_SHOWN = 16  # those that took longest


@dataclass(eq=False)  # plugins are hashed
class SuiteTimes:
    """Durations and outcomes per suite, gathered from the reports."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    files: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    tests: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    strict: bool = False
    long: bool = False

    @staticmethod
    def suite(node_id: str) -> str:
        """The directory under ``tests/`` that a test lies in; a file right under it is its own suite."""
        file = Path(node_id.split("::", 1)[0])
        parts = file.parts[1:] if file.parts[:1] == ("tests",) else file.parts
        return parts[0] if parts else "tests"

    def over_budget(self) -> tuple[str, ...]:
        """The suites that took longer than they may."""
        return tuple(
            suite for suite, seconds in sorted(self.seconds.items()) if seconds > BUDGETS.get(suite, DEFAULT_BUDGET)
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        suite = self.suite(report.nodeid)
        self.seconds[suite] += report.duration
        self.files[report.nodeid.partition("::")[0].removeprefix("tests/")] += report.duration
        if report.when == "call" or report.outcome == "skipped":
            self.tests[suite] += 1
        if report.outcome == "skipped":
            self.skipped[suite] += 1
        elif report.outcome == "failed":
            self.failed[suite] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.strict and not self.long and self.over_budget() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.seconds:
            return
        terminalreporter.section("suites")
        over = set() if self.long else set(self.over_budget())
        for suite, seconds in sorted(self.seconds.items()):
            budget = BUDGETS.get(suite, DEFAULT_BUDGET)
            line = f"{suite:<14} {seconds:8.1f} s of {budget:5.0f} s  {self.tests[suite]:5d} tests"
            if self.skipped[suite]:
                line += f", {self.skipped[suite]} skipped"
            if self.failed[suite]:
                line += f", {self.failed[suite]} failed"
            if suite in over:
                line += "  OVER BUDGET"
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"{'all':<14} {sum(self.seconds.values()):8.1f} s")
        if len(self.files) > FILES_SHOWN:
            longest = (
                f"{name} {seconds:.0f} s"
                for name, seconds in sorted(self.files.items(), key=lambda file: -file[1])[:FILES_SHOWN]
            )
            terminalreporter.write_line(f"longest files: {', '.join(longest)}")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("suites")
    group.addoption("--long", action="store_true", help="run the tests marked long too")
    group.addoption("--strict-budgets", action="store_true", help="fail when a suite is over its budget")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes; runs with --long only")
    times = SuiteTimes(strict=config.getoption("--strict-budgets"), long=config.getoption("--long"))
    config.pluginmanager.register(times, "suite-times")


def _small(item: pytest.Item) -> tuple[bool, float]:
    return item.get_closest_marker("guest") is None, -BUDGETS.get(SuiteTimes.suite(item.nodeid), DEFAULT_BUDGET)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_small)
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.get_closest_marker("long") is None]
