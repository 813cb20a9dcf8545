"""tshark as a judge of captures: fields, and what it found malformed.

Its exit status is 0 even for malformed packets, so the verdict is read from fields.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.peers.processes import PeerError, find_program, require_program

EXPERT_ERROR = 0x00800000  # severity "error" of expert infos; warnings (0x00600000) are below
CHECKSUMS = ("ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE")
RUN_INTERVAL = 60.0


class Tshark:
    """Runs of tshark with one configuration directory (a Wireshark profile), or with an empty one."""

    def __init__(self, scratch: Path, profile: Path | None = None) -> None:
        require_program("tshark")
        self._scratch = scratch
        if profile is None:
            profile = scratch / "empty-wireshark-profile"
            profile.mkdir(exist_ok=True)
        self._profile = profile

    def fields(
        self, capture: Path, names: Sequence[str], *, display_filter: str = "", options: Sequence[str] = ()
    ) -> list[dict[str, list[str]]]:
        """Per packet, field name → its values in order; ``PeerError`` when tshark says a thing is wrong."""
        command = ["-r", str(capture), "-T", "fields", "-E", "separator=/t", "-E", "aggregator=|"]
        command += ["-E", "occurrence=a"]
        for name in names:
            command += ["-e", name]
        if display_filter:
            command += ["-Y", display_filter]
        for option in (*CHECKSUMS, *options):
            command += ["-o", option]
        rows = []
        for line in self._run(command).splitlines():
            values = line.split("\t")
            rows.append(
                {
                    name: value.split("|") if value else []
                    for name, value in zip(names, values + [""] * len(names), strict=False)
                }
            )
        return rows

    def complaints(self, capture: Path, *, severity: int = EXPERT_ERROR) -> list[str]:
        """Frame number and message of every malformed packet and expert info from ``severity`` up."""
        rows = self.fields(
            capture,
            ("frame.number", "_ws.malformed", "_ws.expert.message"),
            display_filter=f"_ws.malformed || _ws.expert.severity >= {severity}",
        )
        return [
            f"frame {' '.join(row['frame.number'])}: " + "; ".join(row["_ws.malformed"] + row["_ws.expert.message"])
            for row in rows
        ]

    def _run(self, arguments: Sequence[str]) -> str:
        program = find_program("tshark")
        assert program is not None
        environment: Mapping[str, str] = {
            **os.environ,
            "WIRESHARK_CONFIG_DIR": str(self._profile),
            "HOME": str(self._scratch),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        done = subprocess.run(
            [str(program), "-n", *arguments],
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=RUN_INTERVAL,
            check=False,
        )
        complaints = [line for line in done.stderr.splitlines() if line and "Running as user" not in line]
        if done.returncode or complaints:
            raise PeerError(f"tshark {' '.join(arguments)}: status {done.returncode}\n" + "\n".join(complaints))
        return done.stdout
