"""Kernel parameters of the process's network namespace, under ``/proc/sys``."""

from __future__ import annotations

from pathlib import Path

from protocols.errors import BackendError

ROOT = Path("/proc/sys")
FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def read_sysctl(key: str) -> str:
    """The value of ``KEY`` (``net/ipv4/ip_forward``); ``BackendError``: the kernel has no such parameter."""
    try:
        return (ROOT / key).read_text(encoding="ascii").strip()
    except OSError as error:
        raise BackendError(f"{ROOT / key}: {error.strerror}") from error


def write_sysctl(key: str, value: str) -> None:
    """Set it; ``BackendError``: not permitted, or read-only as in many containers."""
    try:
        (ROOT / key).write_text(f"{value}\n", encoding="ascii")
    except OSError as error:
        name = key.replace("/", ".")
        raise BackendError(f"{name} cannot be set to {value} ({error.strerror}): set it before the start") from error
