"""Tests under a kernel that has IPsec ESP, booted once for a file: those marked ``guest`` in user-mode-linux.

``guest("debian")`` are those for Debian's kernel in QEMU, which has XFRM interfaces and nftables where the other has
not, and takes minutes: they are ``long``. ``guest("uml", "debian")`` run under both, once each (``-k debian`` picks).

On the host such a test is a ``GuestTest``, whose outcome is that of the same test in the guest: none of its fixtures is
set up here. ``guest(limit=SECONDS)`` gives a file another time than the usual one. A second attempt of one that failed
boots another guest, for that test and those that the first one has not come to. In the guest, where
``INKERNEL_RESULTS`` names the file to report to, it is an ordinary test. Everything in the guest is root's, and gone at
its end. Without what the kernel runs in the tests skip, and say so.
"""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.peers.processes import require_program

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protocols", "epdg", "aaa", "ue", "lab", "tests")
IN_KERNEL = ROOT / "tests" / "peers" / "inkernel.sh"
RESULTS = "INKERNEL_RESULTS"
SECONDS = "seconds_in_the_guest"  # a property in a report of JUnit's kind: there, the first test has all the time
PLUGINS = ("no:cacheprovider", "pytest_timeout", "tests.peers.guest")
MODULES = (
    *("xfrm_user", "esp4", "esp6", "veth", "dummy"),
    *("authenc", "authencesn", "echainiv", "seqiv", "jitterentropy_rng", "drbg"),
    *("cbc", "ctr", "ecb", "gcm", "ccm", "hmac", "cmac", "xcbc", "sha512_generic", "des_generic", "ghash-generic"),
    *("chacha20poly1305", "chacha_generic", "poly1305_generic"),
)
FILTERS = ("nf_tables", "nft_chain_nat", "nft_ct", "nft_masq", "nft_xfrm", "xfrm_interface")
BOOTS_MAXIMUM = 4  # of a file: more second attempts than these allow fail the run
Boot = tuple[Path, str]  # a file, and the kernel that its tests run under
OUTCOMES = pytest.StashKey[dict[Boot, dict[str, dict[str, Any]]]]()
BOOTS = pytest.StashKey[Counter[Boot]]()


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What a guest runs in; ``limit`` in seconds, on a busy machine: the first test of a file waits for all of it."""

    programs: tuple[str, ...]
    modules: tuple[str, ...]
    limit: int


KERNELS = {
    "uml": Kernel(programs=("linux.uml", "insmod"), modules=MODULES, limit=240),
    "debian": Kernel(
        programs=("qemu-system-x86_64", "busybox", "cpio", "insmod"), modules=(*MODULES, *FILTERS), limit=1200
    ),
}
WORDS = {"uml": "uml", "debian": "qemu"}  # of inkernel.sh
DEBIAN_KERNEL = Path(os.environ.get("INKERNEL_IMAGE", ROOT / ".venv" / "debian-kernel"))


class GuestTest(pytest.Item):
    """What a test in the guest has come to."""

    def __init__(self, *, original: pytest.Item, kernel: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.original = original
        self.kernel = kernel
        self.attempted = False
        self.own_markers = list(original.own_markers)
        self.keywords.update(original.keywords)
        self.add_marker(pytest.mark.timeout(self.limit + 30))
        if kernel == "debian":
            self.add_marker("long")

    @property
    def limit(self) -> int:
        """Seconds for all tests of the file."""
        usual = KERNELS[self.kernel].limit
        return max(int(mark.kwargs.get("limit", usual)) for mark in self.iter_markers("guest"))

    def runtest(self) -> None:
        """Fail or skip as the test did."""
        require_program(*KERNELS[self.kernel].programs)
        if self.kernel == "debian" and not (DEBIAN_KERNEL / "boot").is_dir():
            pytest.skip(f"{DEBIAN_KERNEL} is not there (make test-long fetches it)")
        boot, boots = (self.path, self.kernel), self.config.stash[BOOTS]
        outcomes = self.config.stash[OUTCOMES].setdefault(boot, {})
        if not boots[boot] or (self.attempted and boots[boot] < BOOTS_MAXIMUM):
            boots[boot] += 1
            guests = [item for item in self.session.items if isinstance(item, GuestTest)]
            mine = [item for item in guests if (item.path, item.kernel) == boot]
            chosen = [each for each in mine if each is self or each.original.nodeid not in outcomes]
            names, limit = [item.original.nodeid for item in chosen], max(item.limit for item in mine)
            outcomes |= _boot(names, self.kernel, limit, self.config)
        self.attempted = True
        outcome = outcomes.get(self.original.nodeid)
        if outcome is None:
            pytest.fail(f"the guest has not run it:\n{outcomes['']['text']}", pytrace=False)
        self.user_properties.append((SECONDS, outcome["seconds"]))
        if outcome["outcome"] == "skipped":
            pytest.skip(f"in the guest: {outcome['text']}")
        if outcome["outcome"] == "failed":
            pytest.fail(outcome["text"], pytrace=False)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.original.reportinfo()


def _boot(chosen: list[str], kernel: str, limit: int, config: pytest.Config) -> dict[str, dict[str, Any]]:
    """Run tests in the guest; outcomes by node identifier, and what it printed under the empty one."""
    directory = config._tmp_path_factory.mktemp("guest")  # type: ignore[attr-defined] # the factory of tmp_path
    results = directory / "results.jsonl"
    (directory / "chosen").write_text("\n".join(chosen))
    # Nothing but what such tests need: every import takes its time there.
    plugins = [word for name in PLUGINS for word in ("-p", name)]
    words = [sys.executable, "-m", "pytest", "-q", "--noconftest", *plugins, f"@{directory / 'chosen'}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    if kernel == "debian":  # compiled here: emulated, each process of each test would take minutes for it
        for package in PACKAGES:
            compileall.compile_dir(ROOT / package, quiet=2)
    # All at once, and no more of them: for each algorithm the kernel would start modprobe twice.
    program = f'modprobe -a {" ".join(KERNELS[kernel].modules)} && echo >/proc/sys/kernel/modprobe && exec "$@"'
    done = subprocess.run(
        [IN_KERNEL, "-k", WORDS[kernel], "-t", str(limit), "-w", directory, "sh", "-c", program, "sh", *words],
        cwd=ROOT,
        env={**environment, RESULTS: str(results), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=limit + 5,
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
    config.addinivalue_line("markers", "guest(*kernels, limit): runs under kernels with ESP: uml (default), debian")
    config.stash[OUTCOMES], config.stash[BOOTS] = {}, Counter()
    if RESULTS in os.environ:
        config.addinivalue_line("markers", "long: chosen on the host")
        config.pluginmanager.register(GuestReporter(Path(os.environ[RESULTS])), "guest-reporter")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if RESULTS in os.environ:
        return
    items[:] = [made for item in items for made in _for_guest(item)]


def _for_guest(item: pytest.Item) -> list[pytest.Item]:
    marker = item.get_closest_marker("guest")
    if marker is None or item.parent is None:
        return [item]
    kernels: tuple[str, ...] = marker.args or ("uml",)
    names = {each: item.name if each == "uml" else f"{item.name}@{each}" for each in kernels}
    return [
        GuestTest.from_parent(item.parent, name=name, original=item, kernel=kernel) for kernel, name in names.items()
    ]
