"""Debian's strongSwan as a UE that moves (MOBIKE, RFC 4555): every kind of move, and how long traffic is silent.

The gateway has two IPv4 addresses and one IPv6 address; one gateway serves all of it. charon waits 100 ms before
it reacts to a change of addresses, and rekeys the child SA after each move, since kernel-libipsec cannot change
one in place. Its child SA is for what is behind the gateway alone: kernel-libipsec would send what goes to other
addresses of the gateway into the tunnel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface

import pytest

from lab.namespaces import ACCESS_A, ACCESS_B, CORE, GATEWAY, GATEWAY_INTERFACE, HOST_BEHIND_GATEWAY
from protocols.path import Address
from tests.peers.namespaces import namespaces, ping
from tests.peers.ping_flow import PingFlow
from tests.peers.processes import PeerError, wait_until
from tests.peers.strongswan import Charon, require_strongswan
from tests.peers.strongswan_scene import (
    ACCESS_A_6,
    EVENT_TIMEOUT,
    GATEWAY_6,
    HERE,
    THERE,
    Child,
    Connection,
    Scene,
    children,
    gateway_on,
    history,
    ike,
    join_ipv6,
    leave_ipv6,
    local,
    remote,
    spis,
    with_ipv6,
)

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

SECOND_GATEWAY = IPv4Interface("10.77.0.3/24")
ROAM_DELAY = 0.1  # how long charon waits before it reacts to an address that is gone
MAXIMUM_OUTAGE = 0.5  # of a move, that delay included; seconds
GAP = 1.0  # without any address
ATTEMPTS = 4
IMPATIENT = {"retransmit_timeout": 0.5, "retransmit_base": 1.0, "retransmit_tries": 20}
CHILDREN = (Child(remote_selectors=f"{HOST_BEHIND_GATEWAY}/32"),)
REKEY_TIMEOUT = 30.0  # each TEMPORARY_FAILURE costs a pause that grows (RFC 7296 §2.25)
HERE_6 = f"[{ACCESS_A_6.ip}]:4500"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    require_strongswan()
    settings = {"retransmission": {"base_interval": 0.3, "limit": 6}}
    addresses = (GATEWAY.ip, SECOND_GATEWAY.ip, GATEWAY_6.ip)
    with namespaces() as stage:
        stage.gateway.add_address(GATEWAY_INTERFACE, SECOND_GATEWAY)
        with_ipv6(stage)
        with gateway_on(stage, tmp_path_factory.mktemp("gateway"), ike=settings, addresses=addresses) as made:
            yield made


Attach = Callable[..., Charon]


@pytest.fixture
def attach(place: Scene) -> Iterator[Attach]:
    """Starts a UE and attaches it; afterwards the gateway has no session and the UE both its accesses again."""
    with contextlib.ExitStack() as stack:

        def start(
            gateway: Address = GATEWAY.ip, children: tuple[Child, ...] = CHILDREN, **settings: str | float
        ) -> Charon:
            connection = Connection(gateway=gateway, children=children)
            ue = stack.enter_context(place.charon(connection, settings={**IMPATIENT, **settings}))
            ue.initiate()
            return ue

        yield start
        place.join_accesses()
        place.clear()


def inner(ue: Charon) -> str:
    (status,) = ue.list_sas()
    return status.inner_addresses[0]


def flow_of(place: Scene, ue: Charon, interval: float = 0.005) -> PingFlow:
    return PingFlow(place.stage.ue, HOST_BEHIND_GATEWAY, source=inner(ue), interval=interval)


Report = Callable[[str, list[float]], None]


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    """Prints silences and keeps them with the test's result."""

    def say(what: str, silences: list[float]) -> None:
        record_property(what, silences)
        print(f"{what}: silent for {', '.join(f'{silence * 1000:.0f} ms' for silence in silences)}")

    return say


def test_make_before_break(place: Scene, attach: Attach, report: Report) -> None:
    """A better access appears while the other is still there (``prefer_best_path``)."""
    place.stage.leave(ACCESS_A)
    ue = attach(prefer_best_path="yes")
    assert remote(ike(place.session())) == THERE
    with flow_of(place, ue) as flow:
        flow.wait_answers(20)
        place.stage.join(ACCESS_A)
        ue.wait_moved(ACCESS_A.address.ip)
        place.wait_moved(HERE)
        flow.wait_answers(20)
    outages = flow.outages(1)
    report("make before break", outages)
    assert outages[0] < MAXIMUM_OUTAGE / 2  # it goes on over the old access meanwhile
    assert history(place.session()) == [(THERE, True), (HERE, True)]


def test_break_before_make_at_once(place: Scene, attach: Attach, report: Report) -> None:
    """The address in use is deleted, another is there: while traffic flows, there and back."""
    ue = attach()
    before = spis(place.session())
    with flow_of(place, ue) as flow:
        for leave, arrive, where in ((ACCESS_A, ACCESS_B, THERE), (ACCESS_B, ACCESS_A, HERE)):
            flow.wait_answers(20)
            place.stage.leave(leave)
            ue.wait_moved(arrive.address.ip)
            place.wait_moved(where)
            flow.wait_answers(20)
            place.stage.join(leave)
    outages = flow.outages(2)
    report("break before make, at once", outages)
    assert all(ROAM_DELAY / 2 < outage < MAXIMUM_OUTAGE for outage in outages)
    assert spis(place.session()) == before


def test_two_child_sas_move_together(place: Scene, attach: Attach) -> None:
    ue = attach(children=(*CHILDREN, Child(name="second", remote_selectors=f"{CORE.ip}/32")))
    ue.swanctl("--initiate", "--child", "second")
    place.wait_agreement(ue, 2)
    place.stage.leave(ACCESS_A)
    ue.wait_moved(ACCESS_B.address.ip)
    session = place.wait_moved(THERE)
    place.wait_agreement(ue, 2)
    assert history(session) == [(HERE, True), (THERE, True)]
    for destination in (HOST_BEHIND_GATEWAY, CORE.ip):
        assert ping(place.stage.ue, destination, source=inner(ue)).received == 3


def test_break_before_make_with_a_gap(place: Scene, attach: Attach, report: Report) -> None:
    """No address at all for a second, then a new one: the session waits, traffic goes on at the new address."""
    place.stage.leave(ACCESS_B)
    ue = attach()
    with flow_of(place, ue) as flow:
        flow.wait_answers(20)
        place.stage.leave(ACCESS_A)
        lost = len(flow.answers)
        wait_until(lambda: flow.silence() > GAP, what="a second without answers", timeout=5.0)
        assert len(flow.answers) - lost < 20
        assert remote(ike(place.session())) == HERE
        place.stage.join(ACCESS_B)
        ue.wait_moved(ACCESS_B.address.ip)
        place.wait_moved(THERE)
        flow.wait_answers(20)
    outages = flow.outages(1)
    report(f"break before make, {GAP:.0f} s without an address", outages)
    assert GAP < outages[0] < GAP + MAXIMUM_OUTAGE


def leave_for_good(place: Scene, ue: Charon) -> None:
    """Access B goes while charon rekeys nothing, and charon moves to access A.

    A CREATE_CHILD_SA request that is outstanding when its address goes is repeated from that very address until charon
    gives its IKE SA up (RFC 4555 §3.5 has it sent from the new one): then the address comes back, and goes once more.
    """

    def outcome() -> str | None:
        if "delaying task initiation, CREATE_CHILD_SA exchange in progress" in ue.log()[since:]:
            return "stuck"
        return "moved" if [each.local.address for each in ue.list_sas()] == [ACCESS_A.address.ip] else None

    for _ in range(ATTEMPTS):
        place.wait_agreement(ue)
        since = len(ue.log())
        place.stage.leave(ACCESS_B)
        with contextlib.suppress(PeerError):
            if wait_until(outcome, what="charon moving to access A", timeout=EVENT_TIMEOUT / 2, log=ue.log) == "moved":
                return
        place.stage.join(ACCESS_B)
    pytest.fail(f"charon did not move, {ATTEMPTS} times:\n{ue.log()}")


def test_moves_one_upon_another(place: Scene, attach: Attach) -> None:
    """An access that comes and goes faster than a move takes: in the end both ends agree on where the UE is."""
    ue = attach()
    with flow_of(place, ue) as flow:
        for _ in range(6):
            for access in (ACCESS_A, ACCESS_B):
                since = len(ue.log())
                place.stage.leave(access)
                ue.wait_for_log(r"sending address list update|checking path|old path is not available", since=since)
                place.stage.join(access)
        leave_for_good(place, ue)
        place.wait_moved(HERE)
        flow.wait_answers(20)
    place.wait_agreement(ue)
    assert place.passes(inner(ue))


def test_a_gateway_that_loses_its_address_serves_from_another(place: Scene, attach: Attach, report: Report) -> None:
    """§3.6: what it says comes from the next address, where charon follows at once; then back by another loss."""
    ue = attach()
    second = f"{SECOND_GATEWAY.ip}:4500"
    with flow_of(place, ue) as flow:
        flow.wait_answers(20)
        since = len(ue.log())
        place.epdg.call("addresses.withdraw", address=str(GATEWAY.ip))
        try:
            ue.wait_for_log(r"parsed INFORMATIONAL request \d+ \[ .*N\(ADD_6_ADDR\)", since=since)
            ue.wait_established(remote=SECOND_GATEWAY.ip)
            session = place.wait_session(
                lambda seen: {local(ike(seen)), *map(local, children(seen))} == {second}, "ESP and IKE at the other"
            )
            place.wait_agreement(ue)  # charon has rekeyed
            flow.wait_answers(20)
            assert remote(ike(session)) == HERE
            place.stage.leave(ACCESS_A)  # and it moves as ever
            status = ue.wait_moved(ACCESS_B.address.ip)
            place.wait_moved(THERE)
            flow.wait_answers(20)
            assert status.remote.address == SECOND_GATEWAY.ip
        finally:
            place.epdg.call("addresses.restore", address=str(GATEWAY.ip))
    report("gateway fail-over announced, then a move", flow.outages(2))
    assert max(flow.outages(2)) < MAXIMUM_OUTAGE
    assert place.passes(inner(ue))


def test_charon_probes_what_it_was_told_of(place: Scene, attach: Attach) -> None:
    """The gateway's address is lost without a word: the probe to it stays unanswered, the one to the next does not."""
    ue = attach()
    since = len(ue.log())
    place.epdg.call("addresses.withdraw", address=str(GATEWAY.ip), silently=True)
    try:
        place.stage.leave(ACCESS_A)
        status = ue.wait_moved(ACCESS_B.address.ip)
        place.wait_moved(THERE)
        ue.wait_for_log(r"checking path 10\.77\.2\.2\[4500\] - 10\.77\.0\.1\[4500\]", since=since)
        ue.wait_for_log(r"checking path 10\.77\.2\.2\[4500\] - 10\.77\.0\.3\[4500\]", since=since)
        assert status.remote.address == SECOND_GATEWAY.ip
        assert place.passes(inner(ue))
    finally:
        place.epdg.call("addresses.restore", address=str(GATEWAY.ip))


def test_ipv6_outside(place: Scene, attach: Attach) -> None:
    join_ipv6(place.stage)
    try:
        ue = attach(GATEWAY_6.ip)
        session = place.session()
        assert (remote(ike(session)), [remote(child) for child in children(session)]) == (HERE_6, [HERE_6])
        assert place.passes(inner(ue))
        ue.rekey_child()
        place.wait_agreement(ue)
        assert place.passes(inner(ue))
        ue.terminate()
    finally:
        leave_ipv6(place.stage)


def test_from_ipv4_to_ipv6_and_back(place: Scene, attach: Attach, report: Report) -> None:
    """The IPv4 addresses go while an IPv6 address is there, then the other way round."""
    join_ipv6(place.stage)
    has_ipv6 = True
    try:
        ue = attach()
        with flow_of(place, ue) as flow:
            flow.wait_answers(20)
            place.stage.leave(ACCESS_B)
            place.stage.leave(ACCESS_A)
            ue.wait_moved(ACCESS_A_6.ip)
            place.wait_moved(HERE_6)
            flow.wait_answers(20)
            place.stage.join(ACCESS_B)
            leave_ipv6(place.stage)
            has_ipv6 = False
            ue.wait_moved(ACCESS_B.address.ip)
            place.wait_moved(THERE)
            flow.wait_answers(20)
        report("from IPv4 to IPv6 and back", flow.outages(2))
        assert history(place.session()) == [(HERE, True), (HERE_6, True), (THERE, True)]
    finally:
        if has_ipv6:
            leave_ipv6(place.stage)


def test_a_gateway_that_prefers_another_address(place: Scene, attach: Attach, report: Report) -> None:
    """charon follows IKE to where it comes from, there and back; what is not lost goes on carrying ESP."""
    ue = attach()
    with flow_of(place, ue) as flow:
        flow.wait_answers(20)
        for address in (SECOND_GATEWAY.ip, GATEWAY.ip):
            place.epdg.call("addresses.prefer", address=str(address))
            ue.wait_established(remote=address)
            place.wait_session(lambda seen, there=f"{address}:4500": local(ike(seen)) == there, f"IKE at {address}")
            flow.wait_answers(20)
    report("another gateway address preferred, there and back", flow.outages(2))
    assert max(flow.outages(2)) < MAXIMUM_OUTAGE


@pytest.mark.parametrize("what", ["sessions.rekey-ike", "sessions.rekey-child"])
def test_a_move_crosses_a_rekey_of_the_gateways(place: Scene, attach: Attach, what: str) -> None:
    """Our request is lost on the old access and goes out again on the new path (§3.5): moved and rekeyed."""
    ue = attach()
    session = place.session()
    before = (spis(session), children(session)[0]["inbound_spi"])
    place.stage.router.block(ACCESS_A.router_interface, incoming=False)
    try:
        place.epdg.call(what, id=session["id"])
        place.stage.leave(ACCESS_A)
        ue.wait_moved(ACCESS_B.address.ip)
    finally:
        place.stage.restore(ACCESS_A)
    place.wait_moved(THERE)
    if what == "sessions.rekey-ike":
        place.wait_session(lambda seen: spis(seen) != before[0], "another IKE SA", REKEY_TIMEOUT)
        # charon's own rekey of the child SA was put off by ours of the IKE SA: it would wait up to 15 s
        place.epdg.call("sessions.rekey-child", id=session["id"])
    place.wait_session(lambda seen: children(seen)[0]["inbound_spi"] != before[1], "another child SA")
    place.wait_agreement(ue)
    assert place.passes(inner(ue))
