"""Tests under a kernel that has IPsec ESP: those marked ``guest`` run in user-mode-linux, booted once for a file.

On the host such a test is a ``GuestTest``, whose outcome is that of the same test in the guest: none of its fixtures is
set up here. In the guest, where ``INKERNEL_RESULTS`` names the file to report to, it is an ordinary test. Everything in
the guest is root's, and gone at its end. Without user-mode-linux the tests skip, and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.peers.processes import require_program

ROOT = Path(__file__).resolve().parents[2]
IN_KERNEL = ROOT / "tests" / "peers" / "inkernel.sh"
RESULTS = "INKERNEL_RESULTS"
LIMIT = 240  # seconds, on a busy machine; the first test of a file waits for all of it
PLUGINS = ("no:cacheprovider", "pytest_timeout", "tests.peers.guest")
MODULES = (
    *("xfrm_user", "esp4", "esp6", "veth", "dummy"),
    *("authenc", "authencesn", "echainiv", "seqiv", "jitterentropy_rng", "drbg"),
    *("cbc", "ctr", "ecb", "gcm", "ccm", "hmac", "cmac", "xcbc", "sha512_generic", "des_generic", "ghash-generic"),
    *("chacha20poly1305", "chacha_generic", "poly1305_generic"),
)
OUTCOMES = pytest.StashKey[dict[Path, dict[str, dict[str, Any]]]]()


class GuestTest(pytest.Item):
    """What a test in the guest has come to."""

    def __init__(self, *, original: pytest.Item, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._original = original
        self.own_markers = original.own_markers
        self.keywords.update(original.keywords)
        self.add_marker(pytest.mark.timeout(LIMIT + 30))

    def runtest(self) -> None:
        """Fail or skip as the test did."""
        require_program("linux.uml", "insmod")
        outcomes = self.config.stash[OUTCOMES]
        if self.path not in outcomes:
            mine = [item for item in self.session.items if isinstance(item, GuestTest) and item.path == self.path]
            chosen = [item.nodeid for item in mine]
            outcomes[self.path] = _boot(chosen, self.config)
        outcome = outcomes[self.path].get(self.nodeid)
        if outcome is None:
            pytest.fail(f"the guest has not run it:\n{outcomes[self.path]['']['text']}", pytrace=False)
        if outcome["outcome"] == "skipped":
            pytest.skip(f"in the guest: {outcome['text']}")
        if outcome["outcome"] == "failed":
            pytest.fail(outcome["text"], pytrace=False)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self._original.reportinfo()


def _boot(chosen: list[str], config: pytest.Config) -> dict[str, dict[str, Any]]:
    """Run tests in the guest; outcomes by node identifier, and what it printed under the empty one."""
    directory = config._tmp_path_factory.mktemp("guest")  # type: ignore[attr-defined] # the factory of tmp_path
    results = directory / "results.jsonl"
    (directory / "chosen").write_text("\n".join(chosen))
    # Nothing but what such tests need: every import takes its time there.
    plugins = [word for name in PLUGINS for word in ("-p", name)]
    words = [sys.executable, "-m", "pytest", "-q", "--noconftest", *plugins, f"@{directory / 'chosen'}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # All at once, and no more of them: for each algorithm the kernel would start modprobe twice.
    program = f'modprobe -a {" ".join(MODULES)} && echo >/proc/sys/kernel/modprobe && exec "$@"'
    done = subprocess.run(
        [IN_KERNEL, "-t", str(LIMIT), "-w", directory, "sh", "-c", program, "sh", *words],
        cwd=ROOT,
        env={**environment, RESULTS: str(results), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT + 5,
        check=False,
    )
    found: dict[str, dict[str, Any]] = {"": {"text": done.stdout + done.stderr}}
    for line in results.read_text().splitlines() if results.exists() else ():
        report = json.loads(line)
        if report["nodeid"] not in found or report["outcome"] != "passed":
            found[report["nodeid"]] = report
    return found


class GuestReporter:
    """In the guest: every outcome on a line of the file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        record = {"nodeid": report.nodeid, "outcome": report.outcome, "text": text, "seconds": report.duration}
        with self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guest: runs under user-mode-linux, whose kernel has ESP")
    config.stash[OUTCOMES] = {}
    if RESULTS in os.environ:
        config.pluginmanager.register(GuestReporter(Path(os.environ[RESULTS])), "guest-reporter")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if RESULTS in os.environ:
        return
    items[:] = [_for_guest(item) for item in items]


def _for_guest(item: pytest.Item) -> pytest.Item:
    if item.get_closest_marker("guest") is None or item.parent is None:
        return item
    made: pytest.Item = GuestTest.from_parent(item.parent, name=item.name, original=item)
    return made
