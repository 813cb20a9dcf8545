"""Debian's kernel without its module xfrm_interface: what came out of IPsec is told by nftables' ``ipsec`` alone.

user-mode-linux has no XFRM interfaces either, but no nftables to see this with.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.interop.test_xfrm_carrier import TestEgress, TestSpoofing, TestTraffic, stage
from tests.interop.test_xfrm_interfaces import TestEgressByDirection
from tests.peers.xfrm_carriers import Stage, carriers

__all__ = ["TestEgress", "TestEgressByDirection", "TestSpoofing", "TestTraffic", "stage"]

pytestmark = [pytest.mark.peer, pytest.mark.guest("debian")]


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    subprocess.run(["modprobe", "-r", "xfrm_interface"], check=True)
    with carriers() as made:
        yield made


def test_there_are_none(stage: Stage) -> None:
    assert not stage.ue_device.comes_in_by_it
    assert not stage.gateway_device.comes_in_by_it
    assert stage.gateway.plane.if_id == 0
