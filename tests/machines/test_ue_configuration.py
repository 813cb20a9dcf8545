"""What the UE asks for, what it takes and what it refuses (RFC 7296 §3.15, RFC 7651, TS 24.302 §7.2.2, §8.2.4)."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

import pytest
import yaml

from protocols.errors import ConfigurationError
from protocols.ikev2.events import ConfigurationExchanged, ConfigurationReply
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, NotifyPayload
from protocols.ikev2.registry import ConfigAttributeType, ConfigType, IdType, NotifyType
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.io.configuration import parse
from protocols.selectors import TrafficSelector
from protocols.threegpp.causes import PrivateNotify
from protocols.threegpp.identity import Plmn
from tests.harness.material import ROOT
from tests.harness.pair import initiator_config
from tests.machines.test_ue_device import NAI, World, attached
from ue.config import UeConfiguration
from ue.configuration import Granted
from ue.context import DeviceState
from ue.profile import initiator_config as profile
from ue.retry import Bar, RetryPolicy, Rule
from ue.selection import ConfiguredUse, FqdnKind, PreferredPlmn, SelectionPolicy

INNER_4, INNER_6 = IPv4Address("10.45.0.2"), IPv6Address("2001:db8:45:1::1")
DNS_6, P_CSCF_6 = IPv6Address("2001:db8:45::1"), IPv6Address("2001:db8:45::9")
P_CSCF_4, OTHER_P_CSCF = IPv4Address("10.45.0.9"), IPv4Address("10.45.0.10")
ANY = (TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0"))


def attribute(kind: int, value: bytes = b"") -> ConfigurationAttribute:
    return ConfigurationAttribute(type=ConfigAttributeType.of(kind), value=value)


def reply(*attributes: ConfigurationAttribute, **changes: object) -> ConfigurationReply:
    values: dict[str, object] = {
        "attributes": attributes,
        "local_selectors": ANY,
        "remote_selectors": (TrafficSelector.host(INNER_4), TrafficSelector.host(INNER_6)),
    }
    values.update(changes)
    return ConfigurationReply(**values)  # type: ignore[arg-type]


def granted(answer: ConfigurationReply) -> World:
    """A dual-stack UE and a gateway that grants this."""
    config = initiator_config(
        identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=NAI.encode()),
        configuration_request=(attribute(1), attribute(8)),
        local_selectors=ANY,
        remote_selectors=ANY,
    )
    return World(ue_config=config, grant=lambda: answer)


# --- asked --------------------------------------------------------------------------------------------


def configured(**changes: object) -> UeConfiguration:
    values = yaml.safe_load((ROOT / "ue" / "example.yaml").read_text())
    values["gateway"] = {"address": "127.0.1.1", "eap_only": True}
    return parse(yaml.safe_dump({**values, **changes}), UeConfiguration)


def request(**changes: object) -> list[tuple[int, bytes]]:
    config = profile(configured(**changes), lambda: datetime.now(UTC))
    return [(int(each.type), each.value) for each in config.configuration_request]


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, [1, 3, 20, 24]),
        ({"pdn_type": "ipv6"}, [8, 10, 21, 24]),
        ({"pdn_type": "ipv4v6"}, [1, 3, 20, 8, 10, 21, 24]),
        ({"request": {"p_cscf": ["private-16384"], "liveness_period": False}}, [1, 3, 16384]),
        ({"pdn_type": "ipv6", "request": {"p_cscf": ["private-16389", "rfc7651"]}}, [8, 10, 16390, 21, 24]),
        ({"pdn_type": "ipv6", "request": {"p_cscf": ["private-16384"]}}, [8, 10, 16386, 24]),
        ({"request": {"p_cscf": [], "application_version": True, "supported_attributes": True}}, [1, 3, 7, 14, 24]),
    ],
)
def test_what_the_configuration_says_is_asked_for(changes: dict[str, object], kinds: list[int]) -> None:
    """RFC 7296 §3.15.1, RFC 7651 §4: empty attributes ask."""
    assert request(**changes) == [(kind, b"") for kind in kinds]


def test_previous_addresses_are_asked_for_again() -> None:
    """TS 24.302 §7.2.2.1: handover; INTERNAL_IP6_ADDRESS is an address and its prefix length (RFC 7296 §3.15.1)."""
    asked = request(pdn_type="ipv4v6", request={"previous_addresses": [str(INNER_6), str(INNER_4)]})
    assert (1, INNER_4.packed) in asked
    assert (8, INNER_6.packed + b"\x40") in asked


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"request": {"previous_addresses": ["2001:db8::1"]}}, "expected at most one address of each IP version"),
        (
            {"request": {"previous_addresses": ["10.0.0.1", "10.0.0.2"]}},
            "expected at most one address of each IP version",
        ),
        ({"request": {"p_cscf": ["20"]}}, "request.p_cscf"),
        (
            {"accesses": {"six": {"address": "::1"}}},
            "accesses: got a mapping, expected addresses of the gateway address's IP version",
        ),
        ({"accesses": {"hop": {"address": "127.0.2.1", "next_hop": "::1"}}}, "next hops"),
        ({"gateway": {"address": "127.0.1.1", "other_address": "127.0.1.2", "eap_only": True}}, "other_address"),
    ],
)
def test_what_makes_no_sense_is_one_line(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configured(**changes)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_gateways_other_address_makes_room_for_accesses_of_that_version() -> None:
    settings = configured(
        gateway={"address": "127.0.1.1", "other_address": "2001:db8::1", "eap_only": True},
        accesses={"four": {"address": "127.0.2.1"}, "six": {"address": "2001:db8::2"}},
    )
    assert [address.version for address in settings.gateway.addresses] == [4, 6]


def test_the_configuration_says_how_the_gateway_is_selected() -> None:
    selection: dict[str, object] = {
        "configured": ["epdg.example.org", "2001:db8::1"],
        "configured_use": "first",
        "preferred": [{"plmn": {"mcc": "345", "mnc": "12"}, "fqdn": "location", "priority": 2}, {"plmn": "any"}],
        "registered": {"mcc": "345", "mnc": "12", "tracking_area": 11, "tracking_area_5g": 12, "location_area": 13},
        "country": "346",
        "home_mccs": ["002"],
        "patience": 3,
    }
    found = configured(
        gateway={"address": "127.0.1.1", "alternatives": ["127.0.1.2"], "eap_only": True, "selection": selection},
        eap={"emergency": True},
    )
    visited = Plmn("345", "12")
    assert found.selection_policy == SelectionPolicy(
        home=Plmn("001", "01"),
        configured=(
            IPv4Address("127.0.1.1"),
            IPv4Address("127.0.1.2"),
            "epdg.example.org",
            IPv6Address("2001:db8::1"),
        ),
        configured_use=ConfiguredUse.FIRST,
        preferred=(
            PreferredPlmn(plmn=visited, fqdn=FqdnKind.LOCATION, priority=2),
            PreferredPlmn(plmn=None),
        ),
        registered=visited,
        country="346",
        home_mccs=("002",),
        tracking_area=11,
        tracking_area_5g=12,
        location_area=13,
        emergency=True,
    )
    assert configured().selection_policy is None


def test_the_configuration_says_when_the_ue_tries_again() -> None:
    rule = {"causes": ["USER_UNKNOWN", 24, "9000-9050"], "bars": "gateway", "elsewhere": True, "tries": 2}
    found = configured(retry={"intervals": [1, 2.5], "give_up_after": 3, "then": 60, "rules": [rule]})
    assert found.retry.policy() == RetryPolicy(
        intervals=(1.0, 2.5),
        give_up_after=3,
        then=60.0,
        rules=(Rule(causes=((9001, 9001), (24, 24), (9000, 9050)), bars=Bar.GATEWAY, elsewhere=True, tries=2),),
    )
    assert configured().retry.policy() == RetryPolicy()


# --- granted ------------------------------------------------------------------------------------------


def test_everything_granted_is_kept() -> None:
    given = reply(
        attribute(1, INNER_4.packed),
        attribute(8, INNER_6.packed + b"\x40"),
        attribute(10, DNS_6.packed),
        attribute(20, P_CSCF_4.packed),
        attribute(16386, P_CSCF_6.packed),
        attribute(7, b"gateway 1.0"),
        attribute(14, bytes.fromhex("00010008")),
        attribute(24, (90).to_bytes(4, "big")),
        attribute(31000, b"nobody knows"),
    )
    world = attached(granted(given))
    connection = world.device.connection
    assert connection is not None
    assert connection.addresses == world.addresses == (INNER_4, INNER_6)
    assert (connection.dns, connection.p_cscf) == ((DNS_6,), (P_CSCF_4, P_CSCF_6))
    assert connection.granted.application_version == "gateway 1.0"
    assert connection.granted.supported_attributes == (1, 8)
    assert connection.granted.liveness_period == 90


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ((), "the gateway assigned no inner address"),
        ((attribute(3, bytes(4)),), "the gateway assigned no inner address"),
        ((attribute(1),), "the gateway assigned no inner address"),
        ((attribute(1, bytes(3)),), "the gateway's INTERNAL_IP4_ADDRESS has 3 octets"),
        ((attribute(1, bytes(16)),), "the gateway's INTERNAL_IP4_ADDRESS has 16 octets"),
        ((attribute(8, bytes(18)),), "the gateway's INTERNAL_IP6_ADDRESS has 18 octets"),
        ((attribute(8, bytes(4)),), "the gateway's INTERNAL_IP6_ADDRESS has 4 octets"),
        ((attribute(10, bytes(17)),), "the gateway's INTERNAL_IP6_DNS has 17 octets"),
        ((attribute(21, bytes(4)),), "the gateway's P_CSCF_IP6_ADDRESS has 4 octets"),
        ((attribute(24, bytes(2)),), "the gateway's TIMEOUT_PERIOD_FOR_LIVENESS_CHECK has 2 octets"),
        ((attribute(1, bytes(4)),), "the gateway assigned 0.0.0.0, which is no host's address"),
        ((attribute(1, bytes([224, 0, 0, 1])),), "the gateway assigned 224.0.0.1, which is no host's address"),
        ((attribute(8, bytes(15) + b"\x01\x40"),), "the gateway assigned ::1, which is no host's address"),
    ],
)
def test_nonsense_is_refused_in_plain_words(attributes: tuple[ConfigurationAttribute, ...], words: str) -> None:
    """RFC 7296 §3.15.4: a response without the address that is required is an error; DELETE follows."""
    world = granted(reply(*attributes))
    assert world.attach() == words
    assert world.device.state is DeviceState.CLOSED
    assert world.addresses == ()
    assert not world.gateway.sas


def test_an_ipv6_address_without_its_prefix_length_is_taken() -> None:
    assert Granted.of((attribute(8, INNER_6.packed),)).addresses == (INNER_6,)


def test_one_family_of_two_and_why() -> None:
    """TS 24.302 §8.1.2.3: N(PDN_TYPE_IPv4_ONLY_ALLOWED) is told to whoever waits for the attach."""
    only = NotifyPayload(type=NotifyType(PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED))
    world = granted(reply(attribute(1, INNER_4.packed), notifies=(only,)))
    attached(world)
    assert world.event("attached").text.endswith("; the network allows only IPv4.")


# --- later --------------------------------------------------------------------------------------------


def tell(world: World, kind: ConfigType, *attributes: ConfigurationAttribute) -> ConfigurationExchanged:
    """The gateway sends INFORMATIONAL {CP(..)}; what the UE answers."""
    world.gateway.initiate(world.gateway_sas[-1], ExchangeConfiguration(kind, attributes), world.now)
    world.run(1.0)
    (outcome,) = world.gateway_exchanged
    return outcome


@pytest.mark.parametrize("kind", [ConfigType.CFG_REQUEST, ConfigType.CFG_SET])
def test_other_p_cscfs_take_the_place_of_the_former(kind: ConfigType) -> None:
    """TS 23.380 §5.6.5: <-- INFORMATIONAL {CP(P_CSCF_IP4_ADDRESS)}; {CP(P_CSCF_IP4_ADDRESS())} -->"""
    world = attached()
    connection = world.device.connection
    assert connection is not None
    outcome = tell(world, kind, attribute(20, OTHER_P_CSCF.packed), attribute(3, bytes(4)))
    assert outcome.answer == (attribute(20),)
    assert connection.p_cscf == (OTHER_P_CSCF,)
    told = world.event("p-cscf-changed")
    assert told.data["new"] == [str(OTHER_P_CSCF)]
    assert str(OTHER_P_CSCF) in told.text
    assert world.device.state is DeviceState.ESTABLISHED


@pytest.mark.parametrize("value", [b"", bytes(3)])
def test_a_p_cscf_that_is_none_changes_nothing(value: bytes) -> None:
    world = attached()
    connection = world.device.connection
    assert connection is not None
    before = connection.p_cscf
    assert tell(world, ConfigType.CFG_SET, attribute(20, value)).answer == ()
    assert connection.p_cscf == before
    assert not [each for each in world.told if each.name == "p-cscf-changed"]


def test_the_ue_announces_that_it_takes_other_p_cscfs() -> None:
    """TS 24.302 §8.1.2.3: SK {IDi, .., N(P_CSCF_RESELECTION_SUPPORT)} -->"""
    assert attached(World(p_cscf_reselection=True)).swu[-1].p_cscf_reselection
    assert not attached().swu[-1].p_cscf_reselection
