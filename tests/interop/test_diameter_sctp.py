"""Diameter over SCTP (RFC 6733 §2.1.1) under a kernel that has it: user-mode-linux, booted once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from protocols.diameter.events import CloseReason
from protocols.errors import ConfigurationError
from protocols.io.configuration import parse
from protocols.io.diameter.configuration import DiameterNodeSection, ListenSection
from protocols.io.diameter.sctp import has_sctp
from tests.harness.refusals import without_line
from tests.peers.processes import require_program

ROOT = Path(__file__).resolve().parents[2]
IN_KERNEL = ROOT / "tests" / "peers" / "inkernel.sh"
LIMIT = 90


@pytest.mark.peer
def test_our_nodes_talk_over_sctp() -> None:
    require_program("linux.uml", "insmod")
    program = f"modprobe sctp && exec {sys.executable} -m tests.peers.sctp_pair"
    done = subprocess.run(
        [IN_KERNEL, "-t", str(LIMIT), "sh", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT + 10,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["sctp"] is True
    for version in ("ipv4", "ipv6"):
        assert found[version] == {
            "echoed": True,
            "back": "epdg.epc.test",
            "transports": ["sctp"],
            "recorded": ["sctp"],
            "dropped": {},
            "ended": {CloseReason.DISCONNECT_REQUESTED.value: 1},
        }
    assert found["identifiers"] == [46, 46]
    assert found["deaf"]["served"] is True
    assert found["deaf"]["ended"] == {CloseReason.DISCONNECTED.value: 1}


@pytest.mark.skipif(has_sctp(), reason="this kernel has SCTP")
@pytest.mark.parametrize(
    ("text", "model", "line"),
    [
        (
            "{sctp_port: 3868}",
            ListenSection,
            "f: sctp_port: got 3868, expected a kernel with SCTP, which this one has not",
        ),
        (
            "peers: [{host: aaa.test, address: 192.0.2.1, transport: sctp}]",
            DiameterNodeSection,
            "f: peers.0.transport: got 'sctp', expected a kernel with SCTP, which this one has not",
        ),
    ],
)
def test_a_kernel_without_sctp_is_named(text: str, model: type[ListenSection], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, model, file="f")
    assert without_line(caught.value) == line
