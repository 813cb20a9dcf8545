"""Inner IPv4 and IPv6 with Debian's strongSwan: it as a UE at our gateway, our UE at it as a gateway.

The networks are those of ``test_strongswan_ue`` and ``test_ue_strongswan_gateway``, with IPv6 in the namespaces
where inner addresses live. charon asks by ``vips = 0.0.0.0, ::`` and grants from two pools.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from lab.namespaces import ACCESS_A, CORE, GATEWAY, HOST_BEHIND_GATEWAY, INNER_ADDRESSES, AccessTopology
from tests.interop import test_strongswan_ue as our_gateway
from tests.interop import test_ue_strongswan_gateway as our_ue
from tests.peers.certificates import CertificateAuthority
from tests.peers.hostapd import Hostapd, Subscriber, aka_users, password_user
from tests.peers.namespaces import ping
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until
from tests.peers.strongswan import Charon, gateway_connections, require_strongswan
from tests.peers.swm_radius_bridge import SwmRadiusBridge

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

INNER_6 = IPv6Network("2001:db8:46::/48")
HOST_6, DNS_6 = IPv6Address("2001:db8:100::1"), IPv6Address("2001:db8:100::53")


@pytest.fixture
def dual_stage(stage: AccessTopology) -> AccessTopology:
    """The access topology with IPv6 at both ends of the tunnel, and a host behind the gateway."""
    for namespace in (stage.ue, stage.gateway):
        for scope in ("all", "default"):
            namespace.set_sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 0)
    stage.gateway.add_address("lo", f"{HOST_6}/128")
    return stage


def test_strongswan_as_a_ue_gets_both_families_from_our_gateway(
    dual_stage: AccessTopology, authority: CertificateAuthority, tmp_path: Path
) -> None:
    """SK {.., CP(IP4_ADDRESS, IP6_ADDRESS, DNS ..), TSi, TSr} --> <-- SK {.., CP, SA, TSi = both, TSr = any, any}"""
    require_strongswan()
    stage = dual_stage
    credentials = authority.issue(names=[our_gateway.FQDN, our_gateway.APN])
    configuration = our_gateway.gateway_configuration(tmp_path, credentials, {})
    apn = {"pool": str(INNER_ADDRESSES), "pool6": str(INNER_6), "dns": [str(HOST_BEHIND_GATEWAY), str(DNS_6)]}
    configuration["apns"] = {our_gateway.APN: apn}
    connection = our_gateway.client(authority)
    swanctl = connection.swanctl.replace("vips = 0.0.0.0", "vips = 0.0.0.0, ::")
    swanctl = swanctl.replace("remote_ts = 0.0.0.0/0", "remote_ts = 0.0.0.0/0, ::/0")
    with contextlib.ExitStack() as stack:
        user = password_user(our_gateway.USER, our_gateway.PASSWORD)
        radius = stack.enter_context(Hostapd(stage.core, users=[user]))
        stack.enter_context(SwmRadiusBridge(stage.core, radius.radius_server("127.0.0.1"), CORE.ip))
        epdg = stack.enter_context(NodeProcess(stage.gateway, "epdg", tmp_path, configuration))
        wait_until(lambda: our_gateway.peer_is_open(epdg), what="SWm being open", timeout=10.0, log=epdg.log)
        ue = stack.enter_context(Charon(stage.ue, replace(connection, swanctl=swanctl)))
        attached = ue.initiate()
        inner_4, inner_6 = attached.inner_addresses
        assert IPv4Address(inner_4) in INNER_ADDRESSES
        assert IPv6Address(inner_6) in INNER_6
        (session,) = epdg.call("sessions.list", state="established")["sessions"]  # type: ignore[misc]
        assert session["inner_addresses"] == [inner_4, inner_6]  # type: ignore[index,call-overload]
        assert f"installing new virtual IP {inner_6}" in ue.log()
        assert ping(stage.ue, HOST_BEHIND_GATEWAY, source=inner_4).received == 3
        assert ping(stage.ue, HOST_6, source=inner_6).received == 3
        assert ping(stage.gateway, inner_6, source=HOST_6).received == 3
        (child,) = our_gateway.children(session)  # type: ignore[arg-type]
        assert len(child["remote_selectors"]) == 2  # type: ignore[arg-type]
        ue.terminate()


def test_our_ue_gets_both_families_from_strongswan(
    dual_stage: AccessTopology, authority: CertificateAuthority, tmp_path: Path
) -> None:
    require_strongswan()
    stage = dual_stage
    (tmp_path / "ca.pem").write_bytes(authority.credentials.certificate_pem)
    with contextlib.ExitStack() as stack:
        subscribers = {our_ue.IMSI: Subscriber(k=our_ue.K, opc=our_ue.OPC)}
        radius = stack.enter_context(Hostapd(stage.core, users=aka_users(), subscribers=subscribers))
        configuration = gateway_connections(
            address=GATEWAY.ip,
            identities=[our_ue.FQDN, our_ue.APN],
            credentials=authority.issue(names=[our_ue.FQDN, our_ue.APN]),
            authorities=[authority.credentials.certificate_pem],
            radius=radius.radius_server(CORE.ip),
            pool=INNER_ADDRESSES,
            dns=[our_ue.RESOLVER],
            local_selectors=["10.77.100.1/32", f"{HOST_6}/128"],
        )
        pools = f"pools {{\n  inner6 {{\n    addrs = {INNER_6[256]}/120\n    dns = {DNS_6}\n  }}\n"
        swanctl = configuration.swanctl.replace("pools = inner", "pools = inner, inner6").replace("pools {\n", pools)
        charon = stack.enter_context(Charon(stage.gateway, replace(configuration, swanctl=swanctl)))
        settings = {**our_ue.ue_configuration(), "pdn_type": "ipv4v6"}
        ue = stack.enter_context(NodeProcess(stage.ue, "ue", tmp_path, settings, verb="run"))
        session = ue.call("ue.attach", access="wifi-a")
        inner_4, inner_6 = (str(address) for address in session["inner_addresses"])  # type: ignore[union-attr]
        assert IPv4Address(inner_4) in INNER_ADDRESSES
        assert IPv6Address(inner_6) in INNER_6
        assert str(DNS_6) in session["dns"]  # type: ignore[operator]
        served = charon.wait_established(remote=ACCESS_A.address.ip)
        assert set(served.inner_addresses) == {inner_4, inner_6}
        assert ping(stage.ue, HOST_BEHIND_GATEWAY, source=inner_4).received == 3
        assert ping(stage.ue, HOST_6, source=inner_6).received == 3
        ue.call("ue.detach")
