"""Debian's hostapd as a RADIUS server with an EAP server of its own, and the AuC that it asks for vectors.

``Hostapd`` runs it without any radio (``driver=none``). Which method an identity gets is one line of its user
file: ``password_user`` gives EAP-MSCHAPv2 with a password, ``aka_users`` EAP-AKA to every identity with the
leading digit 0 (EAP-AKA' with 6; TS 23.003 §19.3.2). ``AuthenticationCentre`` answers hostapd's questions for
vectors on a Unix datagram socket, in hostapd's own text protocol:

::

    AKA-REQ-AUTH <imsi>               -->
                                      <--  AKA-RESP-AUTH <imsi> <RAND> <AUTN> <IK> <CK> <RES>  |  … FAILURE
    AKA-AUTS <imsi> <AUTS> <RAND>     -->  (no answer; the next vector is in step with the USIM)
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.namespaces import Namespace, terminate
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import SqnScheme
from protocols.algorithms.vector import AkaVector, generate_vector, verify_auts
from protocols.errors import RemoteError
from protocols.path import Address
from protocols.secret import Secret
from tests.peers.processes import Peer, find_program, require_program, wait_until
from tests.peers.strongswan import RadiusServer

READY_TIMEOUT = 10.0
RADIUS_SECRET = "radius-test-secret"


def require_hostapd() -> None:
    """Skip the calling test where hostapd is not installed."""
    require_program("hostapd")


def password_user(identity: str, password: str) -> str:
    """A line of the user file: EAP-MSCHAPv2 for one identity."""
    return f'"{identity}" MSCHAPV2 "{password}"'


def aka_users() -> Sequence[str]:
    """Lines of the user file: EAP-AKA and EAP-AKA' by the leading digit, pseudonyms and fast
    re-authentication identities (hostapd's own digits 2, 4 and 7, 8) included."""
    return ('"0"* AKA', '"2"* AKA', '"4"* AKA', '"6"* AKA\'', '"7"* AKA\'', '"8"* AKA\'')


class Subscriber:
    """A subscriber of the test's AuC: Milenage with K and OPc, and the sequence number last used."""

    def __init__(self, *, k: bytes, opc: bytes, sqn: int = 0) -> None:
        self._algorithm = Milenage(Secret(k), opc=Secret(opc))
        self._state = SqnScheme().state(sqn)
        self.resynchronisations = 0

    def vector(self) -> AkaVector:
        """The next vector, of a fresh RAND (TS 33.102 §6.3.2)."""
        sqn, self._state = SqnScheme().next(self._state)
        return generate_vector(self._algorithm, rand=os.urandom(16), sqn=sqn)

    def resynchronise(self, rand: bytes, auts: bytes) -> None:
        """Take SQN_MS out of AUTS (TS 33.102 §6.3.5)."""
        sqn = verify_auts(self._algorithm, rand=rand, auts=auts)
        self._state = SqnScheme().resynchronised(self._state, sqn)
        self.resynchronisations += 1


class AuthenticationCentre:
    """Answers on a Unix datagram socket at ``path`` until it is closed; ``requests`` is what it was asked."""

    def __init__(self, path: Path, subscribers: Mapping[str, Subscriber]) -> None:
        self.path = path
        self.subscribers = subscribers
        self.requests: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._serve, name="authentication centre")
        self._thread.start()

    def close(self) -> None:
        """Stop answering; again is harmless."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as knock:
                knock.sendto(b"", str(self.path))  # an empty datagram ends the thread
            self._thread.join()
            self._socket.close()

    def _serve(self) -> None:
        while True:
            request, sender = self._socket.recvfrom(1024)
            if not request:
                return
            answer = self._answer(request.decode("ascii", "replace"))
            if answer:
                with contextlib.suppress(OSError):  # hostapd may have gone meanwhile
                    self._socket.sendto(answer.encode("ascii"), sender)

    def _answer(self, request: str) -> str:
        self.requests.append(request)
        match request.split():
            case ["AKA-REQ-AUTH", imsi]:
                subscriber = self.subscribers.get(imsi)
                if subscriber is None:
                    return f"AKA-RESP-AUTH {imsi} FAILURE"
                vector = subscriber.vector()
                values = (vector.rand, vector.autn, vector.ik, vector.ck, vector.xres)
                return " ".join(("AKA-RESP-AUTH", imsi, *(value.hex() for value in values)))
            case ["AKA-AUTS", imsi, auts, rand] if imsi in self.subscribers:
                # An AUTS that does not verify changes nothing; the attach then fails by itself.
                with contextlib.suppress(RemoteError, ValueError):
                    self.subscribers[imsi].resynchronise(bytes.fromhex(rand), bytes.fromhex(auts))
        return ""


class Hostapd(Peer):
    """One hostapd in ``namespace`` as a RADIUS EAP server: a context manager.

    ``subscribers`` maps IMSIs to what the AuC knows of them; ``eap_sim_id`` is hostapd's: 0 neither
    pseudonyms nor fast re-authentication, 3 both. Its log is printed at the end for a failing test.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        users: Sequence[str],
        subscribers: Mapping[str, Subscriber] | None = None,
        secret: str = RADIUS_SECRET,
        port: int = 1812,
        eap_sim_id: int = 0,
        result_indications: bool = False,
        debug: bool = False,
    ) -> None:
        require_hostapd()
        self.namespace = namespace
        self.users = tuple(users)
        self.secret = secret
        self.port = port
        self.centre: AuthenticationCentre | None = None
        self._subscribers = subscribers
        self._eap_sim_id = eap_sim_id
        self._result_indications = result_indications
        self._debug = debug
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hostapd-")))
        self.log_file = self.directory / "log"

    def radius_server(self, address: Address | str) -> RadiusServer:
        """This server as charon's eap-radius is told of it; ``address`` is one of its namespace."""
        return RadiusServer(address=address, secret=self.secret, port=self.port)

    def start(self) -> None:
        """Start the AuC and hostapd; returns when the RADIUS port is open."""
        (self.directory / "users").write_text("".join(f"{line}\n" for line in self.users))
        (self.directory / "clients").write_text(f"0.0.0.0/0 {self.secret}\n")
        settings: dict[str, str | int | Path] = {
            "driver": "none",
            "eap_server": 1,
            "eap_user_file": self.directory / "users",
            "radius_server_clients": self.directory / "clients",
            "radius_server_auth_port": self.port,
            "eap_sim_id": self._eap_sim_id,
            "eap_sim_aka_result_ind": int(self._result_indications),
        }
        if self._subscribers is not None:
            self.centre = AuthenticationCentre(self.directory / "auc", self._subscribers)
            self._stack.callback(self.centre.close)
            settings["eap_sim_db"] = f"unix:{self.centre.path}"
        configuration = self.directory / "hostapd.conf"
        configuration.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        output = self._stack.enter_context((self.directory / "output").open("wb"))
        words: list[str | Path] = [find_program("hostapd") or "hostapd", "-t", "-f", self.log_file]
        self._process = self.namespace.popen(
            [*words, *(["-d"] if self._debug else []), configuration], stdout=output, stderr=subprocess.STDOUT
        )
        wait_until(
            lambda: "AP-ENABLED" in self.log(),
            what="hostapd starting",
            timeout=READY_TIMEOUT,
            process=self._process,
            log=self.log,
        )

    def log(self) -> str:
        """What hostapd has said so far."""
        texts = []
        for file in (self.directory / "output", self.log_file):
            with contextlib.suppress(FileNotFoundError):
                texts.append(file.read_text(errors="replace"))
        return "".join(texts)

    def close(self) -> None:
        """Stop hostapd and the AuC, remove the directory; again is harmless."""
        if self._process is not None:
            terminate(self._process)
            self._process = None
            print(f"--- hostapd ---\n{self.log()}")
        self._stack.close()
