"""Suites side by side: every worker of pytest-xdist in a network namespace of its own (root).

Tests bind fixed ports of loopback, and so two runs of them need two loopbacks. Where none can be made (no root, say)
``-n auto`` stands for one run after the other.
"""

from __future__ import annotations

import os

import pytest

from lab.namespaces import Namespace
from protocols.errors import BackendError

WORKERS_MAXIMUM = 4  # tests wait for one another's processes: more workers than cores gain nothing


def _namespaces_can_be_made() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        Namespace("probe").close()
    except BackendError:
        return False
    return True


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many workers as cores, where each can have a loopback of its own."""
    del config
    cores = len(os.sched_getaffinity(0))
    return min(cores, WORKERS_MAXIMUM) if cores > 1 and _namespaces_can_be_made() else 0


def pytest_configure(config: pytest.Config) -> None:
    """A worker goes into a namespace of its own, and what it starts comes after it."""
    if hasattr(config, "workerinput"):
        namespace = Namespace("worker", ipv6=True)  # let go of at the end of the process
        namespace.enter()
