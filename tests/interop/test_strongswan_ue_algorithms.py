"""Debian's strongSwan as a UE: every algorithm that both ends have, in IKE and in ESP, one after the other.

One charon with a connection for each pair of suites and one gateway that takes them all. charon judges AUTH,
each message's integrity and each ESP packet; ``--list-sas`` says what it thinks was agreed. kernel-libipsec has
no ESN and no transport mode; charon 5.9 has no ML-KEM: those are left to other tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import pytest

from protocols.ikev2.suites import ENCRYPTION_NAMES, GROUP_NAMES, EspSuite, IkeSuite
from tests.peers.strongswan import Charon
from tests.peers.strongswan_scene import Child, Connection, Scene, children, ike, scene

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(60)]

CHOSEN = (
    # the suites of phones and of good sense
    ("aes128-sha256-modp2048", "aes128-sha256"),
    ("aes256-sha512-modp3072", "aes256-sha512"),
    ("aes192-sha384-modp4096", "aes192-sha384"),
    ("aes256gcm16-prfsha384-ecp384", "aes256gcm16"),
    ("aes128gcm16-prfsha256-x25519", "aes128gcm16"),
    ("chacha20poly1305-prfsha512-ecp521", "chacha20poly1305"),
    ("aes128ctr-sha256-x448", "aes256ctr-sha256"),
    ("aes128ccm16-prfsha256-ecp256", "aes128ccm16"),
    ("aes256-aesxcbc-ecp512bp", "aes256-aesxcbc"),
    ("aes128-aescmac-ecp384bp", "aes192-aescmac"),
    ("aes128-sha1-modp1536", "aes128-sha1"),
    ("aes128-sha1-prfsha256-modp1024", "3des-sha256"),  # integrity and PRF need not match
)
OTHER_NAMES = ("curve25519", "curve448")
ABSENT = ("mlkem512", "mlkem768", "mlkem1024")  # strongSwan 6 has them


def every_pair() -> list[tuple[str, str]]:
    """Each cipher with some integrity, each PRF, each group: all occur in IKE, and all ciphers in ESP."""
    integrities = cycle(("sha1", "sha256", "sha384", "sha512", "aesxcbc", "aescmac"))
    prfs = cycle(("prfsha1", "prfsha256", "prfsha384", "prfsha512", "prfaesxcbc", "prfaescmac"))
    groups = [name for name in GROUP_NAMES if name not in (*ABSENT, *OTHER_NAMES)]
    ciphers = list(ENCRYPTION_NAMES)
    pairs: list[tuple[str, str]] = []
    for number in range(max(len(groups), len(ciphers))):
        cipher, group = ciphers[number % len(ciphers)], groups[number % len(groups)]
        aead = any(mark in cipher for mark in ("gcm", "ccm", "poly"))
        esp = cipher if aead else f"{cipher}-{next(integrities)}"
        prf = next(prfs)
        ike_cipher = "aes128" if cipher == "null" else cipher
        ike_suite = ike_cipher if aead else f"{ike_cipher}-{next(integrities)}"
        pairs.append((f"{ike_suite}-{prf}-{group}", esp))
    return pairs


PAIRS = (*CHOSEN, *every_pair())


@dataclass(frozen=True, kw_only=True)
class Exhibition:
    """The scene and one charon with a connection for every pair."""

    place: Scene
    ue: Charon


def connection(number: int, pair: tuple[str, str]) -> Connection:
    proposals, esp_proposals = pair
    child = Child(name=f"net-{number}", esp_proposals=esp_proposals)
    return Connection(name=f"ue-{number}", proposals=proposals, children=(child,))


@pytest.fixture(scope="module")
def exhibition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exhibition]:
    suites = {
        "suites": [pair[0] for pair in PAIRS],
        "esp_suites": [pair[1] for pair in PAIRS],
    }
    connections = [connection(number, pair) for number, pair in enumerate(PAIRS)]
    with (
        scene(tmp_path_factory.mktemp("gateway"), ike=suites) as place,
        place.charon(*connections) as ue,
    ):
        yield Exhibition(place=place, ue=ue)


def child_counters(place: Scene) -> dict[str, object]:
    (child,) = children(place.session())
    counters = child["counters"]
    assert isinstance(counters, dict)
    return dict(counters)


def named_by_charon(group: str) -> str:
    """How ``--list-sas`` writes a group."""
    for prefix, name in (("x", "CURVE_"), ("modp", "MODP_"), ("ecp", "ECP_")):
        if group.startswith(prefix):
            number = group.removeprefix(prefix)
            return f"{name}{number.removesuffix('bp')}{'_BP' if number.endswith('bp') else ''}"
    raise AssertionError(group)


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=["+".join(pair) for pair in PAIRS])
def test_every_algorithm(exhibition: Exhibition, number: int) -> None:
    """Attach with that pair of suites, ping, look from both ends, detach."""
    place, ue = exhibition.place, exhibition.ue
    proposals, esp_proposals = PAIRS[number]
    try:
        (inner,) = ue.initiate(f"net-{number}").inner_addresses
        status, session = place.wait_agreement(ue)
        assert place.passes(inner)
        assert ike(session)["suite"] == IkeSuite.of(proposals).name
        (child,) = children(session)
        assert child["suite"] == EspSuite.of(esp_proposals).name
        assert status.everything.value("dh-group") == named_by_charon(proposals.rpartition("-")[2])
        counters = child_counters(place)
        assert counters["inbound_packets"] == counters["outbound_packets"] == 3
        assert counters["bad_icv"] == counters["malformed"] == 0
    finally:
        ue.swanctl("--terminate", "--ike", f"ue-{number}", check=False)
        place.wait_empty()
