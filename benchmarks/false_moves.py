"""How often a path that loses 30 % each way is left by mistake, and how long a dead one is kept, on virtual time.

    python -m benchmarks.false_moves [--seeds 100] [--minutes 10] [--output benchmarks/results/false_moves.json]

Two IKE end points with data planes and the UE's watch over silence (``tests.harness.traffic``): for each rate of
traffic, packets a second each way, ``moves`` are those off the path that loses (none is right). ``left`` is from the
moment at which nothing passes any more to the answer of UPDATE_SA_ADDRESSES on the other path, in seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from protocols.ikev2.events import SaState
from tests.harness.traffic import A, B, TrafficPair

RATES = (0, 1, 10, 50)
LOSS = 0.3
DIRECTIONS = ((1, 1), (10, 10), (50, 50), (1, 0), (50, 0), (0, 10), (0, 50))


@dataclass(frozen=True, kw_only=True)
class Lossy:
    """What came of one run on a path that loses."""

    moves: int
    hints: int
    requests: int
    retransmissions: int
    alive: bool


def lossy(seed: int, rate: float, seconds: float, loss: float = LOSS) -> Lossy:
    """One run on a path that loses, beside a perfect one."""
    pair = TrafficPair(seed, up=rate, down=rate, loss=loss)
    pair.run(seconds)
    window = pair.ue.live.window
    return Lossy(
        moves=len(pair.moves),
        hints=pair.hints,
        requests=window.requests_sent,
        retransmissions=window.retransmissions_sent,
        alive=pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED,
    )


def left(seed: int, up: float, down: float, loss: float = 0.0) -> float | None:
    """Seconds until a path that falls silent is left; ``None`` when it is not within ten."""
    pair = TrafficPair(seed, up=up, down=down, loss=loss)
    pair.run(5.0 + pair.random.random())
    moment, pair.dead = pair.now, {A}
    pair.run(10.0)
    return pair.moves[0][0] - moment if pair.ue_at == B else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    count = arguments.seeds
    seeds = range(count)
    results: dict[str, object] = {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for rate in RATES:
            runs = list(pool.map(lossy, seeds, [rate] * count, [arguments.minutes * 60] * count))
            results[f"30 % loss each way, {rate} packets/s each way"] = {
                "runs": count,
                "moves": sum(run.moves for run in runs),
                "alive": sum(run.alive for run in runs),
                "hints": sum(run.hints for run in runs),
                "requests": sum(run.requests for run in runs),
                "retransmissions": sum(run.retransmissions for run in runs),
            }
        for up, down in DIRECTIONS:
            times = list(pool.map(left, seeds, [up] * count, [down] * count))
            found = [each for each in times if each is not None]
            results[f"dead, {up} packets/s up and {down} down"] = {
                "runs": count,
                "left": len(found),
                "mean": round(sum(found) / max(1, len(found)), 3),
                "longest": round(max(found, default=0.0), 3),
            }
    document = {
        "minutes": arguments.minutes,
        "python": platform.python_version(),
        "results": results,
    }
    text = json.dumps(document, indent=1)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
