"""A UE whose USIM is in a modem: AT+CSIM over a serial line, which is a pseudo-terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import compose
from protocols.algorithms.usim import UsimSuccess
from protocols.algorithms.vector import generate_vector
from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import load
from tests.harness.material import ROOT
from tests.peers.modem import answered, modem
from tests.peers.usim_card import UsimCard
from ue.config import UeConfiguration
from ue.modem import modem_at
from ue.pcsc import identify
from ue.profile import identified, usim

USER = laboratory_subscriber(1)
assert USER.opc is not None
FUNCTIONS = Milenage(USER.k.reveal(), opc=USER.opc.reveal())
RAND = bytes(range(16))


def put_in(**values: object) -> UsimCard:
    return UsimCard(**{"imsi": str(USER.imsi), "functions": FUNCTIONS, **values})  # type: ignore[arg-type]


def configuration(directory: Path, card: dict[str, object]) -> UeConfiguration:
    values = yaml.safe_load((ROOT / "ue" / "example.yaml").read_text())
    del values["imsi"]
    values["gateway"]["revocation"] = "off"  # which YAML 1.1 has as false
    file = directory / "ue.yaml"
    file.write_text(yaml.safe_dump({**values, "usim": {"card": card}}))
    return load(file, UeConfiguration)


def test_the_card_in_a_modem_says_who_it_is_and_answers(tmp_path: Path) -> None:
    held = put_in(pin="1234")
    vector = generate_vector(FUNCTIONS, rand=RAND, sqn=compose(8, 1))
    with modem(lambda command: answered(held.transmit, command)) as line:
        known = identified(configuration(tmp_path, {"modem": str(line), "pin": "1234"}))
        assert known.imsi == str(USER.imsi)
        found = usim(known)
        assert found is not None
        for _ in range(2):  # the line is let go in between
            held.window = type(held.window)()
            answer = asyncio.run(found.authenticate(RAND, vector.autn))
            assert answer == UsimSuccess(res=vector.xres, ck=vector.ck, ik=vector.ik)


ANSWERS = {
    "no CSIM": ("\r\nERROR\r\n", "AT[+]CSIM: ERROR"),
    "no SIM": ("\r\n+CME ERROR: 10\r\n", "AT[+]CSIM: [+]CME ERROR: 10"),
    "OK alone": ("\r\nOK\r\n", "no answer of the card's"),
    "another length": ('\r\n+CSIM: 6,"9000"\r\n\r\nOK\r\n', "no answer of the card's"),
    "half an octet": ('\r\n+CSIM: 3,"900"\r\n\r\nOK\r\n', "no answer of the card's"),
    "silence": ("", "no answer to AT[+]CSIM within 0.2 s"),
    "without an end": ("x" * 9000, "nothing that ends"),
}


@pytest.mark.parametrize(("said", "words"), ANSWERS.values(), ids=ANSWERS)
def test_a_modem_that_does_not_answer_is_refused_in_one_line(said: str, words: str) -> None:
    with modem(lambda command: "\r\nOK\r\n" if command == "ATE0" else said) as line:
        with pytest.raises(BackendError, match=words) as refused:
            identify(modem_at(line, 0.2), None)
        assert "\n" not in str(refused.value)


def test_what_is_no_modem(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(BackendError, match=r"usim\.card\.modem: .*: No such file"):
        identify(modem_at(file), None)
    file.write_bytes(b"")
    with pytest.raises(BackendError, match=r"usim\.card\.modem: .* is no serial line"):
        identify(modem_at(file), None)
    with pytest.raises(ConfigurationError, match="either reader or modem"):
        configuration(tmp_path, {"modem": "/dev/ttyUSB2", "reader": 1})
