"""One end of a flow of numbered datagrams, both ways: ``python -m tests.peers.numbered_end FD OCTETS``.

The socket FD is connected. A number on standard input is the rate to send at from now on, 0 ends sending; at the end
of the input what is still on its way is awaited, and one line of JSON tells what was sent and what came. A number that
the kernel did not take is used again.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time

TICK = 0.001  # seconds between two bursts
LATE_TICKS = 5  # what could not be sent for longer is not made up for: a burst would overflow what is on the way
QUIET = 0.5  # nothing came for so long: nothing is on its way
NUMBER_LENGTH = 8


class End:
    """Sends at a rate, keeps what comes."""

    def __init__(self, opened: socket.socket, octets: int) -> None:
        self._socket = opened
        self._filler = bytes(octets - NUMBER_LENGTH)
        self._due = 0.0
        self._last = time.monotonic()
        self.rate = 0.0
        self.sent = 0
        self.refused = 0
        self.seen = bytearray()
        self.duplicated = 0
        self.heard = self._last

    def tick(self) -> None:
        """Send what is due, take what is there."""
        now = time.monotonic()
        self._due = min(self._due + (now - self._last) * self.rate, max(LATE_TICKS * TICK * self.rate, 1.0))
        self._last = now
        while self._due >= 1 and self.rate:
            self._due -= 1
            try:
                self._socket.send(self.sent.to_bytes(NUMBER_LENGTH, "big") + self._filler)
            except OSError:
                self.refused += 1
            else:
                self.sent += 1
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    octets = self._socket.recv(2048)
                except ConnectionError:  # ICMP's word that nobody listens yet
                    continue
                self.heard = now
                self._take(int.from_bytes(octets[:NUMBER_LENGTH], "big"))

    def _take(self, number: int) -> None:
        if number >= len(self.seen):
            self.seen.extend(bytes(number + 1024 - len(self.seen)))
        if self.seen[number]:
            self.duplicated += 1
        self.seen[number] = 1

    def report(self) -> dict[str, object]:
        """What was sent, and the numbers that came as ranges, from the first to behind the last one."""
        ranges: list[tuple[int, int]] = []
        at = self.seen.find(1)
        while at >= 0:
            end = self.seen.find(0, at)
            end = len(self.seen) if end < 0 else end
            ranges.append((at, end))
            at = self.seen.find(1, end)
        return {"sent": self.sent, "refused": self.refused, "came": ranges, "duplicated": self.duplicated}


def main() -> None:
    """Until the input ends and it has been quiet for a while."""
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        opened.setblocking(False)
        end = End(opened, int(sys.argv[2]))
        print(json.dumps({"ready": True}), flush=True)
        pending, is_over = b"", False
        while not is_over or time.monotonic() - end.heard < QUIET:
            if not is_over and select.select([0], [], [], 0)[0]:
                octets = os.read(0, 4096)
                *lines, pending = (pending + octets).split(b"\n")
                for line in lines:
                    end.rate = float(line)
                if not octets:
                    is_over, end.rate, end.heard = True, 0.0, time.monotonic()
            end.tick()
            time.sleep(TICK)
        print(json.dumps(end.report()), flush=True)


if __name__ == "__main__":
    main()
