"""Lives of an HSS: processes that draw vectors from one database as fast as they can, each ended by SIGKILL.

``python -m tests.peers.sqn_lives URL KILLS SEED`` forks them one after the other, the last tenth of them in twos.
Every SQN goes into a pipe before the next one is drawn. A JSON object with what was seen ends the run; an
AssertionError tells of a number that came twice or went back.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from dataclasses import replace

from aaa.hss.local import LocalHss
from aaa.subscribers import Algorithm, Subscriber, SubscriberDatabase
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.sqn import SqnGeneration, SqnScheme
from protocols.algorithms.vector import build_auts, xor
from protocols.eap.aka.server import Resynchronisation
from protocols.io.entropy import SystemEntropy

RECORD = 8  # octets in the pipe: which subscriber, 2, and the SQN, 6
MOST_NUMBERS = 16  # that a life gives out before its end is near
LONGEST_END = 0.004  # seconds, about as long as two numbers take
LONGEST_START = 0.03  # seconds of a life that ends before its first number, or soon after
CLOCK_ERROR = 1000.0  # seconds by which the clocks of two lives may differ
BLOCK = 2
PATIENCE = 20  # seconds
Number = tuple[int, int]  # which subscriber, its SQN
SCHEMES = [SqnScheme(generation, ind_bits) for generation in SqnGeneration for ind_bits in (0, 5)]


def population() -> list[Subscriber]:
    """A subscriber for each scheme, with another algorithm now and then."""
    users = [replace(laboratory_subscriber(n), sqn_scheme=scheme) for n, scheme in enumerate(SCHEMES, start=1)]
    users[1] = replace(users[1], algorithm=Algorithm.XOR, opc=None)
    return users


def live(database: SubscriberDatabase, users: list[Subscriber], pipe: int, seed: int) -> None:
    """Draw until the end."""
    chance = random.Random(seed)
    error = chance.uniform(-CLOCK_ERROR, CLOCK_ERROR)
    hss = LocalHss(database, SystemEntropy(), sequence_block=BLOCK, wall=lambda: time.time() + error)
    last: dict[int, int] = {}
    while True:
        which = chance.randrange(len(users))
        user, functions = users[which], users[which].keys.functions()
        resynchronisation = None
        if which in last and chance.random() < 0.2:
            seq = user.sqn_scheme.seq_of(last[which])
            sqn_ms = user.sqn_scheme.compose(max(0, seq + chance.choice((-3, 0, 1, 4, 500))), 0)
            rand = bytes(16)
            resynchronisation = Resynchronisation(rand, build_auts(functions, rand=rand, sqn_ms=sqn_ms))
        vector = hss.authentication_vector(user.imsi, resynchronisation)
        sqn = xor(vector.autn[:6], functions.f2345(vector.rand).ak)
        os.write(pipe, which.to_bytes(2, "big") + sqn)
        last[which] = int.from_bytes(sqn, "big")


def lived(
    database: SubscriberDatabase, users: list[Subscriber], seeds: list[int], wanted: int, wait: float
) -> list[list[Number]]:
    """What processes of these seeds gave out at the same time, killed ``wait`` seconds after so many numbers."""
    pids, pipes = [], []
    for seed in seeds:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                live(database, users, writing, seed)
            finally:
                os._exit(1)
        os.close(writing)
        pids.append(pid)
        pipes.append(reading)
    octets = dict.fromkeys(pipes, b"")
    while sum(map(len, octets.values())) < wanted * RECORD:
        ready, _, _ = select.select(pipes, [], [], PATIENCE)
        assert ready, f"no number in {PATIENCE} seconds"
        for reading in ready:
            more = os.read(reading, 65536)
            assert more, "a life ended by itself"
            octets[reading] += more
    time.sleep(wait)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid, reading in zip(pids, pipes, strict=True):
        with open(reading, "rb") as pipe:
            octets[reading] += pipe.read()
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), f"a life ended by itself: {status}"
    return [numbers(octets[reading]) for reading in pipes]


def numbers(octets: bytes) -> list[Number]:
    """What was written into a pipe."""
    records = [octets[at : at + RECORD] for at in range(0, len(octets), RECORD)]
    return [(int.from_bytes(each[:2], "big"), int.from_bytes(each[2:], "big")) for each in records]


def run(url: str, kills: int, seed: int) -> dict[str, int]:
    """All the lives; counts of what was seen."""
    chance = random.Random(seed)
    users = population()
    database = SubscriberDatabase(url)
    database.migrate()
    database.put(users, over=True)
    warm = LocalHss(database, SystemEntropy(), sequence_block=BLOCK)
    for user in users:
        warm.authentication_vector(user.imsi, None)
    database.close()  # what was compiled stays, and every life makes its own connections
    highest = [0] * len(users)
    seen: set[Number] = set()
    left = kills
    while left:
        count = 2 if left <= kills // 10 and left >= 2 else 1
        left -= count
        wanted, wait = chance.randrange(1, MOST_NUMBERS), chance.uniform(0, LONGEST_END)
        if chance.random() < 0.1:
            wanted, wait = 0, chance.uniform(0, LONGEST_START)
        before = list(highest)
        for given in lived(database, users, [chance.randrange(1 << 30) for _ in range(count)], wanted, wait):
            last = list(before)
            for which, sqn in given:
                scheme = users[which].sqn_scheme
                assert (which, sqn) not in seen, f"{users[which].sqn_scheme}: SQN {sqn} twice"
                assert scheme.seq_of(sqn) > scheme.seq_of(last[which]), f"{scheme}: SQN {sqn} after {last[which]}"
                seen.add((which, sqn))
                last[which] = sqn
            highest = [max(pair) for pair in zip(highest, last, strict=True)]
    return {"kills": kills, "numbers": len(seen), "subscribers": len({which for which, _ in seen})}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
