"""Our UE beside strongSwan's client: the same moves at the same gateway, both left alone (`docs/moves.md`).

The limits are wide, since processes of a busy machine take their share; the figures are in the document.
"""

from __future__ import annotations

import contextlib
import io
import statistics

import pytest

from lab.mobility.loader import load_schedule
from tests.peers import scheduled_moves
from tests.peers.hostapd import require_hostapd
from tests.peers.moves import PAIRS, PATIENCE, SCENARIOS, Measured, OurUe, play
from tests.peers.namespaces import require_namespaces
from tests.peers.strongswan import require_strongswan

pytestmark = [pytest.mark.root, pytest.mark.peer]

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
SILENT_PATH_MAXIMUM = 3.0
SLACK = 1.5  # seconds of a busy machine
SHORT_PATIENCE = 6.0
REFUSED_REKEYING = 16.0  # charon asks again within 15 s after TEMPORARY_FAILURE, a Pixel's answer while it moves


@pytest.fixture(autouse=True)
def _possible() -> None:
    require_namespaces()
    require_strongswan()
    require_hostapd()


def silences(measured: Measured) -> list[float]:
    """All of them: the traffic has always come back."""
    known = [each for each in measured.silences if each is not None]
    assert len(known) == len(measured.silences), measured
    return known


def test_the_address_in_use_is_deleted_and_another_is_there() -> None:
    """Twice, there and back; strongSwan waits 100 ms before it looks what has happened."""
    medians = {}
    for ue in ("ours", "strongSwan"):
        medians[ue] = statistics.median(silences(play(BY_NAME["there-and-back"], ue, "strongSwan")))
    print({ue: f"{median * 1000:.0f} ms" for ue, median in medians.items()})
    assert medians["ours"] < medians["strongSwan"]


def test_a_silently_dead_path_is_left() -> None:
    """Ours within three seconds; strongSwan's client keeps asking where nobody answers."""
    (ours,) = silences(play(BY_NAME["silent-path"], "ours", "strongSwan"))
    print(f"silently dead: {ours * 1000:.0f} ms")
    assert ours < SILENT_PATH_MAXIMUM + SLACK
    theirs = play(BY_NAME["silent-path"], "strongSwan", "strongSwan", patience=SHORT_PATIENCE)
    assert theirs.silences == (None,)


@pytest.mark.long
def test_strongswan_never_leaves_a_silently_dead_path() -> None:
    """Not even when it has given the gateway up."""
    assert play(BY_NAME["silent-path"], "strongSwan", "strongSwan", patience=PATIENCE).silences == (None,)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("ue", "gateway"), PAIRS)
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in ("silent-path", "nat-rebinding")])
def test_every_event_is_survived(name: str, ue: str, gateway: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        measured = play(BY_NAME[name], ue, gateway)
    assert max(silences(measured)) < 1.0


def test_our_ue_moves_while_it_rekeys() -> None:
    """The IKE SA, and then the child SA, is being rekeyed at strongSwan's gateway when the address goes."""
    assert max(silences(scheduled_moves.play("move-during-rekey", "ours"))) < SLACK


OURS = [
    (name, gateway)
    for name in scheduled_moves.played()
    for ue, gateway in scheduled_moves.pairs(name)
    if ue == OurUe.name
]


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "gateway"), OURS)
def test_our_ue_survives_every_schedule(name: str, gateway: str) -> None:
    """Left alone; where the schedule allows an outage, it is not longer."""
    measured = scheduled_moves.play(name, "ours", gateway)
    expect = load_schedule(name).schedule.expect
    allowed = REFUSED_REKEYING if (name, gateway) == ("walk-home-pixel", "strongSwan") else SILENT_PATH_MAXIMUM + SLACK
    assert max(silences(measured)) < max(allowed, (expect.outage_ms or 0.0) / 1000)
    assert expect.moves != 0 or measured.elsewhere == 0, "a false move"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_strongswan_stays_on_a_lossy_path_too() -> None:
    assert scheduled_moves.play("lossy-path", "strongSwan").elsewhere == 0
