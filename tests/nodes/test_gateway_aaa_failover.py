"""A gateway with two AAA servers as processes, the first over TLS: that one dies, the other serves, it returns."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.ikev2.events import ChildSaInstalled
from protocols.io.control import call_sync
from protocols.trace.records import JsonValue
from tests.harness.aka_user import aka_user
from tests.nodes.test_diameter_configuration import write
from tests.peers.aaa_node import HOST, REALM, AaaProcess, free_port
from tests.peers.certificates import CertificateAuthority
from tests.peers.epdg_node import EpdgProcess, Phone
from tests.peers.processes import wait_until

GATEWAY = "127.0.61.1"
EPDG_HOST = f"epdg-127-0-61-1.{REALM}"
SECOND = f"aaa2.{REALM}"
USERS = [laboratory_subscriber(number) for number in (1, 2, 3)]


def peer(gateway: EpdgProcess, host: str) -> dict[str, JsonValue]:
    """What the gateway knows of a peer."""
    listed = gateway.call("peers.list")["peers"]
    assert isinstance(listed, list)
    return next(each for each in listed if isinstance(each, dict) and each["host"] == host)


def in_service(gateway: EpdgProcess, host: str, wanted: bool = True) -> None:
    wait_until(
        lambda: peer(gateway, host)["in_service"] is wanted or None,
        what=f"{host} in service: {wanted}",
        timeout=20,
        log=gateway.log,
    )


def users_of(aaa: AaaProcess) -> set[str]:
    """Whose sessions a server has."""
    answer = call_sync(aaa.control, "sessions.list")
    assert isinstance(answer, dict)
    listed = answer["sessions"]
    assert isinstance(listed, list)
    return {str(session["imsi"]) for session in listed if isinstance(session, dict)}


def test_users_attach_through_the_server_that_is_there(tmp_path: Path, authority: CertificateAuthority) -> None:
    directories = {name: tmp_path / name for name in ("epdg", "one", "two")}
    for directory in directories.values():
        directory.mkdir()
    tls, secure = write(directories["epdg"], authority, EPDG_HOST), free_port()
    one = AaaProcess(
        directories["one"],
        extra=f"diameter: {{tls: {write(directories['one'], authority, HOST)}}}\n",
        listen=f", tls_port: {secure}",
    )
    two = AaaProcess(directories["two"], host=SECOND)

    def peers(values: dict[str, object]) -> None:
        section = values["diameter"]
        assert isinstance(section, dict)
        names = (part.split(": ") for part in tls.strip("{}").split(", "))
        section["tls"] = dict(names)
        section["peers"] = [
            {"host": HOST, "address": "127.0.0.1", "port": secure, "transport": "tls"},
            {"host": SECOND, "address": "127.0.0.1", "port": two.port, "priority": 1},
        ]

    for each in (one, two):
        each.provision(*USERS)
    with one, two, EpdgProcess(directories["epdg"], one.port, address=GATEWAY, changes=peers) as gateway:
        for host in (HOST, SECOND):
            in_service(gateway, host)

        async def attach(number: int) -> Phone:
            phone = Phone(gateway, aka_user(USERS[number]))
            phone.attach(f"127.0.61.{number + 2}")
            await phone.wait(ChildSaInstalled)
            return phone

        async def story() -> None:
            off = asyncio.to_thread
            phones = [await attach(0)]
            assert (await off(users_of, one), await off(users_of, two)) == ({str(USERS[0].imsi)}, set())
            await off(one.stop, signal.SIGKILL)
            await off(in_service, gateway, HOST, False)
            phones.append(await attach(1))
            assert await off(users_of, two) == {str(USERS[1].imsi)}
            await off(one.start)
            await off(in_service, gateway, HOST)
            phones.append(await attach(2))
            assert str(USERS[2].imsi) in await off(users_of, one)
            assert await off(users_of, two) == {str(USERS[1].imsi)}
            assert (peer(gateway, HOST)["tls"], peer(gateway, SECOND)["priority"]) == ("TLSv1.3", 1)
            for phone in phones:
                phone.close()

        asyncio.run(story())
