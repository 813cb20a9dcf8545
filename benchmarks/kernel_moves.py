"""What a move of a child SA costs with the kernel's ESP while packets are sent as fast as they go.

    python -m benchmarks.kernel_moves [--moves 100] [--output benchmarks/results/kernel_moves.json]

Needs root and a kernel with ESP; with several processors in QEMU: ``tests/peers/inkernel.sh -k qemu -t 1800 -w
benchmarks/results .venv/bin/python -m benchmarks.kernel_moves``. ``mover`` moves while ``sender`` sends, the other end
moves when nothing is sent; ``beside`` there is an older SA that stays. ``refused`` packets the sender was told about;
``lost`` ones it was not, ``uncounted`` ones came and are not in ``inbound_packets`` of the SA. All that the gateway got
is replayed afterwards: ``twice`` is what it takes again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path

from protocols.dataplane.xfrm.backend import XfrmDataPlane
from protocols.dataplane.xfrm.moves import LINGER_MAXIMUM_INTERVAL
from tests.dataplane.pairs import ue_spec
from tests.peers.xfrm_scene import BATCH, ELSEWHERE, PATHS, Scene, scene

RESULTS = Path("benchmarks/results/kernel_moves.json")
ENDS = ("ue", "gateway")
SUITE = "aes128gcm16"
CASES = (
    *((mover, sender, encapsulation, False) for encapsulation in (True, False) for mover in ENDS for sender in ENDS),
    ("gateway", "ue", True, True),
)  # who moves, who sends, UDP encapsulation, an older SA of the same selectors beside


def moved(stage: Scene, end: str, number: int, encapsulation: bool) -> None:
    """One end on the other one of two paths."""
    path = (ELSEWHERE, PATHS[4])[number % 2]
    if end == "ue":
        stage.ue_plane.update_path(stage.spec.inbound_spi, path, encapsulation)
    else:
        stage.gateway_plane.update_path(stage.spec.outbound_spi, path.reversed(), encapsulation)


def settled(plane: XfrmDataPlane) -> None:
    """Some time later: the SAs of paths that were left are gone."""
    for now in (0.0, 2 * LINGER_MAXIMUM_INTERVAL):
        plane.expire(now)


def again(stage: Scene, receiver: str) -> int:
    """Inject what the gateway has been sent once more; how many it takes a second time."""
    taken = 0
    seen = [each.octets for each in stage.seen()][-stage.spec.replay_window :]
    if receiver == "gateway":
        for begin in range(0, len(seen), BATCH):
            for octets in seen[begin : begin + BATCH]:
                stage.inject(octets)
            taken += stage.arrived(receiver)
    stage.seen()
    return taken


def measured(stage: Scene, mover: str, sender: str, encapsulation: bool, beside: bool, moves: int) -> dict[str, object]:
    """Figures of so many moves."""
    made = replace(ue_spec(SUITE, replay_window=4096), encapsulation=encapsulation)
    older = replace(ue_spec(SUITE, number=2), encapsulation=encapsulation)
    if beside:
        stage.install(older)
    spec = stage.install(made)
    planes = {"ue": (stage.ue_plane, spec.inbound_spi), "gateway": (stage.gateway_plane, spec.outbound_spi)}
    receiver = "gateway" if sender == "ue" else "ue"
    sent = refused = came = twice = moves_with_loss = 0
    for number in range(moves):
        if mover == "gateway":
            moved(stage, "ue", number, encapsulation)
        stage.seen()
        with stage.flood(sender) as flood:
            flood.wait()
            moved(stage, mover, number, encapsulation)
            flood.wait()
        arrived = stage.arrived(receiver)
        sent, refused, came = sent + flood.counted["sent"], refused + flood.counted["refused"], came + arrived
        moves_with_loss += arrived < flood.counted["sent"]
        twice += again(stage, receiver)
        if mover == "ue":
            moved(stage, "gateway", number, encapsulation)
        settled(stage.ue_plane)
        settled(stage.gateway_plane)
    plane, spi = planes[receiver]
    figures: dict[str, object] = {
        "mover": mover,
        "sender": sender,
        "encapsulation": encapsulation,
        "beside": beside,
        "moves": moves,
        "sent": sent,
        "refused": refused,
        "lost": sent - came,
        "moves_with_loss": moves_with_loss,
        "uncounted": came + twice - plane.counters(spi).inbound_packets,
        "twice": twice,
    }
    stage.ue_plane.remove(spec.inbound_spi)
    stage.gateway_plane.remove(spec.outbound_spi)
    if beside:
        stage.ue_plane.remove(older.inbound_spi)
        stage.gateway_plane.remove(older.outbound_spi)
    return figures


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = f"Linux {platform.release()}, {os.cpu_count()} processors"
    rows: list[dict[str, object]] = []
    with scene() as stage:
        for case in CASES:
            rows.append(measured(stage, *case, options.moves))
            print(json.dumps(rows[-1]), flush=True)
            options.output.write_text(json.dumps({"machine": machine, "suite": SUITE, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
