"""Debian's strongSwan as a UE: child SAs and IKE SAs made, rekeyed and deleted by either end, and by both at once.

One gateway serves all of it. A collision is made for certain: what one end sends is lost while both begin
(``crossing``), and their retransmissions say what follows (RFC 7296 §2.8.1, §2.8.2, §2.25).
After each procedure both ends are asked what they have, crosswise by SPI, and ping goes through the tunnel.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from lab.namespaces import ACCESS_A, ACCESS_B, CORE, HOST_BEHIND_GATEWAY
from tests.peers.namespaces import ping
from tests.peers.ping_flow import PingFlow
from tests.peers.processes import wait_until
from tests.peers.strongswan import Charon
from tests.peers.strongswan_scene import (
    EVENT_TIMEOUT,
    THERE,
    Child,
    Connection,
    Scene,
    children,
    client,
    ike,
    remote,
    scene,
    spis,
)
from tests.peers.swanctl import ChildStatus

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

OUR_INTERVAL = 0.8  # of our first retransmission
IMPATIENT = {"retransmit_timeout": 1.4, "retransmit_base": 1.0, "retransmit_tries": 16}  # charon's comes later
PFS = "aes256gcm16-ecp256"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    suites = ["aes128-sha256-x25519", "aes256gcm16-prfsha256-ecp256"]
    esp_suites = [PFS, "aes256gcm16-modp2048", "aes128gcm16"]
    settings = {
        "suites": suites,
        "esp_suites": esp_suites,
        "retransmission": {"base_interval": OUR_INTERVAL, "limit": 3},
    }
    with scene(tmp_path_factory.mktemp("gateway"), ike=settings) as made:
        yield made


Attach = Callable[..., Charon]


@pytest.fixture
def attach(place: Scene) -> Iterator[Attach]:
    """Starts a UE and attaches it; afterwards the gateway has no session again."""
    with contextlib.ExitStack() as stack:

        def start(connection: Connection | None = None, *, settings: dict[str, str | float] | None = None) -> Charon:
            charon = place.charon(connection or Connection(), settings={**IMPATIENT, **(settings or {})})
            ue = stack.enter_context(charon)
            ue.initiate((connection or Connection()).children[0].name)
            return ue

        yield start
        place.clear()


def inner(ue: Charon) -> str:
    (status,) = ue.list_sas()
    return status.inner_addresses[0]


def group(child: ChildStatus, ue: Charon) -> str:
    """The group of the key exchange that a child SA was made with, as charon says; empty without."""
    (status,) = ue.list_sas()
    sections = [section for _, section in status.everything.section("child-sas").all_sections()]
    (found,) = [section for section in sections if section.value("spi-in") == child.inbound_spi]
    return found.value("dh-group")


def rekey_child(place: Scene) -> None:
    place.epdg.call("sessions.rekey-child", id=place.session()["id"])


def rekey_ike(place: Scene) -> None:
    place.epdg.call("sessions.rekey-ike", id=place.session()["id"])


def wait_new_child(place: Scene, ue: Charon, old: str) -> ChildStatus:
    """The only child SA once it is another than the one that charon receives on by ``old``."""

    def found() -> ChildStatus | None:
        status, _ = place.wait_agreement(ue)
        (child,) = status.installed
        return child if child.inbound_spi != old else None

    return wait_until(found, what="another child SA", timeout=EVENT_TIMEOUT, log=ue.log)


def wait_new_ike(place: Scene, ue: Charon, old: tuple[str, str]) -> tuple[str, str]:
    """The SPIs of the only IKE SA once they are others than ``old``."""

    def found() -> tuple[str, str] | None:
        new = spis(place.wait_agreement(ue)[1])
        return new if new != old else None

    return wait_until(found, what="another IKE SA", timeout=EVENT_TIMEOUT, log=ue.log)


def only_child(place: Scene, ue: Charon) -> ChildStatus:
    (child,) = place.wait_agreement(ue)[0].installed
    return child


@contextlib.contextmanager
def crossing(place: Scene, lost_from: str) -> Iterator[None]:
    """What one end sends inside is lost, and it has to begin; then the other's request goes through.

    ``gateway``: we see charon's request while ours is under way, then charon sees ours: both know of the
    collision. ``ue``: charon alone knows; what it retransmits comes when our exchange is complete.
    """
    outgoing = lost_from == "gateway"
    place.stage.router.block(ACCESS_A.router_interface, incoming=not outgoing, outgoing=outgoing)
    try:
        yield
    finally:
        place.stage.restore(ACCESS_A)


def at_once(place: Scene, lost_from: str, ours: Callable[[Scene], None], theirs: Callable[[], None]) -> None:
    """Both begin, who is not heard first."""
    with crossing(place, lost_from):
        if lost_from == "gateway":
            ours(place)
            theirs()
        else:
            theirs()
            ours(place)


each_loss = pytest.mark.parametrize("lost_from", ["gateway", "ue"])


# --- child SAs --------------------------------------------------------------------------------------


def test_child_rekeys_by_both_ends_in_turn(place: Scene, attach: Attach) -> None:
    ue = attach()
    first = only_child(place, ue)
    ue.rekey_child()
    second = wait_new_child(place, ue, first.inbound_spi)
    assert group(second, ue) == ""
    rekey_child(place)
    third = wait_new_child(place, ue, second.inbound_spi)
    # the one who rekeys deletes the old one (§2.8): charon the first, we the second
    ue.wait_for_log(r"sending DELETE for ESP CHILD_SA with SPI " + first.inbound_spi)
    ue.wait_for_log(r"received DELETE for ESP CHILD_SA with SPI " + second.outbound_spi)
    assert place.passes(inner(ue))
    assert len({first.inbound_spi, second.inbound_spi, third.inbound_spi}) == 3


def test_child_rekeys_with_a_key_exchange(place: Scene, attach: Attach) -> None:
    """PFS by either end, in the group that both prefer."""
    ue = attach(Connection(children=(Child(esp_proposals=PFS),)))
    first = only_child(place, ue)
    assert group(first, ue) == ""  # IKE_AUTH has none (§1.2)
    ue.rekey_child()
    second = wait_new_child(place, ue, first.inbound_spi)
    ue.wait_for_log(r"parsed CREATE_CHILD_SA response \d+ \[ SA No KE TSi TSr \]")
    assert group(second, ue) == "ECP_256"
    rekey_child(place)
    third = wait_new_child(place, ue, second.inbound_spi)
    ue.wait_for_log(r"parsed CREATE_CHILD_SA request \d+ \[ N\(REKEY_SA\) SA No KE TSi TSr \]")
    assert group(third, ue) == "ECP_256"
    assert place.passes(inner(ue))


def test_a_group_that_we_grant_without_naming_it(place: Scene, attach: Attach) -> None:
    """§1.3.1 leaves the key exchange to the initiator: our suite without one takes a good group."""
    ue = attach(Connection(children=(Child(esp_proposals="aes128gcm16-x448"),)))
    first = only_child(place, ue)
    ue.rekey_child()
    assert group(wait_new_child(place, ue, first.inbound_spi), ue) == "CURVE_448"
    assert place.passes(inner(ue))


def test_another_group_is_asked_for_by_either_end(place: Scene, attach: Attach) -> None:
    """INVALID_KE_PAYLOAD (§1.3): charon begins with modp2048, we want ecp256; then the other way round."""
    ue = attach(Connection(children=(Child(esp_proposals="aes256gcm16-modp2048-ecp256"),)))
    first = only_child(place, ue)
    ue.rekey_child()
    second = wait_new_child(place, ue, first.inbound_spi)
    ue.wait_for_log(r"parsed CREATE_CHILD_SA response \d+ \[ N\(INVAL_KE\) \]")
    assert group(second, ue) == "ECP_256"
    ue.configuration = client(Connection(children=(Child(esp_proposals="aes256gcm16-modp2048"),)))
    ue.terminate()
    place.wait_empty()
    ue.load()
    ue.initiate()
    third = only_child(place, ue)
    rekey_child(place)
    fourth = wait_new_child(place, ue, third.inbound_spi)
    ue.wait_for_log(r"generating CREATE_CHILD_SA response \d+ \[ N\(INVAL_KE\) \]")
    assert group(fourth, ue) == "MODP_2048"
    assert place.passes(inner(ue))


def test_a_rekey_that_is_refused_leaves_the_child_sa(place: Scene, attach: Attach) -> None:
    """NO_PROPOSAL_CHOSEN: a weak group that our policy does not name."""
    ue = attach(Connection(children=(Child(esp_proposals="aes128gcm16-modp1024"),)))
    first = only_child(place, ue)
    ue.rekey_child()
    ue.wait_for_log(r"parsed CREATE_CHILD_SA response \d+ \[ N\(NO_PROP\) \]")
    assert only_child(place, ue).inbound_spi == first.inbound_spi
    assert place.passes(inner(ue))


@each_loss
def test_both_ends_rekey_the_child_sa_at_once(place: Scene, attach: Attach, lost_from: str) -> None:
    ue = attach()
    first = only_child(place, ue)
    at_once(place, lost_from, rekey_child, ue.rekey_child)
    ue.wait_for_log(r"detected CHILD_REKEY collision with CHILD_REKEY")
    wait_new_child(place, ue, first.inbound_spi)
    assert place.passes(inner(ue))


def test_a_second_child_sa_comes_carries_and_goes(place: Scene, attach: Attach) -> None:
    second = Child(name="second", remote_selectors=f"{CORE.ip}/32")
    ue = attach(Connection(children=(Child(), second)))
    ue.swanctl("--initiate", "--child", "second")
    status, session = place.wait_agreement(ue, 2)
    (made,) = [child for child in status.installed if child.name == "second"]
    (ours,) = [child for child in children(session) if child["outbound_spi"] == made.inbound_spi]
    assert ours["local_selectors"] == [f"{CORE.ip}"] or str(CORE.ip) in str(ours["local_selectors"])
    assert ping(place.stage.ue, CORE.ip, source=inner(ue)).received == 3
    assert place.passes(inner(ue))
    (ours,) = [child for child in children(place.session()) if child["outbound_spi"] == made.inbound_spi]
    counters = ours["counters"]
    assert isinstance(counters, dict)
    assert counters["inbound_packets"] == 3  # what goes to that host and nothing else
    assert counters["bad_selector"] == 0
    rekey_child(place)  # all of them
    status, _ = wait_until(
        lambda: next(
            (
                seen
                for seen in [place.wait_agreement(ue, 2)]
                if made.inbound_spi not in [child.inbound_spi for child in seen[0].installed]
            ),
            None,
        ),
        what="both child SAs rekeyed",
        timeout=EVENT_TIMEOUT,
    )
    ue.swanctl("--terminate", "--child", "second")
    status, _ = place.wait_agreement(ue, 1)
    assert [child.name for child in status.installed] == ["net"]
    assert ping(place.stage.ue, CORE.ip, source=inner(ue)).received == 3


def test_the_last_child_sa_is_deleted_and_made_again(place: Scene, attach: Attach) -> None:
    ue = attach()
    address, ike_spis = inner(ue), spis(place.session())
    ue.swanctl("--terminate", "--child", "net")
    _, session = place.wait_agreement(ue, 0)
    assert children(session) == []
    ue.swanctl("--initiate", "--child", "net")
    _, session = place.wait_agreement(ue)
    assert spis(session) == ike_spis
    assert place.passes(address)


# --- IKE SAs ----------------------------------------------------------------------------------------


def test_ike_rekeys_by_both_ends_in_turn(place: Scene, attach: Attach) -> None:
    """After either the other end rekeys the new SA: Message IDs from 0, the roles exchanged; then a move."""
    ue = attach()
    before, identifier = spis(place.session()), place.session()["id"]
    child = only_child(place, ue)
    ue.rekey_ike()
    second = wait_new_ike(place, ue, before)
    rekey_ike(place)
    third = wait_new_ike(place, ue, second)
    rekey_child(place)
    child = wait_new_child(place, ue, child.inbound_spi)
    ue.rekey_ike()
    fourth = wait_new_ike(place, ue, third)
    assert len({before, second, third, fourth}) == 4
    session = place.session()
    assert session["id"] == identifier
    assert children(session)[0]["outbound_spi"] == child.inbound_spi  # inherited
    rekey_ike(place)
    wait_new_ike(place, ue, fourth)  # the gateway is the original initiator now; moves are still charon's
    place.stage.leave(ACCESS_A)
    try:
        ue.wait_moved(ACCESS_B.address.ip)
        session = place.wait_moved(THERE)
        assert remote(ike(session)) == THERE
        assert place.passes(inner(ue))
    finally:
        place.stage.join(ACCESS_A)


def test_ike_rekeys_cost_no_packet(place: Scene, attach: Attach) -> None:
    """ESP knows nothing of it."""
    ue = attach()
    with PingFlow(place.stage.ue, HOST_BEHIND_GATEWAY, source=inner(ue), interval=0.002) as flow:
        flow.wait_answers(20)
        for number in range(4):
            before = spis(place.session())
            if number % 2:
                ue.rekey_ike()
            else:
                rekey_ike(place)
            wait_new_ike(place, ue, before)
            flow.wait_answers(20)
    assert flow.lost == 0, flow.output


@each_loss
def test_both_ends_rekey_the_ike_sa_at_once(place: Scene, attach: Attach, lost_from: str) -> None:
    ue = attach()
    before, child = spis(place.session()), only_child(place, ue)
    at_once(place, lost_from, rekey_ike, ue.rekey_ike)
    ue.wait_for_log(r"detected IKE_REKEY collision with IKE_REKEY")
    wait_new_ike(place, ue, before)
    assert only_child(place, ue).inbound_spi == child.inbound_spi
    assert place.passes(inner(ue))
    rekey_child(place)  # what is left is whole
    wait_new_child(place, ue, child.inbound_spi)


@each_loss
@pytest.mark.parametrize("whose", ["ue", "gateway"])
def test_an_ike_rekey_crosses_a_child_rekey(place: Scene, attach: Attach, whose: str, lost_from: str) -> None:
    """TEMPORARY_FAILURE (§2.25): nothing is lost, what we put off is done seconds later."""
    ue = attach()
    before, child = spis(place.session()), only_child(place, ue)
    if whose == "ue":
        at_once(place, lost_from, rekey_child, ue.rekey_ike)
    else:
        at_once(place, lost_from, rekey_ike, ue.rekey_child)
    ue.wait_for_log(r"N\(TEMP_FAIL\)")
    if whose == "ue":
        wait_new_child(place, ue, child.inbound_spi)
    else:
        wait_new_ike(place, ue, before)
    assert place.passes(inner(ue))


# --- delete -----------------------------------------------------------------------------------------


def test_delete_by_either_end(place: Scene, attach: Attach) -> None:
    ue = attach()
    ue.terminate()
    place.wait_empty()
    ue.initiate()
    detach(place)
    ue.wait_gone()
    place.wait_empty()


def terminate(ue: Charon, *words: str) -> threading.Thread:
    """``swanctl --terminate``, which waits until charon is done; its DELETE has left."""
    leaving = threading.Thread(target=lambda: ue.swanctl("--terminate", *words, check=False))
    leaving.start()
    ue.wait_for_log(r"generating INFORMATIONAL request 2 \[ D \]")
    return leaving


def detach(place: Scene) -> None:
    place.epdg.call("sessions.detach", id=place.session()["id"])


def test_both_ends_delete_the_ike_sa_at_once(place: Scene, attach: Attach) -> None:
    ue, threads = attach(), []
    at_once(place, "gateway", detach, lambda: threads.append(terminate(ue, "--ike", "ue")))
    ue.wait_gone()
    threads[0].join()
    place.wait_empty()


@each_loss
def test_a_child_sa_is_deleted_while_the_gateway_rekeys_it(place: Scene, attach: Attach, lost_from: str) -> None:
    """§2.25.1: charon closes what we rekey; afterwards both ends have the same, and traffic when it is made again."""
    ue, threads = attach(), []
    at_once(place, lost_from, rekey_child, lambda: threads.append(terminate(ue, "--child", "net")))
    threads[0].join()
    status, _ = place.wait_agreement(ue, None)
    if not status.installed:
        ue.swanctl("--initiate", "--child", "net")
        place.wait_agreement(ue)
    assert place.passes(inner(ue))


# --- authentication anew ----------------------------------------------------------------------------


@pytest.mark.parametrize("make_first", [True, False], ids=["make-before-break", "break-before-make"])
def test_the_ue_authenticates_anew(place: Scene, attach: Attach, make_first: bool) -> None:
    """``--rekey --reauth``: another IKE SA in place of the first, the inner address stays."""
    ue = attach(settings={"make_before_break": "yes" if make_first else "no"})
    before, address = spis(place.session()), inner(ue)
    ue.swanctl("--rekey", "--ike", "ue", "--reauth")
    wait_new_ike(place, ue, before)
    assert inner(ue) == address
    assert place.passes(address)


def test_the_ues_own_time_for_authentication(place: Scene, attach: Attach) -> None:
    ue = attach(Connection(settings={"reauth_time": "1s", "over_time": "5s", "rand_time": "0s"}))
    before = spis(place.session())
    ue.wait_for_log(r"reauthenticating IKE_SA ue\[1\]")
    wait_new_ike(place, ue, before)
    assert place.passes(inner(ue))


def test_the_gateways_time_for_authentication(place: Scene, attach: Attach) -> None:
    """AUTH_LIFETIME in an INFORMATIONAL of ours (RFC 4478 §2): charon authenticates anew at once."""
    ue = attach(Connection(settings={"over_time": "10s"}), settings={"make_before_break": "yes"})
    before = spis(place.session())
    place.epdg.call("sessions.reauthenticate", id=place.session()["id"], lifetime=5)
    ue.wait_for_log(r"parsed INFORMATIONAL request \d+ \[ N\(AUTH_LFT\) \]")
    wait_new_ike(place, ue, before)
    assert place.passes(inner(ue))
