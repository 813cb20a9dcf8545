"""Send UDP datagrams at a rate to an address: ``python -m benchmarks.udp_sender ADDRESS --rate 10000 --seconds 2``.

Prints JSON: how many were sent in how many seconds. A program of its own, so that it runs in a namespace.
"""

from __future__ import annotations

import argparse
import json
import socket
import time

TICK = 0.001  # seconds between two bursts
PORT = 9  # discard
LATE_TICKS = 20  # what could not be sent for longer is not made up for


def send(sender: socket.socket, payload: bytes, rate: float, seconds: float) -> tuple[int, float]:
    """Send ``rate`` datagrams a second, in a burst each tick; how many went out, and in what time."""
    sent, refused = 0, 0
    begun = last = time.monotonic()
    due = 0.0
    while (now := time.monotonic()) - begun < seconds:
        due = min(due + (now - last) * rate, LATE_TICKS * TICK * rate)
        last = now
        burst = int(due)
        due -= burst
        for _ in range(burst):
            try:
                sender.send(payload)
            except OSError:
                refused += 1
        sent += burst
        time.sleep(max(0.0, TICK - (time.monotonic() - now)))
    return sent - refused, time.monotonic() - begun


def main() -> None:
    """Send and say how much."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--source", default="0.0.0.0")
    parser.add_argument("--octets", type=int, default=36, help="of the payload")
    parser.add_argument("--rate", type=float, required=True, help="datagrams a second")
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((arguments.source, 0))
        sender.connect((arguments.address, PORT))
        sent, seconds = send(sender, bytes(arguments.octets), arguments.rate, arguments.seconds)
    print(json.dumps({"sent": sent, "seconds": seconds}))


if __name__ == "__main__":
    main()
