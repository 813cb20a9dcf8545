"""``docs/sgi.md`` is followed: its commands, in its order, with its configuration, on a machine of the test's own."""

from __future__ import annotations

import asyncio
import shlex
import socket
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from typer.testing import CliRunner

from epdg.command_line import app
from epdg.config import EpdgConfiguration
from epdg.core import Core
from lab.namespaces import Namespace
from protocols.dataplane.userspace.tun import TunDevice
from protocols.entropy import SeededEntropy
from protocols.io.configuration import load
from protocols.io.nftables import NfTables
from protocols.io.sysctl import FORWARDING, read_sysctl
from tests.harness.guides import blocks, commands, example_with, guide
from tests.peers.namespaces import require_namespaces

BLOCKS = blocks(guide("sgi"))
COMMANDS = [shlex.split(line)[1:] for line in commands(BLOCKS[:1])]
(CONFIGURATION,) = [block.text for block in BLOCKS if (block.language, block.of) == ("yaml", "epdg")]


@pytest.mark.root
def test_the_guide_leads_to_a_gateway_that_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_namespaces()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "epdg.yaml").write_text(example_with("epdg", CONFIGURATION), encoding="utf-8")
    assert [words[0] for words in COMMANDS] == ["doctor", "pki", "doctor", "doctor"]
    with Namespace("machine", ipv6=True) as machine, Namespace("ims") as ims:
        machine.connect("ims0", ims, "eth0")
        machine.add_address("ims0", IPv4Interface("192.0.2.1/24"))

        def listening() -> socket.socket:
            return socket.create_server(("127.0.0.1", 3868))

        with machine.call(listening):
            for words in COMMANDS:
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
