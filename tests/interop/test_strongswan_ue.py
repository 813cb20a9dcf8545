"""Debian's strongSwan as a UE at our gateway, on ports 500 and 4500 in network namespaces.

::

    charon (ue) ── access A / access B ── router ── epdg serve (gateway) ── core: SWm bridge ── hostapd

EAP-MSCHAPv2 goes through the gateway over SWm; IKE, EAP and ESP at the other end are somebody else's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
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
    AccessTopology,
)
from protocols.diameter.swm import TerminationCause
from protocols.io.diameter import PORT
from protocols.trace.records import JsonValue
from tests.peers.aaa_node import GATEWAY as GATEWAY_HOST
from tests.peers.aaa_node import HOST, REALM
from tests.peers.certificates import CertificateAuthority, Credentials
from tests.peers.hostapd import Hostapd, password_user
from tests.peers.namespaces import ping
from tests.peers.node_process import NodeProcess
from tests.peers.ping_flow import PingFlow
from tests.peers.processes import PeerError, wait_until
from tests.peers.strongswan import Charon, Configuration, require_strongswan, ue_connection
from tests.peers.swm_radius_bridge import SwmRadiusBridge

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
APN = "internet"
USER = "roaming-client@example.org"
PASSWORD = "correct horse"
ROAM_DELAY = 0.1  # how long charon waits before it reacts to an address that is gone
MAXIMUM_OUTAGE = 0.5  # of a move, that delay included; seconds
MAXIMUM_REKEY_LOSS = 0.1  # of a steady flow, in seconds' worth of packets, over a handful of rekeyings
HERE = f"{ACCESS_A.address.ip}:4500"
THERE = f"{ACCESS_B.address.ip}:4500"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The stage with our gateway and what is behind it."""

    stage: AccessTopology
    epdg: NodeProcess
    bridge: SwmRadiusBridge

    def sessions(self) -> list[dict[str, JsonValue]]:
        """Every session that the gateway knows, ended ones too."""
        listed = self.epdg.call("sessions.list")["sessions"]
        assert isinstance(listed, list)
        return [session for session in listed if isinstance(session, dict)]

    def session(self) -> dict[str, JsonValue]:
        """The only session there ever was, as ``sessions.get`` shows it."""
        (listed,) = self.sessions()
        return self.epdg.call("sessions.get", id=listed["id"])

    def wait_moved(self, remote: str) -> dict[str, JsonValue]:
        """The session once its IKE SA and its only child SA have the UE at ``remote``."""
        return self.wait_session(
            lambda seen: ike_remote(seen) == remote and [child_remote(child) for child in children(seen)] == [remote],
            f"the session moving to {remote}",
        )

    def wait_ended(self) -> dict[str, JsonValue]:
        """The session once it is over."""
        return self.wait_session(lambda seen: seen["state"] == "closed", "the session ending")

    def wait_terminated(self, session: dict[str, JsonValue]) -> int:
        """The Termination-Cause of the session's STR, waited for."""
        return self.bridge.wait_terminated(str(session["diameter_session_id"])).termination_cause

    def addresses_in_use(self) -> JsonValue:
        """How many inner addresses of each APN are given out."""
        return self.epdg.call("node.status")["addresses_in_use"]

    def wait_session(
        self, fits: Callable[[dict[str, JsonValue]], bool], what: str, timeout: float = 5.0
    ) -> dict[str, JsonValue]:
        """The only session once it fits."""

        def found() -> dict[str, JsonValue] | None:
            session = self.session()
            return session if fits(session) else None

        return wait_until(found, what=what, timeout=timeout, log=self.epdg.log)


Open = Callable[..., Network]


@pytest.fixture
def network(stage: AccessTopology, authority: CertificateAuthority, tmp_path: Path) -> Iterator[Open]:
    """Opens the network; ``ike`` are settings of the gateway's section of that name."""
    require_strongswan()
    with contextlib.ExitStack() as stack:
        radius = stack.enter_context(Hostapd(stage.core, users=[password_user(USER, PASSWORD)]))
        server = radius.radius_server("127.0.0.1")
        bridge = stack.enter_context(SwmRadiusBridge(stage.core, server, CORE.ip))

        def start(*, credentials: Credentials | None = None, ike: Mapping[str, object] | None = None) -> Network:
            credentials = credentials or authority.issue(names=[FQDN, APN])
            configuration = gateway_configuration(tmp_path, credentials, ike or {})
            epdg = stack.enter_context(NodeProcess(stage.gateway, "epdg", tmp_path, configuration))
            wait_until(lambda: peer_is_open(epdg), what="SWm being open", timeout=10.0, log=epdg.log)
            return Network(stage=stage, epdg=epdg, bridge=bridge)

        yield start


def gateway_configuration(directory: Path, credentials: Credentials, ike: Mapping[str, object]) -> dict[str, object]:
    (directory / "gateway.pem").write_bytes(credentials.certificate_pem)
    (directory / "gateway.key").write_bytes(credentials.key_pem)
    suites = ["aes128-sha256-x25519", "aes256gcm16-prfsha256-ecp256", "aes256-sha256-modp2048"]
    return {
        "plmn": {"mcc": "001", "mnc": "01"},
        "listen": {"addresses": [str(GATEWAY.ip)]},
        "certificate": {"chain": "gateway.pem", "key": "gateway.key"},
        "ike": {"suites": suites, "esp_suites": ["aes128gcm16", "aes256gcm16", "aes128-sha256"], **ike},
        "diameter": {
            "host": GATEWAY_HOST,
            "realm": REALM,
            "peers": [{"host": HOST, "address": str(CORE.ip), "port": PORT}],
        },
        "apns": {APN: {"pool": str(INNER_ADDRESSES), "dns": [str(HOST_BEHIND_GATEWAY)]}},
        "default_apn": APN,
        "data_plane": {"kind": "tun"},
    }


def peer_is_open(epdg: NodeProcess) -> bool:
    peers = epdg.call("peers.list")["peers"]
    assert isinstance(peers, list)
    return any(isinstance(peer, dict) and str(peer["state"]).lower() == "open" for peer in peers)


def client(
    authority: CertificateAuthority,
    *,
    gateway_identity: str = FQDN,
    password: str = PASSWORD,
    proposals: str = "aes128-sha256-x25519",
    esp_proposals: str = "aes128gcm16",
    dpd_delay: float = 0,
    settings: Mapping[str, float] | None = None,
) -> Configuration:
    return ue_connection(
        gateway=GATEWAY.ip,
        gateway_identity=gateway_identity,
        identity=USER,
        password=password,
        authorities=[authority.credentials.certificate_pem],
        proposals=proposals,
        esp_proposals=esp_proposals,
        dpd_delay=dpd_delay,
        settings=settings,
    )


def ike(session: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What the gateway says of the IKE SA."""
    found = session["ike"]
    assert isinstance(found, dict)
    return found


def ike_remote(session: dict[str, JsonValue]) -> str:
    """Where the gateway's IKE SA has the UE."""
    return child_remote(ike(session))


def children(session: dict[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """What the gateway says of the child SAs."""
    listed = session["child_sas"]
    assert isinstance(listed, list)
    return [child for child in listed if isinstance(child, dict)]


def child_remote(child: dict[str, JsonValue]) -> str:
    """Where an SA of the gateway has the UE."""
    path = child["path"]
    assert isinstance(path, dict)
    return str(path["remote"])


def counter(child: dict[str, JsonValue], name: str) -> JsonValue:
    """One counter of a child SA."""
    counters = child["counters"]
    assert isinstance(counters, dict)
    return counters[name]


def history(session: dict[str, JsonValue]) -> list[tuple[JsonValue, JsonValue]]:
    """Where the UE has been, and whether that was checked."""
    paths = session["paths"]
    assert isinstance(paths, list)
    return [(path["remote"], path["validated"]) for path in paths if isinstance(path, dict)]


def failure(session: dict[str, JsonValue]) -> JsonValue:
    """The cause of the session's last error."""
    error = session["last_error"]
    return error["cause"] if isinstance(error, dict) else None


# --- attach, traffic, move, detach ------------------------------------------------------------------


def test_attach_traffic_move_and_detach(network: Open, authority: CertificateAuthority) -> None:
    net = network()
    with Charon(net.stage.ue, client(authority)) as ue:
        attached = ue.initiate()
        assert attached.local.address == ACCESS_A.address.ip
        assert attached.remote_identity == FQDN
        (inner,) = attached.inner_addresses
        assert IPv4Address(inner) in INNER_ADDRESSES
        session = net.session()
        assert (session["state"], session["nai"], session["apn"]) == ("established", USER, APN)
        assert session["inner_addresses"] == [inner]
        spis = (attached.spi_initiator, attached.spi_responder)
        assert (ike(session)["spi_i"], ike(session)["spi_r"]) == spis
        assert (ike_remote(session), ike(session)["mobike"]) == (HERE, True)

        for destination in (HOST_BEHIND_GATEWAY, CORE.ip):
            assert ping(net.stage.ue, destination, source=inner).received == 3
        assert ping(net.stage.core, inner).received == 3
        (child,) = children(net.session())
        assert child["outbound_spi"] == attached.installed[0].inbound_spi
        assert (counter(child, "inbound_packets"), counter(child, "outbound_packets")) == (9, 9)

        before = len(ue.log())
        net.stage.leave(ACCESS_A)
        moved = ue.wait_moved(ACCESS_B.address.ip)
        session = net.wait_moved(THERE)
        assert history(session) == [(HERE, True), (THERE, True)]
        assert (moved.spi_initiator, moved.spi_responder) == spis == (ike(session)["spi_i"], ike(session)["spi_r"])
        assert (moved.inner_addresses, session["inner_addresses"]) == ((inner,), [inner])
        assert ping(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner).received == 3
        assert ping(net.stage.core, inner).received == 3

        # what charon saw: its probe answered, its COOKIE2 echoed, our check, its rekeying answered, all at once
        (renewed,) = ue.wait_established().installed
        ue.wait_for_log(r"parsed INFORMATIONAL response \d+ \[ \]", since=before)
        ue.wait_for_log(r"INFORMATIONAL response \d+ \[ N\(NATD_S_IP\) N\(NATD_D_IP\) N\(COOKIE2\) \]", since=before)
        ue.wait_for_log(r"generating INFORMATIONAL response 0 \[ N\(COOKIE2\) \]", since=before)
        ue.wait_for_log(r"parsed CREATE_CHILD_SA response \d+ \[ SA No TSi TSr \]", since=before)
        assert "retransmit" not in ue.log()
        assert ike(session)["retransmissions_sent"] == 0
        (child,) = children(session)
        assert child["outbound_spi"] == renewed.inbound_spi != attached.installed[0].inbound_spi
        assert child["inbound_spi"] == renewed.outbound_spi

        ue.terminate()
        ended = net.wait_ended()
        assert failure(ended) is None
        assert net.wait_terminated(ended) == TerminationCause.DIAMETER_LOGOUT
        assert [request.user_name for request in net.bridge.terminated] == [USER]
        assert net.addresses_in_use() == {APN: 0}


def test_a_flow_survives_moving_there_and_back(
    network: Open, authority: CertificateAuthority, record_property: Callable[[str, object], None]
) -> None:
    net = network()
    with Charon(net.stage.ue, client(authority)) as ue:
        (inner,) = ue.initiate().inner_addresses
        with PingFlow(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner) as flow:
            for leave, arrive, place in ((ACCESS_A, ACCESS_B, THERE), (ACCESS_B, ACCESS_A, HERE)):
                flow.wait_answers(10)
                net.stage.leave(leave)
                ue.wait_moved(arrive.address.ip)
                net.wait_moved(place)
                flow.wait_answers(10)
                net.stage.join(leave)
        outages = flow.outages(2)
        record_property("outages", outages)
        print(f"outages of the moves: {', '.join(f'{outage * 1000:.0f} ms' for outage in outages)}")
        assert all(ROAM_DELAY / 2 < outage < MAXIMUM_OUTAGE for outage in outages)
        assert history(net.session()) == [(HERE, True), (THERE, True), (HERE, True)]
        assert len(net.sessions()) == 1


def test_news_of_other_addresses_moves_nothing(network: Open, authority: CertificateAuthority) -> None:
    net = network()
    with Charon(net.stage.ue, client(authority)) as ue:
        (inner,) = ue.initiate().inner_addresses
        spi = ue.list_sas()[0].installed[0].inbound_spi
        net.stage.leave(ACCESS_B)
        ue.wait_for_log(r"generating INFORMATIONAL request \d+ \[ N\(NO_ADD_ADDR\) \]")
        ue.wait_for_log(r"parsed INFORMATIONAL response \d+ \[ \]")
        since = len(ue.log())
        net.stage.join(ACCESS_B)
        ue.wait_for_log(r"generating INFORMATIONAL request \d+ \[ N\(ADD_4_ADDR\) \]", since=since)
        ue.wait_for_log(r"parsed INFORMATIONAL response \d+ \[ \]", since=since)
        assert ping(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner).received == 3
        session = net.session()
        assert history(session) == [(HERE, True)]
        assert [child["outbound_spi"] for child in children(session)] == [spi]


def test_a_nat_that_rebinds_is_followed(network: Open, authority: CertificateAuthority) -> None:
    net = network()
    first, second = range(20000, 30000), range(40000, 50000)
    net.stage.translate(first)
    with Charon(net.stage.ue, client(authority, dpd_delay=1)) as ue:
        (inner,) = ue.initiate().inner_addresses
        session = net.session()
        address, _, port = ike_remote(session).rpartition(":")
        assert (address, int(port) in first) == (str(GATEWAY_ROUTER.ip), True)
        assert ike(session)["nat"] == {"local": False, "remote": True}
        assert ping(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner).received == 3
        # a liveness check with NAT detection must have been answered before: charon compares the next with it
        ue.wait_for_log(r"parsed INFORMATIONAL response \d+ \[ N\(NATD_S_IP\) N\(NATD_D_IP\) \]")
        net.stage.rebind(second)
        session = net.wait_session(
            lambda seen: int(ike_remote(seen).rpartition(":")[2]) in second, "the update after the rebinding"
        )
        session = net.wait_moved(ike_remote(session))
        assert [validated for _, validated in history(session)] == [True, True]
        assert ping(net.stage.core, inner).received == 3


# --- rekeying, liveness -----------------------------------------------------------------------------


def test_rekeying_by_the_ue_costs_packets_of_milliseconds(network: Open, authority: CertificateAuthority) -> None:
    net = network()
    with Charon(net.stage.ue, client(authority)) as ue:
        (inner,) = ue.initiate().inner_addresses
        with PingFlow(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner, interval=0.002) as flow:
            for number in range(2, 6):
                flow.wait_answers(20)
                ue.rekey_child()
                ue.wait_for_log(rf"outbound CHILD_SA net\{{{number}\}} established")
            flow.wait_answers(20)
        assert flow.lost * flow.interval < MAXIMUM_REKEY_LOSS, flow.output
        (child,) = children(net.session())
        assert child["outbound_spi"] == ue.wait_established().installed[0].inbound_spi


def test_rekeying_by_the_gateway_costs_packets_of_milliseconds(network: Open, authority: CertificateAuthority) -> None:
    net = network(ike={"child_lifetime": 0.5})
    with Charon(net.stage.ue, client(authority)) as ue:
        attached = ue.initiate()
        with PingFlow(net.stage.ue, HOST_BEHIND_GATEWAY, source=attached.inner_addresses[0], interval=0.002) as flow:
            ue.wait_for_log(r"outbound CHILD_SA net\{3\} established")
            flow.wait_answers(20)
        assert flow.lost * flow.interval < MAXIMUM_REKEY_LOSS, flow.output
        assert ue.list_sas()[0].spi_initiator == attached.spi_initiator


def test_liveness_is_answered_and_a_dead_ue_is_let_go(network: Open, authority: CertificateAuthority) -> None:
    net = network(ike={"liveness_interval": 0.5, "retransmission": {"base_interval": 0.1, "limit": 2}})
    with Charon(net.stage.ue, client(authority)) as ue:
        ue.initiate()
        ue.wait_for_log(r"generating INFORMATIONAL response 1 \[ \]")
        assert ike(net.session())["retransmissions_sent"] == 0
        ue.kill()
        ended = net.wait_ended()
        assert net.wait_terminated(ended) == TerminationCause.DIAMETER_LINK_BROKEN
        assert net.addresses_in_use() == {APN: 0}


# --- algorithms, identities -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proposals", "esp_proposals", "kind"),
    [
        ("aes256gcm16-prfsha256-ecp256", "aes256gcm16", "rsa"),
        ("aes256-sha256-modp2048", "aes128-sha256", "rsa"),
        ("aes128-sha256-modp3072-x25519", "aes128gcm16", "ecdsa"),  # its first group is refused: INVALID_KE_PAYLOAD
    ],
)
def test_algorithms(
    network: Open, authority: CertificateAuthority, proposals: str, esp_proposals: str, kind: str
) -> None:
    net = network(credentials=authority.issue(names=[FQDN], kind=kind))
    with Charon(net.stage.ue, client(authority, proposals=proposals, esp_proposals=esp_proposals)) as ue:
        (inner,) = ue.initiate().inner_addresses
        assert ping(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner).received == 3
        group = proposals.rpartition("-")[2]
        assert str(ike(net.session())["suite"]).endswith(group)


@pytest.mark.parametrize(
    ("proposals", "esp_proposals"),
    [
        ("3des-sha1-modp1024", "3des-sha1"),
        ("aes128-aesxcbc-modp1536", "aes128-aesxcbc"),  # the PRF is AES128_XCBC
        ("aes256ctr-aescmac-ecp521", "aes128ctr-aescmac"),  # the PRF is AES128_CMAC
        ("aes192ccm8-prfsha512-ecp384bp", "aes256ccm12"),
        ("aes256gcm12-prfaesxcbc-ecp224", "aes192gcm8"),
        ("chacha20poly1305-prfsha384-x448", "chacha20poly1305"),
        ("aes256-sha384-ecp256bp", "null-sha512"),
        ("aes128gcm8-prfaescmac-modp768", "aes256-sha384"),
    ],
)
def test_every_kind_of_algorithm(
    network: Open, authority: CertificateAuthority, proposals: str, esp_proposals: str
) -> None:
    """Key derivation, the Encrypted payload and ESP with an implementation that is not ours."""
    net = network(ike={"suites": [proposals], "esp_suites": [esp_proposals]})
    with Charon(net.stage.ue, client(authority, proposals=proposals, esp_proposals=esp_proposals)) as ue:
        (inner,) = ue.initiate().inner_addresses
        assert ping(net.stage.ue, HOST_BEHIND_GATEWAY, source=inner).received == 3
        assert ike(net.session())["suite"] == proposals


def test_the_apn_as_idr_and_a_cookie(network: Open, authority: CertificateAuthority) -> None:
    net = network(ike={"cookie_threshold": 0})
    with Charon(net.stage.ue, client(authority, gateway_identity=APN)) as ue:
        assert ue.initiate().remote_identity == APN
        ue.wait_for_log(r"parsed IKE_SA_INIT response 0 \[ N\(COOKIE\) \]")
        assert net.bridge.requests[0].service_selection == APN
        assert net.session()["apn"] == APN


def test_messages_in_fragments_both_ways(network: Open, authority: CertificateAuthority) -> None:
    """RFC 7383: each end puts together what the other has cut."""
    net = network(ike={"fragment_size": 400})
    with Charon(net.stage.ue, client(authority, settings={"fragment_size": 300})) as ue:
        assert ue.initiate().inner_addresses
        ue.wait_for_log(r"generating IKE_AUTH request 1 \[ EF\(1/[2-9]\) \]")
        ue.wait_for_log(r"parsed IKE_AUTH response 1 \[ EF\(1/[2-9]\) \]")


# --- refusals, ends ---------------------------------------------------------------------------------


def test_a_wrong_password_is_refused(network: Open, authority: CertificateAuthority) -> None:
    net = network()
    with Charon(net.stage.ue, client(authority, password="wrong")) as ue:
        with pytest.raises(PeerError, match="initiate failed"):
            ue.initiate()
        ue.wait_for_log("EAP_MSCHAPV2 method failed")
    ended = net.wait_ended()
    assert not any(answer.result.is_success for answer in net.bridge.answers)
    assert ended["established"] is None
    assert net.addresses_in_use() == {APN: 0}


def test_an_apn_that_is_not_served_is_refused(network: Open, authority: CertificateAuthority) -> None:
    net = network(credentials=authority.issue(names=[FQDN, "corporate"]))
    refused = pytest.raises(PeerError, match="initiate failed")
    with Charon(net.stage.ue, client(authority, gateway_identity="corporate")) as ue, refused:
        ue.initiate()
    ended = net.wait_ended()
    assert failure(ended) == "PDN_CONNECTION_REJECTION"
    net.wait_terminated(ended)


def test_a_gateway_certificate_of_nobody_is_refused(network: Open, authority: CertificateAuthority) -> None:
    net = network(credentials=CertificateAuthority("somebody else").issue(names=[FQDN]))
    with Charon(net.stage.ue, client(authority)) as ue, pytest.raises(PeerError, match="initiate failed"):
        ue.initiate()
    ended = net.wait_ended()
    assert failure(ended) == "AUTHENTICATION_FAILED"
    net.wait_terminated(ended)


def test_the_operator_and_the_gateways_end_detach(network: Open, authority: CertificateAuthority) -> None:
    net = network()
    with Charon(net.stage.ue, client(authority)) as ue:
        ue.initiate()
        net.epdg.call("sessions.detach", id=net.session()["id"])
        ue.wait_gone()
        ended = net.wait_ended()
        assert net.wait_terminated(ended) == TerminationCause.DIAMETER_ADMINISTRATIVE
        ue.initiate()
        assert net.epdg.stop() == 0
        ue.wait_gone()
        (session,) = {request.session_id for request in net.bridge.requests} - {str(ended["diameter_session_id"])}
        cause = net.bridge.wait_terminated(session).termination_cause
        assert cause == TerminationCause.DIAMETER_ADMINISTRATIVE
