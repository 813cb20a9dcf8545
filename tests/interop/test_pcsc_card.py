"""A UE whose USIM is a card in a reader of the real pcscd: the reader is virtual (vsmartcard), the card the tests'."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aaa.subscribers.laboratory import laboratory_subscriber
from lab.namespaces import terminate
from protocols.algorithms.milenage import Milenage
from protocols.errors import BackendError
from protocols.io.configuration import load
from protocols.io.control import ControlError
from tests.harness.material import ROOT
from tests.nodes.scripted_aaa_world import EPDG_HOST, World
from tests.peers import aaa_node
from tests.peers.aaa_node import AaaProcess
from tests.peers.processes import find_program, require_file, require_program, wait_until
from tests.peers.usim_card import UsimCard, serve
from ue.config import UeConfiguration
from ue.profile import identified

pytestmark = [pytest.mark.peer, pytest.mark.root]

DRIVER = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
SOCKET = Path("/run/pcscd/pcscd.comm")
PORT = 35963  # vpcd's own
USER = laboratory_subscriber(1)


@contextlib.contextmanager
def readers(directory: Path) -> Iterator[None]:
    """pcscd with a virtual reader."""
    require_program("pcscd")
    require_file(DRIVER)
    if os.geteuid() != 0:
        pytest.skip("pcscd needs root")
    if SOCKET.exists():
        pytest.skip("another pcscd runs here")
    configuration = directory / "readers"
    configuration.mkdir()
    channel = f"0x{PORT:04X}"
    (configuration / "vpcd").write_text(
        f'FRIENDLYNAME "Virtual PCD"\nDEVICENAME /dev/null:{channel}\nLIBPATH {DRIVER}\nCHANNELID {channel}\n'
    )
    log = (directory / "pcscd.log").open("w")
    with log:
        process = subprocess.Popen(
            [str(find_program("pcscd")), "--foreground", "--config", str(configuration)], stdout=log, stderr=log
        )
    try:
        wait_until(
            lambda: SOCKET.exists() and _listens(), what="pcscd", timeout=10, log=(directory / "pcscd.log").read_text
        )
        yield
    finally:
        terminate(process)


def _listens() -> bool:
    """Looked up, not tried: the reader takes one card only."""
    lines = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    return any(
        line.split()[1].endswith(f":{PORT:04X}") and line.split()[3] == "0A" for line in lines[1:] if ":" in line
    )


def put_in(**values: Any) -> UsimCard:
    assert USER.opc is not None
    functions = Milenage(USER.k.reveal(), opc=USER.opc.reveal())
    return UsimCard(imsi=str(USER.imsi), functions=functions, **values)


async def attached(aaa: AaaProcess, usim: dict[str, Any]) -> World:
    peer = {"host": aaa_node.HOST, "address": "127.0.0.1", "port": aaa.port}
    diameter = {"host": EPDG_HOST, "realm": aaa_node.REALM, "peers": [peer]}
    world = World(
        aaa.directory,
        gateway={"diameter": diameter, "apns": {"internet": {"pool": "10.45.0.0/24"}, "ims": {"pool": "10.46.0.0/24"}}},
        ue={"usim": usim, "imsi": "", "eap": {"reauthentication": False}, "additional_pdns": {"ims": {}}},
    )
    world.servers = ()
    return world


def test_a_ue_attaches_by_the_card_in_a_reader(tmp_path: Path) -> None:
    pytest.importorskip("smartcard", reason="pyscard is not installed (the extra card)")
    aaa = AaaProcess(tmp_path)
    aaa.provision(USER)

    async def run(usim: dict[str, Any], held: UsimCard) -> None:
        world = await attached(aaa, usim)
        async with world:
            await world.event("peer-up", "epdg")
            await world.ue.attach()
            await world.ue.attach_others()  # two challenges, one card
            assert world.ue.configuration.imsi == str(USER.imsi)
            assert [session["state"] for session in world.ue.sessions()] == ["established"] * 2
            assert sum(command[1] == 0x88 for command in held.commands) == 2
            await world.ue.detach()
            held.pin = "9999"  # changed behind our back
            with pytest.raises(ControlError, match=r"the USIM failed: the card refuses the PIN; 2 attempt\(s\) left"):
                await world.ue.attach()

    with readers(tmp_path), aaa:
        held = put_in(pin="1234")
        with serve(held, PORT):
            wait_until(lambda: _refusal(tmp_path, {"reader": 0, "pin": "1234"}) is None, what="card", timeout=10)
            held.commands.clear()
            asyncio.run(run({"card": {"reader": "Virtual PCD", "pin": "1234"}}, held))
            assert "there is no reader 'Gemalto'; known are Virtual PCD" in str(
                _refusal(tmp_path, {"reader": "Gemalto"})
            )
        wait_until(lambda: "no card" in str(_refusal(tmp_path, {"reader": 0})), what="card out", timeout=10)
    assert "no PC/SC service answers (is pcscd running?)" in str(_refusal(tmp_path, {"reader": 0}))


def _refusal(directory: Path, card: dict[str, object]) -> str | None:
    """What the UE says to a reader; ``None`` when it takes the card."""
    values = yaml.safe_load((ROOT / "ue" / "example.yaml").read_text())
    del values["imsi"]
    values["gateway"]["revocation"] = "off"  # which YAML 1.1 has as false
    file = directory / "reader.yaml"
    file.write_text(yaml.safe_dump({**values, "usim": {"card": card}}))
    try:
        identified(load(file, UeConfiguration))
    except BackendError as refused:
        return str(refused)
    return None
