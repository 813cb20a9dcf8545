"""``node.configuration``: everything a node was told, and no secret of any type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from aaa.config import AaaConfiguration
from epdg.config import EpdgConfiguration
from protocols.io.configuration import ConfigurationModel, parse, shown
from protocols.io.documents import read_file
from ue.config import UeConfiguration

ROOT = Path(__file__).resolve().parents[2]
WORD, DIGITS = "correct-horse-battery", "00112233445566778899aabbccddeeff"
PIN = "73519"
CASES: list[tuple[str, type[ConfigurationModel], dict[str, object]]] = [
    ("epdg", EpdgConfiguration, {"authentication": {"methods": ["eap", "psk"], "psk": {"ue@example.org": WORD}}}),
    ("epdg", EpdgConfiguration, {"authentication": {"methods": ["psk"], "psk": {"ue@example.org": f"0x{DIGITS}"}}}),
    ("ue", UeConfiguration, {"authentication": "psk", "psk": WORD, "identity": "ue@example.org"}),
    ("ue", UeConfiguration, {"usim": {"algorithm": "milenage", "k": DIGITS, "op": DIGITS}}),
    ("ue", UeConfiguration, {"usim": {"card": {"reader": 0, "pin": PIN}}}),
    ("ue", UeConfiguration, {"usim": {"server": {"url": f"https://sim.example/{WORD}", "token": DIGITS}}}),
    ("aaa", AaaConfiguration, {"database": f"postgresql+psycopg://aaa:{WORD}@db.example.org/aaa"}),
    ("aaa", AaaConfiguration, {"database": f"postgresql+psycopg://db.example.org/aaa?user=aaa&password={WORD}"}),
]


@pytest.mark.parametrize(("node", "model", "change"), CASES)
def test_secrets_are_blanked_and_the_rest_stands(
    node: str, model: type[ConfigurationModel], change: dict[str, object]
) -> None:
    example = read_file(ROOT / node / "example.yaml").data
    assert isinstance(example, dict)
    text = yaml.safe_dump({**example, **change})
    assert any(secret in text for secret in (WORD, DIGITS, PIN))
    answer = json.dumps(shown(parse(text, model)))
    for secret in (WORD, DIGITS, PIN):
        assert secret not in answer
    assert set(json.loads(answer)) == set(model.model_fields)
    if node == "aaa":
        assert "db.example.org/aaa" in answer
