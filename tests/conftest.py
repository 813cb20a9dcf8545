"""What every suite shares: times against budgets (``tests/budgets.py``), and the stage of namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.namespaces import AccessTopology
from tests.peers import evidence
from tests.peers.certificates import CertificateAuthority
from tests.peers.namespaces import namespaces
from tests.peers.processes import find_program

pytest_plugins = ["tests.budgets", "tests.peers.guest", "tests.side_by_side", "tests.second_attempt"]


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
