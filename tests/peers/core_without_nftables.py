"""A gateway's core on a kernel without nftables, told as JSON: run inside another kernel (``inkernel.sh``)."""

from __future__ import annotations

import asyncio
import json

from epdg.config import ApnSection, DataPlaneKind, DataPlaneSection
from epdg.core import Core
from protocols.dataplane.userspace.tun import TunDevice
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError
from protocols.io.sysctl import FORWARDING, read_sysctl

PLAIN = {"pool": "10.45.0.0/24"}


async def opened(apn: dict[str, str]) -> str:
    """Forwarding of IPv4 while the core is open, or why it does not open."""
    core = Core(
        DataPlaneSection(kind=DataPlaneKind.TUN),
        {"internet": ApnSection.model_validate(apn)},
        lambda packet: None,
        SeededEntropy(1),
    )
    try:
        await core.open(TunDevice.open, lambda error: None, lambda: None)
        return read_sysctl(FORWARDING[4])
    except BackendError as error:
        return str(error)
    finally:
        core.close()


def main() -> None:
    """Both, and what is left."""
    found = {
        "routed": asyncio.run(opened(PLAIN)),
        "masqueraded": asyncio.run(opened({**PLAIN, "egress": "masqueraded"})),
        "afterwards": read_sysctl(FORWARDING[4]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
