"""What rtnetlink says of interfaces, as an ``InterfaceWatch`` keeps it; the kernel itself is in interop."""

from __future__ import annotations

from ipaddress import ip_address

from protocols.io.netlink import (
    IFA_F_DEPRECATED,
    IFA_F_TENTATIVE,
    IFF_LOWER_UP,
    IFF_UP,
    MAIN_TABLE,
    Interface,
    InterfaceWatch,
)

UP = IFF_UP | IFF_LOWER_UP


class Message(dict[str, object]):
    """A message of pyroute2's: a header's fields, and attributes by name."""

    def get_attr(self, name: str) -> object:
        return self.get(name)


def link(name: str, index: int, flags: int = UP, event: str = "RTM_NEWLINK", state: str = "UP") -> Message:
    return Message(event=event, index=index, flags=flags, IFLA_IFNAME=name, IFLA_OPERSTATE=state)


def address(text: str, index: int, flags: int = 0, event: str = "RTM_NEWADDR", length: int = 24) -> Message:
    fields = {"event": event, "index": index, "flags": flags & 0xFF, "prefixlen": length}
    return Message(**fields, IFA_ADDRESS=text, IFA_FLAGS=flags)


def route(
    index: int,
    table: int = MAIN_TABLE,
    event: str = "RTM_NEWROUTE",
    *,
    to: str | None = None,
    length: int = 0,
    metric: int | None = None,
) -> Message:
    fields = {"event": event, "family": 2, "table": table, "dst_len": length, "header": {"flags": 0}}
    return Message(**fields, RTA_OIF=index, RTA_DST=to, RTA_GATEWAY="10.0.0.254", RTA_PRIORITY=metric)


class Watch:
    """A watch of ``wlan0`` and what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[Interface, Interface]] = []
        self.watch = InterfaceWatch(["wlan0"], lambda name, old, new: self.told.append((old, new)))

    def take(self, *messages: Message) -> Interface:
        for message in messages:
            self.watch.take(message)
        return self.told[-1][1] if self.told else Interface()


def test_an_address_is_gained_and_lost() -> None:
    watch = Watch()
    assert watch.take(link("wlan0", 3), address("10.0.0.1", 3)).usable == (ip_address("10.0.0.1"),)
    assert watch.take(address("10.0.0.1", 3, event="RTM_DELADDR")).usable == ()
    assert len(watch.told) == 3
    watch.take(address("10.0.0.1", 3, event="RTM_DELADDR"))
    assert len(watch.told) == 3  # nothing new


def test_other_interfaces_do_not_matter() -> None:
    watch = Watch()
    watch.take(link("eth0", 2), address("10.0.0.9", 2), route(2), address("10.0.0.8", 7))
    assert watch.told == []


def test_a_link_that_is_down_carries_nothing() -> None:
    """Without carrier as well; the address is still there when it comes back, the routes are not."""
    watch = Watch()
    watch.take(link("wlan0", 3), address("10.0.0.1", 3), route(3))
    for flags in (IFF_UP, 0):
        down = watch.take(link("wlan0", 3, flags))
        assert (down.usable, down.routes) == ((), frozenset())
        assert watch.take(link("wlan0", 3)).usable == (ip_address("10.0.0.1"),)


def test_an_interface_that_is_deleted_and_made_anew() -> None:
    watch = Watch()
    watch.take(link("wlan0", 3), address("10.0.0.1", 3))
    assert watch.take(link("wlan0", 3, event="RTM_DELLINK")) == Interface()
    watch.take(address("10.0.0.1", 3))
    assert watch.told[-1][1] == Interface()  # that index is nobody's
    assert watch.take(link("wlan0", 8), address("10.0.0.2", 8)).usable == (ip_address("10.0.0.2"),)


def test_ipv6_addresses_count_after_duplicate_address_detection() -> None:
    watch = Watch()
    watch.take(link("wlan0", 3), address("fe80::1", 3))
    assert watch.take(address("2001:db8::1", 3, IFA_F_TENTATIVE)).usable == ()
    assert watch.take(address("2001:db8::1", 3)).usable == (ip_address("2001:db8::1"),)


def test_routes_of_the_main_table_are_told() -> None:
    watch = Watch()
    watch.take(link("wlan0", 3), address("10.0.0.1", 3))
    count = len(watch.told)
    watch.take(route(3, table=255))
    assert len(watch.told) == count
    assert watch.take(route(3)).routes
    assert not watch.take(route(3, event="RTM_DELROUTE")).routes


def test_an_address_that_is_there_with_two_prefixes_goes_with_the_second() -> None:
    """A lease whose prefix is another one: the new address is set before the old one is deleted."""
    watch = Watch()
    watch.take(link("wlan0", 3), address("10.0.0.1", 3), address("10.0.0.2", 3), address("10.0.0.1", 3, length=25))
    both = tuple(map(ip_address, ("10.0.0.1", "10.0.0.2")))
    assert watch.take(address("10.0.0.1", 3, event="RTM_DELADDR")).usable == both
    watch.take(address("10.0.0.2", 3, event="RTM_DELADDR"))
    assert watch.take(address("10.0.0.1", 3, event="RTM_DELADDR", length=25)).usable == ()


def test_a_deprecated_address_comes_last() -> None:
    """RFC 4862 §5.5.4: it SHOULD NOT be used for what is new; without another one it is better than none."""
    old, new = ip_address("2001:db8:1::1"), ip_address("2001:db8:2::1")
    watch = Watch()
    assert watch.take(link("wlan0", 3), address(str(old), 3, IFA_F_DEPRECATED, length=64)).usable == (old,)
    watch.take(address(str(old), 3, length=64), address(str(new), 3, length=64))
    assert watch.told[-1][1].usable == (old, new)
    assert watch.take(address(str(old), 3, IFA_F_DEPRECATED, length=64)).usable == (new, old)
    assert watch.take(address(str(new), 3, event="RTM_DELADDR", length=64)).usable == (old,)


def test_a_link_that_waits_for_its_authentication_carries_nothing() -> None:
    """Dormant (RFC 2863 §3.1.15): a Wi-Fi network whose keys are not agreed upon has a carrier."""
    watch = Watch()
    assert watch.take(link("wlan0", 3, state="DORMANT"), address("10.0.0.1", 3)).usable == ()
    assert watch.take(link("wlan0", 3)).usable == (ip_address("10.0.0.1"),)


def test_where_the_routes_lead() -> None:
    gateway, neighbour = ip_address("203.0.113.1"), ip_address("10.0.0.7")
    watch = Watch()
    watch.take(link("wlan0", 3), address("10.0.0.1", 3))
    assert not watch.take(route(3, to="10.0.0.0", length=24)).reaches(gateway)
    both = watch.take(route(3), route(3, metric=600))
    assert both.reaches(gateway)
    assert not both.reaches(ip_address("2001:db8::1"))
    assert watch.take(route(3, event="RTM_DELROUTE")).reaches(gateway)  # the other one is left
    left = watch.take(route(3, metric=600, event="RTM_DELROUTE"))
    assert (left.reaches(gateway), left.reaches(neighbour)) == (False, True)
