"""Our UE at Debian's strongSwan with the kernel's ESP, in user-mode-linux: bare ESP (RFC 7296 §2.23) and BEET mode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from protocols.trace.records import JsonValue
from tests.peers.kernel_charon import PINGS
from tests.peers.processes import require_program
from tests.peers.strongswan import require_strongswan

pytestmark = [pytest.mark.peer, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
IN_KERNEL = ROOT / "tests" / "peers" / "inkernel.sh"
LIMIT = 220  # seconds; a boot, and three UEs one after the other
MODULES = ("xfrm_user", "esp4", "esp6", "veth")
IPV4_HEADER = 20


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, dict[str, JsonValue]]]:
    """What happened in the guest, which is booted once."""
    require_program("linux.uml", "insmod")
    require_strongswan()
    loading = "".join(f"modprobe {module} && " for module in MODULES)
    done = subprocess.run(
        [IN_KERNEL, "-t", str(LIMIT), "sh", "-c", f"{loading}exec {sys.executable} -m tests.peers.kernel_charon"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT + 10,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read: dict[str, dict[str, dict[str, JsonValue]]] = json.loads(done.stdout)
    return read


def test_bare_esp_with_moves_between_addresses_and_versions(found: dict[str, dict[str, dict[str, JsonValue]]]) -> None:
    """No NAT, so no UDP: IP protocol 50 both ways over IPv4 and IPv6, and after a rekey."""
    story = found["bare"]
    assert story.pop("charon") == ["TUNNEL"]
    assert list(story) == ["attached", "wifi-b", "wifi-v6", "wifi-a", "rekeyed"]
    for seen in story.values():
        assert (seen["answered"], seen["encapsulation"], seen["mode"]) == (PINGS, False, "tunnel")
    assert [str(seen["remote"]).startswith("[") for seen in story.values()] == [False, False, True, False, False]


def test_beet_mode_with_the_kernel_at_the_other_end(found: dict[str, dict[str, dict[str, JsonValue]]]) -> None:
    """Agreed, moved from IPv4 to IPv6 with IPv4 inside, and rekeyed; each packet is short of its IP header."""
    story = found["beet"]
    assert story.pop("charon") == ["BEET"]
    for seen in story.values():
        assert (seen["answered"], seen["mode"]) == (PINGS, "beet")
        assert isinstance(seen["packets"], list)
        assert seen["saved"] == IPV4_HEADER * sum(count for count in seen["packets"] if isinstance(count, int)) > 0


def test_tunnel_mode_where_charon_is_not_configured_for_beet(found: dict[str, dict[str, dict[str, JsonValue]]]) -> None:
    story = found["refused"]
    assert story.pop("charon") == ["TUNNEL"]
    for seen in story.values():
        assert (seen["answered"], seen["mode"], seen["saved"]) == (PINGS, "tunnel", 0)
