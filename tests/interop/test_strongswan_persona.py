"""The persona ``strongswan`` beside Debian's strongSwan: what each sends as it attaches and moves, payload for payload.

strongSwan's side is its own log. Ours authenticates by EAP where strongSwan has a key, so that AUTH, CERTREQ and CP are
not compared; nor are the two notifies that the persona leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

import pytest

from lab.namespaces import ACCESS_A, ACCESS_B, GATEWAY, GATEWAY_INTERFACE
from protocols.ikev2.registry import ExchangeType
from tests.harness.pair import ACCESS_B as OTHER_PLACE
from tests.harness.persona import Phone, lenient_gateway, names
from tests.peers.namespaces import namespaces
from tests.peers.processes import wait_until
from tests.peers.strongswan import Charon, require_strongswan
from tests.peers.strongswan_scene import Connection, Scene, gateway_on

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

SECOND_GATEWAY = IPv4Interface("10.77.0.3/24")
OURS = {
    "SA": "SA",
    "KE": "KE",
    "NONCE": "No",
    "IDi": "IDi",
    "IDr": "IDr",
    "TSi": "TSi",
    "TSr": "TSr",
    "D": "D",
    "N(16384)": "N(INIT_CONTACT)",
    "N(16388)": "N(NATD_S_IP)",
    "N(16389)": "N(NATD_D_IP)",
    "N(16393)": "N(REKEY_SA)",
    "N(16396)": "N(MOBIKE_SUP)",
    "N(16397)": "N(ADD_4_ADDR)",
    "N(16399)": "N(NO_ADD_ADDR)",
    "N(16400)": "N(UPD_SA_ADDR)",
    "N(16401)": "N(COOKIE2)",
    "N(16406)": "N(REDIR_SUP)",
    "N(16430)": "N(FRAG_SUP)",
    "N(16431)": "N(HASH_ALG)",
}
NOT_COMPARED = {"AUTH", "CERTREQ", "CP", "CPRQ(ADDR)", "N(EAP_ONLY)", "N(MSG_ID_SYN_SUP)"}


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    require_strongswan()
    with namespaces() as stage:
        stage.gateway.add_address(GATEWAY_INTERFACE, SECOND_GATEWAY)
        addresses = (GATEWAY.ip, SECOND_GATEWAY.ip)
        with gateway_on(stage, tmp_path_factory.mktemp("gateway"), addresses=addresses) as made:
            yield made


def generated(charon: Charon) -> list[list[str]]:
    """Payloads of the requests that strongSwan has made."""
    found = re.findall(r"generating \w+ request \d+ \[ (.*?)\]", charon.log())
    return [[name for name in each.split() if name not in NOT_COMPARED] for each in found]


def said(phone: Phone) -> list[list[str]]:
    """The same of ours, in the order in which they left; of IKE_AUTH the first."""
    exchanges = (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL)
    # the probe goes to two addresses with one Message ID
    init, auth, informational = (
        list({each.message_id: each for _, each in phone.requests(kind)}.values()) for kind in exchanges
    )
    return [
        [OURS[name] for name in names(each.payloads) if name not in NOT_COMPARED]
        for each in (*init, auth[0], *informational)
    ]


def test_the_persona_says_what_strongswan_says(place: Scene) -> None:
    with place.charon(Connection(gateway=GATEWAY.ip)) as charon:
        charon.initiate()
        place.stage.leave(ACCESS_A)
        charon.wait_moved(ACCESS_B.address.ip)
        wait_until(lambda: "generating CREATE_CHILD_SA" in charon.log(), what="the rekey", timeout=10)
        theirs = generated(charon)
        sent = re.findall(r"sending packet: from 10\.77\.2\.2\[4500\] to (\S+)\[4500\]", charon.log())
    other = IPv4Address("198.51.100.1")
    phone = Phone(
        "strongswan",
        lenient_gateway(additional_addresses=(IPv4Address("203.0.113.9"),)),
        ike={"additional_addresses": [str(other)]},
    )
    phone.attach()
    phone.ue.endpoint.set_addresses(phone.ue.live, (), phone.now, tell=False)  # all addresses are gone, one comes back
    phone.roam(OTHER_PLACE)
    phone.run(5.0)
    assert theirs[:4] == said(phone)
    assert theirs[4][0] == "N(REKEY_SA)"
    assert sent[:2] == ["10.77.0.1", "10.77.0.3"]
