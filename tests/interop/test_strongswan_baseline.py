"""The harness against itself: a strongSwan UE attaches to a strongSwan gateway, moves and detaches.

Nothing of this project takes part beyond the stage and the AuC. When a test with our gateway or our UE fails
while these pass, the peer and the stage are not to blame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

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
from tests.peers.certificates import CertificateAuthority
from tests.peers.hostapd import Hostapd, password_user
from tests.peers.namespaces import ping
from tests.peers.processes import PeerError
from tests.peers.strongswan import (
    Charon,
    Configuration,
    gateway_connections,
    ue_connection,
)

pytestmark = [pytest.mark.root, pytest.mark.peer]

GATEWAY_NAME = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
APN = "internet"
USER = "roaming-client@example.org"
PASSWORD = "correct horse"


@pytest.fixture
def gateway(stage: AccessTopology, authority: CertificateAuthority) -> Iterator[Charon]:
    """The strongSwan gateway with hostapd behind it in the core."""
    with Hostapd(stage.core, users=[password_user(USER, PASSWORD)]) as radius:
        configuration = gateway_connections(
            address=GATEWAY.ip,
            identities=[GATEWAY_NAME, APN],
            credentials=authority.issue(names=[GATEWAY_NAME, APN]),
            authorities=[authority.credentials.certificate_pem],
            radius=radius.radius_server(CORE.ip),
            pool=INNER_ADDRESSES,
        )
        with Charon(stage.gateway, configuration) as charon:
            yield charon


def client(
    authority: CertificateAuthority,
    *,
    gateway_identity: str = GATEWAY_NAME,
    password: str = PASSWORD,
    dpd_delay: float = 0,
    settings: Mapping[str, float] | None = None,
) -> Configuration:
    return ue_connection(
        gateway=GATEWAY.ip,
        gateway_identity=gateway_identity,
        identity=USER,
        password=password,
        authorities=[authority.credentials.certificate_pem],
        dpd_delay=dpd_delay,
        settings=settings,
    )


def test_attach_traffic_move_and_detach(
    stage: AccessTopology, gateway: Charon, authority: CertificateAuthority
) -> None:
    with Charon(stage.ue, client(authority)) as ue:
        attached = ue.initiate()
        assert attached.local.address == ACCESS_A.address.ip
        assert attached.remote.address == GATEWAY.ip
        assert attached.remote_identity == GATEWAY_NAME
        (inner,) = attached.inner_addresses
        assert IPv4Address(inner) in INNER_ADDRESSES
        (served,) = gateway.list_sas()
        assert served.established
        assert served.inner_addresses == (inner,)
        assert served.spi_initiator == attached.spi_initiator

        for destination in (HOST_BEHIND_GATEWAY, CORE.ip):
            assert ping(stage.ue, destination, source=inner).received == 3
        counted = gateway.list_sas()[0].installed[0]
        assert counted.packets_in >= 6
        assert counted.packets_out >= 6

        stage.leave(ACCESS_A)
        moved = ue.wait_moved(ACCESS_B.address.ip)
        assert moved.spi_initiator == attached.spi_initiator
        assert moved.inner_addresses == (inner,)
        followed = gateway.wait_established(remote=ACCESS_B.address.ip)
        assert followed.spi_initiator == attached.spi_initiator
        assert ping(stage.ue, HOST_BEHIND_GATEWAY, source=inner, count=5).received >= 4

        ue.terminate()
        gateway.wait_gone()
        assert not ue.list_sas()


def test_the_apn_as_idr_is_accepted_when_the_certificate_names_it(
    stage: AccessTopology, gateway: Charon, authority: CertificateAuthority
) -> None:
    with Charon(stage.ue, client(authority, gateway_identity=APN)) as ue:
        assert ue.initiate().remote_identity == APN


def test_attach_from_behind_a_nat(stage: AccessTopology, gateway: Charon, authority: CertificateAuthority) -> None:
    stage.translate(range(20000, 30000))
    with Charon(stage.ue, client(authority)) as ue:
        (inner,) = ue.initiate().inner_addresses
        served = gateway.wait_established(remote=GATEWAY_ROUTER.ip)
        assert served.remote.port in range(20000, 30000)
        assert ping(stage.ue, HOST_BEHIND_GATEWAY, source=inner).received == 3


def test_a_path_that_falls_silent_is_noticed_by_liveness(
    stage: AccessTopology, gateway: Charon, authority: CertificateAuthority
) -> None:
    quick = {"retransmit_timeout": 0.1, "retransmit_base": 1.0, "retransmit_tries": 2}
    with Charon(stage.ue, client(authority, dpd_delay=1, settings=quick)) as ue:
        ue.initiate()
        stage.silence(ACCESS_A)
        ue.wait_for_log("giving up after 2 retransmits")
        ue.wait_gone()
        assert str(ACCESS_A.address) in stage.ue.addresses()
        stage.restore(ACCESS_A)
        assert ue.initiate().established


def test_a_gateway_that_crashes_says_nothing(
    stage: AccessTopology, gateway: Charon, authority: CertificateAuthority
) -> None:
    with Charon(stage.ue, client(authority)) as ue:
        ue.initiate()
        gateway.kill()
        assert not gateway.running
        assert ue.list_sas()[0].established


def test_a_wrong_password_is_refused(stage: AccessTopology, gateway: Charon, authority: CertificateAuthority) -> None:
    with Charon(stage.ue, client(authority, password="wrong")) as ue:
        with pytest.raises(PeerError, match="initiate failed"):
            ue.initiate()
        ue.wait_for_log("EAP_MSCHAPV2 method failed")
        assert not any(status.established for status in gateway.list_sas())


def test_rekeying_keeps_traffic_running(
    stage: AccessTopology, gateway: Charon, authority: CertificateAuthority
) -> None:
    with Charon(stage.ue, client(authority)) as ue:
        before = ue.initiate()
        ue.rekey_child()
        ue.wait_for_log(r"inbound CHILD_SA net\{2\} established|CHILD_SA net\{2\} established")
        ue.rekey_ike()
        ue.wait_for_log(r"IKE_SA ue\[2\] rekeyed")
        after = ue.wait_established()
        assert after.spi_initiator != before.spi_initiator
        assert {child.inbound_spi for child in after.installed}.isdisjoint(
            child.inbound_spi for child in before.installed
        )
        assert ping(stage.ue, HOST_BEHIND_GATEWAY, source=before.inner_addresses[0]).received == 3


def test_a_peer_that_does_not_start_shows_its_log(stage: AccessTopology) -> None:
    broken = Configuration(swanctl="connections { bad { proposals = rot13-md0 } }")
    with pytest.raises(PeerError, match="swanctl --load-all"), Charon(stage.ue, broken):
        pass
