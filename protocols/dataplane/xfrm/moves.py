"""Moves of child SAs in the kernel to another path (RFC 4555 §3.5), without a gap and without a number sent twice.

The kernel finds an SA by destination, SPI and protocol. Towards the peer:

- To another destination the new SA stands beside the old one. First the old one gets a hard limit ``AHEAD`` packets
  ahead; the new one's sequence numbers begin behind all that the old one can have sent by then. The policies lead to
  the new one at once, what was under way to the old one leaves by it.
- To the same destination there can be one only. It is limited likewise; then policies are blocked, the SA is deleted,
  added and the policies are opened in one system call, which takes some ten microseconds: what another processor sends
  in them is dropped.
- Where so few sequence numbers or so little of a hard limit are left that the numbers ahead matter, it is blocked,
  deleted, and made anew from the last state, which the kernel tells when it deletes it: packets of about a millisecond
  are dropped.

Each move passes over up to ``AHEAD`` sequence numbers: a receiver with a smaller window drops what the network
delivers late across the move.

Towards us, at another address of ours, the new SA stands beside the old one, too, with what that has seen in its
replay window; the old one goes ``LINGER_INTERVAL`` after the first packet by the new one, or becomes the present one
again when the path comes back. Until then a packet that came to one address and is replayed to the other passes, once.
One at an address where the peer is expected stands beside the present one in the same way, and becomes it by the move:
a gateway's, when its peer goes to another address of it, to one of another version of IP say.

At the same address an SA towards us without UDP encapsulation takes packets from everywhere, and is left as it is, its
source included. Else it is moved by XFRM_MSG_MIGRATE, through a policy that nothing matches and that exists for that
moment; nothing is lost but what another processor is taking in just then, which may go uncounted, too, and pass again
when it is replayed: the kernel has copied counters and window already. Where MIGRATE cannot do it, out of UDP
encapsulation or with an older SA beside, one takes the other's place in one system call.
MIGRATE is not for the SA towards the peer: it copies the sequence number before it stops the old SA, and what is sent
in between repeats sequence numbers, which with AES-GCM repeats nonces.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from protocols.dataplane.xfrm.connection import Request, XfrmConnection, XfrmRefused
from protocols.dataplane.xfrm.messages import (
    XFRM_AE_LVAL,
    XFRM_AE_RVAL,
    XFRM_POLICY_IN,
    XFRM_POLICY_OUT,
    XFRMNLGRP_SA,
)
from protocols.dataplane.xfrm.policies import FIRST_PRIORITY, GONE, NO_LIMITS, PolicyTable, tolerating
from protocols.dataplane.xfrm.state import ESP, Child, Direction, Tally
from protocols.dataplane.xfrm.window import united
from protocols.errors import BackendError
from protocols.esp.sa import UNLIMITED
from protocols.ip import PACKET_MAXIMUM
from protocols.path import Address, Path

AHEAD = 1024  # packets that may be sent while a move is made; a quarter of our replay window
LINGER_INTERVAL = 2.0  # seconds; for what is under way when packets come, or go, by the new path
LINGER_MAXIMUM_INTERVAL = 10.0  # seconds, where none come; above what the peer's check of the path takes
_NEVER = {  # no packet has these addresses and this protocol (RFC 3692 §2.1)
    "family": socket.AF_INET,
    "saddr": "255.255.255.255",
    "prefixlen_s": 32,
    "daddr": "255.255.255.255",
    "prefixlen_d": 32,
    "proto": 254,
}
_NO_MIGRATE = frozenset((errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOTSUP))
_REPLAY = ("replay_esn_val", "replay_val")


class SaLost(BackendError):
    """The kernel has an SA no more, and nobody knows its sequence number."""


@dataclass(kw_only=True)
class _Lingering:
    """An SA on a path that was left, or on one where packets are expected, which had ``ahead`` of them before.

    ``since``: when it was first looked at; ``had``: the packets of the new one then; ``used``: when more were seen.
    """

    child: Child
    direction: Direction
    left: Direction
    ahead: int | None = None
    since: float | None = None
    had: int = 0
    used: float | None = None


class Moves:
    """What moves SAs from path to path, and ends those that stayed behind.

    ``take_events``: reads what the kernel has told so far, and calls ``expired``.
    """

    def __init__(
        self,
        kernel: XfrmConnection,
        watching: XfrmConnection,
        policies: PolicyTable,
        take_events: Callable[[], None],
    ) -> None:
        self._kernel = kernel
        self._watching = watching
        self._policies = policies
        self._take_events = take_events
        self._lingering: dict[tuple[Address, int], _Lingering] = {}

    @property
    def lingering(self) -> bool:
        """Whether there are SAs that stayed behind."""
        return bool(self._lingering)

    def info(self, direction: Direction) -> Any:
        """What the kernel has counted, ``None`` when it has the SA no more."""
        try:
            return self._kernel.counted(direction.identity)
        except XfrmRefused as error:
            if error.number in GONE:
                return None
            raise

    # ------------------------------------------------------------------ those that stayed behind

    def earlier(self, direction: Direction) -> Tally:
        """What they have counted."""
        return sum((self._counted(each) for each in direction.earlier), Tally())

    def ahead(self, direction: Direction) -> int:
        """How many packets those on expected paths have taken."""
        expecting = (self._lingering[each.place] for each in direction.earlier)
        return sum(self._counted(each.left).packets - each.ahead for each in expecting if each.ahead is not None)

    def expired(self, place: tuple[Address, int], counted: Tally) -> None:
        """The kernel has removed one at its limit."""
        found = self._lingering.get(place)
        if found is not None and not found.left.gone:
            found.left.kept, found.left.gone = counted, True

    def expire(self, now: float) -> None:
        """End those whose time is over."""
        for each in list(self._lingering.values()):
            if self._is_over(each, now):
                self._end_left(each)
                self._limit(each.child, each.direction)

    def _is_over(self, lingering: _Lingering, now: float) -> bool:
        info = None if lingering.direction.gone else self.info(lingering.direction)
        packets = 0 if info is None else info["curlft"]["packets"]
        if lingering.since is None:
            lingering.since, lingering.had = now, packets
        if (
            lingering.used is None
            and lingering.ahead is None
            and (not lingering.left.inbound or packets > lingering.had)
        ):
            lingering.used = now
        if lingering.used is not None and now - lingering.used >= LINGER_INTERVAL:
            return True
        return now - lingering.since >= LINGER_MAXIMUM_INTERVAL

    def end_all(self, child: Child, direction: Direction) -> None:
        """End those of an SA."""
        for each in list(self._lingering.values()):
            if each.child is child and each.direction is direction:
                self._end_left(each)

    def _leave(self, child: Child, direction: Direction) -> _Lingering:
        made = _Lingering(child=child, direction=direction, left=direction.leave())
        self._lingering[made.left.place] = made
        return made

    def _end_left(self, lingering: _Lingering) -> None:
        left = lingering.left
        if not left.gone:
            self._take_last(lingering, self._end(left))
        self._settle(lingering)

    def _take_last(self, lingering: _Lingering, info: Any) -> None:
        """What was counted in the end: by the answer to its deletion, or by the event of its end at a limit."""
        left = lingering.left
        if info is not None:
            left.kept, left.gone = Tally.of(info.get_attr("XFRMA_SA")), True
            return
        left.gone = False
        self._take_events()
        left.gone = True

    def _settle(self, lingering: _Lingering) -> None:
        direction, left = lingering.direction, lingering.left
        self._lingering.pop(left.place, None)
        direction.earlier.remove(left)
        direction.kept += left.kept
        if lingering.ahead is not None:
            lingering.child.strayed += left.kept.packets - lingering.ahead

    def _counted(self, direction: Direction) -> Tally:
        info = None if direction.gone else self.info(direction)
        return direction.kept if info is None else Tally.of(info)

    # ------------------------------------------------------------------ towards the peer

    def outbound(self, child: Child, path: Path, encapsulation: bool) -> None:
        """Move the SA towards the peer; ``SaLost``, or ``BackendError`` when the kernel refuses: it is gone then."""
        direction = child.outbound
        target = replace(direction, path=path, encapsulation=encapsulation)
        former = self._lingering.get(target.place)
        if former is not None:
            self._end_left(former)
        if not direction.gone and self._has_room(child, direction):
            left = self._leave(child, direction)
            behind = self._limited(child, left.left)
            if behind is not None:
                self._begin(direction, path, encapsulation, behind)
                (self._swap if target.place == left.left.place else self._beside)(child, left)
                return
            self._lingering.pop(left.left.place)
            direction.earlier.remove(left.left)
        self._block(child)
        self._renew(child, direction, path, encapsulation)

    def _has_room(self, child: Child, direction: Direction) -> bool:
        """Whether neither sequence numbers nor hard limits are so near that numbers ahead matter."""
        info = self.info(direction)
        if info is None:
            return False
        used = direction.kept + self.earlier(direction) + Tally.of(info)
        limits = child.spec.limits
        sequence = direction.started + info["curlft"]["packets"]
        return (
            sequence + 2 * AHEAD < child.soft_sequence
            and (limits.hard_packets is None or used.packets + 2 * AHEAD < limits.hard_packets)
            and (limits.hard_octets is None or used.octets + 2 * AHEAD * PACKET_MAXIMUM < limits.hard_octets)
        )

    def _limited(self, child: Child, left: Direction) -> int | None:
        """Let the kernel stop an SA soon; the last sequence number it can use, ``None`` where that is not known.

        Numbers and packets are counted under one lock, which XFRM_MSG_GETAE takes, too.
        """
        began, had = 0, None  # type: int, int | None
        try:
            began, had = self._sent(left)
            values = child.request(left)
            limit = had + AHEAD
            values["lft"]["hard_packet_limit"] = min(limit, values["lft"]["hard_packet_limit"])
            self._kernel.request("sa", "update", **values)
            # Read again: more than AHEAD may have left before the limit was there.
            sequence, packets = self._sent(left)
        except XfrmRefused as error:
            if error.number not in GONE | {errno.EINVAL}:
                raise
            self._take_events()
            return began + left.kept.packets - had if left.gone and had is not None else None
        return sequence + max(0, limit - packets)

    def _sent(self, direction: Direction) -> tuple[int, int]:
        """The last sequence number and the count of packets."""
        (told,) = self._kernel.request("ae", "get", sa_id=direction.identity, flags=XFRM_AE_RVAL | XFRM_AE_LVAL)
        return _sequence(told), told.get_attr("XFRMA_LTIME_VAL")["packets"]

    def _begin(self, direction: Direction, path: Path, encapsulation: bool, behind: int) -> None:
        """The SA is to be one on this path, its numbers behind that one."""
        direction.path, direction.encapsulation, direction.started = path, encapsulation, behind
        direction.former_source = None
        direction.elsewhere = direction.kept + self.earlier(direction)

    def _beside(self, child: Child, left: _Lingering) -> None:
        self._add(left, self._new(child, left.direction))

    def _add(self, left: _Lingering, values: dict[str, Any]) -> None:
        """An SA beside the one that is left, which ends if the kernel refuses."""
        direction = left.direction
        try:
            self._kernel.request("sa", "add", **values)
        except XfrmRefused:
            direction.gone = True
            self._end_left(left)
            raise
        direction.gone = False

    def _swap(self, child: Child, left: _Lingering) -> None:
        direction = left.direction
        values = self._new(child, direction)
        direction.gone = True
        block = self._policies.pointing(child.pairs, (XFRM_POLICY_OUT,))
        direction.gone = False
        point = self._policies.pointing(child.pairs, (XFRM_POLICY_OUT,))
        direction.gone = True
        self._exchange(left, values, block, point)
        self._limit(child, direction)

    def _exchange(
        self, left: _Lingering, values: dict[str, Any], before: Sequence[Request] = (), after: Sequence[Request] = ()
    ) -> Any:
        """Put an SA in the place of one at the same address, in one system call; the kernel's last word on that."""
        requests = (*before, ("sa", "delete", left.left.identity), ("sa", "add", values), *after)
        outcome: list[XfrmRefused | None] = []
        info = self._ended(left.left, lambda: outcome.extend(self._kernel.batch(requests)))
        self._take_last(left, info)
        self._settle(left)
        left.direction.gone = outcome[len(before) + 1] is not None
        for index, refused in enumerate(outcome):
            if refused is not None and not (index == len(before) and refused.number in GONE):
                raise refused
        return info

    def _new(self, child: Child, direction: Direction) -> dict[str, Any]:
        """A request for an SA whose numbers begin behind ``started``."""
        values = child.request(direction)
        low, high = direction.started & 0xFFFFFFFF, direction.started >> 32
        if "replay_esn_val" in values:
            values["replay_esn_val"] |= {"oseq": low, "oseq_hi": high}
        else:
            values["replay_val"] = {"oseq": low}
        return values

    def _limit(self, child: Child, direction: Direction) -> None:
        """Take what others have counted meanwhile out of the limits of use."""
        elsewhere = direction.kept + self.earlier(direction)
        if elsewhere == direction.elsewhere or direction.gone:
            return
        direction.elsewhere = elsewhere
        if child.spec.limits != UNLIMITED:
            with tolerating(GONE | {errno.EINVAL}):  # it may have reached one just now
                self._kernel.request("sa", "update", **child.request(direction))

    def _block(self, child: Child) -> None:
        """Let nothing out, so that the kernel asks nobody for an SA meanwhile (XFRM_MSG_ACQUIRE)."""
        direction = child.outbound
        was_gone, direction.gone = direction.gone, True
        self._policies.point(child.pairs, (XFRM_POLICY_OUT,))
        direction.gone = was_gone

    # ------------------------------------------------------------------ towards us

    def inbound(self, child: Child, path: Path, encapsulation: bool, *, beside: bool) -> None:
        """Move the SA towards us; ``beside``: another one has its addresses and its reqid."""
        direction = child.inbound
        target = replace(direction, path=path, encapsulation=encapsulation)
        windows = [] if direction.gone or target.place == direction.place else self._windows(direction)
        if windows:
            self._overlap(child, target, reduce(united, windows))
            return
        if target.place == direction.place and not (direction.gone or direction.encapsulation or encapsulation):
            direction.former_source = direction.addresses[0]  # without UDP the kernel does not look at it
            direction.path = path
            return
        unwrapped = direction.encapsulation and not encapsulation
        if beside or unwrapped or direction.gone or not self._migrate(child, path, encapsulation):
            windows = [] if direction.gone else self._windows(direction)
            if windows:
                self._supplant(child, target, reduce(united, windows))
            else:
                self._renew(child, direction, path, encapsulation)

    def _supplant(self, child: Child, target: Direction, window: dict[str, Any]) -> None:
        """Receive by another SA at the same address."""
        direction = child.inbound
        left = self._leave(child, direction)
        self._begin(direction, target.path, target.encapsulation, 0)
        info = self._exchange(left, {**child.request(direction), "replay_esn_val": window})
        last = None if info is None else info.get_attr("XFRMA_REPLAY_ESN_VAL")
        if last is not None and last != window:
            window = reduce(united, self._windows(direction), last)
            self._kernel.request("ae", "update", sa_id=direction.identity, replay_esn_val=window)

    def _windows(self, direction: Direction) -> list[dict[str, Any]]:
        """Its replay window and those of the ones that stayed behind; none where the kernel has it no more."""
        found = []
        for each in (direction, *direction.earlier):
            with tolerating(GONE):
                (told,) = self._kernel.request("ae", "get", sa_id=each.identity, flags=XFRM_AE_RVAL)
                found.append(told.get_attr("XFRMA_REPLAY_ESN_VAL"))
                continue
            if each is direction:
                break
        return found

    def _overlap(self, child: Child, target: Direction, window: dict[str, Any]) -> None:
        """Receive at another address, and at the old one for some time still."""
        direction = child.inbound
        former = self._lingering.get(target.place)
        back = former is not None and self._is_as(former.left, target)
        if former is not None:
            if back:
                self._lingering.pop(target.place)
                direction.earlier.remove(former.left)
            else:
                self._end_left(former)
        former_source = former.left.former_source if former is not None else None
        left = self._leave(child, direction)
        self._begin(direction, target.path, target.encapsulation, 0)
        values = child.request(direction)
        if back:
            direction.former_source = former_source
            self._kernel.request("sa", "update", **values)
            self._kernel.request("ae", "update", sa_id=direction.identity, replay_esn_val=window)
        else:
            self._add(left, {**values, "replay_esn_val": window})

    def expect(self, child: Child, path: Path, encapsulation: bool) -> None:
        """Receive at another address, too, where the kernel lets us: a move there will say if not."""
        direction = child.inbound
        info = None if direction.gone else self.info(direction)
        target = replace(direction, path=path, encapsulation=encapsulation, kept=Tally(), earlier=[])
        if info is None or target.place == direction.place:
            return
        target.former_source = None
        target.elsewhere = direction.kept + self.earlier(direction) + Tally.of(info)
        former = self._lingering.get(target.place)
        if former is not None:
            if self._is_as(former.left, target):
                former.since = former.used = None
                if former.ahead is None:
                    former.ahead = self._counted(former.left).packets
                return
            self._end_left(former)
        windows = self._windows(direction)
        if not windows:
            return
        with contextlib.suppress(XfrmRefused):
            self._kernel.request("sa", "add", **{**child.request(target), "replay_esn_val": reduce(united, windows)})
            direction.earlier.append(target)
            self._lingering[target.place] = _Lingering(child=child, direction=direction, left=target, ahead=0)

    def _is_as(self, left: Direction, target: Direction) -> bool:
        """Whether one that stayed behind can be the one on this path again."""
        return (
            not left.gone
            and left.encapsulation == target.encapsulation
            and left.source.address == target.source.address
            and self.info(left) is not None
        )

    def _migrate(self, child: Child, path: Path, encapsulation: bool) -> bool:
        """Move the SA towards us by XFRM_MSG_MIGRATE; whether the kernel did."""
        old = child.inbound
        source, destination = map(str, old.addresses)
        new = replace(old, path=path, encapsulation=encapsulation)
        before = self.info(old)
        if before is None:
            return False
        addresses = {"id": {"daddr": destination, "proto": ESP}, "saddr": source}
        anchor = {"sel": _NEVER, "dir": XFRM_POLICY_IN, **child.interface}
        template = {**child.template(old), **addresses}
        try:
            self._kernel.request("policy", "add", **anchor, lft=NO_LIMITS, priority=FIRST_PRIORITY, tmpl=[template])
        except XfrmRefused as error:
            if error.number != errno.EEXIST:
                raise
            return False  # another process moves an SA just now
        try:
            self._kernel.request(
                "policy",
                "migrate",
                **anchor,
                migrate=[
                    {
                        "old_daddr": destination,
                        "old_saddr": source,
                        "new_daddr": str(new.destination.address),
                        "new_saddr": str(new.source.address),
                        "proto": ESP,
                        "mode": child.mode,
                        "reqid": child.reqid,
                        "old_family": old.family,
                        "new_family": new.family,
                    }
                ],
                kmaddress={
                    "local": str(new.destination.address),
                    "remote": str(new.source.address),
                    "family": new.family,
                },
                **new.encap,
            )
        except XfrmRefused as error:
            if error.number not in _NO_MIGRATE:
                raise
            return False
        finally:
            with tolerating(GONE):
                self._kernel.request("policy", "delete", **anchor)
        old.path, old.encapsulation, old.former_source = path, encapsulation, None
        after = self.info(old)
        if after is not None:
            old.kept += Tally.of(after).lost_since(Tally.of(before))
        self._limit(child, old)
        return True

    # ------------------------------------------------------------------ deleted and made anew

    def _renew(self, child: Child, direction: Direction, path: Path, encapsulation: bool) -> None:
        """Make an SA anew on another path, from the very last state of the old one."""
        had = not direction.gone
        info = self._end(direction) if had else None
        direction.path, direction.encapsulation, direction.gone = path, encapsulation, True
        direction.former_source = None
        if info is None:
            if had:
                raise SaLost("kernel XFRM: an SA that was to be moved is gone")
            return
        direction.kept += Tally.of(info.get_attr("XFRMA_SA"))
        direction.elsewhere = direction.kept + self.earlier(direction)
        direction.started = _sequence(info)
        values = child.request(direction)
        for name in _REPLAY:
            state = info.get_attr(f"XFRMA_{name.upper()}")
            if state is not None:
                values[name] = state
        self._kernel.request("sa", "add", **values)
        direction.gone = False

    def _end(self, direction: Direction) -> Any:
        """Delete an SA; the kernel's last word on it (XFRM_MSG_DELSA), ``None`` when it had it no more.

        It comes after the last sequence number has been given out.
        """

        def delete() -> None:
            with tolerating(GONE):
                self._kernel.request("sa", "delete", **direction.identity)

        return self._ended(direction, delete)

    def _ended(self, direction: Direction, delete: Callable[[], None]) -> Any:
        identity = direction.identity
        self._watching.join(XFRMNLGRP_SA)
        try:
            delete()
            ended = [
                message
                for message in self._watching.events()
                if message["event"] == "XFRM_MSG_DELSA"
                and (message["spi"], message["daddr"]) == (identity["spi"], identity["daddr"])
            ]
        finally:
            self._watching.leave(XFRMNLGRP_SA)
        return ended[-1] if ended else None


def _sequence(told: Any) -> int:
    """The last sequence number sent, of what the kernel tells about an SA."""
    extended = told.get_attr("XFRMA_REPLAY_ESN_VAL")
    if extended is not None:
        return int(extended["oseq"] | extended["oseq_hi"] << 32)
    state = told.get_attr("XFRMA_REPLAY_VAL")
    return 0 if state is None else int(state["oseq"])
