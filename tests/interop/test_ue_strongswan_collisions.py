"""Our UE at Debian's strongSwan as a gateway: rekeyings by both ends at once (RFC 7296 §2.8.1, §2.8.2, §2.25).

::

    SK {SA, Ni, KE}  -->  (on its way)
                          <--  SK {SA, Ni, KE}
    SK {SA, Nr, KE}  -->  (on its way)
                          the first is read    <--  SK {SA, Nr, KE}

charon takes CREATE_CHILD_SA messages later than they come (``receive_delay``), so each request is out before the
other end's is read.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.namespaces import namespaces
from tests.peers.strongswan import require_strongswan
from tests.peers.ue_at_strongswan import CONNECTION, Bench, UeAtCharon, bench, inbound_spis

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

CREATE_CHILD_SA = 36
DELAY = 0.6  # within which swanctl has to start
SETTINGS = {"receive_delay": int(DELAY * 1000), "receive_delay_type": CREATE_CHILD_SA}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Bench]:
    """One slow charon for all of it."""
    require_strongswan()
    with namespaces() as stage, bench(stage, settings=SETTINGS) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(gateway: Bench) -> Iterator[UeAtCharon]:
    """One UE that does not retransmit before charon has answered."""
    with gateway.ue(retransmission={"base_interval": 2.0}) as started:
        yield started


@pytest.fixture
def ue(gateway: Bench, shared: UeAtCharon) -> Iterator[UeAtCharon]:
    """That UE, not attached before and after."""
    yield shared
    if shared.session()["state"] == "established":
        shared.node.call("ue.detach")
    gateway.charon.wait_gone()


def begin(gateway: Bench, ue: UeAtCharon, kind: str, charons_kind: str) -> None:
    """The UE begins to rekey, and charon before it has read that."""
    ue.node.call(f"ue.rekey-{kind}")
    if charons_kind == "child":
        gateway.charon.rekey_child()
    else:
        gateway.charon.rekey_ike(CONNECTION)


@pytest.mark.parametrize("kind", ["child", "ike"])
def test_rekeyings_at_once(gateway: Bench, ue: UeAtCharon, kind: str) -> None:
    """RFC 7296 §2.8.1, §2.8.2: requests cross; of the two SAs one goes again, at both ends the same one."""
    for _ in range(2):  # the nonces decide which
        before = ue.attach()
        since = gateway.since()
        begin(gateway, ue, kind, kind)
        name = {"child": "CHILD_REKEY", "ike": "IKE_REKEY"}[kind]
        gateway.charon.wait_for_log(rf"detected {name} collision with {name}", since=since)
        if kind == "child":
            ue.wait_single_child(other_than=inbound_spis(before))
        else:
            ue.wait_rekeyed(before)
        gateway.agree(ue)
        ue.ping()
        ue.node.call("ue.detach")
        gateway.charon.wait_gone()


@pytest.mark.parametrize(("kind", "charons_kind"), [("child", "ike"), ("ike", "child")])
def test_an_ike_rekey_crosses_a_child_rekey(gateway: Bench, ue: UeAtCharon, kind: str, charons_kind: str) -> None:
    """RFC 7296 §2.25.2: each end is put off with TEMPORARY_FAILURE; the UE comes again after a pause."""
    before = ue.attach()
    since = gateway.since()
    begin(gateway, ue, kind, charons_kind)
    gateway.charon.wait_for_log(r"generating CREATE_CHILD_SA response 2 \[ N\(TEMP_FAIL\) \]", since=since)
    gateway.charon.wait_for_log(r"parsed CREATE_CHILD_SA response 0 \[ N\(TEMP_FAIL\) \]", since=since)
    ue.ping()
    if kind == "child":
        ue.wait_single_child(other_than=inbound_spis(before))
    else:
        ue.wait_rekeyed(before)
    gateway.agree(ue)
    ue.ping()
