"""A UE that authenticates anew by a second IKE SA: what that asks for; its failure changes nothing (RFC 4478)."""

from __future__ import annotations

from ipaddress import IPv4Address

from protocols.entropy import SeededEntropy
from protocols.ikev2.events import (
    AddressesUpdated,
    ChildSaInstalled,
    ChildSaRemoved,
    Closed,
    Established,
    IkeSaRekeyed,
    NatStatus,
    PeerAddressesChanged,
    ReauthenticationDue,
    Redirected,
    Refused,
)
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload
from protocols.ikev2.redirection import RedirectStage, RedirectTrail
from protocols.ikev2.registry import ConfigAttributeType, IdType
from protocols.path import Endpoint, Path
from protocols.threegpp.identity import Imsi
from tests.harness.pair import Pair
from ue.commands import (
    AccessPorts,
    AdoptSuccessor,
    Command,
    Connect,
    ConnectSuccessor,
    DropSuccessor,
    InstallChildSa,
    RemoveChildSa,
    Tell,
)
from ue.device import Device

INNER = IPv4Address("10.45.0.2")
GATEWAY = Endpoint.of("203.0.113.1", 500)
OTHER_GATEWAY = Endpoint.of("203.0.113.2", 4500)
PATH = Path(Endpoint.of("192.0.2.1", 4500), Endpoint.of("203.0.113.1", 4500))
NAI = "0001010000000001@nai"
DUE = ReauthenticationDue(until=1000.0)


def established(address: IPv4Address = INNER) -> Established:
    return Established(
        identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=b"0001010000000001@nai"),
        responder_identity=None,
        configuration=(ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS, value=address.packed),),
        mobike=True,
        nat=NatStatus(),
        path=PATH,
        requests=4,
    )


def attached() -> Device:
    """A UE that is attached on an access."""
    device = Device(
        imsi=Imsi("001010000000001"),
        nai=NAI,
        apn="internet",
        gateway=GATEWAY,
        entropy=SeededEntropy(1),
    )
    device.attach("wifi", 1, 0.0)
    device.access_opened("wifi", AccessPorts(ike=PATH.local, nat_traversal=PATH.local), 0.0)
    device.handle(established(), 1.0)
    device.host_started(1.0)
    return device


def told(commands: list[Command]) -> list[str]:
    return [command.name for command in commands if isinstance(command, Tell)]


def test_a_second_sa_asks_for_the_addresses_and_takes_over() -> None:
    device = attached()
    assert device.handle(DUE, 10.0) == [
        ConnectSuccessor(access="wifi", identity=NAI, gateway=GATEWAY.address, addresses=(INNER,))
    ]
    assert device.handle(DUE, 40.0) == []  # one at a time
    commands = device.handle_successor(established())
    assert isinstance(commands[0], AdoptSuccessor)
    assert told(commands) == ["reauthenticated"]
    assert device.handle(DUE, 900.0) == [
        ConnectSuccessor(access="wifi", identity=NAI, gateway=GATEWAY.address, addresses=(INNER,))
    ]


def test_its_child_sa_carries_once_it_has_taken_over() -> None:
    device, pair = attached(), Pair().attach()
    installed = pair.ue.take(ChildSaInstalled)
    device.handle(DUE, 10.0)
    assert device.handle_successor(installed) == []
    commands = device.handle_successor(established())
    assert commands[:2] == [AdoptSuccessor(), InstallChildSa(spec=installed.spec, replaces=None)]
    assert device.connection is not None
    assert installed.spec.inbound_spi in device.connection.children


def test_failures_change_nothing_and_the_next_attempt_is_free() -> None:
    device = attached()
    for event in (Refused(text="no"), Closed(why="no response")):
        device.handle(DUE, 10.0)
        assert told(device.handle_successor(event)) == ["reauthentication-failed"]
        assert device.handle_successor(Closed(why="and gone")) == []
    device.handle(DUE, 10.0)
    commands = device.handle_successor(established(IPv4Address("10.45.0.9")))
    assert DropSuccessor(why="the gateway gives other inner addresses") in commands
    assert device.connection is not None
    assert device.connection.addresses == (INNER,)
    assert device.handle(DUE, 20.0) == [
        ConnectSuccessor(access="wifi", identity=NAI, gateway=GATEWAY.address, addresses=(INNER,))
    ]


def test_detaching_and_the_end_let_the_second_sa_go() -> None:
    device = attached()
    device.handle(DUE, 10.0)
    assert DropSuccessor(why="the UE detaches") in device.detach(2, 11.0)
    device = attached()
    device.handle(DUE, 10.0)
    assert DropSuccessor(why="the connection has ended") in device.handle(Closed(why="gone", by_peer=True), 11.0)
    assert device.handle_successor(established()) == []


def test_not_while_the_ue_moves() -> None:
    device = attached()
    device.move("wifi-b", 2, 5.0)
    assert device.handle(DUE, 10.0) == []


def test_requests_are_counted_over_a_rekey_of_the_ike_sa() -> None:
    """The counters of a connection do not start anew with its Message IDs."""
    device = attached()
    pair = Pair().attach()
    device.connected(pair.ue.live.window)
    assert device.connection is not None
    before = device.connection.counts
    device.handle(IkeSaRekeyed(pair.epdg.live), 5.0)
    assert device.connection.counts == (before[0] + pair.epdg.live.window.requests_sent, before[1])


def moved(new: Path) -> AddressesUpdated:
    return AddressesUpdated(old=PATH, new=new, nat=NatStatus(), validated=True)


def test_whoever_moves_lets_the_second_sa_go() -> None:
    """It is on the access that is left; taken over, it would end the SA whose move somebody waits for."""
    device = attached()
    device.handle(DUE, 10.0)
    assert DropSuccessor(why="the UE moves") in device.move("wifi-b", 2, 11.0, keep_old=True)
    assert device.handle_successor(established()) == []
    device = attached()
    device.handle(DUE, 10.0)
    assert DropSuccessor(why="the UE has no access any more") in device.suspend(11.0)
    for elsewhere in (Path(Endpoint.of("198.51.100.1", 4500), PATH.remote), Path(PATH.local, OTHER_GATEWAY)):
        device = attached()
        device.access_opened("wifi-b", AccessPorts(ike=elsewhere.local, nat_traversal=elsewhere.local), 5.0)
        device.handle(DUE, 10.0)
        assert DropSuccessor(why="the UE moves") in device.handle(moved(elsewhere), 11.0)
        assert device.handle(DUE, 20.0) != []


def test_second_sa_goes_to_the_gateways_address_in_use_and_brings_its_own_list() -> None:
    """RFC 4555 §3.6: what a path test has left may be gone; the new SA's addresses are those it is told of."""
    device = attached()
    elsewhere = Path(PATH.local, OTHER_GATEWAY)
    device.handle(moved(elsewhere), 5.0)
    (begun,) = device.handle(DUE, 10.0)
    assert isinstance(begun, ConnectSuccessor)
    assert begun.gateway == OTHER_GATEWAY.address
    addresses = (OTHER_GATEWAY.address, PATH.remote.address)
    assert device.handle_successor(PeerAddressesChanged(addresses=addresses)) == []
    device.handle_successor(established())
    assert device.connection is not None
    assert device.connection.gateway_addresses == addresses


def test_child_sas_of_the_former_sa_end_with_the_connection() -> None:
    """Its DELETE may still wait for an answer when the UE detaches, and another connection follows."""
    pair = Pair().attach()
    device = attached()
    child = pair.ue.take(ChildSaInstalled)
    device.handle(child, 1.0)
    device.handle(DUE, 10.0)
    device.handle_successor(established())
    commands = device.handle(Closed(why="gone"), 11.0)
    assert RemoveChildSa(inbound_spi=child.spec.inbound_spi) in commands
    assert device.handle(ChildSaRemoved(inbound_spi=child.spec.inbound_spi, why="late"), 12.0) == []


def test_redirect_lets_the_second_sa_go() -> None:
    """RFC 5685 §5: the attach at the other gateway has the USIM for itself."""
    device = attached()
    device.handle(DUE, 10.0)
    trail = RedirectTrail(PATH.remote.address, (11.0,))
    there = Redirected(gateway=OTHER_GATEWAY.address, stage=RedirectStage.ESTABLISHED, trail=trail)
    device.handle(there, 11.0)
    commands = device.handle(Closed(why="redirected"), 12.0)
    assert DropSuccessor(why="the connection has ended") in commands
    assert isinstance(commands[-1], Connect)
    assert device.handle_successor(established()) == []
