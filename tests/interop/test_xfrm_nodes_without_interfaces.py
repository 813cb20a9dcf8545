"""Gateway and UE as processes under Debian's kernel without its module xfrm_interface: their devices are dummies."""

from __future__ import annotations

import subprocess

import pytest

from tests.interop.test_xfrm_nodes import test_attach_ping_move_rekey_detach, test_kill_9_and_again, world

__all__ = ["test_attach_ping_move_rekey_detach", "test_kill_9_and_again", "world"]

pytestmark = [pytest.mark.peer, pytest.mark.guest("debian", limit=1800), pytest.mark.timeout(800)]


@pytest.fixture(scope="module")
def device_kind() -> str:
    """A dummy leads packets to the policies."""
    subprocess.run(["modprobe", "-r", "xfrm_interface"], check=True)
    return "dummy"
