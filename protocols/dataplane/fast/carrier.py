"""ESP by the compiled core and its threads: ``Carrier`` on one ``FastLoop``, planes being views of one core.

Each view has SAs, events and a TUN device of its own, whatever their selectors; sockets are shared. BEET mode is as in
``plane``, the policy is one for all views.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from protocols.dataplane.fast import plane as fast
from protocols.dataplane.fast.link import FastRawLink
from protocols.dataplane.fast.loop import FastLoop
from protocols.dataplane.fast.plane import FastDataPlane
from protocols.dataplane.fast.tun import FastTun
from protocols.dataplane.port import Backend, DataPlaneEvent, PeerEndpointObserved
from protocols.dataplane.userspace.engine import PATH_MTU_INTERVAL, Deliver, PathMtu, Transmit
from protocols.dataplane.userspace.tun import TunCounters
from protocols.errors import BackendError, LocalError
from protocols.esp.sa import DropReason
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.io.link import Link, Receiver
from protocols.io.namespace import NetworkNamespace
from protocols.io.raw import RawOpener, raw_esp_opener
from protocols.path import Endpoint, Path

if TYPE_CHECKING:
    from protocols.dataplane.carrier import CarriedPlane
    from protocols.dataplane.fast._native import Core
    from protocols.dataplane.userspace.tun import Interface, Network

WORKERS_MAXIMUM = 4
PLANES_MAXIMUM = 64  # FAST_DEVICES
EVENTS_OF_A_TURN = 256
PATH_MTU_PORTIONS = 20  # of an interval, so that thousands of SAs do not hold up the event loop

_OF_THE_LOOP = (
    "tun_malformed",
    "socket_full",
    "send_errors",
    "no_socket",
    "short",
    "other_dropped",
    "no_tun",
)
"""Those of ``LoopCounters`` that are drops, and neither a plane's nor a device's."""


class CompiledCarrier:
    """``workers``: threads, by default one for each processor that is ours, four at most.

    ``BackendError`` when the core was not built or the system refuses; ``LocalError``: another policy for one plane,
    too many planes, a plane of another carrier.
    """

    backend = Backend.COMPILED
    sees_packets = False

    def __init__(
        self,
        *,
        policy: TunnelPolicy = DEFAULT_POLICY,
        workers: int | None = None,
        now: Callable[[], float] = time.monotonic,
        path_mtu_interval: float = PATH_MTU_INTERVAL,
    ) -> None:
        self._core = fast.new_core()
        self._policy = policy
        self._now = now
        workers = workers or min(len(os.sched_getaffinity(0)), WORKERS_MAXIMUM)
        self._loop = FastLoop(self._core, too_long=self._send_long, workers=workers)
        self._views: list[_View] = []
        self._path_mtu_interval = path_mtu_interval
        self._asked: list[tuple[_View, bytes]] = []
        self._portion = 0
        self._running: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.open_raw: RawOpener | None = None if raw_esp_opener() is None else self._open_raw

    def start(self) -> None:
        """Begin the threads, on the running loop."""
        self._loop.start()
        self._running = asyncio.get_running_loop()
        self._running.add_reader(self._core.eventfd(), self._hand_out_events)
        self._ask_path_mtus()

    def open_link(self, local: Endpoint, receive: Receiver) -> Link:
        """A group of sockets; what is no ESP comes to ``receive``."""
        return self._loop.open_link(local, receive)

    def plane(
        self,
        *,
        deliver: Deliver,
        transmit: Transmit,
        told: Callable[[], None],
        path_mtu: PathMtu,
        policy: TunnelPolicy | None = None,
    ) -> _View:
        """A view; ``deliver`` gets ICMP errors about packets too long, and what ``receive_esp`` opens."""
        if policy is not None and policy != self._policy:
            raise LocalError("the compiled loop has one policy for all planes")
        if len(self._views) == PLANES_MAXIMUM:
            raise LocalError(f"the compiled loop has {PLANES_MAXIMUM} planes at most")
        view = _View(
            self._core,
            len(self._views),
            deliver=deliver,
            transmit=transmit,
            told=told,
            path_mtu=path_mtu,
            policy=self._policy,
            now=self._now,
        )
        self._views.append(view)
        return view

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
    ) -> FastDevice:
        """A TUN device with a queue for each worker."""
        for number, view in enumerate(self._views):
            if view is plane:
                queues = self._loop.workers
                tun = await FastTun.open(
                    name, addresses, mtu, routes, queues=queues, metric=metric, namespace=namespace
                )
                return FastDevice(self._loop, tun, number)
        raise LocalError(f"TUN device {name}: the plane is another carrier's")

    @property
    def dropped(self) -> Counter[str]:
        """ESP of no SA, and what there was no room or no way for."""
        counters = self._loop.counters
        dropped = Counter({name: getattr(counters, name) for name in _OF_THE_LOOP})
        dropped["no_room"] = fast.without_room(self._core)
        dropped.update({reason.value: count for reason, count in fast.by_reason(self._core.drops()).items()})
        for view in self._views:
            dropped.subtract({reason.value: count for reason, count in view.drops.items()})
        return +dropped

    @property
    def counted(self) -> dict[str, int]:
        """Child SAs count."""
        return {}

    def close(self) -> None:
        """End the threads; again is harmless."""
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            self._running.remove_reader(self._core.eventfd())
            self._running = None
        self._loop.close()

    def _open_raw(self, local: Endpoint, receive: Receiver) -> FastRawLink:
        del receive  # everything that comes is ESP
        return self._loop.open_raw(local)

    def _send_long(self, packet: bytes, device: int) -> None:
        self._views[device].send_inner(packet)

    def _view_of(self, inbound_spi: bytes) -> _View | None:
        return next((view for view in self._views if inbound_spi in view), None)

    def _hand_out_events(self) -> None:
        told: dict[_View, None] = {}
        for _ in range(EVENTS_OF_A_TURN):
            event = fast.next_event(self._core)
            if event is None:
                break
            view = self._view_of(event.inbound_spi)
            if view is not None:
                view.keep(event)
                told[view] = None
        for view in told:
            view.told()

    def _ask_path_mtus(self) -> None:
        """Each SA's once in an interval."""
        if self._running is None:
            return
        if self._portion == 0:
            self._asked = [(view, spi) for view in self._views for spi in view.installed]
        count, at = len(self._asked), self._portion
        for view, spi in self._asked[count * at // PATH_MTU_PORTIONS : count * (at + 1) // PATH_MTU_PORTIONS]:
            if spi in view:
                view.ask_path_mtu(spi)
        self._portion = (at + 1) % PATH_MTU_PORTIONS
        self._timer = self._running.call_later(self._path_mtu_interval / PATH_MTU_PORTIONS, self._ask_path_mtus)


class _View(FastDataPlane):
    """A plane on a core that others share; it knows its SAs, their events and drops."""

    def __init__(
        self,
        core: Core,
        device: int,
        *,
        deliver: Deliver,
        transmit: Transmit,
        told: Callable[[], None],
        path_mtu: PathMtu,
        policy: TunnelPolicy,
        now: Callable[[], float],
    ) -> None:
        super().__init__(
            deliver=deliver,
            transmit=transmit,
            policy=policy,
            path_mtu=path_mtu,
            now=now,
            core=core,
            device=device,
        )
        self.told = told
        # As in the core: one of a kind waits per SA, however fast packets come.
        self._events: dict[tuple[type[DataPlaneEvent], bytes], DataPlaneEvent] = {}

    def __contains__(self, inbound_spi: bytes) -> bool:
        return inbound_spi in self._installed

    def keep(self, event: DataPlaneEvent) -> None:
        """An event of one of its SAs."""
        self._events[type(event), event.inbound_spi] = event

    def poll_event(self) -> DataPlaneEvent | None:
        """See ``DataPlane.poll_event``; what comes later is ``told``."""
        for key in self._events:
            return self._events.pop(key)
        return None

    def update_path(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``DataPlane.update_path``."""
        super().update_path(inbound_spi, path, encapsulation)
        self._events.pop((PeerEndpointObserved, inbound_spi), None)

    def remove(self, inbound_spi: bytes) -> None:
        """See ``DataPlane.remove``."""
        super().remove(inbound_spi)
        self._events = {key: event for key, event in self._events.items() if key[1] != inbound_spi}

    @property
    def drops(self) -> dict[DropReason, int]:
        """Of its SAs, those that have been removed included, and what none of them selects."""
        return fast.by_reason(self._core.drops(self._device))


class FastDevice:
    """A TUN device of a view: the loop reads and writes it."""

    comes_in_by_it = True

    def __init__(self, loop: FastLoop, tun: FastTun, number: int) -> None:
        self.name = tun.name
        self._loop = loop
        self._tun = tun
        self._number = number
        self._own = TunCounters()
        self._before: TunCounters | None = None
        self._closed = False

    def start(self, receive: Callable[[bytes], object], failed: Callable[[BackendError], object]) -> None:
        """Carry packets from now on, none of them by ``receive``; ``failed`` is told once that the device is gone."""
        del receive
        if self._closed or self._before is not None:
            raise LocalError(f"TUN device {self.name} is closed or started already")
        before = self._loop.device_counters(self._number)
        self._loop.add_device(self._tun, self._number, failed=failed)
        self._before = before

    @property
    def counters(self) -> TunCounters:
        """Packets of the threads' and of ``write``."""
        if self._closed or self._before is None:
            return self._own
        now, before, own = self._loop.device_counters(self._number), self._before, self._own
        return TunCounters(
            read=now.read - before.read + own.read,
            written=now.written - before.written + own.written,
            refused=now.refused - before.refused + own.refused,
        )

    def write(self, packet: bytes) -> bool:
        """Give an IP packet to the kernel; ``False`` when it does not take it (counted)."""
        if self._closed:
            raise LocalError(f"TUN device {self.name} is closed")
        try:
            self._tun.write(packet)
        except OSError:
            self._own.refused += 1
            return False
        self._own.written += 1
        return True

    def close(self) -> None:
        """Give the device back, a second time does nothing."""
        if self._closed:
            return
        if self._before is not None:
            with contextlib.suppress(LocalError):  # the carrier was closed before
                self._loop.remove_device(self._tun)
        self._own = self.counters
        self._closed = True
        self._tun.close()
