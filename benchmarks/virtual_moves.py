"""False moves on a lossy access and the time to leave a dead one, with whole nodes on virtual time.

    python -m benchmarks.virtual_moves [--seeds 100] [--minutes 10] [--loss 0.3] [--rates 0 1 10 50]
                                       [--processes 2] [--automatic] [--output benchmarks/results/virtual_moves.json]

For every seed and rate (echo requests a second, answered by a host behind the gateway) two worlds:

*lossy*  the UE is on an access that loses ``--loss`` of all datagrams each way, and a perfect access is open too,
         for ``--minutes`` of virtual time. Every move is one too many; so is a connection that ends.
*dead*   the access in use stops to carry anything, without a word, at a moment that the seed decides. ``seconds``
         is from then to the gateway's first record of the UE on the other access.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

from lab.network.impairments import Impairments
from lab.virtual.world import CORE_HOST, VirtualWorld, access, run
from protocols.trace.records import JsonValue, Kind

DELAY = 0.02  # each way
IN_USE, OTHER = "in-use", "other"
PATIENCE = 30.0  # seconds after which a dead access counts as never left


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is the same in all runs."""

    minutes: float
    loss: float
    automatic: bool

    def changes(self) -> dict[str, dict[str, JsonValue]]:
        """Of the UE's configuration."""
        return {"ue": {"management": {"automatic": True}}} if self.automatic else {}


@dataclass(frozen=True, kw_only=True)
class Lossy:
    """A run on a lossy access."""

    moves: int
    alive: bool
    share_answered: float | None
    retransmissions: int


async def _on_the_access_in_use(world: VirtualWorld, rate: float) -> None:
    """Attached on one access, moved to the other with the first one open, talking."""
    await world.ue.call("ue.attach", access=OTHER)
    await world.ue.call("ue.move", to=IN_USE, keep_old=True)
    if rate:
        await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=rate)
    await world.advance(2.0)


def _moves(world: VirtualWorld, since: float) -> list[float]:
    """When the gateway took the UE to be elsewhere."""
    return [
        record.monotonic
        for record in world.epdg.trace
        if record.kind is Kind.EVENT and record.body.get("name") == "moved" and record.monotonic >= since
    ]


async def _lossy(world: VirtualWorld, rate: float, setting: Setting) -> Lossy:
    await _on_the_access_in_use(world, rate)
    since = world.now()
    rough = Impairments(loss=setting.loss, delay=DELAY)
    world.accesses[IN_USE].uplink = world.accesses[IN_USE].downlink = rough
    await world.advance(setting.minutes * 60)
    status = await world.epdg.call("node.status")
    answered = None
    if rate:
        figures = await world.ue.call("ue.traffic.statistics")
        assert isinstance(figures, dict)
        sent, received = figures["sent"], figures["received"]
        assert isinstance(sent, int)
        assert isinstance(received, int)
        answered = received / sent
    retransmissions = sum(
        record.kind is Kind.MESSAGE
        and record.body.get("direction") == "out"
        and record.body.get("retransmission") is True
        for record in world.ue.trace
    )
    assert isinstance(status, dict)
    return Lossy(
        moves=len(_moves(world, since)),
        alive=status["sessions"] == 1,
        share_answered=answered,
        retransmissions=retransmissions,
    )


async def _dead(world: VirtualWorld, rate: float, seed: int) -> float | None:
    await _on_the_access_in_use(world, rate)
    await world.advance(Random(seed).random())  # noqa: S311 - no secrets
    since = world.now()
    nothing = Impairments(loss=1.0)
    world.accesses[IN_USE].uplink = world.accesses[IN_USE].downlink = nothing
    while world.now() < since + PATIENCE:
        await world.advance(0.5)
        if moves := _moves(world, since):
            return moves[0] - since
    return None


def lossy(setting: Setting, seed: int, rate: float) -> Lossy:
    """One run."""
    return run(partial(_lossy, rate=rate, setting=setting), seed=seed, accesses=_accesses(), changes=setting.changes())


def dead(setting: Setting, seed: int, rate: float) -> float | None:
    """One run; seconds until the dead access was left, ``None``: never."""
    return run(partial(_dead, rate=rate, seed=seed), seed=seed, accesses=_accesses(), changes=setting.changes())


def _accesses() -> list[object]:
    return [access(OTHER, "10.2.0.2", delay=DELAY), access(IN_USE, "10.1.0.2", delay=DELAY)]


def distribution(seconds: Sequence[float | None]) -> dict[str, JsonValue]:
    """How a number of runs left a dead access."""
    left = sorted(each for each in seconds if each is not None)
    figures: dict[str, JsonValue] = {"runs": len(seconds), "left": len(left)}
    if left:
        figures |= {
            "least": round(left[0], 3),
            "median": round(statistics.median(left), 3),
            "p95": round(left[min(len(left) - 1, int(0.95 * len(left)))], 3),
            "most": round(left[-1], 3),
        }
    return figures


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--loss", type=float, default=0.3)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 1.0, 10.0, 50.0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--automatic", action="store_true", help="the UE's connection management decides, too")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    setting = Setting(minutes=arguments.minutes, loss=arguments.loss, automatic=arguments.automatic)
    seeds = range(arguments.seeds)
    began = time.monotonic()
    results: dict[str, JsonValue] = {}
    with ProcessPoolExecutor(arguments.processes, initializer=logging.disable, initargs=(logging.WARNING,)) as pool:
        pairs = list(product(arguments.rates, seeds))
        rates, each_seed = [rate for rate, _ in pairs], [seed for _, seed in pairs]
        rough = list(pool.map(partial(lossy, setting), each_seed, rates))
        times = list(pool.map(partial(dead, setting), each_seed, rates))
    for rate in arguments.rates:
        runs = [each for each, (at, _) in zip(rough, pairs, strict=True) if at == rate]
        shares = [each.share_answered for each in runs if each.share_answered is not None]
        results[f"{rate:g} packets/s"] = {
            "lossy": {
                "runs": len(runs),
                "moves": sum(each.moves for each in runs),
                "seeds_with_moves": sum(each.moves > 0 for each in runs),
                "alive": sum(each.alive for each in runs),
                "answered": round(statistics.mean(shares), 3) if shares else None,
                "retransmissions": sum(each.retransmissions for each in runs),
            },
            "dead": distribution([each for each, (at, _) in zip(times, pairs, strict=True) if at == rate]),
        }
    document = {
        "seeds": arguments.seeds,
        "minutes": setting.minutes,
        "loss": setting.loss,
        "automatic": setting.automatic,
        "python": platform.python_version(),
        "wall_seconds": round(time.monotonic() - began, 1),
        "results": results,
    }
    text = json.dumps(document, indent=1)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
