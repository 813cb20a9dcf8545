"""What ``native/module.c`` offers; packed paths and selectors are those of ``plane``."""

from collections.abc import Sequence

from typing_extensions import Buffer

DONE: int
TAKEN: int
NOT_THERE: int
UNSUPPORTED: int
NO_MEMORY: int
REPLAYED: int
BAD_ICV: int
BAD_SELECTOR: int
MALFORMED: int
DUMMY: int
FRAGMENT: int
CONGESTION: int
TOO_BIG: int
UNKNOWN_SPI: int
NO_SA: int
NOT_IP: int
SEQUENCE_EXHAUSTED: int
LIFETIME_EXPIRED: int
NO_ROOM: int
PEER_ENDPOINT_OBSERVED: int
SEQUENCE_NUMBERS_RUNNING_OUT: int
LIFETIME_REACHED: int
INNER_DSCP: int
ANY_MSS: int
MSS_OF_PATH: int
OVERHEAD: int
WINDOW_MAXIMUM: int
CONTEXTS: int
DEVICES: int

Limits = tuple[int, int, int, int]

class Core:
    def __new__(cls, contexts: int = ..., libcrypto_alone: bool = ...) -> Core: ...
    def install(
        self,
        inbound_spi: int,
        outbound_spi: int,
        encryption: int,
        integrity: int,
        esn: bool,
        inbound_encryption_key: bytes,
        inbound_integrity_key: bytes,
        outbound_encryption_key: bytes,
        outbound_integrity_key: bytes,
        local_selectors: bytes,
        remote_selectors: bytes,
        path: bytes,
        encapsulation: bool,
        beet: bool,
        replay_window: int,
        limits: Limits,
        device: int,
        /,
    ) -> int: ...
    def replace(
        self,
        inbound_spi: int,
        outbound_spi: int,
        encryption: int,
        integrity: int,
        esn: bool,
        inbound_encryption_key: bytes,
        inbound_integrity_key: bytes,
        outbound_encryption_key: bytes,
        outbound_integrity_key: bytes,
        local_selectors: bytes,
        remote_selectors: bytes,
        path: bytes,
        encapsulation: bool,
        beet: bool,
        replay_window: int,
        limits: Limits,
        device: int,
        old_inbound_spi: int,
        send_at_once: bool,
        /,
    ) -> int: ...
    def update_path(self, inbound_spi: int, path: bytes, encapsulation: bool, /) -> int: ...
    def set_inner_mtu(self, inbound_spi: int, octets: int, /) -> int: ...
    def retire(self, inbound_spi: int, /) -> int: ...
    def remove(self, inbound_spi: int, /) -> int: ...
    def set_policy(self, dscp: int, mss: int, /) -> None: ...
    def counters(self, inbound_spi: int, /) -> tuple[int, ...] | None: ...
    def sequences(self, inbound_spi: int, /) -> tuple[int, int] | None: ...
    def skip_sequence(self, inbound_spi: int, sent: int, /) -> int: ...
    def carried(self, device: int, /) -> tuple[int, int, int, int]: ...
    def drops(self, device: int = ..., /) -> tuple[int, ...]: ...
    def installed(self) -> int: ...
    def poll_event(self) -> tuple[int, int, bool, bytes] | None: ...
    def eventfd(self) -> int: ...
    def seal(self, packet: bytes, device: int, /) -> tuple[bytes, bytes, bool, int] | bytes | int: ...
    def seal_by(self, inbound_spi: int, packet: bytes, /) -> tuple[bytes, bytes, bool, int] | int: ...
    def count_long(self, inbound_spi: int, mss_clamped: bool, fragmented: bool, dropped: bool, /) -> None: ...
    def open(self, octets: bytes, path: bytes, traffic_class: int, /) -> bytes | int: ...
    def seal_batch(self, slots: Buffer, stride: int, lengths: Buffer, out: Buffer, out_stride: int, /) -> int: ...
    def open_batch(
        self, slots: Buffer, stride: int, lengths: Buffer, offsets: Buffer, path: bytes, traffic_class: int, /
    ) -> int: ...

class Loop:
    def __new__(cls, core: Core, workers: int, channel: int, long_channel: int) -> Loop: ...
    def start(self) -> int: ...
    def stop(self) -> None: ...
    def add_socket(
        self, descriptor: int, worker: int, encapsulation: bool, address: bytes, port: int, urgent: bool
    ) -> int: ...
    def add_queue(self, descriptor: int, worker: int, device: int, udp_offload: bool) -> int: ...
    def remove(self, source: int, /) -> int: ...
    def counters(self) -> tuple[dict[str, int], list[int], list[int]]: ...
    def device_counters(self, device: int, /) -> tuple[int, int, int]: ...
    def failure(self) -> tuple[int, int] | None: ...
    @property
    def eventfd(self) -> int: ...

def segment(octets: Buffer, /) -> list[bytes]: ...
def coalesce(packets: Sequence[Buffer], udp: bool, /) -> list[bytearray]: ...
def ipsec_mb() -> str | None: ...
