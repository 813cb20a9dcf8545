"""Checks of the machine: ports, buffers, TUN, raw sockets, nftables, forwarding, clock."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from epdg.config import ApnSection, DataPlaneKind, EgressMode, IkeSection
from epdg.doctor.finding import Finding, Situation
from epdg.profile import data_plane_needs
from protocols.dataplane.choice import WORDS, Needs, Wanted, choose, why_not
from protocols.dataplane.fast.plane import ipsec_mb
from protocols.dataplane.port import Backend
from protocols.dataplane.userspace.tun import IFF_NO_PI, IFF_TUN, TUN_PATH, TUNSETIFF
from protocols.errors import BackendError
from protocols.esp.tunnel import DEFAULT_POLICY
from protocols.ikev2.proposals import EspPolicy
from protocols.io.sockets import BUFFER_OCTETS, family_of, set_buffers
from protocols.io.sysctl import FORWARDING, ROOT, read_sysctl
from protocols.path import Address, Endpoint

IPPROTO_ESP = 50
IKE_PORT, NAT_TRAVERSAL_PORT = 500, 4500
NOT_EARLIER = datetime(2026, 1, 1, tzinfo=UTC)  # no version that has this check is older
TIME_ERROR = 5  # <linux/timex.h>: nothing keeps the clock right
TIMEX_LENGTH = 256  # more than struct timex has anywhere
_BACKEND_REMEDIES = {
    Backend.KERNEL: "Run as root on a kernel with xfrm_user, esp4, esp6 (modprobe), or leave it to another backend",
    Backend.COMPILED: "Build it (make fast: gcc, Python's headers, libssl-dev), or install a wheel that has it",
}
_RIGHTS = "Run as root, or give CAP_NET_ADMIN (systemd: AmbientCapabilities, Docker: --cap-add NET_ADMIN)"


def data_plane(situation: Situation) -> Iterator[Finding]:
    """What carries ESP, why not something better, and what is behind it."""
    configuration = situation.configuration
    wanted: Wanted = "auto"
    if configuration is None:
        policy = EspPolicy.of(IkeSection().esp_suites)
        needs = Needs(policy=DEFAULT_POLICY, suites=policy.suites)
        behind = "with data_plane.kind tun"
    else:
        needs, wanted = data_plane_needs(configuration), configuration.data_plane.backend
        behind = "behind it hosts in the gateway that answer echo; nothing reaches other networks"
        if configuration.data_plane.kind is DataPlaneKind.TUN:
            behind = f"behind it the kernel's network by the device {configuration.data_plane.device}"
    for backend in _BACKEND_REMEDIES:
        if needs.only_python is None and wanted in ("auto", backend):
            yield from _backend(backend, needs, asked=wanted is backend)
    try:
        choice = choose(wanted, needs)
    except BackendError:
        return  # said above
    yield Finding.good("data-plane", f"ESP is carried by {WORDS[choice.backend]}, {behind}")


def _backend(backend: Backend, needs: Needs, *, asked: bool) -> Iterator[Finding]:
    """Whether one of them could."""
    reason = why_not(backend, needs)
    if reason is None:
        faster = ipsec_mb() if backend is Backend.COMPILED else None
        by = "" if faster is None else f", AES-GCM by libIPSec_MB {faster}"
        yield Finding.good("data-plane", f"{WORDS[backend]} can carry ESP{by}")
        return
    remedy = _BACKEND_REMEDIES[backend]
    yield Finding.bad("data-plane", f"{WORDS[backend]} cannot carry ESP: {reason}", remedy, needed=asked)


def ports(situation: Situation) -> Iterator[Finding]:
    """Whether IKE can be served where it is configured."""
    configuration = situation.configuration
    addresses: tuple[Address, ...] = (IPv4Address("0.0.0.0"), IPv6Address("::"))
    numbers = (IKE_PORT, NAT_TRAVERSAL_PORT)
    if configuration is not None:
        listen = configuration.listen
        addresses, numbers = listen.addresses, (listen.ike_port, listen.nat_traversal_port)
    for endpoint in [Endpoint(address, port) for address in addresses for port in numbers]:
        if situation.running:
            yield Finding.good("ports", f"UDP {endpoint} is served by the gateway that runs with this configuration")
        else:
            yield _port(endpoint, needed=configuration is not None)


def _port(endpoint: Endpoint, *, needed: bool) -> Finding:
    try:
        with socket.socket(family_of(endpoint.address), socket.SOCK_DGRAM) as opened:
            opened.bind((str(endpoint.address), endpoint.port))
    except OSError as error:
        remedies = {
            errno.EACCES: "Ports below 1024 need root or CAP_NET_BIND_SERVICE, or other ports under listen",
            errno.EADDRINUSE: "End the program that has it (strongSwan, another gateway), or choose another port",
            errno.EADDRNOTAVAIL: "This machine has no such address: add it, or name one of its own in listen.addresses",
        }
        remedy = remedies.get(error.errno or 0, "Choose another address or port under listen")
        return Finding.bad("ports", f"UDP {endpoint} cannot be bound: {error.strerror}", remedy, needed=needed)
    return Finding.good("ports", f"UDP {endpoint} can be bound")


def tun(situation: Situation) -> Iterator[Finding]:
    """Whether TUN devices can be made, and the configured one's name is free."""
    needed = situation.needs_tun
    device = "" if situation.configuration is None else situation.configuration.data_plane.device
    if needed and not situation.running and device in [name for _, name in socket.if_nameindex()]:
        remedy = f"End the program that has it, remove it (ip link del {device}), or name another in data_plane.device"
        yield Finding.bad("tun", f"there is an interface {device} already", remedy)
    try:
        descriptor = os.open(TUN_PATH, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        remedy = "Load the module (modprobe tun); in a container: --device /dev/net/tun"
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = _RIGHTS
        yield Finding.bad("tun", f"{TUN_PATH}: {error.strerror}", remedy, needed=needed)
        return
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"", IFF_TUN | IFF_NO_PI))
    except OSError as error:
        yield Finding.bad("tun", f"no TUN device can be made: {error.strerror}", _RIGHTS, needed=needed)
    else:
        yield Finding.good("tun", "TUN devices can be made")
    finally:
        os.close(descriptor)


def buffers(situation: Situation) -> Iterator[Finding]:
    """Whether sockets get the buffers that they ask for: without, a burst of ESP finds no room sooner."""
    del situation
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        set_buffers(opened, BUFFER_OCTETS, BUFFER_OCTETS)
        got = {
            "net.core.rmem_max": opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2,  # socket(7): doubled
            "net.core.wmem_max": opened.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2,
        }
    short = {key: octets for key, octets in got.items() if octets < BUFFER_OCTETS}
    if not short:
        yield Finding.good("buffers", f"sockets get buffers of {BUFFER_OCTETS} octets")
    for key, octets in short.items():
        way = "receive" if key == "net.core.rmem_max" else "send"
        why = f"sockets get {octets} of {BUFFER_OCTETS} octets to {way}"
        remedy = f"Give CAP_NET_ADMIN, or sysctl -w {key}={BUFFER_OCTETS}: a burst finds no room sooner"
        yield Finding.bad("buffers", why, remedy, needed=False)


def raw_sockets(situation: Situation) -> Iterator[Finding]:
    """Whether ESP without UDP could be sent and received (IP protocol 50)."""
    del situation
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_ESP).close()
    except OSError as error:
        remedy = "Only ESP without UDP encapsulation needs them: root or CAP_NET_RAW"
        yield Finding.bad("raw-sockets", f"no raw sockets: {error.strerror}", remedy, needed=False)
    else:
        yield Finding.good("raw-sockets", "raw sockets for ESP can be opened")


def nftables(situation: Situation) -> Iterator[Finding]:
    """Whether the packet filter behind the gateway can be set up, masquerading included."""
    from epdg.pdn.egress import WITHOUT_NFTABLES, Egress  # netlink's library takes a while
    from protocols.io.netlink_requests import NetlinkRefusal

    network = ApnSection.model_validate({"pool": "192.0.2.0/24", "pool6": "2001:db8::/32", "egress": "masqueraded"})
    try:
        Egress("doctor", {"doctor": network}).try_out()
    except BackendError as error:
        needed, remedy = situation.needs_tun, _RIGHTS
        if isinstance(error, NetlinkRefusal) and error.number in WITHOUT_NFTABLES:
            apns = {} if situation.configuration is None else situation.configuration.apns
            needed = needed and any(apn.has_egress_of_its_own for apn in apns.values())
            remedy = "The kernel needs nf_tables with the family inet, nft_ct, nft_masq: UEs are not kept apart without"
        yield Finding.bad("nftables", f"no rules can be made: {error}", remedy, needed=needed)
    else:
        yield Finding.good("nftables", "rules with masquerading of IPv4 and IPv6 can be made")


def forwarding(situation: Situation) -> Iterator[Finding]:
    """Whether the kernel forwards what APNs send, or can be told to."""
    needed: set[int] = set()
    if situation.configuration is not None and situation.needs_tun:
        apns = [
            apn for apn in situation.configuration.apns.values() if apn.egress is not EgressMode.NONE or apn.ue_to_ue
        ]
        needed = {network.version for apn in apns for network in apn.networks}
    for version, key in FORWARDING.items():
        name = key.replace("/", ".")
        try:
            value = read_sysctl(key)
        except BackendError as error:
            yield Finding.bad(
                "forwarding",
                str(error),
                f"The kernel has no IPv{version}: leave it out of apns",
                needed=version in needed,
            )
            continue
        if value != "0":
            yield Finding.good("forwarding", f"the kernel forwards IPv{version} ({name} is {value})")
        elif os.access(ROOT / key, os.W_OK):
            yield Finding.good("forwarding", f"{name} is 0 and can be set, which the gateway does while it runs")
        else:
            remedy = f"Set it before the start: sysctl -w {name}=1 (Docker: --sysctl {name}=1)"
            yield Finding.bad(
                "forwarding", f"{name} is 0 and cannot be set from here", remedy, needed=version in needed
            )


def clock(situation: Situation) -> Iterator[Finding]:
    """Whether certificates and Session-Timeouts can be judged by this machine's clock."""
    del situation
    now = datetime.now(UTC)
    shown = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < NOT_EARLIER:
        yield Finding.bad("clock", f"it is {shown} by this machine's clock", "Set the clock (timedatectl, chrony)")
        return
    if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_LENGTH)) == TIME_ERROR:
        remedy = "Let NTP keep it (chrony, systemd-timesyncd), unless the host of this container does"
        why = f"it is {shown}; the kernel does not know of anything that keeps it right"
        yield Finding.bad("clock", why, remedy, needed=False)
        return
    yield Finding.good("clock", f"it is {shown}, kept right")


def control(situation: Situation) -> Iterator[Finding]:
    """Whether the control socket can be made."""
    if situation.configuration is None:
        return
    path = situation.configuration.control
    if situation.running:
        yield Finding.good("control", f"a gateway runs and answers on {path}")
    elif os.access(_directory(path), os.W_OK):
        yield Finding.good("control", f"{path} can be made; no gateway runs now")
    else:
        yield Finding.bad("control", f"{path} cannot be made", f"Make {path.parent} and let this user write into it")


def _directory(path: Path) -> Path:
    return path.parent.resolve()
