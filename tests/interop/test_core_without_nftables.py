"""The gateway's core, and the laboratory, on a kernel without nftables: Debian's user-mode-linux has no family inet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.processes import require_program

ROOT = Path(__file__).resolve().parents[2]
IN_KERNEL = ROOT / "tests" / "peers" / "inkernel.sh"
LIMIT = 60


@pytest.mark.peer
def test_routed_apns_go_on_and_others_are_refused() -> None:
    require_program("linux.uml", "insmod")
    done = subprocess.run(
        [IN_KERNEL, "-t", str(LIMIT), sys.executable, "-m", "tests.peers.core_without_nftables"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT + 10,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {
        "routed": "1",
        "masqueraded": "the kernel has no nftables, which the egress of APN internet needs",
        "afterwards": "0",
    }
    assert "the kernel has no nftables: UEs are not kept from one another" in done.stderr


@pytest.mark.long
@pytest.mark.peer
def test_a_schedule_behind_nftables_is_refused_in_one_line() -> None:
    require_program("linux.uml", "insmod")
    words = ["-m", "lab", "run", "nat-reboot", "--stage", "namespaces", "--nat", "nftables"]
    done = subprocess.run(
        [IN_KERNEL, "-t", str(LIMIT), sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT + 10,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "the kernel has no NAT by nftables here (nftables: Operation not supported); --nat lab needs none\n"
    )
