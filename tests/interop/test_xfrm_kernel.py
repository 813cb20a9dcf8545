"""The kernel's data plane under a kernel that has ESP: contract, traffic, moves, events, leftovers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.namespaces import Namespace
from protocols.dataplane.port import DataPlane
from protocols.dataplane.xfrm.backend import XfrmDataPlane
from tests.dataplane.test_contract import TestDataPlaneContract as DataPlaneContract

pytestmark = [pytest.mark.peer, pytest.mark.guest]


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    with Namespace("plane") as namespace:
        made = namespace.call(XfrmDataPlane)
        yield made
        made.close()


class TestKernelContract(DataPlaneContract):
    """The contract of every data plane."""
