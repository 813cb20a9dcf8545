"""The kernel's data plane: ESP by XFRM, two SAs and the policies of its selectors for each child SA.

::

    inner packet ──► policy "out" ──► the newest SA of these selectors, by its SPI ──► ESP, or ESP in UDP
    ESP packet ──► SA by SPI ──► policy "in" or "fwd" ──► any SA with the reqid of these selectors

Everything of ours has a reqid out of ``REQIDS``, which no other program counts up to: so what a former run has left is
found and removed at the start, and what is not ours is never touched. Two child SAs with the same selectors (a rekey)
share a reqid, and the policies. The policies towards us name no outer addresses and stay when the peer moves.

Moves (RFC 4555 §3.5): where only ports change, both SAs are updated in place, else see ``moves``.

Not counted by the kernel, for each SA: packets with wrong selectors, malformed and dummy ones. An SA without UDP
encapsulation does not tell when its packets come from elsewhere. Limits speak with the packet after the one that
reached them. Replay windows are rounded up to a power of two. In BEET mode the kernel counts, and limits, octets
without the header that is left out; what is told here has it.

XFRM_MSG_ACQUIRE is not heard: whom the kernel asks for an SA it waits for, and with nobody there it drops at once what
has no SA any more. That one is gone, flushed by somebody, is found when its counters are read. Policies of ours have no
limits; XFRM_MSG_POLEXPIRE about others' is passed over.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

from protocols.dataplane.port import (
    ChildSaCounters,
    DataPlaneEvent,
    LifetimeReached,
    PeerEndpointObserved,
    SequenceNumbersRunningOut,
)
from protocols.dataplane.xfrm.connection import XfrmConnection
from protocols.dataplane.xfrm.messages import (
    XFRMNLGRP_EXPIRE,
    XFRMNLGRP_MAPPING,
)
from protocols.dataplane.xfrm.moves import Moves, SaLost
from protocols.dataplane.xfrm.policies import GONE, PolicyTable, tolerating
from protocols.dataplane.xfrm.selectors import Pair, pairs_of
from protocols.dataplane.xfrm.state import Child, Direction, Tally, check_window
from protocols.errors import BackendError, LocalError
from protocols.esp.sa import ChildSaSpec, check_spec
from protocols.io.link import take_out_esp
from protocols.path import Address, Endpoint, Path

REQIDS = range(0x65500000, 0x65600000)  # "eP"; others count up from 1 (strongSwan) or 16384 (Libreswan)


class XfrmDataPlane:
    """``DataPlane`` in the kernel, in the network namespace of the thread that makes it.

    ``sockets`` are those bound to port 4500: from then on the kernel takes the ESP packets out of them; those opened
    later are given to ``take_out_esp``, a ``UdpLink`` has a method for it. ``copies_dscp``: into outer headers
    (RFC 4301 §5.1.2).
    ``BackendError``: no XFRM, no right to it, or another process has ``reqids`` in use here.
    """

    def __init__(
        self, *, sockets: Iterable[socket.socket] = (), reqids: range = REQIDS, copies_dscp: bool = True
    ) -> None:
        self._reqids = reqids
        self._copies_dscp = copies_dscp
        self._children: dict[bytes, Child] = {}
        self._places: dict[tuple[Address, int], tuple[Child, Direction]] = {}
        self._events: deque[DataPlaneEvent] = deque()
        self._by_reqid: dict[int, list[Child]] = {}
        self._waiting: dict[bytes, Child] = {}
        self._next_reqid = 0
        self._serial = 0
        self._lock = _claim(reqids)
        self._open: list[XfrmConnection] = []
        try:
            self._kernel = self._connect()
            self._policies = PolicyTable(self._kernel)
            self._listening = self._connect(XFRMNLGRP_EXPIRE, XFRMNLGRP_MAPPING)
            self._moves = Moves(self._kernel, self._connect(), self._policies, self._take_events)
            for each in sockets:
                take_out_esp(each)
            self.leftovers = self._remove_leftovers()
        except BackendError:
            self._release()
            raise

    def _connect(self, *groups: int) -> XfrmConnection:
        made = XfrmConnection(groups)
        self._open.append(made)
        return made

    def fileno(self) -> int:
        """Readable when ``poll_event`` has something to look at."""
        return self._listening.fileno()

    def close(self) -> None:
        """Remove everything of ours from the kernel."""
        try:
            for spi in list(self._children):
                self.remove(spi)
        finally:
            self._release()

    def _release(self) -> None:
        for each in self._open:
            each.close()
        self._lock.close()

    # ------------------------------------------------------------------ the port

    def install(self, spec: ChildSaSpec, *, if_id: int = 0) -> None:
        """See ``DataPlane.install``; ``BackendError`` when the kernel refuses, nothing is left behind then.

        ``if_id``: packets go by the XFRM interface of this number only, 0: by none.
        """
        self._install(spec, None, if_id)

    def replace(self, old_inbound_spi: bytes, spec: ChildSaSpec, *, send_at_once: bool = True) -> None:
        """See ``DataPlane.replace``. The kernel tells of the second packet at the latest, not of the first."""
        old = self._require(old_inbound_spi)
        self._take_events()
        self._install(spec, None if send_at_once else old_inbound_spi, old.if_id)
        if send_at_once:
            for child in self._waiting.values():
                if child.waits_for == old_inbound_spi:
                    child.waits_for = spec.inbound_spi

    def update_path(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``DataPlane.update_path``."""
        child = self._require(inbound_spi)
        self._take_events()
        child.observed = None
        self._forget(PeerEndpointObserved, inbound_spi)
        old = child.inbound.path
        if (path, encapsulation) == (old, child.inbound.encapsulation):
            return
        stays = (path.local.address, path.remote.address) == (old.local.address, old.remote.address)
        if stays and encapsulation == child.inbound.encapsulation:
            for direction in child.directions:
                direction.path = path
                if encapsulation:
                    self._update(child, direction)
            return
        for direction in child.directions:
            self._places.pop(direction.place, None)
        try:
            self._move(child, path, encapsulation)
        finally:
            for direction in child.directions:
                self._places[direction.place] = child, direction
            self._policies.point(child.pairs)

    def expect(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``DataPlane.expect``; for ``LINGER_MAXIMUM_INTERVAL``, and not where the kernel refuses."""
        child = self._require(inbound_spi)
        self._take_events()
        self._moves.expect(child, path, encapsulation)

    def retire(self, inbound_spi: bytes) -> None:
        """See ``DataPlane.retire``."""
        child = self._require(inbound_spi)
        self._take_events()
        for successor in [each for each in self._waiting.values() if each.waits_for == inbound_spi]:
            self._take_over(successor)
        if self._waiting.pop(inbound_spi, None) is not None:
            child.waits_for = None
            self._update(child, child.inbound)
        elif child.sending:
            child.sending = False
            self._policies.point(child.pairs)

    def remove(self, inbound_spi: bytes) -> None:
        """See ``DataPlane.remove``."""
        self.retire(inbound_spi)
        child = self._children[inbound_spi]
        self._drop(child)
        for kind in (PeerEndpointObserved, SequenceNumbersRunningOut, LifetimeReached):
            self._forget(kind, inbound_spi)

    def counters(self, inbound_spi: bytes) -> ChildSaCounters:
        """See ``DataPlane.counters``."""
        child = self._require(inbound_spi)
        self._take_events()
        inbound, outbound = self._tally(child, child.inbound), self._tally(child, child.outbound)
        header = child.omitted_header_length
        return ChildSaCounters(
            inbound_packets=inbound.packets,
            strayed_packets=child.strayed + self._moves.ahead(child.inbound),
            inbound_octets=inbound.octets + inbound.packets * header,
            outbound_packets=outbound.packets,
            outbound_octets=outbound.octets + outbound.packets * header,
            overhead_saved_octets=(inbound.packets + outbound.packets) * header,
            replayed=inbound.replayed,
            bad_icv=inbound.bad_icv,
        )

    def poll_event(self, of: Collection[bytes] | None = None) -> DataPlaneEvent | None:
        """See ``DataPlane.poll_event``; ``of``: about these SAs only, by inbound SPI."""
        self._take_events()
        for child in list(self._waiting.values()):
            if self._tally(child, child.inbound).packets:
                self._take_over(child)
        for event in self._events:
            if of is None or event.inbound_spi in of:
                self._events.remove(event)
                return event
        return None

    def with_events(self) -> frozenset[bytes]:
        """The inbound SPIs of the SAs that have events to poll."""
        self._take_events()
        return frozenset(event.inbound_spi for event in self._events)

    @property
    def installed(self) -> tuple[bytes, ...]:
        """The inbound SPIs of what is installed."""
        return tuple(self._children)

    @property
    def lingering(self) -> bool:
        """Whether SAs of paths that were left are there still: then ``expire`` is to be called, some times a second."""
        return self._moves.lingering

    def expire(self, now: float) -> None:
        """Remove the SAs of paths that were left long enough ago; ``now``: monotonic seconds."""
        self._take_events()
        self._moves.expire(now)

    # ------------------------------------------------------------------ installing and removing

    def _install(self, spec: ChildSaSpec, waits_for: bytes | None, if_id: int) -> None:
        if spec.inbound_spi in self._children:
            raise LocalError(f"SA {spec.inbound_spi.hex()} is installed already")
        check_spec(spec)
        check_window(spec)
        pairs = pairs_of(spec, if_id)
        self._serial += 1
        child = Child(
            spec=spec,
            pairs=pairs,
            reqid=self._reqid_for(pairs),
            serial=self._serial,
            if_id=if_id,
            copies_dscp=self._copies_dscp,
            waits_for=waits_for,
        )
        self._by_reqid.setdefault(child.reqid, []).append(child)
        self._children[spec.inbound_spi] = child
        if waits_for is not None:
            self._waiting[spec.inbound_spi] = child
        try:
            for direction in child.directions:
                self._kernel.request("sa", "add", **child.request(direction))
                direction.gone = False
                self._places[direction.place] = child, direction
            for pair in pairs:
                self._policies.add(pair, child)
        except BackendError:
            self._drop(child)
            raise

    def _drop(self, child: Child) -> None:
        """Take a child SA out of the kernel and out of here."""
        del self._children[child.spec.inbound_spi]
        self._waiting.pop(child.spec.inbound_spi, None)
        self._policies.discard(child)
        for direction in child.directions:
            if not direction.gone:
                self._delete(direction)
            self._moves.end_all(child, direction)
            if self._places.get(direction.place, (None,))[0] is child:
                del self._places[direction.place]
        self._by_reqid[child.reqid].remove(child)
        if not self._by_reqid[child.reqid]:
            del self._by_reqid[child.reqid]

    def _delete(self, direction: Direction) -> None:
        with tolerating(GONE):
            self._kernel.request("sa", "delete", **direction.identity)
        direction.gone = True

    def _reqid_for(self, pairs: tuple[Pair, ...]) -> int:
        shared = self._policies.shared_reqid(pairs)
        if shared is not None:
            return shared
        if len(self._by_reqid) == len(self._reqids):
            raise LocalError(f"{len(self._reqids)} child SAs are all that {self._reqids} has room for")
        while True:
            reqid = self._reqids[self._next_reqid]
            self._next_reqid = (self._next_reqid + 1) % len(self._reqids)
            if reqid not in self._by_reqid:
                return reqid

    # ------------------------------------------------------------------ moving

    def _update(self, child: Child, direction: Direction) -> None:
        """Give an SA its present ports and limits in place."""
        if not direction.gone:
            self._kernel.request("sa", "update", **child.request(direction))

    def _move(self, child: Child, path: Path, encapsulation: bool) -> None:
        old = child.inbound
        beside = any(
            each is not child and each.inbound.addresses == old.addresses for each in self._by_reqid[child.reqid]
        )
        try:
            self._moves.inbound(child, path, encapsulation, beside=beside)
            self._moves.outbound(child, path, encapsulation)
        except SaLost:
            self._spend(child)

    # ------------------------------------------------------------------ what the kernel tells

    def _tally(self, child: Child, direction: Direction) -> Tally:
        earlier = self._moves.earlier(direction)
        if direction.gone:
            return direction.kept + earlier
        info = self._moves.info(direction)
        if info is None:  # somebody flushed it, or the event was lost
            direction.gone = True
            self._spend(child)
            return direction.kept
        return direction.kept + earlier + Tally.of(info)

    def _take_events(self) -> None:
        for message in self._listening.events():
            if message["event"] == "XFRM_MSG_MAPPING":
                self._take_mapping(message)
            elif message["event"] == "XFRM_MSG_EXPIRE":
                self._take_expiry(message)

    def _take_mapping(self, message: Any) -> None:
        """A packet that was authentic came from elsewhere."""
        child, direction = self._find(message["id"]["daddr"], message["id"]["spi"])
        if child is None or direction is None or not direction.inbound:
            return
        endpoint = Endpoint.of(message["new_saddr"], message["new_sport"])
        if endpoint == child.inbound.path.remote:
            return  # sent before the SA was moved there
        child.strayed += 1
        if endpoint == child.observed:
            return
        child.observed = endpoint
        self._forget(PeerEndpointObserved, child.spec.inbound_spi)
        path = Path(child.inbound.path.local, endpoint)
        self._events.append(PeerEndpointObserved(inbound_spi=child.spec.inbound_spi, path=path))

    def _take_expiry(self, message: Any) -> None:
        info, hard = message["state"], bool(message["hard"])
        counted = Tally.of(info)
        child, direction = self._find(info["id"]["daddr"], info["id"]["spi"])
        if child is None or direction is None:
            if hard:
                self._moves.expired((Endpoint.of(info["id"]["daddr"], 0).address, info["id"]["spi"]), counted)
            return
        if direction.gone:
            return
        spi = child.spec.inbound_spi
        sequence = counted.packets + direction.started
        if hard:
            direction.kept += counted
            direction.gone = True
        if not direction.inbound and sequence >= (child.maximum_sequence if hard else child.soft_sequence):
            self._forget(SequenceNumbersRunningOut, spi)
            self._events.append(SequenceNumbersRunningOut(inbound_spi=spi, exhausted=hard))
            if hard:
                self._policies.point(child.pairs)
        elif hard:
            self._spend(child)
        elif child.waits_for is not None and direction.inbound:
            self._take_over(child)
        elif not child.soft_reached:
            child.soft_reached = True
            self._events.append(LifetimeReached(inbound_spi=spi, hard=False))

    def _spend(self, child: Child) -> None:
        """A hard limit in one direction ends both."""
        if child.spent:
            return
        child.spent = child.soft_reached = True
        for direction in child.directions:
            if not direction.gone:
                info = self._moves.info(direction)
                if info is not None:
                    direction.kept += Tally.of(info)
                self._delete(direction)
            self._moves.end_all(child, direction)
        self._policies.point(child.pairs)
        self._forget(LifetimeReached, child.spec.inbound_spi)
        self._events.append(LifetimeReached(inbound_spi=child.spec.inbound_spi, hard=True))

    def _take_over(self, child: Child) -> None:
        """A successor begins to send."""
        self._serial += 1
        self._waiting.pop(child.spec.inbound_spi, None)
        child.waits_for, child.sending, child.serial = None, True, self._serial
        self._update(child, child.inbound)
        self._policies.point(child.pairs)

    def _find(self, address: str, spi: int) -> tuple[Child | None, Direction | None]:
        return self._places.get((Endpoint.of(address, 0).address, spi), (None, None))

    def _forget(self, kind: type[DataPlaneEvent], inbound_spi: bytes) -> None:
        self._events = deque(
            event for event in self._events if not (isinstance(event, kind) and event.inbound_spi == inbound_spi)
        )

    def _require(self, inbound_spi: bytes) -> Child:
        child = self._children.get(inbound_spi)
        if child is None:
            raise LocalError(f"SA {inbound_spi.hex()} is not installed")
        return child

    # ------------------------------------------------------------------ after a crash

    def _remove_leftovers(self) -> int:
        """Remove SAs and policies with our reqids that a former run has left; how many there were."""
        found = self._policies.remove_leftovers(self._reqids)
        for info in self._kernel.request("sa", "dump"):
            if info["reqid"] in self._reqids:
                identity = {"daddr": info["id"]["daddr"], "spi": info["id"]["spi"], "proto": info["id"]["proto"]}
                with tolerating(GONE):
                    self._kernel.request("sa", "delete", **identity, family=info["family"])
                found += 1
        return found


def in_use(reqids: range = REQIDS) -> str | None:
    """Whether another process carries child SAs in this network namespace, in words; ``None``: nobody does."""
    try:
        _claim(reqids).close()
    except BackendError as error:
        return str(error)
    return None


def _claim(reqids: range) -> socket.socket:
    """Have the reqids of this network namespace for ourselves; the kernel gives them back when we end, however."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(f"\0xfrm-reqids-{reqids.start:x}-{reqids.stop:x}")
    except OSError as error:
        lock.close()
        raise BackendError("kernel XFRM: another process carries child SAs in this network namespace") from error
    return lock
