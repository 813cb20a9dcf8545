"""wpa_supplicant's EAP-AKA and EAP-AKA' peer (Debian's ``eapol_test``) against a RADIUS EAP server.

Debian's build has no Milenage of its own: ``eapol_test`` asks for the USIM's answer on its control
socket, and ``Usim`` (anything with ``authenticate(rand, autn)``) gives it:

::

    CTRL-REQ-SIM-<id>:UMTS-AUTH:<RAND>:<AUTN>
    CTRL-RSP-SIM-<id>:UMTS-AUTH:<IK>:<CK>:<RES>  |  UMTS-AUTS:<AUTS>  |  UMTS-FAIL
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.namespaces import Namespace, terminate
from protocols.algorithms.usim import UsimResult, UsimSuccess, UsimSynchronisationFailure
from tests.peers.processes import PeerError, find_program, require_program, tail, wait_until
from tests.peers.strongswan import RadiusServer

START_TIMEOUT = 5.0
_QUESTION = re.compile(r"CTRL-REQ-SIM-(\d+):UMTS-AUTH:([0-9a-f]{32}):([0-9a-f]{32})")


class Usim(Protocol):
    """What answers for the USIM."""

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """AUTHENTICATE (TS 31.102 §7.1.2)."""


@dataclass(frozen=True, kw_only=True)
class EapolOutcome:
    """How a run ended: ``success`` means every authentication succeeded and the keys of both ends match."""

    success: bool
    challenges: int
    """How often the USIM was asked: fast re-authentication asks it nothing."""
    output: str


def eapol_test(
    namespace: Namespace,
    usim: Usim,
    *,
    identity: str,
    server: RadiusServer,
    method: str = "AKA",
    reauthentications: int = 0,
    phase1: str = "",
    timeout: float = 15.0,
    settings: Sequence[str] = (),
) -> EapolOutcome:
    """Authenticate ``identity`` once and then ``reauthentications`` times more, from inside ``namespace``.

    ``method`` is ``AKA`` or ``AKA'``; ``phase1="result_ind=1"`` asks for protected result indications.
    """
    require_program("eapol_test")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eapol-")))
        network = [
            "key_mgmt=IEEE8021X",
            "eapol_flags=0",
            f"eap={method}",
            f'identity="{identity}"',
            *([f'phase1="{phase1}"'] if phase1 else []),
            *settings,
        ]
        configuration = directory / "eapol.conf"
        lines = "".join(f"  {line}\n" for line in network)
        configuration.write_text(f"ctrl_interface={directory}\nexternal_sim=1\nnetwork={{\n{lines}}}\n")
        log = directory / "output"
        words = [
            find_program("eapol_test") or "eapol_test",
            "-W",
            f"-c{configuration}",
            f"-a{server.address}",
            f"-p{server.port}",
            f"-s{server.secret}",
            f"-t{timeout:g}",
            f"-r{reauthentications}",
        ]
        with log.open("wb") as output:
            process = namespace.popen(words, stdout=output, stderr=subprocess.STDOUT)
        stack.callback(terminate, process)
        control = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        control.bind(str(directory / "usim"))
        wait_until(
            (directory / "test").exists,
            what="eapol_test opening its control socket",
            timeout=START_TIMEOUT,
            process=process,
            log=log.read_text,
        )
        control.connect(str(directory / "test"))
        control.send(b"ATTACH")
        challenges = _answer_until_end(control, process, usim, timeout=timeout + 5)
        text = log.read_text(errors="replace")
        if process.returncode < 0:
            raise PeerError(f"eapol_test ended by signal {-process.returncode}\n{tail(text)}")
        return EapolOutcome(success=process.returncode == 0, challenges=challenges, output=text)


def _answer_until_end(control: socket.socket, process: subprocess.Popen[bytes], usim: Usim, *, timeout: float) -> int:
    """Answer every question until the process has ended; how many there were."""
    challenges = 0
    control.settimeout(0.05)

    def ended() -> bool:
        nonlocal challenges
        with contextlib.suppress(TimeoutError, ConnectionError):
            message = control.recv(4096).decode("ascii", "replace")
            question = _QUESTION.search(message)
            if question is not None:
                challenges += 1
                result = usim.authenticate(bytes.fromhex(question[2]), bytes.fromhex(question[3]))
                control.send(f"CTRL-RSP-SIM-{question[1]}:{_answer(result)}".encode("ascii"))
        return process.poll() is not None

    wait_until(ended, what="eapol_test finishing", timeout=timeout)
    return challenges


def _answer(result: UsimResult) -> str:
    match result:
        case UsimSuccess(res=res, ck=ck, ik=ik):
            return f"UMTS-AUTH:{ik.hex()}:{ck.hex()}:{res.hex()}"
        case UsimSynchronisationFailure(auts=auts):
            return f"UMTS-AUTS:{auts.hex()}"
        case _:
            return "UMTS-FAIL"
