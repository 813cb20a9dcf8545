"""docker-compose.yml and its configuration files: each loads, and they agree with one another."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from aaa.command_line import application as aaa_application
from aaa.config import AaaConfiguration
from aaa.subscribers import SubscriberDatabase
from dashboards.config import DashboardsConfig
from dashboards.tokens import Role, Tokens
from epdg.config import EpdgConfiguration
from lab.namespaces import AccessTopology
from protocols.io.configuration import load
from protocols.threegpp.identity import Imsi
from ue.config import UeConfiguration

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE = ROOT / "docker-compose.yml"
MODELS: dict[str, type[BaseModel]] = {
    "aaa": AaaConfiguration,
    "dashboards": DashboardsConfig,
    "epdg": EpdgConfiguration,
    "ue": UeConfiguration,
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as the file has them, with its anchors resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


@pytest.fixture(scope="module")
def aaa() -> AaaConfiguration:
    return load(DOCKER / "aaa.yaml", AaaConfiguration)


@pytest.fixture(scope="module")
def epdg() -> EpdgConfiguration:
    return load(DOCKER / "epdg.yaml", EpdgConfiguration)


@pytest.fixture(scope="module")
def ue() -> UeConfiguration:
    return load(DOCKER / "ue.yaml", UeConfiguration)


@pytest.mark.parametrize("node", sorted(MODELS))
def test_every_node_has_a_file_that_loads_and_a_service_that_reads_it(node: str, services: dict[str, Any]) -> None:
    load(DOCKER / f"{node}.yaml", MODELS[node])
    assert services[node]["command"] == [node, "serve", "-c", f"/etc/epdg-emulator/{node}.yaml"]
    assert "./docker:/etc/epdg-emulator:ro" in services[node]["volumes"]


def test_the_gateways_example_loads_and_shows_the_defaults() -> None:
    example = load(ROOT / "epdg" / "example.yaml", EpdgConfiguration)
    assert example.certificate is not None
    defaults = load(DOCKER / "epdg.yaml", EpdgConfiguration)
    for section in ("ike", "trace"):
        assert getattr(example, section) == getattr(defaults, section)
    assert example.diameter.request_interval == defaults.diameter.request_interval
    assert (example.data_plane.device, example.data_plane.mtu) == (defaults.data_plane.device, defaults.data_plane.mtu)


def test_addresses_are_those_of_the_services(
    services: dict[str, Any], aaa: AaaConfiguration, epdg: EpdgConfiguration, ue: UeConfiguration
) -> None:
    assert str(aaa.listen.address) == _address(services, "aaa", "core")
    (peer,) = epdg.diameter.peers
    assert (peer.address, peer.port or peer.transport.port, peer.host) == (
        aaa.listen.address,
        aaa.listen.port,
        aaa.identity.host,
    )
    assert epdg.diameter.realm == aaa.identity.realm
    (swu,) = epdg.listen.addresses
    assert services["epdg"]["environment"]["ADDRESSES"] == f"lo={swu}/32"
    gateway = ue.gateway
    assert (gateway.address, gateway.ike_port, gateway.nat_traversal_port) == (
        swu,
        epdg.listen.ike_port,
        epdg.listen.nat_traversal_port,
    )
    assert str(ue.accesses["wifi-a"].address) == _address(services, "ue", "access-a")
    assert str(ue.accesses["wifi-b"].address) == _address(services, "ue", "access-b")


def test_routes_lead_from_each_access_to_the_gateway_and_from_the_core_to_the_ues(
    services: dict[str, Any], epdg: EpdgConfiguration, ue: UeConfiguration
) -> None:
    towards_gateway = {
        f"{ue.gateway.address}/32 via {_address(services, 'epdg', network)} from {_address(services, 'ue', network)}"
        for network in ("access-a", "access-b")
    }
    assert set(services["ue"]["environment"]["ROUTES"].split(", ")) == towards_gateway
    back = {f"{pool} via {_address(services, 'epdg', 'core')}" for apn in epdg.apns.values() for pool in apn.pool}
    assert set(services["aaa"]["environment"]["ROUTES"].split(", ")) == back
    into_the_tunnel = [ip_network(str(route)) for route in ue.data_plane.routes]
    assert any(ip_address(_address(services, "aaa", "core")) in route for route in into_the_tunnel)
    assert not any(ue.gateway.address in route for route in into_the_tunnel)


def test_every_address_lies_in_its_network_and_is_nobody_elses(services: dict[str, Any]) -> None:
    networks = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["networks"]
    taken = [
        (name, ip_address(placed["ipv4_address"]))
        for service in services.values()
        for name, placed in service.get("networks", {}).items()
    ]
    for name, address in taken:
        assert address in ip_network(networks[name]["ipam"]["config"][0]["subnet"])
    assert len({address for _, address in taken}) == len(taken)


def test_the_dashboard_finds_every_nodes_control_socket(
    aaa: AaaConfiguration, epdg: EpdgConfiguration, ue: UeConfiguration
) -> None:
    dashboards = load(DOCKER / "dashboards.yaml", DashboardsConfig)
    found = {node.kind: node.control for node in dashboards.nodes}
    assert found == {"aaa": aaa.control, "epdg": epdg.control, "ue": ue.control}
    assert not dashboards.open_to_read


def test_prometheus_scrapes_the_dashboard_by_a_token_of_its_own(services: dict[str, Any], tmp_path: Path) -> None:
    dashboards = load(DOCKER / "dashboards.yaml", DashboardsConfig)
    text = (DOCKER / "prometheus.yaml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["scrape_configs"]
    address = _address(services, "dashboards", "core")
    assert job["static_configs"] == [{"targets": [f"{address}:{dashboards.listen.port}"]}]
    token = job["authorization"]["credentials_file"]
    viewer = services["viewer"]
    assert viewer["environment"]["UNLESS"] == token
    volume = f"tokens:{Path(token).parent}"
    assert dashboards.tokens is not None
    assert dashboards.tokens.parent == Path(token).parent
    assert volume in services["dashboards"]["volumes"]
    assert f"{volume}:ro" in services["prometheus"]["volumes"]

    shell, option, script = viewer["command"]
    changed = tmp_path / "dashboards.yaml"
    changed.write_text((DOCKER / "dashboards.yaml").read_text().replace(str(Path(token).parent), str(tmp_path)))
    script = script.replace(str(Path(token).parent), str(tmp_path)).replace(
        "/etc/epdg-emulator/dashboards.yaml", str(changed)
    )
    script = script.replace("dashboards token", f"{sys.executable} -m dashboards token")
    subprocess.run([shell, option, script], check=True, cwd=ROOT)
    (made,) = Tokens(tmp_path / "tokens.json").all()
    assert made.role is Role.VIEWER
    assert (tmp_path / "prometheus").read_text().strip()

    promtool = shutil.which("promtool")
    if promtool is not None:
        checked = tmp_path / "prometheus.yaml"
        checked.write_text(text.replace(token, str(tmp_path / "prometheus")))
        result = subprocess.run([promtool, "check", "config", checked], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_grafana_finds_prometheus_and_the_dashboards(services: dict[str, Any]) -> None:
    grafana, folder = services["grafana"], ROOT / "dashboards" / "grafana"
    (source,) = yaml.safe_load((folder / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "${PROMETHEUS_URL}"
    assert grafana["environment"]["PROMETHEUS_URL"] == f"http://{_address(services, 'prometheus', 'core')}:9090"
    (provider,) = yaml.safe_load((folder / "provisioning/dashboards/epdg.yaml").read_text())["providers"]
    assert f"./dashboards/grafana:{provider['options']['path']}:ro" in grafana["volumes"]
    assert "./dashboards/grafana/provisioning:/etc/grafana/provisioning:ro" in grafana["volumes"]


def test_the_subscriber_service_provisions_the_ues_usim(
    services: dict[str, Any], ue: UeConfiguration, epdg: EpdgConfiguration, tmp_path: Path
) -> None:
    node, *words = shlex.split(services["subscriber"]["command"])
    assert node == "aaa"
    database = f"sqlite:///{tmp_path / 'aaa.db'}"
    at = words.index("-c")
    words[at : at + 2] = ["--database", database]
    for _ in range(2):  # every `docker-compose up` runs it again
        result = CliRunner().invoke(aaa_application, words)
        assert result.exit_code == 0, result.output
    with SubscriberDatabase(database) as opened:
        subscriber = opened.get(Imsi(ue.imsi))
    assert subscriber is not None
    assert (subscriber.k, subscriber.opc) == (ue.usim.k, ue.usim.opc)
    assert {str(held.apn) for held in subscriber.apns} == set(epdg.apns)


def test_the_certificate_is_made_where_gateway_and_ue_look_for_it(
    services: dict[str, Any], epdg: EpdgConfiguration, ue: UeConfiguration
) -> None:
    *words, directory = services["pki"]["command"]
    assert words == ["epdg", "pki", "init"]
    assert epdg.certificate is not None
    assert (str(epdg.certificate.chain), str(epdg.certificate.key)) == (
        f"{directory}/gateway.pem",
        f"{directory}/gateway.key",
    )
    assert str(ue.gateway.ca) == f"{directory}/ca.pem"
    assert services["pki"]["environment"]["UNLESS"] == str(epdg.certificate.chain)


def test_the_entrypoint_becomes_the_command_unless_its_work_is_done(tmp_path: Path) -> None:
    done = tmp_path / "gateway.pem"
    command = [sys.executable, str(DOCKER / "entrypoint.py"), "sh", "-c", "echo made; exit 3"]
    environment = {"PATH": os.environ["PATH"], "UNLESS": str(done)}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (first.returncode, first.stdout) == (3, "made\n"), first.stderr
    done.touch()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stdout) == (0, f"{done} exists already\n"), second.stderr


@pytest.mark.root
def test_the_entrypoint_sets_addresses_and_routes(stage: AccessTopology) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "ADDRESSES": "lo=10.9.9.9/32",
        "ROUTES": "10.88.0.0/16 via 10.77.1.1, 10.99.0.1/32 via 10.77.1.1 from 10.77.1.2",
    }
    shown = "ip -brief address show lo; ip route show; ip rule show; ip route show table 101"
    enter = ["nsenter", f"--net={stage.ue.path}", "--"]
    command = [*enter, sys.executable, str(DOCKER / "entrypoint.py"), "sh", "-c", shown]
    for _ in range(2):  # a container may start again with what it has
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert "10.9.9.9/32" in result.stdout
    assert "10.88.0.0/16 via 10.77.1.1" in result.stdout
    assert result.stdout.count("from 10.77.1.2 lookup 101") == 1
    assert "\n10.99.0.1 via 10.77.1.1" in result.stdout


def test_docker_compose_accepts_the_file() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    result = subprocess.run([program, "-f", COMPOSE, "config", "-q"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def _address(services: Mapping[str, Any], service: str, network: str) -> str:
    address = services[service]["networks"][network]["ipv4_address"]
    assert isinstance(address, str)
    return address
