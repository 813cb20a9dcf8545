"""Debian's freeDiameter as a relay agent, in a network namespace (it binds every address).

``FreeDiameter`` connects to a server and accepts the hosts of ``epc.test``, or of another domain; it relays by
realm without knowing the application (SWx is in none of its dictionaries), and adds Route-Record to requests and
answers. Plain TCP: ``No_TLS`` for the peer it connects to, ``acl_wl`` with ``ALLOW_IPSEC`` for those that connect to
it; with ``tls`` TLS on both sides. The certificate is there because it will not start without one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

from lab.namespaces import Namespace, terminate
from tests.peers.certificates import CertificateAuthority
from tests.peers.processes import find_program, require_file, require_program, wait_until

READY_TIMEOUT = 15.0
EXTENSIONS = Path("/usr/lib/freeDiameter")
DICTIONARIES = ("dict_nasreq.fdx", "dict_eap.fdx", "dict_dcca.fdx", "dict_dcca_3gpp.fdx")
HOST = "dra.epc.test"
REALM = "epc.test"
PORT, TLS_PORT = 3868, 5658


def require_freediameter() -> None:
    """Skip the calling test where freeDiameter or an extension is not installed."""
    require_program("freeDiameterd")
    require_file(*(EXTENSIONS / name for name in (*DICTIONARIES, "acl_wl.fdx")))


class FreeDiameter:
    """A relay agent at ``address``; a context manager that ends it. ``log()`` is what it said."""

    def __init__(
        self,
        namespace: Namespace,
        scratch: Path,
        *,
        address: str,
        server_host: str,
        server_address: str,
        server_port: int,
        authority: CertificateAuthority,
        host: str = HOST,
        realm: str = REALM,
        tls: bool = False,
    ) -> None:
        require_freediameter()
        scratch = scratch / host
        scratch.mkdir(exist_ok=True)
        self._log = scratch / "freediameter.log"
        credentials = authority.issue(names=[host], kind="rsa", common_name=host, diameter=True)
        (scratch / "certificate.pem").write_bytes(credentials.certificate_pem)
        (scratch / "key.pem").write_bytes(credentials.key_pem)
        (scratch / "authority.pem").write_bytes(authority.credentials.certificate_pem)
        (scratch / "acl.conf").write_text(f"{'' if tls else 'ALLOW_IPSEC '}*.{realm}\n")
        extensions = "".join(f'LoadExtension = "{EXTENSIONS / name}";\n' for name in DICTIONARIES)
        (scratch / "freediameter.conf").write_text(
            f'Identity = "{host}";\nRealm = "{realm}";\nNo_SCTP;\nNo_IPv6;\n'
            f"Port = {0 if tls else PORT};\nSecPort = {TLS_PORT if tls else 0};\n"
            f'ListenOn = "{address}";\nTwTimer = 6;\nTcTimer = 1;\nAppServThreads = 1;\n'
            f'TLS_Cred = "{scratch / "certificate.pem"}", "{scratch / "key.pem"}";\n'
            f'TLS_CA = "{scratch / "authority.pem"}";\n'
            f"{extensions}"
            f'LoadExtension = "{EXTENSIONS / "acl_wl.fdx"}" : "{scratch / "acl.conf"}";\n'
            f'ConnectPeer = "{server_host}" {{ ConnectTo = "{server_address}"; Port = {server_port};'
            f"{'' if tls else ' No_TLS;'} }};\n"
        )
        program = find_program("freeDiameterd")
        assert program is not None
        with self._log.open("wb") as log:
            self._process = namespace.popen(
                [program, "-c", scratch / "freediameter.conf"], stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(
            lambda: "initialized" in self.log(),
            what="freeDiameter",
            timeout=READY_TIMEOUT,
            process=self._process,
            log=self.log,
        )

    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it; again is harmless."""
        terminate(self._process)

    def __enter__(self) -> FreeDiameter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
