"""Directories of runs: who is killed leaves one, and the next one removes it, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lab.run_directory import LOCK, PREFIX, RunDirectory

KILLED = """
import os, signal, sys
from lab.run_directory import RunDirectory
made = RunDirectory("run", sys.argv[1])
(made.path / "keys").write_text("secret")
os.kill(os.getpid(), signal.SIGKILL)
"""


def abandoned(place: Path, aside: Path) -> Path:
    """What a process leaves that is killed, brought to ``place`` after it has looked round ``aside``."""
    aside.mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(aside)], check=False, timeout=30)
    (left,) = aside.iterdir()
    assert (left / "keys").exists()
    return left.rename(place / left.name)


def test_the_next_one_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    left = abandoned(place, tmp_path / "aside")
    with RunDirectory("demo", place) as name:
        assert [str(path) for path in place.iterdir()] == [name]
        assert not left.exists()
        assert Path(name).stat().st_mode & 0o777 == 0o700
    assert list(place.iterdir()) == []


def test_one_that_is_in_use_is_let_be(tmp_path: Path) -> None:
    with RunDirectory("run", tmp_path) as name:
        with RunDirectory("run", tmp_path):
            pass
        assert (Path(name) / LOCK).exists()


def test_what_nobody_has_locked_ever_is_not_ours(tmp_path: Path) -> None:
    """Somebody's own, or one that is being made at this moment."""
    other = tmp_path / f"{PREFIX}run-other"
    other.mkdir(mode=0o700)
    (tmp_path / f"{PREFIX}file").write_text("a file")
    with RunDirectory("run", tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {other.name, f"{PREFIX}file"}


def test_no_symbolic_link_is_followed(tmp_path: Path) -> None:
    """Neither one that has the name, nor one inside, nor one in the place of the lock."""
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    place.mkdir()
    elsewhere.mkdir()
    target = abandoned(elsewhere, tmp_path / "first")
    (place / f"{PREFIX}run-link").symlink_to(target)
    left = abandoned(place, tmp_path / "second")
    (left / "inside").symlink_to(elsewhere)
    trapped = abandoned(place, tmp_path / "third")
    (trapped / LOCK).unlink()
    (trapped / LOCK).symlink_to(target / LOCK)
    with RunDirectory("run", place):
        pass
    assert {path.name for path in place.iterdir()} == {f"{PREFIX}run-link", trapped.name}
    assert (target / "keys").exists()


@pytest.mark.root
def test_one_of_another_user_is_let_be(tmp_path: Path) -> None:
    left, shared = (abandoned(tmp_path, tmp_path / aside) for aside in ("first", "second"))
    os.chown(left, 65534, 65534)
    shared.chmod(0o777)  # anybody may have put the lock there
    with RunDirectory("run", tmp_path):
        pass
    assert left.exists()
    assert shared.exists()


def test_the_usual_places_are_looked_at_too(tmp_path: Path) -> None:
    """A run in memory removes what one in /tmp has left."""
    temporary, parent = tmp_path / "tmp", tmp_path / "parent"
    temporary.mkdir()
    parent.mkdir()
    left = abandoned(temporary, tmp_path / "aside")
    words = [sys.executable, "-c", KILLED, str(parent)]
    subprocess.run(words, check=False, timeout=30, env={**os.environ, "TMPDIR": str(temporary)})
    assert not left.exists()


def test_to_clean_up_twice_is_harmless() -> None:
    made = RunDirectory("run")
    assert made.path.parent == Path(tempfile.gettempdir())
    made.cleanup()
    made.cleanup()
    assert not made.path.exists()
