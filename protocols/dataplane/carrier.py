"""What carries a node's ESP: a data plane with its links and devices, in Python, compiled, or in the kernel.

A node makes one ``Carrier``, a plane for each network behind it (a gateway one, a UE one for each PDN connection), and
a device where that network is the kernel's. ``PythonCarrier`` is the one that every inner packet passes through; the
others take packets from sockets to devices without asking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from protocols.dataplane.port import Backend, Carried, DataPlane
from protocols.dataplane.userspace.engine import Deliver, PathMtu, Transmit, UserspaceDataPlane
from protocols.entropy import Entropy
from protocols.errors import BackendError
from protocols.esp.sa import DropReason
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.io.link import Link, Receiver
from protocols.io.namespace import NetworkNamespace
from protocols.io.platform import LinkOpener
from protocols.io.raw import RawOpener
from protocols.path import Endpoint, Path

if TYPE_CHECKING:
    from protocols.dataplane.userspace.tun import Interface, Network


class DeviceCounters(Protocol):
    """Packets from the kernel, to the kernel, and those that it refused."""

    @property
    def read(self) -> int:
        """From the kernel."""

    @property
    def written(self) -> int:
        """To the kernel."""

    @property
    def refused(self) -> int:
        """Not taken by the kernel: its queue was full, say."""


class InnerDevice(Protocol):
    """Where the kernel's IP stack hands in packets for the tunnel and takes those that come out of it.

    ``comes_in_by_it``: those that come out are seen to come in by it, else by the device that ESP came by.
    """

    name: str
    comes_in_by_it: bool

    @property
    def counters(self) -> DeviceCounters:
        """Since it was opened."""

    def start(self, receive: Callable[[bytes], object], failed: Callable[[BackendError], object]) -> None:
        """Carry packets from now on; ``receive`` gets each where the carrier ``sees_packets``.

        ``failed`` is called once when nothing can come any more: somebody deleted the device.
        """

    def write(self, packet: bytes) -> bool:
        """Give the kernel a packet as if it came out of the tunnel; ``False``: not taken, and counted."""

    def close(self) -> None:
        """Give it back; again is harmless."""


class CarriedPlane(DataPlane, Protocol):
    """A data plane with what a node hands it itself."""

    @property
    def installed(self) -> tuple[bytes, ...]:
        """The inbound SPIs of what is installed."""

    @property
    def drops(self) -> dict[DropReason, int]:
        """Packets dropped by reason, as far as they are known to be this plane's."""

    @property
    def carried(self) -> Carried:
        """By all its SAs together; it never goes back."""

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """An ESP packet that came by a link of the node's."""

    def send_inner(self, packet: bytes) -> bool:
        """Tunnel a packet of the node's own; whether an SA took it, as far as that can be told."""


class Carrier(Protocol):
    """``BackendError`` where the system refuses; ``sees_packets``: inner packets pass ``deliver`` and ``receive``.

    ``open_raw`` opens ESP straight on IP, ``None`` without the right to it.
    """

    backend: Backend
    sees_packets: bool
    open_raw: RawOpener | None

    def start(self) -> None:
        """Begin, on the running loop, before links and devices are opened; planes may be made earlier."""

    def open_link(self, local: Endpoint, receive: Receiver) -> Link:
        """Open an encapsulating port (RFC 3948): what is no ESP comes to ``receive``, ESP where it is needed."""

    def plane(
        self,
        *,
        deliver: Deliver,
        transmit: Transmit,
        told: Callable[[], None],
        path_mtu: PathMtu,
        policy: TunnelPolicy | None = None,
    ) -> CarriedPlane:
        """A plane of its own SAs; ``told`` says that ``poll_event`` has something, outside of calls.

        ``policy``: another one than the carrier's, only where it ``sees_packets``.
        """

    async def open_device(
        self,
        plane: CarriedPlane,
        name: str,
        addresses: Sequence[Interface],
        mtu: int,
        routes: Sequence[Network] = (),
        *,
        metric: int = 0,
        namespace: NetworkNamespace | None = None,
    ) -> InnerDevice:
        """Open the device of a plane; ``metric`` and ``namespace`` as in ``TunDevice.open``."""

    @property
    def dropped(self) -> Counter[str]:
        """Packets dropped that belong to no plane, by reason."""

    @property
    def counted(self) -> dict[str, int]:
        """What it counts for all child SAs together that others count for each (``ChildSaCounters``)."""

    def close(self) -> None:
        """Let go of what is left; links and devices are closed by their owners before."""


class PythonCarrier:
    """ESP in this process, packet by packet."""

    backend = Backend.PYTHON
    sees_packets = True

    def __init__(
        self,
        *,
        entropy: Entropy,
        policy: TunnelPolicy = DEFAULT_POLICY,
        now: Callable[[], float],
        open_link: LinkOpener,
        open_raw: RawOpener | None,
    ) -> None:
        self._entropy = entropy
        self._policy = policy
        self._now = now
        self._open_link = open_link
        self.open_raw = open_raw

    def start(self) -> None:
        """Nothing to begin."""

    def open_link(self, local: Endpoint, receive: Receiver) -> Link:
        """Any link will do."""
        return self._open_link(local, receive)

    def plane(
        self,
        *,
        deliver: Deliver,
        transmit: Transmit,
        told: Callable[[], None],
        path_mtu: PathMtu,
        policy: TunnelPolicy | None = None,
    ) -> CarriedPlane:
        """A machine of its own; its events come within calls."""
        del told
        return UserspaceDataPlane(
            entropy=self._entropy,
            deliver=deliver,
            transmit=transmit,
            policy=policy or self._policy,
            path_mtu=path_mtu,
            now=self._now,
        )

    async def open_device(
        self,
        plane: CarriedPlane,
        name: str,
        addresses: Sequence[Interface],
        mtu: int,
        routes: Sequence[Network] = (),
        *,
        metric: int = 0,
        namespace: NetworkNamespace | None = None,
    ) -> InnerDevice:
        """A TUN device."""
        from protocols.dataplane.userspace.tun import TunDevice  # netlink's library takes a while

        del plane
        return await TunDevice.open(name, addresses, mtu, routes, metric=metric, namespace=namespace)

    @property
    def dropped(self) -> Counter[str]:
        """Planes count what they drop."""
        return Counter()

    @property
    def counted(self) -> dict[str, int]:
        """Child SAs count."""
        return {}

    def close(self) -> None:
        """Nothing is left."""
