"""Debian's strongSwan (charon, swanctl) as a UE or as a gateway in a network namespace of its own.

``Charon`` runs one daemon: its configuration, credentials, log and vici socket lie in a temporary directory,
``/run`` is private to it, so that several live side by side. What it negotiates comes from a template:

``ue_connection``
    A UE as a stock client is set up: EAP-MSCHAPv2 (or any method that needs an identity and a password)
    towards a gateway that shows a certificate; MOBIKE; an inner address by configuration payload
    (``vips = 0.0.0.0``). ``gateway_identity`` is what it sends as IDr *and* what the certificate must
    contain: an APN, or the FQDN of an ePDG. IDi is ``identity``, of any form.
``gateway_connections``
    A gateway: authenticates itself with a certificate, hands EAP to a RADIUS server (``RadiusServer``), gives
    inner addresses from a pool, allows MOBIKE. One connection per entry of ``identities``: charon chooses
    it by the IDr that the UE asks for, so an APN and an FQDN may stand side by side.

ESP is ``kernel-libipsec``: userspace on a TUN interface ``ipsec0``, always UDP-encapsulated, no ESN,
tunnel mode only; it fakes NAT detection, so everything runs on port 4500. It cannot change an SA in place:
charon rekeys the child SA right after a move.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from lab.namespaces import Namespace, terminate
from protocols.path import Address
from tests.peers.certificates import Credentials
from tests.peers.processes import Peer, PeerError, require_file, require_program, tail, wait_until
from tests.peers.swanctl import IkeStatus, ike_statuses

CHARON = Path("/usr/lib/ipsec/charon")
PLUGIN_DIRECTORY = CHARON.parent / "plugins"
PLUGINS = (
    "random nonce openssl fips-prf curve25519 xcbc cmac ctr ccm chapoly kdf drbg pem pkcs1 pkcs8 x509 revocation"
    " constraints pubkey kernel-libipsec kernel-netlink socket-default vici updown eap-identity eap-aka eap-mschapv2"
    " eap-radius"
)
KERNEL_PLUGINS = PLUGINS.replace(" kernel-libipsec", "")  # ESP is the kernel's, where it has it
REQUIRED_PLUGINS = ("vici", "kernel-libipsec", "eap-mschapv2", "eap-radius", "curve25519")
READY_TIMEOUT = 20.0
COMMAND_TIMEOUT = 30.0
UE_CONNECTION = "ue"
CHILD = "net"


def require_strongswan() -> None:
    """Skip the calling test where charon, swanctl or a plugin that the templates use is not installed."""
    require_program(CHARON, "swanctl")
    require_file(*(PLUGIN_DIRECTORY / f"libstrongswan-{plugin}.so" for plugin in REQUIRED_PLUGINS))


@dataclass(frozen=True, kw_only=True)
class RadiusServer:
    """Where charon's eap-radius sends EAP."""

    address: Address | str
    secret: str
    port: int = 1812


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What one charon loads: swanctl.conf, credential files, and settings of the daemon."""

    swanctl: str
    authorities: Sequence[bytes] = ()  # PEM
    credentials: Sequence[Credentials] = ()
    radius: RadiusServer | None = None
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    """Further settings of strongswan.conf's ``charon`` section, e.g. ``{"retransmit_base": 1.6}``."""
    log_levels: Mapping[str, int] = field(default_factory=dict)
    """Beside the default (1, and 2 for ike); ``{"ike": 4, "chd": 4}`` writes the keys into the log."""
    plugins: str = PLUGINS


def ue_connection(
    *,
    gateway: Address | str,
    gateway_identity: str,
    identity: str,
    password: str,
    authorities: Sequence[bytes],
    eap: str = "eap-mschapv2",
    proposals: str = "aes128-sha256-x25519",
    esp_proposals: str = "aes128gcm16",
    remote_selectors: Sequence[IPv4Network | str] = ("0.0.0.0/0",),
    inner_addresses: Sequence[str] = ("0.0.0.0",),
    mobike: bool = True,
    dpd_delay: float = 0,
    ike_rekey_interval: int = 0,
    child_rekey_interval: int = 0,
    settings: Mapping[str, str | int | float] | None = None,
    log_levels: Mapping[str, int] | None = None,
) -> Configuration:
    """The UE template of this module's docstring; its connection is ``ue``, its child SA ``net``.

    ``dpd_delay`` and the rekey intervals are in seconds, 0 is never.
    """
    swanctl = f"""
connections {{
  {UE_CONNECTION} {{
    version = 2
    remote_addrs = {gateway}
    proposals = {proposals}
    vips = {", ".join(inner_addresses)}
    mobike = {_yes(mobike)}
    dpd_delay = {dpd_delay:g}s
    rekey_time = {ike_rekey_interval}s
    local {{
      auth = {eap}
      id = "{identity}"
      eap_id = "{identity}"
    }}
    remote {{
      auth = pubkey
      id = "{gateway_identity}"
    }}
    children {{
      {CHILD} {{
        remote_ts = {_selectors(remote_selectors)}
        esp_proposals = {esp_proposals}
        rekey_time = {child_rekey_interval}s
      }}
    }}
  }}
}}
secrets {{
  eap-{UE_CONNECTION} {{
    id = "{identity}"
    secret = "{password}"
  }}
}}
"""
    return Configuration(swanctl=swanctl, authorities=authorities, settings=settings or {}, log_levels=log_levels or {})


def gateway_connections(
    *,
    address: Address | str,
    identities: Sequence[str],
    credentials: Credentials,
    authorities: Sequence[bytes],
    radius: RadiusServer,
    pool: IPv4Network,
    dns: Sequence[IPv4Address] = (),
    eap_identity: str | None = None,
    proposals: str = "aes128-sha256-x25519",
    esp_proposals: str = "aes128gcm16,aes128-sha256",
    local_selectors: Sequence[IPv4Network | str] = ("0.0.0.0/0",),
    mobike: bool = True,
    dpd_delay: float = 0,
    ike_rekey_interval: int = 0,
    child_rekey_interval: int = 0,
    settings: Mapping[str, str | int | float] | None = None,
    log_levels: Mapping[str, int] | None = None,
) -> Configuration:
    """The gateway template of this module's docstring.

    ``eap_identity="%any"`` makes charon ask with EAP-Request/Identity first; None takes IDi as the identity,
    as an ePDG does (TS 33.402 §8.2.2). Its connections are ``gateway-0``, ``gateway-1``, … in the order of
    ``identities``, their child SA is ``net``.
    """
    ask = "" if eap_identity is None else f"eap_id = {eap_identity}"
    connections = "".join(
        f"""
  gateway-{number} {{
    version = 2
    local_addrs = {address}
    proposals = {proposals}
    pools = inner
    mobike = {_yes(mobike)}
    send_cert = always
    dpd_delay = {dpd_delay:g}s
    rekey_time = {ike_rekey_interval}s
    local {{
      auth = pubkey
      certs = credentials-0.pem
      id = "{identity}"
    }}
    remote {{
      auth = eap-radius
      id = %any
      {ask}
    }}
    children {{
      {CHILD} {{
        local_ts = {_selectors(local_selectors)}
        esp_proposals = {esp_proposals}
        rekey_time = {child_rekey_interval}s
      }}
    }}
  }}"""
        for number, identity in enumerate(identities)
    )
    resolvers = f"dns = {', '.join(map(str, dns))}" if dns else ""
    swanctl = f"""
connections {{{connections}
}}
pools {{
  inner {{
    addrs = {pool}
    {resolvers}
  }}
}}
"""
    return Configuration(
        swanctl=swanctl,
        authorities=authorities,
        credentials=(credentials,),
        radius=radius,
        settings=settings or {},
        log_levels=log_levels or {},
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _selectors(selectors: Sequence[IPv4Network | str]) -> str:
    return ", ".join(map(str, selectors))


class Charon(Peer):
    """One charon in ``namespace``: a context manager; its log is printed at the end for a failing test."""

    def __init__(self, namespace: Namespace, configuration: Configuration, *, name: str | None = None) -> None:
        require_strongswan()
        self.name = name or namespace.name
        self.namespace = namespace
        self.configuration = configuration
        self._stack = contextlib.ExitStack()
        # Short on purpose: a Unix socket's path has at most 107 octets.
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="charon-")))
        self.vici = self.directory / "vici"
        self.log_file = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """With its connections loaded."""
        self.start()
        self.load()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Write the configuration, start the daemon, wait until its vici socket answers."""
        self._write()
        output = self._stack.enter_context((self.directory / "output").open("wb"))
        environment = {"STRONGSWAN_CONF": str(self.directory / "strongswan.conf")}
        self._process = self.namespace.popen(
            [CHARON],
            stdout=output,
            stderr=subprocess.STDOUT,
            environment=environment,
            directory=self.directory,
            private_directories=("/run",),
        )
        wait_until(
            self._vici_answers,
            what=f"charon {self.name} starting",
            timeout=READY_TIMEOUT,
            process=self._process,
            log=self.log,
        )

    def _vici_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.vici)) == 0

    def close(self) -> None:
        """Stop the daemon (it deletes its SAs) and remove its directory; again is harmless."""
        if self._process is not None:
            terminate(self._process)
            self._process = None
            print(f"--- charon {self.name} ---\n{self.log()}")
        self._stack.close()

    def kill(self) -> None:
        """End the daemon at once, without a word to its peers (a crash)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the daemon is alive."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What charon has logged so far, and before that what it said on its standard output."""
        texts = []
        for file in (self.directory / "output", self.log_file):
            with contextlib.suppress(FileNotFoundError):
                texts.append(file.read_text(errors="replace"))
        return "".join(texts)

    def wait_for_log(self, pattern: str, *, timeout: float = 10.0, since: int = 0) -> re.Match[str]:
        """The first match of a regular expression in the log from offset ``since``, waited for."""
        expression = re.compile(pattern, re.MULTILINE)
        return wait_until(
            lambda: expression.search(self.log(), since),
            what=f"charon {self.name} logging {pattern!r}",
            timeout=timeout,
            process=self._process,
            log=self.log,
        )

    # ------------------------------------------------------------------ commands

    def swanctl(self, *words: str, timeout: float = COMMAND_TIMEOUT, check: bool = True) -> str:
        """Run ``swanctl WORDS`` against this daemon; ``PeerError`` with both logs when it fails."""
        done = subprocess.run(
            ["swanctl", *words, "--uri", f"unix://{self.vici}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={
                **os.environ,
                "SWANCTL_DIR": str(self.directory / "swanctl"),
                "STRONGSWAN_CONF": str(self.directory / "swanctl" / "strongswan.conf"),
                "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin",
            },
        )
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}"
            raise PeerError(f"swanctl {' '.join(words)} ({self.name}): {said}\n{tail(self.log())}")
        return done.stdout

    def load(self) -> None:
        """Load credentials, pools and connections (again, after ``configuration`` was changed)."""
        self._write()
        self.swanctl("--load-all", "--clear", "--noprompt")

    def initiate(self, child: str = CHILD, *, timeout: float = 20.0) -> IkeStatus:
        """Set up the connection of ``child``; ``PeerError`` with the log when it is refused."""
        self.swanctl("--initiate", "--child", child, "--timeout", f"{timeout:g}", timeout=timeout + 5)
        return self.wait_established()

    def terminate(self, connection: str = UE_CONNECTION, *, timeout: float = 20.0) -> None:
        """Delete the IKE SAs of a connection and wait until the peer has answered."""
        self.swanctl("--terminate", "--ike", connection, "--timeout", f"{timeout:g}", timeout=timeout + 5)

    def rekey_ike(self, connection: str = UE_CONNECTION) -> None:
        """Start rekeying the IKE SA (RFC 7296 §2.18)."""
        self.swanctl("--rekey", "--ike", connection)

    def rekey_child(self, child: str = CHILD) -> None:
        """Start rekeying the child SA (RFC 7296 §2.8)."""
        self.swanctl("--rekey", "--child", child)

    def list_sas(self) -> tuple[IkeStatus, ...]:
        """Every IKE SA with its child SAs."""
        return ike_statuses(self.swanctl("--list-sas", "--pretty"))

    def wait_established(self, *, remote: Address | str | None = None, timeout: float = 10.0) -> IkeStatus:
        """The first established IKE SA with a child SA, optionally the one whose peer is at ``remote``."""

        def found() -> IkeStatus | None:
            for status in self.list_sas():
                if status.established and remote in (None, status.remote.address, str(status.remote.address)):
                    return status
            return None

        what = f"charon {self.name} having an established SA" + (f" with {remote}" if remote else "")
        return wait_until(found, what=what, timeout=timeout, process=self._process, log=self.log)

    def wait_moved(self, local: Address | str, *, timeout: float = 10.0) -> IkeStatus:
        """The established IKE SA once its own address is ``local``."""

        def moved() -> IkeStatus | None:
            for status in self.list_sas():
                if status.established and str(status.local.address) == str(local):
                    return status
            return None

        what = f"charon {self.name} moving to {local}"
        return wait_until(moved, what=what, timeout=timeout, process=self._process, log=self.log)

    def wait_gone(self, *, timeout: float = 10.0) -> None:
        """Wait until no SA is left."""
        wait_until(
            lambda: not self.list_sas(),
            what=f"charon {self.name} having no SA",
            timeout=timeout,
            process=self._process,
            log=self.log,
        )

    # ------------------------------------------------------------------ files

    def _write(self) -> None:
        configuration = self.configuration
        directory = self.directory / "swanctl"
        for kind in ("x509", "x509ca", "private"):
            (directory / kind).mkdir(parents=True, exist_ok=True)
        for number, authority in enumerate(configuration.authorities):
            (directory / "x509ca" / f"authority-{number}.pem").write_bytes(authority)
        for number, credentials in enumerate(configuration.credentials):
            (directory / "x509" / f"credentials-{number}.pem").write_bytes(credentials.certificate_pem)
            (directory / "private" / f"credentials-{number}.pem").write_bytes(credentials.key_pem)
        (directory / "swanctl.conf").write_text(configuration.swanctl)
        # swanctl reads strongswan.conf too: an empty one keeps the machine's own out of the test.
        (directory / "strongswan.conf").write_text("")
        (self.directory / "strongswan.conf").write_text(self._strongswan_conf())

    def _strongswan_conf(self) -> str:
        configuration = self.configuration
        levels = {"default": 1, "ike": 2, **configuration.log_levels}
        settings = {"install_routes": "yes", "port": 500, "port_nat_t": 4500, **configuration.settings}
        radius = ""
        if configuration.radius is not None:
            server = configuration.radius
            radius = f"""
    eap-radius {{
      servers {{
        aaa {{
          address = {server.address}
          auth_port = {server.port}
          secret = "{server.secret}"
        }}
      }}
    }}"""
        return f"""
charon {{
  load = {configuration.plugins}
  {_assignments(settings, "  ")}
  plugins {{
    vici {{
      socket = unix://{self.vici}
    }}{radius}
  }}
  filelog {{
    test {{
      path = {self.log_file}
      flush_line = yes
      time_format = %H:%M:%S
      time_add_ms = yes
      {_assignments(levels, "      ")}
    }}
  }}
}}
"""


def _assignments(values: Mapping[str, str | int | float], indent: str) -> str:
    return f"\n{indent}".join(f"{key} = {value}" for key, value in values.items())
