"""Packets per second of the userspace data plane by suite, and how much of the time is the cipher's own.

    python benchmarks/esp.py [--octets 64 1400] [--rounds 5] [--output benchmarks/results/esp.json]

``send`` is ``send_inner`` (flow, SA lookup, sealing), ``receive`` is ``receive_esp`` (SA, replay window, ICV,
decryption, selectors), one core, no sockets. ``floor`` is the cipher and the ICV alone over as many octets,
contexts kept. The best of several rounds counts, rounds of all suites taking turns: compare the ratios of one
run, the machine's speed drifts between runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path as FilePath

import cryptography
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.suites import INTEGRITY, EspSuite
from protocols.ip import IpPacket
from protocols.path import Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector

SUITES = ("aes128-sha1", "aes128-sha256", "aes256-sha256", "aes256-sha512", "aes128gcm16", "aes256gcm16")
REFERENCE = "aes128gcm16"
OTHER_SAS = 1000  # installed beside the one that is measured
BATCH = 500
ROUNDS = 5
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
REMOTE = ip_address("192.0.2.80")
PATH = Path(Endpoint.of("192.0.2.1", 4500), Endpoint.of("198.51.100.7", 4500))


class SystemEntropy:
    """The operating system's random octets."""

    def octets(self, length: int) -> bytes:
        return os.urandom(length)


def spec_of(suite: EspSuite, number: int, *, gateway: bool) -> ChildSaSpec:
    """A child SA of UE ``number``, the same keys in both directions so that one end opens what it seals."""
    spi = (0x10000 + number).to_bytes(4, "big")
    encryption_key = Secret(bytes(range(suite.encryption_key_length)))
    integrity_key = Secret(bytes(range(suite.integrity_key_length)))
    ue = TrafficSelector.host(ip_address("10.45.0.0") + number)
    anything = TrafficSelector.network("0.0.0.0/0")
    return ChildSaSpec(
        inbound_spi=spi,
        outbound_spi=spi,
        suite=suite,
        inbound_encryption_key=encryption_key,
        inbound_integrity_key=integrity_key,
        outbound_encryption_key=encryption_key,
        outbound_integrity_key=integrity_key,
        local_selectors=(anything,) if gateway else (ue,),
        remote_selectors=(ue,) if gateway else (anything,),
        path=PATH,
    )


def best_rate(rounds: list[float]) -> float:
    return BATCH / min(rounds)


def timed(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


class Case:
    """One suite and packet length: three measurements that can be repeated."""

    def __init__(self, name: str, octets: int) -> None:
        self.suite = EspSuite.of(name)
        self.times: dict[str, list[float]] = {"send": [], "receive": [], "floor": []}
        self._transmitted: list[bytes] = []
        self._delivered = 0
        ue_address = ip_address("10.45.0.1")
        self._down = IpPacket(source=REMOTE, destination=ue_address, protocol=253, payload=bytes(octets - 20)).encode()
        entropy = SystemEntropy()
        self._gateway = UserspaceDataPlane(entropy=entropy, deliver=self._count, transmit=self._keep)
        self._ue = UserspaceDataPlane(entropy=entropy, deliver=self._count, transmit=self._keep)
        for number in range(1, OTHER_SAS + 2):
            self._gateway.install(spec_of(self.suite, number, gateway=True))
        self._ue.install(spec_of(self.suite, 1, gateway=False))
        self._floor = floor_of(self.suite, octets)

    def _count(self, packet: bytes, inbound_spi: bytes) -> None:
        self._delivered += 1

    def _keep(self, octets: bytes, path: Path, encapsulation: bool, traffic_class: int) -> None:
        self._transmitted.append(octets)

    def measure(self) -> None:
        """One batch of each; what was sent is what is received."""
        self._transmitted.clear()
        self._delivered = 0
        self.times["send"].append(timed(self._send))
        self.times["receive"].append(timed(self._receive))
        if self._delivered != BATCH:
            raise SystemExit(f"{self.suite.name}: {self._delivered} of {BATCH} packets came through")
        self.times["floor"].append(timed(self._floor))

    def _send(self) -> None:
        send, packet = self._gateway.send_inner, self._down
        for _ in range(BATCH):
            send(packet)

    def _receive(self) -> None:
        receive, path = self._ue.receive_esp, PATH.reversed()
        for octets in self._transmitted:
            receive(octets, path)


def floor_of(suite: EspSuite, octets: int) -> Callable[[], None]:
    """A batch of bare encryptions (and ICVs) of about a packet's length."""
    if suite.integrity is None:
        aead = AESGCM(bytes((suite.encryption_key_bits or 0) // 8))
        plaintext, nonce, associated = bytes(octets + 2), bytes(12), bytes(8)

        def combined() -> None:
            for _ in range(BATCH):
                aead.encrypt(nonce, plaintext, associated)

        return combined
    row = INTEGRITY[suite.integrity]
    key = bytes((suite.encryption_key_bits or 0) // 8)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    keyed = hmac.HMAC(bytes(row.key_length), HASHES[row.name])
    blocks = bytes((octets + 2 + 15) // 16 * 16 + 16)

    def separate() -> None:
        for _ in range(BATCH):
            ciphertext = encryptor.update(blocks)
            mac = keyed.copy()
            mac.update(ciphertext)
            mac.finalize()

    return separate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octets", type=int, nargs="+", default=[64, 1400], help="inner packet lengths")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=FilePath, help="write the results there as JSON")
    arguments = parser.parse_args()
    cases = {(octets, name): Case(name, octets) for octets in arguments.octets for name in SUITES}
    for _ in range(arguments.rounds):
        for case in cases.values():
            case.measure()
    results = []
    print(f"{'suite':15} {'octets':>6} {'send/s':>9} {'receive/s':>9} {'floor/s':>9} {'send':>6} {'recv':>6}  of floor")
    for (octets, name), case in cases.items():
        rates = {what: best_rate(times) for what, times in case.times.items()}
        reference = cases[octets, REFERENCE].times
        row = {
            "suite": name,
            "inner_octets": octets,
            **{f"{what}_per_second": round(rate) for what, rate in rates.items()},
            "send_of_floor": round(rates["send"] / rates["floor"], 3),
            "receive_of_floor": round(rates["receive"] / rates["floor"], 3),
            f"send_of_{REFERENCE}": round(rates["send"] / best_rate(reference["send"]), 3),
            f"receive_of_{REFERENCE}": round(rates["receive"] / best_rate(reference["receive"]), 3),
        }
        results.append(row)
        print(
            f"{name:15} {octets:6} {rates['send']:9.0f} {rates['receive']:9.0f} {rates['floor']:9.0f}"
            f" {row['send_of_floor']:6.2f} {row['receive_of_floor']:6.2f}"
        )
    if arguments.output:
        about = {
            "python": platform.python_version(),
            "cryptography": cryptography.__version__,
            "machine": platform.machine(),
            "compiled": not sys.modules["protocols.esp.packet"].__file__.endswith(".py"),  # type: ignore[union-attr]
            "installed_sas": OTHER_SAS + 1,
            "rounds": arguments.rounds,
            "packets_per_round": BATCH,
        }
        arguments.output.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
