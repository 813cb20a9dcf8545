"""The tables of moves beside strongSwan's (``benchmarks.strongswan_moves``): what a run leaves, and where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.strongswan_moves import Found, place, tables
from tests.peers.moves import Measured
from tests.peers.processes import PeerError

OURS, THEIRS = ("ours", "strongSwan"), ("strongSwan", "strongSwan")


def measured(*silences: float | None, lost: int = 3, elsewhere: int = 0, beyond: float | None = None) -> Measured:
    return Measured(silences=silences, sent=100, lost=lost, beyond=beyond, taken=2, elsewhere=elsewhere)


def refused() -> Measured:
    raise PeerError("charon ue: exited with status 1\nits log")


def found(name: str, **runs: list[Measured]) -> Found:
    pairs = {"ours": OURS, "theirs": THEIRS}
    return Found(runs={(name, *pairs[who]): each for who, each in runs.items()})


def row(table: str) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]


def test_a_pair_that_fails_loses_nothing_but_itself() -> None:
    """It is tried twice; a round later it may be measured all the same."""
    kept = Found()
    kept.keep(("lift", *OURS), lambda: measured(0.01))
    kept.keep(("lift", *THEIRS), refused)
    assert kept.failures == {("lift", *THEIRS): "PeerError: charon ue: exited with status 1"}
    assert row(tables(Found(), kept)["schedules"]) == ["lift: Lift", "–", "–", "10 ms, 3 lost", "failed"]
    again = Found.of(kept.to_json())  # type: ignore[arg-type]
    assert again == kept
    kept.keep(("lift", *THEIRS), lambda: measured(0.02))
    assert not kept.failures


def test_who_never_comes_back_is_measured_once() -> None:
    kept = Found()
    kept.keep(("lift", *OURS), lambda: measured(None))
    kept.keep(("lift", *OURS), refused)
    assert not kept.failures
    assert row(tables(Found(), kept)["schedules"])[3] == "**never**, all from then on"


def test_median_and_worst_and_what_is_beyond_the_path() -> None:
    made = tables(Found(), found("walk-home", ours=[measured(0.05, beyond=0.002), measured(0.07, lost=5, beyond=0.02)]))
    assert row(made["schedules"])[3] == "60 ms (70), 4 lost"
    assert row(made["beyond"])[3] == "11 ms (20)"


def test_on_a_lossy_path_a_move_is_what_counts() -> None:
    made = tables(Found(), found("lossy-path", ours=[measured(0.2)], theirs=[measured(0.2, elsewhere=7)]))
    assert row(made["schedules"])[3:] == [
        "no move; of 100 echoes 3 lost, 2 of them by the path",
        "**7 packets elsewhere**; of 100 echoes 3 lost, 2 of them by the path",
    ]
    assert "beyond" not in made


def test_tables_go_between_their_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- events -->\nold\n<!-- end -->\nbetween\n<!-- beyond -->\n<!-- end -->\n")
    place(page, {"events": r"a \1 table", "beyond": "another"})
    assert page.read_text() == (
        "before\n<!-- events -->\na \\1 table\n<!-- end -->\nbetween\n<!-- beyond -->\nanother\n<!-- end -->\n"
    )
    with pytest.raises(SystemExit, match="no place for schedules"):
        place(page, {"schedules": "a table"})
