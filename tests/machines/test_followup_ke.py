"""IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): additional key exchanges of CREATE_CHILD_SA, in pairs on virtual time.

No peer here speaks it; keys are computed once more from the RFC's formulas (``harness/formulas``).
"""

from __future__ import annotations

import pytest

from protocols.entropy import SeededEntropy
from protocols.ikev2.config import RetransmissionPolicy
from protocols.ikev2.events import ChildSaInstalled, CreateChildSaRefused, MessageSent, SaState
from protocols.ikev2.message import Message, decode_header
from protocols.ikev2.payloads import KePayload, NoncePayload, NotifyPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import ExchangeType, KeGroup, NotifyType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.followup_ke import UNFINISHED_LIFETIME
from protocols.ikev2.tasks.informational import Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.path import Datagram, Path
from tests.harness.forge import forge, receive
from tests.harness.formulas import Keys, Recording, prf, prf_plus, recorded, secret_of
from tests.harness.pair import Node, Pair, initiator_config, responder_config

IKE = "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
ESP = "aes128gcm16-x25519-ke1_mlkem768"
TWICE = "ke1_mlkem1024-ke2_mlkem768"
FOLLOWUP = ExchangeType.IKE_FOLLOWUP_KE


def pair_of(ike: str = IKE, esp: str = ESP, **changes: object) -> Pair:
    """Both ends with these suites."""
    policies: dict[str, object] = {"ike_policy": IkePolicy.of([ike]), "esp_policy": EspPolicy.of([esp])}
    return Pair(initiator_config(**policies, **changes), responder_config(**policies, **changes))


def ends(pair: Pair, end: str) -> tuple[Node, Node]:
    """The end that acts, and the other."""
    return (pair.ue, pair.epdg) if end == "ue" else (pair.epdg, pair.ue)


def rekey_child(node: Node) -> RekeyChild:
    """Of its first child SA."""
    return RekeyChild(next(iter(node.live.children)))


def create_child(node: Node) -> CreateChild:
    """One more with the same selectors."""
    spec = next(iter(node.live.children.values())).spec
    return CreateChild(spec.local_selectors, spec.remote_selectors)


def begin(pair: Pair, node: Node, task: Task) -> None:
    """SK {SA, Ni, KEi, ..}  -->"""
    node.endpoint.initiate(node.live, task, pair.now)


def sound(pair: Pair, children: int = 1) -> None:
    """One IKE SA at each end, the same, with the same child SAs; nothing is unfinished."""
    (ue,), (epdg,) = pair.ue.endpoint.sas.values(), pair.epdg.endpoint.sas.values()
    assert (ue.spi_i, ue.spi_r, ue.keys) == (epdg.spi_i, epdg.spi_r, epdg.keys)
    assert ue.state is epdg.state is SaState.ESTABLISHED
    assert len(ue.children) == len(epdg.children) == children
    for spec in (child.spec for child in ue.children.values()):
        other = epdg.children[spec.outbound_spi].spec
        assert other.outbound_spi == spec.inbound_spi
        assert other.outbound_encryption_key == spec.inbound_encryption_key
        assert other.inbound_encryption_key == spec.outbound_encryption_key
    assert ue.followups.subjects == epdg.followups.subjects == ()
    for node in (pair.ue, pair.epdg):
        begin(pair, node, Liveness())
    pair.run(1.0)
    assert ue.window.outstanding is epdg.window.outstanding is None


def lose_followups(pair: Pair, sender: str, count: int) -> None:
    """The next ``count`` datagrams of IKE_FOLLOWUP_KE from a sender do not arrive."""
    left = [count]

    def lose(who: str, datagram: Datagram) -> bool:
        if who != sender or datagram.payload[18] != FOLLOWUP or left[0] == 0:
            return False
        left[0] -= 1
        return True

    pair.lose = lose


# --- what is made, and from what


def secrets(entropy: Recording, node: Node, other: Node, drawn: int) -> tuple[bytes, bytes, list[bytes]]:
    """Ni, Nr and SK(0), SK(1), ... of the last CREATE_CHILD_SA and what followed it, by the initiator's entropy."""
    sent, answers = (
        [
            event.message
            for event in one.events
            if isinstance(event, MessageSent)
            and event.message.response is response
            and event.message.exchange in (ExchangeType.CREATE_CHILD_SA, FOLLOWUP)
        ][-drawn:]
        for one, response in ((node, False), (other, True))
    )
    nonces = [message.first(NoncePayload) for message in (sent[0], answers[0])]
    mine, theirs = ([message.first(KePayload) for message in messages] for messages in (sent, answers))
    pairs = zip(mine, theirs, strict=True)
    return (
        nonces[0].data if nonces[0] else b"",
        nonces[1].data if nonces[1] else b"",
        [secret_of(entropy, one.data, other.data) for one, other in pairs if one is not None and other is not None],
    )


def attached(ike: str = IKE, esp: str = ESP) -> tuple[Pair, dict[str, Recording]]:
    """An established pair whose entropy is recorded."""
    pair = pair_of(ike, esp)
    gateway = responder_config(ike_policy=IkePolicy.of([ike]), esp_policy=EspPolicy.of([esp]))
    entropy = {"ue": recorded(pair.ue), "epdg": recorded(pair.epdg, gateway)}
    return pair.attach(), entropy


@pytest.mark.parametrize("end", ["ue", "epdg"])
@pytest.mark.parametrize("methods", ["ke1_mlkem768", TWICE])
def test_rekey_of_the_ike_sa(end: str, methods: str) -> None:
    """SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | ... | SK(n)); the new SA is made by the last response."""
    pair, entropy = attached(f"aes128gcm16-prfsha256-x25519-{methods}")
    node, other = ends(pair, end)
    old, start = node.live.keys, len(pair.wire)
    begin(pair, node, RekeyIke())
    pair.run(2.0)
    sound(pair)
    count = methods.count("_")
    lines = [line.removeprefix("--> ").removeprefix("<-- ") for line in pair.wire[start:]]
    assert lines[1].endswith("[ SA, Nr, KEr, N(ADDITIONAL_KEY_EXCHANGE) ]")
    for n in range(1, count + 1):
        request, response = lines[2 * n : 2 * n + 2]
        assert request.startswith("IKE_FOLLOWUP_KE request")
        assert request.endswith("[ KEi, N(ADDITIONAL_KEY_EXCHANGE) ]")
        assert response.endswith("[ KEr ]" if n == count else "[ KEr, N(ADDITIONAL_KEY_EXCHANGE) ]")
    assert lines[2 * count + 2].startswith("INFORMATIONAL request")
    ni, nr, (first, *further) = secrets(entropy[end], node, other, count + 1)
    assert old is not None
    skeyseed = prf(old.sk_d.reveal(), first + ni + nr + b"".join(further))
    keys = Keys.of(skeyseed, ni + nr + node.live.spi_i + node.live.spi_r)
    now = node.live.keys
    assert now is not None
    assert (now.sk_d.reveal(), now.sk_ei.reveal(), now.sk_pr.reveal()) == (keys.d, keys.ei, keys.pr)


@pytest.mark.parametrize("end", ["ue", "epdg"])
@pytest.mark.parametrize("methods", ["ke1_mlkem768", TWICE])
@pytest.mark.parametrize("what", [rekey_child, create_child])
def test_child_sas(end: str, methods: str, what: object) -> None:
    """KEYMAT = prf+(SK_d, SK(0) | Ni | Nr | SK(1) | ... | SK(n)), for a rekey and for one more child SA."""
    pair, entropy = attached(esp=f"aes128gcm16-x25519-{methods}")
    node, other = ends(pair, end)
    before = set(node.live.children)
    begin(pair, node, what(node))  # type: ignore[operator]
    pair.run(2.0)
    sound(pair, 1 if what is rekey_child else 2)
    (new,) = set(node.live.children) - before
    spec = node.live.children[new].spec
    ni, nr, (first, *further) = secrets(entropy[end], node, other, methods.count("_") + 1)
    keys = node.live.keys
    assert keys is not None
    keymat = prf_plus(keys.sk_d.reveal(), first + ni + nr + b"".join(further), 40)
    assert spec.outbound_encryption_key.reveal() + spec.inbound_encryption_key.reveal() == keymat


def test_a_peer_without_additional_key_exchanges_takes_another_proposal() -> None:
    """RFC 7296 §3.3.6: nothing is negotiated beside the proposals (RFC 9370 §2.2.4)."""
    names = ["aes128gcm16-x25519-ke1_mlkem768", "aes128gcm16-x25519"]
    pair = Pair(
        initiator_config(esp_policy=EspPolicy.of(names)), responder_config(esp_policy=EspPolicy.of(names[1:]))
    ).attach()
    begin(pair, pair.ue, rekey_child(pair.ue))
    pair.run(2.0)
    assert not any("FOLLOWUP" in line for line in pair.wire)
    sound(pair)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_over_a_bad_link_in_fragments(end: str, seed: int) -> None:
    """Retransmission and fragmentation as of any exchange."""
    pair = pair_of(f"aes128gcm16-prfsha256-x25519-{TWICE}", f"aes128gcm16-x25519-{TWICE}", fragment_size=576).attach()
    node, _ = ends(pair, end)
    chance = SeededEntropy(f"loss {seed}")
    pair.lose = lambda who, datagram: chance.octets(1)[0] < 40
    begin(pair, node, rekey_child(node))
    begin(pair, node, RekeyIke())
    pair.run(90.0)
    pair.lose = lambda who, datagram: False
    pair.run(30.0)
    sound(pair)
    sizes = [len(d.payload) for _, d in pair.seen if decode_header(d.payload).exchange == FOLLOWUP]
    assert len(sizes) > 12
    assert max(sizes) <= 576 - 32


# --- unfinished


def test_who_takes_too_long_is_told_state_not_found_and_begins_anew() -> None:
    """The responder keeps its state a bounded time; the initiator "MUST treat the whole series .. as having failed"."""
    slow = RetransmissionPolicy(base_interval=20.0, limit=5)
    pair = pair_of(retransmission=slow, path_test_after=None).attach()
    for node in (pair.ue, pair.epdg):
        node.events.clear()
    lose_followups(pair, "ue", 4)  # two fragments, twice
    begin(pair, pair.ue, rekey_child(pair.ue))
    pair.run(10.0)
    assert len(pair.epdg.live.followups.subjects) == 1
    pair.run(UNFINISHED_LIFETIME)
    assert pair.epdg.live.followups.subjects == ()
    assert pair.epdg.live.dropped["unfinished-key-exchange"] == 1
    assert not pair.epdg.has(ChildSaInstalled)
    pair.run(25.0)
    assert any(line.endswith("[ N(STATE_NOT_FOUND) ]") for line in pair.wire)
    assert pair.ue.take(CreateChildSaRefused).notify.type == NotifyType.STATE_NOT_FOUND
    pair.run(30.0)
    assert pair.ue.has(ChildSaInstalled)
    sound(pair)


@pytest.mark.parametrize("what", ["child", "ike"])
def test_state_not_found_again_and_again_ends_the_ike_sa(what: str) -> None:
    """ "after several retries, it MUST treat this situation as a fatal error and delete IKE SA"."""
    pair = pair_of().attach()

    def forgetful(who: str, datagram: Datagram) -> bool:
        if who == "ue" and datagram.payload[18] == FOLLOWUP:
            pair.epdg.live.followups.clear()
        return False

    pair.lose = forgetful
    begin(pair, pair.ue, rekey_child(pair.ue) if what == "child" else RekeyIke())
    pair.run(120.0)
    assert sum("IKE_FOLLOWUP_KE request" in line for line in pair.wire) == 4
    assert not pair.ue.endpoint.sas
    assert not pair.epdg.endpoint.sas


def test_an_unknown_link_ends_nothing() -> None:
    """STATE_NOT_FOUND "is a non-fatal error type notification"; so it is without a link."""
    pair = pair_of().attach()
    ke = KePayload(group=KeGroup.ML_KEM_768, data=bytes(1184))
    link = NotifyPayload(type=NotifyType.ADDITIONAL_KEY_EXCHANGE, data=b"whatever")
    after = pair.ue.live.window.next_request_id
    for number, payloads in enumerate(((ke, link), (ke,))):
        receive(pair, pair.epdg, forge(pair, "ue", after + number, *payloads, exchange=FOLLOWUP))
        assert pair.wire[-1].endswith("[ N(STATE_NOT_FOUND) ]")
    assert pair.epdg.live.state is SaState.ESTABLISHED


@pytest.mark.parametrize(
    "ke",
    [KePayload(group=KeGroup.ML_KEM_1024, data=bytes(1184)), KePayload(group=KeGroup.ML_KEM_768, data=b"\xff" * 1184)],
    ids=["method", "modulus"],
)
def test_a_bad_key_exchange_ends_the_ike_sa(ke: KePayload) -> None:
    """RFC 7296 §3.10.1: INVALID_SYNTAX, which an authenticated peer earns by breaking the protocol."""
    pair = pair_of().attach()
    pair.lose = lambda who, datagram: datagram.payload[18] == FOLLOWUP and who == "ue"
    begin(pair, pair.ue, rekey_child(pair.ue))
    pair.run(0.1)
    request = pair.ue.live.window.outstanding
    assert request is not None
    (link,) = request.sent.message.all(NotifyPayload)
    receive(pair, pair.epdg, forge(pair, "ue", request.message_id, ke, link, exchange=FOLLOWUP))
    assert pair.wire[-1].endswith("[ N(INVALID_SYNTAX) ]")
    assert pair.epdg.live.state is SaState.CLOSED


class Unsteady(CreateChild):
    """Begins and does not go on."""

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Nothing."""


class UnsteadyRekey(RekeyIke):
    """Begins to rekey the IKE SA and does not go on."""

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Nothing."""


def test_temporary_failure_to_what_would_cross_an_unfinished_series() -> None:
    """RFC 7296 §2.25: no rekey of the IKE SA from under child SAs in the making, no child SA under an SA that goes."""
    pair = pair_of().attach()
    spec = next(iter(pair.ue.live.children.values())).spec
    begin(pair, pair.ue, Unsteady(spec.local_selectors, spec.remote_selectors))
    begin(pair, pair.ue, UnsteadyRekey())
    pair.run(0.1)
    assert pair.wire[-1].endswith("[ N(TEMPORARY_FAILURE) ]")
    other = pair_of().attach()
    begin(other, other.ue, UnsteadyRekey())
    begin(other, other.ue, create_child(other.ue))
    other.run(0.1)
    assert other.wire[-1].endswith("[ N(TEMPORARY_FAILURE) ]")


def test_no_more_unfinished_child_sas_than_child_sas() -> None:
    """What a peer begins and does not finish counts."""
    pair = pair_of(additional_children=2).attach()
    spec = next(iter(pair.ue.live.children.values())).spec
    for _ in range(3):
        begin(pair, pair.ue, Unsteady(spec.local_selectors, spec.remote_selectors))
        pair.run(0.1)
    assert len(pair.epdg.live.followups.subjects) == 2
    assert any(line.endswith("[ N(NO_ADDITIONAL_SAS) ]") for line in pair.wire)


# --- both at once


@pytest.mark.parametrize("what", ["child", "ike"])
@pytest.mark.parametrize("seed", range(6))
def test_both_ends_at_once(what: str, seed: int) -> None:
    """ "because there is nothing to delete yet, the initiator of this exchange just stops": one series, one new SA."""
    policies: dict[str, object] = {"ike_policy": IkePolicy.of([IKE]), "esp_policy": EspPolicy.of([ESP])}
    pair = Pair(initiator_config(**policies), responder_config(**policies), seed).attach()
    start = len(pair.wire)
    for node in (pair.ue, pair.epdg):
        begin(pair, node, rekey_child(node) if what == "child" else RekeyIke())
    pair.run(3.0)
    assert sum("CREATE_CHILD_SA request" in line for line in pair.wire[start:]) == 2
    assert sum("IKE_FOLLOWUP_KE request" in line for line in pair.wire[start:]) == 1
    sound(pair)
    count = len(pair.wire)
    pair.run(60.0)
    assert not any("CREATE_CHILD_SA" in line for line in pair.wire[count:])


@pytest.mark.parametrize("what", ["child", "ike"])
def test_a_request_about_an_sa_whose_series_is_under_way(what: str) -> None:
    """ "In this case, a TEMPORARY_FAILURE notification MUST be sent in response to such a request"."""
    pair = pair_of().attach()
    lost = [0]

    def lose(who: str, datagram: Datagram) -> bool:
        # the gateway's first request, which crosses ours, and our first follow-up are late
        exchange = datagram.payload[18]
        late = (who == "epdg" and exchange == ExchangeType.CREATE_CHILD_SA and not datagram.payload[19] & 0x20) or (
            who == "ue" and exchange == FOLLOWUP
        )
        lost[0] += late
        return late and lost[0] <= 2

    pair.lose = lose
    for node in (pair.epdg, pair.ue):
        begin(pair, node, rekey_child(node) if what == "child" else RekeyIke())
    pair.run(0.7)
    assert any(line.startswith("--> CREATE_CHILD_SA") and "TEMPORARY_FAILURE" in line for line in pair.wire), pair.wire
    pair.run(60.0)
    sound(pair)


def test_an_end_waits_with_its_own_rekey_while_the_peers_is_unfinished() -> None:
    """What the peer does not finish is done by this end when its time is over."""
    pair = pair_of(retransmission=RetransmissionPolicy(base_interval=200.0)).attach()
    lose_followups(pair, "ue", 1)
    begin(pair, pair.ue, rekey_child(pair.ue))
    pair.run(1.0)
    pair.ue.live.forget_requests()
    begin(pair, pair.epdg, rekey_child(pair.epdg))
    begin(pair, pair.epdg, RekeyIke())
    pair.run(UNFINISHED_LIFETIME - 5.0)
    assert not any(line.startswith("<-- CREATE_CHILD_SA request") for line in pair.wire)
    pair.run(10.0)
    assert any(line.startswith("<-- CREATE_CHILD_SA request") for line in pair.wire)
