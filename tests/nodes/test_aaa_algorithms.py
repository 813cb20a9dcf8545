"""Subscribers of every algorithm and scheme of sequence numbers attach at the real AAA server and its HSS."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from aaa.subscribers import Algorithm, SqnScheme
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.sqn import SqnGeneration
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode
from protocols.secret import Secret
from tests.harness.aka_user import AkaUser, aka_user
from tests.peers.aaa_node import AaaProcess, Gateway

MULTI_ROUND = Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH)
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
TOP = Secret(bytes(range(32)))
PARTLY = SqnGeneration.PARTLY_TIME_BASED
TIMED = SqnGeneration.TIME_BASED
KINDS: tuple[dict[str, object], ...] = (
    {"op": Secret(bytes(16)), "opc": None, "res_length": 4, "sqn_scheme": SqnScheme(ind_bits=0)},
    {"sqn_scheme": SqnScheme(PARTLY), "res_length": 8},
    {"algorithm": Algorithm.TUAK, "opc": TOP, "res_length": 4, "sqn_scheme": SqnScheme(TIMED)},
    {"algorithm": Algorithm.TUAK, "k": TOP, "opc": None, "op": TOP, "tuak_iterations": 2, "res_length": 16},
    {"algorithm": Algorithm.XOR, "opc": None, "res_length": 16, "sqn_scheme": SqnScheme(TIMED, 0)},
    {"algorithm": Algorithm.XOR, "opc": None, "res_length": 5, "sqn_scheme": SqnScheme(PARTLY, 8)},
)
SUBSCRIBERS = [
    replace(laboratory_subscriber(number), **kind)  # type: ignore[arg-type]
    for number, kind in enumerate(KINDS, start=1)
]


async def attach(gateway: Gateway, user: AkaUser) -> list[Result]:
    answers = await gateway.attach(user)
    assert user.msk is not None
    return [answer.result for answer in answers]


def test_every_algorithm_and_scheme(tmp_path: Path) -> None:
    """Twice with a new USIM, then with one that is ahead, whose AUTS is followed (TS 33.102 §6.3.5)."""
    node = AaaProcess(tmp_path)
    node.provision(*SUBSCRIBERS)

    async def run() -> None:
        async with Gateway.connected(node.port) as gateway:
            for subscriber in SUBSCRIBERS:
                user = aka_user(subscriber)
                assert await attach(gateway, user) == [MULTI_ROUND, SUCCESS]
                assert await attach(gateway, user.again()) == [MULTI_ROUND, SUCCESS]
                seq_ms = subscriber.sqn_scheme.seq_of(user.usim.sqn_ms) + 100_000
                ahead = aka_user(subscriber, seq_ms=seq_ms)
                assert await attach(gateway, ahead) == [MULTI_ROUND, MULTI_ROUND, SUCCESS]
                assert await attach(gateway, ahead.again()) == [MULTI_ROUND, SUCCESS]

    with node:
        asyncio.run(run())
