"""The documents say what is there: links lead somewhere, commands and suites exist, tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protocols.ikev2.suites import ENCRYPTION_NAMES, GROUP_NAMES, INTEGRITY_NAMES, EspSuite, IkeSuite

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")
SUITE = re.compile(r"`(aes[0-9]+(?:gcm16)?(?:-[a-z0-9]+)+|aes[0-9]+gcm16)`")
METHOD = re.compile(r'"((?:node|sessions|peers|ue)\.[a-z.]+)":')
CONTROLLED = {"epdg": ROOT / "epdg", "aaa": ROOT / "aaa", "ue": ROOT / "ue"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_of_the_repository(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).resolve().exists()]
    assert not missing


def test_make_targets_and_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE))
    assert {"demo", "test", "lint"} <= named <= set(phony.group(1).split())
    scripts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for node in re.findall(r"^\| `([a-z]+)` \| `", readme, re.MULTILINE):
        assert f'{node} = "{node}.__main__:main"' in scripts


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_suites_that_are_named_exist(document: Path) -> None:
    for text in SUITE.findall(document.read_text(encoding="utf-8")):
        tokens = set(text.split("-")[1:])
        of = IkeSuite.of if tokens & set(GROUP_NAMES) and "esn" not in tokens else EspSuite.of
        assert of(text).name


def test_the_readme_names_every_algorithm() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## Algorithms") : readme.index("## What is not there yet")].lower().replace("-", "")
    words = {
        **{name: name for name in GROUP_NAMES if name != "curve25519"},
        **{name: {"sha1": "hmacsha1"}.get(name, name.removeprefix("sha")) for name in INTEGRITY_NAMES},
        **{name: "aesgcm16" if "gcm" in name else "aescbc" for name in ENCRYPTION_NAMES},
    }
    assert not [name for name, word in words.items() if word not in table]


@pytest.mark.parametrize("node", sorted(CONTROLLED))
def test_every_control_method_is_described_and_no_other(node: str) -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    begin = architecture.index(f"\n### {node}\n")
    end = architecture.find("\n##", begin + 5)
    described = set(re.findall(r"^\| `([a-z.]+)` \|", architecture[begin:end], re.MULTILINE))
    sources = "".join(file.read_text(encoding="utf-8") for file in CONTROLLED[node].glob("*.py"))
    assert described == set(METHOD.findall(sources))
