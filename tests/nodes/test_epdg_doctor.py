"""``epdg doctor`` on machines that have what it takes and machines that have not: namespaces, with and without root."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from epdg.command_line import app
from epdg.pki import make_pki
from lab.namespaces import Namespace
from protocols.dataplane.xfrm.probe import probe
from protocols.io.nftables import NfTables
from protocols.io.sockets import BUFFER_OCTETS
from tests.harness.certificates import Authority
from tests.peers.namespaces import require_namespaces
from tests.peers.processes import require_program

FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
REALM = "epc.mnc001.mcc001.3gppnetwork.org"
ADDRESS = "192.0.2.1"
NOBODY = 65534
COMMAND_TIMEOUT = 30.0
CHECKS = {"data-plane", "ports", "buffers", "tun", "raw-sockets", "nftables", "forwarding", "clock"}
CONFIGURED = {"egress", "diameter", "certificate", "control"}

Findings = list[dict[str, str]]


def settings(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "plmn": {"mcc": "001", "mnc": "01"},
        "listen": {"addresses": [ADDRESS]},
        "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
        "diameter": {
            "host": f"epdg.{REALM}",
            "realm": REALM,
            "peers": [{"host": f"aaa.{REALM}", "address": ADDRESS}],
        },
        "apns": {"internet": {"pool": "10.45.0.0/24", "egress": "masqueraded", "egress_interface": "lo"}},
        "data_plane": {"kind": "tun"},
        "control": "epdg.sock",
    }
    return {**values, **changes}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Namespace]:
    """A machine that has everything: the address, an AAA server that accepts connections, certificates."""
    require_namespaces()
    make_pki(tmp_path / "pki", (FQDN, "internet"))
    with Namespace("machine", ipv6=True) as namespace:
        namespace.add_address("lo", f"{ADDRESS}/32")

        def listening() -> socket.socket:
            return socket.create_server((ADDRESS, 3868))

        with namespace.call(listening):
            yield namespace


def doctor(namespace: Namespace, directory: Path, **changes: object) -> tuple[int, Findings]:
    """Exit status and findings for the settings with changes."""
    file = directory / "epdg.yaml"
    file.write_text(yaml.safe_dump(settings(**changes)))
    result = namespace.call(lambda: CliRunner().invoke(app, ["doctor", "--json", "-c", str(file)]))
    answer = json.loads(result.stdout)
    assert answer["ok"] is (result.exit_code == 0)
    return result.exit_code, answer["findings"]


def missing(findings: Findings) -> Findings:
    return [each for each in findings if each["status"] == "missing"]


def interfaces(namespace: Namespace) -> set[str]:
    return namespace.call(lambda: {name for _, name in socket.if_nameindex()})


@pytest.mark.root
def test_a_machine_that_has_everything(machine: Namespace, tmp_path: Path) -> None:
    before = interfaces(machine)
    status, findings = doctor(machine, tmp_path)
    assert (status, missing(findings)) == (0, [])
    assert {each["check"] for each in findings} == CHECKS | CONFIGURED
    left = [each for each in findings if each["check"] not in ("clock", "data-plane")]
    assert all(each["status"] == "ok" and not each["remedy"] for each in left)
    *_, carried = (each for each in findings if each["check"] == "data-plane")
    assert carried["status"] == "ok"
    assert carried["why"].startswith("ESP is carried by ")
    assert carried["why"].endswith("behind it the kernel's network by the device epdg0")
    assert [each["why"] for each in findings if each["check"] == "egress"] == [
        "packets of APN internet go on by lo, masqueraded"
    ]
    assert interfaces(machine) == before
    assert machine.call(lambda: NfTables().comment("epdg-doctor")) is None


@pytest.mark.root
def test_the_kernel_is_wanted_to_carry_esp(machine: Namespace, tmp_path: Path) -> None:
    status, findings = doctor(machine, tmp_path, data_plane={"kind": "tun", "backend": "kernel"})
    found = machine.call(probe)
    carried = [each for each in findings if each["check"] == "data-plane"]
    if found.usable:
        assert status == 0
        assert carried[-1]["why"].startswith("ESP is carried by the kernel")
    else:
        assert status == 1
        assert [each["status"] for each in carried] == ["missing"]
        assert found.missing[0] in carried[0]["why"]


APN = {"pool": "10.45.0.0/24"}
PEER = {"host": f"aaa.{REALM}", "address": ADDRESS}


@pytest.mark.root
@pytest.mark.parametrize(
    ("changes", "check", "why"),
    [
        ({"listen": {"addresses": ["192.0.2.99"]}}, "ports", "192.0.2.99:500 cannot be bound"),
        (
            {"listen": {"addresses": [ADDRESS], "ike_port": 7500}},
            "ports",
            "7500 cannot be bound: Address already in use",
        ),
        ({"data_plane": {"kind": "tun", "device": "busy0"}}, "tun", "there is an interface busy0 already"),
        ({"apns": {"internet": {**APN, "egress_interface": "eth7"}}}, "egress", "leaves by eth7, which is not there"),
        (
            {"diameter": {"host": f"epdg.{REALM}", "realm": REALM, "peers": [{**PEER, "port": 3999}]}},
            "diameter",
            "cannot be reached: Connection refused",
        ),
        ({"plmn": {"mcc": "262", "mnc": "02"}}, "certificate", "does not name epdg.epc.mnc002.mcc262"),
        ({"certificate": {"chain": "pki/gateway.pem", "key": "pki/ca.key"}}, "certificate", "gateway.pem"),
        ({"certificate": {"chain": "pki/none.pem", "key": "pki/gateway.key"}}, "certificate", "No such file"),
        ({"certificate": {"chain": "pki/old.pem", "key": "pki/old.key"}}, "certificate", "has ended on 20"),
        ({"control": "nowhere/epdg.sock"}, "control", "nowhere/epdg.sock cannot be made"),
        (
            {
                "diameter": {
                    "host": f"epdg.{REALM}",
                    "realm": REALM,
                    "peers": [PEER],
                    "tls": {"chain": "pki/gateway.pem", "key": "pki/gateway.key", "authority": "pki/ca.pem"},
                }
            },
            "diameter-tls",
            f"does not name diameter.host epdg.{REALM}",
        ),
    ],
)
def test_what_is_missing_is_named_alone(
    machine: Namespace, tmp_path: Path, changes: dict[str, object], check: str, why: str
) -> None:
    machine.connect("busy0", machine, "busy1")
    expired(tmp_path / "pki")

    def occupied() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((ADDRESS, 7500))
        return opened

    with machine.call(occupied):
        status, findings = doctor(machine, tmp_path, **changes)
    found = missing(findings)
    assert status == 1
    assert {each["check"] for each in found} == {check}
    assert why in found[0]["why"]
    assert found[0]["remedy"]


def expired(directory: Path) -> None:
    """A certificate of yesterday's, with its key."""
    now = datetime.now(UTC)
    made = Authority().issue((FQDN, "internet"), begin=now - timedelta(days=9), end=now - timedelta(days=1))
    (directory / "old.pem").write_bytes(made.certificate.public_bytes(Encoding.PEM))
    (directory / "old.key").write_bytes(made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.root
def test_an_aaa_server_that_does_not_answer_and_an_apn_that_is_not_certified(
    machine: Namespace, tmp_path: Path
) -> None:
    """On demand, and for strongSwan's clients alone: neither is needed."""
    apns = {"ims": APN}
    peers = [PEER, {"host": f"other.{REALM}", "address": ADDRESS, "port": 3999, "on_demand": True}]
    status, findings = doctor(
        machine, tmp_path, apns=apns, diameter={"host": f"epdg.{REALM}", "realm": REALM, "peers": peers}
    )
    assert status == 0
    machines = ("clock", "data-plane")
    absent = [each for each in findings if each["status"] == "absent" and each["check"] not in machines]
    assert [each["check"] for each in absent] == ["diameter", "certificate"]
    assert "does not name the APN ims" in absent[1]["why"]


@pytest.mark.root
def test_a_kernel_that_does_not_forward_and_cannot_be_told(machine: Namespace, tmp_path: Path) -> None:
    """As in a container: ``/proc/sys`` is read-only."""
    (tmp_path / "epdg.yaml").write_text(yaml.safe_dump(settings()))
    words = [sys.executable, "-m", "epdg", "doctor", "-c", str(tmp_path / "epdg.yaml")]
    require_program("unshare", "mount")
    script = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
    done = machine.run(
        ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh", *words], timeout=COMMAND_TIMEOUT
    )
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("missing")]
    assert len(lines) == 1
    assert "net.ipv4.ip_forward is 0 and cannot be set from here. Set it before the start" in lines[0]


def unprivileged(*words: str) -> subprocess.CompletedProcess[str]:
    """``epdg doctor`` as nobody where we are root, else as we are."""
    command = [sys.executable, "-m", "epdg", "doctor", *words]
    if os.geteuid() == 0:
        require_program("setpriv")
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False, stdin=subprocess.DEVNULL
    )


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """One that everybody may look into, which pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        yield directory


def test_without_root_and_without_a_configuration() -> None:
    done = unprivileged("--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is True
    assert {each["check"] for each in answer["findings"]} == CHECKS
    absent = {each["check"] for each in answer["findings"] if each["status"] == "absent"}
    assert {"tun", "raw-sockets", "nftables"} <= absent
    assert all(each["remedy"] for each in answer["findings"] if each["status"] == "absent")


@pytest.mark.parametrize("key", ["rmem_max", "wmem_max"])
def test_buffers_are_as_large_as_the_machine_lets_them_be(key: str) -> None:
    """Without CAP_NET_ADMIN this machine's limit holds."""
    most = int(Path("/proc/sys/net/core", key).read_text())
    found = [each for each in json.loads(unprivileged("--json").stdout)["findings"] if each["check"] == "buffers"]
    short = [each for each in found if each["status"] == "absent" and f"net.core.{key}=" in each["remedy"]]
    assert [f"sockets get {most} of {BUFFER_OCTETS} octets" in each["why"] for each in short] == [True] * (
        most < BUFFER_OCTETS
    )


def test_without_root_in_plain_words() -> None:
    """What the user has to do stands in the line: rights for TUN, nothing for hosts in the process."""
    with open_directory() as directory:
        make_pki(directory / "pki", (FQDN, "internet"))
        (directory / "pki" / "gateway.key").chmod(0o644)
        listen = {"addresses": ["127.0.77.1"], "ike_port": 15000, "nat_traversal_port": 14500}
        with socket.create_server(("127.0.77.1", 3868)):
            peers = {"host": f"epdg.{REALM}", "realm": REALM, "peers": [{**PEER, "address": "127.0.77.1"}]}
            for plane, status in (({"kind": "in-process"}, 0), ({"kind": "tun"}, 1)):
                values = settings(listen=listen, diameter=peers, apns={"internet": APN}, data_plane=plane)
                (directory / "epdg.yaml").write_text(yaml.safe_dump(values))
                done = unprivileged("-c", str(directory / "epdg.yaml"))
                assert done.returncode == status, done.stdout + done.stderr
    wrong = [line for line in done.stdout.splitlines() if line.startswith("missing")]
    assert [line.split()[1] for line in wrong if "forwarding" not in line] == ["tun", "nftables"]
    assert all("CAP_NET_ADMIN" in line for line in wrong if "forwarding" not in line)


def test_a_configuration_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "epdg.yaml").write_text(yaml.safe_dump(settings(plmn={"mcc": "1", "mnc": "01"})))
    result = CliRunner().invoke(app, ["doctor", "-c", str(tmp_path / "epdg.yaml")])
    assert result.exit_code == 2
    assert "plmn.mcc" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
