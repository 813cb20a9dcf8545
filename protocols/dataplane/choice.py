"""Which backend carries a node's ESP: the kernel where it can, else the compiled loop where built, else Python."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from protocols.dataplane.carrier import Carrier, PythonCarrier
from protocols.dataplane.port import Backend
from protocols.errors import BackendError, ConfigurationError
from protocols.esp.tunnel import TunnelPolicy
from protocols.ikev2.suites import EspSuite
from protocols.io.platform import Platform
from protocols.trace.records import JsonValue

PREFERENCE = (Backend.KERNEL, Backend.COMPILED, Backend.PYTHON)
Wanted = Backend | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a node asks of a backend.

    ``suites``: what its policy may agree on. ``interfaces``: those that its links are bound to. ``namespaces``: network
    namespaces for devices beside its own. ``only_python``: why no other one will do, if so: what passes the node's own
    Python on its way, hosts in the process or links that are no sockets.
    """

    suites: tuple[EspSuite, ...] = ()
    policy: TunnelPolicy
    interfaces: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    only_python: str | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """``refused``: the backends that would have come before, and why they cannot."""

    backend: Backend
    refused: dict[Backend, str] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """In one line, for the log and ``doctor``."""
        reasons = set(self.refused.values())
        why = "; ".join(f"not by {WORDS[backend]}: {reason}" for backend, reason in self.refused.items())
        if len(reasons) == 1 and len(self.refused) > 1:
            (why,) = reasons
        return f"ESP is carried by {WORDS[self.backend]}" + (f" ({why})." if why else ".")

    @property
    def view(self) -> dict[str, JsonValue]:
        """As the control interface shows it."""
        return {
            "backend": self.backend.value,
            "refused": {backend.value: reason for backend, reason in self.refused.items()},
            "remark": self.remark,
        }


WORDS = {
    Backend.KERNEL: "the kernel",
    Backend.COMPILED: "the compiled loop",
    Backend.PYTHON: "Python",
}


class CannotBeHad(BackendError):
    """The backend that is wanted, and why not."""

    def __init__(self, wanted: Backend, reason: str) -> None:
        super().__init__(f"data_plane.backend: {wanted.value} cannot be had: {reason}")
        self.wanted = wanted
        self.reason = reason


@contextlib.contextmanager
def refusing(file: Path) -> Iterator[None]:
    """Around the making of a node: ``ConfigurationError`` where its file wants a backend that cannot be had."""
    try:
        yield
    except CannotBeHad as error:
        expected = f"auto, or a backend that can be had ({error.reason})"
        raise ConfigurationError(
            file=str(file), key="data_plane.backend", value=error.wanted.value, expected=expected
        ) from error


def choose(wanted: Wanted, needs: Needs) -> Choice:
    """The backend that is wanted, or the best; ``CannotBeHad``: the one that is wanted."""
    if wanted != "auto":
        reason = why_not(wanted, needs)
        if reason is not None:
            raise CannotBeHad(wanted, reason)
        return Choice(backend=wanted)
    refused: dict[Backend, str] = {}
    for backend in PREFERENCE:
        reason = why_not(backend, needs)
        if reason is None:
            return Choice(backend=backend, refused=refused)
        refused[backend] = reason
    raise AssertionError("Python is always there")


def why_not(backend: Backend, needs: Needs) -> str | None:
    """What is missing, ``None`` when nothing is."""
    if backend is Backend.PYTHON:
        return None
    return needs.only_python or _missing(backend, needs)


def _missing(backend: Backend, needs: Needs) -> str | None:
    """Asked of the system; their libraries take a while, and only those who use them wait for it."""
    if backend is Backend.KERNEL:
        if needs.namespaces:
            return f"data_plane.namespace: {needs.namespaces[0]}: its device is where the node runs"
        from protocols.dataplane.xfrm.carrier import why_not as not_by_the_kernel

        return not_by_the_kernel(needs.policy, needs.suites, needs.interfaces)
    from protocols.dataplane.fast import plane

    reason = plane.why_not()
    if reason is not None:
        return f"it was not built ({reason})"
    lacking = plane.lacking(needs.suites)
    return f"this libcrypto lacks {', '.join(lacking)}" if lacking else None


def carrier_of(choice: Choice, needs: Needs, platform: Platform) -> Carrier:
    """What carries ESP by this choice, not started."""
    if choice.backend is Backend.KERNEL:
        from protocols.dataplane.xfrm.carrier import KernelCarrier

        return KernelCarrier(policy=needs.policy)
    if choice.backend is Backend.COMPILED:
        from protocols.dataplane.fast.carrier import CompiledCarrier

        return CompiledCarrier(policy=needs.policy, now=platform.clock.monotonic)
    return PythonCarrier(
        entropy=platform.entropy,
        policy=needs.policy,
        now=platform.clock.monotonic,
        open_link=platform.open_link,
        open_raw=platform.open_raw_esp,
    )
