"""The fast data plane and the userspace one side by side: one is asked what the other is, and answers are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from protocols.dataplane.fast.plane import FastDataPlane, new_core, without_room
from protocols.dataplane.port import DataPlaneEvent
from protocols.dataplane.userspace.engine import PATH_MTU_INTERVAL, UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.esp.packet import SEQUENCE_MASK, opener_of, sealer_of
from protocols.esp.sa import ChildSaSpec
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.ikev2.encryption import ENCRYPTION, aead_of
from protocols.ikev2.integrity import INTEGRITY
from protocols.ikev2.registry import EncryptionId
from protocols.path import Path

_CHAINED = frozenset({EncryptionId.ENCR_AES_CBC, EncryptionId.ENCR_3DES})  # random IVs

Transmitted = tuple[bytes, Path, bool, int]  # as ``Transmit`` has it


class Both:
    """Every call goes to both; whatever can be seen afterwards is the same, or the call fails its test."""

    def __init__(
        self,
        seed: str | int = "both",
        *,
        policy: TunnelPolicy = DEFAULT_POLICY,
        contexts: int | None = None,
        libcrypto_alone: bool = False,
    ) -> None:
        self.path_mtu: int | None = None  # of every path
        self.now = 1000.0
        self.delivered: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]] = ([], [])
        self.transmitted: tuple[list[Transmitted], list[Transmitted]] = ([], [])
        self.oracle = UserspaceDataPlane(
            entropy=SeededEntropy(seed),
            deliver=lambda *delivered: self.delivered[0].append(delivered),
            transmit=lambda *sent: self.transmitted[0].append(sent),
            policy=policy,
            path_mtu=lambda path: self.path_mtu,
            now=lambda: self.now,
        )
        self.fast = FastDataPlane(
            deliver=lambda *delivered: self.delivered[1].append(delivered),
            transmit=lambda *sent: self.transmitted[1].append(sent),
            policy=policy,
            path_mtu=lambda path: self.path_mtu,
            now=lambda: self.now,
            core=new_core(contexts, libcrypto_alone=libcrypto_alone),
        )
        self.specs: dict[bytes, ChildSaSpec] = {}
        self._by_outbound: dict[bytes, ChildSaSpec] = {}

    def install(self, spec: ChildSaSpec) -> bool:
        return self._keep(spec, self._ask(lambda plane: plane.install(spec)))

    def replace(self, old: bytes, spec: ChildSaSpec, *, send_at_once: bool = True) -> bool:
        return self._keep(spec, self._ask(lambda plane: plane.replace(old, spec, send_at_once=send_at_once)))

    def update_path(self, spi: bytes, path: Path, encapsulation: bool) -> None:
        self._ask(lambda plane: plane.update_path(spi, path, encapsulation))

    def retire(self, spi: bytes) -> None:
        self._ask(lambda plane: plane.retire(spi))

    def remove(self, spi: bytes) -> None:
        self._ask(lambda plane: plane.remove(spi))
        self.specs.pop(spi, None)

    def change_path_mtu(self, path_mtu: int | None) -> None:
        """Of every path, and both hear of it."""
        self.path_mtu = path_mtu
        self.now += PATH_MTU_INTERVAL
        self.fast.ask_path_mtus()

    def skip_sequence(self, spi: bytes, sent: int) -> None:
        """Go on from a later sequence number."""
        self.oracle.child_sa(spi).sequence = sent
        assert self.fast.core.skip_sequence(int.from_bytes(spi, "big"), sent) == 0

    def receive(self, octets: bytes, path: Path, traffic_class: int = 0) -> list[tuple[bytes, bytes]]:
        """What both delivered of an ESP packet."""
        for delivered in self.delivered:
            delivered.clear()
        self.oracle.receive_esp(octets, path, traffic_class)
        self.fast.receive_esp(octets, path, traffic_class)
        assert self.delivered[0] == self.delivered[1]
        self.compare(octets[:4])
        return list(self.delivered[0])

    def send(self, packet: bytes) -> list[Transmitted]:
        """What the fast one transmitted of an inner packet, having found it right."""
        for each in (*self.transmitted, *self.delivered):
            each.clear()
        assert self.oracle.send_inner(packet) == self.fast.send_inner(packet)
        assert self.delivered[0] == self.delivered[1]  # ICMP errors
        expected, found = self.transmitted
        assert [sent[1:] for sent in found] == [sent[1:] for sent in expected]
        for later, ((wanted, *_), (octets, *_)) in enumerate(zip(expected[::-1], found[::-1], strict=True)):
            spec = self._by_outbound[wanted[:4]]
            if spec.suite.encryption not in _CHAINED and spec.suite.encryption != EncryptionId.ENCR_AES_CTR:
                assert octets == wanted
            assert len(octets) == len(wanted)
            assert octets[:8] == wanted[:8]
            sequence = self.oracle.child_sa(spec.inbound_spi).sequence - later
            assert _opened(spec, octets, sequence) == _opened(spec, wanted, sequence)
            self.compare(spec.inbound_spi)
        self.compare()
        return list(found)

    def events(self) -> list[DataPlaneEvent]:
        """What both have to report, in order."""
        reported: list[DataPlaneEvent] = []
        while (event := self.oracle.poll_event()) is not None:
            assert self.fast.poll_event() == event
            reported.append(event)
        assert self.fast.poll_event() is None
        return reported

    def compare(self, spi: bytes | None = None) -> None:
        """Drops, and the counters, sequence numbers and window of one SA; of all without an SPI."""
        assert self.fast.drops == self.oracle.drops
        assert without_room(self.fast.core) == 0
        for each in self.specs if spi is None else [spi] if spi in self.specs else []:
            assert self.fast.counters(each) == self.oracle.counters(each)
            sa = self.oracle.child_sa(each)
            assert self.fast.core.sequences(int.from_bytes(each, "big")) == (sa.sequence, sa.window.top)

    def _keep(self, spec: ChildSaSpec, done: bool) -> bool:
        if done:
            self.specs[spec.inbound_spi] = spec
            self._by_outbound[spec.outbound_spi] = spec
        return done

    def _ask(self, call: Callable[[UserspaceDataPlane | FastDataPlane], None]) -> bool:
        outcomes = []
        for plane in (self.oracle, self.fast):
            try:
                call(plane)
            except LocalError as error:
                outcomes.append(str(error))
            else:
                outcomes.append("")
        assert outcomes[0] == outcomes[1]
        assert self.fast.installed == self.oracle.installed
        assert self.fast.core.installed() == len(self.oracle.installed)
        return not outcomes[0]


def _opened(spec: ChildSaSpec, octets: bytes, sequence: int) -> bytes:
    opener = opener_of(spec.suite, spec.outbound_spi, spec.outbound_encryption_key, spec.outbound_integrity_key)
    return opener.open(octets, sequence)


def from_peer(spec: ChildSaSpec, sequence: int, payload: bytes, next_header: int) -> bytes:
    """An ESP packet that the peer of ``spec`` sends."""
    sealer = sealer_of(
        spec.suite,
        spec.inbound_spi,
        spec.inbound_encryption_key,
        spec.inbound_integrity_key,
        SeededEntropy(sequence),
    )
    return sealer.seal(sequence, payload, next_header)


def raw_from_peer(spec: ChildSaSpec, sequence: int, plaintext: bytes) -> bytes:
    """The same of a plaintext with whatever trailer it has; AEAD, or NULL with a MAC."""
    suite, spi, key = spec.suite, spec.inbound_spi, spec.inbound_encryption_key.reveal()
    low, all_of_it = (sequence & SEQUENCE_MASK).to_bytes(4, "big"), sequence.to_bytes(8, "big")
    if suite.integrity is None:
        aead, salt = aead_of(suite.encryption, key)
        assert ENCRYPTION[suite.encryption].iv_length == len(all_of_it)
        associated = spi + (all_of_it if suite.esn else low)
        return spi + low + all_of_it + aead.encrypt(salt + all_of_it, plaintext, associated)
    assert suite.encryption == EncryptionId.ENCR_NULL
    row = INTEGRITY[suite.integrity]
    packet = spi + low + plaintext
    covered = packet + all_of_it[:4] if suite.esn else packet
    return packet + row.keyed(spec.inbound_integrity_key.reveal()).compute(covered)[: row.icv_length]


def numbered(spec: ChildSaSpec, number: int) -> ChildSaSpec:
    """The same child SA under other SPIs."""
    return replace(
        spec,
        inbound_spi=(0x10000 + number).to_bytes(4, "big"),
        outbound_spi=(0x20000 + number).to_bytes(4, "big"),
    )
