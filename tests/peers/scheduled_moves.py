"""The laboratory's schedules at our gateway and at Debian's strongSwan: our UE and charon's, beside each other.

The stage is the laboratory's of namespaces (wires, NATs, all gateway addresses). At charon, hostapd stands for the
AAA server; at our gateway both UEs prove themselves by a key. A UE is told nothing of addresses; a rekeying it is told
to begin. Ping runs through the tunnel.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from lab.mobility.loader import load_schedule
from lab.mobility.namespaces import CORE, INNER
from lab.mobility.schedule import Attach, Command, Event, Family, MoveTo, Resume, Schedule
from lab.mobility.stage_name import StageName
from lab.namespaces import HOST_BEHIND_GATEWAY
from protocols.path import Address
from tests.peers.certificates import CertificateAuthority
from tests.peers.hostapd import Hostapd, Subscriber, aka_users, password_user
from tests.peers.moves import (
    APN,
    CHARON_DPD,
    CHARON_RETRANSMISSION,
    FQDN,
    IMSI,
    OPC,
    PAIRS,
    PASSWORD,
    PATIENCE,
    CharonUe,
    K,
    Measured,
    Mover,
    OurUe,
)
from tests.peers.node_process import NodeProcess
from tests.peers.ping_flow import PingFlow
from tests.peers.processes import PeerError, wait_until
from tests.peers.scheduled_stage import ScheduledStage, overlap, scheduled_stage
from tests.peers.strongswan import Charon, RadiusServer, gateway_connections, ue_connection
from tests.peers.strongswan_scene import KEY, UE, Child, Connection, client, gateway_configuration

PLAYED = (
    "walk-home",
    "walk-home-pixel",
    "lift",
    "commuter-train",
    "flapping-wifi",
    "nat-reboot",
    "silent-path",
    "captive-wifi",
    "gateway-failover",
    "lossy-path",
    "v4-to-v6",
    "lost-update",
    "lost-response",
    "a-b-a-outstanding",
    "move-during-rekey",
    "move-during-liveness",
    "move-during-eap",
    "suspend-weekend",
)
LEAD = 1.0  # seconds of undisturbed traffic before the first event, in place of the schedule's own
TAIL = 3.0  # and so many after the last one
LONG, NAP = 60.0, 30.0  # what takes longer than the one between two events takes the other
INTERVAL = 0.01  # seconds between two echo requests
CAUSE = 1.5  # a silence that begins no longer after an event has to do with it
SETTLED = 30  # answers without a break: the traffic is back
AFTER = 0.5  # seconds after a silence whose shortest round trip is the path's
ROUND_TRIPS = 2  # of the new path that a move takes: the update; our gateway's check of it, charon's rekeying


def played() -> list[str]:
    """All of ``PLAYED`` that the stage of namespaces can carry; what is a weekend long is cut."""
    return [name for name in PLAYED if _possible(load_schedule(name).schedule)]


def _possible(schedule: Schedule) -> bool:
    one_family = {access.family for access in schedule.accesses.values()} == {Family.IPV4}
    return one_family or StageName.NAMESPACES in schedule.stages


def pairs(name: str) -> list[tuple[str, str]]:
    """UEs and gateways: a persona is of our UE alone, and EAP runs at charon alone."""
    schedule = load_schedule(name).schedule
    with_aaa = any(event.do == "aaa-slow" for event in schedule.events)
    return [
        (ue, gateway)
        for ue, gateway in PAIRS
        if not (schedule.persona and ue == CharonUe.name) and not (with_aaa and gateway == "ours")
    ]


# --- who serves whom ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def our_gateway_on(stage: ScheduledStage) -> Iterator[None]:
    """``epdg serve`` on all the gateway's addresses."""
    topology = stage.topology
    topology.epdg.add_address("lo", f"{HOST_BEHIND_GATEWAY}/32")
    ike, esp = _suites(stage.schedule)
    terms = {"suites": [ike], "esp_suites": [esp]}
    configuration = gateway_configuration(terms, list(topology.places.gateways.values()), {})
    with (
        tempfile.TemporaryDirectory(prefix="gateway-") as directory,
        NodeProcess(topology.epdg, "epdg", Path(directory), configuration),
    ):
        yield


@contextlib.contextmanager
def charon_gateway_on(stage: ScheduledStage, authority: CertificateAuthority) -> Iterator[None]:
    """charon on all the gateway's addresses, hostapd in the core."""
    topology, (ike, esp) = stage.topology, _suites(stage.schedule)
    for address in topology.places.gateways.values():  # charon tells UEs of no address that is on loopback
        topology.epdg.delete_address("lo", _host(address))
        topology.epdg.add_address("core", _host(address))
    # kernel-libipsec wants an address of its own in the local selector
    topology.epdg.add_address("lo", f"{HOST_BEHIND_GATEWAY}/32")
    users = (*aka_users(), password_user(UE, PASSWORD))
    with (
        Hostapd(topology.core, users=users, subscribers={IMSI: Subscriber(k=K, opc=OPC)}) as radius,
        stage.radius_relay(radius.port) as port,
    ):
        configuration = gateway_connections(
            address=", ".join(map(str, topology.places.gateways.values())),
            identities=[FQDN, APN],
            credentials=authority.issue(names=[FQDN, APN]),
            authorities=[authority.credentials.certificate_pem],
            radius=RadiusServer(address=CORE.ip, secret=radius.secret, port=port),
            pool=INNER,
            local_selectors=[f"{HOST_BEHIND_GATEWAY}/32"],
            proposals=ike,
            esp_proposals=esp,
            settings={"interfaces_use": "core"},
        )
        with Charon(topology.epdg, configuration):
            yield


def _suites(schedule: Schedule) -> tuple[str, str]:
    """Of IKE and ESP; a persona's own are older."""
    return ("aes128-sha256-modp2048", "aes128-sha256") if schedule.persona else ("aes128-sha256-x25519", "aes128gcm16")


def _host(address: Address) -> str:
    return f"{address}/{address.max_prefixlen}"


@contextlib.contextmanager
def charon_ue_on(stage: ScheduledStage, authority: CertificateAuthority | None) -> Iterator[CharonUe]:
    """charon; by EAP-MSCHAPv2 with an authority, else by the key."""
    gateways = ", ".join(str(address) for address in _known_gateways(stage).values())
    selectors = f"{HOST_BEHIND_GATEWAY}/32"
    if authority is None:
        connection = Connection(
            gateway=gateways,
            children=(Child(remote_selectors=selectors),),
            settings={"dpd_delay": f"{CHARON_DPD:g}s"},
        )
        configuration = client(connection, settings=CHARON_RETRANSMISSION)
    else:
        configuration = ue_connection(
            gateway=gateways,
            gateway_identity=FQDN,
            identity=UE,
            password=PASSWORD,
            authorities=[authority.credentials.certificate_pem],
            remote_selectors=[selectors],
            dpd_delay=CHARON_DPD,
            settings=CHARON_RETRANSMISSION,
        )
    with Charon(stage.topology.ue, configuration) as charon:
        yield CharonUe(charon)


@contextlib.contextmanager
def our_ue_on(stage: ScheduledStage, authority: CertificateAuthority | None) -> Iterator[OurUe]:
    """Ours, which manages its connection."""
    schedule, topology = stage.schedule, stage.topology
    gateway: dict[str, object] = {key: str(address) for key, address in _known_gateways(stage).items()}
    with tempfile.TemporaryDirectory(prefix="mover-") as directory:
        if authority is None:
            proof: dict[str, object] = {"identity": UE, "authentication": "psk", "psk": KEY}
        else:
            (Path(directory) / "ca.pem").write_bytes(authority.credentials.certificate_pem)
            proof = {"usim": {"k": K.hex(), "opc": OPC.hex()}}
            gateway["ca"] = "ca.pem"
        ike, esp = _suites(schedule)
        accesses: dict[str, dict[str, str]] = {}
        for name, each in topology.accesses.items():
            ipv6 = schedule.accesses[name].family is Family.IPV6
            accesses[name] = {"interface": each.interface, **({"address": "::"} if ipv6 else {})}
        settings: dict[str, object] = {
            "imsi": IMSI,
            "plmn": {"mcc": "001", "mnc": "01"},
            **proof,
            "apn": APN,
            "gateway": gateway,
            "accesses": accesses,
            "management": {**_management(schedule), "automatic": True},
            **({"persona": schedule.persona} if schedule.persona else {"algorithms": {"ike": [ike], "esp": [esp]}}),
            "data_plane": {"kind": "tun", "routes": [f"{HOST_BEHIND_GATEWAY}/32"]},
        }
        with NodeProcess(topology.ue, "ue", Path(directory), settings, verb="run") as node:
            yield OurUe(node, stage.on)


def _known_gateways(stage: ScheduledStage) -> dict[str, Address]:
    """The first address of each family, by the UE's keys; the others UEs learn from the gateway."""
    addresses = list(stage.topology.places.gateways.values())
    others = [address for address in addresses if address.version != addresses[0].version]
    return {"address": addresses[0], **({"other_address": others[0]} if others else {})}


def _management(schedule: Schedule) -> Mapping[str, object]:
    """The schedule's, with its order of accesses spelt out: the file that the UE reads has them sorted by name."""
    section = schedule.ue.get("management", {})
    return {"prefer": list(schedule.accesses), **(section if isinstance(section, dict) else {})}


# --- playing --------------------------------------------------------------------------------------------------


def play(name: str, ue: str, gateway: str = "strongSwan", patience: float = PATIENCE) -> Measured:
    """A shipped schedule with a pair: its longest silence, and what was lost in all."""
    with scheduled_stage(name) as stage, contextlib.ExitStack() as stack:
        authority = None if gateway == "ours" else CertificateAuthority()
        serving = our_gateway_on(stage) if authority is None else charon_gateway_on(stage, authority)
        stack.enter_context(serving)
        mover: Mover = stack.enter_context(
            our_ue_on(stage, authority) if ue == OurUe.name else charon_ue_on(stage, authority)
        )
        stack.callback(lambda: os.kill(mover.pid, signal.SIGCONT))  # who sleeps cannot be ended
        return _Run(stage, mover).measure(patience)


class _Run:
    def __init__(self, stage: ScheduledStage, mover: Mover) -> None:
        self._stage = stage
        self._mover = mover
        self._quiet: float | None = None  # since when nobody talks

    def measure(self, patience: float) -> Measured:
        """The whole schedule."""
        stage = self._stage
        events = list(stage.schedule.events)
        first = next(number for number, event in enumerate(events) if isinstance(event, Attach))
        attach, others = events[first], events[first + 1 :]
        for event in events[:first]:
            stage.happen(event)
        inner = self._attach([event for event in others if _comes_too_early(event)], attach.at)
        rest = [event for event in others if not _comes_too_early(event)]
        with PingFlow(stage.topology.ue, HOST_BEHIND_GATEWAY, source=inner, interval=INTERVAL) as flow:
            flow.wait_answers(SETTLED)
            began, happened = time.time() + LEAD, []
            for event, moment in zip(rest, _moments(rest), strict=True):
                time.sleep(max(0.0, began + moment - time.time()))  # the schedule's own time
                happened.append(time.time())
                self._happen(event, flow)
            returned = self._wait_back(flow, patience)
        return self._measured(flow, happened, returned)

    def _attach(self, meanwhile: Sequence[MoveTo], moment: float) -> str:
        """While a UE attaches nothing can be moved: an access that it is told to move to is there, no more."""
        with ThreadPoolExecutor(1) as pool:
            attaching = pool.submit(self._mover.attach)
            for event in meanwhile:
                time.sleep(event.at - moment)
                self._stage.join(event.to)
            return attaching.result()

    def _happen(self, event: Event, flow: PingFlow) -> None:
        stage, mover = self._stage, self._mover
        match event:
            case Command(do="rekey-ike"):
                mover.rekey_ike()
            case Command(do="rekey-child"):
                mover.rekey_child()
            case Command(do="liveness"):
                if not mover.check_liveness():
                    self._fall_silent(flow)
                    lost = stage.losses.lost
                    wait_until(lambda: sum(lost.values()) > 0, what="a liveness check", timeout=10 * CHARON_DPD)
                    self._talk(flow)
            case Command(do="traffic-stop"):
                self._fall_silent(flow)
            case Command(do="traffic-start"):
                self._talk(flow)
            case Command(do="suspend"):
                self._fall_silent(flow)
                os.kill(mover.pid, signal.SIGSTOP)
                stage.leave(stage.on)
            case Resume(to=to):
                stage.join(to)
                stage.on = to
                os.kill(mover.pid, signal.SIGCONT)
                if not any(isinstance(each, Command) and each.do == "traffic-start" for each in stage.schedule.events):
                    self._talk(flow)
            case _:
                stage.happen(event)

    def _fall_silent(self, flow: PingFlow) -> None:
        if self._quiet is None:
            flow.pause()
            self._quiet = time.time()

    def _talk(self, flow: PingFlow) -> None:
        if self._quiet is not None:
            flow.go_on()
            self._stage.without.append((self._quiet, time.time()))
            self._quiet = None

    def _wait_back(self, flow: PingFlow, patience: float) -> bool:
        """After a while in which silence shows: whether there is traffic without a break, waited for."""
        time.sleep(TAIL)  # who looks takes the processor from the wires

        def back() -> bool:
            recent = [moment for _, moment in flow.answers if moment > time.time() - 4 * SETTLED * INTERVAL]
            return len(recent) >= SETTLED

        try:
            wait_until(back, what="the traffic coming back", timeout=patience)
        except PeerError:
            return False
        return True

    def _measured(self, flow: PingFlow, happened: Sequence[float], returned: bool) -> Measured:
        stage = self._stage
        moments = [moment for _, moment in flow.answers]
        round_trips = list(zip(moments, flow.round_trips, strict=True))
        silence = beyond = 0.0
        for earlier, later in pairwise(moments):
            if any(earlier - CAUSE < moment < later for moment in happened):
                silent = later - earlier - INTERVAL - overlap(stage.without, earlier, later)
                if silent > 0:
                    least = min(trip for moment, trip in round_trips if later <= moment <= later + AFTER)
                    silence = max(silence, silent)
                    beyond = max(beyond, silent - ROUND_TRIPS * least)
        answered = len({number for number, _ in flow.answers})
        return Measured(
            silences=(silence if returned else None,),
            sent=answered + flow.lost,
            lost=flow.lost,
            beyond=beyond if returned else None,
            taken=stage.taken(),
            elsewhere=stage.elsewhere(),
        )


def _comes_too_early(event: Event) -> bool:
    return isinstance(event, MoveTo) and event.expect.outcome == "refused"


def _moments(events: Sequence[Event]) -> list[float]:
    """Seconds from the first of them, long waits being cut."""
    moments = [0.0]
    for before, after in pairwise(events):
        gap = after.at - before.at
        moments.append(moments[-1] + (NAP if gap > LONG else gap))
    return moments
