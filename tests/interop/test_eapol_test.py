"""wpa_supplicant's peer of EAP-AKA and EAP-AKA' (``eapol_test``) against the real AAA process, RADIUS bridged to SWm.

``eapol_test`` says success only when both ends derived the same MSK.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from aaa.subscribers import Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
from protocols.eap.observation import eap_body
from protocols.eap.packet import EapPacket, EapType
from protocols.io.control import call_sync
from protocols.secret import Secret
from tests.harness.aka_user import AkaUser, aka_user
from tests.peers.aaa_node import AaaProcess
from tests.peers.eapol import EapolOutcome, eapol_test
from tests.peers.processes import require_program
from tests.peers.radius_swm_bridge import RadiusSwmBridge

pytestmark = pytest.mark.peer

USER: Subscriber = laboratory_subscriber(1)
MULTI_ROUND = Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH)
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
REJECTED = Result.of(ResultCode.DIAMETER_AUTHENTICATION_REJECTED)


class Loopback:
    """Where ``eapol_test`` runs: this host, as its only wire is UDP on loopback."""

    def popen(
        self, words: Sequence[str | Path], *, stdout: object = None, stderr: object = None
    ) -> subprocess.Popen[bytes]:
        """Start a program."""
        return subprocess.Popen(list(map(str, words)), stdout=stdout, stderr=stderr)  # type: ignore[call-overload, no-any-return]


METHODS = ["AKA", "AKA'"]
REALM = "nai.epc.mnc001.mcc001.3gppnetwork.org"
EAP = """eap:
  temporary: {key_file: eap-keys.json}
  rules:
  - {imsi: 001010000000002, reauthentication: false}
  - {imsi: 001010000000003, result_indications: true}
  - {imsi: 001010000000004, methods: [aka-prime, aka], identity_chooses: false}
  - {imsi: 001010000000005, always_request_identity: true, kdfs: [2, 1]}
  - {imsi: 001010000000006, methods: [aka-prime, aka]}
"""
PSEUDONYMOUS, INDICATED, PREFERRED, NEGOTIATED, BID = map(laboratory_subscriber, range(2, 7))


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    require_program("eapol_test")
    with AaaProcess(tmp_path_factory.mktemp("aaa"), extra=EAP) as node:
        node.provision(USER, PSEUDONYMOUS, INDICATED, PREFERRED, NEGOTIATED, BID)
        yield node


@dataclass(frozen=True)
class Run:
    """One run of ``eapol_test``: how it ended, the results of the DEAs, the EAP packets of the peer."""

    outcome: EapolOutcome
    results: list[Result]
    packets: list[bytes]

    @property
    def identities(self) -> list[str]:
        """What EAP-Response/Identity held, one for each authentication."""
        decoded = [EapPacket.decode(packet) for packet in self.packets]
        return [packet.data.decode() for packet in decoded if packet.type == EapType.IDENTITY]

    @property
    def narrative(self) -> list[str]:
        """The peer's packets by name."""
        return [str(eap_body(packet, direction="in", interface="", peer="")["name"]) for packet in self.packets]


def run(
    aaa: AaaProcess,
    user: AkaUser,
    *,
    method: str = "AKA",
    apn: str = "internet",
    settings: Sequence[str] = (),
    reauthentications: int = 0,
    phase1: str = "",
    usim: object = None,
    alter: Callable[[bytes], bytes] = lambda packet: packet,
) -> Run:
    """One run to its end; the identity has the leading digit of ``method``, which may be a list."""
    digit = "6" if method == "AKA'" else "0"
    with RadiusSwmBridge(aaa.port, apn=apn, alter=alter) as bridge:
        outcome = eapol_test(
            Loopback(),  # type: ignore[arg-type]
            usim or user.usim,  # type: ignore[arg-type]
            identity=f"{digit}{user.nai[1:]}",
            server=bridge.server,
            method=method,
            reauthentications=reauthentications,
            phase1=phase1,
            settings=settings,
        )
    return Run(outcome, [answer.result for answer in bridge.answers], list(bridge.received))


@pytest.mark.parametrize("method", METHODS)
def test_full_authentication_and_two_fast_ones(aaa: AaaProcess, method: str) -> None:
    # Identity, AKA-Challenge, Success; then twice Identity, AKA-Reauthentication, Success, without the USIM
    ran = run(aaa, aka_user(USER), method=method, reauthentications=2)
    assert ran.outcome.success, ran.outcome.output
    assert ran.outcome.challenges == 1
    assert ran.results == [MULTI_ROUND, SUCCESS] * 3
    assert ran.narrative[3::2] == [f"EAP-Response/{method}-Reauthentication"] * 2
    assert [identity[0] for identity in ran.identities] == (["0", "4", "4"] if method == "AKA" else ["6", "8", "8"])
    assert len(set(ran.identities)) == 3


@pytest.mark.parametrize("method", METHODS)
def test_pseudonyms(aaa: AaaProcess, method: str) -> None:
    ran = run(aaa, aka_user(PSEUDONYMOUS), method=method, reauthentications=2)
    assert ran.outcome.success, ran.outcome.output
    assert ran.outcome.challenges == 3
    assert ran.results == [MULTI_ROUND, SUCCESS] * 3
    assert [identity[0] for identity in ran.identities] == (["0", "2", "2"] if method == "AKA" else ["6", "7", "7"])
    assert ran.identities[1] != ran.identities[2]
    assert not any(str(PSEUDONYMOUS.imsi) in identity for identity in ran.identities[1:])


@pytest.mark.parametrize("method", METHODS)
def test_result_indications_in_full_and_fast_authentication(aaa: AaaProcess, method: str) -> None:
    # ..., AKA-Notification (Success), which is under AT_COUNTER after AKA-Reauthentication, EAP-Success
    ran = run(aaa, aka_user(INDICATED), method=method, reauthentications=2, phase1="result_ind=1")
    assert ran.outcome.success, ran.outcome.output
    assert ran.outcome.challenges == 1
    assert ran.results == [MULTI_ROUND, MULTI_ROUND, SUCCESS] * 3
    assert ran.narrative[-3:] == [
        "EAP-Response/Identity",
        f"EAP-Response/{method}-Reauthentication",
        f"EAP-Response/{method}-Notification",
    ]


def test_a_denied_user_is_notified_where_that_is_agreed(aaa: AaaProcess) -> None:
    ran = run(aaa, aka_user(INDICATED), apn="nowhere", phase1="result_ind=1")
    assert not ran.outcome.success
    no_apn = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION)
    assert ran.results == [MULTI_ROUND, MULTI_ROUND, no_apn]
    assert ran.narrative[-1] == "EAP-Response/AKA-Notification"
    assert "1031" in ran.outcome.output or "not subscribed" in ran.outcome.output


@pytest.mark.parametrize("method", METHODS)
def test_resynchronisation(aaa: AaaProcess, method: str) -> None:
    user = aka_user(USER, seq_ms=1 << (16 if method == "AKA" else 18))
    ran = run(aaa, user, method=method)
    assert ran.outcome.success, ran.outcome.output
    assert ran.outcome.challenges == 2
    assert ran.results == [MULTI_ROUND, MULTI_ROUND, SUCCESS]
    # the home network has followed: the next one needs no AUTS
    ran = run(aaa, user.again(), method=method)
    assert ran.outcome.success, ran.outcome.output
    assert ran.results == [MULTI_ROUND, SUCCESS]


class RefusingUsim:
    """A USIM that takes no challenge at all (UMTS-FAIL)."""

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """A refusal."""
        return UsimReject("the card is out of order")


@pytest.mark.parametrize("method", METHODS)
def test_a_refusing_usim_fails(aaa: AaaProcess, method: str) -> None:
    ran = run(aaa, aka_user(USER), method=method, usim=RefusingUsim())
    assert not ran.outcome.success
    assert ran.results == [MULTI_ROUND, REJECTED]
    listed = call_sync(aaa.control, "sessions.list", state="refused")
    assert isinstance(listed, dict)
    assert "the USIM rejects AUTN" in str(listed["sessions"])


def test_another_key_in_the_usim_fails(aaa: AaaProcess) -> None:
    ran = run(aaa, aka_user(USER, k=Secret(bytes(16))))
    assert not ran.outcome.success
    assert ran.outcome.challenges == 1
    assert ran.results == [MULTI_ROUND, REJECTED]


class OtherKeys:
    """A USIM that accepts AUTN and gives other keys, so that no AT_MAC of the server verifies."""

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """An answer to another challenge."""
        return UsimSuccess(res=bytes(8), ck=bytes(16), ik=bytes(16))


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_mac_at_either_end_fails(aaa: AaaProcess, method: str) -> None:
    # AKA-Challenge whose AT_MAC the peer does not verify; AKA-Client-Error
    ran = run(aaa, aka_user(USER), method=method, usim=OtherKeys())
    assert not ran.outcome.success
    assert ran.narrative[1:] == [f"EAP-Response/{method}-Client-Error"]
    assert ran.results == [MULTI_ROUND, REJECTED]

    def spoil(packet: bytes) -> bytes:
        return packet[:-1] + bytes([packet[-1] ^ 1]) if packet[4:6] in (b"\x17\x01", b"\x32\x01") else packet

    # AKA-Challenge whose AT_MAC the server does not verify; AKA-Notification (General failure); EAP-Failure
    ran = run(aaa, aka_user(USER), method=method, alter=spoil)
    assert not ran.outcome.success
    assert ran.narrative[1:] == [f"EAP-Response/{method}-Challenge", f"EAP-Response/{method}-Notification"]
    assert ran.results == [MULTI_ROUND, MULTI_ROUND, REJECTED]


def test_unknown_imsi_fails(aaa: AaaProcess) -> None:
    ran = run(aaa, aka_user(laboratory_subscriber(77)))
    assert not ran.outcome.success
    assert ran.outcome.challenges == 0
    assert ran.results == [Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)]


def test_unknown_apn_fails_although_the_user_is_right(aaa: AaaProcess) -> None:
    ran = run(aaa, aka_user(USER), apn="nowhere")
    assert not ran.outcome.success
    assert ran.outcome.challenges == 1
    no_apn = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION)
    # AKA-Challenge, AKA-Notification (not subscribed), EAP-Failure
    assert ran.results == [MULTI_ROUND, MULTI_ROUND, no_apn]


def test_a_pseudonym_of_elsewhere_falls_back_to_the_permanent_identity(aaa: AaaProcess) -> None:
    pseudonym = f'anonymous_identity="2pseudonym-of-elsewhere@{REALM}"'
    # EAP-Response/Identity [ pseudonym ], AKA-Identity [ AT_PERMANENT_ID_REQ ], AKA-Challenge, Success
    ran = run(aaa, aka_user(USER), settings=(pseudonym,))
    assert ran.outcome.success, ran.outcome.output
    assert ran.results == [MULTI_ROUND, MULTI_ROUND, SUCCESS]


def test_a_peer_without_the_preferred_method_is_led_to_the_other(aaa: AaaProcess) -> None:
    # EAP-Request/AKA'-Identity; Nak [ 23 ]; AKA-Challenge, Success; AT_BIDDING says that EAP-AKA' was preferred
    ran = run(aaa, aka_user(PREFERRED))
    assert ran.outcome.success, ran.outcome.output
    assert ran.narrative[1] == "EAP-Response/Nak"
    assert ran.narrative[-1] == "EAP-Response/AKA-Challenge"
    # and one that has both is asked for its identity of EAP-AKA'
    ran = run(aaa, aka_user(PREFERRED), method="AKA AKA'")
    assert ran.narrative[1] == "EAP-Response/AKA'-Identity"


def test_bidding_down_is_found_by_a_peer_of_both_methods(aaa: AaaProcess) -> None:
    # "0": EAP-AKA, though this server would rather have EAP-AKA', and so would the peer (RFC 9048 §4)
    ran = run(aaa, aka_user(BID), method="AKA AKA'")
    assert not ran.outcome.success
    assert ran.narrative[-1] == "EAP-Response/AKA-Authentication-Reject"
    assert run(aaa, aka_user(BID), method="AKA").outcome.success


def test_identity_round_checkcode_and_key_derivation_negotiation(aaa: AaaProcess) -> None:
    # AKA'-Identity; AKA'-Challenge [ AT_KDF 2, AT_KDF 1 ]; [ AT_KDF 1 ]; AKA'-Challenge [ 1, 2, 1 ] under AT_CHECKCODE
    ran = run(aaa, aka_user(NEGOTIATED), method="AKA'", reauthentications=1)
    assert ran.outcome.success, ran.outcome.output
    assert ran.results == [*[MULTI_ROUND] * 3, SUCCESS, MULTI_ROUND, MULTI_ROUND, SUCCESS]
    assert ran.outcome.challenges == 1


def test_a_server_without_temporary_identities(tmp_path: Path) -> None:
    require_program("eapol_test")
    options = "eap: {always_request_identity: true, identity_request: any, result_indications: true}\n"
    with AaaProcess(tmp_path, extra=options) as node:
        node.provision(USER)
        # AKA-Identity, AKA-Challenge under AT_CHECKCODE, AKA-Notification (Success), EAP-Success: three times in full
        ran = run(node, aka_user(USER), phase1="result_ind=1", reauthentications=2)
        assert ran.outcome.success, ran.outcome.output
        assert ran.outcome.challenges == 3
        assert ran.results == [MULTI_ROUND, MULTI_ROUND, MULTI_ROUND, SUCCESS] * 3
