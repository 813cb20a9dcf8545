"""Child SA specifications that mirror one another, for tests that need two ends of a tunnel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from protocols.entropy import SeededEntropy
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.suites import EspSuite
from protocols.path import Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector

UE_ADDRESS = ip_address("10.45.0.2")
HOST_ADDRESS = ip_address("192.0.2.80")
UE_OUTER = Endpoint.of("198.51.100.7", 4500)
UE_ELSEWHERE = Endpoint.of("203.0.113.9", 61234)
GATEWAY_OUTER = Endpoint.of("192.0.2.1", 4500)
UE_PATH = Path(UE_OUTER, GATEWAY_OUTER)
GATEWAY_PATH = UE_PATH.reversed()

SUITES = (
    "aes128-sha256",
    "aes192-sha256",
    "aes256-sha256",
    "aes128-sha1",
    "aes256-sha384",
    "aes256-sha512",
    "aes128gcm16",
    "aes192gcm16",
    "aes256gcm16",
    "aes128-sha256-esn",
    "aes128gcm16-esn",
    "aes128-aesxcbc",
    "aes256-aescmac-esn",
    "aes128ctr-sha256",
    "aes256ctr-aesxcbc-esn",
    "3des-sha1",
    "3des-sha256-esn",
    "null-sha256",
    "null-aescmac-esn",
    "aes128gcm8",
    "aes256gcm12-esn",
    "aes128ccm8",
    "aes192ccm12-esn",
    "aes256ccm16",
    "chacha20poly1305",
    "chacha20poly1305-esn",
)


def ue_spec(
    suite: str = "aes128-sha256",
    *,
    number: int = 1,
    ue_address: str = str(UE_ADDRESS),
    remote: str = "0.0.0.0/0",
    replay_window: int = 128,
) -> ChildSaSpec:
    """The UE's end; another ``number`` gives other SPIs and keys."""
    algorithms = EspSuite.of(suite)
    entropy = SeededEntropy(f"{suite} {number}")
    return ChildSaSpec(
        inbound_spi=(0xC0000000 + number).to_bytes(4, "big"),
        outbound_spi=(0xD0000000 + number).to_bytes(4, "big"),
        suite=algorithms,
        inbound_encryption_key=Secret(entropy.octets(algorithms.encryption_key_length)),
        inbound_integrity_key=Secret(entropy.octets(algorithms.integrity_key_length)),
        outbound_encryption_key=Secret(entropy.octets(algorithms.encryption_key_length)),
        outbound_integrity_key=Secret(entropy.octets(algorithms.integrity_key_length)),
        local_selectors=(TrafficSelector.host(ue_address),),
        remote_selectors=(TrafficSelector.network(remote),),
        path=UE_PATH,
        replay_window=replay_window,
    )


def mirrored(spec: ChildSaSpec) -> ChildSaSpec:
    """The same child SA as the other end has it."""
    return replace(
        spec,
        inbound_spi=spec.outbound_spi,
        outbound_spi=spec.inbound_spi,
        inbound_encryption_key=spec.outbound_encryption_key,
        inbound_integrity_key=spec.outbound_integrity_key,
        outbound_encryption_key=spec.inbound_encryption_key,
        outbound_integrity_key=spec.inbound_integrity_key,
        local_selectors=spec.remote_selectors,
        remote_selectors=spec.local_selectors,
        path=spec.path.reversed(),
    )
