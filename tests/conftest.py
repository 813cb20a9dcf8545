"""What every suite shares: times against budgets (``tests/budgets.py``), and the stage of namespaces."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from lab.namespaces import AccessTopology
from tests.peers import evidence
from tests.peers.certificates import CertificateAuthority
from tests.peers.namespaces import namespaces
from tests.peers.processes import find_program

pytest_plugins = ["tests.budgets", "tests.peers.guest", "tests.side_by_side", "tests.second_attempt"]


def pytest_configure(config: pytest.Config) -> None:
    """What one run generates, every run does; ``--long`` looks for what none has yet."""
    settings.register_profile("alike", derandomize=True)
    if not config.getoption("--long"):
        settings.load_profile("alike")


@pytest.fixture(autouse=True)
def _the_log_is_given_back() -> Iterator[None]:
    """A command that serves has the process's log, and writes to a stream that ends with its test."""
    root = logging.getLogger()
    before, level = tuple(root.handlers), root.level
    yield
    for handler in tuple(root.handlers):
        if type(handler) is logging.StreamHandler and handler not in before:  # not pytest's own, which derive from it
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def stage() -> Iterator[AccessTopology]:
    """The access topology in network namespaces; skips without root."""
    with namespaces() as topology:
        yield topology


@pytest.fixture(scope="session", autouse=True)
def _every_capture_is_judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What our nodes sent in all tests, and what ``lab demo`` has captured, before tshark."""
    yield
    demos = [file.parent for file in sorted(tmp_path_factory.getbasetemp().rglob("result.json"))]
    written = [directory for directory in demos if (directory / evidence.CAPTURE_FILE).exists()]
    if find_program("tshark") is None or not (evidence.KEPT or written):
        return
    found = list(evidence.complaints(tmp_path_factory.mktemp("evidence"), written))
    assert not found, "tshark: " + "\n".join(found[:20])


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    """One certification authority for the whole run."""
    return CertificateAuthority()
