"""wpa_supplicant's EAP-AKA peer (``eapol_test``) against the real AAA process, RADIUS bridged to SWm.

``eapol_test`` says success only when both ends derived the same MSK.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from aaa.subscribers import Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.usim import UsimReject, UsimResult
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
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


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    require_program("eapol_test")
    with AaaProcess(tmp_path_factory.mktemp("aaa")) as node:
        node.provision(USER)
        yield node


def run(
    aaa: AaaProcess,
    user: AkaUser,
    *,
    apn: str = "internet",
    settings: Sequence[str] = (),
    reauthentications: int = 0,
    phase1: str = "",
    usim: object = None,
) -> tuple[EapolOutcome, list[Result]]:
    """One run; how it ended, and the results of the DEAs."""
    with RadiusSwmBridge(aaa.port, apn=apn) as bridge:
        outcome = eapol_test(
            Loopback(),  # type: ignore[arg-type]
            usim or user.usim,  # type: ignore[arg-type]
            identity=user.nai,
            server=bridge.server,
            reauthentications=reauthentications,
            phase1=phase1,
            settings=settings,
        )
    return outcome, [answer.result for answer in bridge.answers]


def test_success_and_matching_keys(aaa: AaaProcess) -> None:
    # Identity, AKA-Challenge, Success: three times in full, as the server offers no fast re-authentication
    outcome, results = run(aaa, aka_user(USER), reauthentications=2)
    assert outcome.success, outcome.output
    assert outcome.challenges == 3
    assert results == [MULTI_ROUND, SUCCESS] * 3


def test_resynchronisation(aaa: AaaProcess) -> None:
    user = aka_user(USER, seq_ms=1 << 16)
    outcome, results = run(aaa, user)
    assert outcome.success, outcome.output
    assert outcome.challenges == 2
    assert results == [MULTI_ROUND, MULTI_ROUND, SUCCESS]
    # the home network has followed: the next one needs no AUTS
    outcome, results = run(aaa, user.again())
    assert outcome.success, outcome.output
    assert results == [MULTI_ROUND, SUCCESS]


class RefusingUsim:
    """A USIM that takes no challenge at all (UMTS-FAIL)."""

    def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """A refusal."""
        return UsimReject("the card is out of order")


def test_a_refusing_usim_fails(aaa: AaaProcess) -> None:
    outcome, results = run(aaa, aka_user(USER), usim=RefusingUsim())
    assert not outcome.success
    assert results == [MULTI_ROUND, REJECTED]
    listed = call_sync(aaa.control, "sessions.list", state="refused")
    assert isinstance(listed, dict)
    assert "the USIM rejects AUTN" in str(listed["sessions"])


def test_another_key_in_the_usim_fails(aaa: AaaProcess) -> None:
    outcome, results = run(aaa, aka_user(USER, k=Secret(bytes(16))))
    assert not outcome.success
    assert outcome.challenges == 1
    assert results == [MULTI_ROUND, REJECTED]


def test_unknown_imsi_fails(aaa: AaaProcess) -> None:
    outcome, results = run(aaa, aka_user(laboratory_subscriber(77)))
    assert not outcome.success
    assert outcome.challenges == 0
    assert results == [Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)]


def test_unknown_apn_fails_although_the_user_is_right(aaa: AaaProcess) -> None:
    outcome, results = run(aaa, aka_user(USER), apn="nowhere")
    assert not outcome.success
    assert outcome.challenges == 1
    no_apn = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION)
    assert results == [MULTI_ROUND, no_apn]


def test_pseudonym_falls_back_to_the_permanent_identity(aaa: AaaProcess) -> None:
    pseudonym = 'anonymous_identity="2pseudonym-of-elsewhere@nai.epc.mnc001.mcc001.3gppnetwork.org"'
    # EAP-Response/Identity [ pseudonym ], AKA-Identity [ AT_PERMANENT_ID_REQ ], AKA-Challenge, Success
    outcome, results = run(aaa, aka_user(USER), settings=(pseudonym,))
    assert outcome.success, outcome.output
    assert results == [MULTI_ROUND, MULTI_ROUND, SUCCESS]


def test_identity_rounds_checkcode_and_result_indications(tmp_path: Path) -> None:
    require_program("eapol_test")
    options = "eap: {always_request_identity: true, identity_request: any, result_indications: true}\n"
    with AaaProcess(tmp_path, extra=options) as node:
        node.provision(USER)
        # AKA-Identity, AKA-Challenge under AT_CHECKCODE, AKA-Notification (Success), EAP-Success
        outcome, results = run(node, aka_user(USER), phase1="result_ind=1")
        assert outcome.success, outcome.output
        assert results == [MULTI_ROUND, MULTI_ROUND, MULTI_ROUND, SUCCESS]
