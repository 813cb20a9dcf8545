"""Which backend carries a node's ESP by its configuration, and what its user is told: refusals, `status`, the log."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from epdg.config import EpdgConfiguration
from epdg.profile import data_plane_needs as gateways_needs
from protocols.dataplane.choice import CannotBeHad, choose
from protocols.dataplane.fast.plane import available
from protocols.dataplane.port import Backend
from protocols.errors import ConfigurationError
from protocols.io.configuration import parse
from tests.harness.refusals import without_line
from tests.nodes.scripted_aaa_world import World
from tests.nodes.test_node_configuration import NODES, changed, example
from ue.config import UeConfiguration
from ue.profile import data_plane_needs as ues_needs

TUN = {"kind": "tun", "backend": "auto"}
PLAIN = {"a": {"address": "127.0.2.1"}}
NEXT_HOP = {"a": {"address": "127.0.2.1", "next_hop": "127.0.9.1"}}
DEAF = {"a": {"address": "127.0.2.1", "hears": False}}
OF_ITS_OWN = {"ims": {"data_plane": {**TUN, "device": "ue1", "dscp": 46}}}
IN_PROCESS = {"ims": {"data_plane": {"kind": "in-process"}}}


def written(node: str, **changes: Any) -> str:
    """The example with other sections."""
    text = example(node)
    plain = {"accesses": PLAIN} if node == "ue" else {}
    for key, value in {**plain, **changes}.items():
        parts = {f"{key}.{name}": each for name, each in value.items()} if key == "data_plane" else {key: value}
        for dotted, each in parts.items():
            text = changed(text, dotted, json.dumps(each))
    return text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_plane": {"kind": "in-process"}}, "data_plane.kind of internet is in-process"),
        ({"data_plane": TUN, "accesses": NEXT_HOP}, "access a has a next hop or does not hear"),
        ({"data_plane": TUN, "accesses": DEAF}, "access a has a next hop or does not hear"),
        (
            {"data_plane": TUN, "additional_pdns": OF_ITS_OWN},
            "data_plane of ims has another dscp, outer_mtu or clamp_mss",
        ),
        ({"data_plane": TUN, "additional_pdns": IN_PROCESS}, "data_plane.kind of ims is in-process"),
    ],
    ids=["in-process", "next hop", "deaf", "another policy", "another in-process"],
)
def test_a_ue_for_python_alone(changes: dict[str, Any], reason: str) -> None:
    """``auto`` takes Python and says why; whoever names another backend is told at once."""
    choice = choose("auto", ues_needs(parse(written("ue", **changes), UeConfiguration)))
    assert choice.backend is Backend.PYTHON
    assert choice.refused == {Backend.KERNEL: reason, Backend.COMPILED: reason}
    assert choice.remark == f"ESP is carried by Python ({reason})."
    if changes["data_plane"]["kind"] == "tun":
        for backend in ("kernel", "compiled"):
            plane = {**changes["data_plane"], "backend": backend}
            line = refusal("ue", **{**changes, "data_plane": plane})
            assert line == f"f: data_plane.backend: got '{backend}', expected auto or python ({reason})"


def refusal(node: str, **changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(written(node, **changes), NODES[node], file="f")
    return without_line(caught.value)


def test_a_gateway_with_hosts_in_the_process_is_for_python_alone() -> None:
    needs = gateways_needs(parse(written("epdg", data_plane={"kind": "in-process"}), EpdgConfiguration))
    assert choose("auto", needs).remark == "ESP is carried by Python (data_plane.kind is in-process)."


@pytest.mark.parametrize("backend", ["kernel", "compiled"])
@pytest.mark.parametrize("node", sorted(NODES))
def test_a_backend_that_hosts_in_the_process_cannot_have(node: str, backend: str) -> None:
    line = refusal(node, data_plane={"kind": "in-process", "backend": backend})
    assert line.startswith(f"f: data_plane.backend: got '{backend}', expected auto or python where ")
    assert line.endswith("kind is in-process")


def test_a_backend_of_one_pdn_connection_alone() -> None:
    other = {"ims": {"data_plane": {"kind": "tun", "device": "ue1", "backend": "compiled"}}}
    line = refusal("ue", data_plane={"kind": "tun", "backend": "python"}, additional_pdns=other)
    key = "additional_pdns.ims.data_plane.backend"
    assert line == f"f: {key}: got 'compiled', expected the backend of the first data_plane"


def test_a_device_in_another_namespace_is_not_for_the_kernel() -> None:
    """Whatever kernel it is; of all the connections' devices."""
    phone = {**TUN, "namespace": "phone"}
    for changes in ({"data_plane": phone}, {"data_plane": TUN, "additional_pdns": {"ims": {"data_plane": phone}}}):
        needs = ues_needs(parse(written("ue", **changes), UeConfiguration))
        reason = "data_plane.namespace: phone: its device is where the node runs"
        with pytest.raises(CannotBeHad, match=f"data_plane.backend: kernel cannot be had: {reason}"):
            choose(Backend.KERNEL, needs)
        assert choose("auto", needs).refused[Backend.KERNEL] == reason


@pytest.mark.parametrize(("node", "command"), [("epdg", "serve"), ("ue", "run"), ("ue", "attach")])
def test_a_backend_that_cannot_be_had_is_refused_at_the_start(node: str, command: str, tmp_path: Path) -> None:
    """No kernel has so small an ``outer_mtu``: one line, exit status 2, nothing left open."""
    file = tmp_path / f"{node}.yaml"
    text = written(node, data_plane={"kind": "tun", "backend": "kernel", "outer_mtu": 1300})
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", node, command, "-c", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"{file}: data_plane.backend: got 'kernel', expected auto, or a backend that can be had (")
    assert "outer_mtu" in line


@pytest.mark.skipif(not available(), reason="the fast data plane was not built")
@pytest.mark.parametrize("backend", ["compiled", "auto"])
def test_a_libcrypto_without_the_suites(backend: str, tmp_path: Path) -> None:
    """One that is configured without algorithms: the compiled loop is refused with the names of what it lacks."""
    without = tmp_path / "openssl.cnf"
    without.write_text("openssl_conf=a\n[a]\nproviders=b\n[b]\nnull=c\n[c]\nactivate=1\n", encoding="utf-8")
    script = (
        "from protocols.dataplane.choice import Needs, why_not\n"
        "from protocols.dataplane.port import Backend\n"
        "from protocols.esp.tunnel import DEFAULT_POLICY\n"
        "from protocols.ikev2.suites import EspSuite\n"
        "suites = tuple(map(EspSuite.of, ('aes256gcm16-x25519', 'aes256gcm16', 'aes128-sha256', 'null-aesxcbc')))\n"
        "print(why_not(Backend.COMPILED, Needs(suites=suites, policy=DEFAULT_POLICY)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "OPENSSL_CONF": str(without)},
    )
    assert done.stdout == "this libcrypto lacks aes128-sha256, aes256gcm16, null-aesxcbc\n"


def test_status_says_what_carries_esp(tmp_path: Path) -> None:
    """Both nodes' command, for people and as JSON."""

    def asked(node: str, *words: str) -> str:
        command = [sys.executable, "-m", node, "status", "-c", str(tmp_path / f"{node}.yaml"), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    async def body() -> None:
        async with World(tmp_path):
            for node, reason in (
                ("epdg", "data_plane.kind is in-process"),
                ("ue", "data_plane.kind of internet is in-process"),
            ):
                said = f"ESP is carried by Python ({reason})."
                assert said in (await asyncio.to_thread(asked, node)).splitlines()
                shown = json.loads(await asyncio.to_thread(asked, node, "--json"))["data_plane"]
                refused = {"kernel": reason, "compiled": reason}
                assert shown == {"backend": "python", "refused": refused, "remark": said}
            lines = (await asyncio.to_thread(asked, "epdg")).splitlines()
            assert lines[1] == "sessions: 0, half open: 0"
            assert lines[-1] == "dropped: nothing"

    asyncio.run(body())
