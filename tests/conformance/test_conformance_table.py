"""docs/conformance.md: every rule has a row, and every function and test that a row names exists.

The rows are those of the standards' text where ../shared has it (``rules``; it has RFCs and not TS 29.273); what
the table says of itself at its top is counted here.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from tests.conformance.rules import rules
from tests.harness.material import shared

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "conformance.md"
CODE = re.compile(r"`([\w/.]+\.py):([\w.]+)`")
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
REASON_MINIMUM = len("no rule")
NOT_APPLICABLE, NOT_DONE, ENFORCED = "not applicable", "not done", "enforced"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One rule; ``rfc`` is the number of its standard."""

    rfc: str
    number: str
    where: str
    tests: str

    @property
    def status(self) -> str:
        """What is said of it."""
        return next((each for each in (NOT_APPLICABLE, NOT_DONE) if self.where.startswith(f"{each}: ")), ENFORCED)


def rows() -> list[Row]:
    """The table, all its sections together."""
    found: list[Row] = []
    rfc = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith(("## RFC ", "## TS ")):
            rfc = line.split()[2]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if rfc and len(cells) == 4 and re.fullmatch(r"[\d.]+/\d+[a-z]?", cells[0]):
            found.append(Row(rfc=rfc, number=cells[0], where=cells[2], tests=cells[3]))
    return found


@lru_cache
def names(path: Path) -> frozenset[str]:
    """Everything that a module defines: functions, classes, and their methods with the class before a dot."""
    found: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + child.name)
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(path.read_text()), "")
    return frozenset(found)


def module(name: str) -> Path:
    """A path as the table has it: in protocols/ikev2, else from the top."""
    inside = ROOT / "protocols" / "ikev2" / name
    return inside if inside.is_file() else ROOT / name


def test_every_function_exists() -> None:
    missing = [
        f"{row.rfc} {row.number}: {file}:{name}"
        for row in rows()
        for file, name in CODE.findall(row.where)
        if not module(file).is_file() or name not in names(module(file))
    ]
    assert missing == []


def test_every_test_exists() -> None:
    missing = [
        f"{row.rfc} {row.number}: {file}::{name}"
        for row in rows()
        for file, name in TEST.findall(row.tests)
        if not (ROOT / "tests" / file).is_file() or name not in names(ROOT / "tests" / file)
    ]
    assert missing == []


def test_every_row_says_where_and_how_it_is_shown_or_why_not() -> None:
    for row in rows():
        where, tests = CODE.findall(row.where), TEST.findall(row.tests)
        if row.status == ENFORCED:
            assert where, row
            assert tests, row
        else:
            assert row.tests == "-", row
            assert len(row.where.partition(": ")[2]) >= REASON_MINIMUM, row


def test_no_rule_comes_twice() -> None:
    assert [each for each, count in Counter((row.rfc, row.number) for row in rows()).items() if count > 1] == []


@pytest.mark.parametrize(
    ("rfc", "sections"),
    [
        ("4555", "1 2 3 4 5 6 7 8"),
        ("7296", "1 2 3 4"),
        ("4187", "1 2 3 4 5 6 7 8 9 10 11 12"),
        ("9048", "1 2 3 4 5 6 7"),
    ],
)
def test_every_rule_of_the_standard_has_a_row(rfc: str, sections: str) -> None:
    text = (shared("rfc") / f"rfc{rfc}.txt").read_text(errors="replace")
    wanted = [number for number in rules(text) if number.split("/")[0].split(".")[0] in sections.split()]
    listed = [row.number for row in rows() if row.rfc == rfc and row.number[-1].isdigit()]
    assert listed == wanted


def test_the_summary_is_counted() -> None:
    text = TABLE.read_text()
    for rfc in ("4555", "7296", "4187", "9048", "29.273"):
        statuses = Counter(row.status for row in rows() if row.rfc == rfc)
        total = statuses.total()
        line = f"| {rfc} | {total} | {statuses[ENFORCED]} | {statuses[NOT_APPLICABLE]} | {statuses[NOT_DONE]} |"
        assert line in text, line
