"""``docs/sgi.md`` is followed: its commands, in its order, with its configuration, on a machine of the test's own."""

from __future__ import annotations

import asyncio
import re
import shlex
import socket
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from typer.testing import CliRunner

from epdg.__main__ import app
from epdg.config import EpdgConfiguration
from epdg.core import Core
from lab.namespaces import Namespace
from protocols.dataplane.userspace.tun import TunDevice
from protocols.entropy import SeededEntropy
from protocols.io.configuration import load
from protocols.io.nftables import NfTables
from protocols.io.sysctl import FORWARDING, read_sysctl
from tests.peers.namespaces import require_namespaces

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "sgi.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = [text for language, _, text in BLOCK.findall(GUIDE) if language == "sh"]
(CONFIGURATION,) = [text for language, of, text in BLOCK.findall(GUIDE) if (language, of) == ("yaml", "epdg")]


def with_the_guides_keys(example: str) -> str:
    """The example with the guide's sections in place of its own."""
    ours = {line.partition(":")[0] for line in CONFIGURATION.splitlines() if line[0].isalpha()}
    kept, key = [], ""
    for line in example.splitlines(keepends=True):
        if line[0].isalpha():
            key = line.partition(":")[0]
        if key not in ours:
            kept.append(line)
    return "".join(kept) + CONFIGURATION


@pytest.mark.root
def test_the_guide_leads_to_a_gateway_that_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_namespaces()
    monkeypatch.chdir(tmp_path)
    example = (ROOT / "epdg" / "example.yaml").read_text("utf-8")
    (tmp_path / "epdg.yaml").write_text(with_the_guides_keys(example), encoding="utf-8")
    commands = [shlex.split(line.partition(" #")[0]) for line in SHELL[0].splitlines()]
    assert [command[1] for command in commands] == ["doctor", "pki", "doctor", "doctor"]
    with Namespace("machine", ipv6=True) as machine, Namespace("ims") as ims:
        machine.connect("ims0", ims, "eth0")
        machine.add_address("ims0", IPv4Interface("192.0.2.1/24"))

        def listening() -> socket.socket:
            return socket.create_server(("127.0.0.1", 3868))

        with machine.call(listening):
            for command in commands:
                words = command[1:]
                done = machine.call(lambda words=words: CliRunner().invoke(app, words))  # type: ignore[misc]
                assert done.exit_code == 0, done.output
                assert "missing" not in done.stdout
        assert "packets of APN ims go on by ims0" in done.stdout
        machine.call(lambda: asyncio.run(opened(load(tmp_path / "epdg.yaml", EpdgConfiguration))))


async def opened(configuration: EpdgConfiguration) -> None:
    """Its network behind the gateway comes up and goes again."""
    core = Core(configuration.data_plane, configuration.apns, lambda packet: None, SeededEntropy(1))
    try:
        await core.open(TunDevice.open, lambda error: None, lambda: None)
        assert [read_sysctl(key) for key in FORWARDING.values()] == ["1", "1"]
        assert NfTables().comment("epdg-epdg0")
    finally:
        core.close()
    assert [read_sysctl(key) for key in FORWARDING.values()] == ["0", "0"]
    assert NfTables().comment("epdg-epdg0") is None
