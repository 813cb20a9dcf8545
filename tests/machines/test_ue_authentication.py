"""The UE's EAP: which identity IDi says, fast re-authentication at the next attach and by RFC 4478, what is kept."""

from __future__ import annotations

import stat
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from protocols.algorithms.sqn import compose
from protocols.algorithms.suite import Algorithm, AlgorithmKeys
from protocols.algorithms.usim import UsimSuccess, UsimSynchronisationFailure
from protocols.algorithms.vector import generate_vector, verify_auts
from protocols.eap.aka.attributes import AtNextPseudonym, AtNextReauthId
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.peer import (
    NetworkNamePolicy,
    PeerOptions,
    Pseudonym,
    ReauthenticationContext,
    TemporaryIdentities,
)
from protocols.eap.packet import EapType, failure, success
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError, ConfigurationError
from protocols.ikev2.events import (
    Closed,
    EapReply,
    EapRequestReceived,
    Established,
    NatStatus,
    ReauthenticationDue,
    Refused,
    SaState,
    StateChanged,
    TicketReceived,
)
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, IdrPayload, NotifyPayload
from protocols.ikev2.registry import ConfigAttributeType, IdType, NotifyType
from protocols.ikev2.suites import IkeSuite
from protocols.ikev2.ticket import ResumableSession
from protocols.path import Endpoint
from protocols.path import Path as NetworkPath
from protocols.secret import Secret
from protocols.threegpp.causes import PrivateNotify
from tests.harness.aka_server import IMSI, NAI, OPC, PRIME_NAI, REALM, HandMadeServer, K, without_context
from tests.machines.test_ue_configuration import configured
from ue.authentication import Authenticator
from ue.commands import (
    AccessPorts,
    AnswerIke,
    AnswerSuccessor,
    AskUsim,
    Command,
    Connect,
    ConnectSuccessor,
    DeleteSa,
    KeepTemporaryIdentities,
    Tell,
)
from ue.context import DeviceState
from ue.device import Device
from ue.profile import authenticator, own_identity, root_nai, software_usim
from ue.temporary import FileTemporaryIdentityStore, MemoryTemporaryIdentityStore
from ue.usim import SoftwareUsim

PATH = NetworkPath(Endpoint.of("192.0.2.1", 4500), Endpoint.of("203.0.113.1", 4500))
PORTS = AccessPorts(ike=PATH.local, nat_traversal=PATH.local)
INNER = IPv4Address("10.45.0.2")
AUTHENTICATING = StateChanged(old=SaState.INIT_SENT, new=SaState.AUTHENTICATING, why="IKE_AUTH")
CONTEXT = ReauthenticationContext(
    method=EapType.AKA_PRIME,
    identity="8once@aaa1.example",
    counter=7,
    k_encr=Secret(bytes(16)),
    k_aut=Secret(bytes(32)),
    k_re=Secret(bytes(range(32))),
    network_name="WLAN",
)
HELD = TemporaryIdentities(pseudonym=Pseudonym(method=EapType.AKA, username="2hidden"), reauthentication=CONTEXT)


class Phone:
    """A device whose commands are answered here, at a hand-made EAP server; ``kept`` is what it has told to keep."""

    def __init__(self, options: PeerOptions | None = None, *, method: EapType = EapType.AKA) -> None:
        self.server = HandMadeServer(method=method)
        self.usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC)
        self.device = Device(
            imsi=IMSI,
            nai=NAI,
            apn="internet",
            gateway=Endpoint.of("203.0.113.1", 500),
            entropy=SeededEntropy(1),
            authenticator=Authenticator(imsi=IMSI, nai=NAI, entropy=SeededEntropy(2), options=options),
        )
        self.kept: list[TemporaryIdentities] = []
        self.told: dict[str, Tell] = {}
        self.questions = 0
        self.replies: list[EapReply] = []
        self.identity = ""
        self.commands: list[Command] = []

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            self.commands.append(command)
            match command:
                case KeepTemporaryIdentities():
                    self.kept.append(command.held)
                case Tell():
                    self.told[command.name] = command
                case AskUsim():
                    self.questions += 1
                    verdict = self.usim.authenticate(command.rand, command.autn)
                    self.carry_out(self.device.usim_answered(verdict))
                case AnswerIke() | AnswerSuccessor():
                    assert isinstance(command.answer, EapReply)
                    self.replies.append(command.answer)
                case Connect() | ConnectSuccessor():
                    self.identity = command.identity

    def begin(self) -> None:
        """Up to IDi."""
        self.carry_out(self.device.attach("wifi", 1, 0.0))
        self.carry_out(self.device.access_opened("wifi", PORTS, 0.0))
        self.carry_out(self.device.handle(AUTHENTICATING, 0.0))

    def hear(self, packet: bytes) -> None:
        self.carry_out(self.device.handle(EapRequestReceived(packet=packet), 0.0))

    def finish(self) -> None:
        """EAP-Success and the last IKE_AUTH."""
        self.hear(success(self.server.identifier))
        self.carry_out(self.device.handle(established(), 1.0))
        self.carry_out(self.device.host_started(1.0))

    def leave(self) -> None:
        self.carry_out(self.device.handle(Closed(why="gone", by_peer=True), 2.0))

    def attach_in_full(self) -> None:
        """An attach that brings a pseudonym and a fast re-authentication identity."""
        self.begin()
        digits = ("2", "4") if self.server.method is EapType.AKA else ("7", "8")
        nested = [AtNextPseudonym(f"{digits[0]}hidden".encode()), AtNextReauthId(f"{digits[1]}once".encode())]
        self.hear(self.server.challenge(self.identity, nested=nested))
        self.finish()


def established(address: IPv4Address = INNER) -> Established:
    return Established(
        identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=NAI.encode()),
        responder_identity=None,
        configuration=(ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS, value=address.packed),),
        mobike=True,
        nat=NatStatus(),
        path=PATH,
        requests=4,
    )


@pytest.mark.parametrize("method", [EapType.AKA, EapType.AKA_PRIME])
def test_the_next_attach_is_a_fast_reauthentication(method: EapType) -> None:
    """TS 24.302 §7.2.2.1: IDi says the fast re-authentication identity, and the USIM is not asked."""
    phone = Phone(method=method)
    phone.attach_in_full()
    assert phone.identity == NAI
    name = "EAP-AKA" if method is EapType.AKA else "EAP-AKA'"
    assert phone.told["attached"].data["eap"] == {"method": name, "kind": "full", "identity": NAI}
    assert phone.device.server_authenticated
    phone.leave()
    phone.begin()
    fast = f"{'4' if method is EapType.AKA else '8'}once@{REALM}"
    assert phone.identity == fast
    assert phone.kept[-1] == without_context(phone.kept[0])  # it is used up before anybody answers
    assert not phone.device.server_authenticated
    phone.hear(phone.server.reauthentication(1, nested=[AtNextReauthId(b"4again")]))
    assert phone.device.server_authenticated
    phone.finish()
    assert phone.questions == 1
    assert phone.replies[-1].msk == phone.server.reauthentication_keys(fast, 1).msk
    assert phone.told["attached"].data["eap"] == {"method": name, "kind": "fast", "identity": fast}
    context = phone.kept[-1].reauthentication
    assert context is not None
    assert (context.identity, context.counter) == ("4again", 1)


def test_an_identity_that_was_given_is_not_given_again() -> None:
    """RFC 4187 §4.1.1.8: not even when nobody has answered."""
    phone = Phone()
    phone.attach_in_full()
    phone.leave()
    phone.begin()
    phone.leave()
    phone.begin()
    assert phone.identity == f"2hidden@{REALM}"
    phone.hear(phone.server.challenge(phone.identity))
    phone.finish()
    assert phone.device.state is DeviceState.ESTABLISHED


def test_a_gateway_that_does_not_answer_costs_no_identity() -> None:
    phone = Phone()
    phone.attach_in_full()
    phone.leave()
    phone.carry_out(phone.device.attach("wifi", 1, 0.0))
    phone.carry_out(phone.device.access_opened("wifi", PORTS, 0.0))
    phone.carry_out(phone.device.handle(Closed(why="no response"), 0.0))
    phone.begin()
    assert phone.identity == f"4once@{REALM}"


def test_a_ticket_costs_no_identity_unless_it_is_not_taken() -> None:
    """RFC 5723 has its own IDi; EAP's leaves where the gateway wants a full IKE_AUTH."""
    phone = Phone()
    phone.attach_in_full()
    session = ResumableSession(
        ticket=b"ticket",
        gateway=PATH.remote.address,
        expires=3600.0,
        suite=IkeSuite.of("aes128-sha256-x25519"),
        sk_d=Secret(bytes(32)),
        identity=established().identity,
        responder_identity=IdrPayload(id_type=IdType.ID_FQDN, data=b"internet"),
    )
    phone.carry_out(phone.device.handle(TicketReceived(session=session), 1.0))
    phone.carry_out(phone.device.handle(Closed(why="lost"), 2.0))
    kept = len(phone.kept)
    phone.begin()
    assert len(phone.kept) == kept
    phone.hear(phone.server.reauthentication(1))
    assert phone.kept[-1].reauthentication is None
    assert phone.questions == 1


def test_reauthentication_by_a_second_sa_is_fast() -> None:
    """RFC 4478 with RFC 4187 §5."""
    phone = Phone()
    phone.attach_in_full()
    phone.carry_out(phone.device.handle(ReauthenticationDue(until=1000.0), 10.0))
    assert phone.identity == f"4once@{REALM}"
    phone.carry_out(phone.device.handle_successor(AUTHENTICATING))
    packet = phone.server.reauthentication(1, nested=[AtNextReauthId(b"4next")])
    phone.carry_out(phone.device.handle_successor(EapRequestReceived(packet=packet)))
    end = success(phone.server.identifier)
    phone.carry_out(phone.device.handle_successor(EapRequestReceived(packet=end)))
    phone.carry_out(phone.device.handle_successor(established()))
    assert phone.questions == 1
    told = phone.told["reauthenticated"].data["eap"]
    assert told == {"method": "EAP-AKA", "kind": "fast", "identity": f"4once@{REALM}"}
    assert phone.device.connection is not None
    assert phone.device.connection.authentication.view() == told
    phone.carry_out(phone.device.handle(ReauthenticationDue(until=2000.0), 900.0))
    assert phone.identity == f"4next@{REALM}"


def test_a_server_that_breaks_the_rules_ends_the_attach_and_the_second_sa() -> None:
    phone = Phone()
    phone.begin()
    phone.hear(success(1))
    assert "breaks the rules" in phone.told["refused"].text
    assert any(isinstance(command, DeleteSa) for command in phone.commands)
    phone = Phone()
    phone.attach_in_full()
    phone.carry_out(phone.device.handle(ReauthenticationDue(until=1000.0), 10.0))
    phone.carry_out(phone.device.handle_successor(EapRequestReceived(packet=failure(1))))
    assert phone.told["reauthentication-failed"].data["why"] != ""
    assert phone.device.state is DeviceState.ESTABLISHED


def test_what_the_peer_finds_wrong_is_told() -> None:
    phone = Phone(PeerOptions(network_name="HRPD"), method=EapType.AKA_PRIME)
    phone.begin()
    phone.hear(phone.server.challenge(NAI))
    answer = phone.replies[-1].packet
    assert answer is not None
    assert AkaMessage.decode(answer).subtype == AkaSubtype.AUTHENTICATION_REJECT
    phone.carry_out(phone.device.handle(Refused(text="no", by_peer=True), 1.0))
    assert "names the access network 'WLAN', this is 'HRPD'" in phone.told["refused"].text


def test_what_the_network_notifies_is_told_where_its_refusal_says_no_more() -> None:
    private = NotifyPayload(type=NotifyType.of(PrivateNotify.NO_APN_SUBSCRIPTION))
    plain = NotifyPayload(type=NotifyType.AUTHENTICATION_FAILED)
    for notify, expected in ((private, "no such APN"), (plain, "not subscribed to the requested service")):
        phone = Phone()
        phone.begin()
        phone.hear(phone.server.challenge(NAI))
        phone.hear(phone.server.notification(1031))
        phone.carry_out(phone.device.handle(Refused(text="no such APN", notify=notify, by_peer=True), 1.0))
        assert expected in phone.told["refused"].text


def test_another_network_name_may_be_taken_with_a_warning() -> None:
    policy = PeerOptions(network_name="HRPD", network_name_policy=NetworkNamePolicy.WARN)
    phone = Phone(policy, method=EapType.AKA_PRIME)
    phone.begin()
    phone.hear(phone.server.challenge(NAI))
    phone.finish()
    assert phone.told["network-name-differs"].data == {"expected": "HRPD", "received": "WLAN"}
    assert "attached" in phone.told


# What is kept


def test_identities_outlive_the_process_in_a_file_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "eap.json"
    store = FileTemporaryIdentityStore(file, IMSI.digits)
    assert store.load() == TemporaryIdentities()
    for held in (HELD, without_context(HELD), TemporaryIdentities(reauthentication=CONTEXT), TemporaryIdentities()):
        store.save(held)
        assert FileTemporaryIdentityStore(file, IMSI.digits).load() == held
    store.save(HELD)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["eap.json"]
    assert FileTemporaryIdentityStore(file, "001010000000002").load() == TemporaryIdentities()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"imsi": 1}',
        '{"imsi": "001010000000001", "pseudonym": {"method": "sim", "username": "2x"}}',
        '{"imsi": "001010000000001", "secret": "0123"}',
    ],
)
def test_a_file_that_is_something_else_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "eap.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="what this UE has written, or no such file") as refusal:
        FileTemporaryIdentityStore(file, IMSI.digits).load()
    assert "0123" not in str(refusal.value)


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    store = FileTemporaryIdentityStore(tmp_path / "none" / "eap.json", IMSI.digits)
    assert store.load() == TemporaryIdentities()
    with pytest.raises(BackendError, match=r"eap\.json"):
        store.save(HELD)
    with pytest.raises(BackendError, match=str(tmp_path)):
        FileTemporaryIdentityStore(tmp_path, IMSI.digits).load()


def test_identities_in_memory() -> None:
    store = MemoryTemporaryIdentityStore()
    assert store.load() == TemporaryIdentities()
    store.save(HELD)
    assert store.load() == HELD


def test_nothing_secret_is_printed() -> None:
    assert CONTEXT.k_re.reveal().hex() not in repr(HELD)
    assert "Secret(32 octets)" in repr(HELD)


# The configuration


@pytest.mark.parametrize(
    ("eap", "identity", "expected"),
    [
        ({}, None, NAI),
        ({"methods": ["aka-prime"]}, None, PRIME_NAI),
        (
            {"visited": {"mcc": "310", "mnc": "410"}},
            None,
            f"{REALM}!0{IMSI}@nai.epc.mnc410.mcc310.3gppnetwork.org",
        ),
        ({"visited": {"mcc": "610", "mnc": "71"}}, "ue@example.org", "ue@example.org"),
        ({"emergency": True}, None, f"0{IMSI}@sos.{REALM}"),
        (
            {"emergency": True, "visited": {"mcc": "610", "mnc": "71"}},
            None,
            f"{REALM}!0{IMSI}@sos.nai.epc.mnc071.mcc610.3gppnetwork.org",
        ),
    ],
)
def test_identity_outside(eap: dict[str, object], identity: str | None, expected: str) -> None:
    values = configured(eap=eap, identity=identity)
    assert own_identity(values).data == expected.encode()
    begun = authenticator(values, SeededEntropy(1), TemporaryIdentities()).begin(lambda reply: AnswerIke(answer=reply))
    assert begun.identity == expected
    assert identity is not None or root_nai(values) == expected


@pytest.mark.parametrize(
    ("eap", "expected"),
    [
        ({"outer_identity": "temporary"}, "8once@aaa1.example"),
        ({"outer_identity": "permanent"}, NAI),
        ({"emergency": True}, f"0{IMSI}@sos.{REALM}"),
    ],
)
def test_whether_temporary_identities_are_told_outside(eap: dict[str, object], expected: str) -> None:
    values = configured(eap=eap)
    begun = authenticator(values, SeededEntropy(1), HELD).begin(lambda reply: AnswerIke(answer=reply))
    assert begun.identity == expected


@pytest.mark.parametrize(
    ("usim", "keys"),
    [
        (
            {"algorithm": "milenage", "k": "00" * 16, "op": "11" * 16, "res_length": 4},
            AlgorithmKeys(k=Secret(bytes(16)), op=Secret(b"\x11" * 16), res_length=4),
        ),
        (
            {"algorithm": "tuak", "k": "00" * 32, "opc": "11" * 32, "tuak_iterations": 2, "res_length": 16},
            AlgorithmKeys(
                algorithm=Algorithm.TUAK,
                k=Secret(bytes(32)),
                opc=Secret(b"\x11" * 32),
                tuak_iterations=2,
                res_length=16,
            ),
        ),
        (
            {"algorithm": "tuak", "k": "00" * 16, "op": "11" * 32},
            AlgorithmKeys(algorithm=Algorithm.TUAK, k=Secret(bytes(16)), op=Secret(b"\x11" * 32)),
        ),
        (
            {"algorithm": "xor", "k": "00" * 16, "res_length": 5},
            AlgorithmKeys(algorithm=Algorithm.XOR, k=Secret(bytes(16)), res_length=5),
        ),
    ],
)
def test_algorithms_of_the_usim(tmp_path: Path, usim: dict[str, object], keys: AlgorithmKeys) -> None:
    card = software_usim(configured(usim={**usim, "sqn": str(tmp_path / "sqn.json")}))
    assert card is not None
    vector = generate_vector(keys.functions(), rand=bytes(range(16)), sqn=compose(1, 1))
    verdict = card.authenticate(vector.rand, vector.autn)
    assert verdict == UsimSuccess(res=vector.xres, ck=vector.ck, ik=vector.ik)
    assert len(vector.xres) == keys.res_length
    again = card.authenticate(vector.rand, vector.autn)
    assert isinstance(again, UsimSynchronisationFailure)
    assert verify_auts(keys.functions(), rand=vector.rand, auts=again.auts) == compose(1, 1)


def test_array_of_the_usim_by_the_length_of_ind(tmp_path: Path) -> None:
    usim: dict[str, object] = {"k": "00" * 16, "opc": "11" * 16, "sqn": str(tmp_path / "sqn.json")}
    keys = AlgorithmKeys(k=Secret(bytes(16)), opc=Secret(b"\x11" * 16)).functions()
    card = software_usim(configured(usim={**usim, "ind_bits": 0}))
    assert card is not None
    for sqn, fresh in ((5, True), (4, False), (6, True)):
        vector = generate_vector(keys, rand=bytes(16), sqn=sqn)
        assert isinstance(card.authenticate(vector.rand, vector.autn), UsimSuccess) is fresh
    with pytest.raises(ConfigurationError, match="expected 32 sequence numbers"):
        software_usim(configured(usim=usim))
