"""A UE as a process that finds its gateway by DNS, leaves dead ones, and is redirected to a name."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocols.io.configuration import load
from protocols.io.control import ControlError, call_sync
from protocols.trace.records import TraceRecord
from tests.nodes.test_ue_node import BARRED, GATEWAY, IKE_PORT, TIMEOUT, Change, Ue, section, session
from tests.nodes.test_ue_node import aaa as aaa
from tests.nodes.test_ue_node import epdg as epdg
from tests.peers.aaa_node import AaaProcess
from tests.peers.dns_server import DnsServer, Zone
from tests.peers.epdg_node import FQDN, EpdgProcess
from tests.peers.processes import wait_until
from ue.command_line import application
from ue.config import UeConfiguration
from ue.runtime import UeNode

OTHER, SILENT_GATEWAY, CLOSED = "127.0.41.2", "127.0.41.3", "127.0.41.4"
OTHER_NAME = "gw2.operator.example"
VISITED = "epdg.epc.mnc012.mcc345.pub.3gppnetwork.org"
COUNTRY = "epdg.epc.mcc345.visited-country.pub.3gppnetwork.org"
ZONE: Zone = {
    FQDN: [("A", SILENT_GATEWAY), ("A", CLOSED), ("A", GATEWAY), ("AAAA", "2001:db8::1")],
    OTHER_NAME: [("A", CLOSED), ("A", OTHER)],
    COUNTRY: [("NAPTR", f'100 999 "" "" "" {VISITED}.')],
    VISITED: [("A", "192.0.2.12"), ("AAAA", "2001:db8::12")],
}


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer(ZONE) as server:
        yield server


def selecting(dns: DnsServer, **selection: object) -> Change:
    """No address, but a way to find it."""

    def change(values: dict[str, object]) -> None:
        gateway = section(values, "gateway")  # type: ignore[arg-type]
        del gateway["address"]
        gateway["selection"] = {"patience": 0.4, **selection}  # type: ignore[dict-item]
        values["dns"] = dns.section
        values["redirect"] = {"obey": "authenticated"}

    return change


@contextlib.contextmanager
def nobody_answers(address: str) -> Iterator[None]:
    """A port that takes everything and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((address, IKE_PORT))
        yield


def test_the_gateway_is_found_by_name_and_a_redirect_to_a_name_is_followed(
    aaa: AaaProcess, epdg: EpdgProcess, dns: DnsServer, tmp_path: Path
) -> None:
    """The first address is silent, at the second nobody listens (ICMP), the third serves."""
    ue = Ue(tmp_path, epdg.authority, change=selecting(dns))
    with nobody_answers(SILENT_GATEWAY), ue.node("serve", state="established"):
        assert session(ue)["gateway"] == f"{GATEWAY}:{IKE_PORT}"
        text = ue.log.read_text()
        assert f"{FQDN} has {SILENT_GATEWAY}, {CLOSED}, {GATEWAY}." in text
        assert f"{SILENT_GATEWAY} ({FQDN}) is not used: no response from the gateway" in text
        assert f"{CLOSED} ({FQDN}) is not used: ICMP says that it cannot be reached." in text
        assert f"The gateway {GATEWAY} ({FQDN}) is tried: the home network." in text
        selected = section(section(session(ue), "selection"), "gateway")
        assert selected == {"address": GATEWAY, "name": FQDN, "why": "the home network"}
        seconds = section(session(ue), "attach")["seconds"]
        assert isinstance(seconds, float)
        assert 0.4 <= seconds < 5.0
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "pki").symlink_to(epdg.directory / "pki")
        with EpdgProcess(tmp_path / "other", aaa.port, address=OTHER) as other:
            (before,) = epdg.sessions(state="established")
            call_sync(epdg.control, "sessions.redirect", id=before["id"], gateway=OTHER_NAME)
            wait_until(
                lambda: bool(other.sessions(state="established")),
                what="the other gateway",
                timeout=TIMEOUT,
                log=ue.log.read_text,
            )
            assert not epdg.sessions(state="established")
            assert f"sends the UE to {OTHER_NAME} (established)" in ue.log.read_text()
            ue.call("ue.detach")


def test_when_no_gateway_serves_the_sentence_lists_them(dns: DnsServer, epdg: EpdgProcess, tmp_path: Path) -> None:
    def closed(values: dict[str, object]) -> None:
        selecting(dns, configured=[CLOSED, "absent.example"], configured_use="only")(values)

    done = Ue(tmp_path, epdg.authority, change=closed).command("attach", "-c", str(tmp_path / "ue.yaml"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert f"{CLOSED}: ICMP says that it cannot be reached; absent.example: no address" in line


def test_the_decision_is_shown_without_an_attach(dns: DnsServer, tmp_path: Path) -> None:
    registered = {"mcc": "345", "mnc": "12"}
    ue = Ue(tmp_path, tmp_path / "ca.pem", change=selecting(dns, registered=registered))
    done = CliRunner().invoke(application, ["select", "-c", str(ue.configuration)])
    assert (done.exit_code, done.stderr) == (0, "")
    why = "the network that the UE is registered in, among those that the visited country demands"
    assert done.stdout.splitlines() == [
        "A gateway is being selected abroad (MCC 345, registered in 345-12): by country.",
        "The country 345 demands a gateway of 345-012.",
        f"{VISITED} has 192.0.2.12.",
        f"1. 192.0.2.12 ({VISITED}): {why}",
    ]
    shown = json.loads(CliRunner().invoke(application, ["select", "-c", str(ue.configuration), "--json"]).stdout)
    assert shown["candidates"] == [{"address": "192.0.2.12", "name": VISITED, "why": why}]


def test_no_gateway_to_be_found(dns: DnsServer, tmp_path: Path) -> None:
    ue = Ue(tmp_path, tmp_path / "ca.pem", change=selecting(dns, configured=["absent.example"], configured_use="only"))
    done = CliRunner().invoke(application, ["select", "-c", str(ue.configuration)])
    assert done.exit_code == 1
    assert "The gateway absent.example is not used: no address." in done.stdout
    assert done.stderr == "no gateway was found\n"


def test_a_refusal_for_good_ends_the_attempts_of_a_node_that_serves(epdg: EpdgProcess, tmp_path: Path) -> None:
    """NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED: not before the UE is switched off and on (TS 24.302 §7.2.2.2)."""
    with Ue(tmp_path, epdg.authority, subscriber=BARRED).node("serve", state="closed") as ue:
        wait_until(
            lambda: "does not attach again by itself" in ue.log.read_text(),
            what="the end of the attempts",
            timeout=TIMEOUT,
            log=ue.log.read_text,
        )
        assert "after NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED nobody is asked until" in ue.log.read_text()
        assert ue.call("ue.status")["state"] == "closed"


def test_the_pace_of_a_node_is_the_one_configured(tmp_path: Path) -> None:
    """Measured by the trace of a node in this process: from the end of an attempt to the next request.

    When it has given up, somebody's command begins anew.
    """

    def quickly(values: dict[str, object]) -> None:
        values["retry"] = {"intervals": [0.1, 0.3], "give_up_after": 4}
        values["gateway"] = {"selection": {"configured": [CLOSED], "configured_use": "only"}, "eap_only": True}
        values["accesses"] = {"wifi": {"address": "127.0.41.61", "ike_port": 0, "nat_traversal_port": 0}}

    ue = Ue(tmp_path, tmp_path / "ca.pem", change=quickly)
    node = UeNode(load(ue.configuration, UeConfiguration))
    moments: dict[str, list[float]] = {"gateway-selected": [], "retry": [], "no-retry": []}

    def take(record: TraceRecord) -> None:
        name = str(record.body.get("name"))
        if name in moments:
            moments[name].append(record.monotonic)
        if name == "no-retry":
            given_up.set()
        elif name == "retry" and given_up.is_set():
            node.stop()

    async def story() -> None:
        running = asyncio.create_task(node.run(node.stay_attached))
        await given_up.wait()
        with pytest.raises(ControlError, match="ICMP"):
            await node.attach()
        await running

    given_up = asyncio.Event()
    node.recorder.subscribe(take)
    asyncio.run(asyncio.wait_for(story(), TIMEOUT))
    begun, failed = moments["gateway-selected"], moments["retry"]
    waits = [start - end for start, end in zip(begun[1:4], failed, strict=False)]
    assert (len(begun), len(failed)) == (5, 4)
    for wait, wanted in zip(waits, [0.1, 0.3, 0.3], strict=True):
        assert wanted - 0.02 <= wait < wanted + 0.5  # a busy machine writes the record after the wait has begun
    assert len(moments["no-retry"]) == 1
