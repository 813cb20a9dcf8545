"""Files of authentication vectors (``protocols.io.vectors``): their forms, what is refused, and each used once.

Values: TS 35.208 §4.3, test set 1, for the functions; AUTN made with SQN of the set and AMF b9b9.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aaa.hss.given import GivenVectors
from aaa.hss.port import HssRefusal
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.usim import UsimReject, UsimSuccess, UsimSynchronisationFailure
from protocols.algorithms.vector import build_auts, generate_vector
from protocols.eap.aka.server import Resynchronisation
from protocols.errors import AuthenticationError, ConfigurationError
from protocols.io.vectors import UsedVectors, load_vectors, write_vectors
from protocols.threegpp.identity import Imsi
from ue.vectors import VectorsUsim

IMSI = "001010000000001"
K, OPC = bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"), bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf")
RAND = bytes.fromhex("23553cbe9637a89d218ae64dae47bf35")
FUNCTIONS = Milenage(K, opc=OPC)
VECTOR = generate_vector(FUNCTIONS, rand=RAND, sqn=0xFF9BB4D0B607, amf=b"\xb9\xb9")
OTHER = generate_vector(FUNCTIONS, rand=bytes(16), sqn=0x20)
AUTS = build_auts(FUNCTIONS, rand=RAND, sqn_ms=0x40)
SUCCESS = UsimSuccess(res=VECTOR.xres, ck=VECTOR.ck, ik=VECTOR.ik)
NAMED = {"rand": RAND, "autn": VECTOR.autn, "res": VECTOR.xres, "ck": VECTOR.ck, "ik": VECTOR.ik}
ENTRY = {name: value.hex() for name, value in NAMED.items()}


def osmo() -> str:
    """As osmo-auc-gen prints it, with a tab and what we do not need (its test is in interop)."""
    lines = "".join(f"{name.upper()}:\t{value.hex()}\n" for name, value in NAMED.items())
    return f"{lines}SRES:\t11223344\nKc:\t0011223344556677\nSQN:\t32\n"


FORMS = {
    "vectors.yaml": f'imsi: "{IMSI}"\nvectors:\n  - {{' + ", ".join(f"{n}: {v}" for n, v in ENTRY.items()) + "}\n",
    "vectors.json": json.dumps({"imsi": IMSI, "vectors": [ENTRY]}),
    "vectors.csv": "imsi,rand,autn,xres,ck,ik\n" + ",".join([IMSI, *ENTRY.values()]) + "\n",
    "vectors.txt": f"IMSI: {IMSI}\n{osmo()}",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_holds_the_same(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(FORMS[name])
    contents = load_vectors(file)
    assert contents.imsi == IMSI
    assert [entry.vector for entry in contents.vectors] == [VECTOR]
    assert VECTOR.xres.hex() not in repr(contents)
    assert VECTOR.ck.hex() not in repr(contents)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "vectors.yaml"
    write_vectors(file, IMSI, [VECTOR, OTHER])
    assert [entry.vector for entry in load_vectors(file).vectors] == [VECTOR, OTHER]
    assert file.stat().st_mode & 0o777 == 0o600


REFUSED = [
    ({"rand": "23"}, "vectors.0.rand: got '23', expected 32 hexadecimal digits"),
    ({"autn": None}, "vectors.0.autn: got nothing, expected 32 hexadecimal digits"),
    ({"res": "112233"}, "expected res of 8 to 32 hexadecimal digits"),
    ({"ck": None}, "expected res, ck and ik, or an outcome of mac-failure or sync-failure"),
    ({"outcome": "sync-failure"}, "expected auts, which sync-failure needs"),
    ({"outcome": "good"}, "vectors.0.outcome: got 'good', expected 'success', 'mac-failure' or 'sync-failure'"),
    ({"kc": "00"}, "vectors.0.kc: got an unknown key, expected no such key"),
]


@pytest.mark.parametrize(("change", "expected"), REFUSED, ids=lambda value: str(value)[:24])
def test_a_wrong_file_is_one_line(change: dict[str, str | None], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "vectors.yaml"
    file.write_text(json.dumps({"vectors": [{**ENTRY, **change}]}))
    with pytest.raises(ConfigurationError) as refused:
        load_vectors(file)
    assert str(file) in str(refused.value)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["rand,autn\n1,2,3,4\n", "rand\n" + "a" * 200_000 + "\n", "\0\nrand\0,1\n", 'rand\n"1\n'],
    ids=["more values than names", "a field without end", "zeros", "an open quote"],
)
def test_wrong_csv_is_one_line(text: str, tmp_path: Path) -> None:
    """Also what Python's csv module has other words for."""
    file = tmp_path / "vectors.csv"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_vectors(file)
    assert str(refused.value).startswith(f"{file}:")
    assert "\n" not in str(refused.value)


def test_every_rand_is_there_once(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(osmo() + osmo())
    with pytest.raises(ConfigurationError, match="every RAND once"):
        load_vectors(file)


def usim(tmp_path: Path, *entries: dict[str, str], repeat: bool = False) -> VectorsUsim:
    file = tmp_path / "vectors.yaml"
    file.write_text(json.dumps({"vectors": entries}))
    return VectorsUsim(file, imsi=IMSI, used=None if repeat else UsedVectors(tmp_path / "used.json"))


def test_a_usim_answers_each_vector_once_restart_or_not(tmp_path: Path) -> None:
    assert usim(tmp_path, ENTRY).authenticate(RAND, VECTOR.autn) == SUCCESS
    again = usim(tmp_path, ENTRY).authenticate(RAND, VECTOR.autn)
    assert isinstance(again, UsimReject)
    assert "used before" in again.why
    with_auts = usim(tmp_path, {**ENTRY, "auts": AUTS.hex()})
    assert with_auts.authenticate(RAND, VECTOR.autn) == UsimSynchronisationFailure(AUTS)
    repeating = usim(tmp_path, ENTRY, repeat=True)
    assert [repeating.authenticate(RAND, VECTOR.autn) for _ in range(2)] == [SUCCESS, SUCCESS]


def test_a_usim_says_plainly_what_it_does_not_know(tmp_path: Path) -> None:
    card = usim(tmp_path, ENTRY)
    unknown, wrong = card.authenticate(bytes(16), VECTOR.autn), card.authenticate(RAND, bytes(16))
    assert isinstance(unknown, UsimReject)
    assert isinstance(wrong, UsimReject)
    assert unknown.why == f"vectors.yaml has no vector for RAND {'00' * 16}"
    assert wrong.why == f"AUTN is not the one that vectors.yaml has for RAND {RAND.hex()}"
    assert card.authenticate(RAND, VECTOR.autn) == SUCCESS  # it was not used up by that


def test_failures_are_in_the_file_too(tmp_path: Path) -> None:
    key = {"rand": ENTRY["rand"], "autn": ENTRY["autn"]}
    refused = usim(tmp_path, {**key, "outcome": "mac-failure"}).authenticate(RAND, VECTOR.autn)
    assert isinstance(refused, UsimReject)
    assert "MAC failure" in refused.why
    stale = usim(tmp_path, {**key, "outcome": "sync-failure", "auts": AUTS.hex()})
    assert stale.authenticate(RAND, VECTOR.autn) == UsimSynchronisationFailure(AUTS)


def test_a_file_of_another_subscriber_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "vectors.yaml"
    write_vectors(file, "001010000000002", [VECTOR])
    with pytest.raises(ConfigurationError, match="vectors of the UE's IMSI, 001010000000001"):
        VectorsUsim(file, imsi=IMSI, used=None)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"used": 7}', '{"us'])
def test_a_record_of_use_that_is_no_such_thing_is_refused(text: str, tmp_path: Path) -> None:
    """To start over would let vectors be used twice."""
    file = tmp_path / "used.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"used\.json"):
        UsedVectors(file)


def test_an_hss_hands_them_out_in_order_each_once(tmp_path: Path) -> None:
    file, imsi = tmp_path / "vectors.yaml", Imsi(IMSI)
    entries = [
        {**ENTRY, "auts": AUTS.hex()},
        {name: getattr(OTHER, name.replace("res", "xres")).hex() for name in ENTRY},
    ]
    file.write_text(json.dumps({"imsi": IMSI, "vectors": entries}))
    assert GivenVectors([file]).next(imsi, None) == VECTOR
    again = GivenVectors([file])  # a restart
    with pytest.raises(AuthenticationError):
        again.next(imsi, Resynchronisation(rand=RAND, auts=bytes(14)))
    assert again.next(imsi, Resynchronisation(rand=RAND, auts=AUTS)) == OTHER
    with pytest.raises(HssRefusal, match="are used"):
        again.next(imsi, None)
    with pytest.raises(ConfigurationError, match="one file of vectors for each IMSI"):
        GivenVectors([file, file])
