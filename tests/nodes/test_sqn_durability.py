"""Sequence numbers never go back: processes killed at random moments, and every number that left them compared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

from aaa.subscribers import Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.usim import UsimResult
from protocols.algorithms.vector import xor
from protocols.errors import StackError
from protocols.secret import Secret
from tests.harness.aka_user import AkaUser, aka_user
from tests.peers.aaa_node import AaaProcess, Gateway
from ue.usim import SoftwareUsim

KILLS = 200
LIVES_TIMEOUT = 90
NODE_KILLS = 4
USERS = [laboratory_subscriber(number) for number in range(1, 5)]


def lives(url: str, kills: int, seed: int = 1) -> dict[str, int]:
    """Kill that many processes of an HSS over the database; what was seen."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.peers.sqn_lives", url, str(kills), str(seed)],
        capture_output=True,
        text=True,
        timeout=LIVES_TIMEOUT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert isinstance(seen, dict)
    return seen


def test_two_hundred_kills_under_load(tmp_path: Path) -> None:
    """Every scheme of TS 33.102 §C.3, AUTS in between, clocks that differ from life to life; in the end by twos."""
    seen = lives(f"sqlite:///{tmp_path / 'aaa.db'}", KILLS)
    assert seen["kills"] == KILLS
    assert seen["numbers"] > KILLS
    assert seen["subscribers"] == 6


class ListeningUsim(SoftwareUsim):
    """A USIM that keeps the SQN of every challenge it gets."""

    def __init__(self, user: SoftwareUsim, k: Secret, opc: Secret) -> None:
        super().__init__(imsi=user.imsi, k=k, opc=opc)
        self._milenage = Milenage(k, opc=opc)
        self.sqns: list[int] = []

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """Keep the SQN, then answer."""
        self.sqns.append(int.from_bytes(xor(autn[:6], self._milenage.f5(rand)), "big"))
        return super().authenticate(rand, autn)


def listening(subscriber: Subscriber) -> AkaUser:
    """The user of a subscriber, with such a USIM."""
    user = aka_user(subscriber)
    assert subscriber.opc is not None
    user.usim = ListeningUsim(user.usim, subscriber.k, subscriber.opc)
    return user


async def attach_until_it_dies(node: AaaProcess, users: list[AkaUser], attaches: int) -> None:
    """Users attach all the time; the node is killed after so many of their challenges."""
    challenges = 0

    def count() -> None:
        nonlocal challenges
        challenges += 1
        if challenges == attaches:
            node.stop(signal.SIGKILL)

    async def attach(gateway: Gateway, user: AkaUser) -> None:
        with contextlib.suppress(StackError, TimeoutError):
            while challenges < attaches:
                await gateway.attach(user.again(), between=count)

    async with Gateway.connected(node.port) as gateway, asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(attach(gateway, user))


def test_a_node_killed_while_it_serves(tmp_path: Path) -> None:
    """What USIMs see in AUTN goes up through the node's crashes: no synchronisation failure, no number twice."""
    node = AaaProcess(tmp_path)
    node.provision(*USERS)
    users = [listening(subscriber) for subscriber in USERS]
    for life in range(NODE_KILLS):
        node.start()
        asyncio.run(attach_until_it_dies(node, users, 5 + 7 * life))
    assert "Keys of subscribers are stored in clear" in node.log()
    for user in users:
        assert isinstance(user.usim, ListeningUsim)
        assert len(user.usim.sqns) >= NODE_KILLS
        assert user.usim.sqns == sorted(set(user.usim.sqns))
