"""The UE of the loopback stage as a process: a stock UE node whose links go through the relays of its accesses.

``python -m lab.mobility.ue_process UE.yaml RELAYS.json``; RELAYS.json: [[address, port, relay's port], ...].
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import signal
import sys
from ipaddress import ip_address
from pathlib import Path

from lab.mobility.relay import LOOPBACK, relayed_opener
from protocols.io.configuration import exit_on_error, load
from protocols.io.logging import start_logging
from protocols.io.platform import Platform
from protocols.io.process import run_command_line
from protocols.path import Address, Endpoint
from ue.config import UeConfiguration
from ue.runtime import UeNode


def read_relays(path: Path) -> dict[Address, dict[int, Endpoint]]:
    """The relays by the UE's addresses and ports."""
    relays: dict[Address, dict[int, Endpoint]] = {}
    for address, port, relay in json.loads(path.read_text(encoding="utf-8")):
        relays.setdefault(ip_address(address), {})[port] = Endpoint(LOOPBACK, relay)
    return relays


async def serve(configuration: UeConfiguration, relays: dict[Address, dict[int, Endpoint]]) -> None:
    """Until SIGTERM or SIGINT."""
    platform = Platform(open_link=functools.partial(relayed_opener, relays), open_raw_esp=None)
    node = UeNode(configuration, platform)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    await node.run(node.stopped)


@exit_on_error
def main() -> None:
    """Entry point; the laboratory gives both arguments."""
    configuration = load(Path(sys.argv[1]), UeConfiguration)
    start_logging(configuration.node, level=logging.INFO, machine_readable=False)
    asyncio.run(serve(configuration, read_relays(Path(sys.argv[2]))))


if __name__ == "__main__":
    run_command_line(main)
