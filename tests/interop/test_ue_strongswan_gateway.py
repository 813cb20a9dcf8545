"""Our UE at Debian's strongSwan as a gateway, on ports 500 and 4500 in network namespaces.

::

    ue run (ue) ── access A / access B ── router ── charon (gateway) ── core: hostapd, EAP-AKA ── AuC

IKE, MOBIKE, ESP and EAP-AKA at the other end are somebody else's; only Milenage in the AuC is ours (it is
held against TS 35.208's test sets elsewhere). charon's userspace ESP cannot move an SA: after every move it
rekeys the child SA, so SPIs of the child SA change here, and our UE must take a CREATE_CHILD_SA at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from lab.namespaces import (
    ACCESS_A,
    ACCESS_B,
    CORE,
    GATEWAY,
    GATEWAY_ROUTER,
    HOST_BEHIND_GATEWAY,
    INNER_ADDRESSES,
    Access,
    AccessTopology,
)
from protocols.algorithms.sqn import IND_COUNT, SqnWindow
from protocols.errors import StackError
from protocols.trace.records import JsonValue
from tests.peers.certificates import CertificateAuthority
from tests.peers.hostapd import Hostapd, Subscriber, aka_users
from tests.peers.namespaces import ping
from tests.peers.node_process import NodeProcess
from tests.peers.ping_flow import PingFlow
from tests.peers.processes import wait_until
from tests.peers.strongswan import Charon, gateway_connections, require_strongswan
from ue.usim import FileSqnStore

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
APN = "internet"
IMSI = "001010000000001"
NAI = f"0{IMSI}@nai.epc.mnc001.mcc001.3gppnetwork.org"
K = bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc")  # TS 35.208 §4.3.1, test set 1
OPC = bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf")
RESOLVER = IPv4Address("10.77.100.1")
CORE_NETWORK = IPv4Network("10.77.3.0/24")
HOST_NETWORK = IPv4Network("10.77.100.1/32")
MAXIMUM_OUTAGE = 0.3  # of a move of ours, in seconds
MAXIMUM_REKEY_LOSS = 0.1  # of a steady flow, in seconds' worth of packets, over a handful of rekeyings


@dataclass(frozen=True, kw_only=True)
class Network:
    """The stage with our UE, somebody else's gateway and what is behind that."""

    stage: AccessTopology
    ue: NodeProcess
    charon: Charon
    radius: Hostapd
    subscriber: Subscriber

    def attach(self) -> dict[str, JsonValue]:
        """Attach on access A; the session."""
        return self.ue.call("ue.attach", access="wifi-a")

    def move(self, leave: Access, arrive: Access) -> dict[str, JsonValue]:
        """Lose one access, go on at the other; the move as the UE measured it."""
        self.stage.leave(leave)
        move = self.ue.call("ue.move", to=str(arrive.address.ip))["move"]
        assert isinstance(move, dict)
        return move

    def session(self) -> dict[str, JsonValue]:
        """The UE's session."""
        sessions = self.ue.call("ue.status")["sessions"]
        assert isinstance(sessions, list)
        (session,) = sessions
        assert isinstance(session, dict)
        return session

    def wait_session(self, fits: Callable[[dict[str, JsonValue]], bool], what: str) -> dict[str, JsonValue]:
        """The UE's session once it fits."""

        def found() -> dict[str, JsonValue] | None:
            session = self.session()
            return session if fits(session) else None

        return wait_until(found, what=what, timeout=10.0, log=self.ue.log)

    def requests(self) -> list[str]:
        """What the AuC was asked."""
        assert self.radius.centre is not None
        return self.radius.centre.requests


Open = Callable[..., Network]


@pytest.fixture
def network(stage: AccessTopology, authority: CertificateAuthority, tmp_path: Path) -> Iterator[Open]:
    """Opens the network; keywords change the UE's configuration, the gateway's and hostapd's."""
    require_strongswan()
    (tmp_path / "ca.pem").write_bytes(authority.credentials.certificate_pem)
    with contextlib.ExitStack() as stack:

        def start(
            *,
            changes: Mapping[str, object] | None = None,
            issuer: CertificateAuthority = authority,
            known: bool = True,
            eap_sim_id: int = 0,
            kind: str = "ecdsa",
            proposals: str = "aes128-sha256-x25519",
            esp_proposals: str = "aes128gcm16",
            dpd_delay: float = 0,
        ) -> Network:
            subscriber = Subscriber(k=K, opc=OPC)
            subscribers = {IMSI: subscriber} if known else {}
            radius = stack.enter_context(
                Hostapd(stage.core, users=aka_users(), subscribers=subscribers, eap_sim_id=eap_sim_id)
            )
            configuration = gateway_connections(
                address=GATEWAY.ip,
                identities=[FQDN, APN],
                credentials=issuer.issue(names=[FQDN, APN], kind=kind),
                authorities=[issuer.credentials.certificate_pem],
                radius=radius.radius_server(CORE.ip),
                pool=INNER_ADDRESSES,
                dns=[RESOLVER],
                proposals=proposals,
                esp_proposals=esp_proposals,
                local_selectors=[CORE_NETWORK, HOST_NETWORK],
                dpd_delay=dpd_delay,
            )
            charon = stack.enter_context(Charon(stage.gateway, configuration))
            ue = NodeProcess(stage.ue, "ue", tmp_path, {**ue_configuration(), **(changes or {})}, verb="run")
            return Network(stage=stage, ue=stack.enter_context(ue), charon=charon, radius=radius, subscriber=subscriber)

        yield start


def ue_configuration() -> dict[str, object]:
    return {
        "imsi": IMSI,
        "plmn": {"mcc": "001", "mnc": "01"},
        "usim": {"k": K.hex(), "opc": OPC.hex(), "sqn": "usim.json"},
        "apn": APN,
        "gateway": {"address": str(GATEWAY.ip), "ca": "ca.pem"},
        "accesses": {
            "wifi-a": {"address": str(ACCESS_A.address.ip)},
            "wifi-b": {"address": str(ACCESS_B.address.ip)},
        },
        "data_plane": {"kind": "tun"},
    }


def inner_address(session: dict[str, JsonValue]) -> str:
    """The session's only inner address."""
    addresses = session["inner_addresses"]
    assert isinstance(addresses, list)
    (address,) = addresses
    return str(address)


def ike(session: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What the UE says of the IKE SA."""
    found = session["ike"]
    assert isinstance(found, dict)
    return found


def children(session: dict[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """What the UE says of the child SAs."""
    listed = session["child_sas"]
    assert isinstance(listed, list)
    return [child for child in listed if isinstance(child, dict)]


# --- attach, traffic, move, detach ------------------------------------------------------------------


def test_attach_traffic_move_and_detach(network: Open) -> None:
    net = network()
    session = net.attach()
    inner = inner_address(session)
    assert IPv4Address(inner) in INNER_ADDRESSES
    assert session["dns"] == [str(RESOLVER)]
    served = net.charon.wait_established(remote=ACCESS_A.address.ip)
    assert (served.remote_identity, served.local_identity) == (NAI, APN)
    assert served.inner_addresses == (inner,)
    spis = (served.spi_initiator, served.spi_responder)
    assert (ike(session)["spi_i"], ike(session)["spi_r"]) == spis
    assert ike(session)["mobike"] is True
    assert net.requests() == [f"AKA-REQ-AUTH {IMSI}"]
    (child,) = children(session)
    assert child["remote_selectors"] == ["10.77.3.0-10.77.3.255", str(HOST_BEHIND_GATEWAY)]
    assert child["inbound_spi"] == served.installed[0].outbound_spi

    for destination in (HOST_BEHIND_GATEWAY, CORE.ip):
        assert ping(net.stage.ue, destination, source=inner).received == 3
    assert ping(net.stage.core, inner).received == 3
    (counted,) = net.charon.list_sas()[0].installed
    assert (counted.packets_in, counted.packets_out) == (9, 9)

    since = len(net.charon.log())
    move = net.move(ACCESS_A, ACCESS_B)
    assert (move["outcome"], move["inner_address_unchanged"]) == ("completed", True)
    assert (move["requests"], move["retransmissions"]) == (1, 0)
    followed = net.charon.wait_established(remote=ACCESS_B.address.ip)
    assert (followed.spi_initiator, followed.spi_responder) == spis
    assert ping(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner).received == 3
    assert ping(net.stage.core, inner).received == 3
    # what charon saw: the update, and the answers to its own check and rekeying
    net.charon.wait_for_log(r"parsed INFORMATIONAL request \d+ \[ N\(UPD_SA_ADDR\) N\(NATD_S_IP\)", since=since)
    net.charon.wait_for_log(r"parsed CREATE_CHILD_SA response \d+ \[ SA No TSi TSr \]", since=since)
    assert "retransmit" not in net.charon.log()
    settled = net.wait_session(lambda seen: len(children(seen)) == 1, "the old child SA going")
    (renewed,) = net.charon.wait_established().installed
    (child,) = children(settled)
    assert (child["inbound_spi"], child["outbound_spi"]) == (renewed.outbound_spi, renewed.inbound_spi)
    assert inner_address(settled) == inner

    assert net.ue.call("ue.detach")["state"] == "closed"
    net.charon.wait_gone()


def test_a_flow_survives_moving_there_and_back(network: Open, record_property: Callable[[str, object], None]) -> None:
    net = network()
    inner = inner_address(net.attach())
    with PingFlow(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner) as flow:
        for leave, arrive in ((ACCESS_A, ACCESS_B), (ACCESS_B, ACCESS_A)):
            flow.wait_answers(10)
            assert net.move(leave, arrive)["outcome"] == "completed"
            net.charon.wait_established(remote=arrive.address.ip)
            flow.wait_answers(10)
            net.stage.join(leave)
    outages = flow.outages(2)
    record_property("outages", outages)
    print(f"outages of the moves: {', '.join(f'{outage * 1000:.0f} ms' for outage in outages)}")
    assert all(outage < MAXIMUM_OUTAGE for outage in outages), flow.output
    moves = net.session()["moves"]
    assert isinstance(moves, list)
    assert [isinstance(move, dict) and move["to"] for move in moves] == ["wifi-b", "wifi-a"]


def test_attach_and_move_behind_a_nat(network: Open) -> None:
    net = network()
    net.stage.translate(range(20000, 30000))
    session = net.attach()
    served = net.charon.wait_established(remote=GATEWAY_ROUTER.ip)
    assert served.remote.port in range(20000, 30000)
    assert ike(session)["nat"] == {"local": True, "remote": True}  # charon pretends its own
    move = net.move(ACCESS_A, ACCESS_B)
    assert move["outcome"] == "completed"
    assert ping(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner_address(session)).received == 3
    moved = net.charon.wait_established(remote=GATEWAY_ROUTER.ip)
    assert moved.spi_initiator == served.spi_initiator
    assert moved.remote.port != served.remote.port


# --- rekeying, liveness, ends -----------------------------------------------------------------------


def test_rekeying_by_either_end_costs_packets_of_milliseconds(network: Open) -> None:
    net = network(changes={"child_lifetime": 1.0})
    session = net.attach()
    first = children(session)[0]["inbound_spi"]
    with PingFlow(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner_address(session), interval=0.002) as flow:
        for number in (2, 3):
            flow.wait_answers(20)
            net.charon.rekey_child()
            net.charon.wait_for_log(rf"outbound CHILD_SA net\{{{number}\}} established")
        # and the fourth by the UE, whose lifetime is up
        net.charon.wait_for_log(r"parsed CREATE_CHILD_SA request \d+ \[ N\(REKEY_SA\) SA No TSi TSr \]")
        net.charon.wait_for_log(r"outbound CHILD_SA net\{4\} established")
        flow.wait_answers(20)
    assert flow.lost * flow.interval < MAXIMUM_REKEY_LOSS, flow.output
    assert first not in [child["inbound_spi"] for child in children(net.session())]
    assert ike(net.session())["spi_i"] == ike(session)["spi_i"]


def test_rekeying_of_the_ike_sa_by_either_end(network: Open) -> None:
    """RFC 7296 §1.3.2, §2.18: charon first, then twice the UE; the child SA, and what flows in it, stay."""
    net = network(changes={"ike_lifetime": {"soft": 2.0, "jitter": 0.0}})
    session = net.attach()
    with PingFlow(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner_address(session), interval=0.01) as flow:
        flow.wait_answers(20)
        net.charon.rekey_ike("gateway-1")
        net.charon.wait_for_log(r"parsed CREATE_CHILD_SA response \d+ \[ SA No KE \]")
        net.charon.wait_for_log(r"(?s)(parsed CREATE_CHILD_SA request \d+ \[ SA No KE .*){2}")
        flow.wait_answers(20)
    assert flow.lost == 0, flow.output
    after = net.session()
    assert after["id"] == session["id"]
    assert [child["inbound_spi"] for child in children(after)] == [c["inbound_spi"] for c in children(session)]
    assert ike(after)["spi_i"] != ike(session)["spi_i"]


def test_liveness_of_both_ends_and_a_gateway_that_is_gone(network: Open) -> None:
    net = network(dpd_delay=1, changes={"liveness_interval": 0.6, "retransmission": {"base_interval": 0.1, "limit": 3}})
    net.attach()
    net.charon.wait_for_log(r"generating INFORMATIONAL response \d+ \[ \]")
    net.charon.kill()
    ended = net.wait_session(lambda seen: seen["state"] == "closed", "the UE noticing that its gateway is gone")
    error = ended["last_error"]
    assert isinstance(error, dict)
    assert error["cause"] == "connection-lost"
    assert ended["child_sas"] == []


def test_the_gateway_detaches_the_ue(network: Open) -> None:
    net = network()
    net.attach()
    net.charon.terminate("gateway-1")
    ended = net.wait_session(lambda seen: seen["state"] == "closed", "the UE being detached")
    assert ended["child_sas"] == []
    assert inner_address(net.attach())  # and it may come back


# --- EAP-AKA, algorithms ----------------------------------------------------------------------------


def test_resynchronisation(network: Open, tmp_path: Path) -> None:
    FileSqnStore(tmp_path / "usim.json").save(SqnWindow((1000,) * IND_COUNT))
    net = network()
    net.attach()
    assert net.subscriber.resynchronisations == 1
    assert [request.split()[0] for request in net.requests()] == ["AKA-REQ-AUTH", "AKA-AUTS", "AKA-REQ-AUTH"]


@pytest.mark.parametrize(("methods", "digits"), [(["aka"], "04"), (["aka-prime", "aka"], "68")])
def test_the_next_attaches_reauthenticate_fast(network: Open, methods: list[str], digits: str) -> None:
    """RFC 4187 §5 through IKE_AUTH: the AuC is asked once."""
    net = network(eap_sim_id=3, changes={"eap": {"methods": methods}})
    seen: list[tuple[JsonValue, str]] = []
    for _ in range(3):
        eap = net.attach()["eap"]
        assert isinstance(eap, dict)
        seen.append((eap["kind"], str(eap["identity"])[0]))
        net.ue.call("ue.detach")
    assert seen == [("full", digits[0]), ("fast", digits[1]), ("fast", digits[1])]
    assert net.requests() == [f"AKA-REQ-AUTH {IMSI}"]


@pytest.mark.parametrize(
    ("proposals", "esp_proposals", "kind", "ike_suites"),
    [
        ("aes256gcm16-prfsha256-ecp256", "aes256gcm16", "rsa", ["aes256gcm16-prfsha256-ecp256"]),
        ("aes256-sha256-modp2048", "aes128-sha256", "rsa", ["aes256-sha256-modp2048"]),
        # its first group is refused: INVALID_KE_PAYLOAD
        ("aes128-sha256-ecp256", "aes256gcm16", "ecdsa", ["aes128-sha256-x25519", "aes128-sha256-ecp256"]),
    ],
)
def test_algorithms(network: Open, proposals: str, esp_proposals: str, kind: str, ike_suites: list[str]) -> None:
    net = network(
        proposals=proposals, esp_proposals=esp_proposals, kind=kind, changes={"algorithms": {"ike": ike_suites}}
    )
    session = net.attach()
    assert ike(session)["suite"] == proposals
    assert ping(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner_address(session)).received == 3


# --- refusals ---------------------------------------------------------------------------------------


def refusal(net: Network) -> str:
    """What the UE says when attaching fails."""
    with pytest.raises(StackError) as caught:
        net.attach()
    assert not any(status.established for status in net.charon.list_sas())
    return str(caught.value)


def test_a_wrong_key_is_refused(network: Open) -> None:
    net = network(changes={"usim": {"k": "00" * 16, "opc": OPC.hex()}})
    assert "MAC-A in AUTN does not verify" in refusal(net)
    assert net.requests() == [f"AKA-REQ-AUTH {IMSI}"]


def test_an_unknown_imsi_is_refused(network: Open) -> None:
    net = network(known=False)
    assert "general failure (16384)" in refusal(net)  # RFC 4187 §10.19
    assert net.requests() == [f"AKA-REQ-AUTH {IMSI}"]


def test_a_gateway_certificate_of_nobody_is_refused(network: Open) -> None:
    net = network(issuer=CertificateAuthority("somebody else"))
    assert "certificate" in refusal(net)
    assert net.requests() == []
