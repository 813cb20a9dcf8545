"""Inner IPv4, IPv6 and both through ``ue``, ``epdg`` and ``aaa`` as processes, in-process data plane, no root."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocols.io.control import ControlError
from protocols.io.evidence import write_evidence
from protocols.trace.records import JsonValue
from tests.nodes.test_ue_node import IKE_PORT, NATT_PORT, USER, Ue, section, session
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess
from tests.peers.processes import wait_until
from tests.peers.tshark import Tshark

GATEWAY, ACCESS = "127.0.51.1", "127.0.51.21"
CORE_4, CORE_6 = "10.99.0.1", "2001:db8:99::1"
P_CSCF = ["10.45.0.9", "2001:db8:45::9"]
INTERNET = {
    "pool": "10.45.0.0/24",
    "pool6": "2001:db8:45::/48",
    "dns": ["10.45.0.1", "2001:db8:45::1"],
    "p_cscf": P_CSCF,
    "requested_address": "required",
}


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER)
    with node:
        yield node


@dataclass(frozen=True, kw_only=True)
class Gateway:
    node: EpdgProcess

    def ue(self, directory: Path, **changes: object) -> Ue:
        """A UE on this gateway's loopback network."""

        def change(values: dict[str, object]) -> None:
            gateway = section(values, "gateway")  # type: ignore[arg-type]
            values["gateway"] = {**gateway, "address": GATEWAY}
            values["accesses"] = {"wifi": {"address": ACCESS, "ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}}
            values.update(changes)

        return Ue(directory, self.node.authority, change=change)


@pytest.fixture(scope="module")
def gateway(aaa: AaaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    def change(values: dict[str, object]) -> None:
        values["apns"] = {"internet": INTERNET, "ims": {"pool": "10.46.0.0/24"}}
        values["data_plane"] = {"hosts": [CORE_4, CORE_6]}
        values["ike"] = {
            "suites": ["aes128-sha256-x25519"],
            "esp_suites": ["aes128gcm16"],
            "application_version": "gateway under test",
            "ue_liveness_period": 77,
        }
        values["trace"] = {"export_keys": True}

    with EpdgProcess(tmp_path_factory.mktemp("epdg"), aaa.port, address=GATEWAY, changes=change) as node:
        yield Gateway(node=node)


def received(ue: Ue, destination: str, kind: str = "icmp") -> dict[str, JsonValue]:
    """A flow to a host behind the gateway, once it has had a few answers."""
    flow = ue.call("ue.traffic.start", kind=kind, destination=destination, rate=50)

    def answered() -> dict[str, JsonValue] | None:
        score = ue.call("ue.traffic.statistics", id=flow["id"])
        return score if isinstance(score["received"], int) and score["received"] >= 5 else None

    found = wait_until(answered, what=f"answers of {destination}", timeout=10.0, log=ue.log.read_text)
    ue.call("ue.traffic.stop", id=flow["id"])
    return found


def test_dual_stack_with_traffic_in_both_families(gateway: Gateway, tmp_path: Path) -> None:
    """SK {.., CP(IP4, IP6, ..), TSi, TSr} --> <-- SK {.., CP(IP4, IP6/64, ..), TSi = both, TSr = ::/0, 0.0.0.0/0}"""
    wanted = {"application_version": True, "supported_attributes": True}
    ue = gateway.ue(tmp_path, pdn_type="ipv4v6", request=wanted)
    with ue.node("attach", state="established"):
        held = session(ue)
        (inner_4, inner_6) = [str(address) for address in held["inner_addresses"]]  # type: ignore[union-attr]
        assert inner_4.startswith("10.45.0.")
        assert inner_6.startswith("2001:db8:45:")
        assert held["dns"] == INTERNET["dns"]
        assert held["p_cscf"] == P_CSCF
        assert (held["application_version"], held["liveness_period"]) == ("gateway under test", 77)
        assert 16390 in held["supported_attributes"]  # type: ignore[operator]
        for destination in (CORE_4, CORE_6):
            for kind in ("icmp", "udp"):
                assert received(ue, destination, kind)["received"]

        (known,) = gateway.node.sessions(state="established")
        assert known["inner_addresses"] == [inner_4, inner_6]
        (child,) = known["child_sas"]  # type: ignore[misc]
        assert len(child["remote_selectors"]) == len(child["local_selectors"]) == 2  # type: ignore[index,arg-type,call-overload]
        assert child["counters"]["bad_selector"] == 0  # type: ignore[index,call-overload]
        assert section(gateway.node.call("node.status"), "addresses_in_use") == {"internet": 2, "ims": 0}
    wait_until(
        lambda: section(gateway.node.call("node.status"), "addresses_in_use")["internet"] == 0,
        what="the addresses being given back",
        timeout=5.0,
    )


def test_ipv6_alone(gateway: Gateway, tmp_path: Path) -> None:
    done = gateway.ue(tmp_path, pdn_type="ipv6").command("attach", "--ping", CORE_6, "--count", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ping {CORE_6}: 2 sent, 2 received" in done.stdout


def test_an_apn_of_one_family_gives_that_and_says_so(gateway: Gateway, tmp_path: Path) -> None:
    """TS 24.302 §8.1.2.3: <-- SK {.., N(PDN_TYPE_IPv4_ONLY_ALLOWED)}"""
    ue = gateway.ue(tmp_path, pdn_type="ipv4v6", apn="ims")
    with ue.node("attach", state="established"):
        assert session(ue)["inner_addresses"] == ["10.46.0.2"]
    assert "; the network allows only IPv4." in ue.log.read_text()


def test_the_other_family_alone_is_refused_in_one_line(gateway: Gateway, tmp_path: Path) -> None:
    """RFC 7296 §3.15.4: <-- SK {N(INTERNAL_ADDRESS_FAILURE)}"""
    done = gateway.ue(tmp_path, pdn_type="ipv6", apn="ims").command("attach")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "the gateway has no inner address for the UE (INTERNAL_ADDRESS_FAILURE)" in done.stderr


def test_addresses_of_another_access_are_kept_or_the_attach_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    """TS 24.302 §7.2.2.1: handover; requested_address: required."""
    had = ["10.45.0.77", "2001:db8:45:7::abcd"]
    ue = gateway.ue(tmp_path, pdn_type="ipv4v6", request={"previous_addresses": had})
    with ue.node("attach", state="established"):
        assert session(ue)["inner_addresses"] == had
        received(ue, CORE_6)
    elsewhere = gateway.ue(tmp_path, request={"previous_addresses": ["192.0.2.1"]})
    done = elsewhere.command("attach")
    assert done.returncode == 1
    assert "INTERNAL_ADDRESS_FAILURE" in done.stderr


def test_p_cscf_restoration(gateway: Gateway, tmp_path: Path) -> None:
    """TS 23.380 §5.6.5: <-- INFORMATIONAL {CP(P_CSCF ..)}"""
    others = ["10.45.0.10", "2001:db8:45::10"]
    ue = gateway.ue(tmp_path, pdn_type="ipv4v6")
    with ue.node("attach", state="established"):
        (known,) = gateway.node.sessions(state="established")
        command = [sys.executable, "-m", "epdg", "restore-pcscf", str(known["id"]), *others]
        subprocess.run([*command, "-c", str(gateway.node.configuration)], check=True, timeout=30)
        wait_until(lambda: session(ue)["p_cscf"] == others, what="other P-CSCFs", timeout=5.0, log=ue.log.read_text)
        with pytest.raises(ControlError, match="addresses is a list of IP addresses"):
            gateway.node.call("sessions.restore-pcscf", id=known["id"], addresses=["somewhere"])
    assert "The network names other P-CSCFs: 10.45.0.10, 2001:db8:45::10" in ue.log.read_text()
    with pytest.raises(ControlError, match="no session"):
        gateway.node.call("sessions.restore-pcscf", id=known["id"], addresses=others)
    silent = gateway.ue(tmp_path, request={"p_cscf_reselection": False})
    with silent.node("attach", state="established"):
        (known,) = gateway.node.sessions(state="established")
        with pytest.raises(ControlError, match="P_CSCF_RESELECTION_SUPPORT"):
            gateway.node.call("sessions.restore-pcscf", id=known["id"], addresses=others)


@pytest.mark.peer
def test_tshark_reads_the_configuration_payloads(gateway: Gateway, tmp_path: Path) -> None:
    wanted = {"application_version": True, "supported_attributes": True, "p_cscf": ["rfc7651", "private-16384"]}
    ue = gateway.ue(tmp_path, pdn_type="ipv4v6", request=wanted)
    with ue.node("attach", state="established"):
        (inner_4, inner_6) = [str(address) for address in session(ue)["inner_addresses"]]  # type: ignore[union-attr]
        (known,) = gateway.node.sessions(state="established")
        gateway.node.call("sessions.restore-pcscf", id=known["id"], addresses=P_CSCF)
        wait_until(
            lambda: any("p-cscf-changed" in str(record.body.get("name")) for record in ue.records()),
            what="the restoration",
            timeout=5.0,
        )
        records = tuple(ue.records())
    write_evidence(tmp_path / "evidence", records)
    tshark = Tshark(tmp_path, tmp_path / "evidence/wireshark-profile")
    capture = tmp_path / "evidence/capture.pcapng"
    assert tshark.complaints(capture) == []
    address = "isakmp.cfg.attr.internal_ip{}_address"
    names = ("isakmp.cfg.type", address.format(4), address.format(6), f"{address.format(6)}.prefix")
    p_cscf = ("isakmp.cfg.attr.p_cscf_ip4_address", "isakmp.cfg.attr.p_cscf_ip6_address")
    rows = [row for row in tshark.fields(capture, (*names, *p_cscf)) if row["isakmp.cfg.type"]]
    asked, granted, restored, confirmed = rows
    assert [row["isakmp.cfg.type"] for row in rows] == [["1"], ["2"], ["1"], ["2"]]
    assert [granted[name] for name in names[1:]] == [[inner_4], [inner_6], ["64"]]
    for row, servers in ((asked, []), (granted, P_CSCF), (restored, P_CSCF), (confirmed, [])):
        assert [server for name in p_cscf for server in row[name]] == servers
