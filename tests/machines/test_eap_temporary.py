"""Temporary identities of an EAP server (RFC 4187 §4.1.1.7, RFC 9048 §5.2, TS 33.234 §6.4) and their storage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.eap.aka.temporary import (
    KEY_INDICES,
    KeyRing,
    ReauthenticationContext,
    TemporaryKey,
    imsi_of_username,
    issue_username,
)
from protocols.eap.packet import EapType
from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError
from protocols.secret import Secret
from protocols.threegpp.identity import IdentityKind, Imsi, Nai

KINDS = [
    IdentityKind.PSEUDONYM_AKA,
    IdentityKind.PSEUDONYM_AKA_PRIME,
    IdentityKind.REAUTHENTICATION_AKA,
    IdentityKind.REAUTHENTICATION_AKA_PRIME,
]


@pytest.fixture
def ring() -> KeyRing:
    """A ring of one key."""
    return KeyRing.of(SeededEntropy("ring"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("digits", ["001010", "901700000012345", "0010100000000"])
def test_usernames_hold_the_imsi_and_are_recognised(ring: KeyRing, kind: IdentityKind, digits: str) -> None:
    entropy = SeededEntropy(1)
    seen = set()
    for _ in range(50):
        username = issue_username(ring, kind, Imsi(digits), entropy).decode()
        assert digits not in username
        assert Nai.parse(f"{username}@example.org").kind is kind
        assert imsi_of_username(ring, username) == Imsi(digits)
        seen.add(username)
    # RFC 9048 §5.2: nothing but digit and key index stays the same
    assert len(seen) == len({each[2:8] for each in seen}) == 50
    assert {each[:2] for each in seen} == {kind.value + "A"}


def test_every_altered_username_is_unknown(ring: KeyRing) -> None:
    username = issue_username(ring, IdentityKind.PSEUDONYM_AKA, Imsi("001010000000001"), SeededEntropy(1)).decode()
    for at, character in enumerate(username):
        other = "A" if character != "A" else "B"
        assert imsi_of_username(ring, username[:at] + other + username[at + 1 :]) is None
        assert imsi_of_username(ring, username[:at]) is None
    for text in ("", "2", "2A", "2A=", "2é" + username[2:], username + "A", username + "=", "2A" + "A" * 200):
        assert imsi_of_username(ring, text) is None


def test_keys_roll_over_by_index(ring: KeyRing) -> None:
    entropy = SeededEntropy(2)
    imsi = Imsi("001010000000001")
    usernames = []
    for _ in range(KEY_INDICES + 3):
        usernames.append(issue_username(ring, IdentityKind.PSEUDONYM_AKA, imsi, entropy).decode())
        ring = ring.rolled(entropy, keep=2)
        assert len(ring.keys) <= 3
        known = [imsi_of_username(ring, each) is not None for each in usernames]
        assert known == [False] * (len(usernames) - min(2, len(usernames))) + [True] * min(2, len(usernames))


def test_rings_that_are_none() -> None:
    key = Secret(bytes(32))
    for keys in ((), (TemporaryKey(1, key), TemporaryKey(1, key))):
        with pytest.raises(ValueError, match="key ring"):
            KeyRing(keys)
    with pytest.raises(ValueError, match="index 64"):
        TemporaryKey(64, key)
    with pytest.raises(ValueError, match="31 octets"):
        TemporaryKey(1, Secret(bytes(31)))


CONTEXT = ReauthenticationContext(
    username="8Aabc",
    method=EapType.AKA_PRIME,
    imsi=Imsi("001010000000001"),
    permanent_identity="0001010000000001@example.org",
    pseudonym=None,
    k_encr=Secret(bytes(16)),
    k_aut=Secret(bytes(32)),
    k_re=Secret(bytes([7] * 32)),
    counter=3,
    network_name=b"WLAN",
)


def test_contexts_survive_storage_and_a_new_key(ring: KeyRing) -> None:
    for context in (CONTEXT, replace(CONTEXT, method=EapType.AKA, pseudonym="2Ax", network_name=b"")):
        sealed = context.seal(ring)
        assert b"001010000000001" not in sealed
        assert ReauthenticationContext.open(ring, "8Aabc", sealed) == context
        rolled = ring.rolled(SeededEntropy(3), keep=1)
        assert ReauthenticationContext.open(rolled, "8Aabc", sealed) == context
    assert "07" * 32 not in repr(CONTEXT)


def test_contexts_that_do_not_open(ring: KeyRing) -> None:
    sealed = CONTEXT.seal(ring)
    cases = [(b"", "8Aabc"), (sealed[:-1], "8Aabc"), (sealed, "8Aabd"), (b"\x05" + sealed[1:], "8Aabc")]
    cases += [(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], "8Aabc") for at in range(1, len(sealed), 9)]
    for octets, username in cases:
        with pytest.raises(DecodeError, match="re-authentication context"):
            ReauthenticationContext.open(ring, username, octets)


def test_the_next_context_counts_on() -> None:
    assert CONTEXT.following("8Anext") == replace(CONTEXT, username="8Anext", counter=4)
