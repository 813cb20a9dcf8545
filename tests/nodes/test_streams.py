"""Listening stream sockets as nodes get them from the system."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import pytest

from protocols.io.streams import listening_socket


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_is_written_to_an_accepted_connection_leaves_at_once(address: str) -> None:
    """Nagle's algorithm (RFC 9293 §3.7.4) is off: an answer behind another does not wait for an acknowledgement."""

    async def scenario() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = listening_socket(ip_address(address), 0)
        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(address, listening.getsockname()[1])
            async with asyncio.timeout(5):
                without_delay = await accepted
            writer.close()
            await writer.wait_closed()
        return without_delay

    assert asyncio.run(scenario())
