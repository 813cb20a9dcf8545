"""Connection management (RFC 4621 §3, §5.1, §5.4): triggers and decisions on virtual time, told as stories."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from itertools import count

import pytest

from ue.commands import Tell
from ue.management import (
    Attach,
    ConnectionManagement,
    Decision,
    Hint,
    Move,
    Phase,
    Policy,
    Recheck,
    Release,
    Resume,
    Suspend,
)

TAKES = 0.1  # an attach or a move that is answered
FAILS_AFTER = 3.0  # one that is not

Step = tuple[float, str, str]


class Story:
    """Plays triggers to the machine, carries its decisions out, and keeps them as ``(seconds, words)``."""

    def __init__(self, *accesses: str, deaf: Iterable[str] = (), attach: bool = True) -> None:
        self.machine = ConnectionManagement(accesses, Policy(prefer=accesses))
        self.deaf = set(deaf)
        self.now = 0.0
        self.told: list[tuple[float, str]] = []
        self.tells: list[Tell] = []
        self._coming: list[tuple[float, int, Callable[[], list[Decision]]]] = []
        self._count = count()
        if attach:
            self.take(self.machine.want(0.0))

    def later(self, after: float, outcome: Callable[[], list[Decision]]) -> None:
        heapq.heappush(self._coming, (self.now + after, next(self._count), outcome))

    def take(self, decisions: list[Decision]) -> None:
        machine = self.machine
        for decision in decisions:
            match decision:
                case Tell():
                    self.tells.append(decision)
                    continue
                case Attach(access=access):
                    words = f"attach {access}"
                    if access in self.deaf:
                        self.later(FAILS_AFTER, lambda a=access: machine.attach_failed(a, "no response", self.now))  # type: ignore[misc]
                    else:
                        self.later(TAKES, lambda a=access: machine.attached(a, self.now))  # type: ignore[misc]
                case Move(access=access) | Resume(access=access):
                    words = f"resume {access}" if isinstance(decision, Resume) else f"move {access}"
                    if isinstance(decision, Move):
                        words += " keep" * decision.keep_old + " again" * decision.again
                    if access in self.deaf:
                        self.later(FAILS_AFTER, lambda a=access: machine.move_failed(a, "no response", self.now))  # type: ignore[misc]
                    else:
                        self.later(TAKES, lambda a=access: machine.moved(a, self.now))  # type: ignore[misc]
                case Suspend():
                    words = "suspend"
                case Recheck():
                    words = "recheck"
                case Release(access=access):
                    words = f"release {access}"
            self.told.append((round(self.now, 2), words))

    def run(self, until: float) -> None:
        while True:
            timer = self.machine.next_deadline()
            times = [at for at in (timer, self._coming[0][0] if self._coming else None) if at is not None]
            following = min(times, default=None)
            if following is None or following > until:
                break
            self.now = max(self.now, following)
            if self._coming and self._coming[0][0] <= self.now:
                self.take(heapq.heappop(self._coming)[2]())
            else:
                self.take(self.machine.handle_timeout(self.now))
        self.now = until

    def play(self, *steps: Step, until: float) -> list[tuple[float, str]]:
        for at, what, access in steps:
            self.run(at)
            if what in ("gained", "lost", "changed", "route_changed", "moved"):
                self.take(getattr(self.machine, what)(access, self.now))
            else:
                self.take(self.machine.hinted(access, Hint(what), self.now))
        self.run(until)
        return self.told


ON_WIFI: tuple[Step, ...] = ((0.0, "gained", "wifi"), (0.0, "gained", "cell"))
ATTACHED = [(0.0, "attach wifi")]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([], [], id="the best available"),
        pytest.param([(5, "lost", "wifi")], [(5, "move cell")], id="break before make"),
        pytest.param([(5, "lost", "cell")], [], id="another one is lost"),
        pytest.param(
            [(5, "lost", "wifi"), (20, "gained", "wifi")],
            [(5, "move cell"), (20 + 2 * 2**0.84, "move wifi keep"), (24.69, "release cell")],
            id="make before break, after a hold that the loss has lengthened",
        ),
        pytest.param(
            [(5, "lost", "wifi"), (20, "gained", "wifi"), (21, "lost", "wifi")],
            [(5, "move cell")],
            id="gone again before it was held",
        ),
        pytest.param(
            [(5, "lost", "wifi"), (5.05, "gained", "wifi")],
            [(5, "move cell"), (9.05, "move wifi keep"), (10.15, "release cell")],
            id="a blink",
        ),
        pytest.param([(5, "weak", "wifi")], [(5, "move cell keep"), (6.1, "release wifi")], id="weak"),
        pytest.param([(5, "weak", "cell"), (6, "lost", "wifi")], [(6, "move cell")], id="weak is better than none"),
        pytest.param([(5, "captive", "wifi")], [(5, "move cell keep"), (6.1, "release wifi")], id="captive"),
        pytest.param([(5, "down", "wifi")], [(5, "move cell")], id="the link is down, the address stays"),
        pytest.param(
            [(5, "lost", "wifi"), (6, "lost", "cell"), (50, "gained", "cell")],
            [(5, "move cell"), (6, "suspend"), (50, "resume cell")],
            id="no access for a while",
        ),
        pytest.param(
            [(5, "lost", "cell"), (6, "captive", "wifi"), (7, "lost", "wifi"), (60, "gained", "wifi")],
            [(7, "suspend"), (60, "resume wifi")],
            id="captive and alone is kept as long as it has an address",
        ),
        pytest.param([(5, "changed", "wifi")], [(5, "move wifi again")], id="another address on the same access"),
        pytest.param([(5, "changed", "cell")], [], id="another address elsewhere"),
        pytest.param([(5, "route_changed", "wifi")], [(5, "recheck")], id="another way: is there a NAT?"),
        pytest.param([(5, "route_changed", "cell")], [], id="another way elsewhere"),
        pytest.param(
            [(5, "lost", "wifi"), (5.05, "lost", "cell"), (9, "gained", "cell")],
            [(5, "move cell"), (5.05, "suspend"), (9, "resume cell")],
            id="the target goes while it is moved to",
        ),
    ],
)
def test_decisions(steps: list[Step], expected: list[tuple[float, str]]) -> None:
    told = Story("wifi", "cell").play(*ON_WIFI, *steps, until=100.0)
    assert [words for _, words in told] == [words for _, words in ATTACHED + expected]
    assert [at for at, _ in told] == pytest.approx([at for at, _ in ATTACHED + expected], abs=0.02)


def test_a_flapping_access_is_held_off_ever_longer() -> None:
    """One loss every ten seconds: the UE stays where it is after the second, and comes back when it is over."""
    story = Story("wifi", "cell")
    flaps: list[Step] = []
    for turn in range(1, 9):
        flaps += [(turn * 10.0, "lost", "wifi"), (turn * 10.0 + 1.0, "gained", "wifi")]
    told = story.play(*ON_WIFI, *flaps, until=600.0)
    away = [at for at, words in told if words == "move cell"]
    back = [at for at, words in told if words == "move wifi keep"]
    assert len(away) <= 3  # of eight
    assert back[-1] > 81.0 + 30.0
    assert story.machine.access == "wifi"


def test_a_captive_access_that_answers_nothing_is_avoided_and_retried() -> None:
    """Attach elsewhere; tried again beside the connection after 30 s, 60 s, 120 s …, until it answers."""
    story = Story("wifi", "cell", deaf=["wifi"])
    story.play(*ON_WIFI, until=250.0)
    tries = [at for at, words in story.told if words == "move wifi keep"]
    assert story.told[:2] == [(0.0, "attach wifi"), (3.0, "attach cell")]
    assert tries == pytest.approx([33.0, 96.0, 219.0], abs=0.1)
    story.deaf.clear()
    story.run(1000.0)
    assert story.machine.access == "wifi"
    assert story.told[-2:] == [(462.0, "move wifi keep"), (463.1, "release cell")]


def test_a_hint_that_it_is_good_ends_the_avoidance() -> None:
    """The person has logged in."""
    story = Story("wifi", "cell", deaf=["wifi"])
    story.play(*ON_WIFI, (5.0, "captive", "wifi"), until=500.0)
    assert story.machine.access == "cell"
    assert "move wifi keep" not in [words for _, words in story.told]
    story.deaf.clear()
    story.play((500.0, "good", "wifi"), until=510.0)
    assert story.machine.access == "wifi"


def test_a_silently_dead_access_is_left_by_the_path_test_and_tried_again() -> None:
    """The move that nobody has decided: another path has answered (RFC 4555 §3.10)."""
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, until=10.0)
    story.take(story.machine.path_suspected(10.0))
    story.deaf = {"wifi"}
    story.play((11.0, "moved", "cell"), until=60.0)
    assert story.told[1:] == [(41.0, "move wifi keep")]
    assert story.machine.access == "cell"


def test_a_lossy_access_is_not_left() -> None:
    """Suspicions without a move of the path test's decide nothing."""
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, until=1.0)
    for _ in range(100):
        story.take(story.machine.path_suspected(story.now))
        story.run(story.now + 5.0)
    assert story.told == ATTACHED


def test_a_move_with_no_way_back_ends_in_a_pause() -> None:
    """Nobody answers on the last access either: the SA is kept by saying nothing, and it is tried again."""
    story = Story("wifi", "cell", deaf=["cell"])
    machine = story.machine
    story.play(*ON_WIFI, until=1.0)
    story.later = lambda after, outcome: None  # type: ignore[method-assign]
    story.play((5.0, "lost", "wifi"), until=50.0)
    assert story.told[1:] == [(5.0, "move cell"), (13.0, "suspend"), (43.0, "resume cell")]
    assert machine.phase is Phase.MOVING


def test_a_way_back_that_fails_leaves_the_ue_suspended_and_is_tried_again() -> None:
    """Also where it is the access that the UE was on: it is on none."""
    story = Story("wifi")
    story.play((0.0, "gained", "wifi"), (5.0, "lost", "wifi"), until=10.0)
    story.deaf = {"wifi"}
    story.play((10.0, "gained", "wifi"), until=20.0)
    assert story.machine.phase is Phase.SUSPENDED
    story.deaf = set()
    story.run(60.0)
    assert story.told == [*ATTACHED, (5.0, "suspend"), (10.0, "resume wifi"), (43.0, "resume wifi")]
    assert story.machine.phase is Phase.ATTACHED


def test_an_avoided_access_is_better_than_none() -> None:
    """Once: when it fails again the UE suspends and waits."""
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, (10.0, "moved", "cell"), (15.0, "lost", "cell"), until=20.0)
    assert story.told[1:] == [(15.0, "move wifi")]
    story = Story("wifi", "cell", deaf=["wifi"])
    story.play(*ON_WIFI, until=4.0)
    assert story.told == [*ATTACHED, (3.0, "attach cell")]
    story.play((5.0, "lost", "cell"), until=60.0)
    assert story.told[2:] == [(5.0, "move wifi"), (8.0, "suspend")]
    story.run(70.0)
    assert story.told[4:] == [(68.0, "resume wifi")]  # twice as long as the first time


def test_three_accesses_next_best() -> None:
    story = Story("wifi", "cell", "lan", deaf=["cell"])
    told = story.play(*ON_WIFI, (0.0, "gained", "lan"), (5.0, "lost", "wifi"), until=20.0)
    assert told == [*ATTACHED, (5.0, "move cell"), (8.0, "move lan")]


def test_what_a_person_has_chosen_is_kept_until_it_is_lost() -> None:
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, until=10.0)
    story.machine.choose("cell", story.now)
    story.take(story.machine.moved("cell", story.now))
    story.play((20.0, "lost", "wifi"), (30.0, "gained", "wifi"), until=300.0)
    assert story.told == ATTACHED
    story.play((300.0, "lost", "cell"), until=310.0)
    assert story.told[-1] == (300.0, "move wifi")


def test_a_person_who_suspends_wakes_it_too() -> None:
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, until=10.0)
    story.machine.put_to_sleep()
    story.play((20.0, "lost", "wifi"), (30.0, "gained", "wifi"), until=100.0)
    assert story.told == ATTACHED
    story.machine.choose("cell", 100.0)
    story.take(story.machine.moved("cell", 100.0))
    story.play((110.0, "lost", "cell"), until=120.0)
    assert story.told[-1] == (110.0, "move wifi")


def test_a_person_who_suspends_while_the_ue_moves_is_obeyed() -> None:
    """The move fails by that, which is no reason for another."""
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, (10.0, "lost", "wifi"), until=10.05)
    story.machine.put_to_sleep()
    story.take(story.machine.move_failed("cell", "the UE has no access any more", 10.06))
    story.play((20.0, "gained", "wifi"), until=100.0)
    assert story.machine.phase is Phase.SUSPENDED
    assert story.told == [*ATTACHED, (10.0, "move cell")]


def test_a_connection_that_is_lost_is_attached_again_if_it_is_wanted() -> None:
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, until=10.0)
    story.take(story.machine.detached("the gateway has deleted the SA", 10.0))
    story.run(11.0)
    assert story.told == [*ATTACHED, (10.0, "attach wifi")]
    story.machine.unwant()
    story.take(story.machine.detached("a person detaches", 12.0))
    story.run(100.0)
    assert story.machine.phase is Phase.DETACHED
    assert len(story.told) == 2


def test_a_move_that_ends_after_the_connection_is_no_arrival() -> None:
    """The gateway has agreed to the update and deleted the SA, both before the move was seen to be over."""
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, (10.0, "lost", "wifi"), until=10.05)
    story.machine.unwant()
    story.take(story.machine.detached("the gateway has deleted the SA", 10.06))
    story.run(20.0)
    assert story.machine.phase is Phase.DETACHED
    story.take(story.machine.want(20.0))
    story.run(21.0)
    assert story.told == [*ATTACHED, (10.0, "move cell"), (20.0, "attach cell")]


def test_an_attach_that_ends_on_an_access_that_was_lost_meanwhile_moves_on() -> None:
    """The gateway's last answer was there before, what took its time was the device of the inner addresses."""
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, (0.05, "lost", "wifi"), until=10.0)
    assert story.told == [*ATTACHED, (0.1, "move cell")]


def test_thousands_of_losses_and_failures_are_only_numbers() -> None:
    story = Story("wifi", "cell", deaf=["wifi", "cell"])
    for _ in range(2000):
        story.take(story.machine.gained("wifi", story.now))
        story.take(story.machine.lost("wifi", story.now))
    story.play((0.0, "gained", "wifi"), until=2000 * 900.0)
    assert story.machine.accesses["wifi"].failures > 1024


def test_no_access_at_the_start() -> None:
    story = Story("wifi", "cell")
    assert story.play((7.0, "gained", "cell"), until=8.0) == [(7.0, "attach cell")]


def test_every_decision_has_its_reasons() -> None:
    """What was available, what is preferred, the trigger, the decision, why."""
    story = Story("wifi", "cell")
    story.play(*ON_WIFI, (5.0, "weak", "wifi"), until=10.0)
    decision = next(tell for tell in story.tells if "make before break" in tell.text)
    assert decision.name == "access-decision"
    assert decision.data == {
        "available": ["wifi", "cell"],
        "avoided": [],
        "preferred": "cell",
        "access": "wifi",
        "trigger": "wifi is said to be weak",
        "decision": "move to cell, make before break",
        "why": "wifi is weak",
    }
    assert decision.text == "Because wifi is said to be weak: move to cell, make before break; wifi is weak."
