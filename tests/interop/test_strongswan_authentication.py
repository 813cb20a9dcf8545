"""Authentication without EAP against Debian's strongSwan, both ways round, in network namespaces.

::

    ue run (ue) ── access ── router ── charon (gateway)        charon (ue) ── access ── router ── epdg serve (gateway)

Pre-shared keys, RSA-PSS, ECDSA P-521, Ed25519 and Ed448; no AAA server, no RADIUS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.namespaces import ACCESS_A, GATEWAY, HOST_BEHIND_GATEWAY, INNER_ADDRESSES, AccessTopology
from protocols.errors import StackError
from tests.peers.certificates import CertificateAuthority, Credentials
from tests.peers.namespaces import ping
from tests.peers.node_process import NodeProcess
from tests.peers.processes import PeerError, wait_until
from tests.peers.strongswan import CHILD, UE_CONNECTION, Charon, Configuration, require_strongswan

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
APN = "internet"
UE = "ue-1@example.org"
KEY = "a secret of sufficient length"


@dataclass(frozen=True, kw_only=True)
class Method:
    """How both ends prove themselves; ``logged`` is what charon says of our AUTH."""

    name: str
    logged: str
    kind: str | None = None  # of the certificates' keys
    pss: bool = False


METHODS = (
    Method(name="psk", logged="pre-shared key"),
    Method(name="rsa", kind="rsa", logged="RSA_EMSA_PKCS1_SHA2_256"),
    Method(name="rsa-pss", kind="rsa", pss=True, logged="RSA_EMSA_PSS_SHA2_256_SALT_32"),
    Method(name="ecdsa-p521", kind="p521", logged="ECDSA_WITH_SHA512_DER"),
    Method(name="ed25519", kind="ed25519", logged="ED25519"),
    Method(name="ed448", kind="ed448", logged="ED448"),
)
each_method = pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])


def charon_configuration(
    method: Method, role: str, own: Credentials | None, authority: CertificateAuthority, key: str = KEY
) -> Configuration:
    """charon as ``ue`` or as ``gateway``, with its own certificate where the method has one."""
    auth = "psk" if method.kind is None else "pubkey"
    certificate = "" if method.kind is None else "certs = credentials-0.pem"
    ends = {"ue": UE, "gateway": APN}
    mine, theirs = (ends["ue"], ends["gateway"]) if role == "ue" else (ends["gateway"], ends["ue"])
    place = f"remote_addrs = {GATEWAY.ip}\n    vips = 0.0.0.0" if role == "ue" else f"local_addrs = {GATEWAY.ip}"
    pool = "" if role == "ue" else "pools = inner"
    traffic = "remote_ts = 0.0.0.0/0" if role == "ue" else f"local_ts = {HOST_BEHIND_GATEWAY}/32"
    swanctl = f"""
connections {{
  {UE_CONNECTION} {{
    version = 2
    {place}
    {pool}
    proposals = aes128-sha256-x25519
    send_cert = always
    local {{
      auth = {auth}
      {certificate}
      id = "{mine}"
    }}
    remote {{
      auth = {auth}
      id = "{theirs}"
    }}
    children {{
      {CHILD} {{
        {traffic}
        esp_proposals = aes128gcm16
      }}
    }}
  }}
}}
pools {{
  inner {{
    addrs = {INNER_ADDRESSES}
  }}
}}
secrets {{
  ike-1 {{
    id-ue = "{UE}"
    id-gateway = "{APN}"
    secret = "{key}"
  }}
}}
"""
    return Configuration(
        swanctl=swanctl,
        authorities=[authority.credentials.certificate_pem],
        credentials=() if own is None else (own,),
        settings={"rsa_pss": "yes" if method.pss else "no"},
    )


def write(directory: Path, name: str, credentials: Credentials) -> dict[str, object]:
    """Credentials as files; what a configuration says of them."""
    (directory / f"{name}.pem").write_bytes(credentials.certificate_pem)
    (directory / f"{name}.key").write_bytes(credentials.key_pem)
    return {"chain": f"{name}.pem", "key": f"{name}.key"}


# --- our UE at charon -------------------------------------------------------------------------------


@contextlib.contextmanager
def our_ue(
    stage: AccessTopology,
    directory: Path,
    method: Method,
    authority: CertificateAuthority,
    changes: Mapping[str, object] | None = None,
) -> Iterator[NodeProcess]:
    (directory / "ca.pem").write_bytes(authority.credentials.certificate_pem)
    gateway: dict[str, object] = {"address": str(GATEWAY.ip)}
    values: dict[str, object] = {
        "imsi": "001010000000001",
        "plmn": {"mcc": "001", "mnc": "01"},
        "identity": UE,
        "apn": APN,
        "gateway": gateway,
        "accesses": {"wifi-a": {"address": str(ACCESS_A.address.ip)}},
        "data_plane": {"kind": "tun"},
    }
    if method.kind is None:
        values.update(authentication="psk", psk=KEY)
    else:
        own = write(directory, "ue", authority.issue(names=[UE], kind=method.kind, client=True))
        gateway["ca"] = "ca.pem"
        values.update(authentication="certificate", certificate={**own, "pss": method.pss})
    with NodeProcess(stage.ue, "ue", directory, {**values, **(changes or {})}, verb="run") as node:
        yield node


@each_method
def test_our_ue_at_strongswan(
    stage: AccessTopology, authority: CertificateAuthority, tmp_path: Path, method: Method
) -> None:
    require_strongswan()
    own = None if method.kind is None else authority.issue(names=[FQDN, APN], kind=method.kind)
    with (
        Charon(stage.gateway, charon_configuration(method, "gateway", own, authority)) as gateway,
        our_ue(stage, tmp_path, method, authority) as ue,
    ):
        session = ue.call("ue.attach", access="wifi-a")
        addresses = session["inner_addresses"]
        assert isinstance(addresses, list)
        gateway.wait_for_log(rf"authentication of '{UE}' with {method.logged}.* successful")
        served = gateway.wait_established()
        assert served.inner_addresses == tuple(addresses)
        assert ping(stage.ue, HOST_BEHIND_GATEWAY, source=str(addresses[0])).received == 3


def test_strongswan_with_another_key_is_refused(
    stage: AccessTopology, authority: CertificateAuthority, tmp_path: Path
) -> None:
    require_strongswan()
    psk = METHODS[0]
    with (
        Charon(stage.gateway, charon_configuration(psk, "gateway", None, authority, key="another")) as gateway,
        our_ue(stage, tmp_path, psk, authority) as ue,
    ):
        with pytest.raises(StackError, match="AUTHENTICATION_FAILED"):
            ue.call("ue.attach", access="wifi-a")
        gateway.wait_for_log(r"generating IKE_AUTH response 1 \[ N\(AUTH_FAILED\)")


# --- charon at our gateway --------------------------------------------------------------------------


@contextlib.contextmanager
def our_gateway(
    stage: AccessTopology,
    directory: Path,
    method: Method,
    authority: CertificateAuthority,
    authentication: Mapping[str, object] | None = None,
) -> Iterator[NodeProcess]:
    (directory / "ca.pem").write_bytes(authority.credentials.certificate_pem)
    values: dict[str, object] = {
        "plmn": {"mcc": "001", "mnc": "01"},
        "listen": {"addresses": [str(GATEWAY.ip)]},
        "diameter": {"host": "epdg.example", "realm": "example"},
        "apns": {APN: {"pool": str(INNER_ADDRESSES)}},
        "data_plane": {"kind": "tun"},
    }
    if method.kind is None:
        values["authentication"] = {"methods": ["psk"], "psk": {UE: KEY}}
    else:
        own = write(directory, "gateway", authority.issue(names=[FQDN, APN], kind=method.kind))
        values["certificate"] = {**own, "pss": method.pss}
        values["authentication"] = {
            "methods": ["certificate"],
            "certificate_authorities": ["ca.pem"],
            **(authentication or {}),
        }
    with NodeProcess(stage.gateway, "epdg", directory, values) as node:
        yield node


@each_method
def test_strongswan_at_our_gateway(
    stage: AccessTopology, authority: CertificateAuthority, tmp_path: Path, method: Method
) -> None:
    require_strongswan()
    own = None if method.kind is None else authority.issue(names=[UE], kind=method.kind, client=True)
    with (
        our_gateway(stage, tmp_path, method, authority) as epdg,
        Charon(stage.ue, charon_configuration(method, "ue", own, authority)) as ue,
    ):
        attached = ue.initiate()
        ue.wait_for_log(rf"authentication of '{APN}' with {method.logged}.* successful")
        (inner,) = attached.inner_addresses
        assert ping(stage.ue, HOST_BEHIND_GATEWAY, source=inner).received == 3
        listed = epdg.call("sessions.list")["sessions"]
        assert isinstance(listed, list)
        (session,) = listed
        assert isinstance(session, dict)
        assert (session["nai"], session["apn"], session["inner_addresses"]) == (UE, APN, [inner])


def test_a_revoked_strongswan_is_refused(
    stage: AccessTopology, authority: CertificateAuthority, tmp_path: Path
) -> None:
    require_strongswan()
    own = authority.issue(names=[UE], client=True)
    (tmp_path / "ca.crl").write_bytes(authority.crl(own))
    method = Method(name="ecdsa", kind="ecdsa", logged="")
    checks = {"revocation": "if-present", "crls": ["ca.crl"]}
    with (
        our_gateway(stage, tmp_path, method, authority, checks) as epdg,
        Charon(stage.ue, charon_configuration(method, "ue", own, authority)) as ue,
    ):
        with pytest.raises(PeerError, match="AUTHENTICATION_FAILED"):
            ue.initiate()
        wait_until(lambda: "was revoked at" in epdg.log(), what="the refusal in the log", timeout=5.0, log=epdg.log)
