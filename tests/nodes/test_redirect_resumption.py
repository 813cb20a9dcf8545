"""Two gateways and a UE as processes: a session redirected by command, a lost one resumed after a restart."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.errors import StackError
from protocols.io.control import call_sync
from tests.nodes.test_ue_node import GATEWAY, TIMEOUT, USER, Ue
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess
from tests.peers.processes import wait_until

OTHER = "127.0.41.2"


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER)
    with node:
        yield node


def gateway(aaa: AaaProcess, directory: Path, address: str, **ike: object) -> EpdgProcess:
    directory.mkdir()

    def change(values: dict[str, object]) -> None:
        values["ike"] = {"suites": ["aes128-sha256-x25519"], "esp_suites": ["aes128gcm16"], **ike}

    return EpdgProcess(directory, aaa.port, address=address, changes=change)


def test_session_is_redirected_by_command(aaa: AaaProcess, tmp_path: Path) -> None:
    """RFC 5685 §5: the UE attaches to the other gateway; one that did not announce it is left alone."""
    first, other = gateway(aaa, tmp_path / "first", GATEWAY), gateway(aaa, tmp_path / "other", OTHER)
    with first:
        (tmp_path / "other" / "pki").symlink_to(tmp_path / "first" / "pki")

        def obeys(values: dict[str, object]) -> None:
            values["redirect"] = {"obey": "authenticated"}
            values["algorithms"] = {"ike": ["aes128-sha256-x25519"], "esp": ["aes128gcm16"]}

        (tmp_path / "ue").mkdir()
        with other, Ue(tmp_path / "ue", first.authority, change=obeys).node("attach", state="established") as ue:
            (session,) = first.sessions(state="established")
            call_sync(first.control, "sessions.redirect", id=session["id"], gateway=OTHER)
            wait_until(
                lambda: bool(other.sessions(state="established")),
                what="the other gateway",
                timeout=TIMEOUT,
                log=ue.log.read_text,
            )
            assert not first.sessions(state="established")
            (moved,) = other.sessions(state="established")
            assert moved["imsi"] == str(USER.imsi)
            text = f"The gateway {GATEWAY}:15000 sends the UE to {OTHER} (established)."
            assert text in ue.log.read_text()
            with pytest.raises(StackError):
                call_sync(other.control, "sessions.redirect", id=moved["id"], gateway="no name at all")


def test_lost_session_is_resumed_after_a_restart_of_the_gateway(aaa: AaaProcess, tmp_path: Path) -> None:
    """RFC 5723: the ticket is under a secret that outlives the process; the AAA server hears nothing."""
    secret = tmp_path / "ticket.secret"
    secret.write_bytes(os.urandom(32))
    node = gateway(aaa, tmp_path / "gateway", GATEWAY, resumption={"secret_file": str(secret)})

    def resumes(values: dict[str, object]) -> None:
        values["resumption"] = True
        values["liveness_interval"] = 1
        values["algorithms"] = {"ike": ["aes128-sha256-x25519"], "esp": ["aes128gcm16"]}

    (tmp_path / "ue").mkdir()
    with node, Ue(tmp_path / "ue", node.authority, change=resumes).node("serve", state="established") as ue:
        (before,) = node.sessions(state="established")
        assert node.process is not None
        node.process.send_signal(signal.SIGKILL)
        node.process.wait(TIMEOUT)
        (node.directory / "epdg.sock").unlink(missing_ok=True)
        wait_until(
            lambda: ue.call("ue.status")["state"] == "closed", what="loss", timeout=TIMEOUT, log=ue.log.read_text
        )
        node.start()
        wait_until(
            lambda: bool(node.sessions(state="established")), what="resumption", timeout=TIMEOUT, log=ue.log.read_text
        )
        (after,) = node.sessions(state="established")
        assert (after["imsi"], after["apn"]) == (before["imsi"], before["apn"])
        assert after["inner_addresses"] == before["inner_addresses"]
        assert "IKE_SESSION_RESUME request 0" in " ".join(str(record.body) for record in ue.records())
