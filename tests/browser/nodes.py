"""AAA server with its HSS, gateway, UE and dashboard as processes on loopback, for a browser to look at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from aaa.subscribers.laboratory import laboratory_subscriber
from dashboards.tokens import Role, Tokens
from protocols.io.control import ControlError, call_sync
from protocols.trace.records import JsonValue
from tests.browser.chromium import WAIT, aside
from tests.nodes.test_ue_node import GATEWAY, Ue
from tests.peers.aaa_node import AaaProcess
from tests.peers.dashboards_node import DashboardsProcess
from tests.peers.epdg_node import EpdgProcess
from tests.peers.processes import wait_until

T = TypeVar("T")

ELSEWHERE = "127.0.41.2"  # a second address of the gateway's machine
USER, BARRED = laboratory_subscriber(1), replace(laboratory_subscriber(2), non_3gpp_allowed=False)


@dataclass
class Nodes:
    """All of them; what is asked of them is asked beside Playwright's event loop."""

    directory: Path
    aaa: AaaProcess
    epdg: EpdgProcess
    ue: Ue
    dashboards: DashboardsProcess

    def token(self, name: str, role: Role) -> str:
        """A new token of the dashboard's, in place of one of that name: a test may have a second attempt."""
        tokens = Tokens(self.dashboards.directory / "tokens.json")
        if any(token.name == name for token in tokens.all()):
            tokens.remove(name)
        return tokens.add(name, role)

    def of_ue(self, method: str, **params: JsonValue) -> dict[str, JsonValue]:
        """A control method of the UE."""
        return aside(self.ue.call, method, **params)

    def attach(self) -> str:
        """The UE attaches from wifi-a; its session's name at the gateway."""
        self.of_ue("ue.attach", access="wifi-a", force=True)
        (session,) = aside(self.epdg.sessions, state="established")
        assert isinstance(session, dict)
        return str(session["id"])

    def leave(self) -> None:
        """The UE detaches, if the gateway has not ended its session."""
        with contextlib.suppress(ControlError):
            self.of_ue("ue.detach")

    def end_of(self, session: str) -> str:
        """Wait for the session's end; the name of the one that the UE has then."""

        def latest() -> str | None:
            names = [str(each["id"]) for each in aside(self.epdg.sessions, state="established")]
            return names[0] if names and session not in names else None

        return wait_until(latest, what="another session", timeout=WAIT / 1000)

    def serve_elsewhere(self) -> None:
        """The gateway serves UEs at a second address as well, if it does not yet."""
        with contextlib.suppress(ControlError):
            aside(call_sync, self.epdg.control, "addresses.add", address=ELSEWHERE)

    def refused(self, change: Callable[[dict[str, object]], None] | None = None) -> str:
        """A subscriber who may not comes from wifi-b and is turned away; the session's name at the gateway."""
        before = {session["id"] for session in aside(self.epdg.sessions)}

        def elsewhere(values: dict[str, object]) -> None:
            accesses = values["accesses"]
            assert isinstance(accesses, dict)
            values["accesses"] = {"wifi-b": accesses["wifi-b"]}
            if change is not None:
                change(values)

        directory = self.directory / f"refused-{len(before)}"
        directory.mkdir()
        done = Ue(directory, self.epdg.authority, BARRED, elsewhere).command("attach")
        assert done.returncode == 1, done.stdout + done.stderr
        (session,) = [session for session in aside(self.epdg.sessions) if session["id"] not in before]
        return str(session["id"])


@contextlib.contextmanager
def nodes(directory: Path, extra: str = "", **others: tuple[str, Path]) -> Iterator[Nodes]:
    """Started in order, ended in the other; ``extra`` is of the dashboard's configuration, ``others`` are its nodes."""
    with _beside(_core_and_phone(directory)) as (aaa, epdg, ue):
        (directory / "dashboards").mkdir()
        dashboards = DashboardsProcess(
            directory / "dashboards",
            {"epdg": ("epdg", epdg.control), "aaa": ("aaa", aaa.control), "ue": ("ue", ue.control), **others},
            f"tokens: tokens.json\n{extra}",
        )
        with _beside(dashboards):
            yield Nodes(directory, aaa, epdg, ue, dashboards)


@contextlib.contextmanager
def core_and_phone(directory: Path) -> Iterator[str]:
    """The nodes without gateway in their names and without a dashboard: ``core`` and ``phone``, as one lists them."""
    with _beside(_core_and_phone(directory)) as (aaa, _, ue):
        yield (
            f"  - {{ name: core, kind: aaa, control: {aaa.control} }}\n"
            f"  - {{ name: phone, kind: ue, control: {ue.control} }}"
        )


def _obeys(values: dict[str, object]) -> None:
    values["redirect"] = {"obey": "authenticated"}


@contextlib.contextmanager
def _core_and_phone(directory: Path) -> Iterator[tuple[AaaProcess, EpdgProcess, Ue]]:
    for name in ("aaa", "epdg", "ue"):
        (directory / name).mkdir()
    aaa = AaaProcess(directory / "aaa")
    aaa.provision(USER, BARRED)
    with (
        aaa,
        EpdgProcess(directory / "epdg", aaa.port, address=GATEWAY) as epdg,
        Ue(directory / "ue", epdg.authority, change=_obeys).node("run") as ue,
    ):
        yield aaa, epdg, ue


@contextlib.contextmanager
def _beside(started: AbstractContextManager[T]) -> Iterator[T]:
    """The same, entered and left beside Playwright's event loop."""
    try:
        yield aside(started.__enter__)
    finally:
        aside(started.__exit__, None, None, None)
