"""The policies of child SAs in the kernel: in and forwarded through any SA of their reqid, out through the newest.

Child SAs with the same selectors share them. A policy out is blocked while none of them sends.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from protocols.dataplane.xfrm.connection import Request, XfrmConnection, XfrmRefused
from protocols.dataplane.xfrm.messages import (
    XFRM_INF,
    XFRM_POLICY_ALLOW,
    XFRM_POLICY_BLOCK,
    XFRM_POLICY_FWD,
    XFRM_POLICY_IN,
    XFRM_POLICY_OUT,
)
from protocols.dataplane.xfrm.selectors import Pair
from protocols.dataplane.xfrm.state import Child
from protocols.errors import BackendError, LocalError

FIRST_PRIORITY = 0x7FFFFFFF  # counted down: the newest policy of those that match is the one that counts
NO_LIMITS = dict.fromkeys(("soft_byte_limit", "hard_byte_limit", "soft_packet_limit", "hard_packet_limit"), XFRM_INF)
GONE = frozenset((errno.ESRCH, errno.ENOENT))


@contextlib.contextmanager
def tolerating(numbers: frozenset[int]) -> Iterator[None]:
    """Let pass what the kernel refuses with one of these errors."""
    try:
        yield
    except XfrmRefused as error:
        if error.number not in numbers:
            raise


@dataclass(eq=False)
class _Policies:
    """The policies of a pair of selectors, and the child SAs that have it."""

    reqid: int
    children: list[Child] = field(default_factory=list)


class PolicyTable:
    """The kernel's policies of ours, by pair of selectors."""

    def __init__(self, kernel: XfrmConnection) -> None:
        self._kernel = kernel
        self._policies: dict[Pair, _Policies] = {}

    def shared_reqid(self, pairs: Iterable[Pair]) -> int | None:
        """The reqid of the child SAs that have one of these pairs already; ``LocalError``: there are several."""
        shared = {self._policies[pair].reqid for pair in pairs if pair in self._policies}
        if len(shared) > 1:
            raise LocalError("the traffic selectors are those of two child SAs that have nothing else in common")
        return shared.pop() if shared else None

    def add(self, pair: Pair, child: Child) -> None:
        """Give a child SA the policies of a pair; ``BackendError``: nothing is left behind."""
        policies = self._policies.get(pair)
        if policies is not None:
            policies.children.append(child)
            self.point((pair,))
            return
        policies = _Policies(child.reqid, [child])
        made: list[int] = []
        try:
            for policy_direction in (XFRM_POLICY_IN, XFRM_POLICY_FWD, XFRM_POLICY_OUT):
                self._kernel.request("policy", "add", **self._policy(pair, policies, policy_direction))
                made.append(policy_direction)
        except XfrmRefused as error:
            for policy_direction in made:
                self._delete(pair, policy_direction)
            if error.number == errno.EEXIST:
                raise BackendError(
                    "kernel XFRM: another program has a policy with the selectors of this child SA"
                ) from error
            raise
        self._policies[pair] = policies

    def discard(self, child: Child) -> None:
        """Take a child SA out of the policies that it has; those that it had alone go."""
        for pair in child.pairs:
            policies = self._policies.get(pair)
            if policies is None or child not in policies.children:
                continue
            policies.children.remove(child)
            if policies.children:
                self.point((pair,))
                continue
            del self._policies[pair]
            for policy_direction in (XFRM_POLICY_OUT, XFRM_POLICY_IN, XFRM_POLICY_FWD):
                self._delete(pair, policy_direction)

    def point(
        self,
        pairs: Iterable[Pair],
        policy_directions: Iterable[int] = (XFRM_POLICY_OUT, XFRM_POLICY_IN, XFRM_POLICY_FWD),
    ) -> None:
        """Let policies say what they should by now."""
        for kind, command, values in self.pointing(pairs, policy_directions):
            self._kernel.request(kind, command, **values)

    def pointing(self, pairs: Iterable[Pair], policy_directions: Iterable[int]) -> list[Request]:
        """The requests of ``point`` as they are by now."""
        directions = tuple(policy_directions)
        return [
            ("policy", "update", self._policy(pair, self._policies[pair], direction))
            for pair in pairs
            for direction in directions
        ]

    def remove_leftovers(self, reqids: range) -> int:
        """Remove policies with these reqids, of whatever run; how many there were."""
        found = 0
        for policy in self._kernel.request("policy", "dump"):
            templates = policy.get_attr("XFRMA_TMPL") or ()
            if any(template["reqid"] in reqids for template in templates):
                if_id = policy.get_attr("XFRMA_IF_ID")
                interface = {} if if_id is None else {"if_id": if_id}
                with tolerating(GONE):
                    self._kernel.request("policy", "delete", sel=policy["sel"], dir=policy["dir"], **interface)
                found += 1
        return found

    def _policy(self, pair: Pair, policies: _Policies, policy_direction: int) -> dict[str, Any]:
        """``userpolicy_info``: out through the newest that sends, blocked when none does; in through any."""
        newest = max(policies.children, key=lambda child: (child.sending, child.serial))
        outbound = policy_direction == XFRM_POLICY_OUT
        blocked = outbound and (not newest.sending or newest.outbound.gone)
        return {
            "sel": pair.selector(outbound=outbound),
            "lft": NO_LIMITS,
            "priority": FIRST_PRIORITY - newest.serial,
            "dir": policy_direction,
            "action": XFRM_POLICY_BLOCK if blocked else XFRM_POLICY_ALLOW,
            "tmpl": [newest.template(newest.outbound if outbound else newest.inbound)],
            **newest.interface,
        }

    def _delete(self, pair: Pair, policy_direction: int) -> None:
        selector = pair.selector(outbound=policy_direction == XFRM_POLICY_OUT)
        interface = {"if_id": pair.if_id} if pair.if_id else {}
        with tolerating(GONE):
            self._kernel.request("policy", "delete", sel=selector, dir=policy_direction, **interface)
