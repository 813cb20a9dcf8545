"""Our UE at a charon whose ESP is the kernel's: bare ESP and BEET mode, which its userspace ESP refuses.

``python -m tests.peers.kernel_charon`` under a kernel with ESP; what happened goes to standard output as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence

from lab.namespaces import ACCESS_A, ACCESS_B, GATEWAY, GATEWAY_INTERFACE, HOST_BEHIND_GATEWAY, access_topology
from protocols.trace.records import JsonValue
from tests.interop.test_ue_strongswan_mobike import ACCESS6, GATEWAY6, TABLE_B, dual_stack
from tests.peers.namespaces import ping
from tests.peers.processes import wait_until
from tests.peers.strongswan import KERNEL_PLUGINS
from tests.peers.ue_at_strongswan import WAIT, Bench, Terms, UeAtCharon, bench, children, part, ue_configuration

TERMS = Terms(addresses=(GATEWAY.ip, GATEWAY6), selectors=(f"{HOST_BEHIND_GATEWAY}/32",))
BEET = Terms(addresses=TERMS.addresses, selectors=TERMS.selectors, mode="beet")
ASKING = {"mode": "beet", "remote_host": str(HOST_BEHIND_GATEWAY)}
SETTINGS = {"interfaces_use": GATEWAY_INTERFACE, "send_vendor_id": "yes"}
PINGS = 5


@contextlib.contextmanager
def opened() -> Iterator[Bench]:
    with access_topology() as stage:
        dual_stack(stage)
        stage.ue.run(["ip", "route", "add", "default", "via", str(ACCESS_B.router.ip), "table", TABLE_B], timeout=5)
        stage.ue.run(["ip", "rule", "add", "from", str(ACCESS_B.address.ip), "table", TABLE_B], timeout=5)
        with bench(stage, TERMS, SETTINGS, KERNEL_PLUGINS) as made:
            yield made


def seen(ue: UeAtCharon) -> dict[str, JsonValue]:
    """The child SA as it is, after echo requests that were answered, or not.

    charon moves an SA of the kernel's by taking it out and putting it back: the first ones may be lost.
    """

    def answered(count: int) -> int:
        source = ue.inner_address()
        return ping(ue.stage.ue, HOST_BEHIND_GATEWAY, source=source, count=count).received

    wait_until(lambda: answered(1), what="an echo through the tunnel", timeout=WAIT)
    received = answered(PINGS)
    session = ue.session()
    (child,) = children(session)
    counters = part(child, "counters")
    return {
        "answered": received,
        "encapsulation": child["encapsulation"],
        "mode": child["mode"],
        "remote": part(child, "path")["remote"],
        "saved": counters["overhead_saved_octets"],
        "packets": [counters["inbound_packets"], counters["outbound_packets"]],
    }


def story(gateway: Bench, terms: Terms, moves: Sequence[str], child_sa: Mapping[str, str]) -> dict[str, JsonValue]:
    """Attach by IPv4, move, rekey."""
    gateway.grant(terms)
    accesses = ue_configuration()["accesses"]
    assert isinstance(accesses, dict)
    found: dict[str, JsonValue] = {}
    with gateway.ue(accesses={**accesses, "wifi-v6": {"address": ACCESS6}}, child_sa=child_sa) as ue:
        ue.attach()
        found["attached"] = seen(ue)
        for access in moves:
            ue.move(access)
            gateway.charon.wait_established(remote=_address(access))
            found[access] = seen(ue)
        before = str(children(ue.session())[0]["inbound_spi"])
        ue.node.call("ue.rekey-child")
        ue.wait_single_child(other_than=(before,))
        found["rekeyed"] = seen(ue)
        served = gateway.status()
        found["charon"] = [child.mode for child in served.installed]
    return found


def _address(access: str) -> str:
    return {"wifi-a": str(ACCESS_A.address.ip), "wifi-b": str(ACCESS_B.address.ip), "wifi-v6": ACCESS6}[access]


def main() -> dict[str, JsonValue]:
    """Everything, one after the other."""
    with opened() as gateway:
        return {
            "bare": story(gateway, TERMS, ("wifi-b", "wifi-v6", "wifi-a"), {}),
            "beet": story(gateway, BEET, ("wifi-b", "wifi-v6"), ASKING),
            "refused": story(gateway, TERMS, (), ASKING),
        }


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = main()
    json.dump(result, sys.stdout)
    print()
