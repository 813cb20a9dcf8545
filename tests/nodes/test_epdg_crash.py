"""A gateway that is killed and comes back (RFC 6290), its secret file; UEs that are heard and not probed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from epdg.qcd import read_secrets
from protocols.entropy import SeededEntropy
from protocols.errors import ConfigurationError
from protocols.ikev2.events import ChildSaInstalled, Closed, Established, Event, MessageReceived
from protocols.ikev2.tasks.informational import Liveness
from tests.harness.aka_user import aka_user
from tests.nodes.test_epdg_serve import ping
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess, Phone

USER = laboratory_subscriber(1)
ADDRESS, PHONE = "127.0.31.51", "127.0.31.61"


def with_secret(values: dict[str, object]) -> None:
    values["ike"] = {
        "suites": ["aes128-sha256-x25519"],
        "esp_suites": ["aes128gcm16"],
        "qcd_secret": "qcd.secret",
    }


@pytest.fixture
def epdg(tmp_path: Path) -> Iterator[EpdgProcess]:
    aaa = AaaProcess(tmp_path / "aaa")
    (tmp_path / "aaa").mkdir(exist_ok=True)
    (tmp_path / "epdg").mkdir()
    aaa.provision(USER)
    with aaa, EpdgProcess(tmp_path / "epdg", aaa.port, address=ADDRESS, changes=with_secret) as node:
        yield node


def test_a_phone_learns_at_once_that_the_gateway_has_restarted(epdg: EpdgProcess) -> None:
    """§3, §4.5: the first protected request is answered with the token, long before retransmission ends."""
    secret = epdg.directory / "qcd.secret"
    before = secret.read_bytes()
    assert secret.stat().st_mode & 0o777 == 0o600

    async def story() -> None:
        phone = Phone(epdg, aka_user(USER))
        try:
            phone.attach(PHONE)
            await phone.wait(Established)
            epdg.stop(signal.SIGKILL)
            await asyncio.to_thread(epdg.start)
            phone.initiate(Liveness())
            async with asyncio.timeout(2):
                closed = await phone.wait(Closed)
            assert "quick crash detection" in closed.why
        finally:
            phone.close()

    asyncio.run(story())
    assert secret.read_bytes() == before
    assert epdg.call("node.status")["dropped"]["ike"]["unknown-spi"] == 1


def test_a_file_with_something_else_is_a_line_and_status_2(tmp_path: Path) -> None:
    node = EpdgProcess(tmp_path, 1, address=ADDRESS, changes=with_secret)
    configuration = node.write_configuration()
    (tmp_path / "qcd.secret").write_text("xyz")
    words = [sys.executable, "-m", "epdg", "serve", "-c", str(configuration)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "ike.qcd_secret: got 'something else', expected one to 4 lines" in ended.stderr


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "0 lines"), ("\xff", "something else"), ("00" * 31, "another length"), (("00" * 32 + "\n") * 5, "5 lines")],
)
def test_contents_that_are_no_secrets(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "secret"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=what):
        read_secrets(file, SeededEntropy(1))


def test_generations_of_the_secret(tmp_path: Path) -> None:
    """§5.1: the newest first, kept as they are; a directory that is not there is not made."""
    file = tmp_path / "secret"
    (made,) = read_secrets(file, SeededEntropy(1))
    file.write_text("11" * 32 + "\n" + made.reveal().hex() + "\n")
    assert [secret.reveal()[:1] for secret in read_secrets(file, SeededEntropy(2))] == [b"\x11", made.reveal()[:1]]
    with pytest.raises(ConfigurationError, match="No such file"):
        read_secrets(tmp_path / "nowhere" / "secret", SeededEntropy(1))


def probing(values: dict[str, object]) -> None:
    with_secret(values)
    ike = values["ike"]
    assert isinstance(ike, dict)
    ike["liveness_interval"] = 1.0


def test_a_phone_that_sends_traffic_is_not_probed(tmp_path: Path) -> None:
    """RFC 7296 §2.4: what its child SA receives shows the gateway that it lives; silence is asked about."""
    (tmp_path / "aaa").mkdir()
    (tmp_path / "epdg").mkdir()
    aaa = AaaProcess(tmp_path / "aaa")
    aaa.provision(USER)

    async def story(gateway: EpdgProcess) -> None:
        phone = Phone(gateway, aka_user(USER))
        try:
            phone.attach(PHONE)
            await phone.wait(Established)
            child = await phone.wait(ChildSaInstalled)
            loop = asyncio.get_running_loop()
            started = loop.time()
            while loop.time() < started + 2.5:
                await ping(phone, child)
            assert not [event for event in phone._events if is_probe(event)]
            async with asyncio.timeout(5):
                while not is_probe(await phone.wait(MessageReceived)):
                    pass
        finally:
            phone.close()

    with aaa, EpdgProcess(tmp_path / "epdg", aaa.port, address=ADDRESS, changes=probing) as gateway:
        asyncio.run(story(gateway))


def is_probe(event: Event) -> bool:
    """An INFORMATIONAL request of the gateway's."""
    return isinstance(event, MessageReceived) and event.message.name == "INFORMATIONAL request"
