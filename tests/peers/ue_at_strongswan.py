"""Our UE at a charon gateway that asks for no more than a pre-shared key: IKE, MOBIKE and ESP apart from EAP.

``Terms`` is the gateway's connection as swanctl reads it; charon takes other terms while it runs, so one daemon
serves many scenarios. ``Bench`` holds the stage, the charon and the UEs started in it; ``UeAtCharon`` is one of
them, with what it says of its SAs. Both ends' views are compared by ``agree``.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path

from lab.namespaces import ACCESS_A, ACCESS_B, CORE, GATEWAY, HOST_BEHIND_GATEWAY, INNER_ADDRESSES, AccessTopology
from protocols.path import Address
from protocols.trace.records import JsonValue
from tests.peers.namespaces import ping
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until
from tests.peers.strongswan import CHILD, PLUGINS, Charon, Configuration
from tests.peers.swanctl import IkeStatus

CONNECTION = "gateway"
SECOND_CHILD = "second"
APN = "internet"
IDENTITY = "ue-1@example.org"
KEY = "a secret of sufficient length"
WAIT = 10.0

IKE_SUITE = "aes128-sha256-x25519"
ESP_SUITE = "aes128gcm16"

View = dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What charon grants; times in seconds, 0 is never."""

    addresses: Sequence[Address | str] = (GATEWAY.ip,)
    proposals: str = IKE_SUITE
    esp_proposals: str = ESP_SUITE
    selectors: Sequence[str] = (f"{HOST_BEHIND_GATEWAY}/32", str(CORE.network))
    remote_selectors: str = "dynamic"
    second_selectors: Sequence[str] = ()
    """Of a further child SA, ``second``, where there are any."""
    pool: IPv4Network | None = INNER_ADDRESSES
    key: str = KEY
    mobike: bool = True
    fragmentation: str = "yes"
    encapsulate: bool = False
    dpd_delay: float = 0
    ike_rekey_interval: float = 0
    child_rekey_interval: float = 0
    reauthentication_interval: float = 0
    mode: str = "tunnel"
    over_time: float = 0

    def swanctl(self) -> str:
        """The terms as swanctl.conf."""
        second = ""
        if self.second_selectors:
            second = f"""
      {SECOND_CHILD} {{
        local_ts = {", ".join(self.second_selectors)}
        esp_proposals = {self.esp_proposals}
      }}"""
        over_time = f"over_time = {self.over_time:g}s" if self.over_time else ""
        return f"""
connections {{
  {CONNECTION} {{
    version = 2
    local_addrs = {", ".join(map(str, self.addresses))}
    proposals = {self.proposals}
    {"pools = inner" if self.pool is not None else ""}
    mobike = {"yes" if self.mobike else "no"}
    fragmentation = {self.fragmentation}
    encap = {"yes" if self.encapsulate else "no"}
    dpd_delay = {self.dpd_delay:g}s
    rekey_time = {self.ike_rekey_interval:g}s
    reauth_time = {self.reauthentication_interval:g}s
    {over_time}
    local {{
      auth = psk
      id = "{APN}"
    }}
    remote {{
      auth = psk
      id = "{IDENTITY}"
    }}
    children {{
      {CHILD} {{
        local_ts = {", ".join(self.selectors)}
        remote_ts = {self.remote_selectors}
        esp_proposals = {self.esp_proposals}
        mode = {self.mode}
        rekey_time = {self.child_rekey_interval:g}s
      }}{second}
    }}
  }}
}}
pools {{
  inner {{
    addrs = {self.pool or INNER_ADDRESSES}
  }}
}}
secrets {{
  ike-1 {{
    id-ue = "{IDENTITY}"
    id-gateway = "{APN}"
    secret = "{self.key}"
  }}
}}
"""


class UeAtCharon:
    """One ``ue run`` and what it says."""

    def __init__(self, node: NodeProcess, stage: AccessTopology) -> None:
        self.node = node
        self.stage = stage

    def attach(self, access: str = "wifi-a") -> View:
        """Attach; the session."""
        return self.node.call("ue.attach", access=access)

    def move(self, to: str, *, keep_old: bool = False) -> View:
        """Move; the measures."""
        return part(self.node.call("ue.move", to=to, keep_old=keep_old), "move")

    def session(self) -> View:
        """The present or last session."""
        sessions = self.node.call("ue.status")["sessions"]
        assert isinstance(sessions, list)
        (session,) = sessions
        assert isinstance(session, dict)
        return session

    def wait(self, fits: Callable[[View], bool], what: str, timeout: float = WAIT) -> View:
        """The session once it fits."""

        def found() -> View | None:
            session = self.session()
            return session if fits(session) else None

        return wait_until(found, what=what, timeout=timeout, log=self.node.log)

    def wait_single_child(self, *, other_than: Sequence[str] = ()) -> View:
        """The session once it has one child SA, none of those (by inbound SPI)."""
        return self.wait(
            lambda seen: len(spis := inbound_spis(seen)) == 1 and spis[0] not in other_than, "one child SA being left"
        )

    def wait_ended(self, timeout: float = WAIT) -> View:
        """The session once it is over."""
        return self.wait(lambda seen: seen["state"] == "closed", "the session being over", timeout)

    def wait_rekeyed(self, before: View) -> View:
        """The session once its IKE SA is another one."""
        old = part(before, "ike")["spi_r"]
        return self.wait(lambda seen: part(seen, "ike")["spi_r"] != old, "the IKE SA being rekeyed")

    def inner_address(self) -> str:
        """The inner address."""
        addresses = self.session()["inner_addresses"]
        assert isinstance(addresses, list)
        (address,) = addresses
        return str(address)

    def ping(self, count: int = 2) -> None:
        """Traffic through the tunnel and back: all of it arrives."""
        done = ping(self.stage.ue, HOST_BEHIND_GATEWAY, source=self.inner_address(), count=count)
        assert done.received == count, done.output


@dataclass(kw_only=True)
class Bench:
    """The stage with one charon as the gateway; UEs come and go."""

    stage: AccessTopology
    charon: Charon
    terms: Terms = field(default_factory=Terms)

    def grant(self, terms: Terms) -> None:
        """Give the gateway other terms; SAs that exist keep theirs."""
        if terms != self.terms:
            self.charon.configuration = configuration(terms, self.charon.configuration)
            self.charon.load()
            self.terms = terms

    @contextlib.contextmanager
    def ue(self, *, wait_gone: bool = True, **changes: object) -> Iterator[UeAtCharon]:
        """A UE, detached at the end; keywords change its configuration."""
        with (
            tempfile.TemporaryDirectory(prefix="ue-") as directory,
            NodeProcess(self.stage.ue, "ue", Path(directory), {**ue_configuration(), **changes}, verb="run") as node,
        ):
            yield UeAtCharon(node, self.stage)
        if wait_gone:
            self.charon.wait_gone()

    def status(self) -> IkeStatus:
        """The only established IKE SA as charon has it."""
        return self.charon.wait_established()

    def since(self) -> int:
        """Now, as a place in charon's log."""
        return len(self.charon.log())

    def agree(self, ue: UeAtCharon) -> IkeStatus:
        """Wait until both ends have the same single IKE SA and the same child SAs; charon's view."""

        def agreed() -> IkeStatus | None:
            listed, session = self.charon.list_sas(), ue.session()
            if len(listed) != 1 or not listed[0].established:
                return None
            (served,) = listed
            ours = part(session, "ike")
            same_ike = {served.spi_initiator, served.spi_responder} == {ours["spi_i"], ours["spi_r"]}
            theirs = {(child.outbound_spi, child.inbound_spi) for child in served.installed}
            mine = {(str(child["inbound_spi"]), str(child["outbound_spi"])) for child in children(session)}
            return served if same_ike and theirs == mine else None

        return wait_until(agreed, what="both ends having the same SAs", timeout=WAIT, log=self.charon.log)


@contextlib.contextmanager
def bench(
    stage: AccessTopology,
    terms: Terms | None = None,
    settings: Mapping[str, str | int | float] | None = None,
    plugins: str = PLUGINS,
) -> Iterator[Bench]:
    """A bench on ``stage``; ``settings`` are of charon's section in strongswan.conf."""
    terms = terms or Terms()
    plain = Configuration(swanctl="", settings=settings or {}, plugins=plugins)
    with Charon(stage.gateway, configuration(terms, plain)) as charon:
        yield Bench(stage=stage, charon=charon, terms=terms)


def configuration(terms: Terms, like: Configuration) -> Configuration:
    """charon's configuration with these terms, else as it was."""
    return replace(like, swanctl=terms.swanctl())


def ue_configuration() -> dict[str, object]:
    """The UE on two accesses, with a pre-shared key."""
    return {
        "imsi": "001010000000001",
        "plmn": {"mcc": "001", "mnc": "01"},
        "identity": IDENTITY,
        "authentication": "psk",
        "psk": KEY,
        "apn": APN,
        "gateway": {"address": str(GATEWAY.ip)},
        "accesses": {
            "wifi-a": {"address": str(ACCESS_A.address.ip)},
            "wifi-b": {"address": str(ACCESS_B.address.ip)},
        },
        "data_plane": {"kind": "tun"},
    }


def part(view: View, name: str) -> View:
    """A part of what the UE says."""
    found = view[name]
    assert isinstance(found, dict)
    return found


def children(session: View) -> list[View]:
    """The session's child SAs."""
    listed = session["child_sas"]
    assert isinstance(listed, list)
    return [child for child in listed if isinstance(child, dict)]


def inbound_spis(session: View) -> list[str]:
    """The UE's inbound SPIs."""
    return [str(child["inbound_spi"]) for child in children(session)]
