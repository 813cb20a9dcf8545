"""iputils' ping as a steady flow, and when its answers came: what a move or a rekeying costs."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from lab.namespaces import Namespace
from protocols.path import Address
from tests.peers.processes import require_program, wait_until

ANSWERS_TIMEOUT = 15.0
END_TIMEOUT = 10.0
ON_ITS_WAY = 1.0  # seconds, for the answers to what was asked last: ping does not wait for them when it is stopped
_SENT = re.compile(r"(\d+) packets transmitted")
_ANSWER = re.compile(r"^\[(\d+\.\d+)\] \d+ bytes from .*icmp_seq=(\d+) ttl=\d+ time=([\d.]+) ms", re.MULTILINE)


class PingFlow:
    """Echo requests every ``interval`` seconds as long as the context lasts, from inside ``namespace``."""

    def __init__(
        self,
        namespace: Namespace,
        destination: Address | str,
        *,
        source: Address | str | None = None,
        interval: float = 0.02,
    ) -> None:
        require_program("ping", "stdbuf")
        self.interval = interval
        self.output = ""
        self.lost = 0
        """Requests without an answer, but for those of the last ``ON_ITS_WAY`` seconds; known at the end."""
        self._namespace = namespace
        self._words = ["ping", "-n", "-D", "-i", str(interval), "-W", "1"]
        if source is not None:
            self._words += ["-I", str(source)]
        self._words.append(str(destination))
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="ping-")
        self._file = Path(self._directory.name) / "output"

    def __enter__(self) -> PingFlow:
        with self._file.open("wb") as output:
            self._process = self._namespace.popen(["stdbuf", "-oL", *self._words], stdout=output, stderr=output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self.go_on()
        self._process.send_signal(signal.SIGINT)  # it prints its counts
        self._process.wait(END_TIMEOUT)
        self.output = self._file.read_text()
        self._directory.cleanup()
        answered = {number for number, _ in self.answers}
        last, sent = max(answered, default=0), _SENT.search(self.output)
        behind = 0 if sent is None else int(sent[1]) - last
        self.lost = last - len(answered) + max(0, behind - round(ON_ITS_WAY / self.interval))

    @property
    def answers(self) -> list[tuple[int, float]]:
        """Sequence number and time of every answer so far, in the order they came."""
        return [(int(number), float(moment)) for moment, number, _ in self._found()]

    @property
    def round_trips(self) -> list[float]:
        """Of the same answers, seconds."""
        return [float(milliseconds) / 1000 for _, _, milliseconds in self._found()]

    def _found(self) -> list[tuple[str, str, str]]:
        return _ANSWER.findall(self.output or self._file.read_text())

    def pause(self) -> None:
        """Stand still until ``go_on``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ask again; where it does so already, nothing changes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait_answers(self, count: int) -> None:
        """Wait for so many answers more."""
        wanted = len(self.answers) + count
        wait_until(
            lambda: len(self.answers) >= wanted,
            what=f"{count} answers to ping",
            timeout=ANSWERS_TIMEOUT,
            process=self._process,
            log=self._file.read_text,
        )

    def silence(self) -> float:
        """How long ago the last answer came, in seconds."""
        answers = self.answers
        return time.time() - answers[-1][1] if answers else 0.0

    def outages(self, count: int) -> list[float]:
        """The ``count`` longest silences beyond the interval, in the order they came; seconds."""
        moments = [moment for _, moment in self.answers]
        silences = [max(0.0, later - earlier - self.interval) for earlier, later in pairwise(moments)]
        longest = sorted(range(len(silences)), key=silences.__getitem__)[-count:]
        return [silences[index] for index in sorted(longest)]
