"""The RADIUS side of the harness against itself: eapol_test at hostapd, with our AuC and our USIM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.namespaces import Namespace
from protocols.algorithms.sqn import IND_COUNT, SqnWindow
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi
from tests.peers.eapol import eapol_test
from tests.peers.hostapd import Hostapd, Subscriber, aka_users, require_hostapd
from tests.peers.namespaces import require_namespaces
from ue.usim import MemorySqnStore, SoftwareUsim

pytestmark = [pytest.mark.root, pytest.mark.peer]

IMSI = "001010000000001"
REALM = "nai.epc.mnc001.mcc001.3gppnetwork.org"
K = bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc")  # TS 35.208 §4.3.1, test set 1
OPC = bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    require_namespaces()
    require_hostapd()
    with Namespace("core") as core:
        yield core


def usim(window: SqnWindow | None = None, k: bytes = K) -> SoftwareUsim:
    return SoftwareUsim(imsi=Imsi(IMSI), k=Secret(k), opc=Secret(OPC), store=MemorySqnStore(window))


@pytest.mark.parametrize(("method", "digit"), [("AKA", "0"), ("AKA'", "6")])
def test_aka_succeeds_and_reauthenticates_fast(namespace: Namespace, method: str, digit: str) -> None:
    with Hostapd(namespace, users=aka_users(), subscribers={IMSI: Subscriber(k=K, opc=OPC)}, eap_sim_id=3) as radius:
        outcome = eapol_test(
            namespace,
            usim(),
            identity=f"{digit}{IMSI}@{REALM}",
            server=radius.radius_server("127.0.0.1"),
            method=method,
            reauthentications=2,
        )
        assert outcome.success, outcome.output
        assert outcome.challenges == 1
        assert radius.centre is not None
        assert radius.centre.requests == [f"AKA-REQ-AUTH {IMSI}"]


def test_resynchronisation_brings_the_auc_in_step(namespace: Namespace) -> None:
    subscriber = Subscriber(k=K, opc=OPC)
    ahead = SqnWindow((1000,) * IND_COUNT)
    with Hostapd(namespace, users=aka_users(), subscribers={IMSI: subscriber}) as radius:
        server = radius.radius_server("127.0.0.1")
        outcome = eapol_test(namespace, usim(ahead), identity=f"0{IMSI}@{REALM}", server=server)
        assert outcome.success, outcome.output
        assert outcome.challenges == 2
        assert subscriber.resynchronisations == 1


def test_a_usim_with_another_key_is_refused(namespace: Namespace) -> None:
    with Hostapd(namespace, users=aka_users(), subscribers={IMSI: Subscriber(k=K, opc=OPC)}) as radius:
        server = radius.radius_server("127.0.0.1")
        outcome = eapol_test(namespace, usim(k=bytes(16)), identity=f"0{IMSI}@{REALM}", server=server)
        assert not outcome.success
        assert outcome.challenges == 1


def test_an_unknown_imsi_is_refused(namespace: Namespace) -> None:
    with Hostapd(namespace, users=aka_users(), subscribers={}) as radius:
        server = radius.radius_server("127.0.0.1")
        outcome = eapol_test(namespace, usim(), identity=f"0{IMSI}@{REALM}", server=server)
        assert not outcome.success
        assert outcome.challenges == 0
