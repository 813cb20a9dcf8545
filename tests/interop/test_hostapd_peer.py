"""Our UE's EAP peer against hostapd's EAP server: EAP-AKA and EAP-AKA' in every kind of authentication."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lab.namespaces import Namespace
from protocols.algorithms.sqn import IND_COUNT, SqnWindow
from protocols.eap.aka import peer as aka
from protocols.eap.packet import EapType
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi, Nai
from tests.peers.eap_over_radius import RadiusSubscriber, bid_down, nak_for_aka
from tests.peers.hostapd import Hostapd, Subscriber, aka_users, require_hostapd
from tests.peers.namespaces import require_namespaces
from ue.usim import MemorySqnStore, SoftwareUsim

pytestmark = [pytest.mark.root, pytest.mark.peer]

IMSI = Imsi("001010000000001")
REALM = "nai.epc.mnc001.mcc001.3gppnetwork.org"
K = Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"))  # TS 35.208 §4.3.1, test set 1
OPC = Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf"))
METHODS = pytest.mark.parametrize("method", [EapType.AKA, EapType.AKA_PRIME])
NAIS = {EapType.AKA: f"0{IMSI}@{REALM}", EapType.AKA_PRIME: f"6{IMSI}@{REALM}"}
NAMES = {EapType.AKA: "AKA", EapType.AKA_PRIME: "AKA'"}
PRIME_FIRST = (EapType.AKA_PRIME, EapType.AKA)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    require_namespaces()
    require_hostapd()
    with Namespace("core") as core:
        yield core


def home() -> Subscriber:
    return Subscriber(k=K.reveal(), opc=OPC.reveal())


def subscriber(
    hostapd: Hostapd, method: EapType, options: aka.PeerOptions | None = None, *, k: Secret = K, seq: int = 0
) -> RadiusSubscriber:
    """The subscriber in front of this hostapd."""
    card = MemorySqnStore(SqnWindow((seq,) * IND_COUNT))
    return RadiusSubscriber(
        namespace=hostapd.namespace,
        server=hostapd.radius_server("127.0.0.1"),
        imsi=IMSI,
        usim=SoftwareUsim(imsi=IMSI, k=k, opc=OPC, store=card),
        nai=NAIS[method],
        options=options or aka.PeerOptions(network_name="WLAN"),
    )


@METHODS
def test_full_twice_fast_and_by_pseudonym(namespace: Namespace, method: EapType) -> None:
    with Hostapd(namespace, users=aka_users(), subscribers={str(IMSI): home()}, eap_sim_id=3) as hostapd:
        user = subscriber(hostapd, method)
        first = user.authenticate()
        assert first.succeeded
        assert first.challenges == 1
        assert user.held.pseudonym is not None
        for counter in (1, 2):
            again = user.authenticate()
            assert again.succeeded
            assert again.challenges == 0
            assert isinstance(again.peer, aka.Succeeded)
            assert again.peer.fast
            assert f"EAP-Response/{NAMES[method]}-Reauthentication" in again.narrative
            assert user.held.reauthentication is not None
            assert user.held.reauthentication.counter == counter
        user.held = replace(user.held, reauthentication=None)
        hidden = user.held.pseudonym
        assert hidden is not None
        by_pseudonym = user.authenticate()
        assert by_pseudonym.succeeded
        assert isinstance(by_pseudonym.peer, aka.Succeeded)
        assert by_pseudonym.peer.identity == f"{hidden.username}@{REALM}".encode()
        assert hostapd.centre is not None
        assert hostapd.centre.requests == [f"AKA-REQ-AUTH {IMSI}"] * 2


@METHODS
def test_identities_inside_of_the_method(namespace: Namespace, method: EapType) -> None:
    """hostapd asks for any identity where what it was told outside is of no use."""
    users = (f"* {NAMES[method]}",)
    with Hostapd(namespace, users=users, subscribers={str(IMSI): home()}, eap_sim_id=3) as hostapd:
        user = subscriber(hostapd, method)
        user.outer_identity = f"anonymous@{REALM}"
        identities = []
        for _ in range(3):
            outcome = user.authenticate()
            assert outcome.succeeded
            assert isinstance(outcome.peer, aka.Succeeded)
            assert f"EAP-Response/{NAMES[method]}-Identity" in outcome.narrative
            identities.append((outcome.peer.fast, Nai.parse(outcome.peer.identity.decode()).kind.reauthentication))
        assert identities == [(False, False), (True, True), (True, True)]


@METHODS
def test_result_indications(namespace: Namespace, method: EapType) -> None:
    options = aka.PeerOptions(result_indications=True)
    subscribers = {str(IMSI): home()}
    with Hostapd(
        namespace, users=aka_users(), subscribers=subscribers, eap_sim_id=3, result_indications=True
    ) as hostapd:
        user = subscriber(hostapd, method, options)
        for fast in (False, True):
            outcome = user.authenticate()
            assert outcome.succeeded
            assert isinstance(outcome.peer, aka.Succeeded)
            assert outcome.peer.fast is fast
            assert f"EAP-Response/{NAMES[method]}-Notification" in outcome.narrative


@METHODS
def test_resynchronisation(namespace: Namespace, method: EapType) -> None:
    network = home()
    with Hostapd(namespace, users=aka_users(), subscribers={str(IMSI): network}) as hostapd:
        outcome = subscriber(hostapd, method, seq=1000).authenticate()
        assert outcome.succeeded
        assert outcome.challenges == 2
        assert network.resynchronisations == 1


@METHODS
def test_a_network_with_another_key_is_rejected(namespace: Namespace, method: EapType) -> None:
    with Hostapd(namespace, users=aka_users(), subscribers={str(IMSI): home()}) as hostapd:
        outcome = subscriber(hostapd, method, k=Secret(bytes(16))).authenticate()
        assert not outcome.accepted
        assert isinstance(outcome.peer, aka.Failed)
        assert outcome.peer.cause is aka.AkaFailure.AUTN_REJECTED
        assert f"EAP-Response/{NAMES[method]}-Authentication-Reject" in outcome.narrative


def test_another_network_name_is_rejected(namespace: Namespace) -> None:
    with Hostapd(namespace, users=aka_users(), subscribers={str(IMSI): home()}) as hostapd:
        user = subscriber(hostapd, EapType.AKA_PRIME, aka.PeerOptions(network_name="HRPD"))
        outcome = user.authenticate()
        assert not outcome.accepted
        assert isinstance(outcome.peer, aka.Failed)
        assert outcome.peer.cause is aka.AkaFailure.NETWORK_NAME
        user.options = aka.PeerOptions(network_name="HRPD", network_name_policy=aka.NetworkNamePolicy.WARN)
        assert user.authenticate().succeeded


@pytest.mark.parametrize("methods", [PRIME_FIRST, (EapType.AKA,)])
def test_the_method_is_negotiated_and_nobody_bids_down(namespace: Namespace, methods: tuple[EapType, ...]) -> None:
    """RFC 9048 §4: hostapd would rather use EAP-AKA'; somebody between it and the peer makes it use EAP-AKA."""
    with Hostapd(namespace, users=('"0"* AKA\',AKA',), subscribers={str(IMSI): home()}) as hostapd:
        user = subscriber(hostapd, EapType.AKA, aka.PeerOptions(methods=methods))
        outcome = user.authenticate()
        assert outcome.succeeded
        assert isinstance(outcome.peer, aka.Succeeded)
        assert outcome.peer.method is methods[0]
        user.downlink, user.uplink = bid_down, nak_for_aka
        attacked = user.authenticate()
        if methods == PRIME_FIRST:
            assert not attacked.accepted
            assert isinstance(attacked.peer, aka.Failed)
            assert attacked.peer.cause is aka.AkaFailure.BIDDING_DOWN
        else:
            assert attacked.succeeded  # a peer without EAP-AKA' has nothing to lose
