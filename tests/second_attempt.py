"""Tests in real time get a second attempt: other programs and a shared machine take part in them.

A test of ``REAL_TIME`` that fails is played once more, with fixtures made anew, its module's among them. The summary
names it and why it failed; more than ``MAXIMUM`` in a run fail the run, since then it is not the machine. What runs on
virtual time has one attempt.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import cast

import pytest
from _pytest.nodes import Node
from _pytest.runner import runtestprotocol

REAL_TIME = frozenset({"browser", "dataplane", "fleet", "interop", "nodes"})
MAXIMUM = 3
PROPERTY = "first attempt"
TESTS = Path(__file__).resolve().parent


class _Outside:
    """What would come next if nothing of the item's module did: by it pytest knows which fixtures to end."""

    def __init__(self, item: pytest.Item) -> None:
        self._chain = list(takewhile(lambda node: not isinstance(node, pytest.Module), item.listchain()))

    def listchain(self) -> list[Node]:
        return self._chain


@dataclass(eq=False)  # plugins are hashed
class SecondAttempts:
    """Which tests needed one, gathered from the reports of all workers."""

    needed: dict[str, str] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not item.path.is_relative_to(TESTS) or item.path.relative_to(TESTS).parts[0] not in REAL_TIME:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = [report for report in reports if report.failed]
        if failed:
            item.user_properties.append((PROPERTY, f"{failed[0].when}: {_last_line(failed[0])}"))
            with suppress(Exception):  # the attempt has failed, whatever else it leaves
                item.session._setupstate.teardown_exact(cast(pytest.Item, _Outside(item)))
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY:
                self.needed[report.nodeid] = str(value)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if len(self.needed) > MAXIMUM and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.needed:
            return
        terminalreporter.section(f"second attempts (at most {MAXIMUM})")
        for test, why in sorted(self.needed.items()):
            terminalreporter.write_line(f"{test}  {why}")


def _last_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    return next(iter(text.strip().splitlines()), "no words")[:160]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SecondAttempts(), "second-attempts")
