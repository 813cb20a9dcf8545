"""What every suite shares: times against budgets (``tests/budgets.py``), and the stage of namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.namespaces import AccessTopology
from tests.peers.certificates import CertificateAuthority
from tests.peers.namespaces import namespaces

pytest_plugins = ["tests.budgets"]


@pytest.fixture
def stage() -> Iterator[AccessTopology]:
    """The access topology in network namespaces; skips without root."""
    with namespaces() as topology:
        yield topology


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    """One certification authority for the whole run."""
    return CertificateAuthority()
