"""What carries ESP in our nodes, for tests that run on all of it: skipped, with the reason, where one is not there."""

from __future__ import annotations

import pytest

from protocols.dataplane.choice import Needs, why_not
from protocols.dataplane.port import Backend
from protocols.esp.tunnel import DEFAULT_POLICY


def require_backend(backend: Backend) -> None:
    """Skip where nodes could not have it."""
    reason = why_not(backend, Needs(policy=DEFAULT_POLICY))
    if reason is not None:
        pytest.skip(f"ESP is not carried by {backend.value} here: {reason}")
