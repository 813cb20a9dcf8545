"""BEET mode between our own ends, with the traffic of a kernel inside; root."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lab.namespaces import Namespace
from protocols.dataplane.userspace.host import ECHO_PORT
from tests.nodes.test_bare_esp import World, opened
from tests.peers.epdg_node import CORE_HOST
from tests.peers.namespaces import ping
from tests.peers.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

# tshark takes the packets for transport mode, whose checksums are over the outer addresses: it is not shown the inside
SEALED = {"export_keys": False}
ASKING: dict[str, object] = {"child_sa": {"mode": "beet", "remote_host": CORE_HOST}, "trace": SEALED}
ALLOWING: dict[str, object] = {"ike": {"allow_beet": True}, "trace": SEALED}
TEXT = bytes(range(256)) * 400


def child(world: World, *, gateway: bool) -> dict[str, object]:
    """The child SA as one end shows it."""
    answer = world.gateway.call("sessions.list", state="established") if gateway else world.ue.call("ue.status")
    session = answer["sessions"][0]  # type: ignore[index]
    found = session["child_sas"][0]  # type: ignore[index,call-overload]
    assert isinstance(found, dict)
    return dict(found)


def saved(world: World, *, gateway: bool) -> int:
    counters = child(world, gateway=gateway)["counters"]
    assert isinstance(counters, dict)
    octets = counters["overhead_saved_octets"]
    packets = counters["inbound_packets"] + counters["outbound_packets"]
    assert octets == 20 * packets  # an IPv4 header each
    return int(octets)


def echoed(namespace: Namespace) -> bytes:
    """What comes back from the TCP echo service of the host behind the gateway."""

    def talk() -> bytes:
        with socket.create_connection((CORE_HOST, ECHO_PORT), timeout=10) as connection:
            received = b""
            for start in range(0, len(TEXT), 10_000):
                connection.sendall(TEXT[start : start + 10_000])
                while len(received) < min(start + 10_000, len(TEXT)):
                    received += connection.recv(65536)
            return received

    return namespace.call(talk)


def test_ping_and_tcp_through_it_before_and_after_a_move_and_a_rekey(tmp_path: Path) -> None:
    """The kernel's own packets come out whole, checksums and all, though their headers were never sent."""
    with opened(tmp_path, gateway=ALLOWING, ue=ASKING) as world:
        world.ue.call("ue.attach", access="a")
        for end in (True, False):
            assert child(world, gateway=end)["mode"] == "beet"
        assert ping(world.stage.ue, CORE_HOST).received == 3
        assert echoed(world.stage.ue) == TEXT
        before = saved(world, gateway=True)
        assert min(before, saved(world, gateway=False)) > 100 * 20
        world.stage.translate()
        world.ue.call("ue.move", to="b")
        world.until(True)
        assert echoed(world.stage.ue) == TEXT
        assert saved(world, gateway=True) > before
        old = child(world, gateway=True)["inbound_spi"]
        world.ue.call("ue.rekey-child")
        wait_until(lambda: child(world, gateway=True)["inbound_spi"] != old, what="another child SA", timeout=10.0)
        assert echoed(world.stage.ue) == TEXT
        assert child(world, gateway=True)["mode"] == "beet"
        # what would have to be in fragments inside is not carried
        assert ping(world.stage.ue, CORE_HOST, count=1, size=3000, wait=0.3).received == 0


def test_a_gateway_that_does_not_allow_it_has_a_tunnel(tmp_path: Path) -> None:
    with opened(tmp_path, ue=ASKING) as world:
        world.ue.call("ue.attach", access="a")
        for end in (True, False):
            assert child(world, gateway=end)["mode"] == "tunnel"
        assert ping(world.stage.ue, CORE_HOST).received == 3
