"""XFRM netlink sockets of pyroute2's kind: ``AsyncXfrmSocket``, and ``XfrmSocket`` for programs without a loop.

::

    with XfrmSocket() as xfrm:
        xfrm.sa("add", id={"daddr": "192.0.2.1", "spi": 0x1000, "proto": 50}, saddr="198.51.100.7", ...)
        for each in xfrm.sa("dump"):
            print(each["id"]["spi"], each.get_attr("XFRMA_REPLAY_ESN_VAL"))

Like all of pyroute2's, ``XfrmSocket`` runs a loop of its own and is of no use in a thread where one runs already.
``NetlinkError`` is what the kernel refuses, in its own words.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pyroute2.netlink import NETLINK_XFRM
from pyroute2.netlink.nlsocket import AsyncNetlinkSocket, NetlinkSocket

from protocols.dataplane.xfrm.messages import MarshalXfrm, xfrm_request


class AsyncXfrmSocket(AsyncNetlinkSocket):
    """Requests are ``async for``: what the kernel answers, an acknowledgement where there is nothing else."""

    marshal_class = MarshalXfrm

    def __init__(self, **kwarg: Any) -> None:
        super().__init__(**{**kwarg, "family": NETLINK_XFRM, "ext_ack": True})

    async def _request(self, kind: str, command: str, values: dict[str, Any]) -> AsyncIterator[Any]:
        message = xfrm_request(kind, command, values)
        header = message["header"]
        answer: AsyncIterator[Any] = await self.nlm_request(message, header["type"], header["flags"])
        return answer

    async def sa(self, command: str, **kwarg: Any) -> AsyncIterator[Any]:
        """``alloc_spi``, ``add``, ``update``, ``delete``, ``get``, ``dump``, ``expire`` or ``flush`` SAs."""
        return await self._request("sa", command, kwarg)

    async def policy(self, command: str, **kwarg: Any) -> AsyncIterator[Any]:
        """``add``, ``update``, ``delete``, ``get``, ``dump``, ``expire``, ``flush`` or ``migrate`` policies."""
        return await self._request("policy", command, kwarg)

    async def ae(self, command: str, **kwarg: Any) -> AsyncIterator[Any]:
        """``get`` or ``update`` the sequence numbers and the lifetime of an SA."""
        return await self._request("ae", command, kwarg)


class XfrmSocket(NetlinkSocket):
    """The same, synchronous: requests return tuples."""

    async_class = AsyncXfrmSocket

    def __init__(self, **kwarg: Any) -> None:
        super().__init__(**kwarg)

    def sa(self, command: str, **kwarg: Any) -> tuple[Any, ...]:
        """See ``AsyncXfrmSocket.sa``."""
        return tuple(self._run_sync_cleanup(self.asyncore.sa, command, **kwarg))

    def policy(self, command: str, **kwarg: Any) -> tuple[Any, ...]:
        """See ``AsyncXfrmSocket.policy``."""
        return tuple(self._run_sync_cleanup(self.asyncore.policy, command, **kwarg))

    def ae(self, command: str, **kwarg: Any) -> tuple[Any, ...]:
        """See ``AsyncXfrmSocket.ae``."""
        return tuple(self._run_sync_cleanup(self.asyncore.ae, command, **kwarg))
