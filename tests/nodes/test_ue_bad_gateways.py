"""A UE (a process) whose gateway misbehaves: it gives up, says why in one line, and leaves nothing behind.

::

    UE                                    bad gateway
     IKE_SA_INIT                 -->       silence, garbage, a loop of refusals
     IKE_AUTH (IDi; EAP; AUTH)   -->       the same, a wrong AUTH, a child SA that is not there, …
     INFORMATIONAL { DELETE }    -->       wherever an IKE SA is left over
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aaa.subscribers.laboratory import laboratory_subscriber
from lab.namespaces import terminate
from protocols.errors import BackendError
from protocols.ikev2.certificates import Credential
from protocols.ikev2.config import ResponderConfig
from protocols.ikev2.events import ConfigurationRequested, EapReply, EapResponseReceived, Event
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    ConfigurationPayload,
    NotifyPayload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
)
from protocols.ikev2.registry import ExchangeType, NotifyType, PayloadType
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.io.control import ControlClient, ControlError, call_sync
from tests.harness.certificates import Pki, make_pki
from tests.harness.pair import responder_config
from tests.peers.bad_gateway import BadGateway, Misbehaviour, granted
from tests.peers.epdg_node import FQDN
from tests.peers.processes import PeerError, wait_until

USER = laboratory_subscriber(1)
GATEWAY, WIFI = "127.0.71.1", "127.0.71.21"
PORTS = {"ike_port": 15000, "nat_traversal_port": 14500}
TIMEOUT = 20.0
AUTH_RESPONSES = {"the first": 1, "the second": 2, "the last": 3}  # Message IDs: EAP request, EAP-Success, AUTH


@pytest.fixture(scope="module")
def pki() -> Pki:
    now = datetime.now(UTC)
    return make_pki((FQDN, "internet"), begin=now - timedelta(days=1), end=now + timedelta(days=1))


@dataclass
class Phone:
    """The UE's process and its files."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def configuration(self) -> Path:
        return self.directory / "ue.yaml"

    @property
    def control(self) -> Path:
        return self.directory / "ue.sock"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "ue", *words, "-c", str(self.configuration)]

    def start(self) -> None:
        with (self.directory / "ue.log").open("ab") as log:
            self.process = subprocess.Popen(self.command("run"), stdout=log, stderr=log)
        wait_until(self._answers, what="ue", timeout=TIMEOUT, log=(self.directory / "ue.log").read_text)

    def _answers(self) -> bool | None:
        with contextlib.suppress(BackendError):
            return call_sync(self.control, "node.status") is not None
        return None

    def left(self) -> list[str]:
        """Its UDP sockets, TUN devices and children, as soon as there are none: control connections come and go."""
        assert self.process is not None
        process = Path("/proc") / str(self.process.pid)
        mine = []
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                mine.append(os.readlink(descriptor))
        table = (process / "net" / "udp").read_text().splitlines()[1:]
        ports = {f"socket:[{line.split()[9]}]" for line in table}
        children = (process / "task" / process.name / "children").read_text().split()
        return [each for each in mine if each in ports or "tun" in each] + children


@pytest.fixture(scope="module")
def phone(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    phone = Phone(tmp_path_factory.mktemp("ue"))
    (phone.directory / "ca.pem").write_bytes(x509.load_der_x509_certificate(pki.authority).public_bytes(Encoding.PEM))
    assert USER.opc is not None
    values: dict[str, Any] = {
        "imsi": str(USER.imsi),
        "plmn": {"mcc": "001", "mnc": "01"},
        "usim": {"k": USER.k.reveal().hex(), "opc": USER.opc.reveal().hex()},
        "eap": {"reauthentication": False, "pseudonyms": False},
        "apn": "internet",
        "gateway": {"address": GATEWAY, **PORTS, "ca": "ca.pem"},
        "algorithms": {"ike": ["aes128-sha256-x25519"], "esp": ["aes128gcm16"]},
        "retransmission": {"base_interval": 0.1, "limit": 1},
        "fragmentation": False,
        "accesses": {"wifi": {"address": WIFI, **PORTS}},
        "control": "ue.sock",
        "state": "state",
    }
    phone.configuration.write_text(yaml.safe_dump(values))
    phone.start()
    try:
        yield phone
        assert "Traceback" not in (phone.directory / "ue.log").read_text()
    finally:
        assert phone.process is not None
        terminate(phone.process)
    assert not phone.control.exists()


def config(pki: Pki) -> ResponderConfig:
    return responder_config(pki, credentials=(Credential(pki.chain, pki.key),))


# --- the ways to misbehave --------------------------------------------------------------------------


def of(message_id: int, change: Callable[[bytes], bytes]) -> Misbehaviour:
    """Responses with this Message ID are changed on the wire."""

    def wire(octets: bytes) -> bytes:
        return change(octets) if int.from_bytes(octets[20:24], "big") == message_id and octets[19] & 0x20 else octets

    return Misbehaviour(wire=wire)


def payloads(message_id: int, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Misbehaviour:
    """The payloads of an IKE_AUTH response are changed before it is sealed."""

    def edit(message: Message) -> Message:
        meant = message.exchange == ExchangeType.IKE_AUTH and message.message_id == message_id
        return replace(message, payloads=change(message.payloads)) if meant else message

    return Misbehaviour(edit=edit)


def without(*kinds: type) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    return lambda held: tuple(each for each in held if not isinstance(each, kinds))


def refusing_the_child(number: NotifyType) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    def change(held: tuple[Any, ...]) -> tuple[Any, ...]:
        kept = without(SaPayload, TsiPayload, TsrPayload, ConfigurationPayload)(held)
        return (*kept, NotifyPayload(type=number))

    return change


def last_octet(octets: bytes) -> bytes:
    return octets[:-1] + bytes([octets[-1] ^ 1])


def wrong_auth(held: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(replace(each, data=last_octet(each.data)) if isinstance(each, AuthPayload) else each for each in held)


def on(kind: type[Event], reply: object) -> Misbehaviour:
    return Misbehaviour(answer=lambda event: reply if isinstance(event, kind) else None)


def notification_for_ever(event: Event) -> object:
    """EAP-Request/Notification again and again, each with another Identifier (RFC 3748 §5.2)."""
    if not isinstance(event, EapResponseReceived):
        return None
    return EapReply(packet=bytes([1, (event.packet[1] + 1) & 0xFF, 0, 6, 2]) + b"!")


def identity_for_ever(event: Event) -> object:
    if not isinstance(event, EapResponseReceived):
        return None
    return EapReply(packet=bytes([1, (event.packet[1] + 1) & 0xFF, 0, 5, 1]))


def init_refusal(kind: NotifyType, data: bytes) -> Callable[[bytes], bytes]:
    """IKE_SA_INIT with one Notify and nothing else, however often it is asked."""
    body = bytes([0, 0]) + (8 + len(data)).to_bytes(2, "big") + bytes([0, 0]) + int(kind).to_bytes(2, "big") + data

    def change(octets: bytes) -> bytes:
        head = octets[:8] + bytes(8) + bytes([PayloadType.N, 0x20, 34, 0x20]) + bytes(4)
        return head + (28 + len(body)).to_bytes(4, "big") + body

    return change


def deleting(gateway: BadGateway, sa: Any) -> None:
    gateway.endpoint.initiate(sa, DeleteIkeSa("the gateway wants it so"), gateway.now())


def silent(octets: bytes) -> bytes:
    return b""


GIVES_UP: dict[str, tuple[Misbehaviour, str]] = {
    "silence": (of(0, silent), f"no response from the gateway {GATEWAY}:15000, asked 2 times on wifi"),
    "garbage at first": (of(0, lambda octets: os.urandom(len(octets))), "no response from the gateway"),
    "an empty header": (of(0, lambda octets: octets[:28]), "no response from the gateway"),
    "cut in the middle": (of(0, lambda octets: octets[: len(octets) // 2]), "no response from the gateway"),
    "a cookie for ever": (of(0, init_refusal(NotifyType.COOKIE, b"again")), "fell silent"),
    "another group for ever": (
        of(0, init_refusal(NotifyType.INVALID_KE_PAYLOAD, b"\x00\x0e")),
        "asks for group 14, which was not offered",
    ),
    "no proposal": (of(0, init_refusal(NotifyType.NO_PROPOSAL_CHOSEN, b"")), "no proposal chosen"),
    **{f"silence after {name}": (of(number, silent), "fell silent") for name, number in AUTH_RESPONSES.items()},
    **{f"wrong MAC of {name}": (of(number, last_octet), "fell silent") for name, number in AUTH_RESPONSES.items()},
    **{
        f"garbage for {name}": (of(number, lambda octets: octets[:28] + os.urandom(60)), "fell silent")
        for name, number in AUTH_RESPONSES.items()
    },
    "wrong signature": (payloads(1, wrong_auth), "the gateway is not accepted"),
    "no certificate, no AUTH": (payloads(1, without(AuthPayload)), "did not authenticate itself"),
    "wrong last AUTH": (payloads(3, wrong_auth), "AUTH"),
    "no last AUTH": (payloads(3, without(AuthPayload)), "AUTH"),
    "an AUTN of somebody else": (
        Misbehaviour(vector=lambda vector: replace(vector, autn=last_octet(vector.autn))),
        "MAC-A in AUTN does not verify",
    ),
    "EAP that is none": (on(EapResponseReceived, EapReply(packet=b"\x01\x02\x00\x05\xff")), ""),
    "EAP-Failure": (on(EapResponseReceived, EapReply(packet=b"\x04\x02\x00\x04")), "authentication rejected"),
    "EAP-Success too soon": (on(EapResponseReceived, EapReply(packet=b"\x03\x02\x00\x04")), ""),
    "notifications for ever": (Misbehaviour(answer=notification_for_ever), ""),
    "who are you, for ever": (Misbehaviour(answer=identity_for_ever), ""),
}

LEAVES_AN_IKE_SA: dict[str, tuple[Misbehaviour, str]] = {
    **{
        f"no child SA: {kind.name}": (payloads(3, refusing_the_child(kind)), said)
        for kind, said in (
            (NotifyType.NO_PROPOSAL_CHOSEN, "(notify 14)"),
            (NotifyType.TS_UNACCEPTABLE, "(notify 38)"),
            (NotifyType.INTERNAL_ADDRESS_FAILURE, "(notify 36)"),
            (NotifyType.NO_ADDITIONAL_SAS, "refused the child SA"),
        )
    },
    "no child SA, not a word of it": (payloads(3, without(SaPayload, TsiPayload, TsrPayload)), ""),
    "no selectors": (payloads(3, without(TsrPayload)), ""),
    "no configuration": (payloads(3, without(ConfigurationPayload)), "no inner address"),
    "an address that is none": (on(ConfigurationRequested, granted(bytes([127, 0, 0, 1]))), "127.0.0.1"),
    "an address of three octets": (on(ConfigurationRequested, granted(bytes(3))), "3 octets"),
    "a critical payload that nobody knows": (
        payloads(3, lambda held: (*held, UnknownPayload(PayloadType.of(200), True, b""))),
        "",
    ),
}


async def refused(phone: Phone) -> str:
    """Why the attach has come to nothing."""
    client = ControlClient(phone.control)
    try:
        await client.call("ue.attach")
    except ControlError as why:
        return str(why)
    await client.call("ue.detach")
    return "nothing: it attached"


def each(phone: Phone, pki: Pki, table: dict[str, tuple[Misbehaviour, str]], *, deletes: bool) -> None:
    """One gateway after the other; then an honest one: the UE is none the worse for it."""

    async def run() -> None:
        wrong: dict[str, str] = {}
        gateway = BadGateway(GATEWAY, USER, config(pki))
        async with gateway.serving(**PORTS):
            for name, (misbehaviour, expected) in table.items():
                gateway.misbehaviour = misbehaviour
                why = await refused(phone)
                if expected not in why or "\n" in why or why == "nothing: it attached":
                    wrong[name] = f"{why!r}, not {expected!r}"
                if deletes and not await gateway.until_deleted():
                    wrong[name] = "the IKE SA is left over at the gateway"
                gateway.forget()
                with contextlib.suppress(PeerError):  # a last DELETE may be on its way
                    await asyncio.to_thread(wait_until, lambda: not phone.left(), what="sockets closed", timeout=2)
                if phone.left():
                    wrong[name] = f"left behind: {phone.left()}"
            assert not wrong, "\n".join(f"{name}: {why}" for name, why in wrong.items())
            gateway.misbehaviour = Misbehaviour()
            await ControlClient(phone.control).call("ue.attach")
            await ControlClient(phone.control).call("ue.detach")
            assert await gateway.until_deleted()
        assert phone.left() == []

    asyncio.run(run())


def test_a_ue_gives_up_and_says_why(phone: Phone, pki: Pki) -> None:
    each(phone, pki, GIVES_UP, deletes=False)


def test_an_ike_sa_that_is_of_no_use_is_deleted(phone: Phone, pki: Pki) -> None:
    """RFC 7296 §1.2: the IKE SA is created even though the child SA is not; a UE without one has no use for it."""
    each(phone, pki, LEAVES_AN_IKE_SA, deletes=True)


def test_a_gateway_that_deletes_at_once_or_falls_silent_afterwards(phone: Phone, pki: Pki) -> None:
    async def run() -> None:
        client = ControlClient(phone.control)
        gateway = BadGateway(GATEWAY, USER, config(pki), Misbehaviour(after=deleting))
        async with gateway.serving(**PORTS):
            with contextlib.suppress(ControlError):  # it may have been attached for a moment
                await client.call("ue.attach")
            assert await deleted(client)
            gateway.forget()
            gateway.misbehaviour = Misbehaviour()
            await client.call("ue.attach")
            assert len(phone.left()) == 2  # ports 500 and 4500
            gateway.misbehaviour = Misbehaviour(wire=silent)
            await client.call("ue.detach")  # nobody answers the DELETE
            assert await deleted(client)
        assert phone.left() == []

    asyncio.run(run())


async def deleted(client: ControlClient) -> bool:
    """Whether the connection comes to its end."""
    async with asyncio.timeout(5):
        while True:
            status = await client.call("ue.status")
            assert isinstance(status, dict)
            if status["state"] == "closed":
                return True


def test_in_the_foreground_it_is_one_line_and_status_1(phone: Phone, pki: Pki) -> None:
    """``ue attach`` beside nobody: the gateway is silent."""
    values = yaml.safe_load(phone.configuration.read_text())
    alone = Phone(phone.directory / "alone")
    alone.directory.mkdir()
    values["gateway"]["ca"] = str(phone.directory / "ca.pem")
    alone.configuration.write_text(yaml.safe_dump(values))
    ended = subprocess.run(alone.command("attach"), capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"no response from the gateway {GATEWAY}:15000, asked 2 times on wifi\n"
    assert not alone.control.exists()


def test_after_kill_9_it_begins_anew(phone: Phone, pki: Pki) -> None:
    """A socket file that nobody serves, files of state that were being written: none of it is in the way."""

    async def attach() -> None:
        gateway = BadGateway(GATEWAY, USER, config(pki))
        async with gateway.serving(**PORTS):
            await ControlClient(phone.control).call("ue.attach")
            sqn = next((phone.directory / "state").glob("usim-*.json"))
            assert phone.process is not None
            phone.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(phone.process.wait, TIMEOUT)
            assert phone.control.exists()
            for name in (sqn.name, f"back-off-{USER.imsi}.json"):
                (phone.directory / "state" / f"{name}.new").write_text('{"se')  # what a write that was cut off leaves
            (phone.directory / "state" / f"back-off-{USER.imsi}.json").write_text('{"cau')
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind((WIFI, PORTS["ike_port"]))  # the port is free
            await asyncio.to_thread(phone.start)
            await ControlClient(phone.control).call("ue.attach")
            await ControlClient(phone.control).call("ue.detach")

    asyncio.run(attach())
