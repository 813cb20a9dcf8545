"""Every algorithm that can be negotiated, between our two ends: an IKE SA, its child SA, packets both ways.

Encryption goes with each integrity algorithm once in IKE and in ESP; PRFs and key exchange methods vary along,
so that each of them is met. A rekey of the child SA with a key exchange of its own covers the groups again.
"""

from __future__ import annotations

from itertools import cycle

import pytest

from protocols.entropy import SeededEntropy
from protocols.esp.sa import ChildSa, ChildSaSpec
from protocols.ikev2.config import Lifetime
from protocols.ikev2.encryption import ENCRYPTION_NAMES
from protocols.ikev2.events import ChildSaInstalled, Established, SaState
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.suites import ENCRYPTION, GROUP_NAMES, INTEGRITY_NAMES, PRF_NAMES, EspSuite, IkeSuite
from tests.harness.pair import INNER, Pair, initiator_config, responder_config

AEAD = [name for name, (identifier, _) in ENCRYPTION_NAMES.items() if ENCRYPTION[identifier].icv_length]
OTHERS = [name for name in ENCRYPTION_NAMES if name not in AEAD]
PROTECTIONS = AEAD + [f"{encryption}-{integrity}" for encryption in OTHERS for integrity in INTEGRITY_NAMES]
GROUPS = [name for name in GROUP_NAMES if not name.startswith("curve")]
# The large groups take their time; they have a case each, below.
QUICK_GROUPS = [name for name in GROUPS if not name.startswith("modp") or len(name) == 7]
IKE_SUITES = [
    f"{protection}-{prf}-{group}"
    for protection, prf, group in zip(PROTECTIONS, cycle(PRF_NAMES), cycle(QUICK_GROUPS), strict=False)
    if not protection.startswith("null")
]
ESP_SUITES = [f"{protection}{esn}" for protection in PROTECTIONS for esn in ("", "-esn")]


def attached(ike: str, esp: str, **changes: object) -> tuple[Pair, ChildSaSpec, ChildSaSpec]:
    """A UE and a gateway that know these suites alone, established; the child SA as each has it."""
    policies = {"ike_policy": IkePolicy((IkeSuite.of(ike),)), "esp_policy": EspPolicy((EspSuite.of(esp),))}
    pair = Pair(initiator_config(**policies, **changes), responder_config(**policies))
    pair.attach()
    assert pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED
    assert pair.ue.has(Established)
    return pair, pair.ue.take(ChildSaInstalled).spec, pair.epdg.take(ChildSaInstalled).spec


def packet(source: str, destination: str) -> bytes:
    """An IPv4 packet of UDP without contents."""
    octets = [bytes(int(part) for part in address.split(".")) for address in (source, destination)]
    return bytes.fromhex("4500001c000000004011") + bytes(2) + b"".join(octets) + bytes.fromhex("0007000700080000")


def carries_both_ways(ue: ChildSaSpec, epdg: ChildSaSpec) -> None:
    """The two ends' child SAs understand each other, and nothing that was changed on the way."""
    there, back = packet(INNER, "192.0.2.80"), packet("192.0.2.80", INNER)
    one, other = ChildSa(ue, SeededEntropy("ue")), ChildSa(epdg, SeededEntropy("epdg"))
    for _ in range(3):
        assert other.open(one.seal(there, 4)) == there
        assert one.open(other.seal(back, 4)) == back
    octets = one.seal(there, 4)
    assert other.open(octets[:-1] + bytes((octets[-1] ^ 1,))) == "bad_icv"
    assert other.open(octets) == there


def test_the_cases_cover_every_algorithm() -> None:
    tokens = {token for name in IKE_SUITES for token in name.split("-")}
    assert tokens >= {*QUICK_GROUPS, *PRF_NAMES, *INTEGRITY_NAMES, *(set(ENCRYPTION_NAMES) - {"null"})}


@pytest.mark.parametrize("name", IKE_SUITES)
def test_ike_suite(name: str) -> None:
    """IKE_SA_INIT chooses it, IKE_AUTH and everything after go under its keys."""
    pair, ue, epdg = attached(name, "aes128gcm16")
    assert pair.ue.live.suite == pair.epdg.live.suite == IkeSuite.of(name)
    carries_both_ways(ue, epdg)


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in QUICK_GROUPS])
def test_large_group(group: str) -> None:
    """MODP groups whose values make IKE_SA_INIT long."""
    _, ue, epdg = attached(f"aes128-sha256-{group}", "aes128gcm16")
    carries_both_ways(ue, epdg)


@pytest.mark.parametrize("name", ESP_SUITES)
def test_esp_suite(name: str) -> None:
    """IKE_AUTH chooses it, KEYMAT is cut for it, our data plane carries it: no child SA that we cannot use."""
    _, ue, epdg = attached("aes128-sha256-x25519", name)
    assert ue.suite == epdg.suite == EspSuite.of(name)
    carries_both_ways(ue, epdg)


@pytest.mark.parametrize("group", QUICK_GROUPS)
def test_rekeying_with_a_key_exchange(group: str) -> None:
    """SK {N(REKEY_SA), SA, Ni, KEi, TSi, TSr} --> <-- SK {SA, Nr, KEr, TSi, TSr}."""
    pair, old, _ = attached("aes128-sha256-x25519", f"aes128gcm16-{group}", child_lifetime=Lifetime(soft=60.0))
    assert old.suite == EspSuite.of("aes128gcm16")
    pair.run(60.0)
    ue, epdg = pair.ue.take(ChildSaInstalled), pair.epdg.take(ChildSaInstalled)
    assert ue.replaces == old.inbound_spi
    assert ue.spec.suite == epdg.spec.suite == EspSuite.of(f"aes128gcm16-{group}")
    carries_both_ways(ue.spec, epdg.spec)


def test_a_gateway_that_leaves_pfs_open_grants_it() -> None:
    """The UE rekeys with a key exchange that the gateway's policy does not name (RFC 7296 §1.3.1)."""
    suites = {"ike_policy": IkePolicy.of(["default"])}
    pair = Pair(
        initiator_config(
            **suites, esp_policy=EspPolicy.of(["aes256-sha256-ecp384"]), child_lifetime=Lifetime(soft=60.0)
        ),
        responder_config(**suites, esp_policy=EspPolicy.of(["default"])),
    )
    pair.attach()
    pair.run(60.0)
    pair.ue.take(ChildSaInstalled)
    pair.epdg.take(ChildSaInstalled)
    ue, epdg = pair.ue.take(ChildSaInstalled).spec, pair.epdg.take(ChildSaInstalled).spec
    assert ue.suite == epdg.suite == EspSuite.of("aes256-sha256-ecp384")
    carries_both_ways(ue, epdg)
