"""Debian's strongSwan as a UE: small fragments, cookies, NATs that come, change and go, liveness from both ends.

The gateway demands a COOKIE of everybody and sends fragments for 256 octets, charon as well. kernel-libipsec always
encapsulates ESP in UDP and has no ESN; bare ESP is the matter of ``test_strongswan_kernel``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from lab.namespaces import ACCESS_A, ACCESS_B, GATEWAY_ROUTER, HOST_BEHIND_GATEWAY
from tests.peers.ping_flow import PingFlow
from tests.peers.strongswan import Charon
from tests.peers.strongswan_scene import (
    HERE,
    THERE,
    Child,
    Connection,
    Scene,
    children,
    history,
    ike,
    remote,
    scene,
    spis,
)

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

SIZE = 256  # of IP datagrams
LIVENESS_INTERVAL = 1.5  # more than charon's, so that it asks first where it asks at all
AUTHENTICATION_LIFETIME = 60
MAXIMUM_OUTAGE = 0.5  # of a rebinding with traffic; seconds
IMPATIENT = {"retransmit_timeout": 0.3, "retransmit_base": 1.0, "retransmit_tries": 4, "fragment_size": SIZE}
SUITES = "aes128-sha256-x25519,aes256-sha512-modp4096,aes256gcm16-prfsha384-ecp521"
MANY = "aes128gcm16-x25519,aes256-sha512-modp3072,aes192-sha384-ecp384bp,chacha20poly1305-ecp521"
FIRST_PORTS, SECOND_PORTS, THIRD_PORTS = range(20000, 30000), range(40000, 50000), range(50000, 60000)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    settings = {
        "suites": [
            "aes256-sha512-modp4096",
            "aes256gcm16-prfsha384-ecp521",
            "chacha20poly1305-prfsha512-x448",
            "aes128-sha256-x25519",
        ],
        "esp_suites": [
            "aes256ccm16-ecp521",
            "aes128gcm16-x25519",
            "aes256-sha512-modp3072",
            "aes192-sha384-ecp384bp",
            "aes128gcm16",
        ],
        "cookie_threshold": 0,
        "fragment_size": SIZE,
        "liveness_interval": LIVENESS_INTERVAL,
        "authentication_lifetime": AUTHENTICATION_LIFETIME,
        "retransmission": {"base_interval": 0.2, "limit": 3},
        "hold_lifetime": None,
    }
    with scene(tmp_path_factory.mktemp("gateway"), ike=settings) as made:
        yield made


Attach = Callable[..., Charon]


@pytest.fixture
def attach(place: Scene) -> Iterator[Attach]:
    """Starts a UE and attaches it; afterwards the gateway has no session and the UE both its accesses again."""
    with contextlib.ExitStack() as stack:

        def start(connection: Connection | None = None) -> Charon:
            ue = stack.enter_context(place.charon(connection or Connection(), settings=IMPATIENT))
            ue.initiate()
            return ue

        yield start
        place.join_accesses()
        place.clear()


def inner(ue: Charon) -> str:
    (status,) = ue.list_sas()
    return status.inner_addresses[0]


def ports(session: dict[str, object]) -> tuple[str, int]:
    """Where the gateway's IKE SA has the UE."""
    address, _, port = remote(ike(session)).rpartition(":")  # type: ignore[arg-type]
    return address, int(port)


# --- cookies, fragments -----------------------------------------------------------------------------


def test_a_cookie_another_group_and_fragments(place: Scene, attach: Attach) -> None:
    """COOKIE, then INVALID_KE_PAYLOAD, then both (RFC 7296 §2.6.1); all that follows in fragments, both ways."""
    ue = attach(Connection(proposals=SUITES, children=(Child(esp_proposals=MANY),)))
    log = ue.log()
    answers = [log.index(words) for words in ("N(COOKIE) ]", "N(INVAL_KE) ]", "IKE_SA_INIT response 0 [ SA KE")]
    assert all(earlier < later for earlier, later in pairwise(answers))
    session = place.session()
    assert ike(session)["suite"] == "aes256-sha512-modp4096"  # the gateway prefers it
    ue.wait_for_log(r"generating IKE_AUTH request 1 \[ EF\(1/[2-9]\) \]")
    ue.wait_for_log(r"parsed IKE_AUTH response 1 \[ EF\(1/[2-9]\) \]")

    before = spis(session)
    ue.rekey_ike()  # its KE payloads alone are larger than a datagram
    place.wait_session(lambda seen: spis(seen) != before, "the rekey by charon")
    ue.wait_for_log(r"generating CREATE_CHILD_SA request \d+ \[ EF\(1/[2-9]\) \]")
    ue.wait_for_log(r"parsed CREATE_CHILD_SA response \d+ \[ EF\(1/[2-9]\) \]")
    before = spis(place.session())
    place.epdg.call("sessions.rekey-ike", id=session["id"])
    place.wait_session(lambda seen: spis(seen) != before, "the rekey by the gateway")
    ue.wait_for_log(r"parsed CREATE_CHILD_SA request \d+ \[ EF\(1/[2-9]\) \]")
    ue.wait_for_log(r"generating CREATE_CHILD_SA response \d+ \[ EF\(1/[2-9]\) \]")
    child = children(place.session())[0]["outbound_spi"]
    place.epdg.call("sessions.rekey-child", id=session["id"])
    place.wait_session(lambda seen: [one["outbound_spi"] for one in children(seen)] != [child], "the child's rekey")
    place.wait_agreement(ue)
    assert place.passes(inner(ue))


def test_a_ue_without_fragmentation_gets_whole_messages(place: Scene, attach: Attach) -> None:
    ue = attach(Connection(settings={"fragmentation": "no"}))
    assert "FRAG_SUP" not in ue.log()
    assert " EF(" not in ue.log()
    assert place.passes(inner(ue))


# --- NAT --------------------------------------------------------------------------------------------


def test_no_nat_though_charon_always_says_so(place: Scene, attach: Attach) -> None:
    """charon fakes a NAT before itself to have UDP encapsulation; behind none it is on 4500 all the same."""
    ue = attach()
    session = place.session()
    assert remote(ike(session)) == HERE
    assert children(session)[0]["encapsulation"] is True
    assert place.passes(inner(ue))


def test_behind_a_nat_then_rebound_then_moved_then_out(place: Scene, attach: Attach) -> None:
    """While traffic flows: ESP moves its own end point (§3.8), IKE follows by charon's update, moves go on."""
    stage = place.stage
    stage.translate(FIRST_PORTS)
    try:
        ue = attach(Connection(settings={"dpd_delay": "1s"}))
        address, port = ports(place.session())
        assert (address, port in FIRST_PORTS) == (str(GATEWAY_ROUTER.ip), True)
        # a liveness check with NAT detection must have been answered before: charon compares the next with it
        ue.wait_for_log(r"parsed INFORMATIONAL response \d+ \[ N\(NATD_S_IP\) N\(NATD_D_IP\) \]")
        with PingFlow(stage.ue, HOST_BEHIND_GATEWAY, source=inner(ue), interval=0.005) as flow:
            flow.wait_answers(20)
            stage.rebind(SECOND_PORTS)
            place.wait_session(
                lambda seen: int(remote(children(seen)[0]).rpartition(":")[2]) in SECOND_PORTS, "ESP at the new port"
            )
            flow.wait_answers(20)
        (silence,) = flow.outages(1)
        print(f"NAT rebound while traffic flows: silent for {silence * 1000:.0f} ms")
        assert silence < MAXIMUM_OUTAGE
        place.wait_session(lambda seen: ports(seen)[1] in SECOND_PORTS, "IKE after the rebinding")
        stage.rebind(THIRD_PORTS)  # idle now
        session = place.wait_session(lambda seen: ports(seen)[1] in THIRD_PORTS, "IKE after the idle rebinding")
        place.wait_moved(remote(ike(session)))
        assert place.passes(inner(ue))
        stage.leave(ACCESS_A)  # a move behind the NAT
        ue.wait_moved(ACCESS_B.address.ip)
        place.wait_agreement(ue)
        assert place.passes(inner(ue))
    finally:
        stage.router.stop_masquerading()
        stage.router.forget_translations()
    stage.join(ACCESS_A)
    stage.leave(ACCESS_B)  # and one to where no NAT is
    ue.wait_moved(ACCESS_A.address.ip)
    place.wait_moved(HERE)
    stage.join(ACCESS_B)
    assert place.passes(inner(ue))


def test_a_nat_that_appears_moves_esp_alone(place: Scene, attach: Attach) -> None:
    """§3.8: messages of IKE move nothing; ESP follows ESP, since charon has said all along that a NAT is there."""
    ue = attach(Connection(settings={"dpd_delay": "1s"}))
    place.stage.translate(FIRST_PORTS)
    try:
        place.stage.router.forget_translations()
        since = len(ue.log())
        ue.wait_for_log(r"parsed INFORMATIONAL response \d+ \[ \]", since=since)
        assert remote(children(place.session())[0]) == HERE
        assert place.passes(inner(ue))
        session = place.session()
        assert history(session) == [(HERE, True)]
        assert int(remote(children(session)[0]).rpartition(":")[2]) in FIRST_PORTS
    finally:
        place.stage.router.stop_masquerading()
        place.stage.router.forget_translations()


# --- liveness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["ue", "gateway"])
def test_liveness_is_asked_and_answered(place: Scene, attach: Attach, who: str) -> None:
    ue = attach(Connection(settings={"dpd_delay": "1s"} if who == "ue" else {}))
    if who == "ue":
        ue.wait_for_log(r"sending DPD request")
        ue.wait_for_log(r"parsed INFORMATIONAL response \d+ \[ \]")
    else:
        ue.wait_for_log(r"parsed INFORMATIONAL request 0 \[ \]")
        ue.wait_for_log(r"generating INFORMATIONAL response 0 \[ \]")
    session = ike(place.session())
    assert (session["requests_sent"], session["retransmissions_sent"]) == (0 if who == "ue" else 1, 0)
    assert "retransmit" not in ue.log()


def test_a_ue_in_a_dead_end_is_let_go_and_comes_back(place: Scene, attach: Attach) -> None:
    """Nothing passes: each end finds out by itself, and the UE attaches anew when its access works again."""
    place.stage.leave(ACCESS_B)  # so that charon has nowhere to go
    ue = attach(Connection(settings={"dpd_delay": "1s"}))
    before = spis(place.session())
    place.stage.silence(ACCESS_A)
    try:
        place.wait_empty()
        ue.wait_for_log(r"giving up after 4 retransmits")
    finally:
        place.stage.restore(ACCESS_A)
        place.stage.join(ACCESS_B)
    ue.wait_gone()
    ue.initiate()
    assert spis(place.session()) != before
    assert place.passes(inner(ue))


# --- without MOBIKE, authentication's end ------------------------------------------------------------


def test_a_ue_without_mobike_comes_again_from_its_new_address(place: Scene, attach: Attach) -> None:
    """INITIAL_CONTACT or not: in the end the gateway has one session, at the new address."""
    ue = attach(Connection(settings={"mobike": "no"}))
    before = spis(place.session())
    assert ike(place.session())["mobike"] is False
    place.stage.leave(ACCESS_A)
    place.wait_session(lambda seen: spis(seen) != before and remote(ike(seen)) == THERE, "another session")
    place.wait_agreement(ue)
    assert place.passes(inner(ue))


def test_auth_lifetime_in_ike_auth(place: Scene, attach: Attach) -> None:
    """RFC 4478 §2: charon authenticates anew ``over_time`` before the end that we have told."""
    ue = attach(Connection(settings={"over_time": f"{AUTHENTICATION_LIFETIME - 1}s"}))
    ue.wait_for_log(rf"received AUTH_LIFETIME of {AUTHENTICATION_LIFETIME}s, scheduling reauthentication in 1s")
    before = spis(place.session())
    place.wait_session(lambda seen: spis(seen) != before, "a new authentication")
    place.wait_agreement(ue)
    assert place.passes(inner(ue))
