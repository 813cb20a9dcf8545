"""AOSP's canned responder sessions replayed: our IKE SA is the UE that the published messages answer.

The machine gets the published SPI, nonce and private value; everything that it sends for itself is its own. Each
message of the responder's was made under the keys that follow, so an IKE SA that takes the session to its end has
derived them, verified AUTH, and kept the Message IDs. The responder never reads what we send: nothing is proved
here of our own AUTH, nor of the proposals beyond what the answers choose from.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, TypeVar

import pytest

from protocols.entropy import Entropy, SeededEntropy
from protocols.errors import LocalError
from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.events import (
    AddressesUpdated,
    AuthenticationKind,
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    ChildSaRetired,
    Closed,
    EapReply,
    EapRequestReceived,
    Established,
    Event,
    IkeKeysDerived,
    IkeSaRekeyed,
    MessageReceived,
    MessageSent,
    OriginalRole,
    Refused,
    SaState,
)
from protocols.ikev2.message import decode_message
from protocols.ikev2.payloads import (
    CertPayload,
    ConfigurationAttribute,
    IdiPayload,
    IdrPayload,
    KePayload,
    SaPayload,
    decode_payloads,
)
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import ConfigAttributeType, IdType, KeGroup, NotifyType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.suites import KEY_EXCHANGES, EspSuite, KeyExchange, ModpMethod, ModpPrivate
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.informational import DeleteChildSa, DeleteIkeSa, Liveness
from protocols.ikev2.tasks.init import Init
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from tests.harness.certificates import make_pki
from tests.vectors.test_ikev2_aosp import SESSIONS, Session, keys_in, octets, revealed

pytestmark = pytest.mark.skipif(not SESSIONS, reason="AOSP's vectors are not beside this checkout")

SERVER = "server.test.ike.android.net"
MOMENT = datetime(2024, 1, 1, tzinfo=UTC)  # within the validity of the published certificate
HERE = Path(Endpoint.of("192.0.2.1", 500), Endpoint.of("203.0.113.1", 500))
THERE = Path(Endpoint.of("198.51.100.7", 4500), Endpoint.of("203.0.113.1", 4500))
RETIRED = 3.0  # seconds: longer than a replaced child SA goes on receiving after its DELETE
ANY = (TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0"))

E = TypeVar("E")


class PublishedNonce:
    """The published octets where the nonce of IKE_SA_INIT is drawn, which is first; then a seeded source."""

    def __init__(self, nonce: bytes) -> None:
        self._nonce: bytes | None = nonce
        self._rest = SeededEntropy("after the nonce")

    def octets(self, length: int) -> bytes:
        """The nonce the first time."""
        published, self._nonce = self._nonce, None
        if published is None:
            return self._rest.octets(length)
        assert len(published) == length
        return published


def published_key(private: str) -> Any:
    """The published exponent, which is longer than ours are."""

    def generate(group: KeGroup, entropy: Entropy) -> KeyExchange:
        del entropy
        method = KEY_EXCHANGES[group]
        assert isinstance(method, ModpMethod)
        return KeyExchange(group, ModpPrivate(method, int(private, 16)))

    return generate


def named(part: str) -> Session:
    """The session of that test, or whose messages have names with that word."""
    (found,) = [s for s in SESSIONS if part in s.name or any(part in row["name"] for row in s.row["messages"])]
    return found


class Replay:
    """One session and the IKE SA that goes through it."""

    def __init__(self, session: Session, esp: str, **changes: object) -> None:
        self.session = session
        published = session.row["initiator"]
        self.answers: Iterator[dict[str, Any]] = iter(session.row["messages"])
        self.events: list[Event] = []
        self.sent: list[bytes] = []
        self.now = 0.0
        values: dict[str, object] = {
            "ike_policy": IkePolicy((session.suite,)),
            # AOSP offers AEAD first: the answers choose proposal 2 where they choose an older cipher of both
            "esp_policy": EspPolicy(tuple([EspSuite.of(name) for name in esp.split()])),
            "identity": IdiPayload(id_type=IdType.ID_FQDN, data=b"client.test.ike.android.net"),
            "responder_identity": IdrPayload(id_type=IdType.ID_FQDN, data=SERVER.encode()),
            "authentication": AuthenticationKind.PSK,
            "psk": Secret(b"ikeAndroidPsk"),
            "local_selectors": ANY,
            "remote_selectors": ANY,
            "configuration_request": (ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS),),
        }
        values.update(changes)
        self.sa = IkeSa(
            InitiatorConfig(**values),  # type: ignore[arg-type]
            role=OriginalRole.INITIATOR,
            spi=octets(published["spi"]),
            path=HERE,
            entropy=PublishedNonce(octets(published["nonce"])),
            now=self.now,
        )
        self.sa.initiate(Init(published_key(published["dh_private"])), self.now)
        self._drain()
        ke = decode_message(self.sent[0]).first(KePayload)
        assert ke is not None
        assert ke.data == octets(published["dh_public"])

    def init(self) -> Replay:
        """The answer to IKE_SA_INIT, after which the keys are the published ones."""
        self._receive(octets(self.session.row["ike_sa_init_response"]))
        assert revealed(self.take(IkeKeysDerived).keys) == keys_in(self.session.row)
        return self

    def hear(self, *names: str) -> Replay:
        """The next messages of the responder's, which have to be these."""
        for name in names:
            row = next(self.answers)
            assert row["name"].endswith(name), f"{row['name']} comes first"
            self._receive(octets(row["hex"]))
        return self

    def finished(self) -> bool:
        """Whether every message of the session was heard."""
        return next(self.answers, None) is None

    def take(self, kind: type[E]) -> E:
        """The first event of a kind that was not taken yet."""
        for event in self.events:
            if isinstance(event, kind):
                self.events.remove(event)
                return event
        raise AssertionError(f"no {kind.__name__} among {[type(event).__name__ for event in self.events]}")

    def has(self, kind: type[object]) -> bool:
        """Whether an event of a kind waits."""
        return any(isinstance(event, kind) for event in self.events)

    def wire(self) -> list[str]:
        """Everything said, in RFC notation."""
        arrows = {MessageSent: "-->", MessageReceived: "<--"}
        return [
            f"{arrows[type(event)]} {event.message.summary()}"
            for event in self.events
            if isinstance(event, MessageSent | MessageReceived)
        ]

    def begin(self, task: Any) -> Replay:
        """A request of ours."""
        self.sa.initiate(task, self.now)
        self._drain()
        return self

    def wait(self, seconds: float) -> Replay:
        """Time passes."""
        self.now += seconds
        self.sa.handle_timeout(self.now)
        self._drain()
        return self

    def answer(self, reply: EapReply) -> Replay:
        """What the EAP peer says."""
        self.sa.answer(reply, self.now)
        self._drain()
        return self

    def move(self, path: Path) -> Replay:
        """Our addresses change."""
        self.sa.move(path, self.now)
        self._drain()
        return self

    def _receive(self, datagram: bytes) -> None:
        self.now += 0.01
        self.sa.receive(Datagram(self.sa.path, datagram), self.now)
        self._drain()
        assert not self.sa.dropped

    def _drain(self) -> None:
        for sa in self.sa.family():
            while (event := sa.poll_event()) is not None:
                self.events.append(event)
            while (datagram := sa.poll_transmit()) is not None:
                self.sent.append(datagram.payload)


def attributes(replay: Replay) -> list[tuple[ConfigAttributeType, bytes]]:
    return [(each.type, each.value) for each in replay.take(Established).configuration]


def selectors(event: ChildSaInstalled) -> tuple[list[str], list[str]]:
    spec = event.spec
    return [str(each) for each in spec.local_selectors], [str(each) for each in spec.remote_selectors]


PSK_SESSION = "IkeSessionPskTest:SUCCESS_IKE_INIT_RESP"
ADDRESS_ATTRIBUTE = (ConfigAttributeType.INTERNAL_IP4_ADDRESS, ip_address("198.51.100.10").packed)
GRANTED = (["198.51.100.10"], ["0.0.0.0-255.255.255.255"])


def test_shared_key_additional_child_sa_and_deletes() -> None:
    replay = Replay(named(PSK_SESSION), "aes128-sha1").init().hear("SUCCESS_IKE_AUTH_RESP")
    first = replay.take(ChildSaInstalled)
    assert attributes(replay) == [ADDRESS_ATTRIBUTE]
    assert first.spec.outbound_spi == octets("cdfba047")
    assert first.spec.suite == EspSuite.of("aes128-sha1")
    assert selectors(first) == GRANTED
    replay.begin(CreateChild(first.spec.local_selectors, first.spec.remote_selectors)).hear("SUCCESS_CREATE_CHILD_RESP")
    second = replay.take(ChildSaInstalled)
    assert second.replaces is None
    assert second.spec.outbound_spi == octets("caab8eb6")
    assert second.spec.inbound_encryption_key != first.spec.inbound_encryption_key
    replay.begin(DeleteChildSa(second.spec.inbound_spi)).hear("SUCCESS_DELETE_CHILD_RESP")
    assert replay.take(ChildSaRemoved).inbound_spi == second.spec.inbound_spi
    assert list(replay.sa.children) == [first.spec.inbound_spi]
    replay.begin(DeleteIkeSa("done")).hear("SUCCESS_DELETE_IKE_RESP")
    assert replay.take(ChildSaRemoved).inbound_spi == first.spec.inbound_spi
    assert replay.take(Closed).why == "done"
    assert replay.finished()


def test_aes_cmac_throughout() -> None:
    """AES-CMAC-96 and PRF-AES128-CMAC for IKE."""
    replay = Replay(named("WithAesCmac:ikeInitResp"), "aes128-sha256").init().hear("ikeAuthResp")
    installed = replay.take(ChildSaInstalled)
    assert installed.spec.suite == EspSuite.of("aes128-sha256")
    assert selectors(installed) == GRANTED
    replay.begin(DeleteIkeSa("done")).hear("deleteIkeResp")
    assert replay.take(Closed).why == "done"
    assert replay.finished()


def test_ipv6_inside() -> None:
    asked = tuple(
        ConfigurationAttribute(type=kind)
        for kind in (ConfigAttributeType.INTERNAL_IP6_ADDRESS, ConfigAttributeType.INTERNAL_IP4_DNS)
    )
    replay = Replay(named("WithTunnelModeV6:ikeInitResp"), "aes128-sha1", configuration_request=asked)
    replay.init().hear("ikeAuthResp")
    inner, resolver = ip_address("2001:db8::2"), ConfigAttributeType.INTERNAL_IP4_DNS
    assert attributes(replay) == [
        (ConfigAttributeType.INTERNAL_IP6_ADDRESS, inner.packed + bytes([64])),
        (resolver, ip_address("8.8.8.8").packed),
        (resolver, ip_address("8.8.4.4").packed),
    ]
    assert selectors(replay.take(ChildSaInstalled)) == ([str(inner)], [str(ANY[1])])
    replay.begin(DeleteIkeSa("done")).hear("deleteIkeResp")
    assert replay.take(Closed).why == "done"
    assert replay.finished()


def test_authentication_failed() -> None:
    """RFC 7296 §2.21.2: the refusal ends the SA, and nothing more is sent."""
    replay = Replay(named("testIkeAuthHandlesAuthFailNotification"), "aes128-sha1")
    before = len(replay.init().sent)
    replay.hear("ikeAuthFailRespHex")
    refused = replay.take(Refused)
    assert refused.by_peer
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.AUTHENTICATION_FAILED
    assert refused.text == "the peer refused: AUTHENTICATION_FAILED"
    assert replay.take(Closed).by_peer
    assert len(replay.sent) == before
    assert not replay.has(Established)
    assert replay.finished()


def test_first_child_sa_refused() -> None:
    """§1.2, §2.21.2: the responder is authentic, TS_UNACCEPTABLE is of the child SA alone; without one we leave."""
    replay = Replay(named("FirstChildCreationFail"), "aes128-sha1").init().hear("ikeAuthCreateChildFailHex")
    refused = replay.take(Refused)
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.TS_UNACCEPTABLE
    assert refused.text == "the peer refused the child SA: TS_UNACCEPTABLE"
    assert replay.sa.state is SaState.DELETING
    assert not replay.has(ChildSaInstalled)
    assert replay.wire()[-1] == "--> INFORMATIONAL request 2 [ D ]"
    assert replay.finished()


def test_a_wrong_key_stops_where_auth_is_verified() -> None:
    """The replay proves AUTH: with another key of ours the same octets are refused."""
    replay = Replay(named(PSK_SESSION), "aes128-sha1", psk=Secret(b"another")).init().hear("SUCCESS_IKE_AUTH_RESP")
    assert "does not verify with the pre-shared key" in replay.take(Refused).text
    assert not replay.has(ChildSaInstalled)


# -- transport mode was answered; we have tunnel mode only, did not ask, and go on as if it had not been said (§1.3.1)


def test_liveness_then_delete_by_the_responder() -> None:
    replay = Replay(named("testIkeLivenessCheck:ikeInitResp"), "aes128gcm16 aes128-sha1").init().hear("ikeAuthResp")
    assert selectors(replay.take(ChildSaInstalled)) == (["172.58.35.40"], ["10.138.0.2"])
    replay.begin(Liveness()).hear("ikeDpdResp")
    assert replay.sa.state is SaState.ESTABLISHED
    assert not replay.sa.requests_under_way
    replay.hear("deleteIkeReq")
    closed = replay.take(Closed)
    assert closed.by_peer
    assert closed.why == "the peer deleted the IKE SA"
    assert replay.wire()[-2:] == ["<-- INFORMATIONAL request 0 [ D ]", "--> INFORMATIONAL response 0 [ ]"]
    assert replay.finished()


def test_ike_sa_rekeyed_by_the_responder() -> None:
    """§2.18: the responder is the original initiator of the new SA, which inherits the child SA."""
    replay = Replay(named("testRekeyIke:ikeInitResp"), "aes128gcm16 aes128-sha1").init().hear("ikeAuthResp")
    child = replay.take(ChildSaInstalled).spec
    replay.hear("rekeyIkeCreateReq")
    heir = replay.take(IkeSaRekeyed).successor
    assert heir.spi_i == octets("7d3dedc65407d1fc")
    assert heir.role is OriginalRole.RESPONDER
    assert heir.first_initiator
    assert heir.suite == replay.sa.suite
    assert heir.keys != replay.sa.keys
    assert list(heir.children) == [child.inbound_spi]
    replay.hear("rekeyIkeDeleteReq")
    assert replay.take(Closed).by_peer
    assert (replay.sa.state, heir.state) == (SaState.CLOSED, SaState.ESTABLISHED)
    assert not replay.has(ChildSaRemoved)
    assert replay.finished()


def test_child_sa_rekeyed_by_the_responder() -> None:
    """§1.3.3, §2.8: four proposals come, ours is the second; the old SA goes when the responder deletes it."""
    replay = (
        Replay(named("testRekeyTransportModeChildSa:ikeInitResp"), "aes128gcm16 aes128-sha1").init().hear("ikeAuthResp")
    )
    old = replay.take(ChildSaInstalled).spec
    assert old.outbound_spi == octets("c7e9ee1f")
    replay.hear("rekeyChildCreateReq")
    made = replay.take(ChildSaInstalled)
    assert made.replaces == old.inbound_spi
    assert made.spec.outbound_spi == octets("c127c515")
    assert made.spec.suite == EspSuite.of("aes128-sha1")
    assert selectors(made) == (["172.58.35.40"], ["10.138.0.2"])
    answer = next(event for event in reversed(replay.events) if isinstance(event, MessageSent)).message
    chosen = answer.first(SaPayload)
    assert chosen is not None
    assert chosen.single().number == 2
    replay.hear("rekeyChildDeleteReq")
    assert replay.take(ChildSaRetired).inbound_spi == old.inbound_spi
    assert replay.wait(RETIRED).take(ChildSaRemoved).inbound_spi == old.inbound_spi
    assert list(replay.sa.children) == [made.spec.inbound_spi]
    replay.hear("deleteIkeReq")
    assert replay.take(Closed).by_peer
    assert replay.finished()


# -- MOBIKE


def test_mobike_move_then_rekey_of_the_child_sa() -> None:
    """RFC 4555 §3.5: the answer to our UPDATE_SA_ADDRESSES is taken, everything is on the new path."""
    replay = Replay(named("IkeSessionMobikeTest:IKE_INIT_RESP"), "aes128-sha256").init().hear("IKE_AUTH_RESP")
    established = replay.take(Established)
    assert established.mobike
    child = replay.take(ChildSaInstalled).spec
    assert child.outbound_spi == octets("cce983f3")
    replay.move(THERE)
    assert not replay.has(AddressesUpdated)
    replay.hear("IKE_UPDATE_SA_RESP")
    moved = replay.take(AddressesUpdated)
    assert (moved.old, moved.new, moved.validated) == (established.path, THERE, True)
    followed = replay.take(ChildSaPathChanged)
    assert (followed.inbound_spi, followed.path) == (child.inbound_spi, THERE)
    assert replay.wire()[-2:] == [
        "--> INFORMATIONAL request 2 [ N(UPDATE_SA_ADDRESSES), "
        "N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]",
        "<-- INFORMATIONAL response 2 [ N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]",
    ]
    replay.begin(RekeyChild(child.inbound_spi)).hear("IKE_CREATE_CHILD_RESP", "IKE_DELETE_CHILD_RESP")
    made = replay.take(ChildSaInstalled)
    assert (made.replaces, made.spec.outbound_spi) == (child.inbound_spi, octets("c0763614"))
    assert made.spec.path == THERE
    assert replay.take(ChildSaRetired).inbound_spi == child.inbound_spi
    assert replay.wait(RETIRED).take(ChildSaRemoved).inbound_spi == child.inbound_spi
    replay.begin(DeleteIkeSa("done")).hear("DELETE_IKE_RESP")
    assert replay.take(Closed).why == "done"
    assert replay.finished()


def test_without_mobike_there_is_no_move_but_a_rekey() -> None:
    replay = Replay(named("testSetNetworkWithoutMobikeEnabled:ikeInitResp"), "aes128-sha256")
    replay.init().hear("IkeAuthRespWithoutMobikeSupport")
    assert not replay.take(Established).mobike
    with pytest.raises(LocalError, match="does not support MOBIKE"):
        replay.move(THERE)
    child = replay.take(ChildSaInstalled).spec
    replay.begin(RekeyChild(child.inbound_spi)).hear("createChildResp", "deleteChildResp")
    assert replay.take(ChildSaInstalled).spec.outbound_spi == octets("cbd89580")
    assert replay.take(ChildSaRetired).inbound_spi == child.inbound_spi
    assert replay.wait(RETIRED).take(ChildSaRemoved).inbound_spi == child.inbound_spi
    replay.begin(DeleteIkeSa("done")).hear("deleteIkeResp")
    assert replay.take(Closed).why == "done"
    assert replay.finished()


def test_mobike_that_we_do_not_offer() -> None:
    replay = Replay(named("testSetNetworkWithoutOptionMobike:ikeInitResp"), "aes128-sha1", mobike=False)
    replay.init().hear("IkeAuthRespWithoutMobikeSupport")
    assert not replay.take(Established).mobike
    assert selectors(replay.take(ChildSaInstalled)) == GRANTED
    assert "MOBIKE_SUPPORTED" not in " ".join(replay.wire())
    assert replay.finished()


# -- certificates and EAP; the authority's certificate is not published with the messages, the responder's own is


def responder_certificate(session: Session) -> bytes:
    """The one in the fragments of the first IKE_AUTH response; put in the place of a trust anchor it is pinned."""
    rows = [row for row in session.row["messages"] if row.get("frag") is not None]
    chain = decode_payloads(rows[0]["first_payload"], b"".join(octets(row["plaintext"]) for row in rows))
    (certificate,) = [payload.data for payload in chain if isinstance(payload, CertPayload)]
    return certificate


def trusting(*anchors: bytes) -> CertificateVerifier:
    return CertificateVerifier(anchors, lambda: MOMENT)


def by_certificate(session: Session, verifier: CertificateVerifier) -> Replay:
    pki = make_pki()
    subject = IdrPayload(
        id_type=IdType.ID_DER_ASN1_DN,
        data=octets(
            "3045310b30090603550406130255533110300e060355040a1307416e64726f6964"
            "312430220603550403131b7365727665722e746573742e696b652e616e64726f69642e6e6574"
        ),
    )
    return Replay(
        session,
        "aes128gcm16 aes128-sha256",
        authentication=AuthenticationKind.CERTIFICATE,
        psk=None,
        credentials=(Credential(pki.chain, pki.key),),
        verifier=verifier,
        responder_identity=subject,
        gateway_names=(SERVER,),
    )


def test_digital_signature_in_two_fragments() -> None:
    """RFC 7427 and RFC 7383: IDr is a DN, the certificate is pinned, its RSA signature over the session verifies."""
    session = named("IkeSessionDigitalSignatureTest")
    replay = by_certificate(session, trusting(responder_certificate(session))).init()
    replay.hear("IKE_AUTH_RESP_FRAG_1")
    assert not replay.has(Established)
    replay.hear("IKE_AUTH_RESP_FRAG_2")
    assert replay.has(Established)
    installed = replay.take(ChildSaInstalled)
    assert installed.spec.outbound_spi == octets("cb4b1641")
    assert installed.spec.suite == EspSuite.of("aes128-sha256")
    assert selectors(installed) == (["192.168.0.212"], ["192.168.0.223"])
    replay.begin(DeleteIkeSa("done")).hear("DELETE_IKE_RESP")
    assert replay.take(Closed).why == "done"
    assert replay.finished()


def test_digital_signature_of_a_stranger() -> None:
    """Without an anchor that leads to it the same message is refused, by name."""
    session = named("IkeSessionDigitalSignatureTest")
    replay = by_certificate(session, trusting(make_pki().authority)).init()
    replay.hear("IKE_AUTH_RESP_FRAG_1", "IKE_AUTH_RESP_FRAG_2")
    refused = replay.take(Refused)
    assert not refused.by_peer
    assert "is issued by 'CN=root.ca.test.android.net,O=Android,C=US', which is no trust anchor" in refused.text
    assert replay.wire()[-1] == "--> INFORMATIONAL request 2 [ N(AUTHENTICATION_FAILED), D ]"


EAP_MSCHAP_V2 = 26


def test_eap_mschapv2_passes_through() -> None:
    """RFC 7296 §2.16: certificate in fragments, four EAP rounds handed over untouched, then AUTH from the MSK.

    The peer's challenge of the recorded run is not published, so nobody can compute its MSK: with another the
    responder's last AUTH is refused, and that is where this session stops.
    """
    session = named("IkeSessionMschapV2Test")
    replay = Replay(
        session,
        "aes128gcm16 aes128-sha256",
        authentication=AuthenticationKind.EAP,
        psk=None,
        verifier=trusting(responder_certificate(session)),
        gateway_names=(SERVER,),
    ).init()
    replay.hear("IKE_AUTH_RESP_1_FRAG_1", "IKE_AUTH_RESP_1_FRAG_2")
    passed = [replay.take(EapRequestReceived).packet]
    for name in ("IKE_AUTH_RESP_2", "IKE_AUTH_RESP_3", "IKE_AUTH_RESP_4"):
        kind = passed[-1][4]
        replay.answer(EapReply(packet=bytes([2, passed[-1][1], 0, 6, kind, 0])))
        replay.hear(name)
        passed.append(replay.take(EapRequestReceived).packet)
    published = [row["payloads"][0][1] for row in session.row["messages"][2:5]]
    assert [packet.hex() for packet in passed[1:]] == published
    assert [packet[4] for packet in passed[1:3]] == [EAP_MSCHAP_V2, EAP_MSCHAP_V2]
    assert passed[3] == octets("03550004")
    replay.answer(EapReply(msk=Secret(bytes(64)))).hear("IKE_AUTH_RESP_5")
    assert "does not verify with the MSK" in replay.take(Refused).text
    assert not replay.has(Established)
